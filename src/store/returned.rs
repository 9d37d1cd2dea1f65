//! Packs that lie before the covered place and that the index does not know, or knows to be shorter: a lost one was put back from a
//! copy, or a collection was interrupted before it deleted one.
//!
//! The index has gone on without them, and so have puts and collections. So only what the index lacks is taken in: what can be read
//! now still can be, and needs no base that was let go meanwhile. What a collection had swept comes back as well, for the next one.
//!
//! An index that is built anew prefers the last record of a chunk. Where that came back, and an earlier one is in use, the one in use
//! is copied to the log's end. Until that is durable the index does not know the pack as complete, so that the next open sees to it.
//!
//! A pack that the disk could not read everywhere is known to be shorter than it is, and so comes this way at each open.

use crate::backend::StorageBackend;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::{Covered, Entry, SealedPacks};
use crate::store::index::{Index, IndexChange};
use crate::store::pack::{pack_name, parse_record};
use crate::store::recovery::{cut, replay_whole};
use crate::store::replay::Replay;

/// Entries that came back and are not in use, although the records in use lie before theirs.
pub(super) type Outrun = Vec<(Hash, Entry)>;

/// What of the packs that came back the index lacks.
#[derive(Debug)]
pub(super) struct Gaps {
    /// The packs. Among themselves the last record of a chunk counts, as ever.
    packs: SealedPacks,
    outrun: Outrun,
}

impl Gaps {
    /// Takes out of `change` what the index knows otherwise.
    pub(super) fn leave_out_known(&mut self, index: &Index, change: &mut IndexChange) -> Result<()> {
        for (hash, entry) in std::mem::take(&mut change.entries) {
            match index.get(&hash, entry.kind)? {
                Some(known) if known.position >= entry.position => {}
                Some(known) if !self.packs.contains_key(&known.position.pack) => self.outrun.push((hash, entry)),
                _ => change.entries.push((hash, entry)),
            }
        }
        for (key, entry) in std::mem::take(&mut change.refs) {
            let known = index.refs(&key)?.into_iter().find(|(found, _)| *found == key);
            if known.is_none_or(|(_, known)| known.seq < entry.seq) {
                change.refs.push((key, entry));
            }
        }
        Ok(())
    }
}

/// Takes in what `index`, which covers the log up to `covered` and knows the complete packs `sealed`, lacks of the other `packs` there.
/// Where there are such packs, the answer has what [`ChunkStore::keep_in_use`] is to be given.
pub(super) fn take_in(
    backend: &dyn StorageBackend,
    index: &Index,
    packs: &mut SealedPacks,
    (covered, sealed): (Covered, &SealedPacks),
    read_only: bool,
) -> Result<(Covered, Option<Outrun>)> {
    let before = packs.range(..covered.end.pack);
    let returned: SealedPacks =
        before.filter(|&(id, len)| sealed.get(id) < Some(len)).map(|(&id, &len)| (id, len)).collect();
    if returned.is_empty() {
        return Ok((covered, None));
    }
    let mut replay = Replay::new(index, covered.next_seq);
    replay.gaps = Some(Gaps { packs: returned.clone(), outrun: Outrun::new() });
    for (&pack, &len) in &returned {
        tracing::warn!("{} is no longer what the index knows of it: what that lacks is taken in", pack_name(pack));
        if !read_only {
            // Whoever put it there need not have synced it.
            cut(backend, pack, len)?;
        }
        packs.insert(pack, replay_whole(backend, pack, len, &mut replay)?);
    }
    let covered = Covered { next_seq: replay.next_seq, ..covered };
    replay.finish(covered, None)?;
    Ok((covered, replay.gaps.map(|gaps| gaps.outrun)))
}

impl ChunkStore {
    /// Makes the records in use the last ones of their chunks, and the packs that came back known as complete.
    pub(super) fn keep_in_use(&self, outrun: Outrun) -> Result<()> {
        let mut reader = self.reader();
        let mut change = IndexChange::default();
        for (hash, returned) in outrun {
            let Some(entry) = self.locate(&hash, returned.kind)?.filter(|entry| entry.position < returned.position)
            else {
                continue;
            };
            let now = match reader.record(&hash, returned.kind) {
                Ok(bytes) if parse_record(bytes).is_ok() => {
                    Entry { position: lock(&self.inner.log).writer.append_copy(bytes)?, ..entry }
                }
                // Then the other one is better than none.
                Ok(_) | Err(Error::Damaged { .. }) => returned,
                Err(error) => return Err(error),
            };
            change.moved.push((hash, entry.position, now));
        }
        self.checkpoint_with(change)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::backend::testing::FaultDisk;
    use crate::chunk::Codec;
    use crate::monitor::Monitor;
    use crate::store::pack::{Record, RecordKind};
    use crate::store::{ChunkStoreOptions, IndexPlace, Sweep};

    use super::*;

    /// Each record has a pack of its own.
    fn open(disk: &FaultDisk) -> ChunkStore {
        let options = ChunkStoreOptions { pack_bytes: 1, ..ChunkStoreOptions::default() };
        ChunkStore::open(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone()), options).unwrap()
    }

    fn append(store: &ChunkStore, plain: &[u8], codec: Codec, base: Option<Hash>) {
        let (kind, hash, plain_len) = (RecordKind::Chunk, Hash::of(plain), plain.len() as u32);
        let depth = u8::from(base.is_some());
        store.append_record(&Record { kind, codec, depth, base, plain_len, hash, payload: plain }).unwrap();
    }

    fn assert_readable(store: &ChunkStore, plain: &[u8], context: &str) {
        let mut found = vec![0; plain.len()];
        let read = store.reader().read(&Hash::of(plain), &mut found);
        read.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(found == plain, "{context}");
    }

    /// A chunk was encoded anew against a base; without that pack the base was let go, and the first encoding is all there is.
    #[test]
    fn what_came_back_takes_the_place_of_nothing_that_is_in_use() {
        let disk = FaultDisk::new();
        let store = open(&disk);
        let (chunk, base) = (b"a chunk", Hash::of(b"its base"));
        append(&store, chunk, Codec::Raw, None);
        append(&store, b"its base", Codec::Raw, None);
        append(&store, chunk, Codec::Delta, Some(base));
        append(&store, b"another", Codec::Raw, None);
        store.checkpoint().unwrap();
        assert_eq!(store.locate(&Hash::of(chunk), RecordKind::Chunk).unwrap().unwrap().position.pack, 3);
        drop(store);
        let lost = disk.with_object("p-00000003.pack", |bytes| bytes.clone()).unwrap();
        disk.delete("p-00000003.pack").unwrap();

        let store = open(&disk);
        assert_readable(&store, chunk, "without the pack");
        let mark = |live: &mut crate::store::LiveSet| {
            for plain in [&chunk[..], b"another"] {
                live.insert(&Hash::of(plain));
            }
            Ok(())
        };
        store.collect(Sweep::Usual, mark, &Monitor::none()).unwrap();
        assert!(!store.has_chain(&base).unwrap());
        drop(store);

        disk.create("p-00000003.pack").unwrap().append(&lost).unwrap();
        assert_readable(&open(&disk), chunk, "with the pack again");
        let before = disk.operations().len();
        assert_readable(&open(&disk), chunk, "once more");
        assert_eq!(disk.operations().len(), before, "it is taken in once");
        disk.with_object("index.journal", Vec::clear).unwrap();
        assert_readable(&open(&disk), chunk, "with an index that was built anew");
    }
}
