//! Reading for others: the store as a [`ChunkSource`]. A chunk travels as it lies in its pack, where it can.

use crate::chunk::{ChunkSource, Codec, ElementWidth, Parcel};
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::node::home::home_of;
use crate::node::store::Store;
use crate::store::pack::{RECORD_HEADER_BYTES, RecordHeader, split_base};
use crate::store::{ChunkReader, RecordKind};

/// What one thread reads with.
pub(super) struct SourceWorker {
    reader: ChunkReader,
    plain: Vec<u8>,
}

impl Store {
    fn with_worker<T>(&self, act: impl FnOnce(&mut SourceWorker) -> Result<T>) -> Result<T> {
        let make = || SourceWorker { reader: self.inner.chunks.reader(), plain: Vec::new() };
        self.inner.source_workers.with(make, act)
    }

    /// Runs `act` with a reader that others have used before.
    #[cfg(feature = "net")]
    pub(super) fn with_reader<T>(&self, act: impl FnOnce(&mut ChunkReader) -> Result<T>) -> Result<T> {
        self.with_worker(|worker| act(&mut worker.reader))
    }

    /// The chunk, decoded, verified, and encoded to stand alone.
    fn stand_alone(&self, worker: &mut SourceWorker, hash: &Hash) -> Result<Option<Parcel>> {
        let Some(entry) = self.inner.chunks.locate(hash, RecordKind::Chunk)? else { return Ok(None) };
        let SourceWorker { reader, plain } = worker;
        plain.resize((entry.plain_len as usize).min(limits::CHUNK_BYTES), 0);
        reader.read(hash, plain)?;
        let mut payload = Vec::new();
        let encode = |encoder: &mut Encoder| encoder.encode(plain, ElementWidth::Unknown, &mut payload);
        let codec = self.with_encoder(Effort::Default, encode);
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
        self.with_worker(|worker| {
            match worker.reader.record(hash, RecordKind::Chunk) {
                Ok(record) => {
                    if let Some(parcel) = as_stored(record, bases) {
                        return Ok(Some(parcel.into_owned()));
                    }
                }
                // Read once more below, which tells what is to blame.
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
            match self.stand_alone(worker, hash) {
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!("a chunk cannot be served: {error}");
                    self.note_culprit(&worker.reader);
                    Ok(None)
                }
                read => read,
            }
        })
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
