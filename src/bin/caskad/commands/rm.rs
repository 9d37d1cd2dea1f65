//! `caskad rm`: removes a version.

use caskad::{RefReport, VersionRef};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::joined;

/// Remove a version and its labels
///
/// It is gone at once; the space that only it used comes back with the next `gc`. A pinned version is refused. Where another version is
/// kept as the difference to this one, that much of it stays until `compact` makes the other do without.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad rm runs/llama@3 && caskad gc")]
pub(crate) struct Rm {
    /// The version (without @V the latest one, not the whole key)
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
}

impl Rm {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let report = context.change()?.remove(&self.version)?;
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &RefReport) -> String {
    let labels =
        if report.labels.is_empty() { String::new() } else { format!(" (labels: {})", joined(&report.labels)) };
    format!("removed {}@{}{labels}; `caskad gc` reclaims its space\n", report.key, report.version)
}
