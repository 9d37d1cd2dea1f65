//! The bytes of a pack: a file header, then records, each self-describing, so that the index can always be rebuilt from them.
//!
//! `docs/format.md` has the byte maps and `tests/golden/store` the golden bytes. All numbers are little-endian.
//! Nothing here does I/O.

use crate::chunk::Codec;
use crate::hash::Hash;
use crate::limits;

/// Bytes of a pack's own header.
pub const PACK_HEADER_BYTES: usize = 16;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 56;
/// Version of the pack and record layout.
pub const PACK_VERSION: u32 = 1;

const PACK_MAGIC: [u8; 8] = *b"caskpack";
const RECORD_MAGIC: [u8; 4] = *b"cREC";
const FLAG_BASE: u8 = 1;

/// Number of a pack. Packs are filled in the order of their numbers, which are never used twice.
pub type PackId = u32;

/// The object name of a pack.
pub fn pack_name(id: PackId) -> String {
    format!("p-{id:08}.pack")
}

/// The pack that an object name stands for.
pub fn parse_pack_name(name: &str) -> Option<PackId> {
    let id = name.strip_prefix("p-")?.strip_suffix(".pack")?.parse().ok()?;
    (pack_name(id) == name).then_some(id)
}

/// The header of pack `id`.
pub fn pack_header(id: PackId) -> [u8; PACK_HEADER_BYTES] {
    let mut header = [0; PACK_HEADER_BYTES];
    header[..8].copy_from_slice(&PACK_MAGIC);
    header[8..12].copy_from_slice(&PACK_VERSION.to_le_bytes());
    header[12..].copy_from_slice(&id.to_le_bytes());
    header
}

/// Why the start of a pack is not the header it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackHeaderError {
    /// Not a pack header at all.
    #[error("its header is damaged")]
    Invalid,
    /// A pack of a version that this program does not know.
    #[error("it has pack version {0}, this caskad reads {PACK_VERSION}")]
    Newer(u32),
}

/// Checks that `bytes` is the header of pack `id`.
pub fn check_pack_header(bytes: &[u8], id: PackId) -> Result<(), PackHeaderError> {
    let header: [u8; PACK_HEADER_BYTES] = bytes.try_into().map_err(|_| PackHeaderError::Invalid)?;
    match u32_at(&header, 8) {
        _ if header == pack_header(id) => Ok(()),
        version if header[..8] == PACK_MAGIC && version > PACK_VERSION && u32_at(&header, 12) == id => {
            Err(PackHeaderError::Newer(version))
        }
        _ => Err(PackHeaderError::Invalid),
    }
}

/// What a record holds. The number is the record's kind byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// An encoded chunk.
    Chunk = 1,
    /// A manifest: CBOR, zstd-coded where that is smaller.
    Manifest = 2,
    /// A ref: CBOR, see [`crate::refs`].
    Ref = 3,
    /// The removal of a ref: CBOR.
    Removal = 4,
}

impl RecordKind {
    /// The kind of a kind byte.
    pub fn from_byte(byte: u8) -> Option<RecordKind> {
        [RecordKind::Chunk, RecordKind::Manifest, RecordKind::Ref, RecordKind::Removal]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }

    /// Most payload bytes, and most plain bytes, of a record of this kind.
    pub fn limit(self) -> usize {
        match self {
            RecordKind::Chunk => limits::ENCODED_CHUNK_BYTES,
            RecordKind::Manifest => limits::MANIFEST_BYTES,
            RecordKind::Ref | RecordKind::Removal => limits::REF_BYTES,
        }
    }
}

/// The header of a record. The payload follows it: the base's hash where there is a base, then the encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record holds.
    pub kind: RecordKind,
    /// How the payload is encoded.
    pub codec: Codec,
    /// Bases that must be resolved before this chunk can be decoded.
    pub depth: u8,
    /// True where the payload starts with the hash of a base chunk.
    pub has_base: bool,
    /// Payload bytes that follow the header, base included.
    pub stored_len: u32,
    /// Plain bytes.
    pub plain_len: u32,
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

/// Why bytes are not a record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There are fewer bytes than a header, or than the header announces.
    #[error("the record is cut short")]
    Incomplete,
    /// The header's magic or checksum does not match.
    #[error("the record's header is damaged")]
    Header,
    /// The header is sound, and speaks of a kind, codec or flag that this version does not know, or of impossible lengths.
    #[error("the record is of a kind that this version does not know")]
    Unknown,
    /// The payload's checksum does not match.
    #[error("the record's payload is damaged")]
    Payload,
}

impl RecordHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = self.codec as u8;
        bytes[6] = self.depth;
        bytes[7] = if self.has_base { FLAG_BASE } else { 0 };
        bytes[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.plain_len.to_le_bytes());
        bytes[16..48].copy_from_slice(self.hash.as_bytes());
        bytes[48..52].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..52]);
        bytes[52..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the start of `bytes` and checks its checksum, kind, codec and lengths.
    pub fn decode(bytes: &[u8]) -> Result<RecordHeader, RecordError> {
        let header = bytes.first_chunk::<RECORD_HEADER_BYTES>().ok_or(RecordError::Incomplete)?;
        if header[..4] != RECORD_MAGIC || u32_at(header, 52) != crc32c::crc32c(&header[..52]) {
            return Err(RecordError::Header);
        }
        let kind = RecordKind::from_byte(header[4]).ok_or(RecordError::Unknown)?;
        let codec = Codec::from_byte(header[5]).ok_or(RecordError::Unknown)?;
        let decoded = RecordHeader {
            kind,
            codec,
            depth: header[6],
            has_base: header[7] & FLAG_BASE != 0,
            stored_len: u32_at(header, 8),
            plain_len: u32_at(header, 12),
            hash: Hash::from_slice(&header[16..48]).ok_or(RecordError::Unknown)?,
            payload_crc: u32_at(header, 48),
        };
        let base_len = if decoded.has_base { Hash::LEN } else { 0 };
        let fits = header[7] & !FLAG_BASE == 0
            && decoded.plain_len as usize <= kind.limit()
            && decoded.stored_len as usize <= kind.limit() + base_len
            && decoded.stored_len as usize >= base_len
            && decoded.depth <= limits::DELTA_DEPTH;
        if fits { Ok(decoded) } else { Err(RecordError::Unknown) }
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.stored_len)
    }
}

/// A record as its parts, before it has a place.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// What the record holds.
    pub kind: RecordKind,
    /// How `payload` is encoded.
    pub codec: Codec,
    /// Bases to resolve.
    pub depth: u8,
    /// The chunk that the payload is a difference to.
    pub base: Option<Hash>,
    /// Plain bytes.
    pub plain_len: u32,
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// The encoded bytes.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// The header for this record.
    pub fn header(&self) -> RecordHeader {
        let base = self.base.as_ref().map_or(&[][..], |base| base.as_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(base), self.payload);
        RecordHeader {
            kind: self.kind,
            codec: self.codec,
            depth: self.depth,
            has_base: self.base.is_some(),
            stored_len: (base.len() + self.payload.len()) as u32,
            plain_len: self.plain_len,
            hash: self.hash,
            payload_crc: crc,
        }
    }

    /// Appends the record's bytes to `out`.
    pub fn write(&self, out: &mut Vec<u8>) -> RecordHeader {
        let header = self.header();
        out.extend_from_slice(&header.encode());
        if let Some(base) = &self.base {
            out.extend_from_slice(base.as_bytes());
        }
        out.extend_from_slice(self.payload);
        header
    }
}

/// A record parsed from the start of `bytes`, both checksums verified; the bytes it takes are `header.record_len()`.
pub fn parse_record(bytes: &[u8]) -> Result<(RecordHeader, &[u8]), RecordError> {
    let header = RecordHeader::decode(bytes)?;
    let end = RECORD_HEADER_BYTES + header.stored_len as usize;
    let payload = bytes.get(RECORD_HEADER_BYTES..end).ok_or(RecordError::Incomplete)?;
    match crc32c::crc32c(payload) == header.payload_crc {
        true => Ok((header, payload)),
        false => Err(RecordError::Payload),
    }
}

/// The base's hash and the encoded bytes of a record's payload.
pub fn split_base(header: &RecordHeader, payload: &[u8]) -> Option<(Option<Hash>, usize)> {
    match header.has_base {
        false => Some((None, 0)),
        true => payload.get(..Hash::LEN).and_then(Hash::from_slice).map(|base| (Some(base), Hash::LEN)),
    }
}

/// The next place in `bytes` at or after `from` where a record header may start.
pub fn find_record(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let at = rest.windows(RECORD_MAGIC.len()).position(|window| window == RECORD_MAGIC)?;
    Some(from + at)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}
