//! The index as rows of four tables, and what a change of it comes to, row by row. No I/O: both places where the index may lie, the
//! `journal` and the `database`, hold these rows and no others.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::hash::Hash;
use crate::store::entry::{Covered, Entry, Position, RefEntry, SealedPacks, encode_packs};
use crate::store::pack::RecordKind;

/// Key of how much of the log is covered, in [`Table::State`].
pub(super) const COVERED: &[u8] = b"covered";
/// Key of the complete packs, in [`Table::State`].
pub(super) const PACKS: &[u8] = b"packs";

/// A table of the index. Chunks and manifests have tables of their own: a payload may well have the bytes of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Table {
    Chunks = 1,
    Manifests = 2,
    Refs = 3,
    State = 4,
}

impl Table {
    /// The table that the entries of `kind` are in.
    pub(super) fn of(kind: RecordKind) -> Table {
        if kind == RecordKind::Manifest { Table::Manifests } else { Table::Chunks }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Table> {
        [Table::Chunks, Table::Manifests, Table::Refs, Table::State].into_iter().find(|&table| table as u8 == byte)
    }
}

/// Rows that are written together, in order of table and key. `None`: the row goes.
pub(super) type RowChanges = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// What one durable transaction changes.
#[derive(Debug, Default)]
pub(super) struct IndexChange {
    /// New entries.
    pub(super) entries: Vec<(Hash, Entry)>,
    /// Entries whose record was copied: they move only while they still lie at the old position.
    pub(super) moved: Vec<(Hash, Position, Entry)>,
    /// Entries that go only while they still lie where these say.
    pub(super) removed: Vec<(Hash, Entry)>,
    /// Latest states of ref entities, by entity key.
    pub(super) refs: Vec<(Vec<u8>, RefEntry)>,
    /// Ref entities that are forgotten altogether, if their latest record still lies at the given position.
    pub(super) forgotten_refs: Vec<(Vec<u8>, Position)>,
    /// The log is covered up to here, and the next ref gets this number.
    pub(super) covered: Option<Covered>,
    /// The packs that are complete, where that changed.
    pub(super) packs: Option<SealedPacks>,
}

impl IndexChange {
    /// True if it changes nothing but how much is covered.
    pub(super) fn is_empty(&self) -> bool {
        let entries = self.entries.is_empty() && self.moved.is_empty() && self.removed.is_empty();
        entries && self.refs.is_empty() && self.forgotten_refs.is_empty() && self.packs.is_none()
    }

    /// The rows that this comes to, where `stored` answers what the index holds before it.
    pub(super) fn rows(&self, stored: impl Fn(Table, &[u8]) -> Result<Option<Vec<u8>>>) -> Result<RowChanges> {
        let row = |(hash, entry): &(Hash, Entry)| (key_of(hash, entry), Some(entry.encode()));
        let mut rows: RowChanges = self.entries.iter().map(row).collect();
        // What an earlier part of this change says of a row counts for the later parts.
        let latest = |rows: &RowChanges, key: &(Table, Vec<u8>)| match rows.get(key) {
            Some(value) => Ok(value.clone()),
            None => stored(key.0, &key.1),
        };
        let lies_at = |rows: &RowChanges, key: &(Table, Vec<u8>), position: Position| {
            let entry = latest(rows, key)?.and_then(|value| Entry::decode(&value));
            Ok(entry.is_some_and(|entry| entry.position == position))
        };
        for (hash, from, entry) in &self.moved {
            let key = key_of(hash, entry);
            if lies_at(&rows, &key, *from)? {
                rows.insert(key, Some(entry.encode()));
            }
        }
        for (hash, entry) in &self.removed {
            let key = key_of(hash, entry);
            if lies_at(&rows, &key, entry.position)? {
                rows.insert(key, None);
            }
        }
        let latest_ref = |rows: &RowChanges, key: &(Table, Vec<u8>)| {
            Ok(latest(rows, key)?.and_then(|value| RefEntry::decode(&key.1, &value)))
        };
        for (entity, entry) in &self.refs {
            let key = (Table::Refs, entity.clone());
            if latest_ref(&rows, &key)?.is_none_or(|latest| latest.seq <= entry.seq) {
                rows.insert(key, Some(entry.encode(entity)));
            }
        }
        for (entity, position) in &self.forgotten_refs {
            let key = (Table::Refs, entity.clone());
            if latest_ref(&rows, &key)?.is_some_and(|latest| latest.position == *position) {
                rows.insert(key, None);
            }
        }
        if let Some(covered) = self.covered {
            rows.insert((Table::State, COVERED.to_vec()), Some(covered.encode().to_vec()));
        }
        if let Some(packs) = &self.packs {
            rows.insert((Table::State, PACKS.to_vec()), Some(encode_packs(packs)));
        }
        Ok(rows)
    }
}

fn key_of(hash: &Hash, entry: &Entry) -> (Table, Vec<u8>) {
    (Table::of(entry.kind), hash.as_bytes().to_vec())
}
