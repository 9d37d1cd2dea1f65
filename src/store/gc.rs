//! Garbage collection: mark, sweep, repack. The reverse of a put's order: first the index forgets, then bytes go.
//!
//! 1. checkpoint, so that all that is committed is in the index, and note the log's end;
//! 2. mark: the caller lists what its refs reach; the bases of deltas are added here; puts in flight are shielded;
//! 3. sweep: dead entries leave the index, durably;
//! 4. repack: live records of packs that are mostly dead are copied to the log's end, synced and re-indexed;
//! 5. only then is the old pack deleted.
//!
//! Puts go on meanwhile; readers hold their file open, or look the chunk up again. A crash at any step leaves at worst a record
//! twice, or garbage that the next collection finds. `tests/crash.rs` stops at each of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::monitor::Monitor;
use crate::refs::{Entity, RefRecord};
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::index::{Entry, IndexChange, Position, RefEntry};
use crate::store::pack::{
    PACK_HEADER_BYTES, PackId, RECORD_HEADER_BYTES, RecordHeader, RecordKind, pack_name, split_base,
};
use crate::store::recovery::list_packs;
use crate::store::refs::entity_key;
use crate::store::scan::{Found, Walk, walk_pack};
use crate::store::shield::LiveSet;

/// A pack is repacked when less than this share of it is live.
const MIN_LIVE: f64 = 0.8;
/// Entries that are swept at a time.
const BATCH_ENTRIES: usize = 16 << 10;

/// What a collection did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Chunks and manifests that nothing reaches.
    pub removed_chunks: u64,
    /// Bytes that the packs shrank by.
    pub reclaimed_bytes: u64,
    /// Bytes of all packs afterwards.
    pub kept_bytes: u64,
}

/// Live and dead bytes of one pack.
#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    len: u64,
    live: u64,
    live_entries: u64,
}

impl Usage {
    fn is_victim(&self) -> bool {
        let overhead = PACK_HEADER_BYTES as u64;
        let used = self.len.saturating_sub(overhead);
        self.live < used && (self.live as f64) < MIN_LIVE * used as f64
    }
}

impl ChunkStore {
    /// Reclaims what `mark` does not list and nothing listed needs. With `dry_run` only says what would happen.
    pub fn collect(
        &self,
        dry_run: bool,
        mark: impl FnOnce(&mut LiveSet) -> Result<()>,
        monitor: &Monitor,
    ) -> Result<SweepReport> {
        self.writable()?;
        let _collecting = lock(&self.inner.collecting);
        self.checkpoint()?;
        let start = {
            let mut shield = lock(&self.inner.shield);
            let start = self.end();
            shield.begin_collection(start);
            start
        };
        let outcome = self.mark_and_sweep(start, dry_run, mark, monitor);
        lock(&self.inner.shield).end_collection();
        outcome
    }

    fn mark_and_sweep(
        &self,
        start: Position,
        dry_run: bool,
        mark: impl FnOnce(&mut LiveSet) -> Result<()>,
        monitor: &Monitor,
    ) -> Result<SweepReport> {
        let mut live = LiveSet::default();
        mark(&mut live)?;
        self.add_bases(&mut live)?;
        let live = Arc::new(live);
        if !dry_run {
            lock(&self.inner.shield).condemn(Arc::clone(&live));
        }
        let mut dead = Vec::new();
        let mut usage: HashMap<PackId, Usage> = HashMap::new();
        let packs = list_packs(&*self.inner.backend)?;
        usage.extend(packs.iter().map(|&(id, len)| (id, Usage { len, ..Usage::default() })));
        let shield = lock(&self.inner.shield);
        self.inner.index.for_each(|hash, entry| {
            if entry.position >= start || live.contains(&hash) || shield.keeps(&hash) {
                let usage = usage.entry(entry.position.pack).or_default();
                usage.live += entry.record_len();
                usage.live_entries += 1;
            } else {
                dead.push((hash, entry.position));
            }
        })?;
        drop(shield);
        let live_refs = self.inner.index.refs(&[])?;
        for (_, entry) in &live_refs {
            let usage = usage.entry(entry.position.pack).or_default();
            usage.live += (RECORD_HEADER_BYTES + entry.record.len()) as u64;
        }
        let mut victims: Vec<PackId> = usage.iter().filter(|(_, usage)| usage.is_victim()).map(|(&id, _)| id).collect();
        victims.sort_unstable();
        let mut report = SweepReport { removed_chunks: dead.len() as u64, ..SweepReport::default() };
        let before: u64 = packs.iter().map(|&(_, len)| len).sum();
        if dry_run {
            let freed = |id: &PackId| usage.get(id).map_or(0, |usage| usage.len.saturating_sub(usage.live));
            report.reclaimed_bytes = victims.iter().map(freed).sum();
            report.kept_bytes = before.saturating_sub(report.reclaimed_bytes);
            return Ok(report);
        }
        for batch in dead.chunks(BATCH_ENTRIES) {
            monitor.check()?;
            self.inner.index.apply(IndexChange { removed: batch.to_vec(), ..IndexChange::default() })?;
        }
        monitor.begin("gc", victims.iter().filter_map(|id| usage.get(id)).map(|usage| usage.len).sum());
        for pack in victims {
            monitor.check()?;
            let usage = usage.get(&pack).copied().unwrap_or_default();
            self.repack(pack, usage, monitor)?;
            monitor.advance(usage.len);
        }
        monitor.finish();
        report.kept_bytes = list_packs(&*self.inner.backend)?.iter().map(|&(_, len)| len).sum();
        report.reclaimed_bytes = before.saturating_sub(report.kept_bytes);
        Ok(report)
    }

    /// Adds the bases that live deltas need, and theirs.
    fn add_bases(&self, live: &mut LiveSet) -> Result<()> {
        let mut grown = true;
        while grown {
            let mut bases = Vec::new();
            self.inner.index.for_each(|hash, entry| bases.extend(entry.base.filter(|_| live.contains(&hash))))?;
            grown = bases.iter().filter(|base| live.insert(base)).count() > 0;
        }
        Ok(())
    }

    /// Copies what is live in `pack` to the log's end and deletes the pack. A pack with a live record that cannot be read is kept.
    fn repack(&self, pack: PackId, usage: Usage, monitor: &Monitor) -> Result<()> {
        {
            let mut log = lock(&self.inner.log);
            if log.writer.active_pack() == Some(pack) {
                log.writer.seal()?;
            }
        }
        let oldest = list_packs(&*self.inner.backend)?.first().is_some_and(|&(id, _)| id == pack);
        let name = pack_name(pack);
        let read_error = |error| Error::io("read", self.inner.backend.describe(&name), error);
        let reader = self.inner.backend.open(&name).map_err(read_error)?;
        let mut change = IndexChange::default();
        let mut damaged = false;
        walk_pack(&*reader, 0, read_error, |found| {
            let Found::Record { offset, header, payload, bytes } = found else {
                damaged = true;
                return Ok(Walk::Continue);
            };
            let from = Position { pack, offset: offset as u32 };
            match header.kind {
                RecordKind::Chunk | RecordKind::Manifest => {
                    self.move_entry(from, &header, payload, bytes, &mut change)?
                }
                RecordKind::Ref | RecordKind::Removal => self.move_ref(from, payload, bytes, oldest, &mut change)?,
            }
            monitor.check()?;
            Ok(Walk::Continue)
        })?;
        let whole = change.moved.len() as u64 >= usage.live_entries;
        self.checkpoint_with(change)?;
        if damaged && !whole {
            monitor.warn(&format!("{name} is damaged and is kept: run `caskad verify --all`"));
            return Ok(());
        }
        self.inner
            .backend
            .delete(&name)
            .map_err(|error| Error::io("delete", self.inner.backend.describe(&name), error))?;
        self.forget_pack(pack);
        Ok(())
    }

    fn move_entry(
        &self,
        from: Position,
        header: &RecordHeader,
        payload: &[u8],
        bytes: &[u8],
        change: &mut IndexChange,
    ) -> Result<()> {
        if self.inner.index.get(&header.hash)?.is_some_and(|entry| entry.position == from) {
            let to = lock(&self.inner.log).writer.append_copy(bytes)?;
            let base: Option<Hash> = split_base(header, payload).and_then(|(base, _)| base);
            change.moved.push((header.hash, from, Entry::of(header, base, to)));
        }
        Ok(())
    }

    fn move_ref(
        &self,
        from: Position,
        payload: &[u8],
        bytes: &[u8],
        oldest: bool,
        change: &mut IndexChange,
    ) -> Result<()> {
        let Ok(record) = RefRecord::decode(payload) else { return Ok(()) };
        let key = entity_key(&record.entity());
        let Some(current) = self.inner.index.get_ref(&key)?.filter(|current| current.position == from) else {
            return Ok(());
        };
        if oldest && record.is_removal() && !self.tells_last_number(&record)? {
            change.forgotten_refs.push((key, from));
            return Ok(());
        }
        let position = lock(&self.inner.log).writer.append_copy(bytes)?;
        change.refs.push((key, RefEntry { position, ..current }));
        Ok(())
    }

    /// True for the removal that alone remembers which version number of a key was given out last.
    ///
    /// Any other removal in the oldest pack has done its work: what it removed lies in no older pack, so nothing can come back.
    fn tells_last_number(&self, record: &RefRecord) -> Result<bool> {
        match record.entity() {
            Entity::Version { key, number } => Ok(self.refs(&key)?.last_number == number),
            Entity::Label { .. } | Entity::Pin { .. } => Ok(false),
        }
    }
}
