//! `caskad stat`: the totals of a store.

use caskad::StatReport;
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{count, percent, size};
use crate::table::{Table, fields};

/// Show what the store holds and what it costs on disk
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad stat
  caskad stat --json | jq .ratio")]
pub(crate) struct Stat {}

impl Stat {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let report = context.read()?.stat()?;
        context.list(&report, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(report: &StatReport) -> String {
    let stored = format!(
        "{} ({} of the payloads): {} in {}, {} of index",
        size(report.stored_bytes),
        percent(report.stored_bytes, report.logical_bytes),
        size(report.pack_bytes),
        count(report.packs, "pack"),
        size(report.index_bytes)
    );
    let text = [
        ("versions", format!("{} of {}", report.versions, count(report.keys, "key"))),
        ("payloads", size(report.logical_bytes)),
        ("stored", stored),
        ("chunks", report.chunks.to_string()),
    ];
    let mut table = Table::new(&["ENCODING", ">CHUNKS", ">PLAIN", ">STORED", ">SHARE"]);
    for (codec, used) in &report.codecs {
        table.row([
            codec.to_string(),
            used.chunks.to_string(),
            size(used.raw_bytes),
            size(used.stored_bytes),
            percent(used.stored_bytes, used.raw_bytes),
        ]);
    }
    let codecs = if report.codecs.is_empty() { String::new() } else { table.render("  ") };
    fields("", &text) + &codecs
}
