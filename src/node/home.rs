//! Homes: where in the keyspace of a network a chunk belongs.
//!
//! A chunk is at home at the first bytes of its hash, unless it came from another: a difference lives where its base does, and so a
//! family of versions shares its holders, who can always decode what they are sent, and send what a reader with an older version needs.
//!
//! Invariant: a chunk that an earlier version lists keeps the home that it has there. What it is kept as a difference to says nothing by
//! then, since compaction turns that around; only for a chunk that is new does it decide.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::chunk::ChunkRef;
use crate::error::Result;
use crate::hash::Hash;
use crate::limits;
use crate::manifest::Manifest;
use crate::node::store::Store;
use crate::store::RecordKind;

/// The home of a chunk that no manifest gives another.
pub(super) fn home_of(hash: &Hash) -> [u8; 4] {
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// The homes of those of `chunks` that are not at home at their own hash, by index: for each the home that the first of `versions` to list
/// it gives it, else that of the chunk that it is a difference to.
pub(super) fn homes(store: &Store, chunks: &[ChunkRef], versions: &[&Manifest]) -> Result<BTreeMap<u32, [u8; 4]>> {
    let mut homes = BTreeMap::new();
    let mut open: Vec<(u32, Hash)> = (0..).zip(chunks.iter().map(|chunk| chunk.hash)).collect();
    // One base deeper with each pass; nearly all bases are listed, so that the second pass is seldom followed by a third.
    for depth in 0..=limits::DELTA_DEPTH {
        let told = told_homes(&open, versions);
        let mut deeper = Vec::new();
        for (index, at) in open {
            let base = match told.contains_key(&at) || depth == limits::DELTA_DEPTH {
                true => None,
                false => store.inner.chunks.locate(&at, RecordKind::Chunk)?.and_then(|entry| entry.base),
            };
            if let Some(base) = base {
                deeper.push((index, base));
                continue;
            }
            let home = told.get(&at).copied().unwrap_or_else(|| home_of(&at));
            if chunks.get(index as usize).is_some_and(|chunk| home_of(&chunk.hash) != home) {
                homes.insert(index, home);
            }
        }
        if deeper.is_empty() {
            break;
        }
        open = deeper;
    }
    Ok(homes)
}

/// The homes that `versions`, the first to list a chunk, give to those of `open` that they list.
fn told_homes(open: &[(u32, Hash)], versions: &[&Manifest]) -> HashMap<Hash, [u8; 4]> {
    let mut unknown: HashSet<Hash> = open.iter().map(|(_, hash)| *hash).collect();
    let mut told = HashMap::new();
    for version in versions {
        if unknown.is_empty() {
            break;
        }
        for (index, chunk) in version.chunks.iter().enumerate() {
            if unknown.remove(&chunk.hash) {
                told.extend(version.home(index).map(|home| (chunk.hash, home)));
            }
        }
    }
    told
}
