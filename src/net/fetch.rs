//! Fetching many chunks from many peers at once. What comes is verified and stored before it counts, by the intake.
//!
//! Each peer has a task that takes work from the [`Board`] and keeps about twice the bandwidth-delay product under way. A peer that sends a
//! wrong chunk is not asked again, and named; one that fails is replaced by the next in rank.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use libp2p::PeerId;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::chunk::{Intake, Parcel, Taken};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::monitor::Monitor;
use crate::net::board::{Ask, Board, LOOK_AGAIN, Next};
use crate::net::framed::{Room, StreamError};
use crate::net::handle::PeerAddresses;
use crate::net::link::{Link, Links};
use crate::net::pace::Pace;
use crate::net::record::PUBLISHED;
use crate::net::wire::Frame;

/// Connections that are opened at the same time.
const DIALS: usize = 64;

/// Chunks that wait to be verified, and threads that do that.
const ARRIVED: usize = 32;
const VERIFIERS: usize = 8;

/// Chunks that one of them takes at a time.
const VERIFIED_AT_ONCE: usize = 4;

/// Chunks that wait when another thread is called to help verify.
const BACKLOG: usize = 8;

/// Chunks under way to one peer.
const WINDOW_CHUNKS: usize = limits::STREAM_REQUESTS as usize;

/// A chunk to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) hash: Hash,
    /// Plain bytes, as the manifest says; `None` where whatever has the hash will do.
    pub(crate) len: Option<u32>,
    /// Chunks that are here, and that it may be a difference to.
    pub(crate) bases: Vec<Hash>,
    /// Who may have it, by rank: places in the list of peers.
    pub(crate) holders: Vec<u32>,
}

/// What a fetch came to.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    /// Chunks that nobody could give, by their place in the list.
    pub(crate) lost: Vec<u32>,
    /// Chunks that came.
    pub(crate) chunks: u64,
    /// How many of them came as differences.
    pub(crate) deltas: u64,
    /// Peers that sent wrong chunks.
    pub(crate) liars: Vec<PeerId>,
    /// Whether a peer that was needed could not be reached, or was lost.
    pub(crate) out_of_reach: bool,
}

/// Where chunks that came are handed on.
type Verifier = mpsc::Sender<Arrived>;

struct Job {
    wanted: Vec<Wanted>,
    board: Mutex<Board>,
    /// Each peer's task waits at its own until there may be something to do.
    doors: Vec<Notify>,
    intake: Arc<dyn Intake>,
    /// Calls threads to help verify.
    help: Semaphore,
    /// What peers sent in place of chunks, by their places.
    lies: Mutex<HashMap<u32, String>>,
    dials: Semaphore,
    monitor: Monitor,
    chunks: AtomicU64,
    deltas: AtomicU64,
    liars: Mutex<Vec<PeerId>>,
    out_of_reach: AtomicBool,
    /// Why the fetch as a whole cannot go on: the disk is full, say.
    broken: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processors that this process may use. In a control group, several files are read to find that out.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(2, usize::from));

/// Fetches `wanted` from `peers` into `intake`, asking the first `primary` holders of each chunk before the others.
pub(crate) async fn fetch(
    links: &Arc<Links>,
    peers: Vec<PeerAddresses>,
    wanted: Vec<Wanted>,
    primary: usize,
    intake: Arc<dyn Intake>,
    monitor: &Monitor,
) -> Result<Fetched> {
    let holders = wanted.iter().map(|wanted| wanted.holders.clone()).collect();
    // Where few chunks come, they never wait for help.
    let threads = PROCESSORS.min(VERIFIERS).min(wanted.len().div_ceil(BACKLOG));
    let job = Arc::new(Job {
        board: Mutex::new(Board::new(holders, peers.len(), primary)),
        doors: peers.iter().map(|_| Notify::new()).collect(),
        wanted,
        intake,
        help: Semaphore::new(0),
        lies: Mutex::default(),
        dials: Semaphore::new(DIALS),
        monitor: monitor.clone(),
        chunks: AtomicU64::new(0),
        deltas: AtomicU64::new(0),
        liars: Mutex::default(),
        out_of_reach: AtomicBool::new(false),
        broken: Mutex::default(),
    });
    let (verifier, arrived) = mpsc::channel(ARRIVED);
    let arrived = Arc::new(Mutex::new(arrived));
    let verifying: Vec<_> = (0..threads)
        .map(|number| {
            let (job, arrived) = (Arc::clone(&job), Arc::clone(&arrived));
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || match number {
                0 => job.verify_all(&arrived),
                _ => job.help_verify(&arrived, &runtime),
            })
        })
        .collect();
    // All at once: a chunk waits for its own holders, so none of them may wait for its turn. One that has nothing to give costs a few bytes.
    // On the node's threads, where answers arrive, and not on the caller's, which each answer would have to wake. Dropped when the fetch
    // is given up, and with it all that is under way.
    let mut tasks: JoinSet<()> = JoinSet::new();
    for (place, peer) in peers.into_iter().enumerate() {
        let (job, links, verifier) = (Arc::clone(&job), Arc::clone(links), verifier.clone());
        tasks.spawn(async move { job.draw(&links, place as u32, &peer, &verifier).await });
    }
    drop(verifier);
    while let Some(drawn) = tasks.join_next().await {
        drawn.map_err(|error| Error::Network { what: "the fetch", why: error.to_string() })?;
    }
    for thread in verifying {
        thread.await.map_err(|error| Error::io("store", "fetched chunks", std::io::Error::other(error)))?;
    }
    if let Some(error) = lock(&job.broken).take() {
        return Err(error);
    }
    monitor.check()?;
    let lost = lock(&job.board).lost();
    Ok(Fetched {
        lost,
        chunks: job.chunks.load(Ordering::Relaxed),
        deltas: job.deltas.load(Ordering::Relaxed),
        liars: std::mem::take(&mut lock(&job.liars)),
        out_of_reach: job.out_of_reach.load(Ordering::Relaxed),
    })
}

impl Job {
    /// Takes work from the board until there is none for this peer.
    async fn draw(&self, links: &Links, place: u32, peer: &PeerAddresses, verifier: &Verifier) {
        // A holder of low rank is connected to only when the others have failed or are slow. Nothing waits for the connection: until
        // there is one, others may be asked.
        if !self.is_needed(place).await {
            return;
        }
        let dial = async {
            let _turn = self.dials.acquire().await;
            links.to(peer).await
        };
        let link = tokio::select! {
            link = dial => link,
            () = self.over(place) => return,
        };
        let link = match link {
            Ok(link) => link,
            Err(error) => {
                tracing::debug!("{error}");
                // One that has lied is not asked, however long it is waited for.
                self.out_of_reach.fetch_or(!links.banned().contains(&peer.peer), Ordering::Relaxed);
                return self.leave(place);
            }
        };
        let mut window = Pace::default();
        let mut under_way = FuturesUnordered::new();
        let mut bytes_under_way = 0;
        loop {
            if self.is_over() {
                // What is still under way is of no use to anybody.
                return;
            }
            let lie = lock(&self.lies).get(&place).cloned();
            if let Some(why) = lie {
                return self.ban(links, place, peer.peer, &why, under_way).await;
            }
            let room = under_way.len() < WINDOW_CHUNKS && bytes_under_way < window.bytes();
            let wait = match if room { self.next(place) } else { Next::Wait(LOOK_AGAIN) } {
                Next::Ask(ask) => {
                    bytes_under_way += self.len(ask.chunk);
                    under_way.push(self.one(&link, place, ask, verifier));
                    continue;
                }
                Next::Done => return,
                Next::Wait(wait) => wait,
            };
            let mut came = tokio::select! {
                came = under_way.next(), if !under_way.is_empty() => came,
                () = self.knock(place) => None,
                () = tokio::time::sleep(wait) => None,
            };
            // All that are there, so that the next questions leave together as well.
            while let Some((ask, outcome)) = came {
                bytes_under_way -= self.len(ask.chunk);
                match outcome {
                    Ok(took) => window.note(self.len(ask.chunk), took),
                    Err(fault) => {
                        self.fail(ask, place);
                        if let Some(why) = fault.lie {
                            return self.ban(links, place, peer.peer, &why, under_way).await;
                        }
                        if fault.gone {
                            self.out_of_reach.store(true, Ordering::Relaxed);
                            return self.give_up(place, under_way).await;
                        }
                    }
                }
                came = under_way.next().now_or_never().flatten();
            }
        }
    }

    /// A peer sent something else than what it was asked for.
    async fn ban(
        &self,
        links: &Links,
        place: u32,
        peer: PeerId,
        why: &str,
        under_way: impl futures::Stream<Item = (Ask, Result<Duration, Fault>)> + Unpin,
    ) {
        tracing::warn!("{peer} sent a wrong chunk and is not asked again: {why}");
        lock(&self.liars).push(peer);
        links.ban(peer).await;
        self.give_up(place, under_way).await;
    }

    /// The rest that a peer was asked for will not come.
    async fn give_up(
        &self,
        place: u32,
        mut under_way: impl futures::Stream<Item = (Ask, Result<Duration, Fault>)> + Unpin,
    ) {
        while let Some((ask, outcome)) = under_way.next().await {
            if outcome.is_err() {
                self.fail(ask, place);
            }
        }
        self.leave(place);
    }

    /// Waits until there is a chunk that the peer at `place` is to be asked for; false if it comes to none.
    async fn is_needed(&self, place: u32) -> bool {
        loop {
            if self.is_over() {
                return false;
            }
            match self.on_board(|board| board.peek(place, Instant::now())) {
                Next::Ask(_) => return true,
                Next::Done => return false,
                Next::Wait(wait) => {
                    let _ = tokio::time::timeout(wait, self.knock(place)).await;
                }
            }
        }
    }

    /// Waits until there is nothing left to fetch, or no sense in it.
    async fn over(&self, place: u32) {
        while !self.is_over() {
            let _ = tokio::time::timeout(LOOK_AGAIN, self.knock(place)).await;
        }
    }

    /// Waits until the peer at `place` may have something to do. What came up since the last time is not missed.
    async fn knock(&self, place: u32) {
        match self.doors.get(place as usize) {
            Some(door) => door.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Has the task of the peer at `place` look what there is to do.
    fn call(&self, place: u32) {
        if let Some(door) = self.doors.get(place as usize) {
            door.notify_one();
        }
    }

    fn call_all(&self) {
        self.doors.iter().for_each(Notify::notify_one);
    }

    /// Acts on the board, and calls those for whom that brings something to do.
    fn on_board<T>(&self, act: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = lock(&self.board);
        let done = act(&mut board);
        let (woken, left) = (board.woken(), board.left());
        drop(board);
        if left == 0 {
            self.call_all();
        }
        woken.into_iter().for_each(|place| self.call(place));
        done
    }

    /// True when there is nothing left to fetch, or no sense in it.
    fn is_over(&self) -> bool {
        self.monitor.check().is_err() || lock(&self.broken).is_some() || lock(&self.board).left() == 0
    }

    fn next(&self, place: u32) -> Next {
        if self.is_over() {
            return Next::Done;
        }
        self.on_board(|board| board.next(place, Instant::now()))
    }

    fn len(&self, index: u32) -> u64 {
        self.wanted.get(index as usize).map_or(0, |wanted| wanted.len.unwrap_or(limits::CHUNK_BYTES as u32).into())
    }

    fn has_len(&self, index: u32, len: u32) -> bool {
        self.wanted.get(index as usize).and_then(|wanted| wanted.len).is_none_or(|said| said == len)
    }

    fn fail(&self, ask: Ask, place: u32) {
        self.on_board(|board| board.failed(ask, place));
    }

    fn leave(&self, place: u32) {
        self.on_board(|board| board.gone(place));
    }

    /// Fetches one chunk.
    async fn one(&self, link: &Link, place: u32, ask: Ask, verifier: &Verifier) -> (Ask, Result<Duration, Fault>) {
        (ask, self.try_one(link, place, ask, verifier).await)
    }

    async fn try_one(&self, link: &Link, place: u32, ask: Ask, verifier: &Verifier) -> Result<Duration, Fault> {
        let started = Instant::now();
        let wanted = self.wanted.get(ask.chunk as usize).ok_or_else(Fault::miss)?;
        let received = link.ask(|request| Frame::Get(request, wanted.hash, wanted.bases.clone())).await?;
        let took = started.elapsed();
        let parcel = match received.frame {
            Frame::Data(_, parcel) => parcel,
            Frame::Miss(_) => return Err(Fault::miss()),
            _ => return Err(StreamError::Unfitting.into()),
        };
        let offered = parcel.base.is_none_or(|base| wanted.bases.contains(&base));
        if parcel.hash != wanted.hash || !offered {
            return Err(Fault::lie("it is not the chunk that was asked for".to_owned()));
        }
        self.on_board(|board| board.came(ask, place, Instant::now()));
        let arrived = Arrived { ask, place, parcel, _room: received.room };
        verifier.send(arrived).await.map_err(|_| Fault::miss())?;
        let waiting = verifier.max_capacity() - verifier.capacity();
        if waiting >= BACKLOG && self.help.available_permits() == 0 {
            self.help.add_permits(1);
        }
        Ok(took)
    }

    /// Stores chunks that came, if they are right, until no more come. For a thread that may block.
    fn verify_all(&self, arrived: &Mutex<mpsc::Receiver<Arrived>>) {
        // Whatever ends this thread, nobody waits for it.
        let _last = EndOfVerifying { help: &self.help, arrived };
        let mut batch = Vec::new();
        while lock(arrived).blocking_recv_many(&mut batch, VERIFIED_AT_ONCE) > 0 {
            batch.drain(..).for_each(|arrived| self.verify(&arrived));
        }
    }

    /// Does so as well whenever more wait than one thread has done in time. Two threads that share what one can do only wake each other.
    fn help_verify(&self, arrived: &Mutex<mpsc::Receiver<Arrived>>, runtime: &Handle) {
        let mut batch = Vec::new();
        while let Ok(called) = runtime.block_on(self.help.acquire()) {
            called.forget();
            loop {
                {
                    let mut arrived = lock(arrived);
                    batch.extend(std::iter::from_fn(|| arrived.try_recv().ok()).take(VERIFIED_AT_ONCE));
                }
                if batch.is_empty() {
                    break;
                }
                batch.drain(..).for_each(|arrived| self.verify(&arrived));
            }
        }
    }

    /// Stores a chunk if it is right; otherwise it has to be asked for again, or the fetch cannot go on.
    fn verify(&self, arrived: &Arrived) {
        let (ask, place, parcel) = (arrived.ask, arrived.place, &arrived.parcel);
        match self.intake.take(parcel) {
            // The bytes are those of the hash: whoever named their length was wrong, and not the peer.
            Ok(Taken::Stored | Taken::Known) if !self.has_len(ask.chunk, parcel.plain_len) => {
                let why = format!(
                    "chunk {} has {} bytes, and not {} as it says",
                    parcel.hash.short(),
                    parcel.plain_len,
                    self.len(ask.chunk)
                );
                self.stop(Error::Network { what: PUBLISHED, why });
            }
            Ok(Taken::Stored | Taken::Known) => {
                if self.on_board(|board| board.done(ask.chunk)) {
                    self.monitor.advance(self.len(ask.chunk));
                    self.chunks.fetch_add(1, Ordering::Relaxed);
                    self.deltas.fetch_add(u64::from(parcel.base.is_some()), Ordering::Relaxed);
                }
            }
            Ok(Taken::Wrong(why)) => {
                lock(&self.lies).entry(place).or_insert(why);
                self.fail(ask, place);
                self.call(place);
            }
            // The base was here when it was offered, and is gone or damaged now.
            Ok(Taken::NeedsBase | Taken::Elsewhere) => self.fail(ask, place),
            Err(error) => self.stop(error),
        }
    }

    /// The fetch cannot go on.
    fn stop(&self, error: Error) {
        lock(&self.broken).get_or_insert(error);
        self.call_all();
    }
}

/// Lets those go that wait to help, and those that bring more.
struct EndOfVerifying<'v> {
    help: &'v Semaphore,
    arrived: &'v Mutex<mpsc::Receiver<Arrived>>,
}

impl Drop for EndOfVerifying<'_> {
    fn drop(&mut self) {
        self.help.close();
        lock(self.arrived).close();
    }
}

/// A chunk that came, and waits to be verified.
struct Arrived {
    ask: Ask,
    /// From which peer.
    place: u32,
    parcel: Parcel,
    /// Its share of the memory for what travels.
    _room: Option<Room>,
}

/// Why a peer did not give a chunk.
struct Fault {
    /// What it sent in its place.
    lie: Option<String>,
    /// It will not give any other either.
    gone: bool,
}

impl Fault {
    fn miss() -> Fault {
        Fault { lie: None, gone: false }
    }

    fn lie(why: String) -> Fault {
        Fault { lie: Some(why), gone: true }
    }
}

impl From<StreamError> for Fault {
    fn from(error: StreamError) -> Fault {
        tracing::debug!("a peer is given up: {error}");
        Fault { lie: None, gone: true }
    }
}
