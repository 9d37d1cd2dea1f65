//! Homes: where in the keyspace of a network a chunk belongs.
//!
//! A chunk is at home at the first bytes of its hash, unless it came from another: a difference lives where its base does, and so a
//! family of versions shares its holders, who can always decode what they are sent, and send what a reader with an older version needs.

use std::collections::BTreeMap;

use crate::chunk::ChunkRef;
use crate::error::Result;
use crate::hash::Hash;
use crate::limits;
use crate::node::base::Bases;
use crate::node::store::Store;
use crate::store::RecordKind;

/// The home of a chunk that no manifest gives another.
pub(super) fn home_of(hash: &Hash) -> [u8; 4] {
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// The homes of those of `chunks` that are not at home at their own hash, by index: for each the home that an earlier version gives it or
/// one of the bases below it, else the hash of the chunk at the bottom.
pub(super) fn homes(store: &Store, chunks: &[ChunkRef], bases: &Bases<'_>) -> Result<BTreeMap<u32, [u8; 4]>> {
    let mut homes = BTreeMap::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut at = chunk.hash;
        let mut home = bases.home(&at);
        for _ in 0..limits::DELTA_DEPTH {
            if home.is_some() {
                break;
            }
            let Some(base) = store.inner.chunks.locate(&at, RecordKind::Chunk)?.and_then(|entry| entry.base) else {
                break;
            };
            at = base;
            home = bases.home(&at);
        }
        let home = home.unwrap_or_else(|| home_of(&at));
        if home != home_of(&chunk.hash) {
            homes.insert(index as u32, home);
        }
    }
    Ok(homes)
}
