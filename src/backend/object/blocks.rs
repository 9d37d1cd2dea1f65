//! [`Blocks`]: what was read of parts, in blocks, for as long as there is room. Each block is fetched once, however many threads want it.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// Blocks that are held.
const BLOCKS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Blocks on their way at which nothing more is fetched ahead.
const ON_THEIR_WAY: usize = 32;

/// A block: its part's path, and its number in there.
type BlockId = (Arc<str>, u64);

#[derive(Debug)]
pub(super) struct Blocks {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State {
    held: LruCache<BlockId, Bytes>,
    on_their_way: HashSet<BlockId>,
}

impl Default for Blocks {
    fn default() -> Blocks {
        let state = State { held: LruCache::new(BLOCKS), on_their_way: HashSet::new() };
        Blocks { state: Mutex::new(state), arrived: Condvar::new() }
    }
}

impl Blocks {
    /// Block `number` of the part at `path`. One that is not held is fetched, with those up to `end` that are not either; `fetch` reads
    /// a range of the part.
    pub(super) fn get(
        self: &Arc<Self>,
        path: &Arc<str>,
        number: u64,
        end: u64,
        fetch: impl FnOnce(Range<u64>) -> io::Result<Bytes>,
    ) -> io::Result<Bytes> {
        let id = (Arc::clone(path), number);
        let mut state = self.lock();
        while state.on_their_way.contains(&id) {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(held) = state.held.get(&id) {
            return Ok(held.clone());
        }
        let claim = self.claim(&mut state, path, number..end.max(number + 1));
        drop(state);
        let fetched = fetch(claim.range())?;
        let wanted = fetched.slice(..fetched.len().min(BLOCK_BYTES as usize));
        claim.fill(&fetched);
        Ok(wanted)
    }

    /// Blocks of the part at `path` that somebody means to fetch: of `numbers`, the first ones that nobody has or fetches.
    pub(super) fn begin(self: &Arc<Self>, path: &Arc<str>, numbers: Range<u64>) -> Option<Claim> {
        let mut state = self.lock();
        if state.on_their_way.len() >= ON_THEIR_WAY {
            return None;
        }
        let from = numbers.clone().find(|&number| !state.has(&(Arc::clone(path), number)))?;
        Some(self.claim(&mut state, path, from..numbers.end))
    }

    fn claim(self: &Arc<Self>, state: &mut State, path: &Arc<str>, numbers: Range<u64>) -> Claim {
        let ids: Vec<BlockId> =
            numbers.map(|number| (Arc::clone(path), number)).take_while(|id| !state.has(id)).collect();
        state.on_their_way.extend(ids.iter().cloned());
        Claim { blocks: Arc::clone(self), ids }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has(&self, id: &BlockId) -> bool {
        self.held.contains(id) || self.on_their_way.contains(id)
    }
}

/// Blocks that somebody fetches. Whatever comes of that, those who wait are told.
pub(super) struct Claim {
    blocks: Arc<Blocks>,
    ids: Vec<BlockId>,
}

impl Claim {
    /// Where in the part they are; behind its end there may be less.
    pub(super) fn range(&self) -> Range<u64> {
        let (first, last) = (self.ids.first().map_or(0, |id| id.1), self.ids.last().map_or(0, |id| id.1 + 1));
        first * BLOCK_BYTES..last * BLOCK_BYTES
    }

    /// Keeps what they came to.
    pub(super) fn fill(self, fetched: &[u8]) {
        let mut state = self.blocks.lock();
        for (id, block) in self.ids.iter().zip(fetched.chunks(BLOCK_BYTES as usize)) {
            // Copied: a piece of what was fetched would keep all of it.
            state.held.put(id.clone(), Bytes::copy_from_slice(block));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.blocks.lock();
        self.ids.iter().for_each(|id| {
            state.on_their_way.remove(id);
        });
        drop(state);
        self.blocks.arrived.notify_all();
    }
}
