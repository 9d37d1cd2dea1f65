//! Reading for others: the store as a [`ChunkSource`]. A chunk travels as it lies in its pack, where it can.

use std::sync::{Mutex, PoisonError};

use crate::chunk::{ChunkSource, Codec, ElementWidth, Parcel};
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::node::home::home_of;
use crate::node::store::Store;
use crate::store::pack::{RECORD_HEADER_BYTES, RecordHeader, split_base};
use crate::store::{ChunkReader, RecordKind};

/// Readers and encoders that wait for their next use.
#[derive(Default)]
pub(super) struct SourcePool(Mutex<Vec<Worker>>);

impl std::fmt::Debug for SourcePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourcePool")
    }
}

/// Workers that are kept.
const POOLED: usize = 16;

struct Worker {
    reader: ChunkReader,
    encoder: Encoder,
    plain: Vec<u8>,
}

impl Store {
    /// Runs `act` with a reader and an encoder of the pool.
    fn with_worker<T>(&self, act: impl FnOnce(&mut Worker) -> Result<T>) -> Result<T> {
        let pool = &self.inner.source_pool.0;
        let pooled = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = pooled.unwrap_or_else(|| Worker {
            reader: self.inner.chunks.reader(),
            encoder: Encoder::new(Effort::Default),
            plain: Vec::new(),
        });
        let done = act(&mut worker);
        let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOLED {
            pool.push(worker);
        }
        done
    }

    /// The chunk, decoded, verified, and encoded to stand alone.
    fn stand_alone(&self, worker: &mut Worker, hash: &Hash) -> Result<Option<Parcel>> {
        let Some(entry) = self.inner.chunks.locate(hash, RecordKind::Chunk)? else { return Ok(None) };
        let Worker { reader, encoder, plain } = worker;
        plain.resize((entry.plain_len as usize).min(limits::CHUNK_BYTES), 0);
        reader.read(hash, plain)?;
        let mut payload = Vec::new();
        let codec = encoder.encode(plain, ElementWidth::Unknown, &mut payload);
        if codec == Codec::Raw {
            payload.clone_from(plain);
        }
        let plain_len = plain.len() as u32;
        Ok(Some(Parcel { hash: *hash, home: home_of(hash), plain_len, codec, base: None, payload }))
    }
}

/// The chunk as its record has it; `None` if that needs a base that is not among `bases`, or does not match its checksum.
fn as_stored<'r>(record: &'r [u8], bases: &[Hash]) -> Option<Parcel<&'r [u8]>> {
    let header = RecordHeader::decode(record).ok()?;
    let payload = record.get(RECORD_HEADER_BYTES..)?;
    if crc32c::crc32c(payload) != header.payload_crc {
        return None;
    }
    let (base, skip) = split_base(&header, payload)?;
    if base.is_some_and(|base| !bases.contains(&base)) {
        return None;
    }
    let RecordHeader { hash, plain_len, codec, .. } = header;
    Some(Parcel { hash, home: home_of(&hash), plain_len, codec, base, payload: payload.get(skip..)? })
}

impl ChunkSource for Store {
    fn holds(&self, hashes: &[Hash]) -> Result<Vec<bool>> {
        hashes.iter().map(|hash| self.inner.chunks.has_chain(hash)).collect()
    }

    fn parcel(&self, hash: &Hash, bases: &[Hash]) -> Result<Option<Parcel>> {
        if self.inner.chunks.locate(hash, RecordKind::Chunk)?.is_none() {
            return Ok(None);
        }
        let read = self.with_worker(|worker| match as_stored(worker.reader.record(hash, RecordKind::Chunk)?, bases) {
            Some(parcel) => Ok(Some(parcel.into_owned())),
            None => self.stand_alone(worker, hash),
        });
        match read {
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!("a chunk cannot be served: {error}");
                Ok(None)
            }
            read => read,
        }
    }

    fn take_at_hand(&self, hash: &Hash, bases: &[Hash], take: &mut dyn FnMut(&Parcel<&[u8]>)) -> bool {
        let taken = self.with_worker(|worker| {
            let parcel = worker.reader.record_at_hand(hash).and_then(|record| as_stored(record, bases));
            Ok(parcel.map(|parcel| take(&parcel)).is_some())
        });
        taken.unwrap_or(false)
    }

    fn base(&self, hash: &Hash) -> Result<Option<Hash>> {
        Ok(self.inner.chunks.locate(hash, RecordKind::Chunk)?.and_then(|entry| entry.base))
    }
}
