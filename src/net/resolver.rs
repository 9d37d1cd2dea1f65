//! From placement groups to the peers that hold them: what is known of the network, and lookups for what is not.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::sync::Notify;

use crate::error::Result;
use crate::net::doubts::Doubts;
use crate::net::handle::{Closest, Handle, PeerAddresses};
use crate::net::placement::{Candidate, Group, Position, ranked};
use crate::net::region::{ANSWERS, Regions};

/// How long what a lookup told is taken to hold.
const REGION_TTL: Duration = Duration::from_secs(300);

/// The shortest time between two lookups for groups that others think belong here.
const BREATH: Duration = Duration::from_millis(250);

/// A peer with its place in the keyspace.
#[derive(Debug, Clone)]
struct Placed {
    id: Vec<u8>,
    position: Position,
    peer: PeerAddresses,
}

impl Placed {
    fn new(peer: PeerAddresses) -> Placed {
        let id = peer.peer.to_bytes();
        Placed { position: Position::of(&id), id, peer }
    }
}

impl Candidate for Placed {
    fn id(&self) -> &[u8] {
        &self.id
    }

    fn position(&self) -> Position {
        self.position
    }
}

/// Resolves groups. One for a node.
pub(crate) struct Resolver {
    handle: Handle,
    network_id: String,
    own: Placed,
    started: Instant,
    regions: Mutex<Regions<Placed>>,
    doubts: Mutex<Doubts>,
    doubted: Notify,
}

impl Resolver {
    pub(crate) fn new(handle: Handle, network_id: &str) -> Resolver {
        let own = Placed::new(PeerAddresses { peer: handle.own(), addresses: Vec::new() });
        Resolver {
            handle,
            network_id: network_id.to_owned(),
            own,
            started: Instant::now(),
            regions: Mutex::default(),
            doubts: Mutex::default(),
            doubted: Notify::new(),
        }
    }

    fn regions(&self) -> MutexGuard<'_, Regions<Placed>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A peer came, or answers again.
    pub(crate) fn came(&self, peer: &PeerId) {
        self.regions().came(&peer.to_bytes());
    }

    /// A peer cannot be reached.
    pub(crate) fn went(&self, peer: &PeerId) {
        self.regions().went(&peer.to_bytes());
    }

    /// Forgets what is known.
    pub(crate) fn clear(&self) {
        self.regions().clear();
    }

    /// Whether a group that a peer brings may be kept here. If not, it is looked into who of the two is right.
    pub(crate) fn admits(&self, group: Group) -> bool {
        let is_here = self.is_here(group);
        if !is_here && self.doubts().raise(group, Instant::now()) {
            self.doubted.notify_one();
        }
        is_here
    }

    /// Looks into the groups that peers have brought in vain. What a node knows of the network may be minutes old: peers that are gone, and
    /// that it never asked anything, would keep it from stepping in for them.
    pub(crate) async fn look_into_doubts(&self) {
        loop {
            let Some(group) = self.doubts().next(Instant::now()) else {
                self.doubted.notified().await;
                continue;
            };
            // What was learned for another may have answered it.
            if self.is_here(group) {
                continue;
            }
            let key = group.key(&self.network_id);
            let Ok(found) = self.handle.closest(key.as_bytes().to_vec()).await else { return };
            self.replace(Position::of(key.as_bytes()), found);
            tokio::time::sleep(BREATH).await;
        }
    }

    /// Takes in the answer to a lookup of `place` in place of what was known of its neighbours.
    fn replace(&self, place: Position, found: Closest) {
        let distance = |peer: &PeerAddresses| place.distance(&Position::of(&peer.peer.to_bytes()));
        // All that is nearer than the last answer has answered. Fewer answers are all there are, if nobody failed to answer.
        let seen = match found.peers.iter().map(distance).max() {
            Some(farthest) if found.peers.len() >= ANSWERS => farthest,
            Some(_) if found.complete => [u8::MAX; 32],
            _ => return,
        };
        let mut regions = self.regions();
        let near = regions.near(&place, self.now()).unwrap_or_default().into_iter();
        let gone = near.filter(|known| {
            place.distance(&known.position) < seen && found.peers.iter().all(|peer| peer.peer != known.peer.peer)
        });
        for id in gone.map(|gone| gone.id.clone()).collect::<Vec<_>>() {
            regions.went(&id);
        }
        self.learn(&mut regions, place, found.peers, found.complete);
    }

    fn learn(&self, regions: &mut Regions<Placed>, place: Position, peers: Vec<PeerAddresses>, complete: bool) {
        let placed = peers.into_iter().map(Placed::new).collect();
        regions.learn(place, placed, complete, self.now() + REGION_TTL.as_millis() as u64);
    }

    /// False if the group is known to belong to others: so much is known of the network that this node is none of those that hold it or
    /// step in.
    fn is_here(&self, group: Group) -> bool {
        let key = group.key(&self.network_id);
        let regions = self.regions();
        let Some(near) = regions.near(&Position::of(key.as_bytes()), self.now()) else { return true };
        let others = near.into_iter().filter(|peer| peer.id != self.own.id);
        ranked(&key, others.chain(std::iter::once(&self.own))).iter().any(|peer| peer.id == self.own.id)
    }

    /// Looks up those of `keys`, by their places, around which not enough is known.
    async fn resolve(&self, keys: &HashMap<Position, Vec<u8>>) -> Result<()> {
        let mut resolution = self.regions().resolve(keys.keys().copied(), self.now());
        let mut under_way = FuturesUnordered::new();
        while !resolution.is_done() {
            while let Some(place) = resolution.next_place() {
                let key = keys.get(&place).cloned().unwrap_or_default();
                under_way.push(async move { (place, self.handle.closest(key).await) });
            }
            let Some((place, found)) = under_way.next().await else { break };
            let Closest { peers, complete, asked } = found?;
            if !asked {
                // Nobody is known: the next place would be looked up as vainly.
                break;
            }
            let some = !peers.is_empty();
            let mut regions = self.regions();
            if some {
                self.learn(&mut regions, place, peers, complete);
            }
            resolution.answered(place, some, &regions, self.now());
        }
        Ok(())
    }

    /// The peers that each of `groups` belongs to, by rank, this node among them; with as few lookups as it takes.
    pub(crate) async fn holders(&self, groups: &BTreeSet<Group>) -> Result<HashMap<Group, Vec<PeerAddresses>>> {
        let keys: HashMap<Position, Vec<u8>> = groups
            .iter()
            .map(|group| {
                let key = group.key(&self.network_id);
                (Position::of(key.as_bytes()), key.as_bytes().to_vec())
            })
            .collect();
        self.resolve(&keys).await?;
        // While some were looked up, others that were known may have been forgotten.
        self.resolve(&keys).await?;
        let regions = self.regions();
        let rank = |group: &Group| {
            let key = group.key(&self.network_id);
            let near = regions.near(&Position::of(key.as_bytes()), self.now()).unwrap_or_default();
            let others = near.into_iter().filter(|peer| peer.id != self.own.id);
            let holders = ranked(&key, others.chain(std::iter::once(&self.own)));
            (*group, holders.into_iter().map(|holder| holder.peer.clone()).collect())
        };
        Ok(groups.iter().map(rank).collect())
    }
}
