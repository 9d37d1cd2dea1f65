//! [`Reencoding`]: chunks are stored again in another encoding, and that record takes the place of the one before.
//!
//! The log only grows: the new record holds because it is the last of its chunk, and the old one is dead bytes for the next
//! collection. Nothing that was readable is replaced by what was not proven to be: the new payload is decoded and hashed first. Each
//! replacement leaves every chunk readable, so a crash may keep any first few of them.
//!
//! **No circles, no long chains.** A chunk that gets a base must not lie below that base, and what depends on the chunk comes to lie
//! deeper with it. So while chunks are encoded anew it is known which chunks depend on which, those that puts append meanwhile
//! included, and both conditions are checked while no other chunk can get a base. No collection runs meanwhile; puts and gets do.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::Entry;
use crate::store::pack::RecordKind;
use crate::store::session::EncodedChunk;

/// Most bases below a chunk after it, or one below it, was encoded anew. One is left for a put that has chosen its base before.
const MOST_BASES: usize = limits::DELTA_DEPTH as usize - 1;

/// Which chunks are deltas against which, both by the first eight bytes of their hashes: base first.
///
/// It may know of a few deltas too many, which only refuses an encoding that would have been possible.
#[derive(Debug, Default)]
pub(super) struct Dependents(BTreeSet<(u64, u64)>);

impl Dependents {
    /// Notes that `chunk` is a delta against `base`.
    pub(super) fn add(&mut self, base: &Hash, chunk: &Hash) {
        self.0.insert((base.prefix(), chunk.prefix()));
    }

    fn remove(&mut self, base: &Hash, chunk: &Hash) {
        self.0.remove(&(base.prefix(), chunk.prefix()));
    }

    /// How many deltas lie on top of one another on `chunk`; `None` if they are more than `most`.
    fn height(&self, chunk: &Hash, most: usize) -> Option<usize> {
        let mut level = BTreeSet::from([chunk.prefix()]);
        for height in 0..=most {
            let on = |base: u64| self.0.range((base, 0)..=(base, u64::MAX)).map(|(_, chunk)| *chunk);
            level = level.into_iter().flat_map(on).collect();
            if level.is_empty() {
                return Some(height);
            }
        }
        None
    }
}

/// Chunks are being encoded anew: no collection runs until this is dropped. Shared by the threads that do it.
#[derive(Debug)]
pub struct Reencoding<'s> {
    store: &'s ChunkStore,
    _collecting: MutexGuard<'s, ()>,
}

/// Replaces records for one thread.
pub struct Replacer<'r> {
    store: &'r ChunkStore,
    decoder: Decoder,
    plain: Vec<u8>,
}

impl ChunkStore {
    /// Begins to encode chunks anew, once no collection runs.
    pub fn reencode(&self) -> Result<Reencoding<'_>> {
        self.writable()?;
        let reencoding = Reencoding { store: self, _collecting: lock(&self.inner.collecting) };
        // A delta that a damaged index hides would come to lie too deep.
        self.check_index()?;
        // From here on each delta that a put appends is added; those from before are in the index, or about to be.
        *lock(&self.inner.chains) = Some(Dependents::default());
        let mut found = Dependents::default();
        let mut add = |hash: Hash, entry: Entry| entry.base.iter().for_each(|base| found.add(base, &hash));
        let pending = self.inner.pending.read().unwrap_or_else(PoisonError::into_inner).clone();
        pending.into_iter().for_each(|((_, hash), entry)| add(hash, entry));
        self.inner.index.for_each(add)?;
        if let Some(dependents) = &mut *lock(&self.inner.chains) {
            dependents.0.append(&mut found.0);
        }
        Ok(reencoding)
    }

    /// The chunk `hash`, its base, and so on down to one that stands alone. `None` if one of them is not stored.
    pub fn chain(&self, hash: &Hash) -> Result<Option<Vec<(Hash, Entry)>>> {
        let (mut chain, mut at) = (Vec::new(), *hash);
        while chain.len() <= usize::from(limits::DELTA_DEPTH) {
            let Some(entry) = self.locate(&at, RecordKind::Chunk)? else { return Ok(None) };
            chain.push((at, entry));
            match entry.base {
                None => return Ok(Some(chain)),
                Some(base) => at = base,
            }
        }
        Ok(None)
    }
}

impl Drop for Reencoding<'_> {
    fn drop(&mut self) {
        *lock(&self.store.inner.chains) = None;
    }
}

impl Reencoding<'_> {
    /// What a thread replaces records with.
    pub fn replacer(&self) -> Replacer<'_> {
        Replacer { store: self.store, decoder: Decoder::new(), plain: Vec::new() }
    }

    /// Makes all that was replaced durable.
    pub fn finish(self) -> Result<()> {
        self.store.checkpoint()
    }
}

impl Replacer<'_> {
    /// Stores a chunk again, as `chunk` says; `base` are the plain bytes of its base, if it has one. Durable with
    /// [`finish`](Reencoding::finish), at the latest.
    ///
    /// False if that cannot be: the chunk or its base is not stored (any more), the base depends on the chunk, or too many bases
    /// would come to lie below a chunk. Fails if the payload does not decode to the chunk.
    pub fn replace(&mut self, chunk: &EncodedChunk<'_>, base: Option<&[u8]>) -> Result<bool> {
        self.prove(chunk, base)?;
        let mut chains = lock(&self.store.inner.chains);
        let Some(dependents) = chains.as_mut() else { return Ok(false) };
        let Some(before) = self.store.locate(&chunk.hash, RecordKind::Chunk)? else { return Ok(false) };
        let mut depth = 0;
        if let Some(base) = &chunk.base {
            let Some(below) = self.store.chain(base)? else { return Ok(false) };
            let circle = below.iter().any(|(hash, _)| *hash == chunk.hash);
            let room = MOST_BASES.checked_sub(below.len());
            if circle || room.and_then(|room| dependents.height(&chunk.hash, room)).is_none() {
                return Ok(false);
            }
            depth = below.len() as u8;
            self.store.allow_deltas()?;
        }
        self.store.inner.room.take(&*self.store.inner.backend, chunk.payload.len() as u64)?;
        let (_, full) = self.store.append_record(&chunk.record(depth))?;
        if let Some(base) = &before.base {
            dependents.remove(base, &chunk.hash);
        }
        if let Some(base) = &chunk.base {
            dependents.add(base, &chunk.hash);
        }
        drop(chains);
        if full {
            self.store.checkpoint()?;
        }
        Ok(true)
    }

    fn prove(&mut self, chunk: &EncodedChunk<'_>, base: Option<&[u8]>) -> Result<()> {
        let len = chunk.plain_len as usize;
        let decoded = self.decoder.decode(chunk.codec, chunk.payload, len, base, &mut self.plain);
        let why = match decoded {
            Ok(()) if Hash::of(&self.plain) == chunk.hash && chunk.codec.has_base() == chunk.base.is_some() => {
                return Ok(());
            }
            Ok(()) => "its new encoding does not decode to it".to_owned(),
            Err(error) => format!("its new encoding does not decode: {error}"),
        };
        Err(Error::Syntax { what: "chunk", input: chunk.hash.to_string(), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_height_of_a_chunk_is_that_of_the_longest_chain_on_it() {
        let hash = |n: u8| Hash::of(&[n]);
        let mut dependents = Dependents::default();
        for (base, chunk) in [(0, 1), (1, 2), (2, 3), (0, 4), (4, 5)] {
            dependents.add(&hash(base), &hash(chunk));
        }
        let height = |dependents: &Dependents, n| dependents.height(&hash(n), 9);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|n| height(&dependents, n)), [3, 2, 1, 0, 1, 0].map(Some));
        assert_eq!((dependents.height(&hash(0), 3), dependents.height(&hash(0), 2)), (Some(3), None));
        dependents.remove(&hash(1), &hash(2));
        assert_eq!((height(&dependents, 0), height(&dependents, 2)), (Some(2), Some(1)));
        // Two prefixes that are equal may feign a circle: no encoding is possible then, and the search ends.
        dependents.add(&hash(5), &hash(0));
        assert_eq!(height(&dependents, 0), None);
    }
}
