//! The index of a small store: its rows in memory, and on disk a journal of all that was written to them.
//!
//! A database costs a hundred kilobytes before it holds anything, and several syncs a commit. A journal costs the bytes of its rows,
//! and one sync. It is read whole when the store is opened, so it is kept short: past its limit the rows move to the `database`.
//!
//! A frame is appended and synced before the next one is begun. So an unsound frame at the end is what a crash left of a commit
//! that was never acknowledged, or damage to the last one; it is cut, and the log fills in what it said. Where another frame
//! follows an unsound one the journal is damaged, and rebuilt as a whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::backend::{ObjectWriter, StorageBackend};
use crate::error::{Error, Result};
use crate::limits;
use crate::store::entry::INDEX_VERSION;
use crate::store::rows::{RowChanges, Table};

/// The journal's name.
const NAME: &str = "index.journal";
const MAGIC: &[u8; 8] = b"caskindx";
const HEADER_BYTES: usize = 16;
const FRAME_MAGIC: &[u8; 4] = b"cIDX";
const FRAME_HEADER_BYTES: usize = 16;
/// Set in the first byte of a row that goes.
const REMOVED: u8 = 0x80;

/// All rows, table by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows {
    tables: [BTreeMap<Vec<u8>, Vec<u8>>; 4],
}

impl Rows {
    /// The rows of `table`.
    pub(super) fn of(&self, table: Table) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        let [chunks, manifests, refs, state] = &self.tables;
        match table {
            Table::Chunks => chunks,
            Table::Manifests => manifests,
            Table::Refs => refs,
            Table::State => state,
        }
    }

    pub(super) fn write(&mut self, (table, key): (Table, Vec<u8>), value: Option<Vec<u8>>) {
        let [chunks, manifests, refs, state] = &mut self.tables;
        let rows = match table {
            Table::Chunks => chunks,
            Table::Manifests => manifests,
            Table::Refs => refs,
            Table::State => state,
        };
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }

    /// What makes these rows of an empty index.
    pub(super) fn as_changes(&self) -> RowChanges {
        let tables = [Table::Chunks, Table::Manifests, Table::Refs, Table::State];
        let rows = tables.into_iter().flat_map(|table| self.of(table).iter().map(move |row| (table, row)));
        rows.map(|(table, (key, value))| ((table, key.clone()), Some(value.clone()))).collect()
    }
}

/// Where the next frame goes.
#[derive(Debug)]
struct End {
    /// `None` before the first frame.
    writer: Option<Arc<dyn ObjectWriter>>,
    len: usize,
}

/// Rows in memory, and the object that they are read from at the next open.
#[derive(Debug)]
pub(super) struct Journal {
    /// `None`: in memory only.
    backend: Option<Arc<dyn StorageBackend>>,
    /// Bytes that the object may have.
    limit: usize,
    end: Mutex<End>,
    rows: RwLock<Arc<Rows>>,
}

impl Journal {
    /// A journal that is still empty, and begins its object in `backend` with the first frame.
    pub(super) fn new(backend: Option<Arc<dyn StorageBackend>>, limit: usize) -> Journal {
        let limit = limit.min(limits::JOURNAL_BYTES);
        Journal { backend, limit, end: Mutex::new(End { writer: None, len: 0 }), rows: RwLock::default() }
    }

    /// The journal in `backend`, if there is one. `read_only`: what is written to it stays in memory.
    pub(super) fn open(backend: &Arc<dyn StorageBackend>, limit: usize, read_only: bool) -> Result<Option<Journal>> {
        let Some(bytes) = read(&**backend)? else { return Ok(None) };
        let (rows, len) = parse(&bytes).map_err(|why| damaged(&**backend, why))?;
        let mut journal = Journal::new((!read_only).then(|| Arc::clone(backend)), limit);
        if !read_only {
            if len < bytes.len() {
                tracing::info!("{NAME}: {} bytes of an interrupted commit are cut", bytes.len() - len);
            }
            let writer = backend.resume(NAME, len as u64).map_err(|error| io_error(&**backend, "continue", error))?;
            journal.end = Mutex::new(End { writer: Some(writer), len });
        }
        journal.rows = RwLock::new(Arc::new(rows));
        Ok(Some(journal))
    }

    /// The value of the row `key` of `table`.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).of(table).get(key).cloned()
    }

    /// The rows as they are now, for a walk that no commit waits for.
    pub(super) fn rows(&self) -> Arc<Rows> {
        Arc::clone(&self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `changes` durably, all or none. False, and nothing is written, where the journal would grow past its limit.
    pub(super) fn apply(&self, changes: &RowChanges) -> Result<bool> {
        let mut end = self.end();
        if let Some(backend) = &self.backend {
            let mut bytes = if end.len == 0 { header().to_vec() } else { Vec::new() };
            write_frame(&mut bytes, changes);
            if end.len.saturating_add(bytes.len()) > self.limit {
                return Ok(false);
            }
            let io_error = |error| io_error(&**backend, "write", error);
            let writer = match &end.writer {
                Some(writer) => Arc::clone(writer),
                None => backend.create(NAME).map_err(io_error)?,
            };
            writer.append(&bytes).and_then(|()| writer.sync()).map_err(io_error)?;
            *end = End { writer: Some(writer), len: end.len + bytes.len() };
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let rows = Arc::make_mut(&mut rows);
        changes.iter().for_each(|(key, value)| rows.write(key.clone(), value.clone()));
        Ok(true)
    }

    /// True if the object still says what the rows in memory are.
    pub(super) fn is_sound(&self) -> Result<bool> {
        let end = self.end();
        let Some(backend) = self.backend.as_ref().filter(|_| end.writer.is_some()) else { return Ok(true) };
        let Some(bytes) = read(&**backend)? else { return Ok(false) };
        // What follows is left of a write that failed.
        let Some(bytes) = bytes.get(..end.len) else { return Ok(false) };
        Ok(parse(bytes).is_ok_and(|(rows, len)| len == end.len && rows == *self.rows()))
    }
}

/// The journal's name for messages.
pub(super) fn describe_journal(backend: &dyn StorageBackend) -> String {
    backend.describe(NAME).display().to_string()
}

/// Bytes of the journal in `backend`.
pub(super) fn journal_len(backend: &dyn StorageBackend) -> Result<u64> {
    match backend.open(NAME).and_then(|reader| reader.len()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        len => len.map_err(|error| io_error(backend, "read", error)),
    }
}

/// Deletes the journal in `backend`, durably.
pub(super) fn remove_journal(backend: &dyn StorageBackend) -> Result<()> {
    match backend.delete(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        deleted => deleted.map_err(|error| io_error(backend, "delete", error)),
    }
}

fn io_error(backend: &dyn StorageBackend, action: &'static str, error: io::Error) -> Error {
    Error::io(action, backend.describe(NAME), error)
}

fn damaged(backend: &dyn StorageBackend, why: &str) -> Error {
    Error::Damaged { what: "index", place: describe_journal(backend), why: why.to_owned() }
}

fn read(backend: &dyn StorageBackend) -> Result<Option<Vec<u8>>> {
    let io_error = |error| io_error(backend, "read", error);
    let reader = match backend.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        reader => reader.map_err(io_error)?,
    };
    let len = usize::try_from(reader.len().map_err(io_error)?).unwrap_or(usize::MAX);
    if len > limits::JOURNAL_BYTES {
        return Err(damaged(backend, "it is longer than any journal"));
    }
    let mut bytes = vec![0; len];
    let found = reader.read_at(0, &mut bytes).map_err(io_error)?;
    bytes.truncate(found);
    Ok(Some(bytes))
}

fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&INDEX_VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Appends a frame of `changes` to `out`.
fn write_frame(out: &mut Vec<u8>, changes: &RowChanges) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    for ((table, key), value) in changes {
        out.push(*table as u8 | if value.is_none() { REMOVED } else { 0 });
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(value.as_ref().map_or(0, Vec::len) as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let (head, rows) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    head[..4].copy_from_slice(FRAME_MAGIC);
    head[4..8].copy_from_slice(&(rows.len() as u32).to_le_bytes());
    head[8..12].copy_from_slice(&crc32c::crc32c(rows).to_le_bytes());
    let crc = crc32c::crc32c(&head[..12]);
    head[12..].copy_from_slice(&crc.to_le_bytes());
}

/// Length and checksum of the rows in the frame that `bytes` start with, if its header is sound.
fn frame_header(bytes: &[u8]) -> Option<(usize, u32)> {
    let head = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
    let [m0, m1, m2, m3, l0, l1, l2, l3, r0, r1, r2, r3, c0, c1, c2, c3] = *head;
    let magic = [m0, m1, m2, m3] == *FRAME_MAGIC;
    if !magic || crc32c::crc32c(&head[..12]) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return None;
    }
    Some((usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?, u32::from_le_bytes([r0, r1, r2, r3])))
}

/// The rows in the frame that `bytes` start with, and what follows it.
fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, crc) = frame_header(bytes)?;
    let (rows, rest) = bytes.get(FRAME_HEADER_BYTES..)?.split_at_checked(len)?;
    (crc32c::crc32c(rows) == crc).then_some((rows, rest))
}

/// Writes the row that `bytes` start with to `rows`; answers with what follows it.
fn read_row<'b>(bytes: &'b [u8], rows: &mut Rows) -> Option<&'b [u8]> {
    let (&[tag, k0, k1, v0, v1, v2, v3], rest) = bytes.split_first_chunk::<7>()?;
    let table = Table::from_byte(tag & !REMOVED)?;
    let (key, rest) = rest.split_at_checked(u16::from_le_bytes([k0, k1]).into())?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes([v0, v1, v2, v3])).ok()?)?;
    rows.write((table, key.to_vec()), (tag & REMOVED == 0).then(|| value.to_vec()));
    Some(rest)
}

/// The rows that a journal of `bytes` comes to, and where its last sound frame ends; or why it is damaged.
fn parse(bytes: &[u8]) -> Result<(Rows, usize), &'static str> {
    if bytes.is_empty() {
        // A crash came between its name and its first frame.
        return Ok((Rows::default(), 0));
    }
    let frames = bytes.strip_prefix(&header()).ok_or("it has no header that this version reads")?;
    let (mut rows, mut rest) = (Rows::default(), frames);
    while let Some((mut frame, behind)) = split_frame(rest) {
        while !frame.is_empty() {
            frame = read_row(frame, &mut rows).ok_or("a row cannot be read")?;
        }
        rest = behind;
    }
    // The next frame is begun only when the one before it is durable.
    if (1..rest.len()).any(|at| rest.get(at..).is_some_and(|bytes| frame_header(bytes).is_some())) {
        return Err("a frame does not match its checksum");
    }
    Ok((rows, bytes.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    fn put(table: Table, key: &[u8], value: &[u8]) -> ((Table, Vec<u8>), Option<Vec<u8>>) {
        ((table, key.to_vec()), Some(value.to_vec()))
    }

    fn frames() -> [RowChanges; 3] {
        [
            RowChanges::from([put(Table::Chunks, &[7; 32], &[1; 20]), put(Table::State, b"covered", b"somewhere")]),
            RowChanges::from([put(Table::Manifests, &[8; 32], &[2; 52]), put(Table::Refs, b"vkey", b"")]),
            RowChanges::from([((Table::Chunks, vec![7; 32]), None), put(Table::State, b"covered", b"further")]),
        ]
    }

    /// The bytes of a journal of `frames`, and after each of them where it ends and what the rows are.
    fn journal() -> (Vec<u8>, Vec<(usize, Rows)>) {
        let (mut bytes, mut rows) = (header().to_vec(), Rows::default());
        let mut ends = vec![(bytes.len(), rows.clone())];
        for changes in frames() {
            write_frame(&mut bytes, &changes);
            changes.into_iter().for_each(|(key, value)| rows.write(key, value));
            ends.push((bytes.len(), rows.clone()));
        }
        (bytes, ends)
    }

    #[test]
    fn the_bytes_of_a_frame() {
        let mut bytes = header().to_vec();
        write_frame(&mut bytes, &RowChanges::from([((Table::Chunks, vec![9]), None), put(Table::Refs, b"key", b"ab")]));
        let expected: &[&[u8]] = &[
            b"caskindx",
            &[1, 0, 0, 0],             // version
            &[0x64, 0xe3, 0x06, 0xff], // crc of the header
            b"cIDX",
            &[20, 0, 0, 0],            // bytes of the rows
            &[0xf3, 0x75, 0x1d, 0xfe], // crc of the rows
            &[0x82, 0x8a, 0xc2, 0xa9], // crc of the frame's header
            &[0x81, 1, 0, 0, 0, 0, 0],
            &[9],
            &[3, 3, 0, 2, 0, 0, 0],
            b"key",
            b"ab",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_cut_journal_is_one_of_earlier_frames() {
        let (bytes, ends) = journal();
        for cut in HEADER_BYTES..=bytes.len() {
            let (len, rows) = ends.iter().rfind(|(len, _)| *len <= cut).unwrap();
            assert_eq!(parse(&bytes[..cut]), Ok((rows.clone(), *len)), "cut to {cut}");
            // A file system may leave zeros in place of what was not synced.
            let mut zeroed = bytes[..cut].to_vec();
            zeroed.resize(bytes.len(), 0);
            assert_eq!(parse(&zeroed).map(|(_, found)| found), Ok(*len), "zeros from {cut} on");
        }
        assert!((1..HEADER_BYTES).all(|cut| parse(&bytes[..cut]).is_err()));
        assert_eq!(parse(&[]), Ok((Rows::default(), 0)));
    }

    #[test]
    fn a_flipped_bit_costs_the_last_frame_or_is_found_out() {
        let (bytes, ends) = journal();
        let (last, before) = &ends[ends.len() - 2];
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match bit / 8 < *last {
                true => assert!(parse(&flipped).is_err(), "bit {bit}"),
                false => assert_eq!(parse(&flipped), Ok((before.clone(), *last)), "bit {bit}"),
            }
        }
    }

    #[test]
    fn rows_come_back_and_a_full_journal_takes_no_more() {
        let (bytes, ends) = journal();
        let backend: Arc<dyn StorageBackend> = Arc::new(MemoryBackend::new());
        let journal = Journal::new(Some(Arc::clone(&backend)), bytes.len());
        assert!(Journal::open(&backend, 0, false).unwrap().is_none());
        frames().iter().for_each(|changes| assert!(journal.apply(changes).unwrap()));
        let (len, rows) = ends.last().unwrap();
        assert_eq!((journal_len(&*backend).unwrap(), &*journal.rows()), (*len as u64, rows));
        let one_more = RowChanges::from([put(Table::Refs, b"", b"")]);
        assert!(!journal.apply(&one_more).unwrap(), "full");
        assert!(journal.is_sound().unwrap());
        let again = Journal::open(&backend, *len + 100, false).unwrap().unwrap();
        assert_eq!(&*again.rows(), rows);
        assert!(again.apply(&one_more).unwrap());
        assert!(Journal::open(&backend, 0, true).unwrap().unwrap().rows().of(Table::Refs).contains_key(&b""[..]));
        remove_journal(&*backend).unwrap();
        assert!(!again.is_sound().unwrap());
        assert_eq!(journal_len(&*backend).unwrap(), 0);
    }
}
