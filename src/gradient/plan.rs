//! [`Plan`]: which tensors are folded, where each contribution has them, and the header of what comes out.
//!
//! Invariant: all contributions have the same tensors, of the same dtypes and shapes, and each lies inside its contribution.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};
use crate::hash::Hash;
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
///
/// A header is let go of before the next one is read, and that of whoever does not fit is read once more, to say why: neither memory nor
/// time grows with how many workers make up large ones.
pub fn unfit(contributions: &[&dyn Contribution]) -> Vec<(usize, Error)> {
    let mut unfit: Vec<(usize, Error)> = Vec::new();
    // Where those are that agree, by what they agree on.
    let mut alike: HashMap<Hash, Vec<usize>> = HashMap::new();
    for (place, contribution) in contributions.iter().enumerate() {
        match read_header(*contribution) {
            Err(error) => unfit.push((place, error)),
            Ok(segments) => alike.entry(fingerprint(segments)).or_default().push(place),
        }
    }
    let most = alike.iter().max_by_key(|(_, places)| (places.len(), Reverse(places.first())));
    let Some(most) = most.map(|(most, _)| *most) else { return unfit };
    let named = |place: usize| Some((place, *contributions.get(place)?));
    let mut agreed = alike.remove(&most).unwrap_or_default().into_iter().filter_map(named);
    let agreed = agreed.find_map(|(_, contribution)| read_header(contribution).ok()).unwrap_or_default();
    let agreed: Vec<Tensor> = agreed.into_iter().map(Tensor::from).collect();
    let others = alike.into_values().flatten().filter_map(named);
    unfit.extend(others.map(|(place, contribution)| (place, mismatch(&agreed, contribution))));
    unfit.sort_by_key(|(place, _)| *place);
    unfit
}

/// The same for contributions that can be folded together, and for no others: a hash of their tensors in the order of their names.
fn fingerprint(mut segments: Vec<Segment>) -> Hash {
    segments.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut bytes = Vec::new();
    for Segment { name, dtype, shape, span, .. } in &segments {
        for text in [name, dtype] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        for number in [shape.len() as u64, span.len].iter().chain(shape) {
            bytes.extend(number.to_le_bytes());
        }
    }
    Hash::of(&bytes)
}

/// Why a contribution cannot be folded with those that have the `agreed` tensors.
fn mismatch(agreed: &[Tensor], contribution: &dyn Contribution) -> Error {
    match read_header(contribution).map(|segments| find(agreed, &segments).err()) {
        Ok(difference) => {
            let difference = difference.unwrap_or_else(|| "it changes while it is read".to_owned());
            refuse(contribution, format!("it does not match the others: {difference}"))
        }
        Err(error) => error,
    }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::contribution::BytesContribution;
    use super::*;

    /// Counts the bytes that are read of it.
    struct Counted(BytesContribution, AtomicU64);

    impl Contribution for Counted {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn len(&self) -> u64 {
            self.0.len()
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.0.read_at(offset, buffer)
        }
    }

    /// A contribution with tensors of one `F32`, in this order.
    fn of(tensors: &[String]) -> Counted {
        let entry = |(at, name): (usize, &String)| {
            format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{},{}]}}", 4 * at, 4 * at + 4)
        };
        let header = format!("{{{}}}", tensors.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
        let data = vec![0; 4 * tensors.len()];
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        Counted(BytesContribution::new(tensors.concat(), bytes), AtomicU64::new(0))
    }

    #[test]
    fn the_most_that_agree_are_found_among_many_of_which_no_two_do() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
        let strange = (0..100).map(|n| of(&[format!("strange {n}"), "w".to_owned()]));
        let mut all: Vec<Counted> = strange.collect();
        all.extend([&["w"][..], &["v", "w"], &["w"], &["w", "v"]].map(|tensors| of(&names(tensors))));
        let contributions: Vec<&dyn Contribution> = all.iter().map(|one| one as &dyn Contribution).collect();
        let found = unfit(&contributions);
        // Two pairs agree, whatever the order of their tensors: the one that began first has it.
        let places = |found: &[(usize, Error)]| found.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        assert_eq!(places(&found), (0..100).chain([101, 103]).collect::<Vec<_>>());
        assert!(found[7].1.to_string().contains("it has a tensor \"strange 7\" more"), "{}", found[7].1);
        let read = all.iter().map(|one| one.1.load(Ordering::Relaxed));
        assert!(read.zip(&all).all(|(read, one)| read <= 2 * (one.len() + 8)), "a header is read twice at most");
        assert_eq!(places(&unfit(&contributions[..3])), [1, 2]);
        assert!(unfit(&[]).is_empty());
    }
}
