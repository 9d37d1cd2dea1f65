//! How the node is, and who its peers are: what `health` and `peers` tell.

use std::sync::atomic::Ordering;

use libp2p::PeerId;
use serde::Serialize;

use crate::error::Result;
use crate::net::handle::PeerAddresses;
use crate::net::placement::Position;
use crate::net::region::ANSWERS;
use crate::node::online::node::{Node, NodeInner};
use crate::node::online::publish::lock;
use crate::node::report::StatReport;

/// How a node is.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Its id as a peer.
    pub peer_id: String,
    /// Its place on the ring of the keyspace, from 0 to 1.
    pub place: f64,
    /// The scope that it publishes under.
    pub scope: crate::ScopeKey,
    /// The network that it is in.
    pub network_id: String,
    /// Addresses that it listens on.
    pub listen: Vec<String>,
    /// Peers with a connection.
    pub connected_peers: usize,
    /// Those of them that are connected only through a relay.
    pub relayed_peers: usize,
    /// Peers in the routing table.
    pub known_peers: usize,
    /// Peers in each bucket of the routing table that is not empty.
    pub bucket_sizes: Vec<usize>,
    /// Keys of this store.
    pub stored_keys: u64,
    /// Chunks of this store, those kept for others included.
    pub stored_chunks: u64,
    /// Their bytes on disk.
    pub stored_bytes: u64,
    /// Leases of others on chunks that are kept here.
    pub leases: usize,
    /// Keys of this store that are not in the network as they are here, or on too few peers; the node goes on trying.
    pub unpublished: u64,
    /// Why one of them is not: that nobody is connected, or the last failure to publish it.
    pub unpublished_why: Option<String>,
    /// Chunks that the last comparison found on fewer peers than `replication_factor`, also where there are no more; `None` before the first.
    pub under_replicated: Option<u64>,
    /// When the placement groups held here were last compared with their other holders.
    pub compared_seconds_ago: Option<f64>,
    /// Records that were refused.
    pub refused_records: u64,
    /// Chunks that peers put here and that did not match their hash.
    pub wrong_chunks: u64,
    /// Requests of peers that were refused.
    pub refused_requests: u64,
    /// Connections of peers that were not let in: they are not on the list of those that may connect, or there were too many.
    pub refused_connections: u64,
    /// Streams of peers that ended in an error.
    pub broken_streams: u64,
    /// Connections between other peers that this node has passed on as a relay.
    pub passed_on: u64,
    /// Lookups in the routing tables of others.
    pub lookups: u64,
    /// Bytes sent to peers.
    pub sent_bytes: u64,
    /// How many of those they had asked for.
    pub served_bytes: u64,
    /// Bytes received from peers.
    pub received_bytes: u64,
    /// How many of those this node had asked for.
    pub fetched_bytes: u64,
    /// How long the node runs.
    pub uptime_seconds: f64,
}

/// A peer that the node knows.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PeerSummary {
    /// Its id.
    pub peer_id: String,
    /// Its place on the ring of the keyspace, from 0 to 1.
    pub place: f64,
    /// Where it says that it listens.
    pub addresses: Vec<String>,
    /// True while there is a connection.
    pub connected: bool,
    /// True if that is only through a relay.
    pub relayed: bool,
    /// True if it sent wrong chunks and is not asked for now.
    pub banned: bool,
}

impl Node {
    /// How the node is.
    pub fn health(&self) -> Result<Health> {
        self.health_with(&self.inner.store.stat()?)
    }

    /// How the node is, its store having these totals: they take a walk over the index, which who has them need not repeat.
    pub(crate) fn health_with(&self, stat: &StatReport) -> Result<Health> {
        let view = self.block_on(self.inner.handle.view())?;
        let leases = self.inner.store.leases()?.all();
        let (links, served) = (&self.inner.links, &self.inner.served);
        let unpublished = lock(&self.inner.unpublished).clone();
        let unpublished_why = match view.connected.is_empty() && !unpublished.is_empty() {
            true => Some("nobody is connected".to_owned()),
            false => unpublished.iter().find_map(|(key, why)| Some(format!("{key}: {}", why.as_ref()?))),
        };
        let compared = *lock(&self.inner.compared);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Health {
            peer_id: self.peer_id().to_string(),
            place: place(&self.peer_id()),
            scope: self.scope(),
            network_id: self.inner.config.network_id.clone(),
            listen: view.listening.iter().map(ToString::to_string).collect(),
            connected_peers: view.connected.len(),
            relayed_peers: view.relayed.len(),
            known_peers: view.known.len(),
            bucket_sizes: view.bucket_sizes,
            stored_keys: stat.keys,
            stored_chunks: stat.chunks,
            stored_bytes: stat.stored_bytes,
            leases: leases.iter().filter(|lease| lease.terms.owner != self.inner.owner).count(),
            unpublished: unpublished.len() as u64,
            unpublished_why,
            under_replicated: compared.map(|compared| compared.under_replicated),
            compared_seconds_ago: compared.map(|compared| compared.at.elapsed().as_secs_f64()),
            refused_records: count(&self.inner.refused_records),
            wrong_chunks: count(&served.wrong_chunks),
            refused_requests: count(&served.refused_requests),
            refused_connections: self.inner.handle.refused_connections(),
            broken_streams: count(&served.broken_streams),
            passed_on: self.inner.handle.passed_on(),
            lookups: self.inner.handle.lookups(),
            served_bytes: count(&served.sent_bytes),
            fetched_bytes: count(&links.received_bytes),
            sent_bytes: count(&served.sent_bytes) + count(&links.sent_bytes),
            received_bytes: count(&served.received_bytes) + count(&links.received_bytes),
            uptime_seconds: self.inner.started.elapsed().as_secs_f64(),
        })
    }

    /// The peers that the node is connected to or knows, by id.
    pub fn peers(&self) -> Result<Vec<PeerSummary>> {
        let view = self.block_on(self.inner.handle.view())?;
        let banned = self.inner.links.banned();
        let connected: Vec<PeerId> = view.connected.iter().map(|peer| peer.peer).collect();
        let known = view.known.into_iter().chain(view.connected);
        let mut peers: Vec<PeerAddresses> = known.collect();
        peers.sort_by_key(|peer| (peer.peer, std::cmp::Reverse(peer.addresses.len())));
        peers.dedup_by_key(|peer| peer.peer);
        let summary = |peer: PeerAddresses| PeerSummary {
            peer_id: peer.peer.to_string(),
            place: place(&peer.peer),
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            connected: connected.contains(&peer.peer),
            relayed: view.relayed.contains(&peer.peer),
            banned: banned.contains(&peer.peer),
        };
        Ok(peers.into_iter().map(summary).collect())
    }

    /// The 20 peers closest to `key` by XOR of their places in the keyspace, the closest first, found by a lookup. Fewer are the whole network
    /// as far as it answers.
    pub fn find_closest(&self, key: &[u8]) -> Result<Vec<PeerId>> {
        let found = self.block_on(self.inner.handle.closest(key.to_vec()))?;
        // A lookup follows disjoint paths. Where one of them missed a peer, they end with a few more between them.
        Ok(found.peers.into_iter().map(|peer| peer.peer).take(ANSWERS).collect())
    }
}

/// Where on the ring of the keyspace a peer is.
fn place(peer: &PeerId) -> f64 {
    let Position(place) = Position::of(&peer.to_bytes());
    let first = place.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first));
    // Of the 64 bits, as many as an f64 holds: rounded, the last places would come out as 1.
    (first >> 11) as f64 / (1_u64 << 53) as f64
}

impl NodeInner {
    /// Peers with a connection.
    pub(super) async fn connected(&self) -> Result<usize> {
        Ok(self.handle.view().await?.connected.len())
    }
}
