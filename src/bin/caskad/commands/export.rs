//! `caskad export`: one version as a single file.

use std::path::{Path, PathBuf};

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
        match self.target(&store)? {
            Target::Path(path) => {
                let report = store.export(&self.version, &path, context.monitor())?;
                context.confirm(&report, |report| describe(report, &path))?;
            }
            Target::Stream(stream) => {
                let report = store.export_to(&self.version, &mut *stream.open()?, context.monitor())?;
                match stream {
                    Stream::Stdout => context.confirm_beside(&report)?,
                    Stream::Special(path) => context.confirm(&report, |report| describe(report, &path))?,
                }
            }
        }
        Ok(Exit::Done)
    }

    fn target(&self, store: &Store) -> Result<Target> {
        let output = self.output.as_deref();
        if output.is_some_and(is_dash) {
            return Ok(Target::Stream(Stream::Stdout));
        }
        let version = store.version(&self.version)?;
        let own_name = || Ok(format!("{}-{}.caskad", version.key().last_segment(), version.number()));
        Target::file(output, own_name, self.force)
    }
}

fn describe(report: &ArchiveReport, path: &Path) -> String {
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
    format!("exported {}@{} as {}\n{}", report.key, report.version, path.display(), fields("  ", &text))
}
