//! `caskad ls`: the keys of a store.

use caskad::KeySummary;
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::size;
use crate::table::Table;

/// List keys
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad ls
  caskad ls runs/
  caskad ls --json | jq -r '.[].key'")]
pub(crate) struct Ls {
    /// Only keys whose names start like this
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
}

impl Ls {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let keys = context.read()?.keys(&self.prefix)?;
        context.list(keys.as_slice(), describe)?;
        Ok(Exit::Done)
    }
}

fn describe(keys: &[KeySummary]) -> String {
    if keys.is_empty() {
        return "no keys\n".to_owned();
    }
    let mut table = Table::new(&["KEY", ">VERSIONS", ">LATEST", ">SIZE", "STORED AT"]);
    for key in keys {
        table.row([
            key.key.to_string(),
            key.versions.to_string(),
            key.latest.to_string(),
            size(key.bytes),
            key.created.to_string(),
        ]);
    }
    table.render("")
}
