//! The header of a NumPy array file, versions 1 to 3, as it opens each member of an `.npz`.
//!
//! Invariant: an array is reported only when its type and shape account for every byte after the header.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. The header is a Python dictionary in text; only what
//! NumPy writes is read. Arrays of records and of Python objects are refused, and their members stay plain documents.

use crate::chunk::Span;
use crate::limits;

use super::layout::elements;
use super::source::{Fields, Refusal, Source};

/// An array inside a payload.
pub(super) struct Array {
    pub(super) dtype: String,
    /// As it lies in memory: reversed for column-major arrays.
    pub(super) shape: Vec<u64>,
    /// Its elements, without the header.
    pub(super) span: Span,
}

/// The array that the stored member at `member` is; `None` where its header makes no sense.
pub(super) fn array(source: &mut Source<'_>, member: Span) -> Result<Option<Array>, Refusal> {
    let Some(longest) = member.len.checked_sub(12) else { return Ok(None) };
    let prefix: [u8; 12] = source.array(member.offset)?;
    let [0x93, b'N', b'U', b'M', b'P', b'Y', version, _, a, b, c, d] = prefix else { return Ok(None) };
    let (start, header_len) = match version {
        1 => (10, u64::from(u16::from_le_bytes([a, b]))),
        2 | 3 => (12, u64::from(u32::from_le_bytes([a, b, c, d]))),
        _ => return Ok(None),
    };
    if header_len > longest.min(limits::NPY_HEADER_BYTES as u64) {
        return Ok(None);
    }
    let text = source.bytes(member.offset + start, header_len, limits::NPY_HEADER_BYTES)?;
    let data = start + header_len;
    let span = Span::new(member.offset + data, member.len - data);
    Ok(header(&text).and_then(|header| header.array(span)))
}

struct Header<'a> {
    descr: &'a str,
    column_major: bool,
    shape: Vec<u64>,
}

impl Header<'_> {
    fn array(self, span: Span) -> Option<Array> {
        let (_, bytes) = item(self.descr)?;
        if elements(&self.shape)?.checked_mul(bytes as u64)? != span.len {
            return None;
        }
        let mut shape = self.shape;
        if self.column_major {
            shape.reverse();
        }
        Some(Array { dtype: word(self.descr), shape, span })
    }
}

/// Kind and bytes of an element of a type such as `<f4`.
pub(super) fn item(descr: &str) -> Option<(char, usize)> {
    let rest = descr.strip_prefix(['<', '>', '|', '='])?;
    let kind = rest.chars().next().filter(|kind| "fiucbmMSUV".contains(*kind))?;
    // At most six digits: no element is larger, and nothing below can overflow.
    let digits = rest.get(1..).filter(|digits| (1..=6).contains(&digits.len()))?;
    let size: usize = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    Some((kind, if kind == 'U' { 4 * size } else { size }))
}

/// The safetensors word for a NumPy type, or the type as it is: safetensors has no big-endian numbers, for one.
fn word(descr: &str) -> String {
    let word = match descr {
        "<f8" => "F64",
        "<f4" => "F32",
        "<f2" => "F16",
        "<i8" => "I64",
        "<i4" => "I32",
        "<i2" => "I16",
        "|i1" | "<i1" => "I8",
        "<u8" => "U64",
        "<u4" => "U32",
        "<u2" => "U16",
        "|u1" | "<u1" => "U8",
        "|b1" | "<b1" => "BOOL",
        "<c8" => "C64",
        other => other,
    };
    word.to_owned()
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, its keys in any order.
fn header(text: &[u8]) -> Option<Header<'_>> {
    let mut fields = Fields(text);
    let (mut descr, mut column_major, mut shape) = (None, None, None);
    token(&mut fields, b"{")?;
    while token(&mut fields, b"}").is_none() {
        let key = string(&mut fields)?;
        token(&mut fields, b":")?;
        match key {
            "descr" if descr.is_none() => descr = Some(string(&mut fields)?),
            "fortran_order" if column_major.is_none() => {
                column_major = Some(token(&mut fields, b"True").is_some());
                if column_major == Some(false) {
                    token(&mut fields, b"False")?;
                }
            }
            "shape" if shape.is_none() => shape = Some(tuple(&mut fields)?),
            _ => return None,
        }
        if token(&mut fields, b",").is_none() {
            token(&mut fields, b"}")?;
            break;
        }
    }
    skip_space(&mut fields);
    let complete = fields.0.is_empty();
    complete.then_some(Header { descr: descr?, column_major: column_major?, shape: shape? })
}

fn skip_space(fields: &mut Fields<'_>) {
    fields.0 = fields.0.trim_ascii_start();
}

fn token(fields: &mut Fields<'_>, word: &[u8]) -> Option<()> {
    skip_space(fields);
    fields.0 = fields.0.strip_prefix(word)?;
    Some(())
}

fn string<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    skip_space(fields);
    let quote = *fields.take(1)?.first().filter(|quote| matches!(quote, b'\'' | b'"'))?;
    let len = fields.0.iter().position(|&byte| byte == quote).filter(|len| *len <= limits::DTYPE_BYTES)?;
    let text = std::str::from_utf8(fields.take(len)?).ok()?;
    fields.take(1)?;
    Some(text)
}

fn tuple(fields: &mut Fields<'_>) -> Option<Vec<u64>> {
    let mut shape = Vec::new();
    token(fields, b"(")?;
    while token(fields, b")").is_none() {
        let len = fields.0.iter().position(|byte| !byte.is_ascii_digit())?;
        let number = std::str::from_utf8(fields.take(len)?).ok()?.parse().ok()?;
        if shape.len() == limits::SHAPE_DIMENSIONS {
            return None;
        }
        shape.push(number);
        if token(fields, b",").is_none() {
            token(fields, b")")?;
            break;
        }
    }
    Some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, bool, Vec<u64>)> {
        header(text.as_bytes()).map(|h| (h.descr.to_owned(), h.column_major, h.shape))
    }

    #[test]
    fn the_dictionaries_that_numpy_writes_are_read() {
        let of = |descr: &str, column_major, shape: &[u64]| Some((descr.to_owned(), column_major, shape.to_vec()));
        assert_eq!(
            parsed("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n"),
            of("<f4", false, &[3, 4])
        );
        assert_eq!(parsed("{'descr': '|u1', 'fortran_order': True, 'shape': (7,), }\n"), of("|u1", true, &[7]));
        assert_eq!(parsed("{'shape': (), 'fortran_order': False, 'descr': \"<f8\"}"), of("<f8", false, &[]));
    }

    #[test]
    fn other_dictionaries_are_refused() {
        for text in [
            "",
            "{}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), ",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (3, 4), }",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } x",
            "{'descr': '<f4",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn an_item_has_a_kind_and_a_size() {
        assert_eq!(item("<f4"), Some(('f', 4)));
        assert_eq!(item("<U7"), Some(('U', 28)));
        for bad in ["", "<", "f4", "<f", "<f-4", "<é4", "|O", "<f9999999", "<x4"] {
            assert_eq!(item(bad), None, "{bad}");
        }
    }
}
