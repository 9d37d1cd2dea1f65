//! What keeps a chunk from the sweep while no ref reaches it yet: puts in flight.
//!
//! A put relies on chunks that it found stored, and on those that it appended, long before a ref names them. Each put therefore
//! lists them here. While a collection runs, everything listed stays, and the bases that it needs; a chunk that the collection has
//! found dead is answered as *not stored*, so that a put which wants it stores it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::hash::Hash;
use crate::store::entry::Position;

/// A set of chunk hashes by their first eight bytes. It may hold a few chunks too many, which only keeps garbage a little longer.
#[derive(Debug, Default, Clone)]
pub struct LiveSet(HashSet<u64>);

impl LiveSet {
    /// Adds `hash`; true if it was not there.
    pub fn insert(&mut self, hash: &Hash) -> bool {
        self.0.insert(hash.prefix())
    }

    /// True if `hash` was added.
    pub fn contains(&self, hash: &Hash) -> bool {
        self.0.contains(&hash.prefix())
    }

    /// Adds the bases that its chunks need, and theirs.
    pub(super) fn add_bases(&mut self, bases: &Bases) {
        // Each pass goes at least one base deeper, and chains are short.
        while bases.0.iter().filter(|(chunk, base)| self.0.contains(chunk) && self.0.insert(*base)).count() > 0 {}
    }
}

/// Which chunk needs which base, both by the first eight bytes of their hashes.
#[derive(Debug, Default)]
pub(super) struct Bases(Vec<(u64, u64)>);

impl Bases {
    pub(super) fn add(&mut self, chunk: &Hash, base: &Hash) {
        self.0.push((chunk.prefix(), base.prefix()));
    }
}

/// Puts in flight, and the collection that runs beside them.
#[derive(Debug, Default)]
pub(super) struct Shield {
    sessions: HashMap<u64, LiveSet>,
    collection: Option<Collection>,
}

#[derive(Debug)]
struct Collection {
    /// The log's end when the collection began: nothing behind it is swept.
    start: Position,
    /// What puts relied on since then, or did already.
    kept: LiveSet,
    /// Known once the mark is done.
    live: Option<Arc<LiveSet>>,
}

impl Shield {
    pub(super) fn add_session(&mut self, id: u64) {
        self.sessions.insert(id, LiveSet::default());
    }

    pub(super) fn remove_session(&mut self, id: u64) {
        self.sessions.remove(&id);
    }

    /// Lists `hash` for session `id`. Fails with the collection's start if a running collection may sweep it: then it must not be
    /// relied on, unless it lies behind that place.
    pub(super) fn protect(&mut self, id: u64, hash: &Hash) -> Result<(), Position> {
        if let Some(collection) = &mut self.collection {
            let condemned =
                collection.live.as_ref().is_some_and(|live| !live.contains(hash) && !collection.kept.contains(hash));
            if condemned {
                return Err(collection.start);
            }
            collection.kept.insert(hash);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.insert(hash);
        }
        Ok(())
    }

    /// Lists a chunk that session `id` is about to append.
    pub(super) fn protect_new(&mut self, id: u64, hash: &Hash) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.insert(hash);
        }
        if let Some(collection) = &mut self.collection {
            collection.kept.insert(hash);
        }
    }

    pub(super) fn begin_collection(&mut self, start: Position) {
        let mut kept = LiveSet::default();
        for session in self.sessions.values() {
            kept.0.extend(&session.0);
        }
        self.collection = Some(Collection { start, kept, live: None });
    }

    /// Lists the bases of what is listed. Those of what is listed from here on are listed with it, one by one.
    pub(super) fn keep_bases(&mut self, bases: &Bases) {
        if let Some(collection) = &mut self.collection {
            collection.kept.add_bases(bases);
        }
    }

    /// From here on, what is neither in `live` nor listed counts as not stored.
    pub(super) fn condemn(&mut self, live: Arc<LiveSet>) {
        if let Some(collection) = &mut self.collection {
            collection.live = Some(live);
        }
    }

    /// True if a put relies on `hash`.
    pub(super) fn keeps(&self, hash: &Hash) -> bool {
        self.collection.as_ref().is_some_and(|collection| collection.kept.contains(hash))
    }

    pub(super) fn end_collection(&mut self) {
        self.collection = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bases_of_what_is_kept_are_kept() {
        let [chunk, base, root, other, under] =
            ["chunk", "base", "root", "other", "under"].map(|name| Hash::of(name.as_bytes()));
        let mut bases = Bases::default();
        for (chunk, base) in [(&base, &root), (&other, &under), (&chunk, &base)] {
            bases.add(chunk, base);
        }
        let mut shield = Shield::default();
        shield.add_session(1);
        assert_eq!(shield.protect(1, &chunk), Ok(()));
        shield.begin_collection(Position::default());
        shield.keep_bases(&bases);
        assert!([&chunk, &base, &root].iter().all(|hash| shield.keeps(hash)));
        assert!([&other, &under].iter().all(|hash| !shield.keeps(hash)));
        // Where damage made a circle, the end comes all the same.
        bases.add(&root, &chunk);
        let mut live = LiveSet::default();
        live.insert(&root);
        live.add_bases(&bases);
        assert!([&chunk, &base, &root].iter().all(|hash| live.contains(hash)));
    }

    #[test]
    fn a_condemned_chunk_is_not_relied_on_and_what_puts_relied_on_is_not_condemned() {
        let [live, before, during, dead, new] =
            ["live", "before", "during", "dead", "new"].map(|name| Hash::of(name.as_bytes()));
        let start = Position { pack: 2, offset: 100 };
        let mut shield = Shield::default();
        shield.add_session(1);
        assert_eq!(shield.protect(1, &before), Ok(()));
        shield.begin_collection(start);
        shield.remove_session(1);
        shield.add_session(2);
        assert_eq!(shield.protect(2, &during), Ok(()));
        let mut marked = LiveSet::default();
        marked.insert(&live);
        shield.condemn(Arc::new(marked));
        assert_eq!(shield.protect(2, &live), Ok(()));
        assert_eq!(shield.protect(2, &before), Ok(()));
        assert_eq!(shield.protect(2, &dead), Err(start), "it may be swept at any moment");
        assert!(!shield.keeps(&dead));
        // Stored anew, it lies behind the start and stays.
        shield.protect_new(2, &dead);
        shield.protect_new(2, &new);
        for kept in [&before, &during, &dead, &new] {
            assert!(shield.keeps(kept) && shield.protect(2, kept).is_ok(), "{kept:?}");
        }
        shield.end_collection();
        shield.begin_collection(start);
        assert!(shield.keeps(&new), "the put is still under way");
        shield.remove_session(2);
        shield.begin_collection(start);
        assert!(!shield.keeps(&new), "a put that is over protects no more");
    }
}
