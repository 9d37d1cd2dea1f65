//! [`aggregate`]: headers compared → header written → per tensor and block: read from each contribution → folded → written.
//!
//! Invariant: nothing is written before all headers agree, and every byte is written once, in order. What was written before an error
//! is of no use; [`aggregate_file`] leaves none of it behind.

use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::monitor::Monitor;

use super::contribution::Contribution;
use super::element::{Bf16, Element, F16, F32, F64};
use super::fold::{Flaw, Fold};
use super::plan::{Plan, Tensor, refuse};
use super::rule::{NonFinite, Rule};
use super::window::Window;

/// How contributions are folded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AggregateOptions {
    /// What to do about values that are infinite or no numbers.
    pub non_finite: NonFinite,
    /// Memory for blocks of contributions, shared by all of them. None gets less than [`LEAST_BLOCK_BYTES`], nor more than
    /// [`BLOCK_BYTES`].
    ///
    /// [`LEAST_BLOCK_BYTES`]: AggregateOptions::LEAST_BLOCK_BYTES
    /// [`BLOCK_BYTES`]: AggregateOptions::BLOCK_BYTES
    pub block_bytes: usize,
}

impl AggregateOptions {
    /// Longest block of a contribution: the length of a tensor's chunks, so that none of a version's is decoded twice.
    pub const BLOCK_BYTES: usize = 256 << 10;

    /// Shortest block of a contribution, however many there are.
    pub const LEAST_BLOCK_BYTES: usize = 4 << 10;
}

impl Default for AggregateOptions {
    fn default() -> AggregateOptions {
        AggregateOptions { non_finite: NonFinite::Refuse, block_bytes: 16 << 20 }
    }
}

/// What an aggregation made.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct AggregateReport {
    /// The rule, in words.
    pub rule: String,
    /// Contributions that were folded.
    pub contributions: u64,
    /// Tensors in each of them.
    pub tensors: u64,
    /// Elements in those tensors together.
    pub elements: u64,
    /// How many of the least, and as many of the greatest, values of a coordinate a trimmed mean left out; fewer where some were not finite.
    pub trimmed: Option<u64>,
    /// Values that were left out because they were not finite.
    pub dropped: u64,
    /// Bytes of the result.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Folds `contributions` by `rule` into one safetensors file, which is written to `out` from its start to its end.
///
/// The tensors come in the order of the first contribution, without gaps, behind a header whose metadata names the rule and the number of
/// contributions. The monitor is warned of a trimmed mean of so few that it leaves nobody out. Memory is bounded by [`AggregateOptions::block_bytes`] and [`limits`](crate::limits).
///
/// # Errors
/// [`Error::Input`] names the contribution that is no safetensors file, has other tensors, dtypes or shapes than the first, a value
/// that is not finite (unless it may be dropped), or another value in a tensor that is no floating-point number. [`Error::Syntax`] where
/// the rule does not fit. Errors of `out` and of the contributions are passed on.
pub fn aggregate(
    contributions: &[&dyn Contribution],
    rule: &Rule,
    options: &AggregateOptions,
    out: &mut dyn Write,
    monitor: &Monitor,
) -> Result<AggregateReport> {
    aggregate_to(contributions, rule, options, out, Path::new("the output"), monitor)
}

/// As [`aggregate`], into a file at `path`, which appears (or is replaced) when it is whole. It may be one of the contributions.
pub fn aggregate_file(
    contributions: &[&dyn Contribution],
    rule: &Rule,
    options: &AggregateOptions,
    path: impl AsRef<Path>,
    monitor: &Monitor,
) -> Result<AggregateReport> {
    let path = path.as_ref();
    let failed = |error| Error::io("write", path, error);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    let report = aggregate_to(contributions, rule, options, &mut out, path, monitor)?;
    drop(out);
    temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(report)
}

fn aggregate_to(
    contributions: &[&dyn Contribution],
    rule: &Rule,
    options: &AggregateOptions,
    out: &mut dyn Write,
    out_name: &Path,
    monitor: &Monitor,
) -> Result<AggregateReport> {
    let started = Instant::now();
    rule.check(contributions.len())?;
    let trimmed = match rule {
        Rule::TrimmedMean { .. } => Some(rule.trimmed(contributions.len()) as u64),
        _ => None,
    };
    if trimmed == Some(0) && *rule != (Rule::TrimmedMean { fraction: 0.0 }) {
        // Whoever asks for it relies on what a bad worker cannot do then.
        let count = contributions.len();
        monitor.warn(&format!(
            "the {rule} of {count} contributions leaves nobody out, since that share of {count} is less than one: it is their mean"
        ));
    }
    let plan = Plan::new(contributions)?;
    let header = plan.header(rule)?;
    let block = block_bytes(options.block_bytes / contributions.len().max(1));
    let tensor_bytes: u64 = plan.tensors.iter().map(|tensor| tensor.len).sum();
    monitor.begin("aggregate", tensor_bytes.saturating_mul(contributions.len() as u64));
    let mut aggregation = Aggregation {
        fold: Fold::new(rule, options.non_finite, contributions.len()),
        windows: contributions.iter().map(|contribution| Window::new(*contribution, block)).collect(),
        block,
        folded: Vec::new(),
        out,
        out_name,
        monitor,
    };
    aggregation.write(&header)?;
    let mut dropped = 0;
    for (number, tensor) in plan.tensors.iter().enumerate() {
        let offsets: Vec<u64> = plan.offsets.iter().filter_map(|offsets| offsets.get(number).copied()).collect();
        dropped += aggregation.tensor(tensor, &offsets)?;
    }
    aggregation.flush()?;
    monitor.finish();
    let elements = |tensor: &Tensor| tensor.shape.iter().fold(1, |product: u64, len| product.saturating_mul(*len));
    Ok(AggregateReport {
        rule: rule.to_string(),
        contributions: contributions.len() as u64,
        tensors: plan.tensors.len() as u64,
        elements: plan.tensors.iter().map(elements).fold(0, u64::saturating_add),
        trimmed,
        dropped,
        bytes: header.len() as u64 + tensor_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The length of a contribution's block: a power of two, so that it is whole elements and divides a chunk.
fn block_bytes(share: usize) -> usize {
    let share = share.clamp(AggregateOptions::LEAST_BLOCK_BYTES, AggregateOptions::BLOCK_BYTES);
    if share.is_power_of_two() { share } else { share.next_power_of_two() / 2 }
}

/// One aggregation under way.
struct Aggregation<'a> {
    fold: Fold<'a>,
    windows: Vec<Window<'a>>,
    block: usize,
    folded: Vec<u8>,
    out: &'a mut dyn Write,
    out_name: &'a Path,
    monitor: &'a Monitor,
}

impl Aggregation<'_> {
    /// Folds a tensor that lies at these offsets, and answers how many of its values were left out.
    fn tensor(&mut self, tensor: &Tensor, offsets: &[u64]) -> Result<u64> {
        let (mut at, mut dropped) = (0, 0);
        let ahead = tensor.len < self.block as u64 / 2;
        while at < tensor.len {
            self.monitor.check()?;
            let len = usize::try_from(tensor.len - at).unwrap_or(usize::MAX).min(self.block);
            for (window, offset) in self.windows.iter_mut().zip(offsets) {
                window.load(offset.saturating_add(at), len, ahead)?;
            }
            dropped += match tensor.dtype.as_str() {
                "F64" => self.fold::<F64>(tensor, at, len)?,
                "F32" => self.fold::<F32>(tensor, at, len)?,
                "F16" => self.fold::<F16>(tensor, at, len)?,
                "BF16" => self.fold::<Bf16>(tensor, at, len)?,
                _ => self.copy(tensor, at)?,
            };
            at += len as u64;
            self.monitor.advance((len as u64).saturating_mul(self.windows.len() as u64));
        }
        Ok(dropped)
    }

    /// Folds what is loaded: `len` bytes of a tensor, from `at` on.
    fn fold<E: Element>(&mut self, tensor: &Tensor, at: u64, len: usize) -> Result<u64> {
        let mut folded = std::mem::take(&mut self.folded);
        folded.resize(len, 0);
        let blocks: Vec<&[u8]> = self.windows.iter().map(Window::block).collect();
        let dropped = self.fold.block::<E>(&blocks, &mut folded);
        let dropped = dropped.map_err(|flaw| self.blame(flaw, tensor, at / size_of::<E::Bytes>() as u64))?;
        self.write(&folded)?;
        self.folded = folded;
        Ok(dropped)
    }

    /// Copies what is loaded, which has no mean, and so must be the same in all contributions.
    fn copy(&mut self, tensor: &Tensor, at: u64) -> Result<u64> {
        let mut copied = std::mem::take(&mut self.folded);
        copied.clear();
        let mut windows = self.windows.iter();
        if let Some(first) = windows.next() {
            copied.extend_from_slice(first.block());
            if let Some(other) = windows.find(|window| window.block() != copied) {
                let byte = other.block().iter().zip(&copied).take_while(|(a, b)| a == b).count();
                let why = format!(
                    "tensor {:?} of {} differs from that of {} at byte {}; only F64, F32, F16 and BF16 are averaged, \
                     any other tensor must be the same in all contributions",
                    tensor.name,
                    tensor.dtype,
                    first.source().name(),
                    at + byte as u64
                );
                return Err(refuse(other.source(), why));
            }
        }
        self.write(&copied)?;
        self.folded = copied;
        Ok(0)
    }

    /// The error for a flaw in a block that starts at the element `start` of a tensor.
    fn blame(&self, flaw: Flaw, tensor: &Tensor, start: u64) -> Error {
        let (contribution, why) = match flaw {
            Flaw::NonFinite { contribution, index, value } => {
                let index = start + index as u64;
                (contribution, format!("tensor {:?} has the value {value} at index {index}", tensor.name))
            }
            Flaw::NothingLeft { index } => {
                let index = start + index as u64;
                let why =
                    format!("tensor {:?} has no finite value left at index {index}, here or elsewhere", tensor.name);
                (0, why)
            }
        };
        match self.windows.get(contribution) {
            Some(window) => refuse(window.source(), why),
            None => Error::Input { path: self.out_name.to_owned(), why },
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Error::io("write", self.out_name, error))
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|error| Error::io("write", self.out_name, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_divide_a_chunk_and_hold_whole_elements() {
        for (share, block) in [(0, 4 << 10), (5000, 4 << 10), (100_000, 64 << 10), (usize::MAX, 256 << 10)] {
            assert_eq!(block_bytes(share), block);
        }
    }
}
