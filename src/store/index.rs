//! The index: where every chunk and manifest lies, and the state of every ref. A cache of the packs, kept in redb.
//!
//! Invariant: an entry exists only for bytes that are already synced in a pack. The index can be deleted at any time while the
//! store is closed; [`recovery`](crate::store) rebuilds it whole from the packs.
//!
//! redb trusts its pages once a database was closed cleanly, and may panic on one that was altered since. Every call therefore
//! goes through `guard`, which turns such a panic into [`Error::Damaged`], and values carry a checksum of their own.

use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use crate::backend::testing::FaultDisk;
use crate::chunk::Codec;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::store::pack::{PackId, RECORD_HEADER_BYTES, RecordHeader, RecordKind};

const ENTRIES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("entries");
const REFS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("refs");
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
const COVERED: &str = "covered";
const INDEX_VERSION: u32 = 1;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The pack.
    pub pack: PackId,
    /// Bytes from its start.
    pub offset: u32,
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
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(&self.position.pack.to_le_bytes());
        bytes.extend_from_slice(&self.position.offset.to_le_bytes());
        bytes.push(u8::from(self.live));
        bytes.extend_from_slice(&self.record);
        let crc = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<RefEntry> {
        let (fixed, record) = bytes.split_first_chunk::<REF_FIXED>()?;
        let [c0, c1, c2, c3, seq @ .., p0, p1, p2, p3, o0, o1, o2, o3, live] = *fixed;
        if crc32c::crc32c(&bytes[4..]) != u32::from_le_bytes([c0, c1, c2, c3]) {
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

impl Covered {
    fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&INDEX_VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.end.pack.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.end.offset.to_le_bytes());
        bytes[12..].copy_from_slice(&self.next_seq.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Covered> {
        let [v0, v1, v2, v3, p0, p1, p2, p3, o0, o1, o2, o3, seq @ ..] = *bytes.first_chunk::<20>()?;
        let end = Position { pack: u32::from_le_bytes([p0, p1, p2, p3]), offset: u32::from_le_bytes([o0, o1, o2, o3]) };
        let known = bytes.len() == 20 && u32::from_le_bytes([v0, v1, v2, v3]) == INDEX_VERSION;
        known.then(|| Covered { end, next_seq: u64::from_le_bytes(seq) })
    }
}

/// What one durable transaction changes.
#[derive(Debug, Default)]
pub(super) struct IndexChange {
    /// New or moved entries.
    pub(super) entries: Vec<(Hash, Entry)>,
    /// Entries that go only while they still lie at the given position.
    pub(super) removed: Vec<(Hash, Position)>,
    /// Latest states of ref entities, by entity key.
    pub(super) refs: Vec<(Vec<u8>, RefEntry)>,
    /// Ref entities that are forgotten altogether, if their latest record still lies at the given position.
    pub(super) forgotten_refs: Vec<(Vec<u8>, Position)>,
    /// The log is covered up to here, and the next ref gets this number.
    pub(super) covered: Option<Covered>,
    /// Entries whose record was copied: they move only while they still lie at the old position.
    pub(super) moved: Vec<(Hash, Position, Entry)>,
}

/// Where the index database is kept.
#[derive(Debug, Clone)]
pub enum IndexPlace {
    /// A file, locked by the store that holds it.
    File(PathBuf),
    /// Memory; rebuilt from the packs at each open.
    Memory,
    /// The test disk.
    FaultDisk(FaultDisk),
}

/// The index database.
#[derive(Debug)]
pub(super) struct Index {
    place: IndexPlace,
    /// `None` only while the database is being replaced.
    database: RwLock<Option<Handle>>,
}

enum Handle {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handle::Writable(_) => "Writable",
            Handle::ReadOnly(_) => "ReadOnly",
        })
    }
}

impl Handle {
    fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(match self {
            Handle::Writable(database) => database.begin_read()?,
            Handle::ReadOnly(database) => database.begin_read()?,
        })
    }

    fn writable(&self) -> Result<&Database, redb::Error> {
        match self {
            Handle::Writable(database) => Ok(database),
            Handle::ReadOnly(_) => Err(redb::Error::Io(std::io::ErrorKind::ReadOnlyFilesystem.into())),
        }
    }
}

impl Index {
    /// Opens the index, or creates an empty one. A database that cannot be read is replaced by an empty one; the log refills it.
    pub(super) fn open(place: IndexPlace, cache_bytes: usize) -> Result<Index> {
        let database = match open_database(&place, cache_bytes) {
            Ok(database) => database,
            Err(error) if is_environment(&error) => return Err(error),
            Err(error) => {
                tracing::warn!("the index is rebuilt from the packs: {error}");
                remove_database(&place)?;
                open_database(&place, cache_bytes)?
            }
        };
        Ok(Index { place, database: RwLock::new(Some(Handle::Writable(database))) })
    }

    /// Opens the index without changing it. Where that is not possible (there is none, or it was not closed) an empty one in memory
    /// stands in, and the log refills it.
    pub(super) fn open_read_only(place: IndexPlace, cache_bytes: usize) -> Result<Index> {
        let IndexPlace::File(path) = &place else { return Index::open(place, cache_bytes) };
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let opened = guard(&place, "open", || {
            let database = builder.open_read_only(path)?;
            database.begin_read()?.open_table(STATE)?;
            Ok(database)
        });
        match opened {
            Ok(database) => Ok(Index { place, database: RwLock::new(Some(Handle::ReadOnly(database))) }),
            Err(error) => {
                tracing::debug!("the index is refilled in memory: {error}");
                Index::open(IndexPlace::Memory, cache_bytes)
            }
        }
    }

    /// Forgets everything, so that the log can refill the index.
    pub(super) fn reset(&self, cache_bytes: usize) -> Result<()> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let old = database.take();
        // A damaged database may panic when it is closed.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(old)));
        remove_database(&self.place)?;
        *database = Some(Handle::Writable(open_database(&self.place, cache_bytes)?));
        Ok(())
    }

    /// The database's name for messages.
    pub(super) fn describe(&self) -> String {
        self.place.describe()
    }

    fn with<T>(&self, action: &'static str, act: impl FnOnce(&Handle) -> Result<T, redb::Error>) -> Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else { return Err(self.place.damaged("it is closed")) };
        guard(&self.place, action, || act(database))
    }

    /// Where `hash` lies.
    pub(super) fn get(&self, hash: &Hash) -> Result<Option<Entry>> {
        let value = self.with("look a chunk up", |database| {
            let transaction = database.begin_read()?;
            let entries = transaction.open_table(ENTRIES)?;
            Ok(entries.get(hash.as_bytes())?.map(|value| Entry::decode(value.value())))
        })?;
        value.map(|entry| entry.ok_or_else(|| self.place.damaged("an entry cannot be read"))).transpose()
    }

    /// Calls `visit` for every entry, in order of hash.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Hash, Entry)) -> Result<()> {
        let sound = self.with("list its entries", |database| {
            let transaction = database.begin_read()?;
            for row in transaction.open_table(ENTRIES)?.iter()? {
                let (key, value) = row?;
                let Some(entry) = Entry::decode(value.value()) else { return Ok(false) };
                visit(Hash::from_bytes(*key.value()), entry);
            }
            Ok(true)
        })?;
        if sound { Ok(()) } else { Err(self.place.damaged("an entry cannot be read")) }
    }

    /// Bytes of the database on disk.
    pub(super) fn disk_bytes(&self) -> Result<u64> {
        match &self.place {
            IndexPlace::File(path) => {
                Ok(std::fs::metadata(path).map_err(|error| Error::io("read", path, error))?.len())
            }
            IndexPlace::Memory | IndexPlace::FaultDisk(_) => Ok(0),
        }
    }

    /// The state of the ref entity `key`, removals included.
    pub(super) fn get_ref(&self, key: &[u8]) -> Result<Option<RefEntry>> {
        let value = self.with("look a ref up", |database| {
            let transaction = database.begin_read()?;
            Ok(transaction.open_table(REFS)?.get(key)?.map(|value| RefEntry::decode(value.value())))
        })?;
        value.map(|entry| entry.ok_or_else(|| self.place.damaged("a ref cannot be read"))).transpose()
    }

    /// The ref entities whose keys start with `prefix`, removals included, in order of key.
    pub(super) fn refs(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, RefEntry)>> {
        let rows = self.with("list refs", |database| {
            let transaction = database.begin_read()?;
            let refs = transaction.open_table(REFS)?;
            let mut rows = Vec::new();
            for row in refs.range::<&[u8]>((Bound::Included(prefix), Bound::Unbounded))? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_vec(), RefEntry::decode(value.value())));
            }
            Ok(rows)
        })?;
        let damaged = || self.place.damaged("a ref cannot be read");
        rows.into_iter().map(|(key, entry)| Ok((key, entry.ok_or_else(damaged)?))).collect()
    }

    /// How much of the log the index covers.
    pub(super) fn covered(&self) -> Result<Covered> {
        let value = self.with("read its state", |database| {
            let transaction = database.begin_read()?;
            Ok(transaction.open_table(STATE)?.get(COVERED)?.map(|value| value.value().to_vec()))
        })?;
        let Some(value) = value else { return Ok(Covered::default()) };
        Covered::decode(&value).ok_or_else(|| self.place.damaged("its state cannot be read"))
    }

    /// Applies `change` in one durable transaction.
    pub(super) fn apply(&self, mut change: IndexChange) -> Result<()> {
        // redb inserts neighbours faster than strangers.
        change.entries.sort_unstable_by_key(|(hash, _)| *hash);
        self.with("commit", |database| {
            let mut transaction = database.writable()?.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let mut entries = transaction.open_table(ENTRIES)?;
                let lies_at = |entries: &redb::Table<&[u8; 32], &[u8]>, hash: &Hash, position: Position| {
                    let found = entries.get(hash.as_bytes())?.and_then(|value| Entry::decode(value.value()));
                    Ok::<_, redb::Error>(found.is_some_and(|entry| entry.position == position))
                };
                for (hash, entry) in &change.entries {
                    entries.insert(hash.as_bytes(), entry.encode().as_slice())?;
                }
                for (hash, from, entry) in &change.moved {
                    if lies_at(&entries, hash, *from)? {
                        entries.insert(hash.as_bytes(), entry.encode().as_slice())?;
                    }
                }
                for (hash, position) in &change.removed {
                    if lies_at(&entries, hash, *position)? {
                        entries.remove(hash.as_bytes())?;
                    }
                }
                let mut refs = transaction.open_table(REFS)?;
                for (key, entry) in &change.refs {
                    let newer = refs.get(key.as_slice())?.and_then(|value| RefEntry::decode(value.value()));
                    if newer.is_none_or(|newer| newer.seq <= entry.seq) {
                        refs.insert(key.as_slice(), entry.encode().as_slice())?;
                    }
                }
                for (key, position) in &change.forgotten_refs {
                    let latest = refs.get(key.as_slice())?.and_then(|value| RefEntry::decode(value.value()));
                    if latest.is_some_and(|latest| latest.position == *position) {
                        refs.remove(key.as_slice())?;
                    }
                }
                if let Some(covered) = change.covered {
                    transaction.open_table(STATE)?.insert(COVERED, covered.encode().as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Reads every page and checks its checksum; false when any does not match.
    pub(super) fn is_sound(&self) -> bool {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let checked = match database.as_mut() {
            Some(Handle::Writable(database)) => guard(&self.place, "check itself", || Ok(database.check_integrity()?)),
            // A read-only database cannot be checked page by page; walking its rows shows what a reader would meet.
            Some(Handle::ReadOnly(_)) => return true,
            None => return false,
        };
        checked.unwrap_or(false)
    }
}

impl IndexPlace {
    fn describe(&self) -> String {
        match self {
            IndexPlace::File(path) => path.display().to_string(),
            IndexPlace::Memory => "memory".to_owned(),
            IndexPlace::FaultDisk(_) => "fault-disk:index".to_owned(),
        }
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged { what: "index", place: self.describe(), why: why.to_owned() }
    }
}

/// Runs `act` on the database; damage, also where redb panics over it, becomes [`Error::Damaged`].
fn guard<T>(place: &IndexPlace, action: &'static str, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Corrupted(why))) => Err(place.damaged(&why)),
        Ok(Err(redb::Error::Io(source))) => Err(Error::io("use", place.describe(), source)),
        Ok(Err(error)) => Err(Error::index(action, error)),
        Err(_) => Err(place.damaged("its pages contradict each other")),
    }
}

/// True for what rebuilding the index would not mend: no space, no permission, no such directory.
fn is_environment(error: &Error) -> bool {
    match error {
        Error::NoSpace { .. } | Error::ReadOnly { .. } => true,
        Error::Io { source, .. } => {
            !matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

fn open_database(place: &IndexPlace, cache_bytes: usize) -> Result<Database> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    guard(place, "open", || {
        let database = match place {
            IndexPlace::File(path) => builder.create(path)?,
            IndexPlace::Memory => builder.create_with_backend(redb::backends::InMemoryBackend::new())?,
            IndexPlace::FaultDisk(disk) => builder.create_with_backend(disk.index_storage())?,
        };
        let exists = match database.begin_read()?.open_table(STATE) {
            Ok(_) => true,
            Err(redb::TableError::TableDoesNotExist(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !exists {
            let transaction = database.begin_write()?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(REFS)?;
            transaction.open_table(STATE)?;
            transaction.commit()?;
        }
        Ok(database)
    })
}

fn remove_database(place: &IndexPlace) -> Result<()> {
    match place {
        IndexPlace::File(path) => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("replace", path, error)),
            _ => Ok(()),
        },
        IndexPlace::Memory => Ok(()),
        IndexPlace::FaultDisk(disk) => {
            disk.index_storage().clear();
            Ok(())
        }
    }
}

/// The file of the index inside a store's directory.
pub fn index_path(directory: &Path) -> PathBuf {
    directory.join("index.redb")
}
