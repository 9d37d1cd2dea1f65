//! Placing chunks: each goes to the peers that its group belongs to, and counts as kept when a majority of them has acknowledged it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use libp2p::PeerId;

use crate::chunk::{ChunkSource, Intake as _, LeaseTerms};
use crate::error::Result;
use crate::hash::Hash;
use crate::monitor::Monitor;
use crate::net::handle::PeerAddresses;
use crate::net::placement::Group;
use crate::net::push::{Homed, Pushed, push};
use crate::node::intake::StoreIntake;
use crate::node::online::node::NodeInner;
use crate::node::online::publish::Errand;
use crate::node::online::tasks::blocking;

/// Peers that are put to at the same time.
const PEERS_AT_ONCE: usize = 8;

/// What a placement came to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Placed {
    /// All different chunks.
    pub(crate) chunks: usize,
    /// Chunks that fewer peers keep than must.
    pub(crate) short: usize,
    /// Chunks that fewer peers keep than should.
    pub(crate) incomplete: usize,
    /// The fewest peers that keep one of the chunks.
    pub(crate) fewest: usize,
    /// Peers that were found to hold chunks, this one included.
    pub(crate) peers: usize,
    /// Encoded bytes of the chunks that were sent.
    pub(crate) sent_bytes: u64,
    /// The other peers that keep chunks now.
    pub(crate) keepers: BTreeSet<PeerId>,
}

impl NodeInner {
    /// Places `chunks` under a lease of `terms` on their holders, and commits `intake`, which may have taken some of them. Peers that fail
    /// are replaced by the next in rank. Once a majority keeps each chunk, those that are late are waited for as long again as that took,
    /// and for the errand's grace at least.
    pub(super) async fn place(
        &self,
        chunks: &[Homed],
        terms: LeaseTerms,
        intake: &Arc<StoreIntake>,
        errand: Errand<'_>,
    ) -> Result<Placed> {
        let started = Instant::now();
        let mut unique = HashSet::new();
        let chunks: Vec<Homed> = chunks.iter().filter(|(hash, _)| unique.insert(*hash)).copied().collect();
        let groups: BTreeSet<Group> = chunks.iter().map(|(_, home)| Group::of(*home)).collect();
        let holders = self.resolver.holders(&groups).await?;
        let peers: HashSet<_> = holders.values().flatten().map(|peer| peer.peer).collect();
        let mut placed = Placed { chunks: chunks.len(), peers: peers.len(), ..Placed::default() };
        let mut keepers: HashMap<Hash, usize> = chunks.iter().map(|(hash, _)| (*hash, 0)).collect();
        let replicas = self.config.replication_factor;
        let (mut until, mut late) = (None, false);
        let ranks = holders.values().map(Vec::len).max().unwrap_or(0);
        // The first R in rank together; then, only for what they left undone, the others one after another.
        let first = 0..replicas.min(ranks);
        for ranks in std::iter::once(first).chain((replicas..ranks).map(|rank| rank..rank + 1)) {
            let mut by_peer: HashMap<_, (PeerAddresses, Vec<Homed>)> = HashMap::new();
            if ranks.start == 0 {
                // Whether or not a chunk belongs here: what the intake has taken is committed along with the rest.
                let here = PeerAddresses { peer: self.handle.own(), addresses: Vec::new() };
                by_peer.insert(here.peer, (here, Vec::new()));
            }
            for chunk in &chunks {
                if keepers.get(&chunk.0).is_some_and(|keepers| *keepers >= replicas) {
                    continue;
                }
                let there = holders.get(&Group::of(chunk.1)).map(Vec::as_slice).unwrap_or_default();
                for peer in there.get(ranks.clone()).or_else(|| there.get(ranks.start..)).unwrap_or_default() {
                    by_peer.entry(peer.peer).or_insert_with(|| (peer.clone(), Vec::new())).1.push(*chunk);
                }
            }
            if by_peer.is_empty() {
                break;
            }
            let pushes =
                by_peer.into_values().map(|(peer, chunks)| self.to_peer(peer, chunks, terms, intake, errand.monitor));
            let mut pushes = futures::stream::iter(pushes).buffer_unordered(PEERS_AT_ONCE);
            let mut here = ranks.start > 0;
            loop {
                let enough = here && keepers.values().all(|keepers| *keepers >= self.config.quorum());
                if enough && until.is_none() {
                    let grace = errand.grace.max(started.elapsed());
                    until = Some(tokio::time::Instant::now() + grace);
                }
                let next = match until {
                    None => Ok(pushes.next().await),
                    Some(until) => tokio::time::timeout_at(until, pushes.next()).await,
                };
                let Ok(next) = next else {
                    late = true;
                    break;
                };
                let Some((peer, pushed)) = next else { break };
                here |= peer.peer == self.handle.own();
                let id = peer.peer;
                let pushed = self.judge(peer, pushed?, errand.monitor);
                placed.sent_bytes += pushed.sent_bytes;
                if !pushed.kept.is_empty() && id != self.handle.own() {
                    placed.keepers.insert(id);
                }
                for hash in pushed.kept {
                    if let Some(keepers) = keepers.get_mut(&hash) {
                        *keepers += 1;
                    }
                }
            }
            errand.monitor.check()?;
            if late {
                break;
            }
        }
        placed.fewest = keepers.values().copied().min().unwrap_or(replicas);
        placed.short = keepers.values().filter(|keepers| **keepers < self.config.quorum()).count();
        let wanted = |home: &[u8; 4]| holders.get(&Group::of(*home)).map_or(0, Vec::len).min(replicas);
        let kept = |hash: &Hash| keepers.get(hash).copied().unwrap_or(0);
        placed.incomplete = chunks.iter().filter(|(hash, home)| kept(hash) < wanted(home).max(1)).count();
        Ok(placed)
    }

    /// Puts chunks on one peer, which may be this one: they are here, and `intake` holds them.
    async fn to_peer(
        &self,
        peer: PeerAddresses,
        chunks: Vec<Homed>,
        terms: LeaseTerms,
        intake: &Arc<StoreIntake>,
        monitor: &Monitor,
    ) -> (PeerAddresses, Result<Pushed>) {
        if peer.peer != self.handle.own() {
            let source: Arc<dyn ChunkSource> = Arc::new(self.store.clone());
            let pushed = push(&self.links, &peer, source, &chunks, terms, monitor).await;
            return (peer, Ok(pushed));
        }
        let intake = Arc::clone(intake);
        let kept = blocking(move || {
            let mut kept = Vec::new();
            for (hash, home) in chunks {
                if intake.hold(&hash, home)? {
                    kept.push(hash);
                }
            }
            intake.commit()?;
            Ok(Pushed { kept, ..Pushed::default() })
        });
        (peer, kept.await)
    }

    /// A peer that failed is not counted on for now.
    fn judge(&self, peer: PeerAddresses, pushed: Pushed, monitor: &Monitor) -> Pushed {
        if let Some(error) = &pushed.failed {
            if pushed.full {
                // What can be mended, by whoever runs it, should be known.
                monitor.warn(&format!(
                    "peer {} has no room for more, or allows this node no more; others are asked in its place",
                    peer.peer
                ));
            }
            tracing::info!("{} keeps only some of its chunks: {error}", peer.peer);
            self.resolver.went(&peer.peer);
        }
        pushed
    }
}
