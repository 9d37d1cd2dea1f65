//! [`Folding`]: the arguments that say how gradients are folded and where the result goes, and the folding itself.

use std::path::PathBuf;

use caskad::gradient::{self, AggregateOptions, AggregateReport, Contribution, NonFinite, Rule};
use clap::Args;
use serde::Serialize;

use crate::commands::is_dash;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{count, plain, rate, size};
use crate::table::fields;
use crate::target::{Stream, Target};

#[derive(Debug, Clone, Args)]
pub(super) struct Folding {
    /// Where to: a file, a directory to put `aggregate.safetensors` in, or `-` for standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// The mean of each coordinate's values: the default
    #[arg(long, group = "rule")]
    mean: bool,
    /// Their weighted mean: one weight for each gradient, in order
    #[arg(long, group = "rule", value_name = "W,W,…", value_delimiter = ',', allow_negative_numbers = true)]
    pub(super) weights: Option<Vec<f64>>,
    /// The mean of what is left without this share of the least and of the greatest values, rounded down: 0 to below 0.5. Of two
    /// gradients it leaves nobody out, of three it takes 0.34
    #[arg(long, group = "rule", value_name = "F", allow_negative_numbers = true)]
    trimmed_mean: Option<f64>,
    /// The middle value
    #[arg(long, group = "rule")]
    median: bool,
    /// Leave values that are infinite or no numbers out of their coordinate, and go on
    #[arg(long)]
    allow_non_finite: bool,
    /// Replace a file that exists, once the new one is whole
    #[arg(long)]
    force: bool,
}

/// What was folded, and whose gradients were not.
#[derive(Debug, Serialize)]
struct Folded {
    #[serde(flatten)]
    report: AggregateReport,
    #[serde(flatten)]
    absent: Option<Absent>,
}

/// Workers whose gradients are not in the result.
#[derive(Debug, Serialize)]
pub(super) struct Absent {
    /// They had published nothing in time.
    pub(super) missing: Vec<String>,
    /// What they have published cannot be folded with the rest.
    pub(super) unfit: Vec<Unfit>,
}

#[derive(Debug, Serialize)]
pub(super) struct Unfit {
    pub(super) worker: String,
    pub(super) why: String,
}

impl Folding {
    /// Folds the contributions. `absent` are those whose are not among them, where somebody was asked for theirs.
    pub(super) fn fold(
        &self,
        contributions: &[&dyn Contribution],
        absent: Option<Absent>,
        context: &Context,
    ) -> Result<()> {
        let mut options = AggregateOptions::default();
        if self.allow_non_finite {
            options.non_finite = NonFinite::Drop;
        }
        let (rule, monitor) = (self.rule(), context.monitor());
        match self.target(context)? {
            Target::Path(path) => {
                let report = gradient::aggregate_file(contributions, &rule, &options, &path, monitor)?;
                let path = context.console().shown(&path).to_string();
                context.confirm(&Folded { report, absent }, |folded| describe(folded, &path))
            }
            Target::Stream(stream) => {
                let out = &mut *stream.open(context.console())?;
                let report = gradient::aggregate(contributions, &rule, &options, out, monitor)?;
                let folded = Folded { report, absent };
                match stream {
                    Stream::Stdout => context.confirm_beside(&folded),
                    Stream::Special(path) => {
                        let path = context.console().shown(&path).to_string();
                        context.confirm(&folded, |folded| describe(folded, &path))
                    }
                }
            }
        }
    }

    fn rule(&self) -> Rule {
        match (&self.weights, self.trimmed_mean) {
            (Some(weights), _) => Rule::Weighted(weights.clone()),
            (None, Some(fraction)) => Rule::TrimmedMean { fraction },
            (None, None) if self.median => Rule::Median,
            // `--mean` says what is done anyway.
            (None, None) => Rule::Mean,
        }
    }

    /// Where the result goes, if it may go there.
    pub(super) fn target(&self, context: &Context) -> Result<Target> {
        let own_name = || Ok("aggregate.safetensors".to_owned());
        match is_dash(&self.output) {
            true => Ok(Target::Stream(Stream::Stdout)),
            false => Target::file(Some(&self.output), own_name, self.force, context.console()),
        }
    }
}

fn describe(folded: &Folded, path: &str) -> String {
    let report = &folded.report;
    let mut text = vec![
        ("gradient", format!("{} in {}", count(report.elements, "element"), count(report.tensors, "tensor"))),
        ("size", size(report.bytes)),
        ("took", rate(report.bytes.saturating_mul(report.contributions), report.seconds)),
    ];
    if report.dropped > 0 {
        text.insert(1, ("left out", format!("{} that were not finite", count(report.dropped, "value"))));
    }
    if let Some(trimmed) = report.trimmed {
        let of = report.contributions;
        text.insert(1, ("trimmed", format!("{trimmed} of {of} values on each side of a coordinate")));
    }
    if let Some(Absent { missing, unfit }) = &folded.absent {
        text.extend(missing.iter().map(|worker| ("missing", format!("@{worker}"))));
        text.extend(unfit.iter().map(|Unfit { worker, why }| ("unfit", format!("@{worker}: {}", plain(why)))));
    }
    let gradients = count(report.contributions, "gradient");
    format!("{} of {gradients} as {path}\n{}", report.rule, fields("  ", &text))
}
