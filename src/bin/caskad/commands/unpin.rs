//! `caskad unpin`: ends the protection of a version.

use caskad::{RefReport, VersionRef};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};

/// End the protection of a version; one that is not pinned stays as it is
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad unpin runs/llama@best")]
pub(crate) struct Unpin {
    /// The version
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
}

impl Unpin {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let report = context.change()?.unpin(&self.version)?;
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &RefReport) -> String {
    format!("{}@{} is not pinned\n", report.key, report.version)
}
