//! Adopting: a version that another scope published becomes a version here, under that scope, with the number that it has there.

use crate::chunk::Codec;
use crate::codec::Effort;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, Label, Scope};
use crate::manifest::Manifest;
use crate::node::report::Timestamp;
use crate::node::store::Store;
use crate::refs::{RefChange, VersionEntry};
use crate::store::{EncodedChunk, RecordKind};

impl Store {
    /// Makes the version whose manifest is `bytes` version `number` of `key`, which has the scope of its publisher, until `expires_unix_ms`
    /// or for as long as it is pinned. All of its chunks must be stored. A version that is here already gets the new labels and end.
    pub fn adopt(
        &self,
        key: &Key,
        number: u64,
        bytes: &[u8],
        labels: &[Label],
        expires_unix_ms: Option<u64>,
    ) -> Result<()> {
        let refuse = |why: &str| Error::Syntax { what: "key", input: key.to_string(), why: why.to_owned() };
        if !matches!(key.scope(), Some(Scope::Key(_))) {
            return Err(refuse("only a version of another scope is adopted; `put` makes one of this store's own"));
        }
        let malformed = |why: String| Error::Damaged { what: "manifest", place: key.to_string(), why };
        let manifest = Manifest::decode(bytes).map_err(|why| malformed(why.to_string()))?;
        let session = self.inner.chunks.begin()?;
        for chunk in &manifest.chunks {
            let stored = if session.has(&chunk.hash)? {
                self.inner.chunks.locate(&chunk.hash, RecordKind::Chunk)?
            } else {
                None
            };
            match stored {
                None => return Err(malformed(format!("its chunk {} is not here", chunk.hash.short()))),
                Some(stored) if stored.plain_len != chunk.len => {
                    return Err(malformed(format!("it gives chunk {} another length than it has", chunk.hash.short())));
                }
                Some(_) => {}
            }
        }
        self.inner.chunks.raise_format()?;
        let mut frame = Vec::new();
        let codec = self.with_encoder(Effort::Default, |encoder| encoder.encode_frame(bytes, &mut frame));
        let hash = Hash::of(bytes);
        let payload = if codec == Codec::Raw { bytes } else { &frame };
        let record = EncodedChunk { hash, plain_len: bytes.len() as u32, codec, base: None, payload };
        session.commit(&record, |session| {
            let known = self.inner.chunks.refs(key)?;
            let before = known.versions.get(&number);
            if before.is_some_and(|before| before.manifest != hash) {
                return Err(refuse(&format!(
                    "version {number} is here already, with another manifest: its publisher changed it"
                )));
            }
            let entry = VersionEntry {
                manifest: hash,
                manifest_bytes: bytes.len() as u64,
                bytes: manifest.bytes(),
                stored_bytes: before.map_or_else(|| session.stored_bytes(), |before| before.stored_bytes),
                chunks: manifest.chunks.len() as u64,
                new_chunks: before.map_or(0, |before| before.new_chunks),
                created_unix_ms: manifest.created_unix_ms.min(Timestamp::now().0),
                expires_unix_ms,
                single: manifest.single,
                meta: manifest.meta.clone(),
            };
            let labels = labels.iter().cloned().map(|label| RefChange::Label { key: key.clone(), label, number });
            let version = RefChange::Version { key: key.clone(), number, entry };
            Ok(std::iter::once(version).chain(labels).collect())
        })
    }
}
