//! `caskad gradient aggregate`: folds the gradients of several workers into one.

use std::path::PathBuf;

use caskad::VersionRef;
use caskad::gradient::{Contribution, FileContribution, VersionContribution};
use clap::Args;

use super::folding::Folding;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Fold the gradients of several workers, safetensors files with the same tensors, into one
///
/// F64, F32, F16 and BF16 tensors are folded in double precision and rounded once; any other tensor must be the same in all files, and
/// is copied. Names, types and shapes are compared first, and a value that is infinite or no number refuses the aggregation.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad gradient aggregate a.safetensors b.safetensors -o mean.safetensors
  caskad gradient aggregate worker-*.safetensors -o round-7.safetensors --trimmed-mean 0.2
  caskad gradient aggregate a.safetensors b.safetensors --weights 128,96 -o -
  caskad gradient aggregate --from grads/w0@7 --from grads/w1@7 --median -o round-7.safetensors")]
pub(super) struct Aggregate {
    /// Gradients in files
    #[arg(value_name = "FILE", required_unless_present = "from")]
    files: Vec<PathBuf>,
    /// A gradient in the store (repeatable); these come after the files
    #[arg(long, value_name = "KEY[@V]")]
    from: Vec<VersionRef>,
    #[command(flatten)]
    folding: Folding,
}

impl Aggregate {
    pub(super) fn run(&self, context: &Context) -> Result<Exit> {
        let contributions = self.contributions(context)?;
        let contributions: Vec<&dyn Contribution> = contributions.iter().map(AsRef::as_ref).collect();
        self.folding.fold(&contributions, None, context)?;
        Ok(Exit::Done)
    }

    fn contributions(&self, context: &Context) -> Result<Vec<Box<dyn Contribution>>> {
        let mut contributions: Vec<Box<dyn Contribution>> = Vec::new();
        for path in &self.files {
            contributions.push(Box::new(FileContribution::open(context.path(path))?));
        }
        if !self.from.is_empty() {
            let store = context.read()?;
            for version in &self.from {
                contributions.push(Box::new(VersionContribution::new(store.version(version)?, None)?));
            }
        }
        Ok(contributions)
    }
}
