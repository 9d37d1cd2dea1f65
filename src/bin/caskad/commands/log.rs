//! `caskad log`: the versions of a key.

use caskad::{Key, VersionSummary};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{joined, manifest, meta, percent, size};
use crate::table::Table;

/// List the versions of a key, the oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad log runs/llama
  caskad log runs/llama --json | jq 'min_by(.meta.loss).version'")]
pub(crate) struct Log {
    /// The key
    #[arg(value_name = "KEY")]
    key: Key,
}

impl Log {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let versions = match context.node() {
            Some(node) => node.log(&self.key, context.monitor())?,
            None => context.read()?.log(&self.key)?,
        };
        context.list(versions.as_slice(), describe)?;
        Ok(Exit::Done)
    }
}

fn describe(versions: &[VersionSummary]) -> String {
    let mut table = Table::new(&[
        ">VERSION",
        "LABELS",
        ">SIZE",
        ">ADDED",
        ">SHARE",
        "STORED AT",
        "EXPIRES",
        "PINNED",
        "MANIFEST",
        "META",
    ]);
    for version in versions {
        table.row([
            version.version.to_string(),
            joined(&version.labels),
            size(version.bytes),
            size(version.stored_bytes),
            percent(version.stored_bytes, version.bytes),
            version.created.to_string(),
            version.expires.map_or_else(|| "-".to_owned(), |at| at.to_string()),
            if version.pinned { "yes" } else { "-" }.to_owned(),
            manifest(&version.manifest),
            meta(&version.meta),
        ]);
    }
    table.render("")
}
