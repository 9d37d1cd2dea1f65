//! [`ChunkStore`]: the log of packs and its index as one thing that chunks, manifests and refs are appended to and read from.
//!
//! Locks are taken in this order: `collecting`, `commit`, `chains`, `checkpoint`, `shield`, `log`, then the index's own; `pending` and
//! `readers` are held for single look-ups only. A caller's code runs under `commit` alone: what it decides there (a version number,
//! whether a pin forbids a removal) still holds when its refs become visible.
//!
//! What a commit makes durable is a prefix of the log: each pack before the growing one was synced when it was sealed.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::backend::{ObjectReader, StorageBackend};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::store::database::IndexPlace;
use crate::store::directory::StoreDirectory;
use crate::store::entry::{Covered, Entry, Position, RefEntry};
use crate::store::index::{CHECKED_BYTES, Index, IndexChange, IndexOptions};
use crate::store::log::LogWriter;
use crate::store::pack::{PackId, Record, RecordHeader, RecordKind, pack_name};
use crate::store::pack_file::FullBuffer;
use crate::store::reencode::Dependents;
use crate::store::returned::Outrun;
use crate::store::room::RoomGauge;
use crate::store::shield::Shield;

/// Packs that are kept open for reading.
const OPEN_PACKS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Entries that wait for the next checkpoint before it is forced.
const CHECKPOINT_ENTRIES: usize = 16 << 10;
/// Bytes appended since the last checkpoint before one is forced.
const CHECKPOINT_BYTES: u64 = 256 << 20;

/// The shortest time between two checks of a whole index that are made only to be sure.
const INDEX_CHECKS: Duration = Duration::from_secs(60);

/// How a [`ChunkStore`] is opened.
#[derive(Debug, Clone)]
pub struct ChunkStoreOptions {
    /// Bytes of a full pack.
    pub pack_bytes: u64,
    /// Bytes of the index database's page cache.
    pub index_cache_bytes: usize,
    /// Refuse every change; the log's tail is neither replayed nor cut.
    pub read_only: bool,
    /// An index below this many bytes is checked page by page at each open.
    #[doc(hidden)]
    pub checked_index_bytes: u64,
    /// Bytes of the longest journal; a larger index is a database.
    #[doc(hidden)]
    pub index_journal_bytes: usize,
    /// The directory of the store, where its packs lie in one: its format is raised before the first delta is stored.
    pub directory: Option<PathBuf>,
}

impl Default for ChunkStoreOptions {
    fn default() -> ChunkStoreOptions {
        ChunkStoreOptions {
            pack_bytes: 256 << 20,
            index_cache_bytes: 64 << 20,
            read_only: false,
            checked_index_bytes: CHECKED_BYTES,
            index_journal_bytes: limits::JOURNAL_BYTES,
            directory: None,
        }
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
    pub(super) room: RoomGauge,
    pub(super) log: Mutex<LogState>,
    /// Entries that the index does not have yet.
    pub(super) pending: RwLock<HashMap<(RecordKind, Hash), Entry>>,
    pub(super) shield: Mutex<Shield>,
    /// Held while version numbers are given out, until the refs that use them are visible.
    pub(super) commit: Mutex<()>,
    /// Held while a chunk gets a base: the chain that was found below it is still that when its record is appended. Has something
    /// while chunks are encoded anew.
    pub(super) chains: Mutex<Option<Dependents>>,
    pub(super) checkpoint: Mutex<()>,
    pub(super) collecting: Mutex<()>,
    /// The store's format says that there may be deltas.
    deltas_allowed: AtomicBool,
    readers: Mutex<LruCache<PackId, Arc<dyn ObjectReader>>>,
    index_checked: AtomicBool,
    /// When all pages of the index were seen to be sound, or were written anew.
    index_sound: Mutex<Option<Instant>>,
    /// How often the index was rebuilt since it was opened.
    index_rebuilds: AtomicU64,
    pub(super) next_session: AtomicU64,
}

#[derive(Debug)]
pub(super) struct LogState {
    pub(super) writer: LogWriter,
    /// Refs appended since the last checkpoint, in order.
    pub(super) pending_refs: Vec<(Vec<u8>, RefEntry)>,
    /// Sequence number of the next ref or removal.
    pub(super) next_seq: u64,
    /// Packs are gone, and the records of some refs may be gone with them.
    pub(super) refs_in_doubt: bool,
    /// Packs came back: what of them is not in use although it lies behind what is.
    pub(super) returned: Option<Outrun>,
    /// What the index says it covers.
    committed: Option<Covered>,
    bytes_since_checkpoint: u64,
    entries_since_checkpoint: usize,
}

impl LogState {
    pub(super) fn new(writer: LogWriter, next_seq: u64, committed: Option<Covered>) -> LogState {
        LogState {
            writer,
            pending_refs: Vec::new(),
            next_seq,
            refs_in_doubt: false,
            returned: None,
            committed,
            bytes_since_checkpoint: 0,
            entries_since_checkpoint: 0,
        }
    }
}

/// Every structure behind these locks is consistent between statements, so a panicking thread does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChunkStore {
    /// Opens the packs of `backend` with the index at `place`, and recovers what a crash may have left.
    pub fn open(backend: Arc<dyn StorageBackend>, place: IndexPlace, options: ChunkStoreOptions) -> Result<ChunkStore> {
        let index_options = IndexOptions {
            cache_bytes: options.index_cache_bytes,
            checked_bytes: options.checked_index_bytes,
            journal_bytes: options.index_journal_bytes,
            read_only: options.read_only,
        };
        let index = Index::open(place, index_options)?;
        let index_checked = index.disk_bytes()? < options.checked_index_bytes;
        let mut log = super::recovery::recover(&backend, &index, &options)?;
        let returned = log.returned.take();
        let mend_refs = log.refs_in_doubt && !options.read_only;
        let store = ChunkStore {
            inner: Arc::new(Inner {
                backend,
                index,
                options,
                room: RoomGauge::default(),
                log: Mutex::new(log),
                pending: RwLock::default(),
                shield: Mutex::default(),
                commit: Mutex::default(),
                chains: Mutex::default(),
                checkpoint: Mutex::default(),
                collecting: Mutex::default(),
                deltas_allowed: AtomicBool::new(false),
                readers: Mutex::new(LruCache::new(OPEN_PACKS)),
                index_checked: AtomicBool::new(index_checked),
                index_sound: Mutex::new(index_checked.then(Instant::now)),
                index_rebuilds: AtomicU64::new(0),
                next_session: AtomicU64::new(0),
            }),
        };
        if mend_refs {
            store.mend_refs()?;
        }
        if let Some(outrun) = returned {
            store.keep_in_use(outrun)?;
        }
        Ok(store)
    }

    /// Where the chunk or manifest `hash` lies, if it is stored.
    pub fn locate(&self, hash: &Hash, kind: RecordKind) -> Result<Option<Entry>> {
        let pending = self.inner.pending.read().unwrap_or_else(PoisonError::into_inner).get(&(kind, *hash)).copied();
        match pending {
            Some(entry) => Ok(Some(entry)),
            None => self.with_sound_index(|index| index.get(hash, kind)),
        }
    }

    /// As [`locate`](ChunkStore::locate) for a chunk; `None` also while others change or check what knows it, or where it shows damage. Of
    /// a large index, pages may have to be read.
    pub(super) fn locate_at_hand(&self, hash: &Hash) -> Option<Entry> {
        let pending = self.inner.pending.try_read().ok()?.get(&(RecordKind::Chunk, *hash)).copied();
        pending.or_else(|| self.inner.index.get_at_hand(hash, RecordKind::Chunk))
    }

    /// True if the chunk `hash` is stored, and so are the bases that it needs. Nothing keeps it from being collected.
    pub fn has_chain(&self, hash: &Hash) -> Result<bool> {
        let mut at = *hash;
        for _ in 0..=limits::DELTA_DEPTH {
            match self.locate(&at, RecordKind::Chunk)? {
                None => return Ok(false),
                Some(Entry { base: None, .. }) => return Ok(true),
                Some(Entry { base: Some(base), .. }) => at = base,
            }
        }
        Ok(false)
    }

    /// Forgets the records from `position` on, which could not be written. All of them: encoded anew in part, chunks could be each
    /// other's bases, while what was appended first leaves all of them readable.
    pub(super) fn forget_from(&self, position: Position) {
        let mut pending = self.inner.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|_, entry| entry.position < position);
    }

    /// Runs `act` on the index; if that shows damage, rebuilds the index from the packs and runs it again.
    pub(super) fn with_sound_index<T>(&self, act: impl Fn(&Index) -> Result<T>) -> Result<T> {
        let rebuilds = self.inner.index_rebuilds.load(Ordering::Relaxed);
        match act(&self.inner.index) {
            Err(Error::Damaged { what: "index", .. }) if !self.inner.options.read_only => {
                self.rebuild_index(rebuilds)?;
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
        let _checkpoint = lock(&self.inner.checkpoint);
        let mut log = lock(&self.inner.log);
        // Nobody reads between the check, which throws away the pages that redb holds in memory, and the end of a rebuild.
        let _shut = self.inner.index.shut();
        if self.inner.index.is_sound()? {
            *lock(&self.inner.index_sound) = Some(Instant::now());
            return Ok(false);
        }
        if self.inner.options.read_only {
            return Err(Error::Damaged {
                what: "index",
                place: self.inner.index.describe(),
                why: "a page does not match its checksum; open the store for writing to rebuild it".to_owned(),
            });
        }
        self.refill_index(&mut log)?;
        Ok(true)
    }

    /// As [`check_index`](ChunkStore::check_index), unless the index was seen to be sound a moment ago: for what may be asked many times in
    /// a row.
    pub(super) fn check_index_again(&self) -> Result<bool> {
        let recent = lock(&self.inner.index_sound).is_some_and(|at| at.elapsed() < INDEX_CHECKS);
        if recent { Ok(false) } else { self.check_index() }
    }

    /// Rebuilds the index, unless that happened since there were `rebuilds` of them.
    fn rebuild_index(&self, rebuilds: u64) -> Result<()> {
        let _checkpoint = lock(&self.inner.checkpoint);
        self.rebuild_with_checkpoint(rebuilds)
    }

    /// As `rebuild_index`, for a caller that holds the checkpoint lock.
    fn rebuild_with_checkpoint(&self, rebuilds: u64) -> Result<()> {
        let mut log = lock(&self.inner.log);
        let _shut = self.inner.index.shut();
        match self.inner.index_rebuilds.load(Ordering::Relaxed) == rebuilds {
            true => self.refill_index(&mut log),
            false => Ok(()),
        }
    }

    /// Refills the index from the packs. What is pending stays so, and is taken in again with the next checkpoint. The caller holds
    /// the checkpoint lock and has shut the index.
    fn refill_index(&self, log: &mut LogState) -> Result<()> {
        tracing::warn!("the index is damaged and is rebuilt from the packs");
        log.writer.seal()?;
        self.inner.index.reset()?;
        let (next, next_seq) = (log.writer.end().pack, log.next_seq);
        let (covered, packs) = super::recovery::refill(&*self.inner.backend, &self.inner.index, next, next_seq)?;
        log.writer.note_sealed(&packs);
        log.next_seq = covered.next_seq;
        log.committed = Some(covered);
        self.inner.index_rebuilds.fetch_add(1, Ordering::Relaxed);
        *lock(&self.inner.index_sound) = Some(Instant::now());
        Ok(())
    }

    /// Makes sure that no program opens the store which knows neither deltas nor versions of other scopes.
    pub fn raise_format(&self) -> Result<()> {
        // The lock orders the change before whatever relies on it.
        let _chains = lock(&self.inner.chains);
        self.allow_deltas()
    }

    /// As [`raise_format`](ChunkStore::raise_format). The caller holds the lock on `chains`.
    pub(super) fn allow_deltas(&self) -> Result<()> {
        if let Some(directory) = &self.inner.options.directory
            && !self.inner.deltas_allowed.load(Ordering::Relaxed)
        {
            StoreDirectory::allow_deltas(directory)?;
        }
        self.inner.deltas_allowed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Appends a chunk or manifest record. It is found by [`locate`](ChunkStore::locate) at once, and durable after the next
    /// [`checkpoint`](ChunkStore::checkpoint). True if one is due.
    pub(super) fn append_record(&self, record: &Record<'_>) -> Result<(RecordHeader, bool)> {
        let (header, due, full) = self.begin_record(record)?;
        self.write_buffer(full)?;
        Ok((header, due))
    }

    /// Writes a buffer that [`begin_record`](ChunkStore::begin_record) has filled.
    pub(super) fn write_buffer(&self, full: Option<FullBuffer>) -> Result<()> {
        let written = full.map_or(Ok(()), FullBuffer::write);
        written.inspect_err(|error| lock(&self.inner.log).writer.fail(error))
    }

    /// As [`append_record`](ChunkStore::append_record), for a caller that holds a lock: a buffer that is full now is to be written
    /// without it.
    pub(super) fn begin_record(&self, record: &Record<'_>) -> Result<(RecordHeader, bool, Option<FullBuffer>)> {
        self.writable()?;
        // A record that no reader would accept must not enter the log: recovery would cut it, and all that follows.
        let (found, limit) = (record.payload.len().max(record.plain_len as usize), record.kind.limit());
        if found > limit {
            let what = if record.kind == RecordKind::Manifest { "a manifest, in bytes," } else { "a chunk, in bytes," };
            return Err(Error::Limit { what, found: found as u64, limit: limit as u64 });
        }
        let mut log = lock(&self.inner.log);
        let (header, position, full_buffer) = log.writer.append(record)?;
        let entry = Entry::of(&header, record.base, position);
        let pending = ((record.kind, record.hash), entry);
        self.inner.pending.write().unwrap_or_else(PoisonError::into_inner).extend([pending]);
        log.bytes_since_checkpoint += header.record_len();
        log.entries_since_checkpoint += 1;
        let due = log.bytes_since_checkpoint >= CHECKPOINT_BYTES || log.entries_since_checkpoint >= CHECKPOINT_ENTRIES;
        Ok((header, due, full_buffer))
    }

    /// Syncs the log, then commits to the index what was appended before the call. Entries and refs become visible to other
    /// processes, and refs to this one, only here.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_with(IndexChange::default())
    }

    pub(super) fn checkpoint_with(&self, mut change: IndexChange) -> Result<()> {
        let _checkpoint = lock(&self.inner.checkpoint);
        let (writer, covered, refs, committed) = {
            let mut log = lock(&self.inner.log);
            let writer = log.writer.prepare_sync()?;
            log.bytes_since_checkpoint = 0;
            log.entries_since_checkpoint = 0;
            change.packs = log.writer.take_sealed();
            let covered = Covered { end: log.writer.end(), next_seq: log.next_seq };
            (writer, covered, log.pending_refs.clone(), log.committed)
        };
        let end = covered.end;
        let refs_len = refs.len();
        {
            let pending = self.inner.pending.read().unwrap_or_else(PoisonError::into_inner);
            let behind = pending.iter().filter(|(_, entry)| entry.position < end);
            change.entries.extend(behind.map(|((_, hash), entry)| (*hash, *entry)));
        }
        // Copies that a collection made come first: what was committed since has a higher number.
        change.refs.extend(refs);
        if change.is_empty() && committed == Some(covered) {
            return Ok(());
        }
        if let Some(writer) = writer.filter(|_| committed.is_none_or(|committed| committed.end != end)) {
            writer.sync().inspect_err(|error| lock(&self.inner.log).writer.fail(error))?;
        }
        change.covered = Some(covered);
        self.apply(&change).inspect_err(|error| lock(&self.inner.log).writer.fail(error))?;
        {
            let mut log = lock(&self.inner.log);
            log.pending_refs.drain(..refs_len);
            log.committed = Some(covered);
        }
        self.inner.pending.write().unwrap_or_else(PoisonError::into_inner).retain(|_, entry| entry.position >= end);
        Ok(())
    }

    /// Applies `change`; an index that turns out to be damaged is rebuilt first. The caller holds the checkpoint lock.
    fn apply(&self, change: &IndexChange) -> Result<()> {
        let rebuilds = self.inner.index_rebuilds.load(Ordering::Relaxed);
        match self.inner.index.apply(change) {
            Err(Error::Damaged { what: "index", .. }) => {
                self.rebuild_with_checkpoint(rebuilds)?;
                self.inner.index.apply(change)
            }
            outcome => outcome,
        }
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

    /// The pack `id`, if it is open.
    pub(super) fn open_pack(&self, id: PackId) -> Option<Arc<dyn ObjectReader>> {
        lock(&self.inner.readers).get(&id).map(Arc::clone)
    }

    pub(super) fn forget_pack(&self, id: PackId) {
        lock(&self.inner.readers).pop(&id);
    }

    /// True when every change is refused.
    pub fn is_read_only(&self) -> bool {
        self.inner.options.read_only
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
