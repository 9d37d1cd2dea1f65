//! `caskad import`: stores an exported version.

use std::path::PathBuf;

use caskad::{ArchiveReport, ImportOptions, PutName};
use clap::Args;

use crate::commands::is_dash;
use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{count, manifest, rate, size};
use crate::table::fields;

/// Store a version that `export` wrote, as the next version of its key
///
/// Every byte of it is verified; of an archive that is damaged or incomplete nothing is stored.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad import llama.caskad
  caskad import llama.caskad --as models/llama@from-bob")]
pub(crate) struct Import {
    /// The archive; `-` for standard input
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    /// The key that gets the version, and a label for it [default: the key it was exported from]
    #[arg(long = "as", value_name = "KEY[@LABEL]")]
    name: Option<PutName>,
}

impl Import {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let mut options = ImportOptions::default();
        options.name.clone_from(&self.name);
        let store = context.create()?;
        let report = match is_dash(&self.archive) {
            true => store.import_from(context.stdin()?, "standard input", &options, context.monitor())?,
            false => store.import(context.path(&self.archive), &options, context.monitor())?,
        };
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &ArchiveReport) -> String {
    let text = [
        ("payload", format!("{} in {}, each verified", size(report.bytes), count(report.chunks, "chunk"))),
        ("manifest", manifest(&report.manifest)),
        ("took", rate(report.bytes, report.seconds)),
    ];
    format!("imported {}@{}\n{}", report.key, report.version, fields("  ", &text))
}
