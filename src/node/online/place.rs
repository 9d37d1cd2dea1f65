//! Placing chunks: each goes to the peers that its group belongs to, and counts as kept when a majority of them has acknowledged it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
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

/// Peers that are put to at the same time: at first, and most where those are slow.
const PEERS_AT_ONCE: usize = 8;
const MOST_AT_ONCE: usize = 32;

/// How long nobody may be done, while others wait for their turn, before some of them have it as well.
const TURN: Duration = Duration::from_secs(10);

/// Who takes so many times as long as the faster half, and as much longer as a turn, is late.
const FAR_BEHIND: u32 = 4;

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
    /// Peers that have no room for more, or a quota.
    pub(crate) full: BTreeSet<PeerId>,
    /// The other peers that keep chunks now, or may.
    pub(crate) keepers: BTreeSet<PeerId>,
}

/// The pushes to some peers, some at a time, and how long they take.
struct Race {
    started: Instant,
    /// How many have begun and not ended, at most.
    slots: usize,
    peers: usize,
    ended: usize,
    /// When one has ended last, or some more have begun.
    last: Instant,
    /// When half of them had ended.
    half: Option<Instant>,
    /// Somebody is there to take the place of those who are late.
    has_others: bool,
}

impl Race {
    fn new(peers: usize, has_others: bool) -> Race {
        let now = Instant::now();
        Race { started: now, slots: PEERS_AT_ONCE, peers, ended: 0, last: now, half: None, has_others }
    }

    /// Notes that one has ended.
    fn note(&mut self) {
        self.last = Instant::now();
        self.ended += 1;
        if self.half.is_none() && 2 * self.ended > self.peers {
            self.half = Some(self.last);
        }
    }

    /// Until when those that have begun are left alone, where some wait for their turn or are to be found in their place.
    fn patience(&self, some_wait: bool) -> Option<Instant> {
        if some_wait {
            return (self.slots < MOST_AT_ONCE).then(|| self.last + TURN);
        }
        let half = self.half.filter(|_| self.has_others)?;
        Some(self.started + (half - self.started) * FAR_BEHIND + TURN)
    }

    /// Lets more of them begin.
    fn widen(&mut self) {
        self.slots = MOST_AT_ONCE.min(self.slots + PEERS_AT_ONCE);
        self.last = Instant::now();
    }
}

impl NodeInner {
    /// Places `chunks` under a lease of `terms` on their holders, and commits `intake`, which may have taken some of them. Peers that fail,
    /// or fall far behind the others, are replaced by the next in rank. Once a majority keeps each chunk, those that are late are waited
    /// for as long again as that took, and for the errand's grace at least.
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
        let most_ranks = holders.values().map(Vec::len).max().unwrap_or(0);
        // The first R in rank together; then, only for what they left undone, the others one after another.
        let first = 0..replicas.min(most_ranks);
        for ranks in std::iter::once(first).chain((replicas..most_ranks).map(|rank| rank..rank + 1)) {
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
            let mut by_peer: Vec<_> = by_peer.into_values().collect();
            // This node begins at once: it is the last of those that wait.
            by_peer.sort_by_key(|(peer, _)| peer.peer == self.handle.own());
            let waiting = by_peer.into_iter();
            let waiting = waiting.map(|(peer, chunks)| self.to_peer(peer, chunks, terms, intake, errand.monitor));
            let mut waiting: Vec<_> = waiting.collect();
            let mut race = Race::new(waiting.len(), ranks.end < most_ranks);
            let mut pushes = FuturesUnordered::new();
            let mut here = ranks.start > 0;
            loop {
                while pushes.len() < race.slots
                    && let Some(push) = waiting.pop()
                {
                    pushes.push(push);
                }
                let enough = here && keepers.values().all(|keepers| *keepers >= self.config.quorum());
                if enough && until.is_none() {
                    let grace = errand.grace.max(started.elapsed());
                    until = Some(Instant::now() + grace);
                }
                // What is here is made durable, however long that takes.
                let patience = if here { race.patience(!waiting.is_empty()) } else { None };
                let wake = [until, patience].into_iter().flatten().min();
                let next = match wake {
                    None => Ok(pushes.next().await),
                    Some(wake) => tokio::time::timeout_at(wake.into(), pushes.next()).await,
                };
                let Ok(next) = next else {
                    late = until.is_some_and(|until| until <= Instant::now());
                    // Those who are far behind the others are given up, and the next in rank step in.
                    if late || waiting.is_empty() {
                        break;
                    }
                    race.widen();
                    continue;
                };
                let Some((peer, pushed)) = next else { break };
                race.note();
                let id = peer.peer;
                here |= id == self.handle.own();
                let pushed = self.judge(peer, pushed?, errand.monitor);
                placed.sent_bytes += pushed.sent_bytes;
                if pushed.full {
                    placed.full.insert(id);
                }
                // Whoever failed on the way may keep some of it as well.
                if id != self.handle.own() {
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
            let mut pushed = Pushed::default();
            push(&mut pushed, &self.links, &peer, source, &chunks, terms, monitor).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_far_behind_is_late_where_others_are_there() {
        let mut race = Race::new(4, true);
        let started = race.started;
        race.note();
        assert_eq!(race.patience(false), None, "one of four is not half");
        race.note();
        assert_eq!(race.patience(false), None);
        race.note();
        let half = race.half.unwrap();
        assert_eq!(race.patience(false), Some(started + (half - started) * FAR_BEHIND + TURN));
        race.has_others = false;
        assert_eq!(race.patience(false), None, "nobody would take their place");
    }

    #[test]
    fn slow_peers_do_not_keep_others_from_their_turn() {
        let mut race = Race::new(100, false);
        assert_eq!(race.patience(true), Some(race.last + TURN));
        for slots in [16, 24, 32, 32] {
            race.widen();
            assert_eq!(race.slots, slots);
        }
        assert_eq!(race.patience(true), None);
    }
}
