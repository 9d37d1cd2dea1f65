//! `caskad tag`: labels for versions.

use caskad::{Label, RefReport, VersionRef, VersionSpec};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::joined;

/// Give a version a label, or take a label away
///
/// A label names one version of its key: giving it to another version moves it. The keys of other scopes have the labels that their
/// publishers give.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad tag runs/llama@7 best
  caskad tag runs/llama latest-good
  caskad tag --delete runs/llama best")]
pub(crate) struct Tag {
    /// The version; with --delete, the key
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
    /// The label: letters, digits and `. _ -`
    #[arg(value_name = "LABEL")]
    label: Label,
    /// Take the label away from the key
    #[arg(short, long)]
    delete: bool,
}

impl Tag {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        if self.delete && self.version.version != VersionSpec::Latest {
            return Err(Failure::Usage(format!(
                "a label belongs to its key; write `caskad tag --delete {} {}`",
                self.version.key, self.label
            )));
        }
        let store = context.change()?;
        let report = match self.delete {
            true => store.untag(&self.version.key, &self.label)?,
            false => store.tag(&self.version, &self.label)?,
        };
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &RefReport) -> String {
    format!("{}@{} labels: {}\n", report.key, report.version, joined(&report.labels))
}
