//! [`PackFile`]: the growing end of one pack, written to by whichever thread has filled a buffer.
//!
//! Appending to the log takes a moment, writing a full buffer a thousand times that. So a thread that fills one takes it along and writes
//! it without the log's lock, while others append to the next. Invariant: buffers reach the file in the order in which they were
//! filled, and none does after one that failed.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::backend::ObjectWriter;
use crate::error::{Error, Result};

/// Bytes after which the backend is asked to begin writing, so that the sync at a commit finds little left to do.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// Written buffers that are kept to be filled again.
const SPARE_BUFFERS: usize = 4;

/// A pack that is open for writing.
#[derive(Debug)]
pub(super) struct PackFile {
    name: PathBuf,
    writer: Arc<dyn ObjectWriter>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug)]
struct Progress {
    /// Bytes that the backend has.
    written: u64,
    /// Bytes that the backend was asked to begin writing.
    started: u64,
    failed: bool,
    spare: Vec<Vec<u8>>,
}

impl PackFile {
    /// The pack called `name`, which has `len` bytes.
    pub(super) fn new(name: PathBuf, writer: Arc<dyn ObjectWriter>, len: u64) -> PackFile {
        let progress = Progress { written: len, started: len, failed: false, spare: Vec::new() };
        PackFile { name, writer, progress: Mutex::new(progress), changed: Condvar::new() }
    }

    /// An empty buffer with room for `bytes`.
    pub(super) fn spare(&self, bytes: usize) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// Returns once the backend has the first `len` bytes.
    pub(super) fn wait_for(&self, len: u64) -> Result<()> {
        self.turn(len).map(drop)
    }

    /// Makes durable what was written before the call.
    pub(super) fn sync(&self) -> Result<()> {
        self.writer.sync().map_err(|error| Error::io("sync", &self.name, error))
    }

    fn turn(&self, written: u64) -> Result<MutexGuard<'_, Progress>> {
        let mut progress = self.lock();
        while progress.written < written && !progress.failed {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        match progress.failed {
            true => Err(Error::WriteFailed { why: format!("an earlier write to {} failed", self.name.display()) }),
            false => Ok(progress),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        // Nobody else has this turn, so the write itself needs no lock.
        drop(self.turn(offset)?);
        self.writer.append(bytes).map_err(|error| Error::io("write", &self.name, error))?;
        let end = offset + bytes.len() as u64;
        let mut progress = self.lock();
        progress.written = end;
        let started = progress.started;
        let start = end - started >= WRITE_BACK_BYTES;
        if start {
            progress.started = end;
        }
        drop(progress);
        self.changed.notify_all();
        if start {
            self.writer.start_writing(started, end - started);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that is full, and its place in the pack. It must be written: the ones after it wait for that.
#[derive(Debug)]
#[must_use]
pub(super) struct FullBuffer {
    file: Arc<PackFile>,
    offset: u64,
    bytes: Vec<u8>,
    written: bool,
}

impl FullBuffer {
    /// `bytes` that belong at `offset` of `file`.
    pub(super) fn new(file: &Arc<PackFile>, offset: u64, bytes: Vec<u8>) -> FullBuffer {
        FullBuffer { file: Arc::clone(file), offset, bytes, written: false }
    }

    /// Writes it, once those before it are written. After an error nothing more is written to the pack.
    pub(super) fn write(mut self) -> Result<()> {
        self.file.write(self.offset, &self.bytes)?;
        self.written = true;
        Ok(())
    }
}

impl Drop for FullBuffer {
    /// A buffer that was not written, whatever the reason, is the last one that the pack gets.
    fn drop(&mut self) {
        let mut progress = self.file.lock();
        if !self.written {
            progress.failed = true;
            self.file.changed.notify_all();
        } else if progress.spare.len() < SPARE_BUFFERS {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            progress.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{MemoryBackend, StorageBackend};

    fn file(backend: &MemoryBackend) -> Arc<PackFile> {
        Arc::new(PackFile::new("pack".into(), backend.create("pack").unwrap(), 0))
    }

    #[test]
    fn buffers_are_written_in_order_whoever_comes_first() {
        let backend = MemoryBackend::default();
        let file = file(&backend);
        let buffers: Vec<FullBuffer> = (0..50).map(|n| FullBuffer::new(&file, 3 * n, vec![n as u8; 3])).collect();
        std::thread::scope(|scope| {
            for buffer in buffers.into_iter().rev() {
                scope.spawn(|| buffer.write().unwrap());
            }
        });
        file.wait_for(150).unwrap();
        let mut bytes = vec![0; 150];
        assert_eq!(backend.open("pack").unwrap().read_at(0, &mut bytes).unwrap(), 150);
        assert!(bytes.is_sorted());
    }

    #[test]
    fn nothing_is_written_behind_a_buffer_that_was_not() {
        let backend = MemoryBackend::default();
        let file = file(&backend);
        let [first, second, third] = [0, 1, 2].map(|n| FullBuffer::new(&file, n, vec![7]));
        first.write().unwrap();
        let waiting = std::thread::spawn(move || third.write());
        drop(second);
        assert!(matches!(waiting.join().unwrap(), Err(Error::WriteFailed { .. })));
        assert!(file.wait_for(3).is_err());
        assert_eq!(backend.open("pack").unwrap().len().unwrap(), 1);
    }
}
