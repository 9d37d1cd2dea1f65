//! `caskad gradient collect`: what workers have published of a round, folded.

use std::time::Duration;

use caskad::gradient::{Collection, Contribution, VersionContribution, collect, unfit};
use caskad::{Error, ScopeKey};
use clap::Args;
use serde_json::json;

use super::folding::{Absent, Folding, Unfit};
use super::keep::Keep;
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
    keep: Keep,
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
        // Before anybody is waited for.
        self.folding.target(context)?;
        let collection = collect(node, &self.run, self.round, &workers, self.deadline, context.monitor())?;
        let (found, absent) = sort_out(collection, &|worker| self.given(&workers, worker));
        if found.is_empty() {
            return Err(self.nobody(absent));
        }
        let mut folding = self.folding.clone();
        if let Some(weights) = &mut folding.weights {
            let given = workers.iter().zip(weights.iter());
            let given = given.filter(|(worker, _)| found.iter().any(|(found, _)| found == *worker));
            *weights = given.map(|(_, weight)| *weight).collect();
        }
        let contributions: Vec<&dyn Contribution> = found.iter().map(|(_, found)| found as &dyn Contribution).collect();
        folding.fold(&contributions, Some(absent), context)?;
        self.keep.end_others(node, &self.run, self.round)?;
        Ok(Exit::Done)
    }

    /// The worker as it was named, without `@`.
    fn given(&self, workers: &[ScopeKey], worker: &ScopeKey) -> String {
        let named = workers.iter().zip(&self.workers).find(|(other, _)| *other == worker);
        named.map_or_else(|| worker.to_string(), |(_, name)| bare(name).to_owned())
    }

    fn nobody(&self, absent: Absent) -> Failure {
        let missing = absent.missing.iter().map(|worker| format!("@{worker}"));
        let names = missing.chain(absent.unfit.iter().map(|Unfit { worker, why }| format!("@{worker} ({why})")));
        let (names, round, run) = (names.collect::<Vec<String>>().join(", "), self.round, &self.run);
        let why = format!("nobody has published what can be folded for round {round} of {run} in time: {names}");
        let details = json!({ "missing": absent.missing, "unfit": absent.unfit });
        Failure::Detailed(Error::Network { what: "collecting", why }, details)
    }
}

/// What of a round can be folded, and by whom; and those who are not among them, by their `name`s.
fn sort_out(
    collection: Collection,
    name: &dyn Fn(&ScopeKey) -> String,
) -> (Vec<(ScopeKey, VersionContribution)>, Absent) {
    let missing = collection.missing.iter().map(name).collect();
    let mut absent = Absent { missing, unfit: Vec::new() };
    let mut leave_out = |worker: &ScopeKey, why: &Error| {
        absent.unfit.push(Unfit { worker: name(worker), why: why.to_string() });
    };
    let mut found: Vec<(ScopeKey, VersionContribution)> = Vec::new();
    for collected in collection.contributions {
        match VersionContribution::new(collected.version, None) {
            Ok(contribution) => found.push((collected.worker, contribution)),
            Err(error) => leave_out(&collected.worker, &error),
        }
    }
    let all: Vec<&dyn Contribution> = found.iter().map(|(_, found)| found as &dyn Contribution).collect();
    // The last first, so that the places of the others stay.
    for (place, error) in unfit(&all).into_iter().rev() {
        let (worker, _) = found.remove(place);
        leave_out(&worker, &error);
    }
    (found, absent)
}

fn bare(worker: &str) -> &str {
    worker.strip_prefix('@').unwrap_or(worker)
}

fn scope_of(worker: &str, context: &Context) -> Result<ScopeKey> {
    let name = bare(worker);
    if let Ok(scope) = name.parse() {
        return Ok(scope);
    }
    let aliases = context.read()?.aliases()?;
    aliases.get(name).copied().ok_or_else(|| {
        Failure::Usage(format!("{worker:?} is neither an alias nor a scope; `caskad alias` lists the aliases"))
    })
}
