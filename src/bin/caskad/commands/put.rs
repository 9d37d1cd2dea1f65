//! `caskad put`: stores a payload as the next version of a key.

use std::path::PathBuf;
use std::time::Duration;

use caskad::codec::Effort;
use caskad::refs::{Meta, MetaValue};
use caskad::{DeltaBase, Error, Payload, PutName, PutOptions, PutReport, VersionRef};
use clap::Args;

use crate::commands::{is_dash, parse_time_to_live};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{count, manifest, percent, rate, size};
use crate::table::fields;

/// Store files as the next version of a key
///
/// One file is a version of its own; a directory, or several paths, make a version with several files. Links inside a directory are
/// stored as links. What the store already has, of this or any other key, is not stored again; a tensor that changed is stored as its
/// difference to the version before, where that is smaller.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad put model.safetensors --as runs/llama@epoch-1 --meta epoch=1 --meta loss=0.52
  caskad put checkpoint-500/ --as runs/llama --ttl 7d
  caskad put tuned.safetensors --as runs/tuned --base models/llama@3
  caskad put model.gguf tokenizer.json --as models/llama
  curl -sL URL | caskad put - --as models/llama --name model.gguf")]
pub(crate) struct Put {
    /// Files or directories; `-` alone reads standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The key that gets a new version, and a label for it
    #[arg(long = "as", value_name = "KEY[@LABEL]")]
    name: PutName,
    /// Store changed tensors as differences to this version [default: the key's last versions]
    #[arg(long, value_name = "KEY[@V]", conflicts_with = "no_delta")]
    base: Option<VersionRef>,
    /// Store no differences: every chunk by itself
    #[arg(long)]
    no_delta: bool,
    /// Compress less, faster
    #[arg(long)]
    fast: bool,
    /// Compress more, slower: for archives
    #[arg(long, conflicts_with = "fast")]
    compact: bool,
    /// Note something about the version: a number, where it is written as one in JSON, or text (repeatable)
    #[arg(long, value_name = "K=V", value_parser = parse_meta)]
    meta: Vec<(String, MetaValue)>,
    /// Let `gc` remove the version after this time: 12h, 7d, 1month
    #[arg(long, value_parser = parse_time_to_live)]
    ttl: Option<Duration>,
    /// Note a media type with each file
    #[arg(long, value_name = "TYPE", value_parser = parse_media_type)]
    media_type: Option<String>,
    /// What the file from standard input is called [default: the last segment of KEY]
    #[arg(long = "name", value_name = "FILE")]
    name_of_stdin: Option<String>,
}

impl Put {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let payload = self.payload(context)?;
        let mut options = PutOptions::default();
        options.effort = match (self.fast, self.compact) {
            (true, _) => Effort::Fast,
            (_, true) => Effort::Compact,
            _ => Effort::Default,
        };
        options.base = match &self.base {
            _ if self.no_delta => DeltaBase::None,
            Some(version) => DeltaBase::Version(version.clone()),
            None => DeltaBase::Auto,
        };
        options.meta = self.meta()?;
        options.ttl = self.ttl;
        options.media_type.clone_from(&self.media_type);
        let report = match context.node() {
            Some(node) => node.put(&self.name, payload, &options, context.monitor())?,
            None => context.create()?.put(&self.name, payload, &options, context.monitor())?,
        };
        context.confirm(&report, describe)?;
        Ok(Exit::Done)
    }

    fn payload(&self, context: &Context) -> Result<Payload<'static>> {
        let stdin = self.paths.iter().any(|path| is_dash(path));
        match (stdin, self.paths.as_slice(), &self.name_of_stdin) {
            (true, [_], name) => {
                let name = name.as_deref().unwrap_or(self.name.key.last_segment());
                Ok(Payload::reader(name, context.stdin()?))
            }
            (true, ..) => Err(Failure::Usage(
                "`-` (standard input) is one file and stands alone; put the other paths under a key of their own"
                    .to_owned(),
            )),
            (false, _, Some(_)) => {
                Err(Failure::Usage("--name is for standard input (`-`); a file keeps its own name".to_owned()))
            }
            (false, [path], None) => Ok(Payload::path(context.path(path))),
            (false, paths, None) => Ok(Payload::paths(paths.iter().map(|path| context.path(path)))),
        }
    }

    fn meta(&self) -> Result<Meta> {
        let mut meta = Meta::default();
        for (key, value) in &self.meta {
            if meta.get(key).is_some() {
                return Err(Failure::Usage(format!("--meta {key}=… is given twice")));
            }
            meta.insert(key.clone(), value.clone())?;
        }
        Ok(meta)
    }
}

fn parse_media_type(text: &str) -> Result<String, Error> {
    caskad::check_media_type(text).map(|()| text.to_owned())
}

/// Reads `k=v`. A number is what JSON takes for one, so that `007`, `inf` and `1_000` stay the text that they are.
fn parse_meta(text: &str) -> Result<(String, MetaValue), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE, such as epoch=3")?;
    let number = serde_json::from_str::<serde_json::Number>(value).ok().filter(|_| value.trim() == value);
    let value = match number {
        Some(number) if number.is_i64() => MetaValue::Integer(number.as_i64().unwrap_or_default()),
        // A whole number that a float would round stays text.
        Some(number) if number.is_f64() => MetaValue::Float(number.as_f64().unwrap_or_default()),
        _ => MetaValue::Text(value.to_owned()),
    };
    Ok((key.to_owned(), value))
}

fn describe(report: &PutReport) -> String {
    let label = report.label.as_ref().map(|label| format!(" ({label})")).unwrap_or_default();
    let files = count(report.files, "file");
    let deltas = match report.delta_chunks {
        0 => String::new(),
        deltas => format!(" ({} as differences)", deltas),
    };
    let mut text = vec![
        ("payload", format!("{} in {files}, {}", size(report.bytes), count(report.chunks, "chunk"))),
        (
            "added",
            format!(
                "{} in {}{deltas}: {} of the payload",
                size(report.stored_bytes),
                count(report.new_chunks, "new chunk"),
                percent(report.stored_bytes, report.bytes)
            ),
        ),
        ("manifest", manifest(&report.manifest)),
    ];
    if let Some(network) = &report.network {
        let (replicas, sent) = (count(network.replicas, "peer"), size(network.sent_bytes));
        text.push(("network", format!("on {replicas} at least, {sent} sent")));
    }
    text.push(("took", rate(report.bytes, report.seconds)));
    format!("stored {}@{}{label}\n{}", report.key, report.version, fields("  ", &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_number_where_json_would_say_so() {
        let value = |text: &str| parse_meta(text).unwrap().1;
        assert_eq!(value("epoch=3"), MetaValue::Integer(3));
        assert_eq!(value("step=-12"), MetaValue::Integer(-12));
        assert_eq!(value("loss=0.52"), MetaValue::Float(0.52));
        assert_eq!(value("lr=1e-4"), MetaValue::Float(1e-4));
        for text in ["007", "inf", "NaN", "1e999", "+5", "", " 5", "18446744073709551615", "a=b"] {
            assert_eq!(value(&format!("k={text}")), MetaValue::Text(text.to_owned()));
        }
        assert!(parse_meta("epoch").unwrap_err().contains("KEY=VALUE"));
    }
}
