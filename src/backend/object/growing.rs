//! [`Object`]: one object as everybody in this process sees it, and [`Growth`], the one who appends to it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::backend::object::Shared;
use crate::backend::object::ahead::{AHEAD_BYTES, Streams};
use crate::backend::object::blocks::BLOCK_BYTES;
use crate::backend::object::catalogue::{Entry, PartId, Run, Waste, each_part, part_path, runs};
use crate::backend::object::remote::UPLOADS;
use crate::backend::{ObjectReader, ObjectWriter};

/// An object that someone holds.
#[derive(Debug)]
pub(super) struct Object {
    shared: Arc<Shared>,
    name: String,
    state: Mutex<State>,
    /// An upload has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    parts: Vec<Part>,
    /// What was appended behind them.
    tail: Vec<u8>,
    /// Uploads under way.
    uploads: usize,
    /// Why one of them failed.
    failed: Option<(io::ErrorKind, String)>,
    /// Its parts are to be deleted once nobody holds it.
    doomed: bool,
    streams: Streams,
}

#[derive(Debug, Clone)]
struct Part {
    offset: u64,
    len: u32,
    id: PartId,
    /// Its bytes, for as long as they are on their way.
    bytes: Option<Bytes>,
}

impl State {
    /// Where the parts end and the tail begins.
    fn parts_end(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.offset + u64::from(part.len))
    }

    fn len(&self) -> u64 {
        self.parts_end() + self.tail.len() as u64
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
        }
    }

    fn stored_runs(&self) -> Vec<Run> {
        let stored = self.parts.iter().take_while(|part| part.bytes.is_none());
        runs(stored.map(|part| (part.len, part.id)))
    }
}

impl Object {
    /// The object `name`, as the catalogue has it.
    pub(super) fn stored(shared: &Arc<Shared>, name: &str, entry: &Entry) -> Object {
        let parts = each_part(0, &entry.parts).map(|(offset, len, id)| Part { offset, len, id, bytes: None }).collect();
        let state = State { parts, ..State::default() };
        Object { shared: Arc::clone(shared), name: name.to_owned(), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn size(&self) -> u64 {
        self.lock().len()
    }

    /// The parts that are stored, and follow each other from the start.
    pub(super) fn stored_parts(&self) -> Vec<Run> {
        self.lock().stored_runs()
    }

    /// All of it, as waste.
    pub(super) fn whole(&self) -> Waste {
        Waste { object: self.name.clone(), offset: 0, parts: self.stored_parts() }
    }

    /// Has its parts deleted once nobody holds it any more.
    pub(super) fn doom(&self) {
        self.lock().doomed = true;
    }

    /// The parts of an object that is doomed, which are the caller's to delete from now on.
    pub(super) fn take_doomed(&self) -> Option<Waste> {
        let doomed = std::mem::take(&mut self.lock().doomed);
        doomed.then(|| self.whole())
    }

    /// True if a part of it could not be uploaded: what is stored is what the catalogue says.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// Drops what follows the first `len` bytes; the answer is what nothing needs any more. A part that is cut keeps its bytes: what
    /// counts is the length that the catalogue gives it.
    pub(super) fn truncate(&self, len: u64) -> io::Result<Option<Waste>> {
        let mut state = self.lock();
        while state.uploads > 0 {
            state = self.wait(state);
        }
        if state.len() < len {
            let why = format!("{} bytes where {len} were expected", state.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let keep = len.saturating_sub(state.parts_end());
        state.tail.truncate(usize::try_from(keep).map_err(io::Error::other)?);
        let first_gone = state.parts.partition_point(|part| part.offset < len);
        let gone = state.parts.split_off(first_gone);
        if let Some(last) = state.parts.last_mut() {
            last.len = last.len.min(u32::try_from(len - last.offset).unwrap_or(u32::MAX));
        }
        let waste = gone.first().map(|first| Waste {
            object: self.name.clone(),
            offset: first.offset,
            parts: runs(gone.iter().map(|part| (part.len, part.id))),
        });
        Ok(waste)
    }

    /// Makes the tail a part of writer `id`, and begins to upload it.
    fn cut_part(self: &Arc<Self>, state: &mut State, id: PartId) {
        if state.tail.is_empty() {
            return;
        }
        let offset = state.parts_end();
        let bytes = Bytes::from(std::mem::take(&mut state.tail));
        state.parts.push(Part { offset, len: bytes.len() as u32, id, bytes: Some(bytes.clone()) });
        state.uploads += 1;
        let object = Arc::clone(self);
        self.shared
            .remote
            .upload(part_path(&self.name, offset, id), bytes, move |outcome| object.uploaded(offset, outcome));
    }

    fn uploaded(&self, offset: u64, outcome: io::Result<()>) {
        let mut state = self.lock();
        state.uploads -= 1;
        match outcome {
            Ok(()) => {
                let at = state.parts.partition_point(|part| part.offset < offset);
                if let Some(part) = state.parts.get_mut(at) {
                    part.bytes = None;
                }
            }
            Err(error) => {
                state.failed.get_or_insert((error.kind(), error.to_string()));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Up to `buffer.len()` bytes from `offset` on; 0 only at the end. What was lost of a part reads as zeros.
    fn read_some(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.lock();
        let part = match state.parts.partition_point(|part| part.offset <= offset).checked_sub(1) {
            Some(at) if offset < state.parts_end() => state.parts[at].clone(),
            _ => {
                let start = usize::try_from(offset.saturating_sub(state.parts_end())).unwrap_or(usize::MAX);
                return Ok(copy(state.tail.get(start..).unwrap_or_default(), buffer));
            }
        };
        drop(state);
        let within = offset - part.offset;
        let left = u64::from(part.len) - within;
        let wanted = (buffer.len() as u64).min(left);
        // A part that was cut has more bytes than count.
        let buffer = &mut buffer[..wanted as usize];
        if let Some(bytes) = &part.bytes {
            let bytes = bytes.get(within as usize..part.len as usize).unwrap_or_default();
            return Ok(copy(bytes, buffer));
        }
        let read = self.read_block(&part, within, wanted);
        let read = read.map(|(block, from)| copy(block.get(from..).unwrap_or_default(), buffer));
        let lost = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone",
            Ok(0) => "is shorter than it was",
            read => return read,
        };
        let place = self.shared.describe(&self.name);
        tracing::warn!("{}: the part from byte {} on {lost}", place.display(), part.offset);
        // No checksum matches these, and what lies behind is still where the catalogue says.
        buffer.fill(0);
        Ok(buffer.len())
    }

    /// The block of `part` that has its byte `within`, and where in the block that is; of the `wanted` bytes there, as many blocks as
    /// have them are fetched with it.
    fn read_block(&self, part: &Part, within: u64, wanted: u64) -> io::Result<(Bytes, usize)> {
        let path: Arc<str> = part_path(&self.name, part.offset, part.id).into();
        let number = within / BLOCK_BYTES;
        self.read_ahead(part.offset + number * BLOCK_BYTES);
        let end = (within + wanted).div_ceil(BLOCK_BYTES);
        let fetch =
            |range: Range<u64>| self.shared.remote.read(path.to_string(), range.start..range.end.min(part.len.into()));
        let block = self.shared.blocks.get(&path, number, end, fetch)?;
        Ok((block, (within % BLOCK_BYTES) as usize))
    }

    /// Begins to fetch what is likely to be asked for after the block at `start`.
    fn read_ahead(&self, start: u64) {
        let mut state = self.lock();
        let State { parts, streams, .. } = &mut *state;
        let part_at = |offset: u64| {
            let at = parts.partition_point(|part| part.offset <= offset).checked_sub(1)?;
            parts.get(at).filter(|part| offset < part.offset + u64::from(part.len))
        };
        let part_end = |offset: u64| part_at(offset).map_or(offset, |part| part.offset + u64::from(part.len));
        let reach = |from: u64| part_end(from).min(from + AHEAD_BYTES);
        let Some(from) = streams.note(start, part_end(start).min(start + BLOCK_BYTES), reach) else { return };
        let Some(part) = part_at(from).filter(|part| part.bytes.is_none()).cloned() else { return };
        drop(state);
        let path: Arc<str> = part_path(&self.name, part.offset, part.id).into();
        let (first, len) = (from - part.offset, u64::from(part.len));
        let numbers = first / BLOCK_BYTES..len.min(first + AHEAD_BYTES).div_ceil(BLOCK_BYTES);
        if let Some(claim) = self.shared.blocks.begin(&path, numbers) {
            let range = claim.range();
            // What cannot be had is asked for again, and complained of, by those who need it.
            let done = move |read: io::Result<Bytes>| {
                if let Ok(bytes) = read {
                    claim.fill(&bytes);
                }
            };
            self.shared.remote.read_later(path.to_string(), range.start..range.end.min(len), done);
        }
    }
}

/// Copies as much of `bytes` as there is room for.
fn copy(bytes: &[u8], buffer: &mut [u8]) -> usize {
    let n = bytes.len().min(buffer.len());
    buffer[..n].copy_from_slice(&bytes[..n]);
    n
}

impl ObjectReader for Object {
    fn len(&self) -> io::Result<u64> {
        Ok(self.size())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(offset + filled as u64, &mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(waste) = self.take_doomed() {
            let shared = Arc::clone(&self.shared);
            self.shared.remote.delete_parts_later(&waste.clone(), move |outcome| shared.swept(waste, outcome));
        }
    }
}

/// The growing end of an object.
#[derive(Debug)]
pub(super) struct Growth {
    object: Arc<Object>,
    /// The name of its parts; for an object that goes on, once something is appended.
    id: OnceLock<PartId>,
    /// Held while a sync publishes what it has found to be stored: no older state follows a newer one.
    syncing: Mutex<()>,
}

impl Growth {
    /// The end of a new object, which the catalogue knows to be written to by `id`.
    pub(super) fn begun(object: Arc<Object>, id: PartId) -> Growth {
        Growth { object, id: OnceLock::from(id), syncing: Mutex::default() }
    }

    /// The end of an object that was there.
    pub(super) fn resumed(object: Arc<Object>) -> Growth {
        Growth { object, id: OnceLock::new(), syncing: Mutex::default() }
    }

    /// The name of its parts, which the catalogue is told before the first is written.
    fn id(&self) -> io::Result<PartId> {
        if let Some(id) = self.id.get() {
            return Ok(*id);
        }
        let shared = &self.object.shared;
        let writer = shared.next_writer();
        shared.publish(|catalogue| {
            let id = PartId { epoch: catalogue.epoch, writer };
            catalogue.objects.entry(self.object.name.clone()).or_default().writer = id;
        })?;
        Ok(*self.id.get_or_init(|| shared.part_id(writer)))
    }
}

impl ObjectWriter for Growth {
    fn append(&self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let id = self.id()?;
        let part_bytes = self.object.shared.remote.part_bytes();
        let mut state = self.object.lock();
        while !bytes.is_empty() {
            state.check()?;
            let room = part_bytes.saturating_sub(state.tail.len());
            let (now, later) = bytes.split_at(bytes.len().min(room));
            if state.tail.capacity() == 0 {
                // What a part begins with tells nothing of how long it gets: a commit may follow at once.
                state.tail.reserve(now.len());
            }
            state.tail.extend_from_slice(now);
            bytes = later;
            if state.tail.len() == part_bytes {
                while state.uploads >= UPLOADS {
                    state = self.object.wait(state);
                }
                self.object.cut_part(&mut state, id);
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let Some(&id) = self.id.get() else { return Ok(()) };
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let object = &self.object;
        let mut state = object.lock();
        state.check()?;
        object.cut_part(&mut state, id);
        let end = state.parts_end();
        while state.parts.iter().any(|part| part.offset < end && part.bytes.is_some()) {
            state.check()?;
            state = object.wait(state);
        }
        state.check()?;
        let stored = state.stored_runs();
        drop(state);
        let shared = &object.shared;
        let known = shared.catalogue();
        match known.objects.get(&object.name) {
            None => Err(io::Error::new(io::ErrorKind::NotFound, "it was deleted while it was written to")),
            Some(entry) if entry.parts == stored => Ok(()),
            Some(_) => shared.publish(|catalogue| {
                if let Some(entry) = catalogue.objects.get_mut(&object.name) {
                    entry.parts = stored;
                }
            }),
        }
    }
}
