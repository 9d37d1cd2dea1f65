//! The redb database under the index: where it lies, how it is opened, and what its failures mean.
//!
//! redb trusts the pages of a database that was closed cleanly, and may panic on one that was altered since. Three things keep such
//! damage from a caller: a small database is checked page by page when it is opened, a large one before anything is reported as
//! missing and before garbage is collected, and every call goes through [`guard`], which turns a panic into [`Error::Damaged`].

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase, TableDefinition};

use crate::backend::sync_directory;
use crate::backend::testing::FaultDisk;
use crate::error::{Error, Result};
use crate::store::overlay::{Base, Overlay};

pub(super) const CHUNKS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("chunks");
pub(super) const MANIFESTS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("manifests");
pub(super) const REFS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("refs");
pub(super) const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");

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

    /// Opens the database, or creates an empty one. `checked`: only after each page has been verified.
    pub(super) fn open(&self, cache_bytes: usize, checked: bool) -> Result<Database> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(checked);
        guard(self, "open", || {
            let database = match self {
                IndexPlace::File(path) => create(&builder, path)?,
                IndexPlace::Memory => builder.create_with_backend(redb::backends::InMemoryBackend::new())?,
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
            IndexPlace::File(path) => match std::fs::remove_file(path).and_then(|()| sync_parent(path)) {
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

/// The file of the index inside a store's directory.
pub fn index_path(directory: &Path) -> PathBuf {
    directory.join("index.redb")
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn create(builder: &Builder, path: &Path) -> Result<Database, redb::Error> {
    let fresh = !path.exists();
    let database = builder.create(path)?;
    if fresh {
        sync_parent(path)?;
    }
    Ok(database)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    match database.begin_read()?.open_table(STATE) {
        Ok(_) => return Ok(()),
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let transaction = database.begin_write()?;
    transaction.open_table(CHUNKS)?;
    transaction.open_table(MANIFESTS)?;
    transaction.open_table(REFS)?;
    transaction.open_table(STATE)?;
    transaction.commit()?;
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
pub(super) fn close(database: Option<Database>) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
}
