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

/// Most blocks that are fetched at a time.
pub(super) const MOST_AHEAD: u64 = 8;

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
    /// Block `number` of the part at `path`, which has `len` bytes. One that is not held is fetched, and with it as many of those
    /// behind it as make `ahead`; `fetch` reads a range of the part.
    pub(super) fn get(
        &self,
        path: &Arc<str>,
        number: u64,
        len: u64,
        ahead: impl FnOnce() -> u64,
        fetch: impl FnOnce(Range<u64>) -> io::Result<Bytes>,
    ) -> io::Result<Bytes> {
        let id = |number| (Arc::clone(path), number);
        let mut state = self.lock();
        while state.on_their_way.contains(&id(number)) {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(held) = state.held.get(&id(number)) {
            return Ok(held.clone());
        }
        let most = (number + ahead().max(1)).min(len.div_ceil(BLOCK_BYTES).max(number + 1));
        let end = (number + 1..most).find(|&next| state.has(&id(next))).unwrap_or(most);
        let claim = Claim { blocks: self, ids: (number..end).map(id).collect() };
        state.on_their_way.extend(claim.ids.iter().cloned());
        drop(state);
        let start = number * BLOCK_BYTES;
        let fetched = fetch(start..len.min(end * BLOCK_BYTES))?;
        let mut wanted = Bytes::new();
        let mut state = self.lock();
        for (nth, id) in claim.ids.iter().enumerate() {
            let from = (nth * BLOCK_BYTES as usize).min(fetched.len());
            let to = (from + BLOCK_BYTES as usize).min(fetched.len());
            // Copied: a piece of what was fetched would keep all of it.
            let block = Bytes::copy_from_slice(&fetched[from..to]);
            if nth == 0 {
                wanted = block.clone();
            }
            state.held.put(id.clone(), block);
        }
        Ok(wanted)
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

/// Blocks that one thread fetches. Whatever comes of that, those who wait are told.
struct Claim<'b> {
    blocks: &'b Blocks,
    ids: Vec<BlockId>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.blocks.lock();
        self.ids.iter().for_each(|id| {
            state.on_their_way.remove(id);
        });
        drop(state);
        self.blocks.arrived.notify_all();
    }
}
