//! The tensors of a GGUF file, versions 2 and 3, little-endian: key-value pairs, a tensor table, then tensors at an alignment.
//!
//! Invariant: the header is walked through a small buffer and never held. Whatever its counts say, the walk ends at the payload's end or at
//! [`limits::GGUF_HEADER_BYTES`], since every step of it consumes bytes.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A type that is not in [`ggml_type`] makes the file opaque: a size
//! deduced from the next tensor's offset would be a guess.

use crate::chunk::Span;
use crate::limits;

use super::layout::{Segment, elements};
use super::source::{Refusal, Source};

/// Bytes that are read ahead.
const WINDOW_BYTES: u64 = 64 << 10;
const DEFAULT_ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &[u8; 17] = b"general.alignment";

const VALUE_U32: u32 = 4;
const VALUE_STRING: u32 = 8;
const VALUE_ARRAY: u32 = 9;

pub(super) fn segments(source: &mut Source<'_>) -> Result<Vec<Segment>, Refusal> {
    let mut walker = Walker::new(source);
    walker.skip(4)?;
    if !matches!(walker.u32()?, 2 | 3) {
        return Err(Refusal::Malformed);
    }
    let (tensors, pairs) = (walker.u64()?, walker.u64()?);
    if tensors > limits::SEGMENTS as u64 {
        return Err(Refusal::Malformed);
    }
    let mut alignment = None;
    for _ in 0..pairs {
        let key_len = walker.u64()?;
        let is_alignment = key_len == ALIGNMENT_KEY.len() as u64 && walker.take()? == *ALIGNMENT_KEY;
        if key_len != ALIGNMENT_KEY.len() as u64 {
            walker.skip(key_len)?;
        }
        match (is_alignment, walker.u32()?) {
            (true, VALUE_U32) if alignment.is_none() => alignment = Some(walker.u32()?),
            (true, _) => return Err(Refusal::Malformed),
            (false, kind) => walker.skip_value(kind, 0)?,
        }
    }
    let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(Refusal::Malformed);
    }
    let mut segments = Vec::new();
    for _ in 0..tensors {
        segments.push(tensor(&mut walker, u64::from(alignment))?);
    }
    let data = walker.at.checked_next_multiple_of(u64::from(alignment)).ok_or(Refusal::Malformed)?;
    for Segment { span, .. } in &mut segments {
        span.offset = span.offset.checked_add(data).ok_or(Refusal::Malformed)?;
    }
    Ok(segments)
}

/// One entry of the table. Its offset counts from the start of the tensors' bytes, which is not known yet.
fn tensor(walker: &mut Walker<'_, '_>, alignment: u64) -> Result<Segment, Refusal> {
    let name = walker.name()?;
    let dimensions = walker.u32()?;
    if dimensions as usize > limits::SHAPE_DIMENSIONS {
        return Err(Refusal::Malformed);
    }
    let mut shape = (0..dimensions).map(|_| walker.u64()).collect::<Result<Vec<_>, _>>()?;
    let (dtype, block_elements, block_bytes) = ggml_type(walker.u32()?).ok_or(Refusal::Malformed)?;
    let offset = walker.u64()?;
    let row = shape.first().copied().unwrap_or(1);
    let len = elements(&shape).and_then(|count| (count / block_elements).checked_mul(block_bytes));
    let len = len.filter(|_| row.is_multiple_of(block_elements) && offset.is_multiple_of(alignment));
    shape.reverse();
    let span = Span::new(offset, len.ok_or(Refusal::Malformed)?);
    Ok(Segment { name, dtype: dtype.to_owned(), shape, span, tensor: true })
}

/// ggml's types by number: name, elements and bytes of a block. Numbers that ggml has retired are missing, and so is `Q8_1`, an
/// intermediate type that is not stored and whose size ggml and its Python package do not agree on.
fn ggml_type(number: u32) -> Option<(&'static str, u64, u64)> {
    Some(match number {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        10 => ("Q2_K", 256, 84),
        11 => ("Q3_K", 256, 110),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        15 => ("Q8_K", 256, 292),
        16 => ("IQ2_XXS", 256, 66),
        17 => ("IQ2_XS", 256, 74),
        18 => ("IQ3_XXS", 256, 98),
        19 => ("IQ1_S", 256, 50),
        20 => ("IQ4_NL", 32, 18),
        21 => ("IQ3_S", 256, 110),
        22 => ("IQ2_S", 256, 82),
        23 => ("IQ4_XS", 256, 136),
        24 => ("I8", 1, 1),
        25 => ("I16", 1, 2),
        26 => ("I32", 1, 4),
        27 => ("I64", 1, 8),
        28 => ("F64", 1, 8),
        29 => ("IQ1_M", 256, 56),
        30 => ("BF16", 1, 2),
        34 => ("TQ1_0", 256, 54),
        35 => ("TQ2_0", 256, 66),
        39 => ("MXFP4", 32, 17),
        40 => ("NVFP4", 64, 36),
        _ => return None,
    })
}

/// Bytes of a value of fixed size, by its type's number.
fn scalar_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        VALUE_U32 | 5 | 6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// Walks the header forward through a window of [`WINDOW_BYTES`].
struct Walker<'s, 'a> {
    source: &'s mut Source<'a>,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'s, 'a> Walker<'s, 'a> {
    fn new(source: &'s mut Source<'a>) -> Walker<'s, 'a> {
        let end = source.len().min(limits::GGUF_HEADER_BYTES as u64);
        Walker { source, at: 0, end, window: Vec::new(), window_at: 0 }
    }

    fn skip(&mut self, len: u64) -> Result<(), Refusal> {
        match self.at.checked_add(len) {
            Some(at) if at <= self.end => {
                self.at = at;
                Ok(())
            }
            _ => Err(Refusal::Malformed),
        }
    }

    /// The next `N` bytes, of which there are few.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let start = self.at;
        self.skip(N as u64)?;
        let held = |walker: &Walker<'_, '_>| {
            let from = usize::try_from(start.checked_sub(walker.window_at)?).ok()?;
            walker.window.get(from..)?.first_chunk().copied()
        };
        if let Some(bytes) = held(self) {
            return Ok(bytes);
        }
        let len = WINDOW_BYTES.min(self.end - start);
        self.window = self.source.bytes(start, len, WINDOW_BYTES as usize)?;
        self.window_at = start;
        held(self).ok_or(Refusal::Malformed)
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        self.take().map(u64::from_le_bytes)
    }

    fn name(&mut self) -> Result<String, Refusal> {
        let len = self.u64()?;
        if len > limits::SEGMENT_NAME_BYTES as u64 {
            return Err(Refusal::Malformed);
        }
        let bytes = (0..len).map(|_| self.take::<1>().map(|[byte]| byte)).collect::<Result<Vec<_>, _>>()?;
        String::from_utf8(bytes).map_err(|_| Refusal::Malformed)
    }

    fn skip_value(&mut self, kind: u32, depth: usize) -> Result<(), Refusal> {
        match kind {
            VALUE_STRING => {
                let len = self.u64()?;
                self.skip(len)
            }
            VALUE_ARRAY if depth < limits::GGUF_ARRAY_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if let Some(bytes) = scalar_bytes(kind) {
                    return self.skip(count.checked_mul(bytes).ok_or(Refusal::Malformed)?);
                }
                (0..count).try_for_each(|_| self.skip_value(kind, depth + 1))
            }
            _ => self.skip(scalar_bytes(kind).ok_or(Refusal::Malformed)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_crosses_windows_and_ends_with_the_payload() {
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        };
        let mut source = Source::new(bytes.len() as u64, &mut read);
        let mut walker = Walker::new(&mut source);
        for n in 0..1000 {
            assert!(matches!(walker.u32(), Ok(found) if found == n));
        }
        walker.skip(4 * 99_000 - 2).unwrap();
        assert!(matches!(walker.take(), Ok([1, 0, 0xa0, 0x86])), "the second half of 99 999");
    }

    #[test]
    fn no_step_of_the_walk_leaves_the_payload() {
        let mut read = |_: u64, buffer: &mut [u8]| {
            buffer.fill(0);
            Ok(())
        };
        let mut source = Source::new(10, &mut read);
        let mut walker = Walker::new(&mut source);
        assert!(walker.skip(u64::MAX).is_err() && walker.skip(11).is_err());
        assert!(walker.u64().is_ok());
        assert!(walker.u32().is_err());
    }
}
