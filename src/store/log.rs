//! The growing end of the log: records are buffered, written, synced and, past the pack size, continued in a new pack.
//!
//! Order of events, on which recovery relies: a pack's name is durable before its first write; a pack is synced whole before the
//! next one is created; after a failed write or sync nothing more is written through this writer; and nothing is ever appended
//! behind bytes that are no sound record, since a reader that steps over those may step over what follows too.

use std::sync::Arc;

use crate::backend::{ObjectWriter, StorageBackend};
use crate::error::{Error, Result};
use crate::store::entry::{Position, SealedPacks};
use crate::store::pack::{PACK_HEADER_BYTES, PackId, Record, RecordHeader, pack_header, pack_name};
use crate::store::pack_file::{FullBuffer, PackFile};

/// Bytes that are gathered before they are handed to the backend.
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct ActivePack {
    id: PackId,
    file: Arc<PackFile>,
    /// Bytes handed to the file: where the buffer belongs.
    handed: u64,
}

/// Appends records to the last pack. Callers hold it behind a mutex.
#[derive(Debug)]
pub(super) struct LogWriter {
    backend: Arc<dyn StorageBackend>,
    pack_bytes: u64,
    active: Option<ActivePack>,
    next_pack: PackId,
    /// The packs that are complete.
    sealed: SealedPacks,
    /// Whether that differs from what the index knows.
    sealed_changed: bool,
    /// Bytes that belong behind those handed to the file.
    buffer: Vec<u8>,
    /// Set by the first failed write: what it said.
    failed: Option<String>,
}

impl LogWriter {
    /// A writer that continues pack `last` after `len` bytes, or starts pack `next_pack` at its first record. `packs` are all that
    /// there are, and `known` those that the index knows to be complete.
    pub(super) fn new(
        backend: Arc<dyn StorageBackend>,
        pack_bytes: u64,
        last: Option<(PackId, u64)>,
        next_pack: PackId,
        packs: SealedPacks,
        known: &SealedPacks,
    ) -> Result<LogWriter> {
        let mut log = LogWriter {
            backend,
            pack_bytes,
            active: None,
            next_pack,
            sealed: packs,
            sealed_changed: false,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            failed: None,
        };
        if let Some((id, len)) = last.filter(|&(_, len)| len < pack_bytes) {
            let name = pack_name(id);
            match log.backend.resume(&name, len) {
                Ok(writer) => {
                    log.sealed.remove(&id);
                    log.active = Some(ActivePack { id, file: log.file(id, writer, len), handed: len });
                }
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(error) => return Err(Error::io("continue", log.backend.describe(&name), error)),
            }
        }
        log.sealed_changed = log.sealed != *known;
        Ok(log)
    }

    /// The packs that are complete, if that changed since this was last asked.
    pub(super) fn take_sealed(&mut self) -> Option<SealedPacks> {
        std::mem::take(&mut self.sealed_changed).then(|| self.sealed.clone())
    }

    /// Notes that the complete pack `id` is about to be deleted, or, with a length, that it stays after all.
    pub(super) fn set_sealed(&mut self, id: PackId, len: Option<u64>) {
        match len {
            Some(len) => self.sealed.insert(id, len),
            None => self.sealed.remove(&id),
        };
        self.sealed_changed = true;
    }

    /// Takes over the lengths by which an index that was built anew knows the complete packs.
    pub(super) fn note_sealed(&mut self, packs: &SealedPacks) {
        for (id, len) in &mut self.sealed {
            *len = packs.get(id).copied().unwrap_or(*len);
        }
    }

    /// The first of `packs` that is longer than it is known to be: some of it could not be read.
    pub(super) fn not_whole(&self, packs: &[(PackId, u64)]) -> Option<PackId> {
        let longer = |&&(id, len): &&(PackId, u64)| self.sealed.get(&id).is_some_and(|&known| known < len);
        packs.iter().find(longer).map(|&(id, _)| id)
    }

    /// Where the next record will lie, as far as that is known: the end of the log.
    pub(super) fn end(&self) -> Position {
        match &self.active {
            Some(active) => Position { pack: active.id, offset: (active.handed + self.buffer.len() as u64) as u32 },
            None => Position::start_of(self.next_pack),
        }
    }

    /// The pack that grows, if one is open.
    pub(super) fn active_pack(&self) -> Option<PackId> {
        self.active.as_ref().map(|active| active.id)
    }

    /// Appends `record`; says where it lies. A buffer that is full now is the caller's to write, without the lock on this writer.
    pub(super) fn append(&mut self, record: &Record<'_>) -> Result<(RecordHeader, Position, Option<FullBuffer>)> {
        self.check()?;
        let outcome = self.try_append(|buffer| record.write(buffer));
        let (header, position) = self.remember(outcome)?;
        let full = if self.buffer.len() >= BUFFER_BYTES { self.take_buffer() } else { None };
        Ok((header, position, full))
    }

    /// As [`append`](LogWriter::append), and writes the buffer if it is full.
    pub(super) fn append_small(&mut self, record: &Record<'_>) -> Result<Position> {
        let (_, position, full) = self.append(record)?;
        let outcome = full.map_or(Ok(()), FullBuffer::write);
        self.remember(outcome)?;
        Ok(position)
    }

    /// Appends a record's bytes as they are: how garbage collection moves them.
    pub(super) fn append_copy(&mut self, record: &[u8]) -> Result<Position> {
        self.check()?;
        let outcome = self.try_append(|buffer| buffer.extend_from_slice(record));
        let ((), position) = self.remember(outcome)?;
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(position)
    }

    fn try_append<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> Result<(T, Position)> {
        if self.active.is_none() {
            self.start_pack()?;
        } else if u64::from(self.end().offset) >= self.pack_bytes {
            self.roll()?;
        }
        let position = self.end();
        Ok((write(&mut self.buffer), position))
    }

    /// The buffer, to be written by whoever asks; an empty one takes its place.
    fn take_buffer(&mut self) -> Option<FullBuffer> {
        let active = self.active.as_mut().filter(|_| !self.buffer.is_empty())?;
        let bytes = std::mem::replace(&mut self.buffer, active.file.spare(BUFFER_BYTES));
        let offset = active.handed;
        active.handed += bytes.len() as u64;
        Some(FullBuffer::new(&active.file, offset, bytes))
    }

    fn file(&self, id: PackId, writer: Arc<dyn ObjectWriter>, len: u64) -> Arc<PackFile> {
        Arc::new(PackFile::new(self.backend.describe(&pack_name(id)), writer, len))
    }

    fn start_pack(&mut self) -> Result<()> {
        let (id, writer) = loop {
            let id = self.next_pack;
            let name = pack_name(id);
            self.next_pack = id.checked_add(1).ok_or(Error::Limit {
                what: "number of packs",
                found: id.into(),
                limit: id.into(),
            })?;
            match self.backend.create(&name) {
                Ok(writer) => break (id, writer),
                // Something that is no pack has the name: a directory, say. The next number does as well.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", self.backend.describe(&name), error)),
            }
        };
        self.active = Some(ActivePack { id, file: self.file(id, writer, 0), handed: 0 });
        debug_assert!(self.buffer.is_empty());
        self.buffer.extend_from_slice(&pack_header(id));
        debug_assert_eq!(self.buffer.len(), PACK_HEADER_BYTES);
        Ok(())
    }

    /// Seals the active pack: all of it is synced, and the next record starts a new one.
    pub(super) fn seal(&mut self) -> Result<()> {
        self.check()?;
        let outcome = self.seal_active();
        self.remember(outcome)
    }

    fn seal_active(&mut self) -> Result<()> {
        self.flush()?;
        if let Some(active) = &self.active {
            active.file.sync()?;
            self.sealed.insert(active.id, active.handed);
            self.sealed_changed = true;
            self.active = None;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<()> {
        self.seal_active()?;
        self.start_pack()
    }

    /// Hands the buffer to the backend, so that the records in it can be read.
    pub(super) fn write_out(&mut self) -> Result<()> {
        self.check()?;
        let outcome = self.flush();
        self.remember(outcome)
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(full) = self.take_buffer() {
            return full.write();
        }
        // What other threads took to write may still be on its way.
        self.active.as_ref().map_or(Ok(()), |active| active.file.wait_for(active.handed))
    }

    /// Writes the buffer out; what is left to make it durable is a sync of the answer, which needs no lock on this writer.
    pub(super) fn prepare_sync(&mut self) -> Result<Option<Arc<PackFile>>> {
        self.write_out()?;
        Ok(self.active.as_ref().map(|active| Arc::clone(&active.file)))
    }

    /// Notes that a write or sync failed: from here on every append is refused.
    pub(super) fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.to_string());
    }

    fn remember<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.fail(error);
        }
        outcome
    }

    fn check(&self) -> Result<()> {
        self.failed.as_ref().map_or(Ok(()), |why| Err(Error::WriteFailed { why: why.clone() }))
    }
}
