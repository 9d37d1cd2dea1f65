//! [`Writer`]: deterministic CBOR out. It always picks the shortest head.

use ciborium_ll::{Header, simple};

use super::head::Head;

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
    fn head(&mut self, header: Header) {
        self.0.put(Head::of(header).as_bytes());
    }

    pub(crate) fn uint(&mut self, value: u64) {
        self.head(Header::Positive(value));
    }

    pub(crate) fn int(&mut self, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.head(Header::Positive(value)),
            // CBOR stores -1 - n, which is the complement in two's complement.
            Err(_) => self.head(Header::Negative(!value as u64)),
        }
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.head(Header::Bytes(Some(value.len())));
        self.0.put(value);
    }

    /// One byte string of `len` bytes that lie in several places.
    pub(crate) fn bytes_in_parts<'a>(&mut self, len: usize, parts: impl Iterator<Item = &'a [u8]>) {
        self.head(Header::Bytes(Some(len)));
        parts.for_each(|part| self.0.put(part));
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.head(Header::Text(Some(value.len())));
        self.0.put(value.as_bytes());
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.head(Header::Simple(if value { simple::TRUE } else { simple::FALSE }));
    }

    /// The shortest of the three float widths that keeps every bit of `value`, the sign of zero included.
    pub(crate) fn float(&mut self, value: f64) {
        self.head(Header::Float(value));
    }

    /// Starts an array of `items`, which follow.
    pub(crate) fn array(&mut self, items: usize) {
        self.head(Header::Array(Some(items)));
    }

    /// Starts a map of `entries`: key, value, key, value…
    pub(crate) fn map(&mut self, entries: usize) {
        self.head(Header::Map(Some(entries)));
    }
}
