//! `caskad gradient publish`: this node's contribution to a round.

use std::path::PathBuf;
use std::time::Duration;

use caskad::Payload;
use caskad::gradient::{FileContribution, check, publish};
use clap::Args;

use super::keep::Keep;
use crate::commands::parse_time_to_live;
use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{rate, size};

/// Publish this node's contribution to a round
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient publish grads.safetensors --run llama-3 --round 17
  caskad gradient publish grads.safetensors --run llama-3 --round 18 --keep 2")]
pub(super) struct Publish {
    /// The contribution, a safetensors file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The run
    #[arg(long)]
    run: String,
    /// The round
    #[arg(long)]
    round: u64,
    /// How long peers keep it
    #[arg(long, value_name = "TIME", value_parser = parse_time_to_live, default_value = "1h")]
    ttl: Duration,
    #[command(flatten)]
    keep: Keep,
}

impl Publish {
    pub(super) fn run(&self, context: &Context) -> Result<Exit> {
        let node = context.needed_node()?;
        let file = context.path(&self.file);
        check(&FileContribution::open(&file)?)?;
        let payload = Payload::path(file);
        let report = publish(node, &self.run, self.round, payload, self.ttl, context.monitor())?;
        self.keep.end_others(node, &self.run, self.round)?;
        context.confirm(&report, |report| {
            let took = rate(report.bytes, report.seconds);
            format!("published {} for round {} of {} ({took})\n", size(report.bytes), self.round, self.run)
        })?;
        Ok(Exit::Done)
    }
}
