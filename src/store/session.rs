//! [`Session`]: one put in flight. What it relies on is shielded from garbage collection until it commits or is dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::chunk::Codec;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::refs::{RefChange, RefRecord};
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::RefEntry;
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
    /// The encoded bytes.
    pub payload: &'a [u8],
}

/// A put in flight. Shared by the threads that encode for it; dropping it uncommitted leaves only reclaimable bytes.
#[derive(Debug)]
pub struct Session {
    store: ChunkStore,
    id: u64,
    stored_bytes: AtomicU64,
    new_chunks: AtomicU64,
}

impl ChunkStore {
    /// Begins a put.
    pub fn begin(&self) -> Result<Session> {
        self.writable()?;
        let id = self.inner.next_session.fetch_add(1, Ordering::Relaxed);
        lock(&self.inner.shield).add_session(id);
        Ok(Session { store: self.clone(), id, stored_bytes: AtomicU64::new(0), new_chunks: AtomicU64::new(0) })
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
            let (_, position) = log.writer.append(&Record {
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

impl Session {
    /// True if the chunk `hash` is stored; from then on it stays until this put ends.
    pub fn has(&self, hash: &Hash) -> Result<bool> {
        let protected = lock(&self.store.inner.shield).protect(self.id, hash);
        let found = self.store.locate(hash, RecordKind::Chunk)?;
        Ok(match protected {
            Ok(()) => found.is_some(),
            Err(start) => found.is_some_and(|entry| entry.position >= start),
        })
    }

    /// Appends a chunk that [`has`](Session::has) did not find. Durable with the commit.
    pub fn append(&self, chunk: &EncodedChunk<'_>) -> Result<()> {
        lock(&self.store.inner.shield).protect_new(self.id, &chunk.hash);
        let header = self.store.append(&Record {
            kind: RecordKind::Chunk,
            codec: chunk.codec,
            depth: 0,
            base: None,
            plain_len: chunk.plain_len,
            hash: chunk.hash,
            payload: chunk.payload,
        })?;
        self.stored_bytes.fetch_add(header.record_len(), Ordering::Relaxed);
        self.new_chunks.fetch_add(1, Ordering::Relaxed);
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
        let header = self.store.append(&Record {
            kind: RecordKind::Manifest,
            codec: manifest.codec,
            depth: 0,
            base: None,
            plain_len: manifest.plain_len,
            hash: manifest.hash,
            payload: manifest.payload,
        })?;
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
