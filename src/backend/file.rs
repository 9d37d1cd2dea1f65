//! Objects as files below one directory. Durable names: the directory is synced after each create, truncate and delete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::{ObjectInfo, ObjectReader, ObjectWriter, Room, StorageBackend};

/// A file that takes so much more room than it has bytes was not closed: its writer had reserved some.
const SPARE_BYTES: u64 = 1 << 20;

/// What is reserved is at most one part in so many of what is free: the rest is for others, and for what else a store writes.
#[cfg(target_os = "linux")]
const PLENTY: u64 = 8;

/// Local files: the default backend.
#[derive(Debug, Clone)]
pub struct FileBackend {
    directory: PathBuf,
}

impl FileBackend {
    /// A backend on `directory`, which must exist. Names hold no `/`: all objects are files right in it.
    pub fn new(directory: impl Into<PathBuf>) -> FileBackend {
        FileBackend { directory: directory.into() }
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        match name.is_empty() || name.contains('/') || name.starts_with('.') {
            true => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("object name {name:?}"))),
            false => Ok(self.directory.join(name)),
        }
    }
}

/// Makes the entries of `directory` durable: names created, renamed or deleted in it.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl StorageBackend for FileBackend {
    fn create(&self, name: &str) -> io::Result<Arc<dyn ObjectWriter>> {
        let file = OpenOptions::new().append(true).create_new(true).open(self.path(name)?)?;
        sync_directory(&self.directory)?;
        Ok(Arc::new(FileWriter::new(file)))
    }

    fn resume(&self, name: &str, len: u64) -> io::Result<Arc<dyn ObjectWriter>> {
        let file = OpenOptions::new().append(true).open(self.path(name)?)?;
        let metadata = file.metadata()?;
        let found = metadata.len();
        if found < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{found} bytes where {len} were expected"),
            ));
        }
        // After a crash there may be what its writer reserved.
        let spare = metadata.blocks().saturating_mul(512) > len.saturating_add(SPARE_BYTES);
        if found > len || spare {
            file.set_len(len)?;
            file.sync_all()?;
        }
        Ok(Arc::new(FileWriter::new(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ObjectReader>> {
        Ok(Arc::new(FileReader(File::open(self.path(name)?)?)))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with(prefix) {
                continue;
            }
            // Through links: whoever moved a pack to another disk left one in its place.
            match fs::metadata(entry.path()) {
                Ok(found) if found.is_file() => objects.push(ObjectInfo { name, len: found.len() }),
                // A directory, or deleted meanwhile.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        objects.sort();
        Ok(objects)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)?;
        sync_directory(&self.directory)
    }

    fn room(&self) -> Option<Room> {
        let found = rustix::fs::statvfs(&self.directory).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        // File systems without bounds say that they have no blocks at all.
        (found.f_blocks > 0).then(|| Room { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

#[derive(Debug)]
struct FileWriter {
    file: File,
    /// Whether there may be room behind the end of the file that was never written to.
    reserved: AtomicBool,
}

impl FileWriter {
    fn new(file: File) -> FileWriter {
        FileWriter { file, reserved: AtomicBool::new(false) }
    }

    /// Has the file system find room for `len` bytes from `offset` on, where there is plenty. The file becomes no longer. Where that is not
    /// supported, the writes themselves find out.
    #[cfg(target_os = "linux")]
    fn reserve(&self, offset: u64, len: u64) {
        use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
        let free = fstatvfs(&self.file).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
        if free / PLENTY < len {
            return;
        }
        self.reserved.store(true, Ordering::Relaxed);
        let _ = fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len);
    }

    #[cfg(not(target_os = "linux"))]
    fn reserve(&self, _offset: u64, _len: u64) {}
}

impl Drop for FileWriter {
    /// Gives back the room that was reserved and not written to.
    fn drop(&mut self) {
        if self.reserved.load(Ordering::Relaxed) {
            // A store has its directory to itself, so the length is still what this writer has made it.
            let _ = self.file.metadata().and_then(|found| self.file.set_len(found.len()));
        }
    }
}

impl ObjectWriter for FileWriter {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_writing(&self, offset: u64, len: u64) {
        // The kernel answers this advice by starting write-back of the range, and drops only what is clean already. It cuts
        // the sync at the end of a 74 MB put from 31 to 3 ms. Where it is not supported, the sync takes longer: nothing else.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), rustix::fs::Advice::DontNeed);
        // Room for what follows, in one piece: the file system then has it at hand for each page that is written.
        self.reserve(offset + len, 2 * len);
    }
}

#[derive(Debug)]
struct FileReader(File);

impl ObjectReader for FileReader {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    #[cfg(target_os = "linux")]
    fn read_at_hand(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let len = buffer.len();
        let parts = &mut [io::IoSliceMut::new(buffer)];
        rustix::io::preadv2(&self.0, parts, offset, rustix::io::ReadWriteFlags::NOWAIT).is_ok_and(|read| read == len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_shows_nowhere_and_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path());
        let writer = backend.create("pack").unwrap();
        writer.append(&[7; 1 << 20]).unwrap();
        writer.start_writing(0, 1 << 20);
        let found = fs::metadata(directory.path().join("pack")).unwrap();
        assert_eq!(found.len(), 1 << 20);
        writer.append(&[8; 100]).unwrap();
        drop(writer);
        let found = fs::metadata(directory.path().join("pack")).unwrap();
        assert_eq!(found.len(), (1 << 20) + 100);
        assert!(found.blocks() * 512 < (1 << 20) + (256 << 10), "{} blocks are kept", found.blocks());

        // As after a kill.
        let writer = backend.resume("pack", found.len()).unwrap();
        writer.start_writing(0, 1 << 20);
        std::mem::forget(writer);
        drop(backend.resume("pack", found.len()).unwrap());
        let found = fs::metadata(directory.path().join("pack")).unwrap();
        assert_eq!(found.len(), (1 << 20) + 100);
        assert!(found.blocks() * 512 < (1 << 20) + (256 << 10), "{} blocks are kept", found.blocks());
    }

    #[test]
    fn what_is_at_hand_is_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path());
        backend.create("pack").unwrap().append(b"some bytes").unwrap();
        let reader = backend.open("pack").unwrap();
        let mut buffer = [0; 5];
        if reader.read_at_hand(5, &mut buffer) {
            assert_eq!(&buffer, b"bytes");
        }
        assert!(!reader.read_at_hand(6, &mut buffer), "the object ends before");
    }
}
