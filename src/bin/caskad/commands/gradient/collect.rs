//! `caskad gradient collect`: what workers have published of a round, folded.

use std::time::Duration;

use caskad::gradient::{Contribution, VersionContribution, collect, unfit};
use caskad::{Error, ScopeKey};
use clap::Args;

use super::folding::{Absent, Folding, Unfit};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};

/// Fetch what workers have published of a round, and fold it
///
/// Waits for those who have not published yet until the deadline; who is missing then is listed, and the others are folded. So is whoever
/// has published something else than the most. A weight counts for the worker that it was given for.
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
        if let Some(weights) = self.folding.weights.as_ref().filter(|weights| weights.len() != workers.len()) {
            let (weights, workers) = (weights.len(), workers.len());
            return Err(Failure::Usage(format!(
                "there are {weights} weights for {workers} workers; give one for each"
            )));
        }
        let collection = collect(node, &self.run, self.round, &workers, self.deadline, context.monitor())?;
        let mut absent =
            Absent { missing: collection.missing.iter().map(ToString::to_string).collect(), unfit: Vec::new() };
        let mut leave_out = |worker: &ScopeKey, why: &Error| {
            absent.unfit.push(Unfit { worker: worker.to_string(), why: why.to_string() });
        };
        let mut found: Vec<(ScopeKey, VersionContribution)> = Vec::new();
        for collected in collection.contributions {
            match VersionContribution::new(collected.version, None) {
                Ok(contribution) => found.push((collected.worker, contribution)),
                Err(error) => leave_out(&collected.worker, &error),
            }
        }
        let all: Vec<&dyn Contribution> = found.iter().map(|(_, found)| found as &dyn Contribution).collect();
        let unfit = unfit(&all);
        for (place, error) in &unfit {
            found.get(*place).into_iter().for_each(|(worker, _)| leave_out(worker, error));
        }
        let fit = |place: &usize| unfit.iter().all(|(other, _)| other != place);
        let found: Vec<&(ScopeKey, VersionContribution)> =
            found.iter().enumerate().filter(|(place, _)| fit(place)).map(|(_, found)| found).collect();
        if found.is_empty() {
            let Absent { missing, unfit } = absent;
            let names = missing.iter().map(|worker| format!("@{worker}"));
            let names: Vec<String> =
                names.chain(unfit.iter().map(|Unfit { worker, why }| format!("@{worker} ({why})"))).collect();
            return Err(Failure::Usage(format!(
                "nobody has published what can be folded for round {} of {} in time: {}",
                self.round,
                self.run,
                names.join(", ")
            )));
        }
        let mut folding = self.folding.clone();
        if let Some(weights) = &mut folding.weights {
            let given = workers.iter().zip(weights.iter());
            let given = given.filter(|(worker, _)| found.iter().any(|(found, _)| found == *worker));
            *weights = given.map(|(_, weight)| *weight).collect();
        }
        let contributions: Vec<&dyn Contribution> = found.iter().map(|(_, found)| found as &dyn Contribution).collect();
        folding.fold(&contributions, Some(absent), context)?;
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
