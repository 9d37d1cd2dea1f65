//! The index: where every chunk and manifest lies, and the state of every ref. A cache of the packs.
//!
//! While it is small it lies in a `journal`, later in a `database`: the first commit that the journal has no room for takes all rows
//! there. Where both are found, a crash interrupted that, and the journal holds.
//!
//! Invariants: an entry exists only for bytes that are already synced in a pack, and what is covered is in the index. It can be
//! deleted at any time while the store is closed; `recovery` rebuilds it whole from the packs.

use std::cell::Cell;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use redb::Database;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::store::database::{self, IndexPlace, close, guard};
use crate::store::entry::{Covered, Entry, RefEntry, SealedPacks, decode_packs};
use crate::store::journal::{Journal, describe_journal, journal_len, remove_journal};
use crate::store::pack::RecordKind;
pub(super) use crate::store::rows::IndexChange;
use crate::store::rows::{COVERED, PACKS, RowChanges, Table};

/// A database below this many bytes is checked page by page at each open: about a millisecond a megabyte.
pub(super) const CHECKED_BYTES: u64 = 8 << 20;

/// How an index is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexOptions {
    /// Bytes of the database's page cache.
    pub(super) cache_bytes: usize,
    /// A database below this many bytes is checked page by page.
    pub(super) checked_bytes: u64,
    /// Bytes of the longest journal.
    pub(super) journal_bytes: usize,
    /// Nothing that changes goes to the index's place: it belongs to a store that is only read.
    pub(super) read_only: bool,
}

/// What the rows are in.
#[derive(Debug)]
enum Rows {
    Journal(Journal),
    Database(Database),
}

impl Rows {
    fn get(&self, place: &IndexPlace, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self {
            Rows::Journal(journal) => Ok(journal.get(table, key)),
            Rows::Database(database) => guard(place, "look a row up", || database::get(database, table, key)),
        }
    }

    /// Shows `visit` the rows of the chunks or manifests until it answers false. False if it did.
    fn scan_entries(
        &self,
        place: &IndexPlace,
        table: Table,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool> {
        match self {
            Rows::Journal(journal) => Ok(journal.rows().of(table).iter().all(|(key, value)| visit(key, value))),
            Rows::Database(database) => {
                guard(place, "list its entries", || database::scan_entries(database, table, visit))
            }
        }
    }

    /// Shows `visit` the rows of the refs from the key `start` on, until it answers false.
    fn scan_refs(&self, place: &IndexPlace, start: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        match self {
            Rows::Journal(journal) => {
                let rows = journal.rows();
                let range = (Bound::Included(start), Bound::Unbounded);
                rows.of(Table::Refs).range::<[u8], _>(range).all(|(key, value)| visit(key, value));
                Ok(())
            }
            Rows::Database(database) => guard(place, "list refs", || database::scan_refs(database, start, visit)),
        }
    }

    fn close(self) {
        if let Rows::Database(database) = self {
            close(database);
        }
    }
}

/// The index.
pub(super) struct Index {
    place: IndexPlace,
    options: IndexOptions,
    /// A write failed: what is asked is answered, what changes is refused.
    stopped: AtomicBool,
    /// Taken for writing while the index is refilled: what is not there yet must not be taken for missing.
    gate: RwLock<()>,
    /// `None` only while they are being replaced.
    rows: RwLock<Option<Rows>>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Some(rows) = self.rows.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            rows.close();
        }
    }
}

impl Index {
    /// Opens the index, or begins an empty one. One that cannot be read is replaced by an empty one, which the log refills. Read-only,
    /// that one is in memory, and nothing at `place` is changed.
    pub(super) fn open(place: IndexPlace, options: IndexOptions) -> Result<Index> {
        let rows = match open_rows(&place, options) {
            Err(error @ (Error::Damaged { .. } | Error::Index { .. })) if !options.read_only => {
                tracing::warn!("the index is rebuilt from the packs: {error}");
                empty_rows(&place, options)?
            }
            Err(error) if options.read_only => {
                tracing::debug!("the index is refilled in memory: {error}");
                empty_rows(&place, options)?
            }
            rows => rows?,
        };
        let rows = RwLock::new(Some(rows));
        Ok(Index { place, options, stopped: AtomicBool::new(false), gate: RwLock::default(), rows })
    }

    /// Forgets everything, so that the log can refill the index.
    pub(super) fn reset(&self) -> Result<()> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = rows.take() {
            rows.close();
        }
        *rows = Some(empty_rows(&self.place, self.options)?);
        Ok(())
    }

    /// Holds back whoever asks the index for something, until the answer is dropped. Changes go on.
    pub(super) fn shut(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index's name for messages.
    pub(super) fn describe(&self) -> String {
        let journal = self.place.journal().filter(|backend| journal_len(&**backend).is_ok_and(|len| len > 0));
        journal.map_or_else(|| self.place.describe(), |backend| describe_journal(&*backend))
    }

    /// Bytes of the index on disk.
    pub(super) fn disk_bytes(&self) -> Result<u64> {
        let journal = self.place.journal().map_or(Ok(0), |backend| journal_len(&*backend))?;
        Ok(self.place.len()? + journal)
    }

    fn with<T>(&self, act: impl FnOnce(&Rows) -> Result<T>) -> Result<T> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        act(rows.as_ref().ok_or_else(|| self.place.damaged("it is closed"))?)
    }

    /// As `with`, for what only reads: redb refuses that too once a write failed, so the database is then opened as it lies.
    fn read<T>(&self, act: impl Fn(&Rows) -> Result<T>) -> Result<T> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        match self.with(&act) {
            Err(error) if self.is_refusal(&error) => {
                self.stop()?;
                self.with(act)
            }
            outcome => outcome,
        }
    }

    fn is_refusal(&self, error: &Error) -> bool {
        matches!(error, Error::Index { source, .. } if matches!(**source, redb::Error::PreviousIo))
    }

    /// Gives up writing after a failed write. A journal goes on answering from memory what it held before.
    fn stop(&self) -> Result<()> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if !self.stopped.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}: a write failed; from here on it is only read", self.describe());
            if let Some(Rows::Database(database)) = rows.take_if(|rows| matches!(rows, Rows::Database(_))) {
                close(database);
                *rows = Some(Rows::Database(self.place.open_overlay(self.options.cache_bytes, false)?));
            }
        }
        Ok(())
    }

    /// Where the chunk or manifest `hash` lies.
    pub(super) fn get(&self, hash: &Hash, kind: RecordKind) -> Result<Option<Entry>> {
        let value = self.read(|rows| rows.get(&self.place, Table::of(kind), hash.as_bytes()))?;
        match value.map(|value| Entry::decode(&value)) {
            None => Ok(None),
            Some(Some(entry)) if entry.kind == kind => Ok(Some(entry)),
            Some(_) => Err(self.place.damaged("an entry cannot be read")),
        }
    }

    /// As [`get`](Index::get); `None` also while the index is being checked or replaced, and where the entry cannot be read.
    pub(super) fn get_at_hand(&self, hash: &Hash, kind: RecordKind) -> Option<Entry> {
        let _open = self.gate.try_read().ok()?;
        let rows = self.rows.try_read().ok()?;
        let value = rows.as_ref()?.get(&self.place, Table::of(kind), hash.as_bytes()).ok()??;
        Entry::decode(&value).filter(|entry| entry.kind == kind)
    }

    /// Calls `visit` for every chunk, then for every manifest, each in order of hash.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Hash, Entry)) -> Result<()> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let visited = Cell::new(false);
        let mut walk = |rows: &Rows| {
            for kind in [RecordKind::Chunk, RecordKind::Manifest] {
                let sound = rows.scan_entries(&self.place, Table::of(kind), &mut |key, value| {
                    let entry = Entry::decode(value).filter(|entry| entry.kind == kind);
                    let Some((hash, entry)) = Hash::from_slice(key).zip(entry) else { return false };
                    visited.set(true);
                    visit(hash, entry);
                    true
                })?;
                if !sound {
                    return Err(self.place.damaged("an entry cannot be read"));
                }
            }
            Ok(())
        };
        match self.with(&mut walk) {
            Err(error) if self.is_refusal(&error) && !visited.get() => {
                self.stop()?;
                self.with(walk)
            }
            outcome => outcome,
        }
    }

    /// True if there is nothing in it.
    pub(super) fn is_empty(&self) -> Result<bool> {
        self.read(|rows| {
            let chunks = rows.scan_entries(&self.place, Table::Chunks, &mut |_, _| false)?;
            let manifests = rows.scan_entries(&self.place, Table::Manifests, &mut |_, _| false)?;
            let mut refs = true;
            rows.scan_refs(&self.place, &[], &mut |_, _| {
                refs = false;
                false
            })?;
            Ok(chunks && manifests && refs)
        })
    }

    /// The ref entities whose keys start with `prefix`, removals included, in order of key.
    pub(super) fn refs(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, RefEntry)>> {
        let found = self.read(|rows| {
            let mut found = Vec::new();
            rows.scan_refs(&self.place, prefix, &mut |key, value| {
                let wanted = key.starts_with(prefix);
                if wanted {
                    found.push((key.to_vec(), RefEntry::decode(key, value)));
                }
                wanted
            })?;
            Ok(found)
        })?;
        let damaged = || self.place.damaged("a ref cannot be read");
        found.into_iter().map(|(key, entry)| Ok((key, entry.ok_or_else(damaged)?))).collect()
    }

    /// How much of the log the index covers, and the packs that were complete then. `None` for an index that was never filled.
    pub(super) fn state(&self) -> Result<Option<(Covered, SealedPacks)>> {
        let value = |name| self.read(|rows| rows.get(&self.place, Table::State, name));
        let (covered, packs) = (value(COVERED)?, value(PACKS)?);
        let Some(covered) = covered else { return Ok(None) };
        let packs = packs.map_or(Some(SealedPacks::new()), |packs| decode_packs(&packs));
        match Covered::decode(&covered).zip(packs) {
            Some(state) => Ok(Some(state)),
            None => Err(self.place.damaged("its state cannot be read")),
        }
    }

    /// Applies `change` in one durable transaction. One caller at a time.
    pub(super) fn apply(&self, change: &IndexChange) -> Result<()> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::WriteFailed { why: format!("{}: an earlier write failed", self.describe()) });
        }
        let outcome = self.write(change);
        if let Err(Error::Io { .. } | Error::NoSpace { .. } | Error::Index { .. }) = &outcome {
            // Whether the change arrived is settled here, and not by which page a later reader happens to find in memory.
            if let Err(error) = self.stop() {
                tracing::warn!("{}: it cannot be read any more: {error}", self.describe());
            }
        }
        outcome
    }

    fn write(&self, change: &IndexChange) -> Result<()> {
        let full = self.with(|rows| {
            let changes = change.rows(|table, key| rows.get(&self.place, table, key))?;
            match rows {
                Rows::Journal(journal) => Ok((!journal.apply(&changes)?).then_some(changes)),
                Rows::Database(database) => {
                    guard(&self.place, "commit", || database::write(database, &changes)).map(|()| None)
                }
            }
        })?;
        full.map_or(Ok(()), |changes| self.outgrow(changes))
    }

    /// Takes the journal's rows, and `changes` of them, to a new database.
    fn outgrow(&self, changes: RowChanges) -> Result<()> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Rows::Journal(journal)) = rows.as_ref() else {
            return Err(self.place.damaged("its journal is gone"));
        };
        let mut all = journal.rows().as_changes();
        all.extend(changes);
        self.place.remove()?;
        let database = self.place.open(self.options.cache_bytes, false)?;
        guard(&self.place, "commit", || database::write(&database, &all))?;
        // Until the journal's name is gone, a crash leaves it to the next open.
        self.place.journal().map_or(Ok(()), |backend| remove_journal(&*backend))?;
        *rows = Some(Rows::Database(database));
        Ok(())
    }

    /// Reads all of it and checks its checksums; false when any does not match.
    pub(super) fn is_sound(&self) -> Result<bool> {
        let check = || {
            let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
            match rows.as_mut() {
                Some(Rows::Journal(journal)) => journal.is_sound(),
                Some(Rows::Database(database)) => {
                    guard(&self.place, "check itself", || Ok(database.check_integrity()?))
                }
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

/// The rows at `place`, as they are.
fn open_rows(place: &IndexPlace, options: IndexOptions) -> Result<Rows> {
    let journal = match place.journal() {
        Some(backend) => Journal::open(&backend, options.journal_bytes, options.read_only)?,
        None => None,
    };
    let len = place.len()?;
    match journal {
        Some(journal) => {
            if len > 0 && !options.read_only {
                place.remove()?;
            }
            Ok(Rows::Journal(journal))
        }
        None if len == 0 => empty_rows(place, options),
        None => {
            let open = if options.read_only { IndexPlace::open_overlay } else { IndexPlace::open };
            Ok(Rows::Database(open(place, options.cache_bytes, len < options.checked_bytes)?))
        }
    }
}

/// No rows, and none at `place` if that may change.
fn empty_rows(place: &IndexPlace, options: IndexOptions) -> Result<Rows> {
    let backend = place.journal().filter(|_| !options.read_only);
    if let Some(backend) = &backend {
        remove_journal(&**backend)?;
        if place.len()? > 0 {
            place.remove()?;
        }
    }
    Ok(Rows::Journal(Journal::new(backend, options.journal_bytes)))
}
