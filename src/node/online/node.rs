//! [`Node`]: a running store in the network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Swarm, relay, swarm};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::identity::{Identity, ScopeKey};
use crate::net::behaviour::{Behaviour, IDLE, protocol};
use crate::net::config::NetConfig;
use crate::net::event_loop::EventLoop;
use crate::net::framed::{Budget, Throttle};
use crate::net::handle::{Handle, PeerEvent};
use crate::net::kad_records::{self, KadRecords, Own};
use crate::net::link::Links;
use crate::net::resolver::Resolver;
use crate::net::serve::{Served, Server, Share, peer_key};
use crate::net::tables::NetTables;
use crate::net::transport::{self, Transport};
use crate::node::online::keeper::StoreKeeper;
use crate::node::online::publish::PlacedAt;
use crate::node::online::tasks::unfinished;
use crate::node::report::Timestamp;
use crate::node::store::Store;

/// How long the tasks of a node get to end.
const GRACE: Duration = Duration::from_secs(5);

/// Threads that talk to peers: half of the processors, since what peers send is verified and stored by others. On two processors a second
/// one only takes turns with the first.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get() / 2).clamp(1, 4)
}

/// Makes the transport of a node from its key.
type MakeTransport = Box<dyn FnOnce(&Keypair) -> Result<Transport> + Send>;

/// How a [`Node`] is started.
pub struct NodeOptions {
    config: NetConfig,
    transport: MakeTransport,
}

impl NodeOptions {
    /// A node with these settings, over TCP and QUIC.
    pub fn new(config: NetConfig) -> NodeOptions {
        NodeOptions { config, transport: Box::new(transport::tcp_and_quic) }
    }

    /// Uses the transport that `make` makes from the node's key: any that libp2p can box.
    #[must_use]
    pub fn transport(mut self, make: impl FnOnce(&Keypair) -> Result<Transport> + Send + 'static) -> NodeOptions {
        self.transport = Box::new(make);
        self
    }
}

/// A store in the network. Cheap to clone; the node stops with its last clone, or with [`shutdown`](Node::shutdown).
///
/// Its methods block, as those of [`Store`] do: call them from a thread that may, not from an async task.
///
/// Two nodes that talk through this process's memory; over TCP and QUIC, leave [`NodeOptions::transport`] out and listen there:
///
/// ```
/// use caskad::net::{config::NetConfig, transport};
/// use caskad::{GetOptions, Monitor, Node, NodeOptions, Payload, PutOptions, Store};
///
/// # let dir = tempfile::tempdir()?;
/// let mut config = NetConfig::default();
/// (config.mdns, config.replication_factor) = (false, 2);
/// config.listen = vec!["/memory/4700".parse()?];
/// let alice = Node::start(Store::open(dir.path().join("alice"))?, NodeOptions::new(config.clone()).transport(transport::memory))?;
///
/// config.join = std::mem::replace(&mut config.listen, vec!["/memory/4701".parse()?]);
/// let bob = Node::start(Store::open(dir.path().join("bob"))?, NodeOptions::new(config).transport(transport::memory))?;
/// while alice.health()?.connected_peers == 0 {
///     std::thread::sleep(std::time::Duration::from_millis(20));
/// }
/// assert_eq!(alice.find_closest(b"any key")?, [bob.peer_id()]);
///
/// let none = Monitor::none();
/// let put = alice.put(&"models/a".parse()?, Payload::bytes("a.bin", &[7; 100_000]), &PutOptions::default(), &none)?;
/// assert_eq!(put.network.map(|network| network.replicas), Some(2));
///
/// let theirs = format!("@{}/models/a", alice.scope()).parse()?;
/// bob.get(&theirs, dir.path().join("a.bin"), &GetOptions::default(), &none)?;
/// assert_eq!(std::fs::read(dir.path().join("a.bin"))?, [7; 100_000]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Node {
    pub(super) inner: Arc<NodeInner>,
    runtime: Arc<NodeRuntime>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("peer", &self.inner.handle.own()).finish_non_exhaustive()
    }
}

/// The threads of a node. Ended in the background, since the last handle may go anywhere.
struct NodeRuntime(Option<Runtime>);

impl Drop for NodeRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What came of comparing what is here with its other holders.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) at: Instant,
    /// Chunks that were found on too few peers.
    pub(super) under_replicated: u64,
}

pub(super) struct NodeInner {
    pub(super) store: Store,
    pub(super) config: NetConfig,
    pub(super) identity: Identity,
    /// This node's own public key as a peer: the owner of its leases.
    pub(super) owner: [u8; 32],
    pub(super) handle: Handle,
    pub(super) links: Arc<Links>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) tables: NetTables,
    pub(super) served: Arc<Served>,
    pub(super) refused_records: Arc<AtomicU64>,
    /// The keys of records that come to this node.
    pub(super) arrivals: tokio::sync::broadcast::Sender<Hash>,
    pub(super) started: Instant,
    /// One publication of a name at a time: the number of its record is given out meanwhile.
    pub(super) publishing: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// When each version was last known to be where it belongs, by manifest.
    pub(super) placed: Mutex<HashMap<Hash, PlacedAt>>,
    /// Which peers keep chunks of a version, by manifest, under the lease of this node, as far as it was placed since the start.
    pub(super) kept_by: Mutex<HashMap<Hash, BTreeSet<PeerId>>>,
    /// There is garbage since it was last collected: peers have ended leases, say.
    pub(super) ended: Arc<AtomicBool>,
    /// Keys that are not in the network as they are here, as far as the last look and what came since tell; with the last failure to publish
    /// them.
    pub(super) unpublished: Mutex<BTreeMap<String, Option<String>>>,
    /// Names under which the last record had nothing of other machines that share the scope.
    pub(super) alone: Mutex<HashSet<String>>,
    /// The last comparison with the other holders.
    pub(super) compared: Mutex<Option<Compared>>,
    /// Wakes the upkeep before its time.
    pub(super) upkeep: Notify,
}

impl Node {
    /// Starts a node on `store`. Returns when it listens; peers are found in the background.
    pub fn start(store: Store, options: NodeOptions) -> Result<Node> {
        let config = options.config;
        config.validate()?;
        let directory = store.path().map(std::path::Path::to_owned);
        let directory = directory.ok_or_else(|| Error::Input {
            path: "the store".into(),
            why: "a node needs a store in a directory, to keep its key and its leases".to_owned(),
        })?;
        if let Some(why) = store.config_damage() {
            // Its settings say who may connect.
            return Err(Error::Input { path: directory.join("config.toml"), why: why.to_owned() });
        }
        store.leases()?;
        let identity = store.identity()?;
        let key = peer_keypair(&store.peer_identity()?)?;
        let tables = NetTables::open(Some(&directory.join("network.redb")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads())
            .thread_name("caskad-net")
            .enable_all()
            .build()
            .map_err(|error| Error::io("start the threads of", "the node", error))?;
        let started = runtime.block_on(async { start(store, config, identity, key, tables, options.transport).await });
        let inner = started.inspect_err(|_| tracing::debug!("the node did not start"))?;
        runtime.spawn(super::upkeep::run(Arc::downgrade(&inner)));
        runtime.spawn(super::compare::run(Arc::downgrade(&inner)));
        Ok(Node { inner, runtime: Arc::new(NodeRuntime(Some(runtime))) })
    }

    /// The node's store. What is put there directly is published by the next upkeep.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The node's settings.
    pub fn config(&self) -> &NetConfig {
        &self.inner.config
    }

    /// The scope that this node publishes under.
    pub fn scope(&self) -> ScopeKey {
        self.inner.identity.scope()
    }

    /// The node's id as a peer.
    pub fn peer_id(&self) -> PeerId {
        self.inner.handle.own()
    }

    /// Waits until `work` is done. For threads that may block.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.runtime.0 {
            Some(runtime) => runtime.block_on(work),
            None => Err(Error::Network { what: "the node", why: "it is shutting down; start it again".to_owned() }),
        }
    }

    /// Has the node's threads do `work`, and waits until it is done. Where peers answer, and not on the caller's thread, which each answer
    /// would have to wake.
    pub(super) fn run<T: Send + 'static, F>(&self, work: impl FnOnce(Arc<NodeInner>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.inner));
        self.block_on(async {
            match tokio::spawn(work).await {
                Ok(outcome) => outcome,
                // The caller's, as if it had done the work itself.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => Err(unfinished(error)),
            }
        })
    }

    /// Has the upkeep look at once what there is to publish.
    pub fn wake(&self) {
        self.inner.upkeep.notify_one();
    }

    /// Connects to whoever answers at `address`.
    pub fn join(&self, address: Multiaddr) -> Result<()> {
        self.block_on(self.inner.handle.dial(address))
    }

    /// Notes which peers are there, for the next start, takes its leave of them, and stops.
    pub fn shutdown(self) -> Result<()> {
        let noted = self.block_on(self.inner.note_peers());
        let _ = self.block_on(self.inner.handle.close());
        if let Some(mut runtime) = Arc::into_inner(self.runtime)
            && let Some(runtime) = runtime.0.take()
        {
            runtime.shutdown_timeout(GRACE);
        }
        noted
    }
}

impl NodeInner {
    pub(super) fn now() -> u64 {
        Timestamp::now().0
    }

    /// When a lease that is granted or renewed now ends.
    pub(super) fn lease_end(&self) -> u64 {
        Self::now().saturating_add(u64::try_from(self.config.ttl.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) async fn note_peers(&self) -> Result<()> {
        let view = self.handle.view().await?;
        let with_id = |peer: &crate::net::handle::PeerAddresses| {
            let id = peer.peer;
            peer.addresses
                .iter()
                .map(move |address| match address.iter().last() {
                    Some(Protocol::P2p(_)) => address.clone(),
                    _ => address.clone().with(Protocol::P2p(id)),
                })
                .collect::<Vec<_>>()
        };
        let peers: Vec<Multiaddr> = view.known.iter().take(64).flat_map(with_id).collect();
        if peers.is_empty() { Ok(()) } else { self.tables.set_peers(&peers) }
    }
}

impl Store {
    /// The id that this store's node has as a peer, made with the first call: what the nodes that allow it are told.
    pub fn peer_id(&self) -> Result<PeerId> {
        Ok(PeerId::from(peer_keypair(&self.peer_identity()?)?.public()))
    }
}

/// The key pair of libp2p from a key file of ours.
fn peer_keypair(identity: &Identity) -> Result<Keypair> {
    Keypair::ed25519_from_bytes(identity.secret())
        .map_err(|error| Error::Network { what: "the node's key", why: error.to_string() })
}

async fn start(
    store: Store,
    config: NetConfig,
    identity: Identity,
    key: Keypair,
    tables: NetTables,
    make_transport: MakeTransport,
) -> Result<Arc<NodeInner>> {
    let own = PeerId::from(key.public());
    let owner = peer_key(&own).ok_or_else(|| Error::Network {
        what: "the node's key",
        why: "it is no ed25519 key; delete peer.key to get a new one".to_owned(),
    })?;
    for address in &config.announce {
        if matches!(address.iter().last(), Some(Protocol::P2p(peer)) if peer != own) {
            let why = format!("{address} ends in the id of another peer; this one is {own}");
            return Err(Error::Network { what: "announcing", why });
        }
    }
    let refused_records = Arc::<AtomicU64>::default();
    let arrivals = kad_records::arrivals();
    let this = Own::new(&own, identity.scope());
    let records =
        KadRecords::open(tables.clone(), this, NodeInner::now, Arc::clone(&refused_records), arrivals.clone())?;
    let (relays, relay_client) = relay::client::new(own);
    let behaviour = Behaviour::new(&key, records, relay_client, &config)?;
    let swarm_config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
    let transport = transport::through_relays(relays, make_transport(&key)?, &key)?;
    let swarm = Swarm::new(transport, behaviour, own, swarm_config);
    let remembered = tables.peers()?;
    let (handle, event_loop) = EventLoop::new(swarm, &config, config.join.iter().cloned().chain(remembered).collect());
    tokio::spawn(event_loop.run());
    for address in &config.listen {
        transport::check_free(address)?;
        handle.listen(address.clone()).await?;
    }
    for address in &config.join {
        handle.dial(address.clone()).await?;
    }
    let (upload, download) =
        (Throttle::new(config.upload_bytes_per_second), Throttle::new(config.download_bytes_per_second));
    let (upload, download) = (Arc::new(upload), Arc::new(download));
    let exchange = protocol("chunk", &config.network_id);
    let budget = || Budget::new(config.buffer_bytes / 3);
    let links = Links::new(handle.clone(), exchange.clone(), budget(), Arc::clone(&upload), Arc::clone(&download));
    let resolver = Arc::new(Resolver::new(handle.clone(), &config.network_id));
    let (served, ended) = (Arc::<Served>::default(), Arc::<AtomicBool>::default());
    let server = Arc::new(Server {
        keeper: Arc::new(StoreKeeper::new(store.clone(), &config, Arc::clone(&resolver), Arc::clone(&ended))),
        incoming: budget(),
        outgoing: budget(),
        upload,
        download,
        served: Arc::clone(&served),
        idle: IDLE,
    });
    accept(&handle, exchange, server)?;
    let inner = Arc::new(NodeInner {
        store,
        config,
        identity,
        owner,
        handle,
        links: Arc::new(links),
        resolver,
        tables,
        served,
        refused_records,
        arrivals,
        started: Instant::now(),
        publishing: Mutex::default(),
        placed: Mutex::default(),
        kept_by: Mutex::default(),
        ended,
        unpublished: Mutex::default(),
        alone: Mutex::default(),
        compared: Mutex::default(),
        upkeep: Notify::new(),
    });
    tokio::spawn(watch(Arc::downgrade(&inner), inner.handle.events()));
    let resolver = Arc::clone(&inner.resolver);
    tokio::spawn(async move { resolver.look_into_doubts().await });
    Ok(inner)
}

/// Serves the streams that peers open, so many of each peer at once.
fn accept(handle: &Handle, exchange: libp2p::StreamProtocol, server: Arc<Server>) -> Result<()> {
    let incoming = handle.streams().accept(exchange);
    let mut incoming = incoming.map_err(|error| Error::Network { what: "the exchange", why: error.to_string() })?;
    tokio::spawn(async move {
        let open = Arc::new(Mutex::new(HashMap::<PeerId, (usize, Arc<Share>)>::new()));
        while let Some((peer, stream)) = incoming.next().await {
            let (count, share) = {
                let mut open = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (count, share) = open.entry(peer).or_insert_with(|| (0, Arc::new(server.share())));
                *count += 1;
                (*count, Arc::clone(share))
            };
            let (server, open) = (Arc::clone(&server), Arc::clone(&open));
            tokio::spawn(async move {
                if count <= crate::limits::STREAMS_PER_PEER {
                    server.serve(peer, share, stream).await;
                }
                let mut open = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some((count, _)) = open.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        open.remove(&peer);
                    }
                }
            });
        }
    });
    Ok(())
}

/// Keeps what is known of regions true as peers come and go.
async fn watch(node: std::sync::Weak<NodeInner>, mut events: tokio::sync::broadcast::Receiver<PeerEvent>) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        let event = events.recv().await;
        let Some(node) = node.upgrade() else { return };
        match event {
            Ok(PeerEvent::Came(peer)) => {
                node.resolver.came(&peer);
                node.upkeep.notify_one();
            }
            Ok(PeerEvent::Went(_)) => {}
            Err(RecvError::Lagged(_)) => node.resolver.clear(),
            Err(RecvError::Closed) => return,
        }
    }
}
