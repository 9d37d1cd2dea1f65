//! `caskad verify`: proves what is stored, or a copy of it, by hash.

use std::path::PathBuf;

use caskad::{Damage, VerifyReport, VersionRef};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{count, joined, plain, rate, size};

/// Prove a version, the whole store, or a copy outside it
///
/// Every chunk is read from the disk, decoded and hashed. What does not match is named by file, tensor and offset, and the exit code
/// is 1. With --against it is the file or directory there that is compared with the version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad verify --all
  caskad verify runs/llama@epoch-1
  caskad verify --all --repair
  caskad verify runs/llama@epoch-1 --against model.safetensors && python train.py")]
pub(crate) struct Verify {
    /// The version
    #[arg(value_name = "KEY[@V]", required_unless_present = "all", conflicts_with = "all")]
    version: Option<VersionRef>,
    /// Everything: settings, index, packs, and every version of every key
    #[arg(long)]
    all: bool,
    /// Compare this file or directory with the version, and leave the store's own copy alone
    #[arg(long, value_name = "PATH", conflicts_with = "all")]
    against: Option<PathBuf>,
    /// Fetch what is damaged from peers, and look again; needs a running node
    #[arg(long, conflicts_with = "against")]
    repair: bool,
}

impl Verify {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let mut report = self.verify(context)?;
        if self.repair {
            let node = context.needed_node()?;
            // Twice: which chunks are damaged can be told only where the manifest is not.
            for _ in 0..2 {
                if report.ok {
                    break;
                }
                let mut healed = node.heal(&report, context.monitor())?;
                if self.all {
                    healed += node.heal_kept(context.monitor())?;
                }
                if healed == 0 {
                    break;
                }
                report = self.verify(context)?;
            }
        }
        match report.ok {
            true => context.confirm(&report, describe)?,
            false => context.list(&report, describe)?,
        }
        Ok(if report.ok { Exit::Done } else { Exit::Unverified })
    }

    fn verify(&self, context: &Context) -> Result<VerifyReport> {
        let store = context.read()?;
        Ok(match (&self.version, &self.against) {
            (Some(version), Some(path)) => store.verify_against(version, context.path(path), context.monitor())?,
            (Some(version), None) => store.verify(version, context.monitor())?,
            (None, _) if self.all => store.verify_all(context.monitor())?,
            (None, _) => return Err(Failure::Usage("name a version, or --all".to_owned())),
        })
    }
}

fn describe(report: &VerifyReport) -> String {
    let mut text: String = report.damaged.iter().map(describe_damage).collect();
    let found = match report.damaged.len() as u64 {
        0 => "ok".to_owned(),
        damaged => format!("DAMAGED in {}", count(damaged, "place")),
    };
    text += &format!(
        "{found}: {}, {}, {} ({})\n",
        count(report.versions, "version"),
        count(report.chunks, "chunk"),
        size(report.bytes),
        rate(report.bytes, report.seconds)
    );
    text
}

fn describe_damage(damage: &Damage) -> String {
    let mut place = String::new();
    if let (Some(key), Some(version)) = (&damage.key, damage.version) {
        place += &format!(" of {key}@{version}");
    }
    if let Some(file) = &damage.file {
        place += &format!(", file {file}");
    }
    if let (Some(offset), Some(len)) = (damage.offset, damage.len) {
        place += &format!(", bytes {offset}..{}", offset.saturating_add(len));
    }
    if !damage.tensors.is_empty() {
        place += &format!(", tensors {}", joined(&damage.tensors));
    }
    format!("damaged {}{}: {}\n", damage.what, plain(&place), plain(&damage.why))
}
