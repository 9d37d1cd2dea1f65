//! `caskad export`: one version as a single file.

use std::path::PathBuf;

use caskad::{ArchiveReport, Store, VersionRef};
use clap::Args;

use crate::commands::is_dash;
use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{count, manifest, percent, rate, size};
use crate::table::fields;
use crate::target::{Stream, Target};

/// Write one version as a single file that proves itself, to carry to another store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad export runs/llama@best -o llama.caskad
  caskad export runs/llama@best -o - | ssh HOST caskad import -")]
pub(crate) struct Export {
    /// The version
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
    /// Where to: a file, a directory to put it in, or `-` for standard output [default: KEY-VERSION.caskad, here]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Replace a file that exists, once the new one is whole
    #[arg(long)]
    force: bool,
}

impl Export {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let store = context.read()?;
        match self.target(&store, context)? {
            Target::Path(path) => {
                let report = store.export(&self.version, &path, context.monitor())?;
                context.confirm(&report, |report| describe(report, &context.console().shown(&path).to_string()))?;
            }
            Target::Stream(stream) => {
                let report =
                    store.export_to(&self.version, &mut *stream.open(context.console())?, context.monitor())?;
                match stream {
                    Stream::Stdout => context.confirm_beside(&report)?,
                    Stream::Special(path) => context
                        .confirm(&report, |report| describe(report, &context.console().shown(&path).to_string()))?,
                }
            }
        }
        Ok(Exit::Done)
    }

    fn target(&self, store: &Store, context: &Context) -> Result<Target> {
        if self.output.as_deref().is_some_and(is_dash) {
            return Ok(Target::Stream(Stream::Stdout));
        }
        let version = store.version(&self.version)?;
        let own_name = || Ok(format!("{}-{}.caskad", version.key().last_segment(), version.number()));
        Target::file(self.output.as_deref(), own_name, self.force, context.console())
    }
}

fn describe(report: &ArchiveReport, path: &str) -> String {
    let archive = format!(
        "{} in {}: {} of the payload",
        size(report.archive_bytes),
        count(report.chunks, "chunk"),
        percent(report.archive_bytes, report.bytes)
    );
    let text = [
        ("payload", size(report.bytes)),
        ("archive", archive),
        ("manifest", manifest(&report.manifest)),
        ("took", rate(report.bytes, report.seconds)),
    ];
    format!("exported {}@{} as {path}\n{}", report.key, report.version, fields("  ", &text))
}
