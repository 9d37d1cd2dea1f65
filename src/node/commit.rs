//! The end of every put and import: a manifest becomes the next version of a key, durable and visible at once.

use crate::error::Result;
use crate::key::PutName;
use crate::manifest::Manifest;
use crate::node::store::Store;
use crate::refs::{RefChange, VersionEntry};
use crate::store::{EncodedChunk, Session};

impl Store {
    /// Commits `session` with `manifest`, kept as `record`, as the next version of `name`; says which number that got.
    pub(super) fn commit_version(
        &self,
        session: &Session,
        name: &PutName,
        manifest: &Manifest,
        record: &EncodedChunk<'_>,
        created_unix_ms: u64,
        expires_unix_ms: Option<u64>,
    ) -> Result<u64> {
        let mut number = 0;
        session.commit(record, |session| {
            number = self.inner.chunks.refs(&name.key)?.last_number + 1;
            let entry = VersionEntry {
                manifest: record.hash,
                manifest_bytes: record.plain_len.into(),
                bytes: manifest.bytes(),
                stored_bytes: session.stored_bytes(),
                chunks: manifest.chunks.len() as u64,
                new_chunks: session.new_chunks(),
                created_unix_ms,
                expires_unix_ms,
                single: manifest.single,
                meta: manifest.meta.clone(),
            };
            let label = name.label.clone().map(|label| RefChange::Label { key: name.key.clone(), label, number });
            let version = RefChange::Version { key: name.key.clone(), number, entry };
            Ok(std::iter::once(version).chain(label).collect())
        })?;
        Ok(number)
    }
}
