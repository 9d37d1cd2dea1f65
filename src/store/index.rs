//! The index: where every chunk and manifest lies, and the state of every ref. A cache of the packs, kept in redb.
//!
//! Invariants: an entry exists only for bytes that are already synced in a pack, and what is covered is in the index. It can be
//! deleted at any time while the store is closed; `recovery` rebuilds it whole from the packs. Chunks and manifests have tables of
//! their own: a payload may well have the bytes of a manifest.

use std::cell::Cell;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::store::database::{CHUNKS, IndexPlace, MANIFESTS, REFS, STATE, close, guard};
use crate::store::entry::{Covered, Entry, Position, RefEntry, SealedPacks, decode_packs, encode_packs};
use crate::store::pack::RecordKind;

const COVERED: &str = "covered";
const PACKS: &str = "packs";

/// A database below this many bytes is checked page by page at each open: about a millisecond a megabyte.
pub(super) const CHECKED_BYTES: u64 = 8 << 20;

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
}

/// The index database.
pub(super) struct Index {
    place: IndexPlace,
    cache_bytes: usize,
    /// Nothing that changes goes to `place`: it belongs to a store that is only read.
    read_only: bool,
    /// A write failed: what is asked is answered, what changes is refused.
    stopped: AtomicBool,
    /// Taken for writing while the index is refilled: what is not there yet must not be taken for missing.
    gate: RwLock<()>,
    /// `None` only while the database is being replaced.
    database: RwLock<Option<Database>>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        close(self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn table(kind: RecordKind) -> TableDefinition<'static, &'static [u8; 32], &'static [u8]> {
    if kind == RecordKind::Manifest { MANIFESTS } else { CHUNKS }
}

impl Index {
    fn new(place: IndexPlace, cache_bytes: usize, read_only: bool, database: Database) -> Index {
        let database = RwLock::new(Some(database));
        Index { place, cache_bytes, read_only, stopped: AtomicBool::new(false), gate: RwLock::default(), database }
    }

    /// Opens the index, or creates an empty one. A database that cannot be read is replaced by an empty one; the log refills it.
    pub(super) fn open(place: IndexPlace, cache_bytes: usize, checked_bytes: u64) -> Result<Index> {
        let checked = place.len()? < checked_bytes;
        let database = match place.open(cache_bytes, checked) {
            Err(error @ (Error::Damaged { .. } | Error::Index { .. })) => {
                tracing::warn!("the index is rebuilt from the packs: {error}");
                place.remove()?;
                place.open(cache_bytes, false)?
            }
            opened => opened?,
        };
        Ok(Index::new(place, cache_bytes, false, database))
    }

    /// Opens the index without changing it. Where that is not possible an empty one in memory stands in, and the log refills it.
    pub(super) fn open_read_only(place: IndexPlace, cache_bytes: usize, checked_bytes: u64) -> Result<Index> {
        let checked = place.len()? < checked_bytes;
        match place.open_overlay(cache_bytes, checked) {
            Ok(database) => Ok(Index::new(place, cache_bytes, true, database)),
            Err(error) => {
                tracing::debug!("the index is refilled in memory: {error}");
                let database = IndexPlace::Memory.open(cache_bytes, false)?;
                Ok(Index::new(IndexPlace::Memory, cache_bytes, true, database))
            }
        }
    }

    /// Forgets everything, so that the log can refill the index. For a store that is only read, the new one is in memory.
    pub(super) fn reset(&self) -> Result<()> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        close(database.take());
        if self.read_only {
            *database = Some(IndexPlace::Memory.open(self.cache_bytes, false)?);
        } else {
            self.place.remove()?;
            *database = Some(self.place.open(self.cache_bytes, false)?);
        }
        Ok(())
    }

    /// Holds back whoever asks the index for something, until the answer is dropped. Changes go on.
    pub(super) fn shut(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database's name for messages.
    pub(super) fn describe(&self) -> String {
        self.place.describe()
    }

    /// Bytes of the database on disk.
    pub(super) fn disk_bytes(&self) -> Result<u64> {
        self.place.len()
    }

    fn with<T>(&self, action: &'static str, act: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else { return Err(self.place.damaged("it is closed")) };
        guard(&self.place, action, || act(database))
    }

    /// As `with`, for what only reads: redb refuses that too once a write failed, so the database is then opened as it lies.
    fn read<T>(&self, action: &'static str, act: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        match self.with(action, &act) {
            Err(error) if self.is_refusal(&error) => {
                self.stop()?;
                self.with(action, act)
            }
            outcome => outcome,
        }
    }

    fn is_refusal(&self, error: &Error) -> bool {
        matches!(error, Error::Index { source, .. } if matches!(**source, redb::Error::PreviousIo))
    }

    /// Gives up writing after a failed write.
    fn stop(&self) -> Result<()> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if !self.stopped.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}: a write failed; from here on it is only read", self.describe());
            close(database.take());
            *database = Some(self.place.open_overlay(self.cache_bytes, false)?);
        }
        Ok(())
    }

    /// Where the chunk or manifest `hash` lies.
    pub(super) fn get(&self, hash: &Hash, kind: RecordKind) -> Result<Option<Entry>> {
        let value = self.read("look a chunk up", |database| {
            let entries = database.begin_read()?.open_table(table(kind))?;
            Ok(entries.get(hash.as_bytes())?.map(|value| Entry::decode(value.value())))
        })?;
        match value {
            None => Ok(None),
            Some(Some(entry)) if entry.kind == kind => Ok(Some(entry)),
            Some(_) => Err(self.place.damaged("an entry cannot be read")),
        }
    }

    /// Calls `visit` for every chunk, then for every manifest, each in order of hash.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Hash, Entry)) -> Result<()> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let visited = Cell::new(false);
        let mut walk = || {
            self.with("list its entries", |database| {
                let transaction = database.begin_read()?;
                for kind in [RecordKind::Chunk, RecordKind::Manifest] {
                    for row in transaction.open_table(table(kind))?.iter()? {
                        let (key, value) = row?;
                        let entry = Entry::decode(value.value()).filter(|entry| entry.kind == kind);
                        let Some(entry) = entry else { return Ok(false) };
                        visited.set(true);
                        visit(Hash::from_bytes(*key.value()), entry);
                    }
                }
                Ok(true)
            })
        };
        let sound = match walk() {
            Err(error) if self.is_refusal(&error) && !visited.get() => {
                self.stop()?;
                walk()?
            }
            outcome => outcome?,
        };
        if sound { Ok(()) } else { Err(self.place.damaged("an entry cannot be read")) }
    }

    /// True if there is nothing in it.
    pub(super) fn is_empty(&self) -> Result<bool> {
        self.read("count its entries", |database| {
            let transaction = database.begin_read()?;
            let chunks = transaction.open_table(CHUNKS)?.is_empty()?;
            Ok(chunks && transaction.open_table(MANIFESTS)?.is_empty()? && transaction.open_table(REFS)?.is_empty()?)
        })
    }

    /// The ref entities whose keys start with `prefix`, removals included, in order of key.
    pub(super) fn refs(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, RefEntry)>> {
        let rows = self.read("list refs", |database| {
            let transaction = database.begin_read()?;
            let refs = transaction.open_table(REFS)?;
            let mut rows = Vec::new();
            for row in refs.range::<&[u8]>((Bound::Included(prefix), Bound::Unbounded))? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_vec(), RefEntry::decode(key.value(), value.value())));
            }
            Ok(rows)
        })?;
        let damaged = || self.place.damaged("a ref cannot be read");
        rows.into_iter().map(|(key, entry)| Ok((key, entry.ok_or_else(damaged)?))).collect()
    }

    /// How much of the log the index covers, and the packs that were complete then. `None` for an index that was never filled.
    pub(super) fn state(&self) -> Result<Option<(Covered, SealedPacks)>> {
        let (covered, packs) = self.read("read its state", |database| {
            let state = database.begin_read()?.open_table(STATE)?;
            let value = |name| Ok::<_, redb::Error>(state.get(name)?.map(|value| value.value().to_vec()));
            Ok((value(COVERED)?, value(PACKS)?))
        })?;
        let Some(covered) = covered else { return Ok(None) };
        let packs = packs.map_or(Some(SealedPacks::new()), |packs| decode_packs(&packs));
        match Covered::decode(&covered).zip(packs) {
            Some(state) => Ok(Some(state)),
            None => Err(self.place.damaged("its state cannot be read")),
        }
    }

    /// Applies `change` in one durable transaction.
    pub(super) fn apply(&self, change: &mut IndexChange) -> Result<()> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::WriteFailed { why: format!("{}: an earlier write failed", self.describe()) });
        }
        // redb inserts neighbours faster than strangers.
        change.entries.sort_unstable_by_key(|(hash, entry)| (entry.kind as u8, *hash));
        let change = &*change;
        let outcome = self.with("commit", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            for kind in [RecordKind::Chunk, RecordKind::Manifest] {
                apply_entries(&mut transaction.open_table(table(kind))?, kind, change)?;
            }
            apply_refs(&mut transaction.open_table(REFS)?, change)?;
            {
                let mut state = transaction.open_table(STATE)?;
                if let Some(covered) = change.covered {
                    state.insert(COVERED, covered.encode().as_slice())?;
                }
                if let Some(packs) = &change.packs {
                    state.insert(PACKS, encode_packs(packs).as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        });
        if let Err(Error::Io { .. } | Error::NoSpace { .. } | Error::Index { .. }) = &outcome {
            // Whether the change arrived is settled here, and not by which page a later reader happens to find in memory.
            if let Err(error) = self.stop() {
                tracing::warn!("{}: it cannot be read any more: {error}", self.describe());
            }
        }
        outcome
    }

    /// Reads every page and checks its checksum; false when any does not match.
    pub(super) fn is_sound(&self) -> Result<bool> {
        let check = || {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            match database.as_mut() {
                Some(database) => guard(&self.place, "check itself", || Ok(database.check_integrity()?)),
                None => Ok(false),
            }
        };
        match check() {
            Err(Error::Damaged { .. }) => Ok(false),
            Err(error) if self.is_refusal(&error) => {
                self.stop()?;
                check()
            }
            outcome => outcome,
        }
    }
}

fn apply_entries(
    entries: &mut redb::Table<'_, &[u8; 32], &[u8]>,
    kind: RecordKind,
    change: &IndexChange,
) -> Result<(), redb::Error> {
    let lies_at = |entries: &redb::Table<'_, &[u8; 32], &[u8]>, hash: &Hash, position: Position| {
        let found = entries.get(hash.as_bytes())?.and_then(|value| Entry::decode(value.value()));
        Ok::<_, redb::Error>(found.is_some_and(|entry| entry.position == position))
    };
    for (hash, entry) in change.entries.iter().filter(|(_, entry)| entry.kind == kind) {
        entries.insert(hash.as_bytes(), entry.encode().as_slice())?;
    }
    for (hash, from, entry) in change.moved.iter().filter(|(.., entry)| entry.kind == kind) {
        if lies_at(entries, hash, *from)? {
            entries.insert(hash.as_bytes(), entry.encode().as_slice())?;
        }
    }
    for (hash, entry) in change.removed.iter().filter(|(_, entry)| entry.kind == kind) {
        if lies_at(entries, hash, entry.position)? {
            entries.remove(hash.as_bytes())?;
        }
    }
    Ok(())
}

fn apply_refs(refs: &mut redb::Table<'_, &[u8], &[u8]>, change: &IndexChange) -> Result<(), redb::Error> {
    let latest = |refs: &redb::Table<'_, &[u8], &[u8]>, key: &[u8]| {
        Ok::<_, redb::Error>(refs.get(key)?.and_then(|value| RefEntry::decode(key, value.value())))
    };
    for (key, entry) in &change.refs {
        if latest(refs, key)?.is_none_or(|latest| latest.seq <= entry.seq) {
            refs.insert(key.as_slice(), entry.encode(key).as_slice())?;
        }
    }
    for (key, position) in &change.forgotten_refs {
        if latest(refs, key)?.is_some_and(|latest| latest.position == *position) {
            refs.remove(key.as_slice())?;
        }
    }
    Ok(())
}
