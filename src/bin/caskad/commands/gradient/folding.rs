//! [`Folding`]: the arguments that say how gradients are folded and where the result goes, and the folding itself.

use std::path::PathBuf;

use caskad::gradient::{self, AggregateOptions, AggregateReport, Contribution, NonFinite, Rule};
use clap::Args;
use serde::Serialize;

use crate::commands::is_dash;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{count, rate, size};
use crate::table::fields;
use crate::target::{Stream, Target};

#[derive(Debug, Args)]
pub(super) struct Folding {
    /// Where to: a file, a directory to put `aggregate.safetensors` in, or `-` for standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// The mean of each coordinate's values: the default
    #[arg(long, group = "rule")]
    mean: bool,
    /// Their weighted mean: one weight for each gradient, in order
    #[arg(long, group = "rule", value_name = "W,W,…", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Option<Vec<f64>>,
    /// The mean of what is left without this share of the least and of the greatest values: 0 to below 0.5
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

/// What was folded, and whose gradients were not there to be.
#[derive(Debug, Serialize)]
struct Folded {
    #[serde(flatten)]
    report: AggregateReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<String>>,
}

impl Folding {
    /// Folds the contributions. `missing` are those who were asked for theirs in vain, where somebody was asked.
    pub(super) fn fold(
        &self,
        contributions: &[&dyn Contribution],
        missing: Option<Vec<String>>,
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
                context.confirm(&Folded { report, missing }, |folded| describe(folded, &path))
            }
            Target::Stream(stream) => {
                let out = &mut *stream.open(context.console())?;
                let report = gradient::aggregate(contributions, &rule, &options, out, monitor)?;
                let folded = Folded { report, missing };
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

    fn target(&self, context: &Context) -> Result<Target> {
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
    let missing = folded.missing.iter().flatten();
    text.extend(missing.map(|worker| ("missing", format!("@{worker}"))));
    let gradients = count(report.contributions, "gradient");
    format!("{} of {gradients} as {path}\n{}", report.rule, fields("  ", &text))
}
