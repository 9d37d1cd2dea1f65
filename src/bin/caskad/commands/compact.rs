//! `caskad compact`: encodes the versions of a key anew, the newest to stand alone.

use caskad::{CompactOptions, CompactReport, Key};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{count, size};

/// Encode the versions of a key anew: the newest stands alone, older ones are kept as differences to newer ones
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing that a version holds changes. While it runs, the new encodings take space beside the old ones.

Examples:
  caskad compact runs/llama
  caskad compact runs/llama --depth 2")]
pub(crate) struct Compact {
    /// The key
    #[arg(value_name = "KEY")]
    key: Key,
    /// Most chunks to decode before one of an old version can be, from 1 to 8: fewer are faster to get, more take less space
    #[arg(long, value_name = "N")]
    depth: Option<u8>,
}

impl Compact {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let mut options = CompactOptions::default();
        options.depth = self.depth.unwrap_or(options.depth);
        let report = context.change()?.compact(&self.key, options, context.monitor())?;
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &CompactReport) -> String {
    format!(
        "{}: {} in {} took {} and take {}; {} encoded anew, {} reclaimed ({:.2} s)\n",
        report.key,
        count(report.chunks, "chunk"),
        count(report.versions, "version"),
        size(report.bytes_before),
        size(report.bytes_after),
        count(report.replaced_chunks, "chunk"),
        size(report.reclaimed_bytes),
        report.seconds
    )
}
