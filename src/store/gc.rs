//! Garbage collection: mark, sweep, repack. The reverse of a put's order: first the index forgets, then bytes go.
//!
//! 1. the index is checked page by page (what it wrongly says would cost live bytes here), then a checkpoint, so that all that is
//!    committed is in it, and the log's end is noted: nothing behind that is swept;
//! 2. mark: the caller lists what its refs reach; the bases of deltas are added here; puts in flight are shielded;
//! 3. sweep: dead entries leave the index, durably;
//! 4. repack: a pack that is mostly dead is sealed and checkpointed, so that whatever puts in flight have in it is in the index too;
//!    its live records are copied to the log's end, synced and re-indexed;
//! 5. only then is the old pack deleted.
//!
//! Puts go on meanwhile; readers hold their file open, or look the chunk up again. A crash at any step leaves at worst a record
//! twice, or garbage that the next collection finds. `tests/crash` stops at each of them.
//!
//! **Refs.** Only the latest record of an entity is ever copied, and while the log is locked, so no older one comes to lie behind
//! it. Hence all older ones lie in the same pack as the latest or in older packs, and a removal in the oldest pack has nothing left
//! to remove: it is dropped with its pack, unless it alone remembers which version number was given out last.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::monitor::Monitor;
use crate::refs::{Entity, RefRecord};
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::{Entry, Position, RefEntry};
use crate::store::index::IndexChange;
use crate::store::pack::{
    PACK_HEADER_BYTES, PackId, RECORD_HEADER_BYTES, RecordHeader, RecordKind, pack_name, split_base,
};
use crate::store::recovery::list_packs;
use crate::store::refs::decode_ref;
use crate::store::salvage::Salvage;
use crate::store::scan::{Found, Walk, walk_pack};
use crate::store::shield::{Bases, LiveSet};

/// How much is copied to reclaim what is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Nothing is changed: the answer says what would be.
    DryRun,
    /// Packs that are mostly dead are copied.
    Usual,
    /// Nearly every pack with something dead in it is: for one that was just written to take less.
    Thorough,
}

impl Sweep {
    /// A pack is repacked when less than this share of it is live.
    fn min_live(self) -> f64 {
        if self == Sweep::Thorough { 0.99 } else { 0.8 }
    }
}

/// Room that is left beside what is copied, for the index and what puts write meanwhile.
const COPY_SLACK: u64 = 64 << 10;

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
    /// Packs that are mostly dead, and were left as they are since there was too little room to copy the rest of them.
    pub left_packs: u64,
}

/// Live and dead bytes of one pack.
#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    len: u64,
    live: u64,
}

impl Usage {
    fn is_victim(&self, min_live: f64) -> bool {
        let overhead = PACK_HEADER_BYTES as u64;
        let used = self.len.saturating_sub(overhead);
        self.live < used && (self.live as f64) < min_live * used as f64 || used == 0
    }
}

/// What the mark came to.
struct Survey {
    dead: Vec<(Hash, Entry)>,
    /// Packs that are mostly dead, those with the least to copy first: each makes room for the next.
    victims: Vec<(PackId, Usage)>,
    /// Bytes of all packs.
    pack_bytes: u64,
}

impl ChunkStore {
    /// Reclaims what `mark` does not list and nothing listed needs.
    pub fn collect(
        &self,
        sweep: Sweep,
        mark: impl FnOnce(&mut LiveSet) -> Result<()>,
        monitor: &Monitor,
    ) -> Result<SweepReport> {
        self.writable()?;
        let _collecting = lock(&self.inner.collecting);
        if sweep != Sweep::DryRun {
            self.check_index()?;
        }
        self.checkpoint()?;
        if sweep != Sweep::DryRun {
            self.knows_all()?;
        }
        let start = {
            let mut shield = lock(&self.inner.shield);
            let start = self.end();
            shield.begin_collection(start);
            start
        };
        let outcome = self.mark_and_sweep(start, sweep, mark, monitor);
        lock(&self.inner.shield).end_collection();
        outcome
    }

    /// Fails if some of a pack could not be read when the index was built: it may have versions that reach what seems to be dead.
    fn knows_all(&self) -> Result<()> {
        let packs = list_packs(&*self.inner.backend)?;
        let Some(pack) = lock(&self.inner.log).writer.not_whole(&packs) else { return Ok(()) };
        Err(Error::Damaged {
            what: "pack",
            place: self.inner.backend.describe(&pack_name(pack)).display().to_string(),
            why: "some of it could not be read when the index was built, so what it holds is not known and nothing was collected: \
                  put a copy of it in its place, if need be one without what cannot be read, and open the store again"
                .to_owned(),
        })
    }

    fn mark_and_sweep(
        &self,
        start: Position,
        sweep: Sweep,
        mark: impl FnOnce(&mut LiveSet) -> Result<()>,
        monitor: &Monitor,
    ) -> Result<SweepReport> {
        let mut live = LiveSet::default();
        mark(&mut live)?;
        let mut bases = Bases::default();
        self.inner.index.for_each(|hash, entry| entry.base.iter().for_each(|base| bases.add(&hash, base)))?;
        live.add_bases(&bases);
        let live = Arc::new(live);
        {
            let mut shield = lock(&self.inner.shield);
            shield.keep_bases(&bases);
            if sweep != Sweep::DryRun {
                shield.condemn(Arc::clone(&live));
            }
        }
        drop(bases);
        let Survey { dead, victims, pack_bytes } = self.survey(start, &live, sweep.min_live())?;
        let mut report = SweepReport { removed_chunks: dead.len() as u64, ..SweepReport::default() };
        if sweep == Sweep::DryRun {
            report.reclaimed_bytes = victims.iter().map(|(_, usage)| usage.len.saturating_sub(usage.live)).sum();
            report.kept_bytes = pack_bytes.saturating_sub(report.reclaimed_bytes);
            return Ok(report);
        }
        for batch in dead.chunks(BATCH_ENTRIES) {
            monitor.check()?;
            self.checkpoint_with(IndexChange { removed: batch.to_vec(), ..IndexChange::default() })?;
        }
        monitor.begin("gc", victims.iter().map(|(_, usage)| usage.len).sum());
        for (pack, usage) in victims {
            monitor.check()?;
            match self.has_room_to_copy(usage) {
                true => self.repack(pack, &live, monitor)?,
                false => report.left_packs += 1,
            }
            monitor.advance(usage.len);
        }
        monitor.finish();
        if report.left_packs > 0 {
            monitor.warn(&format!(
                "{} of the packs are left as they are: there is too little room to copy what of them is needed; free some and collect again",
                report.left_packs
            ));
        }
        report.kept_bytes = list_packs(&*self.inner.backend)?.iter().map(|&(_, len)| len).sum();
        report.reclaimed_bytes = pack_bytes.saturating_sub(report.kept_bytes);
        Ok(report)
    }

    /// Whether what is needed of a pack can be copied before the rest of it is deleted. A write that fails would end the log.
    fn has_room_to_copy(&self, usage: Usage) -> bool {
        usage.live == 0 || self.inner.backend.room().is_none_or(|room| usage.live + COPY_SLACK <= room.free)
    }

    /// Finds what is dead, and the packs that are worth copying. What lies behind `start` counts as live.
    fn survey(&self, start: Position, live: &LiveSet, min_live: f64) -> Result<Survey> {
        let packs = list_packs(&*self.inner.backend)?;
        let mut usage: HashMap<PackId, Usage> =
            packs.iter().map(|&(id, len)| (id, Usage { len, live: 0 })).filter(|&(id, _)| id <= start.pack).collect();
        if let Some(growing) = usage.get_mut(&start.pack) {
            growing.live += growing.len.saturating_sub(start.offset.into());
        }
        let mut count = |position: Position, len: u64| {
            if position < start
                && let Some(usage) = usage.get_mut(&position.pack)
            {
                usage.live += len;
            }
        };
        let mut dead = Vec::new();
        {
            let shield = lock(&self.inner.shield);
            self.inner.index.for_each(|hash, entry| {
                if entry.position >= start || live.contains(&hash) || shield.keeps(&hash) {
                    count(entry.position, entry.record_len());
                } else {
                    dead.push((hash, entry));
                }
            })?;
        }
        for (_, entry) in self.inner.index.refs(&[])? {
            count(entry.position, (RECORD_HEADER_BYTES + entry.record.len()) as u64);
        }
        let mut victims: Vec<(PackId, Usage)> =
            usage.into_iter().filter(|(_, usage)| usage.is_victim(min_live)).collect();
        victims.sort_unstable_by_key(|&(id, usage)| (usage.live, id));
        Ok(Survey { dead, victims, pack_bytes: packs.iter().map(|&(_, len)| len).sum() })
    }

    /// Copies what is live in `pack` to the log's end and deletes the pack. A pack with a live record that is damaged is kept, and so is
    /// one that the disk cannot read everywhere: it may be able to later.
    fn repack(&self, pack: PackId, live: &LiveSet, monitor: &Monitor) -> Result<()> {
        {
            let mut log = lock(&self.inner.log);
            if log.writer.active_pack() == Some(pack) {
                log.writer.seal()?;
            }
        }
        // From here on the pack does not grow, and with this all of it that a put relies on is in the index.
        self.checkpoint()?;
        let packs = list_packs(&*self.inner.backend)?;
        let oldest = packs.first().is_some_and(|&(id, _)| id == pack);
        let Some(&(_, len)) = packs.iter().find(|&&(id, _)| id == pack) else { return Ok(()) };
        let name = pack_name(pack);
        let mut change = IndexChange::default();
        let (damaged, whole) = self.move_entries(pack, len, live, &mut change, monitor)?;
        // A pack that may stay keeps what its removals remove.
        self.move_refs(pack, oldest && whole && !damaged, &mut change)?;
        lock(&self.inner.log).writer.set_sealed(pack, None);
        self.checkpoint_with(change)?;
        if !whole || damaged && self.needs(pack)? {
            lock(&self.inner.log).writer.set_sealed(pack, Some(len));
            let why = if whole { "is damaged" } else { "cannot be read everywhere" };
            monitor.warn(&format!("{name} {why} and is kept: run `caskad verify --all`"));
            return self.checkpoint();
        }
        // Before, so that nothing but a read in progress keeps the bytes; and after, for a read that came in between.
        self.forget_pack(pack);
        let deleted = self.inner.backend.delete(&name);
        self.forget_pack(pack);
        deleted.map_err(|error| Error::io("delete", self.inner.backend.describe(&name), error))
    }

    /// Copies the chunks and manifests of `pack` that the index finds there, and those that are `live` and that it finds nowhere: the bytes
    /// count, and it is only a cache. Says whether some bytes are no record, and whether all could be read.
    fn move_entries(
        &self,
        pack: PackId,
        len: u64,
        live: &LiveSet,
        change: &mut IndexChange,
        monitor: &Monitor,
    ) -> Result<(bool, bool)> {
        let name = pack_name(pack);
        let read_error = |error| Error::io("read", self.inner.backend.describe(&name), error);
        let reader = Salvage::new(self.inner.backend.open(&name).map_err(read_error)?);
        let mut damaged = false;
        walk_pack(&reader, 0..len, read_error, |found| {
            monitor.check()?;
            match found {
                Found::Damage { .. } => damaged = true,
                Found::Record { offset, header, payload, bytes } => {
                    let from = Position { pack, offset: offset as u32 };
                    if matches!(header.kind, RecordKind::Chunk | RecordKind::Manifest) {
                        self.move_entry(from, &header, payload, bytes, live, change)?;
                    }
                }
            }
            Ok(Walk::Continue)
        })?;
        Ok((damaged, reader.is_whole()))
    }

    fn move_entry(
        &self,
        from: Position,
        header: &RecordHeader,
        payload: &[u8],
        bytes: &[u8],
        live: &LiveSet,
        change: &mut IndexChange,
    ) -> Result<()> {
        // While the log is locked: of two records of one chunk, the one that holds must stay the last, or an index that is built
        // anew would prefer the other, whose base may be gone.
        let mut log = lock(&self.inner.log);
        let pending = self.inner.pending.read().unwrap_or_else(PoisonError::into_inner);
        let pending = pending.get(&(header.kind, header.hash)).copied();
        let found = pending.map_or_else(|| self.inner.index.get(&header.hash, header.kind), |entry| Ok(Some(entry)))?;
        let is_here = match found {
            Some(entry) => entry.position == from,
            None => live.contains(&header.hash),
        };
        if is_here {
            let to = log.writer.append_copy(bytes)?;
            let base: Option<Hash> = split_base(header, payload).and_then(|(base, _)| base);
            let entry = Entry::of(header, base, to);
            match found {
                Some(_) => change.moved.push((header.hash, from, entry)),
                None => change.entries.push((header.hash, entry)),
            }
        }
        Ok(())
    }

    /// Copies the refs whose latest record lies in `pack`. The index has their bytes, so one that is damaged there is mended.
    fn move_refs(&self, pack: PackId, oldest: bool, change: &mut IndexChange) -> Result<()> {
        let refs = self.inner.index.refs(&[])?;
        let here: Vec<(Vec<u8>, RefEntry)> =
            refs.into_iter().filter(|(_, entry)| entry.position.pack == pack).collect();
        for (key, entry) in here {
            if oldest && !entry.live {
                let record = decode_ref(&self.inner.index, &entry)?;
                if record.is_removal() && !self.tells_last_number(&record)? {
                    change.forgotten_refs.push((key, entry.position));
                    continue;
                }
            }
            self.copy_ref(key, entry, change)?;
        }
        Ok(())
    }

    /// True if the index still finds something in `pack`.
    fn needs(&self, pack: PackId) -> Result<bool> {
        let mut needed = false;
        self.inner.index.for_each(|_, entry| needed |= entry.position.pack == pack)?;
        Ok(needed)
    }

    /// True for the removal that alone remembers which version number of a key was given out last.
    fn tells_last_number(&self, record: &RefRecord) -> Result<bool> {
        match record.entity() {
            Entity::Version { key, number } => Ok(self.refs(&key)?.last_number == number),
            Entity::Label { .. } | Entity::Pin { .. } => Ok(false),
        }
    }
}
