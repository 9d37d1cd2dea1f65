//! What a payload consists of: [`recognise`] finds its format and its segments from the bytes, never from a file's name.
//!
//! Invariant: splitting never fails on content. A header that is malformed, truncated, over a limit or lying about offsets makes the
//! payload [`Format::Opaque`], and no length that a header states is believed before it was checked. What a [`Layout`] lists is sorted,
//! free of overlaps and inside the payload.

use std::collections::HashSet;
use std::io;

use crate::chunk::{ElementWidth, Span};
use crate::limits;

use super::source::{Refusal, Source};
use super::{gguf, safetensors, zip};

/// A container format that is told from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// Eight bytes of length, a JSON header, tensors.
    Safetensors,
    /// llama.cpp's model file: key-value pairs, a tensor table, aligned tensors.
    Gguf,
    /// A zip archive, such as PyTorch's `.pt` and NumPy's `.npz`. Only members stored without compression become segments.
    Zip,
    /// Anything else.
    #[default]
    Opaque,
}

impl Format {
    /// The word that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
            Format::Zip => "zip",
            Format::Opaque => "opaque",
        }
    }
}

/// A named stretch of a payload: a tensor or a zip member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The tensor's name, the member's path, or for an array of an `.npz` the path without `.npy`.
    pub name: String,
    /// The format's own word for the type of an element, such as `BF16` or `Q8_0`; empty where the format does not tell.
    /// NumPy's types bear the safetensors word where there is one.
    pub dtype: String,
    /// Dimensions as they lie in memory: the slowest-varying first, so GGUF's are reversed. Empty for a scalar, or where unknown.
    pub shape: Vec<u64>,
    /// Where its bytes are.
    pub span: Span,
    /// Whether the bytes are the elements of a tensor, and not a document or a program next to it.
    pub tensor: bool,
}

impl Segment {
    /// The width of its elements, as far as the dtype tells.
    pub fn width(&self) -> ElementWidth {
        element_width(&self.dtype)
    }
}

/// The format of a payload and its segments, by offset. Gaps between them (headers, padding, compressed members) are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// The format.
    pub format: Format,
    /// The segments: sorted by offset, without overlap, inside the payload, with names that differ.
    pub segments: Vec<Segment>,
}

/// Finds the layout of a payload of `len` bytes. `read(offset, buffer)` fills the buffer, which lies inside the payload.
///
/// Memory is bounded by [`limits`] whatever the bytes are.
///
/// # Errors
/// Only those of `read`. Bytes that make no sense give [`Format::Opaque`].
pub fn recognise(len: u64, read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Layout> {
    let mut source = Source::new(len, read);
    match parse(&mut source) {
        Ok(layout) => Ok(layout),
        Err(Refusal::Malformed) => Ok(Layout::default()),
        Err(Refusal::Io(error)) => Err(error),
    }
}

fn parse(source: &mut Source<'_>) -> Result<Layout, Refusal> {
    let magic: [u8; 4] = source.array(0)?;
    let (format, segments) = match &magic {
        b"GGUF" => (Format::Gguf, gguf::segments(source)?),
        b"PK\x03\x04" => (Format::Zip, zip::segments(source)?),
        _ => (Format::Safetensors, safetensors::segments(source)?),
    };
    Ok(Layout { format, segments: checked(segments, source.len())? })
}

/// Sorts segments and refuses them unless they are within the limits, inside the payload, apart from each other, and of distinct names.
fn checked(mut segments: Vec<Segment>, len: u64) -> Result<Vec<Segment>, Refusal> {
    if segments.len() > limits::SEGMENTS {
        return Err(Refusal::Malformed);
    }
    // By length too, so that an empty segment may share the offset of the one that follows it.
    segments.sort_by_key(|segment| segment.span);
    let mut end = 0;
    for Segment { name, dtype, shape, span, .. } in &segments {
        let fits = name.len() <= limits::SEGMENT_NAME_BYTES
            && dtype.len() <= limits::DTYPE_BYTES
            && shape.len() <= limits::SHAPE_DIMENSIONS;
        let span_end = span.offset.checked_add(span.len).ok_or(Refusal::Malformed)?;
        if !fits || span.offset < end || span_end > len {
            return Err(Refusal::Malformed);
        }
        end = span_end;
    }
    let mut names = HashSet::with_capacity(segments.len());
    if segments.iter().all(|segment| names.insert(segment.name.as_str())) {
        Ok(segments)
    } else {
        Err(Refusal::Malformed)
    }
}

/// The number of elements of a shape, unless it overflows.
pub(super) fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |product, &dimension| product.checked_mul(dimension))
}

/// The width of an element of a safetensors, GGUF or NumPy dtype, for the codec's planes.
///
/// A complex number counts as its two parts, which are numbers of one kind. Block-quantised and sub-byte types are not arrays of
/// elements of whole bytes, so they are [`ElementWidth::Unknown`] and the codec probes each chunk.
pub fn element_width(dtype: &str) -> ElementWidth {
    match dtype {
        "F64" | "I64" | "U64" => ElementWidth::Eight,
        "F32" | "I32" | "U32" | "C64" => ElementWidth::Four,
        "F16" | "BF16" | "I16" | "U16" => ElementWidth::Two,
        "I8" | "U8" | "BOOL" => ElementWidth::One,
        _ if dtype.starts_with("F8_") => ElementWidth::One,
        _ => match super::npy::item(dtype) {
            Some(('c', bytes)) => ElementWidth::from_bytes(bytes / 2),
            Some(('S', _)) => ElementWidth::One,
            Some(('U', _)) => ElementWidth::Four,
            Some((_, bytes)) => ElementWidth::from_bytes(bytes),
            None => ElementWidth::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(name: &str, offset: u64, len: u64) -> Segment {
        let (dtype, shape) = (String::new(), Vec::new());
        Segment { name: name.to_owned(), dtype, shape, span: Span::new(offset, len), tensor: true }
    }

    #[test]
    fn widths_follow_every_formats_words() {
        use ElementWidth::*;
        for (dtype, width) in [
            ("F64", Eight),
            ("BF16", Two),
            ("F8_E4M3", One),
            ("BOOL", One),
            ("C64", Four),
            ("F4", Unknown),
            ("Q8_0", Unknown),
            ("", Unknown),
            (">f4", Four),
            (">c16", Eight),
            ("|V2", Two),
            ("|V3", Unknown),
            ("<U7", Four),
            ("|S5", One),
            ("<f", Unknown),
            ("<f99999999999999999999", Unknown),
        ] {
            assert_eq!(element_width(dtype), width, "{dtype}");
        }
    }

    #[test]
    fn segments_that_overlap_leave_or_repeat_are_refused() {
        let ok = |segments: Vec<Segment>| checked(segments, 100).is_ok();
        assert!(ok(vec![segment("b", 50, 50), segment("a", 0, 50)]));
        assert!(ok(vec![segment("full", 10, 10), segment("empty", 10, 0), segment("end", 100, 0)]));
        assert!(!ok(vec![segment("a", 0, 51), segment("b", 50, 50)]));
        assert!(!ok(vec![segment("a", 0, 10), segment("inside", 5, 0)]));
        assert!(!ok(vec![segment("a", 0, 101)]));
        assert!(!ok(vec![segment("a", u64::MAX, 2)]));
        assert!(!ok(vec![segment("a", 0, 10), segment("a", 10, 10)]));
        assert!(!ok(vec![segment(&"n".repeat(limits::SEGMENT_NAME_BYTES + 1), 0, 1)]));
    }
}
