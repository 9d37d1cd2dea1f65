//! Answering a peer: what it asks for is read from the local chunks, what it puts is verified and kept under a lease.
//!
//! One stream is three tasks in a row: one reads frames, one works through them in order, one writes the answers. Each hands on to the
//! next through a short channel, so a peer that does not read its answers is soon not read from either. What waits in between is counted
//! against one budget for all peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use libp2p::{PeerId, Stream};
use tokio::sync::mpsc;

use crate::chunk::{ChunkSource, Intake, LeaseTerms, Taken};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::net::framed::{Budget, Received, Room, StreamError, Throttle, read_frame, within};
use crate::net::wire::{Frame, PutStatus, Refused, VERSION, encode_data};

/// How long a peer may keep us waiting in the middle of something.
pub(crate) const STALL: Duration = Duration::from_secs(20);

/// Frames that are worked through in one go.
const BATCH: usize = 16;

/// Answers are handed on when there are so many bytes of them, or nothing else to do.
const ANSWER_BYTES: usize = 256 << 10;

/// A chunk that takes longer to find and copy was not at hand.
const AT_HAND: Duration = Duration::from_millis(2);

/// After a chunk that was not at hand, so many requests are left to threads that may block: what follows it is hardly at hand either.
const AFTER_A_MISS: usize = 64;

/// How many such lots wait to be written.
const ANSWERS_WAITING: usize = 4;

/// Bytes to write, and the room that they take.
type Answers = (Vec<u8>, Option<Room>);

/// What a node keeps for its peers. Everything blocks, and is called from threads that may.
pub(crate) trait Keeper: ChunkSource {
    /// Opens an intake for chunks that `from` puts. Fails with [`Error::Limit`] where its quota is used up.
    fn open(&self, from: &PeerId, terms: LeaseTerms) -> Result<Box<dyn Intake>>;
    /// Extends a lease; says how many chunks and bytes it has, `None` if there is no such lease.
    fn renew(&self, terms: LeaseTerms) -> Result<Option<(u64, u64)>>;
    /// Ends a lease.
    fn release(&self, manifest: &Hash, owner: &[u8; 32]) -> Result<()>;
    /// The digest over the leased chunks of a placement group, and the first of those behind `behind`.
    fn group(&self, group: u16, behind: &Hash) -> Result<(Hash, Vec<Hash>)>;
}

/// The public key of a peer, from its id. Only ed25519 keys are that short.
pub(crate) fn peer_key(peer: &PeerId) -> Option<[u8; 32]> {
    let hashed = peer.as_ref();
    let key = libp2p::identity::PublicKey::try_decode_protobuf(hashed.digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// The peer with a public key; `None` if it is no key.
pub(crate) fn peer_of(key: &[u8; 32]) -> Option<PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PeerId::from_public_key(&key.into()))
}

/// What the serving side has done so far.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_chunks: AtomicU64,
    pub(crate) taken_chunks: AtomicU64,
    pub(crate) wrong_chunks: AtomicU64,
    pub(crate) refused_requests: AtomicU64,
    pub(crate) broken_streams: AtomicU64,
}

/// Answers peers.
pub(crate) struct Server {
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) incoming: Budget,
    pub(crate) outgoing: Budget,
    pub(crate) upload: Arc<Throttle>,
    pub(crate) download: Arc<Throttle>,
    pub(crate) served: Arc<Served>,
    pub(crate) idle: Duration,
}

/// What a peer's streams share of the memory for what travels.
pub(crate) struct Share {
    incoming: Budget,
    outgoing: Budget,
}

/// What one stream has open.
struct Session {
    peer: PeerId,
    share: Arc<Share>,
    intakes: HashMap<u32, Box<dyn Intake>>,
}

impl Server {
    /// A peer's share, for all of its streams.
    pub(crate) fn share(&self) -> Share {
        Share { incoming: self.incoming.share(), outgoing: self.outgoing.share() }
    }

    /// Serves one stream until its end; what went wrong ends this stream and nothing else.
    pub(crate) async fn serve(self: Arc<Server>, peer: PeerId, share: Arc<Share>, stream: Stream) {
        let (reader, mut writer) = stream.split();
        let outcome = self.run(peer, share, reader, &mut writer).await;
        if let Err(error) = outcome {
            self.served.broken_streams.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("the stream of {peer} ends: {error}");
            if let StreamError::Wire(error) = &error {
                let mut bytes = Vec::new();
                Frame::Refuse(0, Refused::Malformed, error.to_string()).encode(&mut bytes);
                let _ = within(STALL, writer.write_all(&bytes)).await;
            }
        }
        let _ = within(STALL, writer.close()).await;
    }

    async fn run(
        self: &Arc<Server>,
        peer: PeerId,
        share: Arc<Share>,
        mut reader: ReadHalf<Stream>,
        writer: &mut WriteHalf<Stream>,
    ) -> Result<(), StreamError> {
        greet(&mut reader, writer, &share.incoming).await?;
        let (frames, to_do) = mpsc::channel(limits::STREAM_REQUESTS as usize);
        let (answers, to_write) = mpsc::channel(ANSWERS_WAITING);
        let reading = async {
            let mut scratch = Vec::new();
            while let Some(received) = self.next(&mut reader, &share.incoming, &mut scratch).await? {
                if frames.send(received).await.is_err() {
                    break;
                }
            }
            drop(frames);
            Ok(())
        };
        let working = self.work(peer, Arc::clone(&share), to_do, answers);
        let writing = self.write(to_write, writer);
        let ((), (), ()) = tokio::try_join!(reading, working, writing)?;
        Ok(())
    }

    /// The next request; `None` where the peer has none for so long that the stream may go.
    async fn next(
        &self,
        reader: &mut ReadHalf<Stream>,
        budget: &Budget,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<Received>, StreamError> {
        let reading = read_frame(reader, scratch, budget, &self.download, STALL);
        match tokio::time::timeout(self.idle, reading).await {
            Ok(received) => {
                let received = received?;
                let bytes = received.as_ref().map_or(0, |received| received.bytes as u64);
                self.served.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(received)
            }
            Err(_) => Ok(None),
        }
    }

    async fn write(
        &self,
        mut answers: mpsc::Receiver<Answers>,
        writer: &mut WriteHalf<Stream>,
    ) -> Result<(), StreamError> {
        while let Some((bytes, _room)) = answers.recv().await {
            self.upload.take(bytes.len()).await;
            within(STALL, writer.write_all(&bytes)).await?;
            self.served.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if answers.is_empty() {
                within(STALL, writer.flush()).await?;
            }
        }
        Ok(())
    }

    /// Works through requests in their order, some at a time: what is in memory is sent from here, all else is done on a thread that may
    /// block.
    async fn work(
        self: &Arc<Server>,
        peer: PeerId,
        share: Arc<Share>,
        mut requests: mpsc::Receiver<Received>,
        answers: mpsc::Sender<Answers>,
    ) -> Result<(), StreamError> {
        let mut session = Session { peer, share: Arc::clone(&share), intakes: HashMap::new() };
        let mut batch = Vec::new();
        let mut left_to_threads = 0_usize;
        while requests.recv_many(&mut batch, BATCH).await > 0 {
            if left_to_threads == 0 && !self.send_at_hand(&mut batch, &share.outgoing, &answers).await {
                left_to_threads = AFTER_A_MISS;
            }
            if batch.is_empty() {
                continue;
            }
            left_to_threads = left_to_threads.saturating_sub(batch.len());
            let (server, answers) = (Arc::clone(self), answers.clone());
            let mut taken = std::mem::take(&mut batch);
            let mut own = session;
            let runtime = tokio::runtime::Handle::current();
            let worked = tokio::task::spawn_blocking(move || {
                let (mut bytes, mut has_chunks) = (Vec::new(), false);
                let mut requests = taken.drain(..).map(|received| (received.frame, received.room)).peekable();
                while let Some((request, _room)) = requests.next() {
                    let answer = server.answer(&mut own, request)?;
                    answer.encode(&mut bytes);
                    has_chunks |= matches!(answer, Frame::Data(..));
                    // What is read is at hand in no time; anything else would keep this answer waiting.
                    if bytes.len() < ANSWER_BYTES && matches!(requests.peek(), Some((Frame::Get(..), _))) {
                        continue;
                    }
                    // A few bytes do not wait for peers that are slow to take their chunks.
                    let room = match std::mem::take(&mut has_chunks) {
                        true => runtime.block_on(own.share.outgoing.take(bytes.len())),
                        false => None,
                    };
                    if answers.blocking_send((std::mem::take(&mut bytes), room)).is_err() {
                        break;
                    }
                }
                drop(requests);
                Ok::<_, StreamError>((own, taken))
            });
            let worked = worked.await.map_err(|error| StreamError::Io(std::io::Error::other(error)))?;
            (session, batch) = worked?;
        }
        Ok(())
    }

    /// Sends the chunks that the first of `requests` ask for, and takes those out. False where one is not at hand, or there is no room for it.
    async fn send_at_hand(
        &self,
        requests: &mut Vec<Received>,
        budget: &Budget,
        answers: &mpsc::Sender<Answers>,
    ) -> bool {
        let (mut sent, mut at_hand) = (0, true);
        while at_hand && matches!(requests.get(sent).map(|request| &request.frame), Some(Frame::Get(..))) {
            // Before anything is encoded: what waits for room is bounded by the threads that may block.
            let Some(mut room) = budget.try_take(ANSWER_BYTES + limits::FRAME_BYTES) else {
                at_hand = false;
                break;
            };
            let mut bytes = Vec::new();
            while at_hand && bytes.len() < ANSWER_BYTES {
                let Some(Frame::Get(request, hash, bases)) = requests.get(sent).map(|request| &request.frame) else {
                    break;
                };
                let started = Instant::now();
                let taken =
                    self.keeper.take_at_hand(hash, bases, &mut |parcel| encode_data(*request, parcel, &mut bytes));
                sent += usize::from(taken);
                at_hand = taken && started.elapsed() < AT_HAND;
            }
            if !bytes.is_empty() {
                let own = room.split(bytes.len());
                drop(room);
                // Nobody is there to take it: that is found out by whoever sends the next answer.
                let _ = answers.send((bytes, own)).await;
            }
        }
        self.served.sent_chunks.fetch_add(sent as u64, Ordering::Relaxed);
        requests.drain(..sent);
        at_hand
    }

    /// The answer to one request. An error ends the stream; what only this request can be blamed for is a `Refuse`.
    fn answer(&self, session: &mut Session, frame: Frame) -> Result<Frame, StreamError> {
        let request = frame.request();
        let answer = match self.try_answer(session, frame) {
            Ok(answer) => answer?,
            Err(error) => {
                tracing::debug!("a request of {} is refused: {error}", session.peer);
                let (code, why) = match &error {
                    Error::Limit { .. } | Error::NoSpace { .. } => (Refused::Full, error.to_string()),
                    // What is wrong with our disk is nobody else's business.
                    _ => (Refused::Failed, "its store failed".to_owned()),
                };
                Frame::Refuse(request, code, why)
            }
        };
        let is_refused = match &answer {
            Frame::Refuse(..) => true,
            // What there is no room for.
            Frame::Taken(_, statuses) => statuses.contains(&PutStatus::Full),
            _ => false,
        };
        self.served.refused_requests.fetch_add(u64::from(is_refused), Ordering::Relaxed);
        Ok(answer)
    }

    fn try_answer(&self, session: &mut Session, frame: Frame) -> Result<Result<Frame, StreamError>> {
        let refuse = |request, code, why: &str| Ok(Ok(Frame::Refuse(request, code, why.to_owned())));
        let owns = |owner: &[u8; 32]| peer_key(&session.peer).as_ref() == Some(owner);
        Ok(Ok(match frame {
            Frame::Have(request, hashes) => Frame::Bits(request, self.keeper.holds(&hashes)?),
            Frame::Begin(request, terms) => {
                if session.intakes.len() >= limits::STREAM_INTAKES {
                    return refuse(request, Refused::Busy, "too many intakes are open");
                }
                let intake = self.keeper.open(&session.peer, terms)?;
                session.intakes.insert(request, intake);
                Frame::Done(request)
            }
            Frame::Hold(request, intake, chunks) => {
                let Some(intake) = session.intakes.get(&intake) else {
                    return refuse(request, Refused::Malformed, "no such intake is open");
                };
                let held = chunks.iter().map(|(hash, home)| intake.hold(hash, *home));
                Frame::Bits(request, held.collect::<Result<_>>()?)
            }
            Frame::Put(request, intake, parcels) => {
                let Some(intake) = session.intakes.get(&intake) else {
                    return refuse(request, Refused::Malformed, "no such intake is open");
                };
                let statuses = parcels.iter().map(|parcel| self.take(&**intake, parcel, &session.peer));
                Frame::Taken(request, statuses.collect::<Result<_>>()?)
            }
            Frame::Commit(request, intake) => {
                let Some(intake) = session.intakes.remove(&intake) else {
                    return refuse(request, Refused::Malformed, "no such intake is open");
                };
                intake.commit()?;
                Frame::Done(request)
            }
            Frame::Get(request, hash, bases) => match self.keeper.parcel(&hash, &bases)? {
                Some(parcel) => {
                    self.served.sent_chunks.fetch_add(1, Ordering::Relaxed);
                    Frame::Data(request, parcel)
                }
                None => Frame::Miss(request),
            },
            Frame::Renew(request, terms) if owns(&terms.owner) => Frame::Lease(request, self.keeper.renew(terms)?),
            Frame::Release(request, manifest, owner) if owns(&owner) => {
                self.keeper.release(&manifest, &owner)?;
                Frame::Done(request)
            }
            Frame::Renew(request, _) | Frame::Release(request, ..) => {
                return refuse(request, Refused::Forbidden, "the lease is somebody else's");
            }
            Frame::List(request, group, behind) => {
                let (digest, hashes) = self.keeper.group(group, &behind)?;
                Frame::Group(request, digest, hashes)
            }
            _ => return Ok(Err(StreamError::Unfitting)),
        }))
    }

    fn take(&self, intake: &dyn Intake, parcel: &crate::chunk::Parcel, from: &PeerId) -> Result<PutStatus> {
        let taken = match intake.take(parcel) {
            Err(Error::Limit { .. } | Error::NoSpace { .. }) => return Ok(PutStatus::Full),
            taken => taken?,
        };
        let (status, count) = match taken {
            Taken::Stored => (PutStatus::Stored, Some(&self.served.taken_chunks)),
            Taken::Known => (PutStatus::Known, None),
            Taken::NeedsBase => (PutStatus::NeedsBase, None),
            Taken::Elsewhere => (PutStatus::Elsewhere, None),
            Taken::Wrong(why) => {
                tracing::warn!("{from} put a wrong chunk {}: {why}", parcel.hash.short());
                (PutStatus::Wrong, Some(&self.served.wrong_chunks))
            }
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(status)
    }
}

/// Both sides say what they speak, before anything else.
pub(crate) async fn greet(
    reader: &mut ReadHalf<Stream>,
    writer: &mut WriteHalf<Stream>,
    budget: &Budget,
) -> Result<u32, StreamError> {
    let mut bytes = Vec::new();
    Frame::Hello { version: VERSION, window: limits::STREAM_REQUESTS }.encode(&mut bytes);
    within(STALL, writer.write_all(&bytes)).await?;
    within(STALL, writer.flush()).await?;
    let (unbound, mut scratch) = (Throttle::default(), Vec::new());
    let greeting = tokio::time::timeout(STALL, read_frame(reader, &mut scratch, budget, &unbound, STALL));
    match greeting.await.map_err(|_| StreamError::Stalled(STALL))?? {
        Some(Received { frame: Frame::Hello { version: VERSION, window }, .. }) => {
            Ok(window.clamp(1, limits::STREAM_REQUESTS))
        }
        Some(Received { frame: Frame::Refuse(_, code, why), .. }) => Err(StreamError::Refused(code, why)),
        Some(_) => Err(StreamError::Unfitting),
        None => Err(StreamError::Io(std::io::ErrorKind::UnexpectedEof.into())),
    }
}
