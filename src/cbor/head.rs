//! Heads of CBOR items: the first byte and the number behind it, coded by `ciborium-ll`.
//!
//! Invariant: [`Head::of`] gives the shortest form of a head, and whoever reads one compares its length with that.

use std::fmt;

use ciborium_ll::{Decoder, Encoder, Error, Header};

/// The major types of CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Major {
    Unsigned,
    Negative,
    Bytes,
    Text,
    Array,
    Map,
    Tag,
    Simple,
}

impl Major {
    pub(super) const fn of(initial: u8) -> Major {
        match initial >> 5 {
            0 => Major::Unsigned,
            1 => Major::Negative,
            2 => Major::Bytes,
            3 => Major::Text,
            4 => Major::Array,
            5 => Major::Map,
            6 => Major::Tag,
            _ => Major::Simple,
        }
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Major::Unsigned => "an unsigned integer",
            Major::Negative => "a negative integer",
            Major::Bytes => "a byte string",
            Major::Text => "a text",
            Major::Array => "an array",
            Major::Map => "a map",
            Major::Tag => "a tag",
            Major::Simple => "a float or simple value",
        })
    }
}

/// A head in its shortest form.
pub(super) struct Head {
    bytes: [u8; Head::MOST_BYTES],
    len: usize,
}

impl Head {
    /// The first byte and eight bytes of number.
    const MOST_BYTES: usize = 9;

    pub(super) fn of(header: Header) -> Head {
        let mut bytes = [0; Head::MOST_BYTES];
        let mut room = bytes.as_mut_slice();
        let pushed = Encoder::from(&mut room).push(header);
        debug_assert!(pushed.is_ok(), "there is room for every head");
        let len = Head::MOST_BYTES - room.len();
        Head { bytes, len }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Why there is no head.
pub(super) enum HeadError {
    /// The bytes end inside of it.
    Incomplete,
    /// CBOR gives its first byte no meaning.
    Reserved,
}

/// The head at the start of `bytes`, in whatever form, and its length.
pub(super) fn pull(bytes: &[u8]) -> Result<(Header, usize), HeadError> {
    let mut decoder = Decoder::from(bytes);
    match decoder.pull() {
        Ok(header) => Ok((header, decoder.offset())),
        Err(Error::Io(_)) => Err(HeadError::Incomplete),
        Err(Error::Syntax(_)) => Err(HeadError::Reserved),
    }
}
