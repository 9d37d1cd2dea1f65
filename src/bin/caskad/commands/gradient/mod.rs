//! `caskad gradient`: the commands about gradients, one file each.

mod aggregate;
mod collect;
mod folding;
mod keep;
mod publish;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::{Exit, Result};

use aggregate::Aggregate;
use collect::Collect;
use publish::Publish;

/// Exchange the gradients of a training round, and fold them into one
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  caskad gradient publish grads.safetensors --run llama-3 --round 17
  caskad gradient collect --run llama-3 --round 17 --worker @alice --worker @bob -o mean.safetensors
  caskad gradient aggregate worker-*.safetensors -o round-7.safetensors --trimmed-mean 0.2")]
pub(crate) struct Gradient {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Publish(Publish),
    Collect(Collect),
    Aggregate(Aggregate),
}

impl Gradient {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        match &self.command {
            Command::Publish(publish) => publish.run(context),
            Command::Collect(collect) => collect.run(context),
            Command::Aggregate(aggregate) => aggregate.run(context),
        }
    }
}
