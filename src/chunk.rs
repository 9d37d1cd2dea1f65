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

/// As its name.
impl serde::Serialize for Codec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// An encoded chunk on its way between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel<P = Vec<u8>> {
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// Where it belongs: the first four bytes of its hash, or of the chunk that its family began with.
    pub home: [u8; 4],
    /// Plain bytes.
    pub plain_len: u32,
    /// How `payload` is encoded.
    pub codec: Codec,
    /// The chunk that `payload` is a difference to, for the codecs that have one.
    pub base: Option<Hash>,
    /// The encoded bytes.
    pub payload: P,
}

impl Parcel<&[u8]> {
    /// With a payload of its own.
    pub fn into_owned(self) -> Parcel {
        let Parcel { hash, home, plain_len, codec, base, payload } = self;
        Parcel { hash, home, plain_len, codec, base, payload: payload.to_vec() }
    }
}

/// Where chunks can be read from.
pub trait ChunkSource: Send + Sync {
    /// For each of `hashes`, whether the chunk can be read here, its bases included.
    fn holds(&self, hashes: &[Hash]) -> Result<Vec<bool>>;

    /// The chunk, as the difference to one of `bases` if it is kept so, else encoded to stand alone. `None` if it is not here, or is
    /// damaged here. Its home is the first bytes of its hash.
    fn parcel(&self, hash: &Hash, bases: &[Hash]) -> Result<Option<Parcel>>;

    /// As [`parcel`](ChunkSource::parcel), for threads that should not block: shows the chunk to `take`, once; false where it is not in
    /// memory in the form that it travels in. To know where it is may take a read of the index now and then.
    fn take_at_hand(&self, hash: &Hash, bases: &[Hash], take: &mut dyn FnMut(&Parcel<&[u8]>)) -> bool;

    /// The chunk that `hash` is kept as a difference to, if it is.
    fn base(&self, hash: &Hash) -> Result<Option<Hash>>;
}

/// Under which lease chunks are kept for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The version that needs them, by its manifest.
    pub manifest: Hash,
    /// The public key of the peer that renews the lease.
    pub owner: [u8; 32],
    /// When the lease ends, in milliseconds since 1970.
    pub expires_unix_ms: u64,
}

/// What became of a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is right, and stored.
    Stored,
    /// The chunk was here.
    Known,
    /// The chunk that it is a difference to is not here.
    NeedsBase,
    /// It does not come to the bytes of its hash, and why.
    Wrong(String),
    /// It does not belong here.
    Elsewhere,
}

/// Chunks that are being taken in under one lease. Until it is dropped, what it has taken is kept from garbage collection.
pub trait Intake: Send + Sync {
    /// Verifies a parcel and stores it; durable with the [`commit`](Intake::commit).
    fn take(&self, parcel: &Parcel) -> Result<Taken>;

    /// Takes a chunk that is here already under the lease too; false if it is not here.
    fn hold(&self, hash: &Hash, home: [u8; 4]) -> Result<bool>;

    /// Makes all that was taken durable, and then grants the lease on it.
    fn commit(&self) -> Result<()>;
}
