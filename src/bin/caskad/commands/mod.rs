//! One file per command. Each is its arguments, `run`, which makes one call of [`Store`](caskad::Store), and `describe`, which puts
//! the report of that call into words.

mod alias;
mod compact;
mod completions;
mod demo;
mod diff;
mod export;
mod gc;
mod get;
mod gradient;
mod health;
mod id;
mod import;
mod log;
mod ls;
mod man;
mod node;
mod peers;
mod pin;
mod put;
mod rm;
mod show;
mod stat;
mod tag;
mod unpin;
mod verify;

use std::time::Duration;

pub(crate) use alias::Alias;
pub(crate) use compact::Compact;
pub(crate) use completions::Completions;
pub(crate) use demo::Demo;
pub(crate) use diff::Diff;
pub(crate) use export::Export;
pub(crate) use gc::Gc;
pub(crate) use get::Get;
pub(crate) use gradient::Gradient;
pub(crate) use health::Health;
pub(crate) use id::Id;
pub(crate) use import::Import;
pub(crate) use log::Log;
pub(crate) use ls::Ls;
pub(crate) use man::Man;
pub(crate) use node::Node;
pub(crate) use peers::Peers;
pub(crate) use pin::Pin;
pub(crate) use put::Put;
pub(crate) use rm::Rm;
pub(crate) use show::Show;
pub(crate) use stat::Stat;
pub(crate) use tag::Tag;
pub(crate) use unpin::Unpin;
pub(crate) use verify::Verify;

/// `-`: standard input or standard output.
fn is_dash(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}

/// A time to live, as `12h` or `7d`.
fn parse_time_to_live(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("what is stored would have expired at once".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}
