//! Putting chunks on one peer: what it lacks is sent, what it has is taken under the same lease, and only what its disk has acknowledged
//! counts.
//!
//! Order: begin an intake and hold (which are there?) → have (which bases are there?) → put the missing ones, as differences where their
//! base is there, and commit. Nothing waits for an answer that it does not need: requests are worked through, and answered, in the order in
//! which they are asked. A push is committed every [`COMMIT_BYTES`], so a broken connection costs no more than that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;

use crate::chunk::{ChunkSource, LeaseTerms, Parcel};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::monitor::Monitor;
use crate::net::framed::StreamError;
use crate::net::handle::PeerAddresses;
use crate::net::link::{Link, Links, unusable};
use crate::net::wire::{Frame, PutStatus, Refused, parcel_bytes};

/// Bytes of parcels in one frame, unless one chunk alone is longer.
const FRAME_PARCELS: usize = 512 << 10;

/// Frames of parcels under way.
const FRAMES: usize = 8;

/// Bytes sent before they are committed.
const COMMIT_BYTES: u64 = 256 << 20;

/// A chunk to put, and its home.
pub(crate) type Homed = (Hash, [u8; 4]);

/// What a push came to.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    /// Chunks that the peer keeps durably from now on.
    pub(crate) kept: Vec<Hash>,
    /// Encoded bytes of the chunks that were sent and taken.
    pub(crate) sent_bytes: u64,
    /// Why the push ended before its time.
    pub(crate) failed: Option<Error>,
    /// That is because the peer has no room for more, or a quota.
    pub(crate) full: bool,
}

/// Puts `chunks`, read from `source`, on `peer` under a lease of `terms`. What it has come to is in `pushed`, also for whoever does not wait
/// until its end.
pub(crate) async fn push(
    pushed: &mut Pushed,
    links: &Links,
    peer: &PeerAddresses,
    source: Arc<dyn ChunkSource>,
    chunks: &[Homed],
    terms: LeaseTerms,
    monitor: &Monitor,
) {
    let link = match links.to(peer).await {
        Ok(link) => link,
        Err(error) => {
            pushed.failed = Some(error);
            return;
        }
    };
    let push = Push { link: &link, source, terms, monitor, full: AtomicBool::new(false) };
    let mut rest = chunks;
    while !rest.is_empty() && pushed.failed.is_none() {
        // Chunks are a quarter of a MiB or less on average, so so many make about one commit.
        let (now, later) = rest.split_at(rest.len().min((COMMIT_BYTES >> 18) as usize));
        rest = later;
        if let Err(error) = push.some(now, pushed).await {
            pushed.failed = Some(error);
        }
    }
    pushed.full = push.full.into_inner();
}

struct Push<'p> {
    link: &'p Arc<Link>,
    source: Arc<dyn ChunkSource>,
    terms: LeaseTerms,
    monitor: &'p Monitor,
    /// It said that it is full.
    full: AtomicBool,
}

impl Push<'_> {
    /// Puts some chunks and commits them; those whose base the peer turns out not to have once more, to stand alone.
    async fn some(&self, chunks: &[Homed], pushed: &mut Pushed) -> Result<()> {
        let alone = self.once(chunks, true, pushed).await?;
        if !alone.is_empty() {
            self.once(&alone, false, pushed).await?;
        }
        Ok(())
    }

    /// Puts chunks and commits them; answers with those that have to stand alone.
    async fn once(&self, chunks: &[Homed], as_differences: bool, pushed: &mut Pushed) -> Result<Vec<Homed>> {
        self.monitor.check()?;
        let intake = self.link.intake().await.map_err(|error| unusable(&self.link.peer, &error.to_string()))?;
        // It is called as the request that began it, so what goes into it can be asked along with that.
        let begin = self.ask(|request| intake.begin(request, self.terms));
        let (first, others) = chunks.split_at(chunks.len().min(limits::HAVE_HASHES));
        let hold = |some: &[Homed]| {
            let (count, some) = (some.len(), some.to_vec());
            self.bits(count, |request| Frame::Hold(request, intake.number(), some))
        };
        let (begun, held) = futures::join!(begin, hold(first));
        let Frame::Done(_) = begun? else { return Err(self.unfitting()) };
        let mut held = held?;
        for some in others.chunks(limits::HAVE_HASHES) {
            held.extend(hold(some).await?);
        }
        let mut missing = Vec::new();
        let mut kept: Vec<Hash> = Vec::new();
        for (chunk, there) in chunks.iter().zip(held) {
            if there { kept.push(chunk.0) } else { missing.push(*chunk) }
        }
        let bases = if as_differences { self.bases(&missing).await? } else { HashMap::new() };
        let (taken, alone) = self.put(intake.number(), missing, &bases, pushed).await?;
        intake.end();
        pushed.kept.extend(kept.into_iter().chain(taken));
        Ok(alone)
    }

    /// The bases of `chunks` in this store that the peer has.
    async fn bases(&self, chunks: &[Homed]) -> Result<HashMap<Hash, Hash>> {
        let (source, list) = (Arc::clone(&self.source), chunks.to_vec());
        let read = tokio::task::spawn_blocking(move || {
            let base_of = |(hash, _): Homed| Ok(source.base(&hash)?.map(|base| (hash, base)));
            list.into_iter().filter_map(|chunk| base_of(chunk).transpose()).collect::<Result<HashMap<_, _>>>()
        });
        let mut bases = read.await.map_err(unread)??;
        let unique: HashSet<Hash> = bases.values().copied().collect();
        let unique: Vec<Hash> = unique.into_iter().collect();
        let mut there = HashSet::new();
        for some in unique.chunks(limits::HAVE_HASHES) {
            let bits = self.bits(some.len(), |request| Frame::Have(request, some.to_vec())).await?;
            there.extend(some.iter().zip(bits).filter(|(_, there)| *there).map(|(hash, _)| *hash));
        }
        bases.retain(|_, base| there.contains(base));
        Ok(bases)
    }

    /// Sends chunks, several frames at once, and commits; answers with those that were taken, and those that have to stand alone.
    async fn put(
        &self,
        intake: u32,
        chunks: Vec<Homed>,
        bases: &HashMap<Hash, Hash>,
        pushed: &mut Pushed,
    ) -> Result<(Vec<Hash>, Vec<Homed>)> {
        let mut taken = Vec::new();
        let mut alone = Vec::new();
        let mut todo = chunks.into_iter();
        let mut under_way = futures::stream::FuturesUnordered::new();
        let mut commit = std::pin::pin!(self.ask(|request| Frame::Commit(request, intake)));
        loop {
            let free = FRAMES - under_way.len();
            let frames = self.parcels(&mut todo, bases, free).await?;
            under_way.extend(frames.into_iter().map(|parcels| self.frame(intake, parcels)));
            let all_read = todo.len() == 0;
            let outcome = tokio::select! {
                // In this order, so that the commit is asked behind the last of the chunks. Should it ever overtake one, that is refused,
                // and none of them counts.
                biased;
                Some(outcome) = under_way.next(), if !under_way.is_empty() => outcome,
                answer = &mut commit, if all_read => match answer? {
                    // Answered before what it is to make durable, it was not asked behind that.
                    Frame::Done(_) if under_way.is_empty() => break,
                    _ => return Err(self.unfitting()),
                },
            };
            for (parcel, status) in outcome? {
                match status {
                    PutStatus::Stored | PutStatus::Known => {
                        taken.push(parcel.hash);
                        pushed.sent_bytes += parcel.bytes;
                    }
                    PutStatus::NeedsBase => alone.push((parcel.hash, parcel.home)),
                    // Its view of the network is another: somebody else keeps that chunk.
                    PutStatus::Elsewhere => {}
                    PutStatus::Full => {
                        self.full.store(true, Ordering::Relaxed);
                        return Err(unusable(&self.link.peer, "it has no room for more"));
                    }
                    PutStatus::Wrong => {
                        let why = format!("it says that chunk {} is wrong", parcel.hash.short());
                        return Err(unusable(&self.link.peer, &why));
                    }
                }
            }
            self.monitor.check()?;
        }
        Ok((taken, alone))
    }

    /// The next chunks for up to `frames` frames, read on a thread that may block. One that cannot be read here is left out.
    async fn parcels(
        &self,
        todo: &mut std::vec::IntoIter<Homed>,
        bases: &HashMap<Hash, Hash>,
        frames: usize,
    ) -> Result<Vec<Vec<Parcel>>> {
        if todo.len() == 0 || frames == 0 {
            return Ok(Vec::new());
        }
        let (source, bases) = (Arc::clone(&self.source), bases.clone());
        let mut own = std::mem::take(todo);
        let read = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            while own.len() > 0 && read.len() < frames {
                let (mut parcels, mut bytes) = (Vec::new(), 0);
                while bytes < FRAME_PARCELS && parcels.len() < limits::PUT_PARCELS {
                    let Some((hash, home)) = own.next() else { break };
                    let base: Vec<Hash> = bases.get(&hash).copied().into_iter().collect();
                    if let Some(mut parcel) = source.parcel(&hash, &base)? {
                        parcel.home = home;
                        bytes += parcel_bytes(&parcel);
                        parcels.push(parcel);
                    }
                }
                if !parcels.is_empty() {
                    read.push(parcels);
                }
            }
            Ok::<_, Error>((own, read))
        });
        let (rest, read) = read.await.map_err(unread)??;
        *todo = rest;
        Ok(read)
    }

    async fn frame(&self, intake: u32, parcels: Vec<Parcel>) -> Result<Vec<(SentParcel, PutStatus)>> {
        let sent: Vec<SentParcel> = parcels.iter().map(SentParcel::of).collect();
        match self.ask(move |request| Frame::Put(request, intake, parcels)).await? {
            Frame::Taken(_, statuses) if statuses.len() == sent.len() => Ok(sent.into_iter().zip(statuses).collect()),
            _ => Err(self.unfitting()),
        }
    }

    async fn bits(&self, count: usize, frame: impl FnOnce(u32) -> Frame) -> Result<Vec<bool>> {
        match self.ask(frame).await? {
            Frame::Bits(_, bits) if bits.len() == count => Ok(bits),
            _ => Err(self.unfitting()),
        }
    }

    async fn ask(&self, frame: impl FnOnce(u32) -> Frame) -> Result<Frame> {
        let answer = self.link.ask(frame).await;
        if matches!(answer, Err(StreamError::Refused(Refused::Full, _))) {
            self.full.store(true, Ordering::Relaxed);
        }
        answer.map(|received| received.frame).map_err(|error| unusable(&self.link.peer, &error.to_string()))
    }

    fn unfitting(&self) -> Error {
        unusable(&self.link.peer, &StreamError::Unfitting.to_string())
    }
}

fn unread(error: tokio::task::JoinError) -> Error {
    Error::io("read", "chunks to send", std::io::Error::other(error))
}

/// What is remembered of a parcel that was sent.
struct SentParcel {
    hash: Hash,
    home: [u8; 4],
    bytes: u64,
}

impl SentParcel {
    fn of(parcel: &Parcel) -> SentParcel {
        let bytes = parcel.payload.len() as u64;
        SentParcel { hash: parcel.hash, home: parcel.home, bytes }
    }
}
