//! [`aggregate`]: several safetensors files of one shape into one, tensor by tensor, in blocks: what is in memory at once does not grow with
//! the tensors.
//!
//! Sums are in `f64`; each result is rounded once, to the type of its tensor. Tensors of other types than floats, step counters for example,
//! must be the same in all contributions and are taken over.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gradient::values::Float;
use crate::monitor::Monitor;
use crate::node::Version;
use crate::split::{Format, Segment, recognise};

/// Bytes of decoded elements in memory at once, of all contributions together.
const BLOCK_BYTES: usize = 8 << 20;

/// Something to be folded: the bytes of a safetensors file.
pub trait Contribution: Send + Sync {
    /// What messages call it.
    fn name(&self) -> String;
    /// Its bytes.
    fn len(&self) -> u64;
    /// True if it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `buffer` from `offset` on.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A contribution in a file.
#[derive(Debug)]
pub struct FileContribution {
    path: PathBuf,
    file: File,
    len: u64,
}

impl FileContribution {
    /// Opens the file at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<FileContribution> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let len = file.metadata().map_err(|error| Error::io("read", path, error))?.len();
        Ok(FileContribution { path: path.to_owned(), file, len })
    }
}

impl Contribution for FileContribution {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A version that is one file.
impl Contribution for Version {
    fn name(&self) -> String {
        self.to_string()
    }

    fn len(&self) -> u64 {
        self.bytes()
    }

    fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(buffer.len() as u64);
        self.copy_range(None, offset..end, &mut buffer, &Monitor::none()).map_err(io::Error::other)
    }
}

/// How the values of one coordinate become one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Their mean.
    Mean,
    /// Their mean by these weights, one for each contribution: finite, not negative, and not all zero.
    Weighted(Vec<f64>),
    /// The mean of what is left when this fraction of them (rounded down) is dropped at either end; below a half.
    TrimmedMean(f64),
    /// The middle one, or the mean of the middle two.
    Median,
}

impl Rule {
    fn name(&self) -> String {
        match self {
            Rule::Mean => "mean".to_owned(),
            Rule::Weighted(_) => "weighted mean".to_owned(),
            Rule::TrimmedMean(fraction) => format!("trimmed mean {fraction}"),
            Rule::Median => "median".to_owned(),
        }
    }

    fn check(&self, contributions: usize) -> Result<()> {
        let refuse = |why: String| Err(Error::Syntax { what: "rule", input: self.name(), why });
        match self {
            Rule::Weighted(weights) if weights.len() != contributions => {
                refuse(format!("there are {} weights for {contributions} contributions", weights.len()))
            }
            Rule::Weighted(weights) if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) => {
                refuse("a weight is a finite number, and not negative".to_owned())
            }
            Rule::Weighted(weights)
                if !(weights.iter().sum::<f64>() > 0.0 && weights.iter().sum::<f64>().is_finite()) =>
            {
                refuse("the weights must have a sum above zero".to_owned())
            }
            Rule::TrimmedMean(fraction) if !(0.0..0.5).contains(fraction) => {
                refuse("the fraction lies between 0 and 0.5, the latter excluded".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Folds one coordinate; `column` is one value of each contribution, and may be reordered.
    fn fold(&self, column: &mut [f64]) -> f64 {
        let count = column.len();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        match self {
            Rule::Mean => mean(column),
            Rule::Weighted(weights) => {
                let total: f64 = weights.iter().sum();
                column.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / total
            }
            Rule::TrimmedMean(fraction) => {
                let drop = (fraction * count as f64).floor() as usize;
                column.sort_unstable_by(f64::total_cmp);
                mean(column.get(drop..count - drop).unwrap_or_default())
            }
            Rule::Median => {
                column.sort_unstable_by(f64::total_cmp);
                mean(column.get((count - 1) / 2..=count / 2).unwrap_or_default())
            }
        }
    }
}

/// What is done with NaN and infinity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// The aggregation fails, and says where it is.
    #[default]
    Refuse,
    /// It is counted like any value: a mean of it is not finite either, and a trimmed mean or median may drop it.
    Allow,
}

/// What an aggregation came to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct AggregateReport {
    /// How values were folded.
    pub rule: String,
    /// Contributions.
    pub contributions: usize,
    /// Tensors.
    pub tensors: usize,
    /// Elements of one contribution that were folded.
    pub elements: u64,
    /// Bytes of the result.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Folds `contributions` by `rule`, and writes the result to `out` as a safetensors file, in one pass.
///
/// Fails with [`Error::Input`] where contributions do not have the same tensors, dtypes and shapes, or hold NaN or infinity that
/// `non_finite` refuses; the message names contribution, tensor and element.
pub fn aggregate(
    contributions: &[&dyn Contribution],
    rule: &Rule,
    non_finite: NonFinite,
    out: &mut dyn Write,
    monitor: &Monitor,
) -> Result<AggregateReport> {
    let started = Instant::now();
    rule.check(contributions.len())?;
    let Some((first, others)) = contributions.split_first() else {
        return Err(Error::Syntax {
            what: "round",
            input: String::new(),
            why: "there is no contribution in it".to_owned(),
        });
    };
    let tensors = tensors(*first)?;
    let mut places: Vec<Vec<u64>> = vec![tensors.iter().map(|tensor| tensor.span.offset).collect()];
    for other in others {
        places.push(matching(*first, &tensors, *other)?);
    }
    let header = header(&tensors, rule, contributions.len())?;
    let failed = |error| Error::io("write", "the aggregate", error);
    monitor.begin("aggregate", tensors.iter().map(|tensor| tensor.span.len).sum());
    out.write_all(&header).map_err(failed)?;
    let mut folder =
        Folder { contributions, rule, non_finite, bytes: Vec::new(), values: Vec::new(), folded: Vec::new() };
    let (mut elements, mut bytes) = (0, header.len() as u64);
    for (index, tensor) in tensors.iter().enumerate() {
        let offsets: Vec<u64> = places.iter().filter_map(|offsets| offsets.get(index).copied()).collect();
        let mut done = 0;
        while done < tensor.span.len {
            monitor.check()?;
            let block = folder.block(tensor, &offsets, done)?;
            out.write_all(block).map_err(failed)?;
            done += block.len() as u64;
            bytes += block.len() as u64;
            monitor.advance(block.len() as u64);
        }
        elements += Float::of(&tensor.dtype).map_or(0, |float| tensor.span.len / float.bytes() as u64);
    }
    out.flush().map_err(failed)?;
    monitor.finish();
    Ok(AggregateReport {
        rule: rule.name(),
        contributions: contributions.len(),
        tensors: tensors.len(),
        elements,
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Folds blocks of tensors; keeps its buffers.
struct Folder<'a> {
    contributions: &'a [&'a dyn Contribution],
    rule: &'a Rule,
    non_finite: NonFinite,
    bytes: Vec<u8>,
    /// The values of one contribution after another.
    values: Vec<f64>,
    folded: Vec<u8>,
}

impl Folder<'_> {
    /// The result from byte `done` of `tensor` on: as much of it as a block has.
    fn block(&mut self, tensor: &Segment, offsets: &[u64], done: u64) -> Result<&[u8]> {
        let count = self.contributions.len();
        let left = tensor.span.len - done;
        self.folded.clear();
        let Some(float) = Float::of(&tensor.dtype) else {
            self.same(tensor, offsets, done, left.min(BLOCK_BYTES as u64) as usize)?;
            return Ok(&self.folded);
        };
        let elements = ((BLOCK_BYTES / 8 / count).max(1) as u64).min(left / float.bytes() as u64) as usize;
        self.values.resize(elements * count, 0.0);
        self.bytes.resize(elements * float.bytes(), 0);
        for ((contribution, offset), values) in
            self.contributions.iter().zip(offsets).zip(self.values.chunks_mut(elements))
        {
            read(*contribution, offset + done, &mut self.bytes)?;
            float.read(&self.bytes, values);
            if self.non_finite == NonFinite::Refuse
                && let Some(at) = values.iter().position(|value| !value.is_finite())
            {
                let element = done / float.bytes() as u64 + at as u64;
                let why = format!(
                    "element {element} of tensor {:?} is {}; leave the contribution out",
                    tensor.name, values[at]
                );
                return Err(Error::Input { path: contribution.name().into(), why });
            }
        }
        let mut column = vec![0.0; count];
        let mut results = Vec::with_capacity(elements);
        for at in 0..elements {
            for (place, value) in column.iter_mut().zip(self.values.iter().skip(at).step_by(elements)) {
                *place = *value;
            }
            results.push(self.rule.fold(&mut column));
        }
        float.write(&results, &mut self.folded);
        Ok(&self.folded)
    }

    /// Takes over bytes that must be the same in all contributions.
    fn same(&mut self, tensor: &Segment, offsets: &[u64], done: u64, len: usize) -> Result<()> {
        self.bytes.resize(len, 0);
        self.folded.resize(len, 0);
        for (index, (contribution, offset)) in self.contributions.iter().zip(offsets).enumerate() {
            let buffer = if index == 0 { &mut self.folded } else { &mut self.bytes };
            read(*contribution, offset + done, buffer)?;
            if index > 0 && self.bytes != self.folded {
                let why = format!(
                    "tensor {:?} ({}) differs from the one of {}, and has no floats to fold",
                    tensor.name,
                    tensor.dtype,
                    self.contributions.first().map(|first| first.name()).unwrap_or_default()
                );
                return Err(Error::Input { path: contribution.name().into(), why });
            }
        }
        Ok(())
    }
}

fn read(contribution: &dyn Contribution, offset: u64, buffer: &mut [u8]) -> Result<()> {
    contribution.read_at(offset, buffer).map_err(|error| Error::io("read", contribution.name(), error))
}

/// The tensors of a contribution, by offset.
fn tensors(contribution: &dyn Contribution) -> Result<Vec<Segment>> {
    let layout = recognise(contribution.len(), &mut |offset, buffer| contribution.read_at(offset, buffer));
    let layout = layout.map_err(|error| Error::io("read", contribution.name(), error))?;
    match layout.format {
        Format::Safetensors => Ok(layout.segments.into_iter().filter(|segment| segment.tensor).collect()),
        _ => Err(Error::Input {
            path: contribution.name().into(),
            why: "it is not a sound safetensors file; gradients are exchanged as such".to_owned(),
        }),
    }
}

/// Where the tensors of `first` lie in `other`.
fn matching(first: &dyn Contribution, tensors_of_first: &[Segment], other: &dyn Contribution) -> Result<Vec<u64>> {
    let refuse = |why: String| Error::Input { path: other.name().into(), why };
    let theirs = tensors(other)?;
    let by_name: std::collections::HashMap<&str, &Segment> =
        theirs.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    if let Some(extra) = theirs.iter().find(|theirs| !tensors_of_first.iter().any(|ours| ours.name == theirs.name)) {
        return Err(refuse(format!("it has a tensor {:?}, which {} has not", extra.name, first.name())));
    }
    let find = |ours: &Segment| {
        let theirs = by_name.get(ours.name.as_str());
        let theirs =
            theirs.ok_or_else(|| refuse(format!("it lacks tensor {:?}, which {} has", ours.name, first.name())))?;
        if theirs.dtype != ours.dtype || theirs.shape != ours.shape {
            return Err(refuse(format!(
                "its tensor {:?} is {} {:?}, and that of {} is {} {:?}",
                ours.name,
                theirs.dtype,
                theirs.shape,
                first.name(),
                ours.dtype,
                ours.shape
            )));
        }
        Ok(theirs.span.offset)
    };
    tensors_of_first.iter().map(find).collect()
}

/// The header of the result: its tensors one behind the other in the order of the first contribution.
fn header(tensors: &[Segment], rule: &Rule, contributions: usize) -> Result<Vec<u8>> {
    let mut entries = serde_json::Map::new();
    let notes = serde_json::json!({ "rule": rule.name(), "contributions": contributions.to_string() });
    entries.insert("__metadata__".to_owned(), notes);
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.span.len;
        let entry = serde_json::json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end] });
        entries.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}
