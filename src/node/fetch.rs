//! From chunk refs to proven plain bytes: cache, then packs. One [`Fetcher`] per thread; [`stream`] runs several and keeps order.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::chunk::{ChunkRef, Span};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::node::store::Store;
use crate::store::ChunkReader;

/// Where chunks came from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) cache: AtomicU64,
    pub(super) store: AtomicU64,
    /// Verified in the partial file of an interrupted get.
    pub(super) resumed: AtomicU64,
}

/// Reads chunks for one thread.
pub(super) struct Fetcher<'a> {
    store: &'a Store,
    reader: ChunkReader,
    sources: &'a Sources,
    /// Whether what is read is likely to be read again, and goes into the cache.
    keep: bool,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(store: &'a Store, sources: &'a Sources, keep: bool) -> Fetcher<'a> {
        Fetcher { store, reader: store.inner.chunks.reader(), sources, keep }
    }

    /// Fills `plain`, which is as long as the chunk, with its verified bytes.
    pub(super) fn fetch(&mut self, chunk: &ChunkRef, plain: &mut [u8]) -> Result<()> {
        let cache = &self.store.inner.cache;
        if let Some(found) = cache.get(&chunk.hash).filter(|found| found.len() == plain.len()) {
            plain.copy_from_slice(&found);
            self.sources.cache.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let mut read = self.reader.read_with(&chunk.hash, plain, &|base| cache.get(base));
        if matches!(read, Err(Error::Damaged { .. })) {
            // Not the memory's fault if it happens twice.
            read = self.reader.read(&chunk.hash, plain);
        }
        read.inspect_err(|_| self.store.note_culprit(&self.reader))?;
        self.sources.store.fetch_add(1, Ordering::Relaxed);
        if self.keep && cache.admits(plain.len()) {
            cache.put(chunk.hash, Arc::from(&*plain));
        }
        Ok(())
    }
}

/// A chunk and the part of it that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) chunk: ChunkRef,
    /// Inside the chunk.
    pub(super) wanted: Span,
}

/// Writes `pieces` to `out` in order; several threads read and decode ahead, a bounded number of chunks each.
pub(super) fn stream(
    store: &Store,
    pieces: &[Piece],
    out: &mut dyn Write,
    write_error: &dyn Fn(std::io::Error) -> Error,
    sources: &Sources,
    keep: bool,
    monitor: &Monitor,
) -> Result<()> {
    let threads = pieces.len().div_ceil(4).min(store.threads().get()).max(1);
    let window = Window::new(threads);
    std::thread::scope(|scope| {
        // Whatever ends this closure also ends the threads that wait for room.
        let _close = CloseOnDrop(&window);
        let work = || {
            let _close = CloseOnPanic(&window);
            let mut fetcher = Fetcher::new(store, sources, keep);
            while let Some(index) = window.claim().filter(|&index| index < pieces.len()) {
                let chunk = &pieces[index].chunk;
                let mut plain = vec![0; chunk.len as usize];
                let outcome = fetcher.fetch(chunk, &mut plain).map(|()| plain);
                window.deliver(index, outcome);
            }
        };
        for started in 0..threads {
            // One thread is enough; without any, nothing would ever be delivered.
            match std::thread::Builder::new().spawn_scoped(scope, work) {
                Err(error) if started == 0 => return Err(Error::io("start a thread for", "the read", error)),
                _ => {}
            }
        }
        for (index, piece) in pieces.iter().enumerate() {
            monitor.check()?;
            let Some(plain) = window.take(index) else { break };
            let plain = plain?;
            let (start, end) = (piece.wanted.offset as usize, piece.wanted.end() as usize);
            out.write_all(plain.get(start..end).unwrap_or_default()).map_err(write_error)?;
            monitor.advance(piece.wanted.len);
        }
        Ok(())
    })
}

/// Results that arrive in any order and leave in order, at most `room` ahead.
struct Window {
    state: Mutex<WindowState>,
    changed: Condvar,
    room: usize,
}

struct WindowState {
    next_claim: usize,
    next_take: usize,
    ready: BTreeMap<usize, Result<Vec<u8>>>,
    closed: bool,
}

impl Window {
    fn new(threads: usize) -> Window {
        let state = WindowState { next_claim: 0, next_take: 0, ready: BTreeMap::new(), closed: false };
        let room = NonZeroUsize::new(threads * 4).map_or(4, NonZeroUsize::get);
        Window { state: Mutex::new(state), changed: Condvar::new(), room }
    }

    fn lock(&self) -> MutexGuard<'_, WindowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        while !state.closed && state.next_claim >= state.next_take + self.room {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let index = state.next_claim;
        state.next_claim += 1;
        (!state.closed).then_some(index)
    }

    fn deliver(&self, index: usize, outcome: Result<Vec<u8>>) {
        self.lock().ready.insert(index, outcome);
        self.changed.notify_all();
    }

    fn take(&self, index: usize) -> Option<Result<Vec<u8>>> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = state.ready.remove(&index) {
                state.next_take = index + 1;
                self.changed.notify_all();
                return Some(outcome);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

struct CloseOnDrop<'w>(&'w Window);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct CloseOnPanic<'w>(&'w Window);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}
