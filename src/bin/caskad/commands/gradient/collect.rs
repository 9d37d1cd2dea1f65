//! `caskad gradient collect`: what workers have published of a round, folded.

use std::time::Duration;

use caskad::gradient::{Contribution, VersionContribution, collect};
use caskad::{Error, ScopeKey};
use clap::Args;

use super::folding::Folding;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};

/// Fetch what workers have published of a round, and fold it
///
/// Waits for those who have not published yet until the deadline; who is missing then is listed, and the others are folded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient collect --run llama-3 --round 17 --worker @alice --worker @bob -o mean.safetensors
  caskad gradient collect --run llama-3 --round 17 --worker @alice --worker @bob --worker @carol --median -o m.safetensors")]
pub(super) struct Collect {
    /// The run
    #[arg(long)]
    run: String,
    /// The round
    #[arg(long)]
    round: u64,
    /// Whose contributions: scopes or aliases (repeatable)
    #[arg(long = "worker", value_name = "@SCOPE", required = true)]
    workers: Vec<String>,
    /// How long to wait for them
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1m")]
    deadline: Duration,
    #[command(flatten)]
    folding: Folding,
}

impl Collect {
    pub(super) fn run(&self, context: &Context) -> Result<Exit> {
        let node = context.needed_node()?;
        let workers = self.workers.iter().map(|worker| scope_of(worker, context)).collect::<Result<Vec<_>>>()?;
        let collection = collect(node, &self.run, self.round, &workers, self.deadline, context.monitor())?;
        let missing = collection.missing.iter().map(ToString::to_string).collect();
        let collected = collection.contributions.into_iter();
        let contributions = collected.map(|collected| VersionContribution::new(collected.version, None));
        let contributions = contributions.collect::<Result<Vec<_>, Error>>()?;
        if contributions.is_empty() {
            return Err(Failure::Usage(format!(
                "nobody has published for round {} of {} in time",
                self.round, self.run
            )));
        }
        let contributions: Vec<&dyn Contribution> =
            contributions.iter().map(|contribution| contribution as &dyn Contribution).collect();
        self.folding.fold(&contributions, Some(missing), context)?;
        Ok(Exit::Done)
    }
}

fn scope_of(worker: &str, context: &Context) -> Result<ScopeKey> {
    let name = worker.strip_prefix('@').unwrap_or(worker);
    if let Ok(scope) = name.parse() {
        return Ok(scope);
    }
    let aliases = context.read()?.aliases()?;
    aliases.get(name).copied().ok_or_else(|| {
        Failure::Usage(format!("{worker:?} is neither an alias nor a scope; `caskad alias` lists the aliases"))
    })
}
