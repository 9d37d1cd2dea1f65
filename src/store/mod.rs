//! The chunk store: chunks, manifests and refs in crash-safe packs, and an index that finds them.
//!
//! **The packs are one log, and the log is the truth.** Records are appended to the newest pack and never changed; the index is
//! a cache of the log and can be rebuilt from it at any time. Manifests are opaque bytes here; what garbage collection must keep
//! is told from above.
//!
//! The life of a put, and where it lies:
//!
//! 1. [`ChunkStore::begin`] opens a [`Session`], which shields what the put relies on from garbage collection (`shield`);
//! 2. [`Session::has`] and [`Session::append`] find and add chunks (`log` buffers and writes them, `pack` gives the bytes);
//! 3. [`Session::commit`] appends the manifest and the refs, **syncs the pack once, then commits the index, then returns**.
//!
//! Whatever the moment of a crash, `recovery` finds the log's last sound record at the next open and cuts what follows: bytes that
//! no commit acknowledged. `gc` goes the other way: the index forgets first, bytes are deleted last.

mod archive;
mod check;
mod chunk_store;
mod database;
mod directory;
mod entry;
mod gc;
mod index;
mod journal;
mod log;
mod overlay;
pub mod pack;
mod pack_file;
mod reader;
mod recovery;
mod reencode;
mod refs;
mod replay;
mod returned;
mod room;
mod rows;
mod salvage;
mod scan;
mod session;
mod shield;

pub use archive::{ArchiveReader, ArchiveRecord, archive_header};
pub use check::DiskUsage;
pub use chunk_store::{ChunkStore, ChunkStoreOptions};
pub use database::{IndexPlace, index_path};
pub use directory::{STORE_FORMAT, StoreDirectory};
pub use entry::{Entry, Position};
pub use gc::{Sweep, SweepReport};
pub use pack::RecordKind;
pub use reader::{ChunkReader, HeldChunks};
pub use reencode::{Reencoding, Replacer};
pub use refs::KeyRefs;
pub use session::{Base, EncodedChunk, Session};
pub use shield::LiveSet;
