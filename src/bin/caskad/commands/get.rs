//! `caskad get`: restores a version, or a part of one. The only thing that it decides itself is where to.

use std::path::{Path, PathBuf};

use caskad::{Error, GetOptions, GetReport, Part, Version, VersionRef, VersionSpec};
use clap::Args;

use crate::commands::is_dash;
use crate::context::{Context, Face};
use crate::failure::{Exit, Failure, Result};
use crate::output::{count, manifest, rate, size};
use crate::table::fields;
use crate::target::{Stream, Target};

/// Restore a version, or a file, tensor or byte range of it
///
/// Every byte is verified by hash before it is written, and the target appears only when it is whole. A get that was interrupted goes
/// on where it stopped when it is repeated.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad get runs/llama                               the latest version, under its own name, here
  caskad get runs/llama@epoch-1 -o restored.safetensors
  caskad get runs/llama@2 -o - | b3sum
  caskad get runs/llama --tensor model.norm.weight --safetensors -o norm.safetensors
  caskad get models/llama --file tokenizer.json -o .
  caskad get runs/llama --range 0..8 -o - | xxd")]
pub(crate) struct Get {
    /// The version
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
    /// Where to: a file, a directory to put the file in, or `-` for standard output [default: its own name, here]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Only this file of the version
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// Only this tensor: its raw bytes
    #[arg(long, value_name = "NAME", conflicts_with = "range")]
    tensor: Option<String>,
    /// Wrap the tensor into a safetensors file of its own
    #[arg(long, requires = "tensor")]
    safetensors: bool,
    /// Only these bytes of the file: A..B (B not included), A.. or ..B
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    range: Option<(u64, Option<u64>)>,
    /// Replace a file that exists, once the new one is whole
    #[arg(long)]
    force: bool,
    /// Sync what was restored to disk before it takes its name
    #[arg(long)]
    sync: bool,
}

impl Get {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let face = context.face()?;
        let mut options = GetOptions::default();
        options.part = self.part();
        options.sync = self.sync;
        let (wanted, target) = self.target(&face, context)?;
        match target {
            Target::Path(path) => {
                let report = face.get(&wanted, &path, &options, context.monitor());
                let resumable = matches!(options.part, Part::Whole | Part::File(_));
                let report = report.map_err(|error| match error {
                    Error::Cancelled if resumable => Failure::Resumable,
                    error => error.into(),
                })?;
                context.confirm(&report, |report| describe(report, &context.console().shown(&path).to_string()))?;
            }
            Target::Stream(stream) => {
                let out = &mut *stream.open(context.console())?;
                let report = face.get_to(&wanted, out, &options, context.monitor())?;
                match stream {
                    Stream::Stdout => context.confirm_beside(&report)?,
                    Stream::Special(path) => context
                        .confirm(&report, |report| describe(report, &context.console().shown(&path).to_string()))?,
                }
            }
        }
        Ok(Exit::Done)
    }

    fn part(&self) -> Part {
        let file = self.file.clone();
        match (&self.tensor, self.range, file) {
            (Some(name), _, file) => Part::Tensor { name: name.clone(), file, as_safetensors: self.safetensors },
            (None, Some(range), file) => Part::Range { file, range },
            (None, None, Some(file)) => Part::File(file),
            (None, None, None) => Part::Whole,
        }
    }

    /// Which version to get and where to; by its number once that is known, so that both speak of the same one.
    fn target(&self, face: &Face, context: &Context) -> Result<(VersionRef, Target)> {
        let output = self.output.as_deref();
        if output.is_some_and(is_dash) {
            return Ok((self.version.clone(), Target::Stream(Stream::Stdout)));
        }
        let there = output.map(|output| context.path(output));
        if there.is_some_and(|there| there.exists() && !there.is_dir()) {
            // Nobody is asked for what has nowhere to go.
            Target::file(output, || Ok(String::new()), self.force, context.console())?;
        }
        let version = face.version(&self.version, context.monitor())?;
        let target = if self.part() == Part::Whole && !version.manifest().single {
            Target::Path(context.path(output.unwrap_or(Path::new(version.key().last_segment()))))
        } else {
            Target::file(output, || self.own_name(&version), self.force, context.console())?
        };
        let number = VersionSpec::Number(version.number());
        Ok((VersionRef { key: version.key().clone(), version: number }, target))
    }

    /// What the wanted part is called where the user gives no name.
    fn own_name(&self, version: &Version) -> Result<String> {
        if let Some(tensor) = &self.tensor {
            let extension = if self.safetensors { "safetensors" } else { "bin" };
            return Ok(format!("{}.{extension}", tensor.replace(['/', '\0'], "_")));
        }
        if self.range.is_some() {
            return Err(Failure::Usage(
                "a range of bytes has no name of its own; say where it goes: -o FILE, or -o - for standard output"
                    .to_owned(),
            ));
        }
        let path = match &self.file {
            Some(file) => file.as_str(),
            None => version.manifest().files.first().map_or("", |file| file.path.as_str()),
        };
        Ok(path.rsplit('/').next().unwrap_or(path).to_owned())
    }
}

/// Reads `A..B`, `A..` or `..B`.
fn parse_range(text: &str) -> Result<(u64, Option<u64>), String> {
    let (start, end) = text.split_once("..").ok_or("write it as A..B, A.. or ..B, in bytes")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number of bytes"));
    let start = if start.is_empty() { 0 } else { number(start)? };
    let end = if end.is_empty() { None } else { Some(number(end)?) };
    match end {
        Some(end) if end < start => Err(format!("it ends at {end}, before it starts")),
        end => Ok((start, end)),
    }
}

fn describe(report: &GetReport, path: &str) -> String {
    let mut chunks = count(report.from_store + report.from_peers + report.from_cache + report.resumed, "chunk");
    if report.resumed > 0 {
        chunks += &format!(", {} of them from an interrupted get", report.resumed);
    }
    let mut text = vec![
        ("payload", format!("{} in {chunks}, each verified", size(report.bytes))),
        ("manifest", manifest(&report.manifest)),
    ];
    if report.received_bytes > 0 {
        let deltas = match report.peer_deltas {
            0 => String::new(),
            deltas => format!(" ({deltas} as differences)"),
        };
        let came = count(report.from_peers, "chunk");
        text.push(("received", format!("{} for {came}{deltas} from peers", size(report.received_bytes))));
    }
    text.push(("took", rate(report.bytes, report.seconds)));
    format!("restored {}@{} as {path}\n{}", report.key, report.version, fields("  ", &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_be_open_at_either_end() {
        assert_eq!(parse_range("2..8"), Ok((2, Some(8))));
        assert_eq!(parse_range("2.."), Ok((2, None)));
        assert_eq!(parse_range("..8"), Ok((0, Some(8))));
        assert_eq!(parse_range(".."), Ok((0, None)));
        for bad in ["8", "8..2", "a..2", "-1..2", "1..2..3", ""] {
            assert!(parse_range(bad).is_err(), "{bad:?}");
        }
    }
}
