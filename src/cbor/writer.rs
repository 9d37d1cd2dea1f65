//! [`Writer`]: deterministic CBOR out. It always picks the shortest head.

use super::head::{F16, F32, F64, FALSE, Major, TRUE, f16_bits};

/// Where a [`Writer`] puts its bytes.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A sink that only counts.
#[derive(Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}

/// Writes CBOR items one after the other. Map keys are in order because the caller writes them so.
#[derive(Default)]
pub(crate) struct Writer<S>(pub(crate) S);

impl<S: Sink> Writer<S> {
    fn head(&mut self, major: Major, argument: u64) {
        let initial = (major as u8) << 5;
        match argument {
            0..=23 => self.0.put(&[initial | argument as u8]),
            24..=0xff => self.0.put(&[initial | 24, argument as u8]),
            0x100..=0xffff => self.sized(initial | 25, &(argument as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.sized(initial | 26, &(argument as u32).to_be_bytes()),
            _ => self.sized(initial | 27, &argument.to_be_bytes()),
        }
    }

    fn sized(&mut self, initial: u8, argument: &[u8]) {
        self.0.put(&[initial]);
        self.0.put(argument);
    }

    pub(crate) fn uint(&mut self, value: u64) {
        self.head(Major::Unsigned, value);
    }

    pub(crate) fn int(&mut self, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.head(Major::Unsigned, value),
            // CBOR stores -1 - n, which is the complement in two's complement.
            Err(_) => self.head(Major::Negative, !value as u64),
        }
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.head(Major::Bytes, value.len() as u64);
        self.0.put(value);
    }

    /// One byte string of `len` bytes that lie in several places.
    pub(crate) fn bytes_in_parts<'a>(&mut self, len: usize, parts: impl Iterator<Item = &'a [u8]>) {
        self.head(Major::Bytes, len as u64);
        parts.for_each(|part| self.0.put(part));
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.head(Major::Text, value.len() as u64);
        self.0.put(value.as_bytes());
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.0.put(&[if value { TRUE } else { FALSE }]);
    }

    /// The shortest of the three float widths that keeps every bit of `value`, the sign of zero included.
    pub(crate) fn float(&mut self, value: f64) {
        let single = value as f32;
        match f16_bits(single) {
            _ if f64::from(single).to_bits() != value.to_bits() => self.sized(F64, &value.to_bits().to_be_bytes()),
            Some(half) => self.sized(F16, &half.to_be_bytes()),
            None => self.sized(F32, &single.to_bits().to_be_bytes()),
        }
    }

    /// Starts an array of `items`, which follow.
    pub(crate) fn array(&mut self, items: usize) {
        self.head(Major::Array, items as u64);
    }

    /// Starts a map of `entries`: key, value, key, value…
    pub(crate) fn map(&mut self, entries: usize) {
        self.head(Major::Map, entries as u64);
    }
}
