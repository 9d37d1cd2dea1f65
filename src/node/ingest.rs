//! The middle of put: one payload, read by stripes, is cut, hashed, looked up, encoded and appended, by several threads.
//!
//! Threads meet in three places only: they settle their cut points one after another (see [`crate::split`]), claim a chunk that the
//! payload holds twice, and append to the log.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::chunk::{ChunkRef, Codec, ElementWidth, Span};
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::monitor::Monitor;
use crate::node::base::Facing;
use crate::node::blob_hash::{StripeHash, join};
use crate::node::store::Store;
use crate::node::stripe::{Stripe, StripeSource};
use crate::node::threads::in_parallel;
use crate::split::{Speculation, Window};
use crate::store::{Base, ChunkReader, EncodedChunk, Session};

/// What a difference to the bottom of a chain may take, compared with one to the nearest chunk that has room above it.
const RESTART_COST: f32 = 1.04;

/// A payload that is stored, but not committed.
#[derive(Debug)]
pub(super) struct Ingested {
    pub(super) len: u64,
    pub(super) blob_hash: Hash,
    pub(super) chunks: Vec<ChunkRef>,
}

/// Stores payloads for one put.
pub(super) struct Ingest<'a> {
    store: &'a Store,
    session: &'a Session,
    effort: Effort,
    monitor: &'a Monitor,
    /// Chunks that a thread of this put has taken on.
    claimed: Mutex<HashSet<Hash>>,
}

/// What the threads of one payload share.
struct Shared<'s> {
    source: StripeSource<'s>,
    facing: Facing,
    turn: Mutex<Turn>,
    turn_changed: Condvar,
    /// Why a thread failed.
    cause: Mutex<Option<Error>>,
    done: Mutex<Vec<(Stripe, StripeHash, Vec<ChunkRef>)>>,
}

/// Whose turn it is to settle cut points.
#[derive(Default)]
struct Turn {
    stripe: u64,
    /// Where the serial cutter enters that stripe.
    entry: u64,
    /// Set when a thread failed: the turn of the others will not come.
    failed: bool,
}

/// Frees the other threads from waiting for one that panics.
struct FailOnPanic<'s, 'p>(&'s Shared<'p>);

impl Drop for FailOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Ingest<'a> {
    pub(super) fn new(store: &'a Store, session: &'a Session, effort: Effort, monitor: &'a Monitor) -> Ingest<'a> {
        Ingest { store, session, effort, monitor, claimed: Mutex::default() }
    }

    /// Stores the payload that `source` hands out, where it pays as differences to the chunks that it faces. `read_error` wraps what a
    /// failed read says.
    pub(super) fn store(
        &self,
        source: StripeSource<'_>,
        facing: Facing,
        read_error: &(dyn Fn(std::io::Error) -> Error + Sync),
    ) -> Result<Ingested> {
        let threads = source.parallelism().min(self.store.threads().get() as u64);
        let shared = Shared {
            source,
            facing,
            turn: Mutex::default(),
            turn_changed: Condvar::new(),
            cause: Mutex::default(),
            done: Mutex::default(),
        };
        let work = || {
            let _panic = FailOnPanic(&shared);
            let worked = self.store.with_encoder(self.effort, |encoder| self.work(encoder, &shared, read_error));
            worked.or_else(|error| shared.fail(error))
        };
        in_parallel(threads as usize, work)?;
        if let Some(cause) = shared.cause.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(cause);
        }
        let mut done = shared.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(stripe, ..)| stripe.index);
        let len = done.last().map_or(0, |(stripe, ..)| stripe.span.end());
        let hashes: Vec<StripeHash> = done.iter().map(|(_, hash, _)| *hash).collect();
        let chunks = done.into_iter().flat_map(|(.., chunks)| chunks).collect();
        Ok(Ingested { len, blob_hash: join(&hashes, len), chunks })
    }

    fn work(
        &self,
        encoder: &mut Encoder,
        shared: &Shared<'_>,
        read_error: &(dyn Fn(std::io::Error) -> Error + Sync),
    ) -> Result<()> {
        let mut worker = Worker::new(self, encoder);
        let mut buffer = Vec::new();
        while let Some(stripe) = shared.source.next(&mut buffer).map_err(read_error)? {
            self.monitor.check()?;
            let Some(cut) = shared.cut(&stripe, &buffer) else { return Ok(()) };
            let hash = StripeHash::of(&stripe, buffer.get(..stripe.span.len as usize).unwrap_or_default());
            let mut chunks = Vec::with_capacity(cut.len());
            for (span, width) in cut {
                let start = (span.offset - stripe.span.offset) as usize;
                let plain = buffer.get(start..start + span.len as usize).unwrap_or_default();
                chunks.push(worker.store_chunk(span, plain, width, &shared.facing)?);
            }
            lock(&shared.done).push((stripe, hash, chunks));
            self.monitor.advance(stripe.span.len);
        }
        Ok(())
    }
}

/// One thread's encoder and buffers.
struct Worker<'i, 'a> {
    ingest: &'i Ingest<'a>,
    encoder: &'i mut Encoder,
    reader: ChunkReader,
    base: Vec<u8>,
    encoded: Vec<u8>,
    other_base: Vec<u8>,
}

impl<'i, 'a> Worker<'i, 'a> {
    fn new(ingest: &'i Ingest<'a>, encoder: &'i mut Encoder) -> Worker<'i, 'a> {
        let reader = ingest.store.inner.chunks.reader();
        Worker { ingest, encoder, reader, base: Vec::new(), encoded: Vec::new(), other_base: Vec::new() }
    }

    /// Hash, look up, and only where the chunk is new: encode, against its base where it has one, and append.
    fn store_chunk(&mut self, span: Span, plain: &[u8], width: ElementWidth, facing: &Facing) -> Result<ChunkRef> {
        let session = self.ingest.session;
        let hash = Hash::of(plain);
        let chunk = ChunkRef { hash, len: plain.len() as u32 };
        if !lock(&self.ingest.claimed).insert(hash) || session.has(&hash)? {
            return Ok(chunk);
        }
        let (codec, base) = match facing.of(span, plain) {
            Some(faced) => {
                let (codec, base) = self.encode_against(&hash, plain, width, &faced)?;
                facing.note(base.is_some());
                (codec, base)
            }
            None => (self.encoder.encode(plain, width, &mut self.encoded), None),
        };
        let payload = if codec == Codec::Raw { plain } else { &self.encoded };
        session.append(&EncodedChunk { hash, plain_len: chunk.len, codec, base, payload })?;
        Ok(chunk)
    }

    /// Encodes the new chunk `hash` into `encoded`: as the difference to `faced` or to a chunk below it, or by itself. Says which.
    ///
    /// Where the chain below `faced` has grown too long, the choice is between the nearest chunk that still has room above it, and the
    /// one at the bottom. That one is further away, but with it the next versions have room again: it may cost [`RESTART_COST`].
    fn encode_against(
        &mut self,
        hash: &Hash,
        plain: &[u8],
        width: ElementWidth,
        faced: &ChunkRef,
    ) -> Result<(Codec, Option<Hash>)> {
        let session = self.ingest.session;
        let most = self.ingest.store.config().delta_depth.checked_sub(1);
        let nearest = most.map(|most| session.base(&faced.hash, most)).transpose()?.flatten();
        let mut base = match nearest.filter(|base| base.hash != *hash) {
            Some(base) if self.read_base(&base)? => base,
            _ => return Ok((self.encoder.encode(plain, width, &mut self.encoded), None)),
        };
        let bottom = if base.hash == faced.hash { None } else { session.base(&faced.hash, 0)? };
        if let Some(bottom) = bottom.filter(|bottom| ![*hash, base.hash].contains(&bottom.hash))
            && let Some(promised) = self.encoder.promise(plain, width, &self.base)
        {
            std::mem::swap(&mut self.base, &mut self.other_base);
            let there = self.read_base(&bottom)?;
            match self.encoder.promise(plain, width, &self.base) {
                Some(restart) if there && restart <= promised * RESTART_COST => base = bottom,
                _ => std::mem::swap(&mut self.base, &mut self.other_base),
            }
        }
        let codec = self.encoder.encode_against(plain, width, &self.base, &mut self.encoded);
        Ok((codec, codec.has_base().then_some(base.hash)))
    }

    /// Reads `base`; false, with a warning, where it is damaged.
    fn read_base(&mut self, base: &Base) -> Result<bool> {
        self.base.resize((base.plain_len as usize).min(limits::CHUNK_BYTES), 0);
        match self.reader.read(&base.hash, &mut self.base) {
            Ok(()) => Ok(true),
            Err(error @ Error::Damaged { .. }) => {
                self.ingest.monitor.warn(&format!("a chunk cannot serve as a base: {error}"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Shared<'_> {
    /// The chunks that start in `stripe`, once all before them are known. `None` if another thread failed.
    fn cut(&self, stripe: &Stripe, buffer: &[u8]) -> Option<Vec<(Span, ElementWidth)>> {
        let runs = &*self.source.runs(stripe);
        let window = Window::new(stripe.span.offset, buffer);
        let speculation = Speculation::cut(runs, window, stripe.span);
        let mut turn = lock(&self.turn);
        while turn.stripe != stripe.index && !turn.failed {
            turn = self.turn_changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        if turn.failed {
            return None;
        }
        let settled = speculation.settle(turn.entry, runs, window);
        *turn = Turn { stripe: stripe.index + 1, entry: settled.exit, failed: false };
        self.turn_changed.notify_all();
        Some(settled.chunks)
    }

    /// Notes why a thread failed, and frees the others from waiting for it.
    fn fail(&self, error: Error) -> Result<()> {
        let mut cause = lock(&self.cause);
        // That an earlier write failed is only the echo of what another thread can say better.
        if matches!(*cause, None | Some(Error::WriteFailed { .. })) {
            *cause = Some(error);
        }
        drop(cause);
        self.give_up();
        Ok(())
    }

    fn give_up(&self) {
        lock(&self.turn).failed = true;
        self.turn_changed.notify_all();
    }
}
