//! Kin: which chunk of an earlier version of a file a changed chunk of it comes from, where bytes have moved.
//!
//! Content-defined cuts fall where the bytes right before them say so. An edit inside a chunk therefore leaves both of its ends, wherever
//! they have moved to: a changed chunk is recognised by its last bytes, or by its first.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::chunk::ChunkRef;
use crate::hash::Hash;
use crate::limits;
use crate::store::ChunkStore;

/// Bytes of an end: as many as a cut point depends on.
const END_BYTES: usize = 64;

/// Longest file whose chunks are read for their ends. Whatever is longer seldom consists of documents.
pub(super) const KIN_BYTES: u64 = 64 << 20;

/// The chunks of an earlier file, by their ends.
pub(super) struct Kin {
    store: ChunkStore,
    chunks: Vec<ChunkRef>,
    /// Read when the first changed chunk asks.
    by_end: OnceLock<HashMap<End, ChunkRef>>,
}

/// One end of a chunk.
#[derive(PartialEq, Eq, Hash)]
enum End {
    First(u64),
    Last(u64),
}

impl Kin {
    /// The chunks of an earlier version of a file.
    pub(super) fn new(store: ChunkStore, chunks: Vec<ChunkRef>) -> Kin {
        Kin { store, chunks, by_end: OnceLock::new() }
    }

    /// The earlier chunk that has an end of `plain`.
    pub(super) fn of(&self, plain: &[u8]) -> Option<ChunkRef> {
        let by_end = self.by_end.get_or_init(|| self.read_ends());
        ends(plain)?.iter().find_map(|end| by_end.get(end)).copied()
    }

    /// What cannot be read is no kin; whoever needs it will say why.
    fn read_ends(&self) -> HashMap<End, ChunkRef> {
        let (mut reader, mut plain) = (self.store.reader(), Vec::new());
        let mut by_end = HashMap::new();
        for chunk in &self.chunks {
            plain.resize((chunk.len as usize).min(limits::CHUNK_BYTES), 0);
            if reader.read(&chunk.hash, &mut plain).is_ok() {
                for end in ends(&plain).into_iter().flatten() {
                    by_end.entry(end).or_insert(*chunk);
                }
            }
        }
        by_end
    }
}

/// Both ends of a chunk, the last one first: that is what its cut point hangs on.
fn ends(plain: &[u8]) -> Option<[End; 2]> {
    let first = Hash::of(plain.first_chunk::<END_BYTES>()?).prefix();
    let last = Hash::of(plain.last_chunk::<END_BYTES>()?).prefix();
    Some([End::Last(last), End::First(first)])
}
