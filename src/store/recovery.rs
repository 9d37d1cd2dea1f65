//! From the packs to an index that covers them: at each open for the log's tail, and whole when the index is gone.
//!
//! A commit is acknowledged only after the index covers it. What lies behind the covered position was therefore never
//! acknowledged: the tail is taken in record by record and cut at the first that is not sound. When the index is gone instead,
//! nothing is cut: damage is stepped over, and appends go to a new pack.

use std::sync::Arc;

use crate::backend::{ObjectInfo, StorageBackend};
use crate::error::{Error, Result};
use crate::refs::RefRecord;
use crate::store::chunk_store::{ChunkStoreOptions, LogState};
use crate::store::index::{Covered, Entry, Index, IndexChange, Position, RefEntry};
use crate::store::log::LogWriter;
use crate::store::pack::{
    PACK_HEADER_BYTES, PACK_VERSION, PackHeaderError, PackId, RecordHeader, RecordKind, check_pack_header, pack_name,
    parse_pack_name, split_base,
};
use crate::store::refs::entity_key;
use crate::store::scan::{Found, Walk, walk_pack};

/// Entries that are committed to the index at a time.
const BATCH_ENTRIES: usize = 16 << 10;

/// Brings `index` up to the end of the packs, and opens that end for appending.
pub(super) fn recover(
    backend: &Arc<dyn StorageBackend>,
    index: &Index,
    options: &ChunkStoreOptions,
) -> Result<LogState> {
    let packs = list_packs(&**backend)?;
    let covered = match index.covered() {
        Ok(covered) => covered,
        Err(error @ Error::Damaged { .. }) if !options.read_only => {
            tracing::warn!("the index is rebuilt from the packs: {error}");
            index.reset(options.index_cache_bytes)?;
            Covered::default()
        }
        Err(error) => return Err(error),
    };
    if covered == Covered::default() && !packs.is_empty() {
        let next_seq = refill(&**backend, index)?;
        return log_state(backend, options, None, next_pack(&packs, covered), next_seq);
    }
    if options.read_only {
        return log_state(backend, options, None, next_pack(&packs, covered), covered.next_seq);
    }
    let (last, next_seq) = replay_tail(&**backend, index, &packs, covered)?;
    log_state(backend, options, last, next_pack(&packs, covered), next_seq)
}

fn log_state(
    backend: &Arc<dyn StorageBackend>,
    options: &ChunkStoreOptions,
    last: Option<(PackId, u64)>,
    next_pack: PackId,
    next_seq: u64,
) -> Result<LogState> {
    Ok(LogState::new(LogWriter::new(Arc::clone(backend), options.pack_bytes, last, next_pack)?, next_seq))
}

/// The packs of `backend`, in the order of their numbers.
pub(super) fn list_packs(backend: &dyn StorageBackend) -> Result<Vec<(PackId, u64)>> {
    let objects = backend.list("p-").map_err(|error| Error::io("list", backend.describe(""), error))?;
    let pack = |object: ObjectInfo| parse_pack_name(&object.name).map(|id| (id, object.len));
    let mut packs: Vec<(PackId, u64)> = objects.into_iter().filter_map(pack).collect();
    packs.sort_unstable();
    Ok(packs)
}

/// A number that no pack has had, even if it is gone by now.
fn next_pack(packs: &[(PackId, u64)], covered: Covered) -> PackId {
    let after = |id: PackId| id.saturating_add(1);
    let from_packs = packs.last().map_or(1, |&(id, _)| after(id));
    let from_index = if covered.end.offset > 0 { after(covered.end.pack) } else { covered.end.pack };
    from_packs.max(from_index)
}

/// Takes in what lies behind the covered position and cuts the last pack where it stops being sound. Says where to append.
fn replay_tail(
    backend: &dyn StorageBackend,
    index: &Index,
    packs: &[(PackId, u64)],
    covered: Covered,
) -> Result<(Option<(PackId, u64)>, u64)> {
    let mut replay = Replay::new(index, covered.next_seq);
    let mut last = None;
    for &(pack, len) in packs.iter().filter(|(pack, _)| *pack >= covered.end.pack) {
        let is_last = packs.last().is_some_and(|&(last, _)| last == pack);
        let from = if pack == covered.end.pack { u64::from(covered.end.offset) } else { 0 };
        if len < PACK_HEADER_BYTES as u64 && is_last {
            // Its creation was interrupted before anything was in it.
            backend
                .delete(&pack_name(pack))
                .map_err(|error| Error::io("delete", backend.describe(&pack_name(pack)), error))?;
            continue;
        }
        let mut end = from.max(PACK_HEADER_BYTES as u64);
        walk(backend, pack, from, |found| match found {
            Found::Record { offset, header, payload, .. } => {
                end = offset + header.record_len();
                replay.take(Position { pack, offset: offset as u32 }, &header, payload)?;
                Ok(Walk::Continue)
            }
            Found::Damage { .. } if is_last => Ok(Walk::Stop),
            Found::Damage { offset, end: next, why } => {
                tracing::warn!("{} bytes {offset}..{next}: {why}", pack_name(pack));
                end = next;
                Ok(Walk::Continue)
            }
        })?;
        if end < len {
            tracing::info!("{}: {} unacknowledged bytes of an interrupted put are cut", pack_name(pack), len - end);
        }
        last = Some((pack, end));
    }
    let next_seq = replay.next_seq;
    if let Some((pack, end)) = last {
        // The cut is durable before the index says that the log ends there.
        let position = Position { pack, offset: end as u32 };
        if position != covered.end || replay.touched {
            match backend.resume(&pack_name(pack), end).and_then(|writer| writer.sync()) {
                Err(error) if error.kind() != std::io::ErrorKind::Unsupported => {
                    return Err(Error::io("continue", backend.describe(&pack_name(pack)), error));
                }
                _ => {}
            }
            replay.finish(position)?;
        }
    }
    Ok((last, next_seq))
}

/// Fills an empty index from all packs, stepping over damage. Returns the next sequence number.
pub(super) fn refill(backend: &dyn StorageBackend, index: &Index) -> Result<u64> {
    let mut replay = Replay::new(index, 0);
    let mut end = Position::default();
    for (pack, len) in list_packs(backend)? {
        walk(backend, pack, 0, |found| {
            match found {
                Found::Record { offset, header, payload, .. } => {
                    replay.take(Position { pack, offset: offset as u32 }, &header, payload)?;
                }
                Found::Damage { offset, end, why } => {
                    tracing::warn!("{} bytes {offset}..{end}: {why}", pack_name(pack))
                }
            }
            Ok(Walk::Continue)
        })?;
        end = Position { pack, offset: u32::try_from(len).unwrap_or(u32::MAX) };
    }
    let next_seq = replay.next_seq;
    if end.pack > 0 {
        replay.finish(end)?;
    }
    Ok(next_seq)
}

fn walk(
    backend: &dyn StorageBackend,
    pack: PackId,
    from: u64,
    visit: impl FnMut(Found<'_>) -> Result<Walk>,
) -> Result<()> {
    let name = pack_name(pack);
    let read_error = |error| Error::io("read", backend.describe(&name), error);
    let reader = backend.open(&name).map_err(read_error)?;
    let mut header = [0; PACK_HEADER_BYTES];
    let n = reader.read_at(0, &mut header).map_err(read_error)?;
    match check_pack_header(header.get(..n).unwrap_or_default(), pack) {
        Ok(()) => {}
        Err(PackHeaderError::Newer(found)) => {
            return Err(Error::NewerFormat { path: backend.describe(&name), found, supported: PACK_VERSION });
        }
        Err(why @ PackHeaderError::Invalid) => tracing::warn!("{name}: {why}; its records are read all the same"),
    }
    walk_pack(&*reader, from, read_error, visit)
}

/// Collects what records say and commits it to the index in batches.
struct Replay<'i> {
    index: &'i Index,
    change: IndexChange,
    next_seq: u64,
    touched: bool,
}

impl Replay<'_> {
    fn new(index: &Index, next_seq: u64) -> Replay<'_> {
        Replay { index, change: IndexChange::default(), next_seq, touched: false }
    }

    fn take(&mut self, position: Position, header: &RecordHeader, payload: &[u8]) -> Result<()> {
        self.touched = true;
        match header.kind {
            RecordKind::Chunk | RecordKind::Manifest => {
                let base = split_base(header, payload).and_then(|(base, _)| base);
                self.change.entries.push((header.hash, Entry::of(header, base, position)));
            }
            RecordKind::Ref | RecordKind::Removal => match RefRecord::decode(payload) {
                Ok(record) => {
                    self.next_seq = self.next_seq.max(record.seq.saturating_add(1));
                    let live = header.kind == RecordKind::Ref;
                    let entry = RefEntry { seq: record.seq, position, live, record: payload.to_vec() };
                    self.change.refs.push((entity_key(&record.entity()), entry));
                }
                Err(why) => {
                    tracing::warn!("a ref in {} at {} cannot be read: {why}", pack_name(position.pack), position.offset)
                }
            },
        }
        if self.change.entries.len() >= BATCH_ENTRIES {
            self.index.apply(dedup(std::mem::take(&mut self.change)))?;
        }
        Ok(())
    }

    fn finish(self, end: Position) -> Result<()> {
        let mut change = dedup(self.change);
        change.covered = Some(Covered { end, next_seq: self.next_seq });
        self.index.apply(change)
    }
}

/// Keeps the last entry of a hash that was stored twice: the log's order decides.
fn dedup(mut change: IndexChange) -> IndexChange {
    change.entries.sort_by_key(|(hash, entry)| (*hash, entry.position));
    change.entries.reverse();
    change.entries.dedup_by_key(|(hash, _)| *hash);
    change
}
