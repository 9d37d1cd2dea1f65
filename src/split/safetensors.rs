//! The tensors of a safetensors file: eight bytes of little-endian header length, a JSON object of tensors, then their bytes.
//!
//! Invariant: a tensor is listed only when its offsets agree with its dtype and shape, where the dtype is known. The header is read as a
//! stream of entries, so `__metadata__` costs no memory, and one entry that breaks a rule refuses the file.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. Holes between tensors, which it forbids, do no harm here.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::chunk::Span;
use crate::limits;

use super::layout::{Segment, elements};
use super::source::{Refusal, Source};

/// Length of the field before the header.
const LENGTH_BYTES: u64 = 8;

pub(super) fn segments(source: &mut Source<'_>) -> Result<Vec<Segment>, Refusal> {
    let header_len = u64::from_le_bytes(source.array(0)?);
    // One byte tells nearly every other file from a header before 16 MiB are read for it.
    if source.array(LENGTH_BYTES)? != *b"{" {
        return Err(Refusal::Malformed);
    }
    let header = source.bytes(LENGTH_BYTES, header_len, limits::SAFETENSORS_HEADER_BYTES)?;
    let Header(entries) = serde_json::from_slice(&header).map_err(|_| Refusal::Malformed)?;
    let data = LENGTH_BYTES + header_len;
    entries.into_iter().map(|(name, entry)| entry.segment(name, data).ok_or(Refusal::Malformed)).collect()
}

struct Header(Vec<(String, Entry)>);

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Entry {
    fn segment(self, name: String, data: u64) -> Option<Segment> {
        let Entry { dtype, shape: Shape(shape), data_offsets: (begin, end) } = self;
        let len = end.checked_sub(begin)?;
        let count = elements(&shape)?;
        if let Some(bits) = element_bits(&dtype) {
            let bits = count.checked_mul(bits)?;
            if !bits.is_multiple_of(8) || bits / 8 != len {
                return None;
            }
        }
        Some(Segment { name, dtype, shape, span: Span::new(data.checked_add(begin)?, len), tensor: true })
    }
}

/// Bits of an element of each dtype that the format names.
fn element_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if name.len() > limits::SEGMENT_NAME_BYTES || entries.len() == limits::SEGMENTS {
                        return Err(de::Error::custom("over a limit"));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A shape that stops growing at the limit.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct Dimensions;

        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = sequence.next_element()? {
                    if shape.len() == limits::SHAPE_DIMENSIONS {
                        return Err(de::Error::custom("over a limit"));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Dimensions)
    }
}
