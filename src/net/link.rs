//! Asking one peer: a [`Link`] is a stream to it, with many questions under way at once. [`Links`] keeps one for each peer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::limits;
use crate::net::framed::{Budget, Received, StreamError, Throttle, read_fields, read_header, within};
use crate::net::handle::{Handle, PeerAddresses};
use crate::net::pulse::Pulse;
use crate::net::serve::{STALL, greet};
use crate::net::wire::Frame;

/// How long a peer may take for one answer. A commit waits for its disk.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a peer may say nothing at all while it has something to answer, unless it has chunks to store.
const SILENCE: Duration = Duration::from_secs(20);

/// Questions that are shorter are written together with the next ones, where there are any.
const SMALL_BYTES: usize = 4 << 10;

/// How often a stream is tried to be opened: the other side drops one that it has no room for.
const ATTEMPTS: u32 = 3;

/// How long a peer that lied is not asked again.
const BAN: Duration = Duration::from_secs(3600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A question is added or removed whole; a panic between leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame to send, and whom to tell that it is.
type Question = (Vec<u8>, oneshot::Sender<()>);

/// A stream to a peer.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    questions: mpsc::Sender<Question>,
    asked: Mutex<HashMap<u32, oneshot::Sender<Received>>>,
    next: AtomicU32,
    closed: AtomicBool,
    /// Questions that the peer takes at once.
    window: Semaphore,
    /// Intakes that it has open at once.
    intakes: Arc<Semaphore>,
    pulse: Pulse,
    handle: Handle,
    /// Bytes that came from the peer.
    pub(crate) received_bytes: Arc<AtomicU64>,
    pub(crate) sent_bytes: Arc<AtomicU64>,
}

impl Link {
    /// Asks; the frame gets the number that it is called with. Waits while the peer has as many questions as it takes. One that falls
    /// silent is disconnected, so that nobody else waits for it as long.
    pub(crate) async fn ask(&self, frame: impl FnOnce(u32) -> Frame) -> Result<Received, StreamError> {
        let gone = || StreamError::Io(std::io::ErrorKind::ConnectionReset.into());
        let _slot = self.window.acquire().await.map_err(|_| gone())?;
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.asked).insert(request, answer);
        // Looked at after the question is noted: whoever closes the link takes all that are noted.
        let forget = Forget(self, request);
        if self.closed.load(Ordering::SeqCst) {
            return Err(gone());
        }
        let mut bytes = Vec::new();
        let frame = frame(request);
        // It writes to its disk, and other questions wait behind that.
        let _storing = matches!(frame, Frame::Put(..) | Frame::Commit(..)).then(|| Excused::on(&self.pulse));
        frame.encode(&mut bytes);
        let len = bytes.len() as u64;
        let (sent, is_sent) = oneshot::channel();
        self.questions.send((bytes, sent)).await.map_err(|_| gone())?;
        is_sent.await.map_err(|_| gone())?;
        self.sent_bytes.fetch_add(len, Ordering::Relaxed);
        let received = self.answer(answered).await;
        drop(forget);
        // The first to notice does it: others may find the peer connected again.
        if matches!(received, Err(StreamError::Silent(_))) && self.close() {
            self.handle.disconnect(self.peer).await;
        }
        let received = received?;
        match received.frame {
            Frame::Refuse(_, code, why) => Err(StreamError::Refused(code, why)),
            _ => Ok(received),
        }
    }

    /// Waits until one intake more may be open at the peer.
    pub(crate) async fn intake(self: &Arc<Link>) -> Result<OpenIntake, StreamError> {
        let room = Arc::clone(&self.intakes).acquire_owned().await;
        let room = room.map_err(|_| StreamError::Io(std::io::ErrorKind::ConnectionReset.into()))?;
        Ok(OpenIntake { link: Arc::clone(self), number: AtomicU32::new(0), room: Some(room) })
    }

    /// Waits for the answer to a question that is sent: [`SILENCE`] since the peer last said something, and [`ANSWER`] in all.
    async fn answer(&self, mut answered: oneshot::Receiver<Received>) -> Result<Received, StreamError> {
        let asked = Instant::now();
        loop {
            let now = Instant::now();
            let until = (self.pulse.silent_since(now).max(asked) + SILENCE).min(asked + ANSWER);
            if until <= now {
                return Err(match until < asked + ANSWER {
                    true => StreamError::Silent(SILENCE),
                    false => StreamError::Stalled(ANSWER),
                });
            }
            if let Ok(answer) = tokio::time::timeout_at(until.into(), &mut answered).await {
                return answer.map_err(|_| StreamError::Io(std::io::ErrorKind::ConnectionReset.into()));
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Ends the link; false if it had ended.
    fn close(&self) -> bool {
        let open = !self.closed.swap(true, Ordering::SeqCst);
        lock(&self.asked).clear();
        self.window.close();
        self.intakes.close();
        open
    }

    async fn read(
        &self,
        mut reader: ReadHalf<Stream>,
        budget: Budget,
        throttle: Arc<Throttle>,
    ) -> Result<(), StreamError> {
        let mut scratch = Vec::new();
        while let Some(header) = read_header(&mut reader, STALL).await? {
            // However long this node itself puts the rest off, the peer is not silent.
            let received = {
                let _speaking = Excused::on(&self.pulse);
                read_fields(&mut reader, header, &mut scratch, &budget, &throttle, STALL).await?
            };
            self.received_bytes.fetch_add(received.bytes as u64, Ordering::Relaxed);
            if let Frame::Refuse(0, code, why) = received.frame {
                return Err(StreamError::Refused(code, why));
            }
            let asked = lock(&self.asked).remove(&received.frame.request());
            match asked {
                // Whoever asked may have gone.
                Some(answer) => drop(answer.send(received)),
                // An answer to nothing is a fault, but one to a question that was given up is not told apart from it.
                None => tracing::trace!("{} answered a question that nobody waits for", self.peer),
            }
        }
        Ok(())
    }
}

/// Excuses a peer's silence until it is dropped.
struct Excused<'p>(&'p Pulse);

impl<'p> Excused<'p> {
    fn on(pulse: &'p Pulse) -> Excused<'p> {
        pulse.excuse();
        Excused(pulse)
    }
}

impl Drop for Excused<'_> {
    fn drop(&mut self) {
        self.0.resume(Instant::now());
    }
}

/// Takes a question back that nobody waits for any more.
struct Forget<'l>(&'l Link, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.0.asked).remove(&self.1);
    }
}

async fn write(
    mut questions: mpsc::Receiver<Question>,
    mut writer: WriteHalf<Stream>,
    throttle: Arc<Throttle>,
) -> Result<(), StreamError> {
    while let Some((mut bytes, sent)) = questions.recv().await {
        let mut sent = vec![sent];
        while bytes.len() < SMALL_BYTES
            && let Ok((more, more_sent)) = questions.try_recv()
        {
            bytes.extend_from_slice(&more);
            sent.push(more_sent);
        }
        throttle.take(bytes.len()).await;
        within(STALL, writer.write_all(&bytes)).await?;
        for sent in sent {
            // Whoever asked may have gone.
            let _ = sent.send(());
        }
        if questions.is_empty() {
            within(STALL, writer.flush()).await?;
        }
    }
    within(STALL, writer.close()).await?;
    Ok(())
}

/// An intake at a peer, which has room for a few of them only. If it is given up, it is committed: what came by then is right.
pub(crate) struct OpenIntake {
    link: Arc<Link>,
    /// The request that began it; 0 before.
    number: AtomicU32,
    room: Option<OwnedSemaphorePermit>,
}

impl OpenIntake {
    /// The frame that begins it.
    pub(crate) fn begin(&self, request: u32, terms: LeaseTerms) -> Frame {
        self.number.store(request, Ordering::Relaxed);
        Frame::Begin(request, terms)
    }

    /// What it is called by.
    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// It is committed.
    pub(crate) fn end(mut self) {
        self.room = None;
    }
}

impl Drop for OpenIntake {
    fn drop(&mut self) {
        let (Some(room), Ok(runtime)) = (self.room.take(), tokio::runtime::Handle::try_current()) else { return };
        let (link, number) = (Arc::clone(&self.link), self.number());
        if number > 0 && !link.is_closed() {
            runtime.spawn(async move {
                let _ = link.ask(|request| Frame::Commit(request, number)).await;
                drop(room);
            });
        }
    }
}

/// The link to a peer, or the room for one. Locked while it is opened.
type LinkSlot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// The links to all peers.
pub(crate) struct Links {
    handle: Handle,
    protocol: StreamProtocol,
    budget: Budget,
    upload: Arc<Throttle>,
    download: Arc<Throttle>,
    open: Mutex<HashMap<PeerId, LinkSlot>>,
    banned: Mutex<HashMap<PeerId, Instant>>,
    pub(crate) received_bytes: Arc<AtomicU64>,
    pub(crate) sent_bytes: Arc<AtomicU64>,
}

impl Links {
    pub(crate) fn new(
        handle: Handle,
        protocol: StreamProtocol,
        budget: Budget,
        upload: Arc<Throttle>,
        download: Arc<Throttle>,
    ) -> Links {
        let (open, banned, received_bytes, sent_bytes) = Default::default();
        Links { handle, protocol, budget, upload, download, open, banned, received_bytes, sent_bytes }
    }

    /// The link to `peer`; a new one if there is none.
    pub(crate) async fn to(&self, peer: &PeerAddresses) -> Result<Arc<Link>> {
        let until = lock(&self.banned).get(&peer.peer).copied();
        if until.is_some_and(|until| until > Instant::now()) {
            return Err(unusable(&peer.peer, "it has sent wrong chunks"));
        }
        let slot = Arc::clone(lock(&self.open).entry(peer.peer).or_default());
        // One at a time opens the stream; the others wait and find it.
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        let link = self.open(peer).await?;
        *slot = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Does not ask `peer` again for a while, and closes what is open to it.
    pub(crate) async fn ban(&self, peer: PeerId) {
        lock(&self.banned).insert(peer, Instant::now() + BAN);
        let slot = lock(&self.open).remove(&peer);
        if let Some(slot) = slot
            && let Some(link) = slot.lock().await.take()
        {
            link.close();
        }
        self.handle.disconnect(peer).await;
    }

    /// Peers that are not asked for now.
    pub(crate) fn banned(&self) -> Vec<PeerId> {
        let mut banned = lock(&self.banned);
        banned.retain(|_, until| *until > Instant::now());
        banned.keys().copied().collect()
    }

    /// Connects to a peer. One of which no address is known here is looked for in the network.
    async fn connect(&self, peer: &PeerAddresses) -> Result<()> {
        match self.handle.connect(peer.clone()).await {
            Err(error) if peer.addresses.is_empty() => {
                let found = self.handle.closest(peer.peer.to_bytes()).await?.peers;
                let found = found.into_iter().find(|found| found.peer == peer.peer).ok_or(error)?;
                self.handle.connect(found).await
            }
            outcome => outcome,
        }
    }

    async fn open(&self, peer: &PeerAddresses) -> Result<Arc<Link>> {
        let mut failed = unusable(&peer.peer, "no stream could be opened");
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
            }
            self.connect(peer).await?;
            let mut control = self.handle.streams();
            match control.open_stream(peer.peer, self.protocol.clone()).await {
                Ok(stream) => match self.start(peer.peer, stream).await {
                    Ok(link) => return Ok(link),
                    Err(error) => failed = unusable(&peer.peer, &error.to_string()),
                },
                Err(error) => failed = unusable(&peer.peer, &error.to_string()),
            }
        }
        Err(failed)
    }

    async fn start(&self, peer: PeerId, stream: Stream) -> Result<Arc<Link>, StreamError> {
        let (mut reader, mut writer) = stream.split();
        let window = greet(&mut reader, &mut writer, &self.budget).await?;
        let (questions, to_write) = mpsc::channel(4);
        let link = Arc::new(Link {
            peer,
            questions,
            asked: Mutex::default(),
            next: AtomicU32::new(1),
            closed: AtomicBool::new(false),
            window: Semaphore::new(window as usize),
            intakes: Arc::new(Semaphore::new(limits::STREAM_INTAKES)),
            pulse: Pulse::new(Instant::now()),
            handle: self.handle.clone(),
            received_bytes: Arc::clone(&self.received_bytes),
            sent_bytes: Arc::clone(&self.sent_bytes),
        });
        let mut writing = tokio::spawn(write(to_write, writer, Arc::clone(&self.upload)));
        let (reading, budget, throttle) = (Arc::clone(&link), self.budget.clone(), Arc::clone(&self.download));
        tokio::spawn(async move {
            let ended = tokio::select! {
                read = reading.read(reader, budget, throttle) => read,
                written = &mut writing => written.unwrap_or_else(|error| Err(std::io::Error::other(error).into())),
            };
            if let Err(error) = ended {
                tracing::debug!("the link to {} ends: {error}", reading.peer);
            }
            reading.close();
            writing.abort();
        });
        Ok(link)
    }
}

pub(crate) fn unusable(peer: &PeerId, why: &str) -> Error {
    Error::Network { what: "a peer", why: format!("{peer}: {why}") }
}
