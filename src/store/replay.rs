//! [`Replay`]: what records say, collected and committed to the index in batches.

use crate::error::Result;
use crate::refs::RefRecord;
use crate::store::entry::{Covered, Entry, Position, RefEntry, SealedPacks};
use crate::store::index::{Index, IndexChange};
use crate::store::pack::{RecordHeader, RecordKind, pack_name, split_base};
use crate::store::refs::entity_key;
use crate::store::returned::Gaps;

/// Entries that are committed to the index at a time.
pub(super) const BATCH_ENTRIES: usize = 16 << 10;

pub(super) struct Replay<'i> {
    index: &'i Index,
    change: IndexChange,
    /// The sequence number behind all that were taken in.
    pub(super) next_seq: u64,
    /// Whether there was a record.
    pub(super) touched: bool,
    /// Where only what the index lacks is taken in.
    pub(super) gaps: Option<Gaps>,
}

impl Replay<'_> {
    /// Takes in records that are the last of the log.
    pub(super) fn new(index: &Index, next_seq: u64) -> Replay<'_> {
        Replay { index, change: IndexChange::default(), next_seq, touched: false, gaps: None }
    }

    pub(super) fn take(&mut self, position: Position, header: &RecordHeader, payload: &[u8]) -> Result<()> {
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
        if self.change.entries.len() + self.change.refs.len() >= BATCH_ENTRIES {
            let change = self.batch()?;
            self.index.apply(&change)?;
        }
        Ok(())
    }

    /// What was collected since the last batch, as the index is to take it.
    fn batch(&mut self) -> Result<IndexChange> {
        let mut change = dedup(std::mem::take(&mut self.change));
        if let Some(gaps) = &mut self.gaps {
            gaps.leave_out_known(self.index, &mut change)?;
        }
        Ok(change)
    }

    /// Commits what is left, and how much of the log the index covers now; `packs` are those that are complete, where that changed.
    pub(super) fn finish(&mut self, covered: Covered, packs: Option<SealedPacks>) -> Result<()> {
        let batch = self.batch()?;
        self.index.apply(&IndexChange { covered: Some(covered), packs, ..batch })
    }
}

/// Keeps the last entry of a hash that was stored twice: the log's order decides.
fn dedup(mut change: IndexChange) -> IndexChange {
    change.entries.sort_by_key(|(hash, entry)| (entry.kind as u8, *hash, entry.position));
    change.entries.reverse();
    change.entries.dedup_by_key(|(hash, entry)| (entry.kind, *hash));
    change
}
