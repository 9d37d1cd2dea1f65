//! The values of the index: where a chunk lies, the state of a ref, and how much of the log is taken in. No I/O.

use std::collections::BTreeMap;

use crate::chunk::Codec;
use crate::hash::Hash;
use crate::store::pack::{PackId, RECORD_HEADER_BYTES, RecordHeader, RecordKind};

/// Version of the rows' values, and of the journal.
pub(super) const INDEX_VERSION: u32 = 1;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The pack.
    pub pack: PackId,
    /// Bytes from its start.
    pub offset: u32,
}

impl Position {
    /// The start of pack `pack`: the end of a log whose last pack is complete, where `pack` is the next one.
    pub(super) fn start_of(pack: PackId) -> Position {
        Position { pack, offset: 0 }
    }
}

/// Where a chunk or manifest lies and how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Start of the record.
    pub position: Position,
    /// Payload bytes after the record header, base included.
    pub stored_len: u32,
    /// Plain bytes.
    pub plain_len: u32,
    /// Chunk or manifest.
    pub kind: RecordKind,
    /// How it is encoded.
    pub codec: Codec,
    /// Bases to resolve.
    pub depth: u8,
    /// The base, for a delta.
    pub base: Option<Hash>,
}

/// Bytes of an index value without a base.
const ENTRY_BYTES: usize = 20;

impl Entry {
    /// The entry of a record at `position`.
    pub fn of(header: &RecordHeader, base: Option<Hash>, position: Position) -> Entry {
        Entry {
            position,
            stored_len: header.stored_len,
            plain_len: header.plain_len,
            kind: header.kind,
            codec: header.codec,
            depth: header.depth,
            base,
        }
    }

    /// Bytes of the record in its pack.
    pub fn record_len(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.stored_len)
    }

    /// The index value: pack, offset, stored length, plain length (u32 each), kind, codec, depth, 0, then the base's hash if any.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY_BYTES + Hash::LEN);
        for number in [self.position.pack, self.position.offset, self.stored_len, self.plain_len] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&[self.kind as u8, self.codec as u8, self.depth, 0]);
        if let Some(base) = self.base {
            bytes.extend_from_slice(base.as_bytes());
        }
        bytes
    }

    /// The entry of an index value.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let (fixed, rest) = bytes.split_first_chunk::<ENTRY_BYTES>()?;
        let number = |at: usize| fixed.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        let base = if rest.is_empty() { None } else { Some(Hash::from_slice(rest)?) };
        Some(Entry {
            position: Position { pack: number(0)?, offset: number(4)? },
            stored_len: number(8)?,
            plain_len: number(12)?,
            kind: RecordKind::from_byte(fixed[16])?,
            codec: Codec::from_byte(fixed[17])?,
            depth: fixed[18],
            base,
        })
    }
}

/// The state of one ref entity: its latest record in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefEntry {
    /// Sequence number of the record.
    pub(super) seq: u64,
    /// Start of the record.
    pub(super) position: Position,
    /// False for a removal.
    pub(super) live: bool,
    /// The record's CBOR.
    pub(super) record: Vec<u8>,
}

const REF_FIXED: usize = 21;

impl RefEntry {
    /// The index value. Its checksum covers `key` too: a row that moved to another key is found out.
    pub(super) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(&self.position.pack.to_le_bytes());
        bytes.extend_from_slice(&self.position.offset.to_le_bytes());
        bytes.push(u8::from(self.live));
        bytes.extend_from_slice(&self.record);
        let crc = crc32c::crc32c_append(crc32c::crc32c(key), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The state in the index value of `key`.
    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Option<RefEntry> {
        let (fixed, record) = bytes.split_first_chunk::<REF_FIXED>()?;
        let [c0, c1, c2, c3, seq @ .., p0, p1, p2, p3, o0, o1, o2, o3, live] = *fixed;
        if crc32c::crc32c_append(crc32c::crc32c(key), &bytes[4..]) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return None;
        }
        let position =
            Position { pack: u32::from_le_bytes([p0, p1, p2, p3]), offset: u32::from_le_bytes([o0, o1, o2, o3]) };
        Some(RefEntry { seq: u64::from_le_bytes(seq), position, live: live == 1, record: record.to_vec() })
    }
}

/// How much of the log an index has taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Covered {
    /// Records before this place are in the index.
    pub(super) end: Position,
    /// Sequence number of the next ref or removal.
    pub(super) next_seq: u64,
}

const COVERED_BYTES: usize = 24;

impl Covered {
    /// The index value, with a checksum of its own: appending goes on where this says.
    pub(super) fn encode(&self) -> [u8; COVERED_BYTES] {
        let mut bytes = [0; COVERED_BYTES];
        bytes[..4].copy_from_slice(&INDEX_VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.end.pack.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.end.offset.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.next_seq.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Covered> {
        let bytes: &[u8; COVERED_BYTES] = bytes.try_into().ok()?;
        let [v0, v1, v2, v3, p0, p1, p2, p3, o0, o1, o2, o3, seq @ .., c0, c1, c2, c3] = *bytes;
        let sound = crc32c::crc32c(&bytes[..20]) == u32::from_le_bytes([c0, c1, c2, c3])
            && u32::from_le_bytes([v0, v1, v2, v3]) == INDEX_VERSION;
        let end = Position { pack: u32::from_le_bytes([p0, p1, p2, p3]), offset: u32::from_le_bytes([o0, o1, o2, o3]) };
        sound.then(|| Covered { end, next_seq: u64::from_le_bytes(seq) })
    }
}

/// The packs that are complete, and how long each is. A pack that is missing or shorter shows at the next open, before a put
/// relies on what it held.
pub(super) type SealedPacks = BTreeMap<PackId, u64>;

/// The index value of the complete packs: a checksum, then number and length of each.
pub(super) fn encode_packs(packs: &SealedPacks) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for (id, len) in packs {
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn decode_packs(bytes: &[u8]) -> Option<SealedPacks> {
    let (crc, rows) = bytes.split_first_chunk::<4>()?;
    let (rows, rest) = rows.as_chunks::<12>();
    if !rest.is_empty() || crc32c::crc32c(&bytes[4..]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let row =
        |[i0, i1, i2, i3, len @ ..]: &[u8; 12]| (u32::from_le_bytes([*i0, *i1, *i2, *i3]), u64::from_le_bytes(*len));
    Some(rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        (0..8 * bytes.len()).map(|bit| {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        })
    }

    #[test]
    fn a_flipped_bit_in_what_recovery_and_refs_trust_is_found_out() {
        let covered = Covered { end: Position { pack: 3, offset: 77 }, next_seq: 9 };
        assert_eq!(Covered::decode(&covered.encode()), Some(covered));
        assert!(flips(&covered.encode()).all(|bytes| Covered::decode(&bytes).is_none()));

        let packs = SealedPacks::from([(1, 16), (2, 1 << 33)]);
        assert_eq!(decode_packs(&encode_packs(&packs)), Some(packs.clone()));
        assert!(flips(&encode_packs(&packs)).all(|bytes| decode_packs(&bytes).is_none()));

        let (key, entry) = (b"vkey", RefEntry { seq: 1, position: covered.end, live: true, record: b"cbor".to_vec() });
        let bytes = entry.encode(key);
        assert_eq!(RefEntry::decode(key, &bytes), Some(entry));
        assert!(flips(&bytes).all(|bytes| RefEntry::decode(key, &bytes).is_none()));
        assert!(flips(key).all(|key| RefEntry::decode(&key, &bytes).is_none()));
    }
}
