//! Finding the peers near many places with few lookups. Pure: the caller makes the lookups and has the clock.
//!
//! A lookup of place *t* answers with the [`ANSWERS`] peers closest to it. Every peer that is nearer than the farthest of them is among the
//! answers. Let that one share *c* leading bits with *t*: then the subtree of *t*'s first *c* + 1 bits is completely known, and some smaller
//! ones next to it, and with them the closest peers of every other place around which there are enough peers in such subtrees; two of them
//! side by side make a larger one. So the median of the places that are still open is looked up, and then the next, until none is open: some
//! thousand places in a network of N peers take about N/11 lookups.
//!
//! Fewer answers than [`ANSWERS`] are the whole network, but only where no peer failed to answer.

use crate::net::placement::{CANDIDATES, Candidate, Position};

/// Peers in the answer to a lookup.
pub const ANSWERS: usize = 20;

/// Lookups that may be under way at once.
pub const AT_ONCE: usize = 8;

/// The bits of a region that is a single place.
const PLACE: u32 = 256;

/// Subtrees that are learned from one answer; the smaller ones hold hardly a peer.
const SUBTREES: usize = 8;

/// How often a place is looked up that gets no answer.
const ATTEMPTS: u8 = 3;

/// A part of the keyspace whose peers are all known: those whose positions start with the first `bits` of `prefix`.
#[derive(Debug, Clone)]
struct Region<P> {
    prefix: Position,
    bits: u32,
    peers: Vec<P>,
    /// When it is to be forgotten, in milliseconds.
    expires_ms: u64,
}

impl<P: Candidate> Region<P> {
    fn covers(&self, place: &Position) -> bool {
        self.prefix.common_bits(place) >= self.bits
    }
}

/// What is known of the network.
#[derive(Debug, Clone)]
pub struct Regions<P> {
    known: Vec<Region<P>>,
}

impl<P> Default for Regions<P> {
    fn default() -> Regions<P> {
        Regions { known: Vec::new() }
    }
}

impl<P: Candidate + Clone> Regions<P> {
    /// The peers near `place`, its closest [`CANDIDATES`] among them, if they are known at `now_ms`.
    ///
    /// Seen from a place, each region is a stretch of distances without gaps. Those that follow each other from the place itself on are
    /// gone through until there are enough peers in them, or the network ends.
    pub fn near(&self, place: &Position, now_ms: u64) -> Option<Vec<&P>> {
        let valid = || self.known.iter().filter(|region| region.expires_ms > now_ms);
        if let Some(own) = valid().find(|region| region.bits == PLACE && region.covers(place)) {
            return Some(own.peers.iter().collect());
        }
        let mut near: Vec<&P> = Vec::new();
        let mut distance = [0; 32];
        loop {
            let at = Position(std::array::from_fn(|byte| place.0[byte] ^ distance[byte]));
            let region = valid().find(|region| region.bits < PLACE && region.covers(&at))?;
            // A smaller region may lie in a larger one.
            let new = region.peers.iter().filter(|peer| near.iter().all(|known| known.id() != peer.id()));
            near.extend(new.collect::<Vec<_>>());
            if near.len() >= CANDIDATES || !pass(&mut distance, region.bits) {
                return Some(near);
            }
        }
    }

    /// Takes in the answer to a lookup of `place`: `complete` if no peer failed to answer.
    pub fn learn(&mut self, place: Position, mut peers: Vec<P>, complete: bool, expires_ms: u64) {
        peers.sort_by_key(|peer| place.distance(&peer.position()));
        let Some(farthest) = peers.get(ANSWERS - 1).map(|peer| place.distance(&peer.position())) else {
            let bits = if complete { 0 } else { PLACE };
            return self.add(Region { prefix: place, bits, peers, expires_ms });
        };
        // The place itself is answered whatever else is.
        self.add(Region { prefix: place, bits: PLACE, peers: peers.clone(), expires_ms });
        // All that is nearer than the farthest is known: for each 1 in its distance, the subtree that has a 0 there.
        let ones = (0..256).filter(|bit| farthest[bit / 8] >> (7 - bit % 8) & 1 == 1);
        for bit in ones.take(SUBTREES) {
            let prefix = Position(std::array::from_fn(|at| {
                let kept = (bit.saturating_sub(8 * at)).min(8) as u32;
                place.0[at] ^ (farthest[at] & !0xff_u8.checked_shr(kept).unwrap_or(0))
            }));
            let region = Region { prefix, bits: bit as u32 + 1, peers: Vec::new(), expires_ms };
            let inside = peers.iter().filter(|peer| region.covers(&peer.position())).cloned().collect();
            self.add(Region { peers: inside, ..region });
        }
    }

    /// Adds what is known now. Two halves of a region make it whole.
    fn add(&mut self, mut region: Region<P>) {
        loop {
            // The answer for a single place stays: a subtree around it may have too few peers to tell as much.
            let covered = |known: &Region<P>| {
                known.bits >= region.bits
                    && region.covers(&known.prefix)
                    && (known.bits < PLACE || region.bits == PLACE)
            };
            self.known.retain(|known| !covered(known));
            let sibling = |known: &Region<P>| {
                known.bits == region.bits
                    && region.bits < PLACE
                    && known.prefix.common_bits(&region.prefix) + 1 == region.bits
            };
            let Some(found) = self.known.iter().position(sibling) else { break };
            let other = self.known.swap_remove(found);
            region.bits -= 1;
            region.peers.extend(other.peers);
            region.expires_ms = region.expires_ms.min(other.expires_ms);
        }
        self.known.push(region);
    }

    /// A peer came that was not known: what it falls into is no longer complete.
    pub fn came(&mut self, id: &[u8]) {
        let position = Position::of(id);
        let news = |region: &Region<P>| region.peers.iter().all(|peer| peer.id() != id);
        // A region of a single place may have gained a closer neighbour wherever the peer is.
        self.known.retain(|region| !((region.bits == PLACE || region.covers(&position)) && news(region)));
    }

    /// A peer does not answer: where it is counted on, the network is to be looked at again.
    pub fn went(&mut self, id: &[u8]) {
        self.known.retain(|region| region.peers.iter().all(|peer| peer.id() != id));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// Begins to resolve places.
    pub fn resolve(&self, places: impl IntoIterator<Item = Position>, now_ms: u64) -> Resolution {
        let mut open: Vec<Position> = places.into_iter().filter(|place| self.near(place, now_ms).is_none()).collect();
        open.sort_unstable();
        open.dedup();
        Resolution { open, asked: Vec::new(), answers: 0, failed: Vec::new() }
    }
}

/// Moves `distance` behind the region of so many bits that it is in. False where nothing is behind.
fn pass(distance: &mut [u8; 32], bits: u32) -> bool {
    let bits = bits as usize;
    for (byte, value) in distance.iter_mut().enumerate() {
        *value &= !0xff_u8.checked_shr(bits.saturating_sub(8 * byte).min(8) as u32).unwrap_or(0);
    }
    for bit in (0..bits).rev() {
        let mask = 0x80 >> (bit % 8);
        distance[bit / 8] ^= mask;
        if distance[bit / 8] & mask != 0 {
            return true;
        }
    }
    false
}

/// Places whose neighbours are being looked up.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// Sorted.
    open: Vec<Position>,
    /// Of those, under way.
    asked: Vec<Position>,
    /// Lookups that ended.
    answers: usize,
    failed: Vec<(Position, u8)>,
}

impl Resolution {
    /// The next place to look up; `None` while enough are under way, or where no more are needed. The first answers tell most, so it begins
    /// with one and has one more under way with each answer.
    pub fn next_place(&mut self) -> Option<Position> {
        if self.asked.len() >= AT_ONCE.min(1 + self.answers / 2) {
            return None;
        }
        // Of the longest stretch of open places between two that are under way, the median.
        let mut best = 0..0;
        let mut start = 0;
        for (index, place) in self.open.iter().enumerate() {
            if self.asked.contains(place) {
                if index - start > best.len() {
                    best = start..index;
                }
                start = index + 1;
            }
        }
        if self.open.len() - start > best.len() {
            best = start..self.open.len();
        }
        let place = *self.open.get(best.start + best.len() / 2).filter(|_| !best.is_empty())?;
        self.asked.push(place);
        Some(place)
    }

    /// Takes note that the lookup of `place` ended, after its answer was [learned](Regions::learn): what is known now is not open any more.
    /// Without any peer in the answer the place is tried again, a few times.
    pub fn answered<P: Candidate + Clone>(&mut self, place: Position, found: bool, regions: &Regions<P>, now_ms: u64) {
        self.asked.retain(|asked| *asked != place);
        self.answers += 1;
        if !found {
            let attempts = match self.failed.iter_mut().find(|(failed, _)| *failed == place) {
                Some((_, attempts)) => attempts,
                None => {
                    self.failed.push((place, 0));
                    match self.failed.last_mut() {
                        Some((_, attempts)) => attempts,
                        None => return,
                    }
                }
            };
            *attempts += 1;
            if *attempts >= ATTEMPTS {
                self.open.retain(|open| *open != place);
            }
        }
        self.open.retain(|open| regions.near(open, now_ms).is_none());
    }

    /// True when no place is open.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::placement::{GROUPS, Group, ranked};
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Peer(Vec<u8>, Position);

    impl Candidate for Peer {
        fn id(&self) -> &[u8] {
            &self.0
        }

        fn position(&self) -> Position {
            self.1
        }
    }

    fn network(count: u64, seed: u64) -> Vec<Peer> {
        let id = |n: u64| [n.to_le_bytes(), seed.to_le_bytes()].concat();
        (0..count).map(|n| Peer(id(n), Position::of(&id(n)))).collect()
    }

    /// What Kademlia answers: the closest peers that are alive; not complete if a closer one was dead.
    fn lookup(peers: &[Peer], dead: &[bool], place: Position) -> (Vec<Peer>, bool) {
        let mut sorted: Vec<(usize, &Peer)> = peers.iter().enumerate().collect();
        sorted.sort_by_key(|(_, peer)| place.distance(&peer.1));
        let met_dead = sorted.iter().take(ANSWERS).any(|(n, _)| dead[*n]);
        (sorted.into_iter().filter(|(n, _)| !dead[*n]).take(ANSWERS).map(|(_, peer)| peer.clone()).collect(), !met_dead)
    }

    fn resolve_all(peers: &[Peer], dead: &[bool], groups: &[Group]) -> (Regions<Peer>, usize) {
        let mut regions = Regions::default();
        let places = groups.iter().map(|group| Position::of(group.key("test").as_bytes()));
        let mut resolution = regions.resolve(places, 0);
        let mut lookups = 0;
        while !resolution.is_done() {
            let asked: Vec<Position> = std::iter::from_fn(|| resolution.next_place()).collect();
            assert!(!asked.is_empty() && asked.len() <= AT_ONCE);
            for place in asked {
                lookups += 1;
                let (found, complete) = lookup(peers, dead, place);
                let some = !found.is_empty();
                regions.learn(place, found, complete, 1);
                resolution.answered(place, some, &regions, 0);
            }
        }
        (regions, lookups)
    }

    fn check(peers: &[Peer], dead: &[bool], groups: &[Group]) -> usize {
        let (regions, lookups) = resolve_all(peers, dead, groups);
        let alive: Vec<Peer> =
            peers.iter().zip(dead).filter(|(_, dead)| !**dead).map(|(peer, _)| peer.clone()).collect();
        for group in groups {
            let key = group.key("test");
            let near = regions.near(&Position::of(key.as_bytes()), 0).unwrap_or_default();
            assert_eq!(ranked(&key, near), ranked(&key, &alive), "{group:?} of {}", peers.len());
        }
        lookups
    }

    fn all_groups() -> Vec<Group> {
        (0..GROUPS).filter_map(Group::new).collect()
    }

    #[test]
    fn lookups_grow_with_a_small_share_of_the_peers() {
        for count in [20, 50, 100, 200, 500] {
            for step in [1, 11, 100] {
                let mut total = 0;
                for seed in 0..8 {
                    let peers = network(count, seed);
                    let groups: Vec<Group> = (0..GROUPS).step_by(step).filter_map(Group::new).collect();
                    let (regions, lookups) = one_by_one(&peers, &groups);
                    total += lookups;
                    let near = |group: &Group| regions.near(&Position::of(group.key("test").as_bytes()), 0).is_some();
                    assert!(groups.iter().all(near));
                }
                assert!(total <= 8 * (count / 11 + 8), "{total} for 8 networks of {count} peers, every {step}th group");
            }
        }
    }

    /// Resolves groups as a node does: a new lookup starts with each answer.
    fn one_by_one(peers: &[Peer], groups: &[Group]) -> (Regions<Peer>, u64) {
        let mut regions = Regions::default();
        let places = groups.iter().map(|group| Position::of(group.key("test").as_bytes()));
        let mut resolution = regions.resolve(places, 0);
        let (mut under_way, mut lookups) = (std::collections::VecDeque::new(), 0);
        let alive = vec![false; peers.len()];
        while !resolution.is_done() {
            while let Some(place) = resolution.next_place() {
                under_way.push_back(place);
                lookups += 1;
                assert!(lookups < 4096, "it comes to no end");
            }
            let place = under_way.pop_front().unwrap();
            let (found, complete) = lookup(peers, &alive, place);
            regions.learn(place, found, complete, 1);
            resolution.answered(place, true, &regions, 0);
        }
        (regions, lookups)
    }

    #[test]
    fn two_hundred_peers_are_found_as_brute_force_finds_them() {
        let peers = network(200, 1);
        let lookups = check(&peers, &[false; 200], &all_groups());
        assert!(lookups <= 200 / 11 + 8, "{lookups}");
        let dead: Vec<bool> = (0..200).map(|n| n % 5 == 0).collect();
        check(&peers, &dead, &all_groups());
    }

    #[test]
    fn what_is_known_needs_no_lookup_until_it_is_old_or_peers_change() {
        let peers = network(60, 2);
        let (mut regions, _) = resolve_all(&peers, &[false; 60], &all_groups());
        let places = || all_groups().into_iter().map(|group| Position::of(group.key("test").as_bytes()));
        assert!(regions.resolve(places(), 0).is_done());
        assert!(!regions.resolve(places(), 1).is_done(), "its time is up");
        regions.came(&peers[7].0);
        assert!(regions.resolve(places(), 0).is_done(), "that one is known");
        regions.came(b"another");
        assert!(!regions.resolve(places(), 0).is_done());
        let (mut regions, _) = resolve_all(&peers, &[false; 60], &all_groups());
        regions.went(&peers[7].0);
        assert!(!regions.resolve(places(), 0).is_done());
    }

    #[test]
    fn a_place_that_nobody_answers_for_is_given_up() {
        let regions = Regions::<Peer>::default();
        let mut resolution = regions.resolve([Position([7; 32])], 0);
        for _ in 0..ATTEMPTS {
            let place = resolution.next_place().unwrap();
            assert_eq!(resolution.next_place(), None, "it is under way");
            resolution.answered(place, false, &regions, 0);
        }
        assert!(resolution.is_done());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn networks_of_any_size_and_groups_of_any_spread(
            count in 1_u64..61, seed in any::<u64>(), groups in prop::collection::btree_set(0_u16..GROUPS, 1..300),
            dead in prop::collection::vec(prop::bool::weighted(0.2), 60),
        ) {
            let peers = network(count, seed);
            let groups: Vec<Group> = groups.into_iter().filter_map(Group::new).collect();
            let lookups = check(&peers, &vec![false; count as usize], &groups);
            prop_assert!(lookups as u64 <= (count / 11 + 8).min(4096), "{} lookups", lookups);
            // Where peers fail to answer, every lookup resolves its own place at least.
            let (_, lookups) = resolve_all(&peers, &dead[..count as usize], &groups);
            prop_assert!(lookups <= groups.len() * usize::from(ATTEMPTS));
        }
    }
}
