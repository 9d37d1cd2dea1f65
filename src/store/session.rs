//! [`Session`]: one put in flight. What it relies on is shielded from garbage collection until it commits or is dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::chunk::Codec;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::Scope;
use crate::limits;
use crate::refs::{RefChange, RefRecord};
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::{Entry, RefEntry};
use crate::store::pack::{Record, RecordKind};
use crate::store::refs::entity_key;

/// A chunk in the encoding it is to be kept in.
#[derive(Debug, Clone, Copy)]
pub struct EncodedChunk<'a> {
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// Plain bytes.
    pub plain_len: u32,
    /// How `payload` is encoded.
    pub codec: Codec,
    /// The chunk that `payload` is a difference to: there is one for the delta codecs, and only for those.
    pub base: Option<Hash>,
    /// The encoded bytes.
    pub payload: &'a [u8],
}

/// A chunk that a delta may be taken against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// BLAKE3 of its plain bytes.
    pub hash: Hash,
    /// Plain bytes.
    pub plain_len: u32,
    /// Bases that lie below it: 0 for a chunk that stands alone.
    pub depth: u8,
}

/// A put in flight. Shared by the threads that encode for it; dropping it uncommitted leaves only reclaimable bytes.
#[derive(Debug)]
pub struct Session {
    store: ChunkStore,
    id: u64,
    stored_bytes: AtomicU64,
    new_chunks: AtomicU64,
    delta_chunks: AtomicU64,
}

impl ChunkStore {
    /// Begins a put.
    pub fn begin(&self) -> Result<Session> {
        self.writable()?;
        let id = self.inner.next_session.fetch_add(1, Ordering::Relaxed);
        lock(&self.inner.shield).add_session(id);
        let (stored_bytes, new_chunks, delta_chunks) = Default::default();
        Ok(Session { store: self.clone(), id, stored_bytes, new_chunks, delta_chunks })
    }

    /// Appends the refs and removals that `changes` decides on, and makes them durable and visible. `changes` runs while no other
    /// commit does, so what it looks up still holds when they are.
    ///
    /// A crash before this returns leaves the first few of the changes, or none.
    pub fn commit_refs(&self, changes: impl FnOnce() -> Result<Vec<RefChange>>) -> Result<()> {
        self.writable()?;
        let _commit = lock(&self.inner.commit);
        self.append_refs(changes()?)?;
        self.checkpoint()
    }

    fn append_refs(&self, changes: Vec<RefChange>) -> Result<()> {
        // A name that only this machine has a meaning for could not be read again.
        let named = |change: &RefChange| matches!(change.entity().key().scope(), Some(Scope::Alias(_)));
        if let Some(change) = changes.iter().find(|change| named(change)) {
            let (input, why) = (change.entity().key().to_string(), "refs have scopes, and no aliases".to_owned());
            return Err(Error::Syntax { what: "key", input, why });
        }
        let mut log = lock(&self.inner.log);
        // Only a forged ref can have brought the numbers near their end. Started over, they would lose to every older one.
        if log.next_seq.checked_add(changes.len() as u64).is_none() {
            return Err(Error::Limit { what: "the number of a ref", found: log.next_seq, limit: u64::MAX });
        }
        let numbered = changes.into_iter().zip(log.next_seq..);
        let records: Vec<(RefRecord, Vec<u8>)> = numbered
            .map(|(change, seq)| RefRecord { seq, change })
            .map(|record| {
                let payload = record.encode();
                (record, payload)
            })
            .collect();
        if let Some((_, payload)) = records.iter().find(|(_, payload)| payload.len() > limits::REF_BYTES) {
            let (found, limit) = (payload.len() as u64, limits::REF_BYTES as u64);
            return Err(Error::Limit { what: "a ref with its metadata, in bytes,", found, limit });
        }
        for (record, payload) in records {
            let kind = if record.is_removal() { RecordKind::Removal } else { RecordKind::Ref };
            let position = log.writer.append_small(&Record {
                kind,
                codec: Codec::Raw,
                depth: 0,
                base: None,
                plain_len: payload.len() as u32,
                hash: Hash::of(&payload),
                payload: &payload,
            })?;
            log.next_seq = record.seq + 1;
            let entry = RefEntry { seq: record.seq, position, live: !record.is_removal(), record: payload };
            log.pending_refs.push((entity_key(&record.entity()), entry));
        }
        Ok(())
    }
}

impl EncodedChunk<'_> {
    /// Its record, with `depth` bases below it.
    pub(super) fn record(&self, depth: u8) -> Record<'_> {
        let EncodedChunk { hash, plain_len, codec, base, payload } = *self;
        Record { kind: RecordKind::Chunk, codec, depth, base, plain_len, hash, payload }
    }
}

impl Session {
    /// True if the chunk `hash` is stored, and so are the bases that it needs; from then on they stay until this put ends.
    ///
    /// A delta whose base is gone counts as not stored: damage leaves such, and so do a crash in the middle of a sweep, and an index
    /// rebuilt from packs that still have what was swept.
    pub fn has(&self, hash: &Hash) -> Result<bool> {
        self.rely_on(hash, |_, _| {})
    }

    /// The chunk `hash`, or the nearest of the bases below it, that has at most `depth` bases itself. `None` if it is not stored.
    /// What was answered stays until this put ends, and so do its bases.
    pub fn base(&self, hash: &Hash, depth: u8) -> Result<Option<Base>> {
        let mut chain = Vec::new();
        if !self.rely_on(hash, |hash, entry| chain.push((*hash, entry.plain_len)))? {
            return Ok(None);
        }
        let shallow = (0..=depth).rev().find_map(|depth| Some((depth, *chain.iter().nth_back(depth.into())?)));
        Ok(shallow.map(|(depth, (hash, plain_len))| Base { hash, plain_len, depth }))
    }

    /// Protects `hash` and its bases, and calls `visit` for each. False if one of them is not stored or about to be swept.
    fn rely_on(&self, hash: &Hash, mut visit: impl FnMut(&Hash, &Entry)) -> Result<bool> {
        let mut at = *hash;
        for _ in 0..=limits::DELTA_DEPTH {
            // What is not stored is not listed: a stranger may ask for hashes without end.
            if self.store.locate(&at, RecordKind::Chunk)?.is_none() {
                return Ok(false);
            }
            let protected = lock(&self.store.inner.shield).protect(self.id, &at);
            let Some(entry) = self.store.locate(&at, RecordKind::Chunk)? else { return Ok(false) };
            if protected.is_err_and(|start| entry.position < start) {
                return Ok(false);
            }
            visit(&at, &entry);
            match entry.base {
                None => return Ok(true),
                Some(base) => at = base,
            }
        }
        Ok(false)
    }

    /// Appends a chunk that [`has`](Session::has) did not find. Durable with the commit.
    ///
    /// Fails with [`Error::NoSpace`], and leaves the log as it is, before there is no room left for anything else.
    ///
    /// A delta needs a base that [`base`](Session::base) has answered with. It is not appended if another put has stored the chunk
    /// meanwhile: that one's chain may lead here.
    pub fn append(&self, chunk: &EncodedChunk<'_>) -> Result<()> {
        let refuse =
            |why: &str| Err(Error::Syntax { what: "chunk", input: chunk.hash.to_string(), why: why.to_owned() });
        self.store.inner.room.take(&*self.store.inner.backend, chunk.payload.len() as u64)?;
        lock(&self.store.inner.shield).protect_new(self.id, &chunk.hash);
        let (header, due, full) = match chunk.base {
            _ if chunk.codec.has_base() != chunk.base.is_some() => {
                return refuse("a delta has a base, and no other encoding has");
            }
            None => self.store.begin_record(&chunk.record(0))?,
            Some(base) => {
                let mut chains = lock(&self.store.inner.chains);
                if self.has(&chunk.hash)? {
                    return Ok(());
                }
                let mut depth = 0;
                if !self.rely_on(&base, |_, _| depth += 1)? {
                    return refuse("its base is not stored; put it again");
                }
                if depth > limits::DELTA_DEPTH {
                    let (found, limit) = (depth.into(), limits::DELTA_DEPTH.into());
                    return Err(Error::Limit { what: "the number of bases below a delta", found, limit });
                }
                self.store.allow_deltas()?;
                let appended = self.store.begin_record(&chunk.record(depth))?;
                chains.iter_mut().for_each(|dependents| dependents.add(&base, &chunk.hash));
                appended
            }
        };
        self.store.write_buffer(full)?;
        if due {
            self.store.checkpoint()?;
        }
        self.stored_bytes.fetch_add(header.record_len(), Ordering::Relaxed);
        self.new_chunks.fetch_add(1, Ordering::Relaxed);
        self.delta_chunks.fetch_add(u64::from(chunk.base.is_some()), Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that this put has added to the packs so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Chunks that this put has added so far.
    pub fn new_chunks(&self) -> u64 {
        self.new_chunks.load(Ordering::Relaxed)
    }

    /// How many of them are differences to another chunk.
    pub fn delta_chunks(&self) -> u64 {
        self.delta_chunks.load(Ordering::Relaxed)
    }

    /// Makes the put durable and visible: the manifest, then the refs that `refs` makes of the bytes added, then one sync of it
    /// all, then the index. Returns once that is done.
    ///
    /// `refs` runs while no other commit does, so it may give out a version number.
    pub fn commit(
        &self,
        manifest: &EncodedChunk<'_>,
        refs: impl FnOnce(&Session) -> Result<Vec<RefChange>>,
    ) -> Result<()> {
        let _commit = lock(&self.store.inner.commit);
        lock(&self.store.inner.shield).protect_new(self.id, &manifest.hash);
        let record = Record { kind: RecordKind::Manifest, base: None, ..manifest.record(0) };
        let (header, _) = self.store.append_record(&record)?;
        self.stored_bytes.fetch_add(header.record_len(), Ordering::Relaxed);
        self.store.append_refs(refs(self)?)?;
        self.store.checkpoint()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.store.inner.shield).remove_session(self.id);
    }
}
