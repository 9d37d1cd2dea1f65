//! `caskad show`: one version, its files and their tensors.

use caskad::{FileSummary, ShowReport, VersionRef};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{codecs, count, joined, meta, percent, plain, size};
use crate::table::{Table, fields};

/// Show one version: files, tensors, encodings, and what is shared with the version before
///
/// A chunk that several versions use is counted as stored in each of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad show runs/llama@best
  caskad show runs/llama --json | jq -r '.files[].segments[].name'")]
pub(crate) struct Show {
    /// The version
    #[arg(value_name = "KEY[@V]")]
    version: VersionRef,
}

impl Show {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let report = context.read()?.show(&self.version)?;
        context.list(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &ShowReport) -> String {
    let version = &report.summary;
    let labels = if version.labels.is_empty() { String::new() } else { format!(" ({})", joined(&version.labels)) };
    let files = count(report.files.len() as u64, "file");
    let expires = match version.expires {
        None => "never".to_owned(),
        Some(at) if version.pinned => format!("{at}; kept while it is pinned"),
        Some(at) => at.to_string(),
    };
    let mut lines = vec![
        ("payload", format!("{} in {files}, {}", size(version.bytes), count(version.chunks, "chunk"))),
        (
            "added",
            format!(
                "{} in {}: {} of the payload",
                size(version.stored_bytes),
                count(version.new_chunks, "new chunk"),
                percent(version.stored_bytes, version.bytes)
            ),
        ),
        ("manifest", format!("b3-{} ({})", version.manifest, size(report.manifest_bytes))),
        ("stored at", version.created.to_string()),
        ("expires", expires),
        ("pinned", if version.pinned { "yes" } else { "no" }.to_owned()),
        ("before it", report.previous.map_or_else(|| "-".to_owned(), |number| format!("{}@{number}", report.key))),
    ];
    if !version.meta.is_empty() {
        lines.push(("meta", meta(&version.meta)));
    }
    let mut text = format!("{}@{}{labels}\n{}", report.key, version.version, fields("  ", &lines));
    for file in &report.files {
        text += &describe_file(file);
    }
    text
}

fn describe_file(file: &FileSummary) -> String {
    let path = plain(&file.path);
    let mut text = match (&file.target, file.kind) {
        (Some(target), _) => return format!("\n{path} -> {}\n", plain(target)),
        (None, "directory") => return format!("\n{path}/\n"),
        _ => format!("\n{path}\n"),
    };
    let stored = match file.inline {
        true => "in the manifest".to_owned(),
        false => format!("{} ({})", size(file.cost.stored_bytes), codecs(&file.cost)),
    };
    let mut lines = vec![
        ("size", size(file.bytes)),
        ("stored", stored),
        ("shared", format!("{} with the version before", percent(file.cost.shared_bytes, file.bytes))),
    ];
    lines.extend(file.blob_hash.map(|hash| ("blake3", hash.to_string())));
    lines.extend(file.media_type.clone().map(|media_type| ("type", media_type)));
    text += &fields("  ", &lines);
    if file.segments.is_empty() {
        return text;
    }
    let mut table =
        Table::new(&["TENSOR", "DTYPE", "SHAPE", ">SIZE", ">STORED", ">SHARE", ">SHARED", "ENCODINGS", ">BASES"]);
    for segment in &file.segments {
        table.row([
            segment.name.clone(),
            if segment.dtype.is_empty() { "-".to_owned() } else { segment.dtype.clone() },
            format!("{:?}", segment.shape),
            size(segment.bytes),
            size(segment.cost.stored_bytes),
            percent(segment.cost.stored_bytes, segment.bytes),
            percent(segment.cost.shared_bytes, segment.bytes),
            codecs(&segment.cost),
            segment.cost.bases.to_string(),
        ]);
    }
    text + &table.render("  ")
}
