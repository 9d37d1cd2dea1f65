//! [`Plan`]: which tensors are folded, where each contribution has them, and the header of what comes out.
//!
//! Invariant: all contributions have the same tensors, of the same dtypes and shapes, and each lies inside its contribution.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};
use crate::limits;
use crate::split::{Format, Segment, recognise};

use super::contribution::Contribution;
use super::rule::Rule;

pub(super) struct Plan {
    /// In the order of their bytes in the first contribution.
    pub(super) tensors: Vec<Tensor>,
    /// For each contribution, the offset of each tensor.
    pub(super) offsets: Vec<Vec<u64>>,
}

#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    /// Bytes.
    pub(super) len: u64,
}

impl Plan {
    /// Reads and compares the headers. There is at least one contribution.
    pub(super) fn new(contributions: &[&dyn Contribution]) -> Result<Plan> {
        let (mut tensors, mut offsets) = (Vec::new(), Vec::with_capacity(contributions.len()));
        for (number, contribution) in contributions.iter().enumerate() {
            let segments = read_header(*contribution)?;
            if number == 0 {
                offsets.push(segments.iter().map(|segment| segment.span.offset).collect());
                tensors = segments.into_iter().map(Tensor::from).collect();
            } else {
                let first = contributions.first().map_or("", |first| first.name());
                offsets.push(
                    find(&tensors, &segments).map_err(|difference| {
                        refuse(*contribution, format!("it does not match {first}: {difference}"))
                    })?,
                );
            }
        }
        Ok(Plan { tensors, offsets })
    }

    /// The start of a safetensors file with the tensors in order, without gaps.
    pub(super) fn header(&self, rule: &Rule) -> Result<Vec<u8>> {
        let header = Header { tensors: &self.tensors, rule, contributions: self.offsets.len() };
        let mut json = serde_json::to_vec(&header).map_err(|error| Error::io("write", "the header", error.into()))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        if json.len() > limits::SAFETENSORS_HEADER_BYTES {
            let (found, limit) = (json.len() as u64, limits::SAFETENSORS_HEADER_BYTES as u64);
            return Err(Error::Limit { what: "length of the safetensors header in bytes", found, limit });
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut json);
        Ok(bytes)
    }
}

impl From<Segment> for Tensor {
    fn from(segment: Segment) -> Tensor {
        Tensor { name: segment.name, dtype: segment.dtype, shape: segment.shape, len: segment.span.len }
    }
}

/// Fails with [`Error::Input`] where a contribution is no safetensors file.
pub fn check(contribution: &dyn Contribution) -> Result<()> {
    read_header(contribution).map(drop)
}

/// Those of `contributions` that cannot be folded with the others, by their places, and why: they are no safetensors files, or have other
/// tensors, dtypes or shapes than the most that agree (of as many, than the first).
pub fn unfit(contributions: &[&dyn Contribution]) -> Vec<(usize, Error)> {
    let mut unfit: Vec<(usize, Error)> = Vec::new();
    // Where those are that agree, and what they agree on.
    let mut alike: Vec<(Vec<usize>, Vec<Segment>)> = Vec::new();
    for (place, contribution) in contributions.iter().enumerate() {
        match read_header(*contribution) {
            Err(error) => unfit.push((place, error)),
            Ok(segments) => match alike.iter_mut().find(|(_, others)| difference(others, &segments).is_none()) {
                Some((places, _)) => places.push(place),
                None => alike.push((vec![place], segments)),
            },
        }
    }
    // Of as many, the last from the end is the first.
    let most = (0..alike.len()).rev().max_by_key(|group| alike.get(*group).map(|(places, _)| places.len()));
    let Some((_, agreed)) = most.map(|most| alike.swap_remove(most)) else { return unfit };
    for (places, segments) in alike {
        let why = format!("it does not match the others: {}", difference(&agreed, &segments).unwrap_or_default());
        let named = places.into_iter().filter_map(|place| Some((place, *contributions.get(place)?)));
        unfit.extend(named.map(|(place, contribution)| (place, refuse(contribution, why.clone()))));
    }
    unfit.sort_by_key(|(place, _)| *place);
    unfit
}

/// What is different between the tensors of two contributions.
fn difference(some: &[Segment], others: &[Segment]) -> Option<String> {
    let tensors: Vec<Tensor> = some.iter().cloned().map(Tensor::from).collect();
    find(&tensors, others).err()
}

/// An error that says `why` a contribution cannot be used.
pub(super) fn refuse(contribution: &dyn Contribution, why: String) -> Error {
    Error::Input { path: contribution.name().into(), why }
}

fn read_header(contribution: &dyn Contribution) -> Result<Vec<Segment>> {
    // The error of a read travels beside the layout, which knows those of the system only.
    let mut failed = None;
    let layout = recognise(contribution.len(), &mut |offset, buffer| {
        contribution.read_at(offset, buffer).map_err(|error| {
            failed = Some(error);
            io::ErrorKind::Other.into()
        })
    });
    match (layout, failed) {
        (_, Some(error)) => Err(error),
        (Ok(layout), None) if layout.format == Format::Safetensors => Ok(layout.segments),
        (Ok(layout), None) => Err(refuse(
            contribution,
            match layout.format {
                Format::Opaque => "it is not a safetensors file, or it is cut short or its header is wrong".to_owned(),
                format => format!("it is a {} file; contributions are safetensors files", format.name()),
            },
        )),
        (Err(error), None) => Err(Error::io("read", contribution.name(), error)),
    }
}

/// Where `segments` have `tensors`, or what is different.
fn find(tensors: &[Tensor], segments: &[Segment]) -> Result<Vec<u64>, String> {
    let by_name: HashMap<&str, &Segment> = segments.iter().map(|segment| (segment.name.as_str(), segment)).collect();
    let offsets = tensors.iter().map(|tensor| {
        let Tensor { name, dtype, shape, len } = tensor;
        let Some(segment) = by_name.get(name.as_str()) else { return Err(format!("it has no tensor {name:?}")) };
        let mut difference = String::new();
        if segment.dtype != *dtype {
            let _ = write!(difference, "is of {} and not of {dtype}", segment.dtype);
        } else if segment.shape != *shape {
            let _ = write!(difference, "has shape {:?} and not {shape:?}", segment.shape);
        } else if segment.span.len != *len {
            let _ = write!(difference, "has {} bytes and not {len}", segment.span.len);
        } else {
            return Ok(segment.span.offset);
        }
        Err(format!("tensor {name:?} {difference}"))
    });
    let offsets = offsets.collect::<Result<Vec<u64>, String>>()?;
    if segments.len() > tensors.len() {
        let known: std::collections::HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let extra = segments.iter().find(|segment| !known.contains(segment.name.as_str()));
        return Err(format!("it has a tensor {:?} more", extra.map_or("", |segment| &segment.name)));
    }
    Ok(offsets)
}

/// The JSON of a safetensors header.
struct Header<'p> {
    tensors: &'p [Tensor],
    rule: &'p Rule,
    contributions: usize,
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let made_of = serde_json::json!({
            "caskad.rule": self.rule.to_string(),
            "caskad.contributions": self.contributions.to_string(),
        });
        map.serialize_entry("__metadata__", &made_of)?;
        let mut end = 0;
        for Tensor { name, dtype, shape, len } in self.tensors {
            let start = end;
            end += len;
            let about = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
            map.serialize_entry(name, &about)?;
        }
        map.end()
    }
}
