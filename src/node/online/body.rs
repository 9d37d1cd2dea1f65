//! Documents that travel as chunks: manifests, listings, and catalogues that no record has room for.

use std::sync::Arc;

use crate::chunk::{ChunkRef, Codec, ElementWidth, Intake as _, LeaseTerms, Parcel, Taken};
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::net::push::Homed;
use crate::net::record::Body;
use crate::node::home::home_of;
use crate::node::intake::StoreIntake;
use crate::node::store::Store;

/// A document as a record names it, and the chunks that it is made of. It is stored, and durable when its intake is committed.
pub(super) struct Document {
    pub(super) body: Body,
    pub(super) chunks: Vec<Homed>,
    pub(super) intake: Arc<StoreIntake>,
}

impl Store {
    /// The bytes of `chunks` one after another; `None` if one of them is not here, or is damaged here.
    pub(super) fn read_document(&self, chunks: &[ChunkRef]) -> Result<Option<Vec<u8>>> {
        // What it has is not collected before it is read.
        let session = self.inner.chunks.begin()?;
        self.with_reader(|reader| {
            let mut bytes = Vec::new();
            for chunk in chunks {
                if !session.has(&chunk.hash)? {
                    return Ok(None);
                }
                let start = bytes.len();
                bytes.resize(start + chunk.len as usize, 0);
                match reader.read(&chunk.hash, bytes.get_mut(start..).unwrap_or_default()) {
                    Err(Error::Damaged { .. }) => {
                        self.note_culprit(reader);
                        return Ok(None);
                    }
                    read => read?,
                }
            }
            Ok(Some(bytes))
        })
    }

    /// Stores `bytes` as chunks that are to be under a lease of `terms`, so that they can be placed like others. The caller
    /// places them or commits the intake.
    pub(super) fn store_document(&self, bytes: &[u8], terms: LeaseTerms) -> Result<Document> {
        let intake = self.intake(terms)?;
        let mut chunks = Vec::new();
        let mut list = Vec::new();
        let mut store = |plain: &[u8]| -> Result<Hash> {
            let (hash, mut payload) = (Hash::of(plain), Vec::new());
            let encode = |encoder: &mut Encoder| encoder.encode(plain, ElementWidth::One, &mut payload);
            let codec = self.with_encoder(Effort::Default, encode);
            if codec == Codec::Raw {
                payload = plain.to_vec();
            }
            let (home, plain_len) = (home_of(&hash), plain.len() as u32);
            match intake.take(&Parcel { hash, home, plain_len, codec, base: None, payload })? {
                Taken::Stored | Taken::Known => {}
                // Encoded here a moment ago, it can only be wrong if this machine is.
                Taken::NeedsBase | Taken::Elsewhere | Taken::Wrong(_) => {
                    let why = "a chunk that was just encoded does not decode".to_owned();
                    return Err(Error::Damaged { what: "chunk", place: hash.short(), why });
                }
            }
            chunks.push((hash, home));
            Ok(hash)
        };
        for piece in bytes.chunks(limits::CHUNK_BYTES) {
            list.extend_from_slice(store(piece)?.as_bytes());
        }
        let long = bytes.len() > limits::CHUNK_BYTES;
        let pieces = if long { Some(store(&list)?) } else { None };
        let body = Body { hash: Hash::of(bytes), len: bytes.len() as u64, pieces };
        Ok(Document { body, chunks, intake: Arc::new(intake) })
    }
}
