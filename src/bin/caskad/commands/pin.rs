//! `caskad pin`: protects a version.

use caskad::{RefReport, VersionRef};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};

/// Protect a version from `rm` and from its own expiry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad pin runs/llama@best")]
pub(crate) struct Pin {
    /// The version
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
}

impl Pin {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let report = context.change()?.pin(&self.version)?;
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &RefReport) -> String {
    format!("pinned {}@{}\n", report.key, report.version)
}
