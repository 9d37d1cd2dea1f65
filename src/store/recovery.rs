//! From the packs to an index that covers them: at each open for the log's tail, and whole when the index is gone.
//!
//! A commit is acknowledged only after the index covers it. What lies behind the covered position was therefore never
//! acknowledged: the tail is taken in record by record and cut at the first that is not sound. When the index is gone instead,
//! nothing is cut: damage is stepped over, and appends go to a new pack. They do so too where the growing pack is damaged, so that
//! no sound record ever lies behind an unsound one.
//!
//! The index also knows which packs are complete. Where one of them is missing or too short, or the growing one ends before what is
//! covered, the index speaks of bytes that are gone, and a put would rely on them: such entries are dropped, and all packs are taken
//! in again. The refs in the index stay: what they name is damaged, and to forget the names as well would hide that. Packs that are
//! there again are taken in by `returned`.
//!
//! What a local disk cannot read is stepped over like damage, but may come back: such a pack is not cut, and is noted as one byte
//! shorter than it is. So it is missed if it goes, `returned` looks at it again at each open, and nothing is collected until all of it
//! is known.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{ObjectInfo, ObjectReader, StorageBackend};
use crate::error::{Error, Result};
use crate::store::chunk_store::{ChunkStoreOptions, LogState};
use crate::store::entry::{Covered, Position, SealedPacks};
use crate::store::index::{Index, IndexChange};
use crate::store::log::LogWriter;
use crate::store::pack::{
    PACK_HEADER_BYTES, PACK_VERSION, PackHeaderError, PackId, check_pack_header, pack_name, parse_pack_name,
};
use crate::store::replay::{BATCH_ENTRIES, Replay};
use crate::store::returned::take_in;
use crate::store::salvage::Salvage;
use crate::store::scan::{Found, Walk, walk_pack};

/// Brings `index` up to the end of the packs, and opens that end for appending.
pub(super) fn recover(
    backend: &Arc<dyn StorageBackend>,
    index: &Index,
    options: &ChunkStoreOptions,
) -> Result<LogState> {
    let mut packs: SealedPacks = list_packs(&**backend)?.into_iter().collect();
    let state = match index.state() {
        Err(error @ Error::Damaged { .. }) => {
            tracing::warn!("the index is rebuilt from the packs: {error}");
            None
        }
        state => state?,
    };
    let writer = |last, next, packs, known: &SealedPacks| {
        LogWriter::new(Arc::clone(backend), options.pack_bytes, last, next, packs, known)
    };
    let lost = state.as_ref().and_then(|(covered, sealed)| missing(&packs, covered, sealed));
    let (covered, sealed) = match (state, lost) {
        (Some(state), None) => state,
        (state, _) => {
            let known = state.map_or_else(Covered::default, |(covered, _)| covered);
            let next = next_pack(&packs, known.end);
            empty_or_trim(index, &packs, lost)?;
            if !options.read_only {
                settle_last(&**backend, &mut packs)?;
            }
            // A new store takes this way too: from now on an index that was never filled is one that was lost.
            let (covered, packs) = refill(&**backend, index, next, known.next_seq)?;
            let mut log = LogState::new(writer(None, next, packs.clone(), &packs)?, covered.next_seq, Some(covered));
            log.refs_in_doubt = lost.is_some();
            return Ok(log);
        }
    };
    let next = next_pack(&packs, covered.end);
    let (covered, returned) = take_in(&**backend, index, &mut packs, (covered, &sealed), options.read_only)?;
    if options.read_only {
        return Ok(LogState::new(writer(None, next, packs, &sealed)?, covered.next_seq, Some(covered)));
    }
    let tail = replay_tail(&**backend, index, packs, (covered, sealed), next)?;
    let writer = writer(tail.last, next, tail.packs, &tail.sealed)?;
    let mut log = LogState::new(writer, tail.covered.next_seq, Some(tail.covered));
    log.returned = returned;
    Ok(log)
}

/// Makes the index hold nothing that `packs` do not: empties it, or, where pack `lost` tells that it was sound but packs are gone,
/// drops what lay there.
fn empty_or_trim(index: &Index, packs: &SealedPacks, lost: Option<PackId>) -> Result<()> {
    if let Some(pack) = lost {
        tracing::warn!("{} is missing or too short: all packs are read again", pack_name(pack));
        match trim(index, packs) {
            Err(Error::Damaged { .. }) => {}
            outcome => return outcome,
        }
    }
    if index.is_empty().unwrap_or(false) { Ok(()) } else { index.reset() }
}

/// Drops the entries of records that do not lie wholly in one of `packs`.
fn trim(index: &Index, packs: &SealedPacks) -> Result<()> {
    let mut gone = Vec::new();
    index.for_each(|hash, entry| {
        let end = u64::from(entry.position.offset) + entry.record_len();
        if packs.get(&entry.position.pack).is_none_or(|&len| len < end) {
            gone.push((hash, entry));
        }
    })?;
    for batch in gone.chunks(BATCH_ENTRIES) {
        index.apply(&IndexChange { removed: batch.to_vec(), ..IndexChange::default() })?;
    }
    Ok(())
}

/// A pack that the index relies on and that does not hold what it should.
fn missing(packs: &SealedPacks, covered: &Covered, sealed: &SealedPacks) -> Option<PackId> {
    let growing = (covered.end.offset > 0).then_some((covered.end.pack, u64::from(covered.end.offset)));
    let mut needed = sealed.iter().map(|(&id, &len)| (id, len)).chain(growing);
    needed.find(|(id, len)| packs.get(id).is_none_or(|found| found < len)).map(|(id, _)| id)
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
fn next_pack(packs: &SealedPacks, end: Position) -> PackId {
    let after = |id: PackId| id.saturating_add(1);
    let from_packs = packs.last_key_value().map_or(1, |(&id, _)| after(id));
    let from_index = if end.offset > 0 { after(end.pack) } else { end.pack };
    from_packs.max(from_index)
}

/// Makes the last pack durable: the process that wrote it may have died before it could, and the index is about to rely on it. One
/// that ends within its own header holds nothing, and goes.
fn settle_last(backend: &dyn StorageBackend, packs: &mut SealedPacks) -> Result<()> {
    match packs.last_key_value().map(|(&pack, &len)| (pack, len)) {
        None => Ok(()),
        Some((pack, len)) if len < PACK_HEADER_BYTES as u64 => delete(backend, packs, pack),
        Some((pack, len)) => cut(backend, pack, len).map(drop),
    }
}

fn delete(backend: &dyn StorageBackend, packs: &mut SealedPacks, pack: PackId) -> Result<()> {
    let name = pack_name(pack);
    packs.remove(&pack);
    backend.delete(&name).map_err(|error| Error::io("delete", backend.describe(&name), error))
}

/// Cuts `pack` after `end` bytes, durably, and makes those durable too. False where the backend cannot: there an object is durable
/// once it is there.
pub(super) fn cut(backend: &dyn StorageBackend, pack: PackId, end: u64) -> Result<bool> {
    match backend.resume(&pack_name(pack), end).and_then(|writer| writer.sync()) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(Error::io("continue", backend.describe(&pack_name(pack)), error)),
        Ok(()) => Ok(true),
    }
}

/// What the tail of the log came to.
struct Tail {
    /// The pack to continue, and where.
    last: Option<(PackId, u64)>,
    /// The packs that are left.
    packs: SealedPacks,
    /// The packs that the index knows to be complete by now.
    sealed: SealedPacks,
    covered: Covered,
}

/// Takes in what lies behind the covered position and cuts the last pack where it stops being sound.
fn replay_tail(
    backend: &dyn StorageBackend,
    index: &Index,
    mut packs: SealedPacks,
    (covered, mut sealed): (Covered, SealedPacks),
    next: PackId,
) -> Result<Tail> {
    let mut replay = Replay::new(index, covered.next_seq);
    let mut last = None;
    let newest = packs.last_key_value().map(|(&id, _)| id);
    let behind: Vec<(PackId, u64)> = packs.range(covered.end.pack..).map(|(&id, &len)| (id, len)).collect();
    let from = |pack| if pack == covered.end.pack { u64::from(covered.end.offset) } else { 0 };
    if let Some(&(pack, len)) = behind.last().filter(|&&(pack, len)| len > from(pack)) {
        // What is taken in is durable before the index relies on it, and a long tail goes there piece by piece.
        cut(backend, pack, len)?;
    }
    for (pack, len) in behind {
        let from = from(pack);
        let found = replay_pack(backend, pack, from..len, newest == Some(pack), &mut replay)?;
        last = found.appendable.then_some((pack, found.end));
        if !found.whole {
            packs.insert(pack, not_whole(pack, len));
        } else if newest != Some(pack) {
            // Complete: it stays as it is.
        } else if !found.appendable && from == 0 && found.end <= PACK_HEADER_BYTES as u64 {
            // Its creation was interrupted before anything of worth was in it.
            delete(backend, &mut packs, pack)?;
        } else if found.appendable && found.end < len {
            tracing::info!("{}: {} bytes of an interrupted put are cut", pack_name(pack), len - found.end);
            // Gone, durably, before the index says that the log ends there.
            if cut(backend, pack, found.end)? {
                packs.insert(pack, found.end);
            }
        }
    }
    let end = match last {
        Some((pack, end)) => Position { pack, offset: u32::try_from(end).unwrap_or(u32::MAX) },
        None => Position::start_of(next),
    };
    let now = Covered { end, next_seq: replay.next_seq };
    if now != covered || replay.touched {
        sealed = packs.clone();
        last.iter().for_each(|(growing, _)| {
            sealed.remove(growing);
        });
        replay.finish(now, Some(sealed.clone()))?;
    }
    Ok(Tail { last, packs, sealed, covered: now })
}

/// What the replay of one pack came to.
struct Replayed {
    /// Where the records end that were taken in.
    end: u64,
    /// Whether appending may go on there: the pack's header is sound, and so are all records before.
    appendable: bool,
    /// Whether all of it could be read.
    whole: bool,
}

fn replay_pack(
    backend: &dyn StorageBackend,
    pack: PackId,
    range: Range<u64>,
    newest: bool,
    replay: &mut Replay<'_>,
) -> Result<Replayed> {
    let mut end = range.start.max(PACK_HEADER_BYTES as u64);
    let mut appendable = range.end >= end;
    let walked = walk(backend, pack, range, |found, whole| match found {
        Found::Record { offset, header, payload, .. } => {
            end = offset + header.record_len();
            replay.take(Position { pack, offset: offset as u32 }, &header, payload)?;
            Ok(Walk::Continue)
        }
        Found::Damage { .. } if newest && whole => Ok(Walk::Stop),
        // Complete, so synced: not torn, but damaged since. Or it cannot be told.
        Found::Damage { offset, end, why } => {
            appendable = false;
            tracing::warn!("{} bytes {offset}..{end}: {why}", pack_name(pack));
            Ok(Walk::Continue)
        }
    })?;
    appendable &= walked.sound && walked.whole && end <= u32::MAX.into();
    Ok(Replayed { end, appendable, whole: walked.whole })
}

/// Fills the index from all packs, stepping over damage. It then covers all before pack `next`, and knows the packs that are the answer
/// as well. Refs get numbers from `next_seq` on, or higher ones.
pub(super) fn refill(
    backend: &dyn StorageBackend,
    index: &Index,
    next: PackId,
    next_seq: u64,
) -> Result<(Covered, SealedPacks)> {
    let mut replay = Replay::new(index, next_seq);
    let mut packs = SealedPacks::new();
    for (pack, len) in list_packs(backend)? {
        packs.insert(pack, replay_whole(backend, pack, len, &mut replay)?);
    }
    let covered = Covered { end: Position::start_of(next), next_seq: replay.next_seq };
    replay.finish(covered, Some(packs.clone()))?;
    Ok((covered, packs))
}

/// Takes in all of `pack`, stepping over damage. Answers with the length that it is to be known by.
pub(super) fn replay_whole(
    backend: &dyn StorageBackend,
    pack: PackId,
    len: u64,
    replay: &mut Replay<'_>,
) -> Result<u64> {
    let walked = walk(backend, pack, 0..len, |found, _| {
        match found {
            Found::Record { offset, header, payload, .. } => {
                replay.take(Position { pack, offset: offset as u32 }, &header, payload)?;
            }
            Found::Damage { offset, end, why } => tracing::warn!("{} bytes {offset}..{end}: {why}", pack_name(pack)),
        }
        Ok(Walk::Continue)
    })?;
    Ok(if walked.whole { len } else { not_whole(pack, len) })
}

/// The length by which `pack`, of `len` bytes, is known where not all of it could be read.
fn not_whole(pack: PackId, len: u64) -> u64 {
    tracing::warn!(
        "{} cannot be read everywhere: put a copy in its place; until then nothing is collected",
        pack_name(pack)
    );
    len.saturating_sub(1)
}

/// What is known of a pack that was walked.
struct Walked {
    /// Its header is sound.
    sound: bool,
    /// All that was asked for could be read.
    whole: bool,
}

/// Walks the records of `pack` in `range`; `visit` is also told whether all could be read so far.
fn walk(
    backend: &dyn StorageBackend,
    pack: PackId,
    range: Range<u64>,
    mut visit: impl FnMut(Found<'_>, bool) -> Result<Walk>,
) -> Result<Walked> {
    let name = pack_name(pack);
    let read_error = |error| Error::io("read", backend.describe(&name), error);
    let reader = Salvage::new(backend.open(&name).map_err(read_error)?);
    let mut header = [0; PACK_HEADER_BYTES];
    let n = reader.read_at(0, &mut header).map_err(read_error)?;
    let sound = match check_pack_header(header.get(..n).unwrap_or_default(), pack) {
        Ok(()) => true,
        Err(PackHeaderError::Newer(found)) => {
            return Err(Error::NewerFormat { path: backend.describe(&name), found, supported: PACK_VERSION });
        }
        Err(why @ PackHeaderError::Invalid) => {
            tracing::warn!("{name}: {why}; its records are read all the same");
            false
        }
    };
    walk_pack(&reader, range, read_error, |found| visit(found, reader.is_whole()))?;
    Ok(Walked { sound, whole: reader.is_whole() })
}
