//! A handful of nodes in one process.

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use caskad::net::config::NetConfig;
use caskad::net::transport;
use caskad::{Monitor, Node, NodeOptions, Payload, Progress, PutOptions, PutReport, Store, StoreOptions, VersionRef};

/// Addresses of the memory transport are ports of this process; nextest and cargo test run these tests in one or several.
static NEXT_PORT: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Swarm {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
    ports: Vec<u64>,
    config: NetConfig,
}

/// Settings for tests: everything that takes hours takes seconds.
pub(crate) fn quick() -> NetConfig {
    let mut config = NetConfig::default();
    config.mdns = false;
    config.listen = Vec::new();
    config.ttl = Duration::from_secs(60);
    config.refresh_interval = Duration::from_secs(2);
    config.departure = Duration::from_secs(1);
    config
}

impl Swarm {
    /// `count` nodes that all know each other.
    pub(crate) fn start(count: usize, config: NetConfig) -> Swarm {
        let dir = tempfile::tempdir().unwrap();
        let mut swarm = Swarm { dir, nodes: Vec::new(), ports: Vec::new(), config };
        for _ in 0..count {
            swarm.add();
        }
        swarm.settle();
        swarm
    }

    /// One node more, joined through the first.
    pub(crate) fn add(&mut self) -> Node {
        let index = self.ports.len();
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        self.ports.push(port);
        let node = self.launch(index, self.config.clone());
        self.nodes.push(node.clone());
        node
    }

    /// A node with settings of its own.
    pub(crate) fn add_with(&mut self, config: NetConfig) -> Node {
        let index = self.ports.len();
        self.ports.push(NEXT_PORT.fetch_add(1, Ordering::Relaxed));
        let node = self.launch(index, config);
        self.nodes.push(node.clone());
        node
    }

    /// One node more, which publishes in the scope of node `index`.
    pub(crate) fn add_sharing(&mut self, index: usize) -> Node {
        let directory = self.store(self.ports.len());
        drop(Store::open(&directory).unwrap());
        std::fs::copy(self.store(index).join("identity.key"), directory.join("identity.key")).unwrap();
        let node = self.add();
        self.settle();
        node
    }

    /// Starts node `index` on its directory.
    pub(crate) fn launch(&self, index: usize, mut config: NetConfig) -> Node {
        let listen = format!("/memory/{}", self.ports[index]);
        config.listen.push(listen.parse().unwrap());
        if index > 0 {
            config.join.push(format!("/memory/{}", self.ports[0]).parse().unwrap());
        }
        let threads = NonZeroUsize::new(2).unwrap();
        let store: Store = StoreOptions::new().threads(threads).open(self.store(index)).unwrap();
        Node::start(store, NodeOptions::new(config).transport(transport::memory)).unwrap()
    }

    /// Where node `index` listens.
    pub(crate) fn address(&self, index: usize) -> libp2p::Multiaddr {
        format!("/memory/{}", self.ports[index]).parse().unwrap()
    }

    /// An address that nobody listens at.
    pub(crate) fn free_address(&self) -> libp2p::Multiaddr {
        format!("/memory/{}", NEXT_PORT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
    }

    pub(crate) fn store(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("node-{index}"))
    }

    /// Puts `bytes` on node `index`, as the next version of `key`.
    #[track_caller]
    pub(crate) fn put(&self, index: usize, key: &str, bytes: Vec<u8>) -> PutReport {
        let name = key.parse().unwrap();
        self.nodes[index].put(&name, payload(bytes), &PutOptions::default(), &Monitor::none()).unwrap()
    }

    /// The name by which others get the newest version of `key` of node `index`.
    pub(crate) fn name(&self, index: usize, key: &str) -> VersionRef {
        format!("@{}/{key}", self.nodes[index].scope()).parse().unwrap()
    }

    /// Waits until every node knows every other.
    pub(crate) fn settle(&self) {
        let most = self.nodes.len().saturating_sub(1);
        for node in &self.nodes {
            eventually("a node knows its peers", || {
                // Where it has an address of theirs, they have told who they are.
                node.peers().unwrap().iter().filter(|peer| !peer.addresses.is_empty()).count() >= most.min(20)
            });
        }
    }
}

/// What an operation warns of.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Warnings {
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

/// Alters the bytes of a file at `places`, where they lie: the node that has it open may be appending to it.
pub(crate) fn damage(file: &Path, places: impl IntoIterator<Item = usize>) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    for at in places {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
    }
}

/// Waits until `holds`, for a bounded time.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that no encoding shortens, the same for the same seed.
pub(crate) fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn payload(bytes: Vec<u8>) -> Payload<'static> {
    Payload::reader("payload.bin", std::io::Cursor::new(bytes))
}

pub(crate) fn restored(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
