//! Adopting: a version that another scope published becomes a version here, under that scope, with the number that it has there.

use crate::chunk::Codec;
use crate::codec::Effort;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, Label, Scope};
use crate::manifest::Manifest;
use crate::net::record::PUBLISHED;
use crate::node::report::Timestamp;
use crate::node::store::Store;
use crate::refs::{RefChange, VersionEntry};
use crate::store::{EncodedChunk, RecordKind, Session};

impl Store {
    /// Makes the version whose manifest is `bytes` version `number` of `key`, which has the scope of its publisher, until `expires_unix_ms`
    /// or for as long as it is pinned. All of its chunks must be stored. A version that is here already gets the new labels and end.
    ///
    /// What its publisher has got wrong is an [`Error::Network`]; any other error is this store's.
    pub fn adopt(
        &self,
        key: &Key,
        number: u64,
        bytes: &[u8],
        labels: &[Label],
        expires_unix_ms: Option<u64>,
    ) -> Result<()> {
        if !matches!(key.scope(), Some(Scope::Key(_))) {
            let why = "only a version of another scope is adopted; `put` makes one of this store's own".to_owned();
            return Err(Error::Syntax { what: "key", input: key.to_string(), why });
        }
        let refuse = |why: String| Error::Network {
            what: PUBLISHED,
            why: format!("version {number} of {key} is refused: {why}"),
        };
        let manifest = Manifest::decode(bytes).map_err(|why| refuse(format!("its manifest is malformed: {why}")))?;
        let session = self.inner.chunks.begin()?;
        for chunk in &manifest.chunks {
            let stored = if session.has(&chunk.hash)? {
                self.inner.chunks.locate(&chunk.hash, RecordKind::Chunk)?
            } else {
                None
            };
            match stored {
                None => return Err(refuse(format!("its chunk {} is not here", chunk.hash.short()))),
                Some(stored) if stored.plain_len != chunk.len => {
                    let chunk = chunk.hash.short();
                    return Err(refuse(format!("its manifest gives chunk {chunk} another length than it has")));
                }
                Some(_) => {}
            }
        }
        self.inner.chunks.raise_format()?;
        let hash = Hash::of(bytes);
        self.commit_manifest(&session, (hash, bytes), |session| {
            let known = self.inner.chunks.refs(key)?;
            let before = known.versions.get(&number);
            if before.is_some_and(|before| before.manifest != hash) {
                return Err(refuse("it is here already, with another manifest: its publisher changed it".to_owned()));
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

    /// Stores the bytes of the manifest `hash`, which a version here has and which is damaged.
    #[cfg(feature = "net")]
    pub(super) fn restore_manifest(&self, hash: Hash, bytes: &[u8]) -> Result<()> {
        self.commit_manifest(&self.inner.chunks.begin()?, (hash, bytes), |_| Ok(Vec::new()))
    }

    fn commit_manifest(
        &self,
        session: &Session,
        (hash, bytes): (Hash, &[u8]),
        refs: impl FnOnce(&Session) -> Result<Vec<RefChange>>,
    ) -> Result<()> {
        let mut frame = Vec::new();
        let codec = self.with_encoder(Effort::Default, |encoder| encoder.encode_frame(bytes, &mut frame));
        let payload = if codec == Codec::Raw { bytes } else { &frame };
        let plain_len = bytes.len() as u32;
        session.commit(&EncodedChunk { hash, plain_len, codec, base: None, payload }, refs)
    }
}
