//! `--keep`: how many rounds of a run stay.

use std::num::NonZeroU64;

use caskad::Node;
use caskad::gradient::end_rounds_before;
use clap::Args;

use crate::failure::Result;

#[derive(Debug, Args)]
pub(super) struct Keep {
    /// End what is here of all rounds of the run but the last N: this worker's contributions, and those that it has collected. Pinned ones
    /// stay [default: each stays until its time is up]
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroU64>,
}

impl Keep {
    /// Ends the rounds of `run` that are not among the last ones, of which `round` is the newest.
    pub(super) fn end_others(&self, node: &Node, run: &str, round: u64) -> Result<()> {
        if let Some(keep) = self.keep {
            end_rounds_before(node, run, round.saturating_sub(keep.get() - 1))?;
        }
        Ok(())
    }
}
