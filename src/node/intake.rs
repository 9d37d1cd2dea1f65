//! Taking chunks in from strangers: each is verified before it is stored, and kept under a lease.
//!
//! Order of a commit: the packs are synced and the index committed, then the lease is granted, durably, and only then is the peer told. A
//! crash in between leaves chunks without a lease, which the next garbage collection reclaims.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::chunk::{Codec, Intake, LeaseTerms, Parcel, Taken};
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::node::leases::LeasedChunk;
use crate::node::store::Store;
use crate::store::{ChunkReader, EncodedChunk, RecordKind, Session};

/// Chunks that wait for a commit. More are committed, whoever asks for that or not.
const UNCOMMITTED: usize = 1 << 16;

/// An [`Intake`] of a store.
pub(crate) struct StoreIntake {
    store: Store,
    session: Session,
    terms: LeaseTerms,
    /// What the next commit grants the lease on. Each chunk once, so no number of repetitions fills the memory.
    taken: Mutex<HashMap<Hash, LeasedChunk>>,
}

/// What one thread verifies with.
pub(super) struct IntakeWorker {
    decoder: Decoder,
    reader: ChunkReader,
    plain: Vec<u8>,
    base: Vec<u8>,
}

impl Store {
    /// Begins to take chunks in under a lease of `terms`.
    pub(crate) fn intake(&self, terms: LeaseTerms) -> Result<StoreIntake> {
        let session = self.inner.chunks.begin()?;
        Ok(StoreIntake { store: self.clone(), session, terms, taken: Mutex::default() })
    }
}

impl StoreIntake {
    fn taken(&self) -> MutexGuard<'_, HashMap<Hash, LeasedChunk>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, hash: Hash, home: [u8; 4], stored_len: u32) {
        self.taken().entry(hash).or_insert(LeasedChunk { hash, home, stored_len });
    }

    /// Grants the lease on a chunk that is stored, and says how many plain bytes it has.
    pub(crate) fn held(&self, hash: &Hash, home: [u8; 4]) -> Result<Option<u32>> {
        if !self.session.has(hash)? {
            return Ok(None);
        }
        let Some(entry) = self.store.inner.chunks.locate(hash, RecordKind::Chunk)? else { return Ok(None) };
        self.note(*hash, home, entry.stored_len);
        if self.taken().len() >= UNCOMMITTED {
            self.commit()?;
        }
        Ok(Some(entry.plain_len))
    }

    /// Makes what is stored durable, then grants the lease on `taken`, which was stored before the call.
    fn grant(&self, taken: &HashMap<Hash, LeasedChunk>) -> Result<()> {
        self.store.inner.chunks.checkpoint()?;
        let leases = self.store.leases()?;
        if taken.is_empty() {
            // No chunk, no lease: they would cost a stranger nothing.
            return leases.renew(self.terms).map(drop);
        }
        let chunks: Vec<LeasedChunk> = taken.values().copied().collect();
        leases.grant(self.terms, &chunks).map(drop)
    }

    fn verify(&self, worker: &mut IntakeWorker, parcel: &Parcel) -> Result<Taken> {
        if let Some(base) = &parcel.base {
            // Relied on from here on, so that no collection takes it before the difference is stored.
            let Some(found) = self.session.base(base, limits::DELTA_DEPTH)?.filter(|found| found.hash == *base) else {
                return Ok(Taken::NeedsBase);
            };
            worker.base.resize((found.plain_len as usize).min(limits::CHUNK_BYTES), 0);
            match worker.reader.read(base, &mut worker.base) {
                Err(Error::Damaged { .. }) => {
                    self.store.note_culprit(&worker.reader);
                    return Ok(Taken::NeedsBase);
                }
                read => read?,
            }
        }
        let plain = match parcel.codec {
            // Hashed where it lies: decoding would only copy it.
            Codec::Raw if parcel.payload.len() == parcel.plain_len as usize => &parcel.payload,
            _ => {
                let base = parcel.base.is_some().then_some(worker.base.as_slice());
                let (plain_len, plain) = (parcel.plain_len as usize, &mut worker.plain);
                if let Err(error) = worker.decoder.decode(parcel.codec, &parcel.payload, plain_len, base, plain) {
                    return Ok(Taken::Wrong(error.to_string()));
                }
                &worker.plain
            }
        };
        if Hash::of(plain) != parcel.hash {
            return Ok(Taken::Wrong("its bytes do not match its hash".to_owned()));
        }
        Ok(Taken::Stored)
    }
}

impl Intake for StoreIntake {
    fn take(&self, parcel: &Parcel) -> Result<Taken> {
        if self.hold(&parcel.hash, parcel.home)? {
            return Ok(Taken::Known);
        }
        let sound = parcel.plain_len > 0
            && parcel.plain_len as usize <= limits::CHUNK_BYTES
            && parcel.payload.len() <= limits::ENCODED_CHUNK_BYTES
            && parcel.codec.has_base() == parcel.base.is_some()
            && parcel.base != Some(parcel.hash);
        if !sound {
            return Ok(Taken::Wrong("its lengths, encoding and base do not go together".to_owned()));
        }
        let make = || IntakeWorker {
            decoder: Decoder::new(),
            reader: self.store.inner.chunks.reader(),
            plain: Vec::new(),
            base: Vec::new(),
        };
        let verdict = self.store.inner.intake_workers.with(make, |worker| self.verify(worker, parcel))?;
        if verdict == Taken::Stored {
            let Parcel { hash, plain_len, codec, base, payload, .. } = parcel;
            let chunk = EncodedChunk { hash: *hash, plain_len: *plain_len, codec: *codec, base: *base, payload };
            match self.session.append(&chunk) {
                // So long a chain of bases is not kept here; to stand alone, the chunk is.
                Err(Error::Limit { .. }) if base.is_some() => return Ok(Taken::NeedsBase),
                appended => appended?,
            }
            self.note(*hash, parcel.home, payload.len() as u32);
            if self.taken().len() >= UNCOMMITTED {
                self.commit()?;
            }
        }
        Ok(verdict)
    }

    fn hold(&self, hash: &Hash, home: [u8; 4]) -> Result<bool> {
        Ok(self.held(hash, home)?.is_some())
    }

    fn commit(&self) -> Result<()> {
        // Taken out before the sync: what other threads take meanwhile may not be covered by it, and waits for the next commit.
        let taken = std::mem::take(&mut *self.taken());
        let granted = self.grant(&taken);
        if granted.is_err() {
            taken.into_values().for_each(|chunk| self.note(chunk.hash, chunk.home, chunk.stored_len));
        }
        granted
    }
}
