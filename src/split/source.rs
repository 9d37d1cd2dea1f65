//! Bounded reading of a payload whose headers may lie.
//!
//! Invariant: nothing is allocated for a length before it was compared with the payload's and with a limit, and no read leaves the payload.

use std::io;

/// Why a payload is not of the format that its first bytes suggest.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The bytes break the format's rules or a limit: the payload is opaque.
    Malformed,
    /// The payload could not be read.
    Io(io::Error),
}

/// A payload that is read at offsets.
pub(super) struct Source<'a> {
    len: u64,
    read: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
}

impl<'a> Source<'a> {
    pub(super) fn new(len: u64, read: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>) -> Source<'a> {
        Source { len, read }
    }

    /// Bytes in the payload.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The `N` bytes at `offset`.
    pub(super) fn array<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], Refusal> {
        let mut bytes = [0; N];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// `len` bytes at `offset`, unless they are more than `limit`.
    pub(super) fn bytes(&mut self, offset: u64, len: u64, limit: usize) -> Result<Vec<u8>, Refusal> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        match usize::try_from(len) {
            Ok(size) if inside && size <= limit => {
                let mut bytes = vec![0; size];
                self.fill(offset, &mut bytes)?;
                Ok(bytes)
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn fill(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        match offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= self.len => (self.read)(offset, buffer).map_err(Refusal::Io),
            _ => Err(Refusal::Malformed),
        }
    }
}

/// Little-endian fields from the front of a byte slice. `None` when it is too short.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
