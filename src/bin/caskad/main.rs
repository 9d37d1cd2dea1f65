//! The `caskad` command: arguments in, one call of the library, its report out.
//!
//! Standard output carries results and nothing else; errors, warnings and progress go to standard error. The exit code says what kind
//! of end it was: see [`failure`].

mod args;
mod commands;
mod console;
mod context;
mod control;
mod failure;
mod output;
mod progress;
mod table;
mod target;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caskad::Monitor;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Global};
use crate::console::Console;
use crate::context::Context;
use crate::control::Remote;
use crate::failure::{EXIT_ERROR, EXIT_INTERRUPTED, Failure};

/// How long an interrupted command gets to stop in good order. Past it the process ends, as after `kill -9`, which a store survives.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::refuse(&error),
    };
    start_log(&cli.global);
    let json = cli.global.json;
    let console = match Console::own() {
        Ok(console) => Arc::new(console),
        Err(error) => {
            eprintln!("caskad: the standard files cannot be used: {error}");
            return EXIT_ERROR.into();
        }
    };
    let context = Context::new(cli.global, Arc::clone(&console), None);
    if cli.command.goes_through_a_node()
        && let Some(remote) = context.store_path().ok().and_then(|store| control::connect(&store))
    {
        if context.chooses_place() {
            let why = "a node has this store open, and its packs where they are; leave --backend and --take-over out";
            return Failure::Usage(why.to_owned()).report(json, &console).into();
        }
        return run_remotely(remote, json, &console);
    }
    let node = matches!(cli.command, args::Command::Node(_));
    let monitor = context.monitor().clone();
    on_interrupt(move || interrupt(&monitor, node));
    let outcome = cli.command.run(&context);
    context.monitor().finish();
    match outcome {
        Ok(exit) => exit.code().into(),
        Err(failure) => failure.report(json, &console).into(),
    }
}

/// Has a node carry the command out.
fn run_remotely(remote: Remote, json: bool, console: &Console) -> ExitCode {
    match remote.canceller() {
        Ok(cancel) => {
            let interrupted = AtomicBool::new(false);
            on_interrupt(move || {
                if interrupted.swap(true, Ordering::Relaxed) {
                    std::process::exit(EXIT_INTERRUPTED.into());
                }
                cancel();
            });
        }
        Err(error) => tracing::warn!("an interrupt will end the command at once: {error}"),
    }
    match remote.run() {
        Ok(code) => code.into(),
        Err(error) if control::means_an_end(&error) => Failure::NodeEnded.report(json, console).into(),
        Err(error) => {
            let why = format!("the node on this store did not finish the command: {error}; look whether it still runs");
            Failure::Usage(why).report(json, console).into()
        }
    }
}

fn on_interrupt(act: impl FnMut() + Send + 'static) {
    if let Err(error) = ctrlc::set_handler(act) {
        tracing::warn!("an interrupt will end the command at once: {error}");
    }
}

/// Set by the first interrupt.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The first interrupt asks the operation to stop; the second one ends the process.
fn interrupt(monitor: &Monitor, node: bool) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        std::process::exit(EXIT_INTERRUPTED.into());
    }
    monitor.cancel();
    // What it waits for may not come: a lock, a disk, a peer. A node has commands of others to end.
    let grace = if node { 4 * GRACE } else { GRACE };
    std::thread::spawn(move || {
        std::thread::sleep(grace);
        std::process::exit(EXIT_INTERRUPTED.into());
    });
}

/// Log lines go to standard error. With `--json` they would mix with what a script parses there, so then only on request.
fn start_log(global: &Global) {
    let level = match (global.verbose, global.quiet, global.json && !global.log_json) {
        // A first node has nobody to ask, which Kademlia warns of each time; others tell in their own words of what is tried again.
        (0, false, false) => "warn,libp2p_kad=error,libp2p_relay=error,quinn_udp=error",
        (0, true, false) => "error",
        (0, _, true) => "off",
        (1, ..) => "caskad=debug,warn,libp2p_kad=error,libp2p_relay=error,quinn_udp=error",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_ansi(std::io::stderr().is_terminal() && !global.log_json).with_target(global.log_json);
    let started = match (global.log_json, global.verbose) {
        // Read by programs: when, and in which module, always belongs to it.
        (true, _) => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        (false, 0) => log.without_time().try_init(),
        (false, _) => log.try_init(),
    };
    if let Err(error) = started {
        eprintln!("caskad: warning: no log: {error}");
    }
}
