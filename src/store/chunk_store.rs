//! [`ChunkStore`]: the log of packs and its index as one thing that chunks, manifests and refs are appended to and read from.
//!
//! Locks are taken in this order: `commit`, `checkpoint`, `log`, `pending`; `shield` and `readers` are leaves. None is held while
//! a caller's code runs.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lru::LruCache;

use crate::backend::{ObjectReader, StorageBackend};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::store::index::{Covered, Entry, Index, IndexChange, IndexPlace, Position, RefEntry};
use crate::store::log::LogWriter;
use crate::store::pack::{PackId, Record, RecordHeader, pack_name};
use crate::store::shield::Shield;

/// Packs that are kept open for reading.
const OPEN_PACKS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Entries that wait for the next checkpoint before it is forced.
const CHECKPOINT_ENTRIES: usize = 16 << 10;
/// Bytes appended since the last checkpoint before one is forced.
const CHECKPOINT_BYTES: u64 = 256 << 20;

/// How a [`ChunkStore`] is opened.
#[derive(Debug, Clone)]
pub struct ChunkStoreOptions {
    /// Bytes of a full pack.
    pub pack_bytes: u64,
    /// Bytes of the index database's page cache.
    pub index_cache_bytes: usize,
    /// Refuse every change; the log's tail is neither replayed nor cut.
    pub read_only: bool,
}

impl Default for ChunkStoreOptions {
    fn default() -> ChunkStoreOptions {
        ChunkStoreOptions { pack_bytes: 256 << 20, index_cache_bytes: 64 << 20, read_only: false }
    }
}

/// Packs and index. Cheap to clone; clones are handles on the same store.
#[derive(Debug, Clone)]
pub struct ChunkStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) backend: Arc<dyn StorageBackend>,
    pub(super) index: Index,
    pub(super) options: ChunkStoreOptions,
    pub(super) log: Mutex<LogState>,
    /// Entries that the index does not have yet.
    pub(super) pending: RwLock<HashMap<Hash, Entry>>,
    pub(super) shield: Mutex<Shield>,
    /// Held while version numbers are given out, until the refs that use them are visible.
    pub(super) commit: Mutex<()>,
    pub(super) checkpoint: Mutex<()>,
    pub(super) collecting: Mutex<()>,
    readers: Mutex<LruCache<PackId, Arc<dyn ObjectReader>>>,
    index_checked: AtomicBool,
    pub(super) next_session: AtomicU64,
}

#[derive(Debug)]
pub(super) struct LogState {
    pub(super) writer: LogWriter,
    /// Refs appended since the last checkpoint, in order.
    pub(super) pending_refs: Vec<(Vec<u8>, RefEntry)>,
    /// Sequence number of the next ref or removal.
    pub(super) next_seq: u64,
    bytes_since_checkpoint: u64,
    entries_since_checkpoint: usize,
}

impl LogState {
    pub(super) fn new(writer: LogWriter, next_seq: u64) -> LogState {
        LogState { writer, pending_refs: Vec::new(), next_seq, bytes_since_checkpoint: 0, entries_since_checkpoint: 0 }
    }
}

/// Every structure behind these locks is consistent between statements, so a panicking thread does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChunkStore {
    /// Opens the packs of `backend` with the index at `place`, and recovers what a crash may have left.
    pub fn open(backend: Arc<dyn StorageBackend>, place: IndexPlace, options: ChunkStoreOptions) -> Result<ChunkStore> {
        let index = match options.read_only {
            true => Index::open_read_only(place, options.index_cache_bytes)?,
            false => Index::open(place, options.index_cache_bytes)?,
        };
        let log = super::recovery::recover(&backend, &index, &options)?;
        Ok(ChunkStore {
            inner: Arc::new(Inner {
                backend,
                index,
                options,
                log: Mutex::new(log),
                pending: RwLock::default(),
                shield: Mutex::default(),
                commit: Mutex::default(),
                checkpoint: Mutex::default(),
                collecting: Mutex::default(),
                readers: Mutex::new(LruCache::new(OPEN_PACKS)),
                index_checked: AtomicBool::new(false),
                next_session: AtomicU64::new(0),
            }),
        })
    }

    /// Where the chunk or manifest `hash` lies, if it is stored.
    pub fn locate(&self, hash: &Hash) -> Result<Option<Entry>> {
        let pending = self.inner.pending.read().unwrap_or_else(PoisonError::into_inner).get(hash).copied();
        match pending {
            Some(entry) => Ok(Some(entry)),
            None => self.with_sound_index(|index| index.get(hash)),
        }
    }

    /// Runs `act` on the index; if that shows damage, rebuilds the index from the packs and runs it again.
    pub(super) fn with_sound_index<T>(&self, act: impl Fn(&Index) -> Result<T>) -> Result<T> {
        match act(&self.inner.index) {
            Err(Error::Damaged { what: "index", .. }) if !self.inner.options.read_only => {
                self.rebuild_index()?;
                act(&self.inner.index)
            }
            outcome => outcome,
        }
    }

    /// Checks every page of the index, once in the life of this handle; a damaged index is rebuilt. True when that happened.
    ///
    /// For the moment before something is reported as missing: an altered page can hide it without any other sign.
    pub fn mend_index(&self) -> Result<bool> {
        if self.inner.options.read_only || self.inner.index_checked.swap(true, Ordering::Relaxed) {
            return Ok(false);
        }
        self.check_index()
    }

    /// Checks every page of the index and rebuilds it if one is damaged. True when that happened.
    pub fn check_index(&self) -> Result<bool> {
        if self.inner.index.is_sound() {
            return Ok(false);
        }
        if self.inner.options.read_only {
            return Err(Error::Damaged {
                what: "index",
                place: self.inner.index.describe(),
                why: "a page does not match its checksum; open the store for writing to rebuild it".to_owned(),
            });
        }
        self.rebuild_index()?;
        Ok(true)
    }

    /// Refills the index from the packs.
    fn rebuild_index(&self) -> Result<()> {
        tracing::warn!("the index is damaged and is rebuilt from the packs");
        let _checkpoint = lock(&self.inner.checkpoint);
        let mut log = lock(&self.inner.log);
        log.writer.seal()?;
        self.inner.index.reset(self.inner.options.index_cache_bytes)?;
        let next_seq = super::recovery::refill(&*self.inner.backend, &self.inner.index)?;
        log.next_seq = log.next_seq.max(next_seq);
        Ok(())
    }

    /// Appends a chunk or manifest record. It is found by [`locate`](ChunkStore::locate) at once, and durable after the next
    /// [`checkpoint`](ChunkStore::checkpoint).
    pub(super) fn append(&self, record: &Record<'_>) -> Result<RecordHeader> {
        self.writable()?;
        let (header, full) = {
            let mut log = lock(&self.inner.log);
            let (header, position) = log.writer.append(record)?;
            let entry = Entry::of(&header, record.base, position);
            self.inner.pending.write().unwrap_or_else(PoisonError::into_inner).insert(record.hash, entry);
            log.bytes_since_checkpoint += header.record_len();
            log.entries_since_checkpoint += 1;
            let full =
                log.bytes_since_checkpoint >= CHECKPOINT_BYTES || log.entries_since_checkpoint >= CHECKPOINT_ENTRIES;
            (header, full)
        };
        if full {
            self.checkpoint()?;
        }
        Ok(header)
    }

    /// Syncs the log, then commits to the index what was appended before the call. Entries and refs become visible to other
    /// processes, and refs to this one, only here.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_with(IndexChange::default())
    }

    pub(super) fn checkpoint_with(&self, mut change: IndexChange) -> Result<()> {
        let _checkpoint = lock(&self.inner.checkpoint);
        let (writer, covered, refs) = {
            let mut log = lock(&self.inner.log);
            let writer = log.writer.prepare_sync()?;
            log.bytes_since_checkpoint = 0;
            log.entries_since_checkpoint = 0;
            let covered = Covered { end: log.writer.end(), next_seq: log.next_seq };
            (writer, covered, log.pending_refs.clone())
        };
        let end = covered.end;
        let pending: Vec<(Hash, Entry)> = {
            let pending = self.inner.pending.read().unwrap_or_else(PoisonError::into_inner);
            pending.iter().filter(|(_, entry)| entry.position < end).map(|(hash, entry)| (*hash, *entry)).collect()
        };
        if let Some(writer) = writer {
            writer.sync().map_err(|error| {
                let error = Error::io("sync", self.inner.backend.describe(&pack_name(end.pack)), error);
                lock(&self.inner.log).writer.fail(&error);
                error
            })?;
        }
        let refs_len = refs.len();
        change.entries.extend(pending);
        change.refs.extend(refs);
        change.covered = Some(covered);
        self.inner.index.apply(change).inspect_err(|error| lock(&self.inner.log).writer.fail(error))?;
        lock(&self.inner.log).pending_refs.drain(..refs_len);
        self.inner.pending.write().unwrap_or_else(PoisonError::into_inner).retain(|_, entry| entry.position >= end);
        Ok(())
    }

    /// The pack `id`, open for reading.
    pub(super) fn pack(&self, id: PackId) -> std::io::Result<Arc<dyn ObjectReader>> {
        if let Some(reader) = lock(&self.inner.readers).get(&id) {
            return Ok(Arc::clone(reader));
        }
        let reader = self.inner.backend.open(&pack_name(id))?;
        lock(&self.inner.readers).put(id, Arc::clone(&reader));
        Ok(reader)
    }

    pub(super) fn forget_pack(&self, id: PackId) {
        lock(&self.inner.readers).pop(&id);
    }

    pub(super) fn writable(&self) -> Result<()> {
        match self.inner.options.read_only {
            true => Err(Error::ReadOnly { path: self.inner.backend.describe("") }),
            false => Ok(()),
        }
    }

    /// The end of the log: everything stored so far lies before it.
    pub(super) fn end(&self) -> Position {
        lock(&self.inner.log).writer.end()
    }
}
