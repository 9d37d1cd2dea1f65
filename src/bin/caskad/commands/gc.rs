//! `caskad gc`: removes what has expired, and reclaims what no version reaches.

use caskad::{GcOptions, GcReport};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{count, size};

/// Remove expired versions and reclaim the space that no version uses
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gc --dry-run
  caskad gc")]
pub(crate) struct Gc {
    /// Only say what would happen
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Only remove expired versions, and leave the space to a later gc
    #[arg(long)]
    expired: bool,
}

impl Gc {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let mut options = GcOptions::default();
        options.dry_run = self.dry_run;
        options.expired_only = self.expired;
        let report = context.change()?.gc(options, context.monitor())?;
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &GcReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    let lies_on = report.removed_chunks > 0 && report.reclaimed_bytes == 0 && report.left_packs == 0;
    let why = if lies_on {
        "too little of each pack is free for it to be written anew: their bytes go with a later `gc`\n"
    } else {
        ""
    };
    format!(
        "{} {would}removed, {} {would}reclaimed in {}; {} kept ({:.2} s)\n{why}",
        count(report.expired_versions, "expired version"),
        size(report.reclaimed_bytes),
        count(report.removed_chunks, "chunk"),
        size(report.kept_bytes),
        report.seconds
    )
}
