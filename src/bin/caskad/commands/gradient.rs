//! `caskad gradient`: the exchange of a training round.

use std::path::{Path, PathBuf};
use std::time::Duration;

use caskad::gradient::{AggregateReport, Contribution, FileContribution, NonFinite, Rule, aggregate, collect, publish};
use caskad::{Payload, ScopeKey};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{count, rate, size};
use crate::table::fields;
use crate::target::Target;

/// Exchange the gradients of a training round, and fold them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient publish grads.safetensors --run llama-3 --round 17
  caskad gradient collect --run llama-3 --round 17 --worker @alice --worker @bob -o mean.safetensors
  caskad gradient aggregate a.safetensors b.safetensors --median -o median.safetensors")]
pub(crate) struct Gradient {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    Publish(Publish),
    Collect(Collect),
    Aggregate(Aggregate),
}

/// Publish this node's contribution to a round
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient publish grads.safetensors --run llama-3 --round 17")]
struct Publish {
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
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h")]
    ttl: Duration,
}

/// How contributions are folded.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct RuleArgs {
    /// The mean [the default]
    #[arg(long)]
    mean: bool,
    /// The mean by weights, one for each contribution
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Option<Vec<f64>>,
    /// The mean without this fraction of the values at either end, coordinate by coordinate
    #[arg(long, value_name = "F")]
    trimmed_mean: Option<f64>,
    /// The median, coordinate by coordinate
    #[arg(long)]
    median: bool,
}

impl RuleArgs {
    fn rule(&self) -> Rule {
        match (&self.weights, self.trimmed_mean, self.median) {
            (Some(weights), ..) => Rule::Weighted(weights.clone()),
            (_, Some(fraction), _) => Rule::TrimmedMean(fraction),
            (.., true) => Rule::Median,
            _ => Rule::Mean,
        }
    }
}

/// Fetch what workers have published of a round, and fold it
///
/// Waits for those who have not published yet until the deadline; who is missing then is listed, and the others are folded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient collect --run llama-3 --round 17 --worker @alice --worker @bob -o mean.safetensors
  caskad gradient collect --run llama-3 --round 17 --worker @alice --worker @bob --worker @carol --median -o m.safetensors")]
struct Collect {
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
    fold: Fold,
}

/// Fold contributions that are files here
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient aggregate a.safetensors b.safetensors -o mean.safetensors
  caskad gradient aggregate *.safetensors --trimmed-mean 0.2 -o robust.safetensors")]
struct Aggregate {
    /// The contributions, safetensors files of the same tensors
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    fold: Fold,
}

#[derive(Debug, Args)]
struct Fold {
    #[command(flatten)]
    rule: RuleArgs,
    /// Count NaN and infinity like any value, rather than refuse them
    #[arg(long)]
    allow_non_finite: bool,
    /// Where the result goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
}

impl Gradient {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        match &self.step {
            Step::Publish(publish) => publish.run(context),
            Step::Collect(collect) => collect.run(context),
            Step::Aggregate(aggregate) => aggregate.run(context),
        }
    }
}

impl Publish {
    fn run(&self, context: &Context) -> Result<Exit> {
        let node = context.needed_node()?;
        let payload = Payload::path(context.path(&self.file));
        let report = publish(node, &self.run, self.round, payload, self.ttl, context.monitor())?;
        context.confirm(&report, |report| {
            let took = rate(report.bytes, report.seconds);
            format!("published {} for round {} of {} ({took})\n", size(report.bytes), self.round, self.run)
        })?;
        Ok(Exit::Done)
    }
}

impl Collect {
    fn run(&self, context: &Context) -> Result<Exit> {
        let node = context.needed_node()?;
        let workers = self.workers.iter().map(|worker| scope_of(worker, context)).collect::<Result<Vec<_>>>()?;
        let collection = collect(node, &self.run, self.round, &workers, self.deadline, context.monitor())?;
        let missing: Vec<String> = collection.missing.iter().map(ToString::to_string).collect();
        if collection.contributions.is_empty() {
            return Err(Failure::Usage(format!(
                "nobody has published for round {} of {} in time",
                self.round, self.run
            )));
        }
        let contributions: Vec<&dyn Contribution> =
            collection.contributions.iter().map(|collected| &collected.version as &dyn Contribution).collect();
        let report = self.fold.write(&contributions, context)?;
        let mut value = serde_json::to_value(&report).map_err(std::io::Error::from)?;
        value["missing"] = json!(missing);
        context.confirm(&value, |_| {
            let late: String = missing.iter().map(|worker| format!("missing: @{worker}\n")).collect();
            describe(&report, &self.fold.output) + &late
        })?;
        Ok(Exit::Done)
    }
}

impl Aggregate {
    fn run(&self, context: &Context) -> Result<Exit> {
        let files = self.files.iter().map(|file| FileContribution::open(context.path(file)));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let contributions: Vec<&dyn Contribution> = files.iter().map(|file| file as &dyn Contribution).collect();
        let report = self.fold.write(&contributions, context)?;
        context.confirm(&report, |report| describe(report, &self.fold.output))?;
        Ok(Exit::Done)
    }
}

impl Fold {
    /// Writes the result under a temporary name, and gives it its own when it is whole.
    fn write(&self, contributions: &[&dyn Contribution], context: &Context) -> Result<AggregateReport> {
        let name = || Ok("aggregate.safetensors".to_owned());
        let target = match Target::file(Some(&self.output), name, self.force, context.console())? {
            Target::Path(path) => path,
            Target::Stream(_) => return Err(Failure::Usage("the result goes to a file; name one with -o".to_owned())),
        };
        let failed = |source| caskad::Error::Io { action: "write", path: target.clone(), source };
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        let non_finite = if self.allow_non_finite { NonFinite::Allow } else { NonFinite::Refuse };
        let mut out = std::io::BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        let report = aggregate(contributions, &self.rule.rule(), non_finite, &mut out, context.monitor())?;
        drop(out);
        temporary.persist(&target).map_err(|error| failed(error.error))?;
        Ok(report)
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

fn describe(report: &AggregateReport, output: &Path) -> String {
    let text = [
        ("rule", report.rule.clone()),
        (
            "folded",
            format!(
                "{}, {}",
                count(report.contributions as u64, "contribution"),
                count(report.tensors as u64, "tensor")
            ),
        ),
        ("result", size(report.bytes)),
        ("took", rate(report.bytes * report.contributions as u64, report.seconds)),
    ];
    format!("aggregated into {}\n{}", output.display(), fields("  ", &text))
}
