//! The redb database that a large index is kept in: where it lies, how it is opened, and what its failures mean.
//!
//! redb trusts the pages of a database that was closed cleanly, and may panic on one that was altered since. Three things keep such
//! damage from a caller: a small database is checked page by page when it is opened, a large one before anything is reported as
//! missing and before garbage is collected, and every call goes through [`guard`], which turns a panic into [`Error::Damaged`].

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::backend::testing::FaultDisk;
use crate::backend::{FileBackend, StorageBackend, sync_directory};
use crate::error::{Error, Result};
use crate::store::overlay::{Base, Overlay};
use crate::store::rows::{RowChanges, Table};

const CHUNKS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("chunks");
const MANIFESTS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("manifests");
const REFS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("refs");
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");

/// Where the index is kept.
#[derive(Debug, Clone)]
pub enum IndexPlace {
    /// A file for the database, and `index.journal` beside it for as long as the store is small. Locked by the store that holds it.
    File(PathBuf),
    /// Memory; rebuilt from the packs at each open.
    Memory,
    /// The test disk.
    FaultDisk(FaultDisk),
}

impl IndexPlace {
    pub(super) fn describe(&self) -> String {
        match self {
            IndexPlace::File(path) => path.display().to_string(),
            IndexPlace::Memory => "memory".to_owned(),
            IndexPlace::FaultDisk(_) => "fault-disk:index".to_owned(),
        }
    }

    pub(super) fn damaged(&self, why: &str) -> Error {
        Error::Damaged { what: "index", place: self.describe(), why: why.to_owned() }
    }

    /// Bytes of the database; 0 where there is none.
    pub(super) fn len(&self) -> Result<u64> {
        match self {
            IndexPlace::File(path) => match std::fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
                found => Ok(found.map_err(|error| Error::io("read", path, error))?.len()),
            },
            IndexPlace::Memory => Ok(0),
            IndexPlace::FaultDisk(disk) => Ok(redb::StorageBackend::len(&disk.index_storage()).unwrap_or(0)),
        }
    }

    /// Where the journal lies; `None` for memory.
    pub(super) fn journal(&self) -> Option<Arc<dyn StorageBackend>> {
        match self {
            IndexPlace::File(path) => Some(Arc::new(FileBackend::new(parent(path)))),
            IndexPlace::Memory => None,
            IndexPlace::FaultDisk(disk) => Some(Arc::new(disk.clone())),
        }
    }

    /// Opens the database, or creates an empty one. `checked`: only after each page has been verified.
    pub(super) fn open(&self, cache_bytes: usize, checked: bool) -> Result<Database> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(checked);
        guard(self, "open", || {
            let database = match self {
                IndexPlace::File(path) => create(&builder, path)?,
                IndexPlace::Memory => return Err(redb::Error::Io(io::ErrorKind::NotFound.into())),
                IndexPlace::FaultDisk(disk) => builder.create_with_backend(disk.index_storage())?,
            };
            make_tables(&database)?;
            Ok(database)
        })
    }

    /// Opens a database that is there, and changes nothing of it.
    pub(super) fn open_overlay(&self, cache_bytes: usize, checked: bool) -> Result<Database> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(checked);
        guard(self, "open", || {
            let base = match self {
                IndexPlace::File(path) => Base::File(File::open(path)?),
                IndexPlace::Memory => return Err(redb::Error::Io(io::ErrorKind::NotFound.into())),
                IndexPlace::FaultDisk(disk) => Base::FaultDisk(disk.index_storage()),
            };
            let database = builder.create_with_backend(Overlay::new(base)?)?;
            make_tables(&database)?;
            Ok(database)
        })
    }

    /// Deletes the database, durably: a damaged one must not come back after a crash.
    pub(super) fn remove(&self) -> Result<()> {
        match self {
            IndexPlace::File(path) => match std::fs::remove_file(path).and_then(|()| sync_directory(parent(path))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("replace", path, error)),
                _ => Ok(()),
            },
            IndexPlace::Memory => Ok(()),
            IndexPlace::FaultDisk(disk) => {
                disk.index_storage().clear().map_err(|error| Error::io("replace", self.describe(), error))
            }
        }
    }
}

/// The file of the index database inside a store's directory.
pub fn index_path(directory: &Path) -> PathBuf {
    directory.join("index.redb")
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn create(builder: &Builder, path: &Path) -> Result<Database, redb::Error> {
    let fresh = !path.exists();
    let database = builder.create(path)?;
    if fresh {
        sync_directory(parent(path))?;
    }
    Ok(database)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    match database.begin_read()?.open_table(STATE) {
        Ok(_) => return Ok(()),
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    write(database, &RowChanges::new())
}

/// The definition of `table`, one of entries.
fn entries(table: Table) -> TableDefinition<'static, &'static [u8; 32], &'static [u8]> {
    if table == Table::Manifests { MANIFESTS } else { CHUNKS }
}

fn get_in<K: redb::Key + 'static>(
    database: &Database,
    definition: TableDefinition<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(definition)?;
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

/// The value of the row `key` of `table`.
pub(super) fn get(database: &Database, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
    match table {
        Table::Chunks | Table::Manifests => match key.try_into() {
            Ok(hash) => get_in::<&[u8; 32]>(database, entries(table), hash),
            Err(_) => Ok(None),
        },
        Table::Refs => get_in::<&[u8]>(database, REFS, key),
        Table::State => match std::str::from_utf8(key) {
            Ok(name) => get_in::<&str>(database, STATE, name),
            Err(_) => Ok(None),
        },
    }
}

/// Shows `visit` the rows of the chunks or manifests until it answers false. False if it did.
pub(super) fn scan_entries(
    database: &Database,
    table: Table,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<bool, redb::Error> {
    for row in database.begin_read()?.open_table(entries(table))?.iter()? {
        let (key, value) = row?;
        if !visit(key.value(), value.value()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Shows `visit` the rows of the refs from the key `start` on, until it answers false.
pub(super) fn scan_refs(
    database: &Database,
    start: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), redb::Error> {
    let refs = database.begin_read()?.open_table(REFS)?;
    for row in refs.range::<&[u8]>((Bound::Included(start), Bound::Unbounded))? {
        let (key, value) = row?;
        if !visit(key.value(), value.value()) {
            break;
        }
    }
    Ok(())
}

/// Writes `changes` in one durable transaction.
pub(super) fn write(database: &Database, changes: &RowChanges) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let (mut chunks, mut manifests) = (transaction.open_table(CHUNKS)?, transaction.open_table(MANIFESTS)?);
        let (mut refs, mut state) = (transaction.open_table(REFS)?, transaction.open_table(STATE)?);
        // In order of key: redb inserts neighbours faster than strangers.
        for ((table, key), value) in changes {
            let (key, value) = (key.as_slice(), value.as_deref());
            match table {
                Table::Chunks | Table::Manifests => {
                    let entries = if *table == Table::Chunks { &mut chunks } else { &mut manifests };
                    let hash = key.try_into().map_err(|_| redb::Error::Corrupted("a key is no hash".to_owned()))?;
                    put::<&[u8; 32]>(entries, hash, value)?;
                }
                Table::Refs => put::<&[u8]>(&mut refs, key, value)?,
                Table::State => {
                    let name = std::str::from_utf8(key);
                    let name = name.map_err(|_| redb::Error::Corrupted("a key is no text".to_owned()))?;
                    put::<&str>(&mut state, name, value)?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn put<K: redb::Key + 'static>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
    value: Option<&[u8]>,
) -> Result<(), redb::Error> {
    match value {
        Some(value) => table.insert(key, value)?,
        None => table.remove(key)?,
    };
    Ok(())
}

/// Runs `act` on the database; damage, also where redb panics over it, becomes [`Error::Damaged`].
pub(super) fn guard<T>(
    place: &IndexPlace,
    action: &'static str,
    act: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T> {
    let Ok(outcome) = catch_unwind(AssertUnwindSafe(act)) else {
        return Err(place.damaged("its pages contradict each other"));
    };
    outcome.map_err(|error| match error {
        redb::Error::Corrupted(why) => place.damaged(&why),
        redb::Error::Io(source) => match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => place.damaged(&source.to_string()),
            _ => Error::io("use", place.describe(), source),
        },
        error @ (redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::UpgradeRequired(_)) => place.damaged(&error.to_string()),
        redb::Error::DatabaseAlreadyOpen => Error::Locked { path: place.describe().into(), pid: None },
        error => Error::index(action, error),
    })
}

/// Closes a database that may be damaged: that may panic too, and must not take the caller along.
pub(super) fn close(database: Database) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
}
