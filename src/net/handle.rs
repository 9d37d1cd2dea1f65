//! [`Handle`]: what the rest of the node asks of the swarm, and what it is told. The task that owns the swarm answers: see
//! [`event_loop`](super::event_loop).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libp2p::{Multiaddr, PeerId, kad};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::error::{Error, Result};

/// A peer and where it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerAddresses {
    /// Who.
    pub(crate) peer: PeerId,
    /// Where it says that it listens.
    pub(crate) addresses: Vec<Multiaddr>,
}

/// The answer to a lookup.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closest {
    /// The peers closest to the key, the closest first.
    pub(crate) peers: Vec<PeerAddresses>,
    /// No peer that was asked failed to answer.
    pub(crate) complete: bool,
    /// There was somebody to ask.
    pub(crate) asked: bool,
}

/// What the swarm knows of the network.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkView {
    /// Addresses that this node listens on.
    pub(crate) listening: Vec<Multiaddr>,
    /// Peers with a connection.
    pub(crate) connected: Vec<PeerAddresses>,
    /// Those of them that are connected only through a relay.
    pub(crate) relayed: Vec<PeerId>,
    /// Peers in the routing table.
    pub(crate) known: Vec<PeerAddresses>,
    /// Peers in each bucket of the routing table that is not empty, the farthest bucket last.
    pub(crate) bucket_sizes: Vec<usize>,
}

/// A peer came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerEvent {
    /// A first connection to it is up, or it entered the routing table.
    Came(PeerId),
    /// Its last connection is gone.
    Went(PeerId),
}

pub(super) enum Command {
    Listen(Multiaddr, oneshot::Sender<Result<Multiaddr>>),
    Dial(Multiaddr),
    Connect(PeerAddresses, oneshot::Sender<Result<()>>),
    Disconnect(PeerId),
    Closest(Vec<u8>, oneshot::Sender<Closest>),
    PutRecord(kad::Record, Vec<PeerId>, oneshot::Sender<(bool, Vec<PeerId>)>),
    GetRecord(kad::RecordKey, usize, oneshot::Sender<FoundRecords>),
    View(oneshot::Sender<NetworkView>),
    Close(oneshot::Sender<()>),
}

/// Asks the swarm. Cheap to clone; the swarm ends with the last handle.
#[derive(Clone)]
pub(crate) struct Handle {
    own: PeerId,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<PeerEvent>,
    streams: libp2p_stream::Control,
    counts: Arc<Counts>,
}

/// What the swarm has done so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Connections that were not let in.
    pub(super) refused_connections: AtomicU64,
    /// Connections between others that were passed on.
    pub(super) passed_on: AtomicU64,
    /// Lookups that have asked somebody.
    pub(super) lookups: AtomicU64,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("own", &self.own).finish_non_exhaustive()
    }
}

/// What is told to whoever asks a swarm that has ended.
fn ended() -> Error {
    Error::Network { what: "the node", why: "it is shutting down; start it again".to_owned() }
}

impl Handle {
    /// Of the swarm of peer `own`, which works through the commands that are the second half, and tells of peers by what the third sends to.
    pub(super) fn new(
        own: PeerId,
        streams: libp2p_stream::Control,
    ) -> (Handle, mpsc::Receiver<Command>, broadcast::Sender<PeerEvent>) {
        let (commands, receiver) = mpsc::channel(64);
        let (events, _) = broadcast::channel(256);
        (Handle { own, commands, events: events.clone(), streams, counts: Arc::default() }, receiver, events)
    }

    pub(crate) fn own(&self) -> PeerId {
        self.own
    }

    pub(crate) fn streams(&self) -> libp2p_stream::Control {
        self.streams.clone()
    }

    /// What happens to peers from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.events.subscribe()
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Lookups so far, for keys and records, that have asked somebody.
    pub(crate) fn lookups(&self) -> u64 {
        self.counts.lookups.load(Ordering::Relaxed)
    }

    /// Connections of peers that were not let in so far.
    pub(crate) fn refused_connections(&self) -> u64 {
        self.counts.refused_connections.load(Ordering::Relaxed)
    }

    /// Connections between others that were passed on so far.
    pub(crate) fn passed_on(&self) -> u64 {
        self.counts.passed_on.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())
    }

    /// Listens on `address`; answers with the first real address of it.
    pub(crate) async fn listen(&self, address: Multiaddr) -> Result<Multiaddr> {
        self.ask(|answer| Command::Listen(address, answer)).await?
    }

    /// Tries to connect to whoever answers at `address`.
    pub(crate) async fn dial(&self, address: Multiaddr) -> Result<()> {
        self.commands.send(Command::Dial(address)).await.map_err(|_| ended())
    }

    /// Connects to a peer, unless there is a connection.
    pub(crate) async fn connect(&self, peer: PeerAddresses) -> Result<()> {
        self.ask(|answer| Command::Connect(peer, answer)).await?
    }

    pub(crate) async fn disconnect(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Disconnect(peer)).await;
    }

    /// The peers closest to `key`.
    pub(crate) async fn closest(&self, key: Vec<u8>) -> Result<Closest> {
        self.ask(|answer| Command::Closest(key, answer)).await
    }

    /// Stores a record here and on `peers`; answers whether it was taken here, and which of them took it.
    pub(crate) async fn put_record(&self, record: kad::Record, peers: Vec<PeerId>) -> Result<(bool, Vec<PeerId>)> {
        self.ask(|answer| Command::PutRecord(record, peers, answer)).await
    }

    /// The records under `key`, from `enough` peers if so many have one.
    pub(crate) async fn get_record(&self, key: kad::RecordKey, enough: usize) -> Result<FoundRecords> {
        self.ask(|answer| Command::GetRecord(key, enough, answer)).await
    }

    pub(crate) async fn view(&self) -> Result<NetworkView> {
        self.ask(Command::View).await
    }

    /// Ends the swarm, and tells all who are connected.
    pub(crate) async fn close(&self) -> Result<()> {
        self.ask(Command::Close).await
    }
}

/// What a search for the records under a key came to.
#[derive(Debug, Default)]
pub(crate) struct FoundRecords {
    pub(crate) records: Vec<Vec<u8>>,
    /// Whether all that were asked have answered, and with what may be a record.
    pub(crate) complete: bool,
    /// Somebody has answered with what is none.
    pub(crate) refused: bool,
}
