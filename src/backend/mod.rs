//! Where packs live: a seam of whole named objects that are created, appended to, finished, read by range, listed and deleted.
//!
//! A store asks three promises of a [`StorageBackend`]:
//!
//! 1. [`create`](StorageBackend::create) is exclusive, and the new name is durable when it returns.
//! 2. What was appended before [`ObjectWriter::sync`] returned survives a crash, byte for byte. What was appended after may
//!    survive whole, in part, or not at all.
//! 3. [`delete`](StorageBackend::delete) is durable when it returns, and readers that already hold the object keep reading it.
//!
//! [`FileBackend`] keeps objects as files below a directory, [`MemoryBackend`] keeps them in memory, and
//! [`testing::FaultDisk`] keeps a durable image apart from the live one, to show what a crash would leave, and `ObjectBackend` (feature
//! `remote`) keeps them in an object store. Each passes the one suite in [`conformance`], and so should yours.

pub mod conformance;
mod file;
mod memory;
#[cfg(feature = "remote")]
pub mod object;
pub mod testing;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use file::FileBackend;
pub(crate) use file::sync_directory;
pub use memory::MemoryBackend;
#[cfg(feature = "remote")]
pub use object::{ObjectBackend, ObjectOptions};

/// An object as [`StorageBackend::list`] reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// The object's name, `/`-separated.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// How much room a [`StorageBackend`] has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What can still be written.
    pub free: u64,
    /// That, and all that is taken, by whomever.
    pub total: u64,
}

/// A byte store under the chunk store. See the [module](self) for what it must promise.
pub trait StorageBackend: Debug + Send + Sync {
    /// Creates `name`; fails with [`io::ErrorKind::AlreadyExists`] if it is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn ObjectWriter>>;

    /// Continues `name` after its first `len` bytes and drops what follows them, durably.
    ///
    /// A backend whose objects cannot change once written answers [`io::ErrorKind::Unsupported`]; the store then starts a new pack.
    fn resume(&self, name: &str, len: u64) -> io::Result<Arc<dyn ObjectWriter>>;

    /// Opens `name` for reading.
    fn open(&self, name: &str) -> io::Result<Arc<dyn ObjectReader>>;

    /// The objects whose names start with `prefix`, in order of name.
    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>>;

    /// Deletes `name`.
    fn delete(&self, name: &str) -> io::Result<()>;

    /// How much room there is, where that is known and bounded. Asked every few megabytes.
    fn room(&self) -> Option<Room> {
        None
    }

    /// What people call the object `name`: a path, a URL. In errors and logs.
    fn describe(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

/// The growing end of one object. One thread appends at a time; [`sync`](ObjectWriter::sync) may run beside it.
pub trait ObjectWriter: Debug + Send + Sync {
    /// Adds `bytes` at the end. After an error the object's tail is undefined and the writer must be dropped.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// Returns once everything appended before the call is durable.
    fn sync(&self) -> io::Result<()>;

    /// A hint that `len` bytes from `offset` on will be synced soon: a good moment to begin writing them. Promises nothing.
    fn start_writing(&self, _offset: u64, _len: u64) {}
}

/// An object open for reading. It stays readable after the object was deleted.
pub trait ObjectReader: Debug + Send + Sync {
    /// Length in bytes at the time of the call.
    fn len(&self) -> io::Result<u64>;

    /// True when the object has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills as much of `buffer` as there is from `offset` on, and says how much that was: less only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Fills `buffer` from `offset` on if all of that is in memory; false where it is not, or that cannot be told. Never waits for a disk
    /// or a network, so that threads that may not block can ask.
    fn read_at_hand(&self, _offset: u64, _buffer: &mut [u8]) -> bool {
        false
    }
}
