//! `caskad diff`: two versions, tensor by tensor.

use caskad::{DiffEntry, DiffReport, VersionRef};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{codecs, percent, size};
use crate::table::Table;

/// Compare two versions, tensor by tensor (file by file where there are no tensors)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad diff runs/llama@epoch-1 runs/llama@epoch-2
  caskad diff models/base runs/llama")]
pub(crate) struct Diff {
    /// The version before
    #[arg(value_name = "KEY[@V]")]
    a: VersionRef,
    /// The version after
    #[arg(value_name = "KEY[@V]")]
    b: VersionRef,
}

impl Diff {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let report = context.read()?.diff(&self.a, &self.b)?;
        context.list(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &DiffReport) -> String {
    let mut text = format!("{} ({}) -> {} ({})\n", report.a, size(report.bytes_a), report.b, size(report.bytes_b));
    let parts = [("added", &report.added), ("removed", &report.removed), ("changed", &report.changed)];
    if parts.iter().any(|(_, entries)| !entries.is_empty()) {
        let mut table = Table::new(&["CHANGE", "FILE", "TENSOR", ">SIZE", ">SHARED", ">STORED", ">SHARE", "ENCODINGS"]);
        for (change, entries) in parts {
            entries.iter().for_each(|entry| table.row(cells(change, entry)));
        }
        text += &table.render("  ");
    }
    text += &format!(
        "{} added, {} removed, {} changed, {} unchanged; {} of {} shared\n",
        report.added.len(),
        report.removed.len(),
        report.changed.len(),
        report.unchanged,
        percent(report.shared_bytes, report.bytes_b),
        report.b
    );
    text
}

fn cells(change: &str, entry: &DiffEntry) -> [String; 8] {
    [
        change.to_owned(),
        entry.file.clone(),
        entry.tensor.clone().unwrap_or_else(|| "-".to_owned()),
        size(entry.bytes),
        percent(entry.cost.shared_bytes, entry.bytes),
        size(entry.cost.stored_bytes),
        percent(entry.cost.stored_bytes, entry.bytes),
        codecs(&entry.cost),
    ]
}
