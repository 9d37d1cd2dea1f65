//! The plain data that every layer speaks of: spans of a payload, encodings, and encoded chunks.

use std::fmt;

use crate::error::Result;
use crate::hash::Hash;

/// A stretch of a payload: `offset` and `len` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First byte, counted from the start of the payload.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Span {
    /// A span from its offset and length.
    pub const fn new(offset: u64, len: u64) -> Span {
        Span { offset, len }
    }

    /// One past the last byte; saturates, so a hostile length cannot wrap.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// The part that both spans cover, if any.
    pub fn intersection(&self, other: Span) -> Option<Span> {
        let (start, end) = (self.offset.max(other.offset), self.end().min(other.end()));
        (start < end).then(|| Span::new(start, end - start))
    }
}

/// A chunk as a manifest lists it: its hash and the number of its plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// Plain bytes.
    pub len: u32,
}

/// Bytes of one element of a segment. Cut points and planes follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ElementWidth {
    /// Not known from the format: the codec probes each chunk.
    #[default]
    Unknown,
    /// One byte: text, quantised blocks, f8.
    One,
    /// Two bytes: f16, bf16.
    Two,
    /// Four bytes: f32, i32.
    Four,
    /// Eight bytes: f64, i64.
    Eight,
}

impl ElementWidth {
    /// The width in bytes, if known.
    pub const fn bytes(self) -> Option<usize> {
        match self {
            ElementWidth::Unknown => None,
            ElementWidth::One => Some(1),
            ElementWidth::Two => Some(2),
            ElementWidth::Four => Some(4),
            ElementWidth::Eight => Some(8),
        }
    }

    /// The width that is `bytes` wide; [`ElementWidth::Unknown`] where there is none.
    pub const fn from_bytes(bytes: usize) -> ElementWidth {
        match bytes {
            1 => ElementWidth::One,
            2 => ElementWidth::Two,
            4 => ElementWidth::Four,
            8 => ElementWidth::Eight,
            _ => ElementWidth::Unknown,
        }
    }
}

/// How a chunk's bytes are kept. The number is the codec byte of a pack record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Codec {
    /// The plain bytes.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// Byte planes of the elements, each coded on its own.
    Planes = 2,
    /// Difference to a base chunk, in planes.
    Delta = 3,
    /// Difference to a base chunk, coded in the context of the base.
    DeltaCtx = 4,
    /// One zstd frame with a base chunk as its dictionary.
    Patch = 5,
}

impl Codec {
    /// Every codec that this version reads and writes.
    pub const ALL: [Codec; 6] = [Codec::Raw, Codec::Zstd, Codec::Planes, Codec::Delta, Codec::DeltaCtx, Codec::Patch];

    /// The codec of a codec byte.
    pub const fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            2 => Some(Codec::Planes),
            3 => Some(Codec::Delta),
            4 => Some(Codec::DeltaCtx),
            5 => Some(Codec::Patch),
            _ => None,
        }
    }

    /// True where decoding takes the bytes of a base chunk.
    pub const fn has_base(self) -> bool {
        matches!(self, Codec::Delta | Codec::DeltaCtx | Codec::Patch)
    }

    /// The word that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Raw => "raw",
            Codec::Zstd => "zstd",
            Codec::Planes => "planes",
            Codec::Delta => "delta",
            Codec::DeltaCtx => "delta-ctx",
            Codec::Patch => "patch",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An encoded chunk on its way between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel { pub hash: Hash, pub home: [u8; 4], pub plain_len: u32, pub codec: Codec, pub base: Option<Hash>, pub payload: Vec<u8> }
pub trait ChunkSource: Send + Sync {
    fn holds(&self, hashes: &[Hash]) -> Result<Vec<bool>>;
    fn parcel(&self, hash: &Hash, bases: &[Hash]) -> Result<Option<Parcel>>;
    fn base(&self, hash: &Hash) -> Result<Option<Hash>>;
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms { pub manifest: Hash, pub owner: [u8; 32], pub expires_unix_ms: u64 }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken { Stored, Known, NeedsBase, Wrong(String) }
pub trait ChunkSink: Send + Sync { fn open(&self, terms: LeaseTerms) -> Result<Box<dyn Intake>>; }
pub trait Intake: Send + Sync {
    fn take(&self, parcel: &Parcel) -> Result<Taken>;
    fn hold(&self, hash: &Hash, home: [u8; 4]) -> Result<bool>;
    fn commit(&self) -> Result<()>;
}
