//! Where chunks belong: a pure function from a set of peers to the holders of a placement group.
//!
//! The keyspace of chunks is cut into [`GROUPS`] groups by the first bits of a chunk's home; all chunks of a group have the same holders, so
//! one question serves thousands of chunks. A group has a place in Kademlia's keyspace (SHA-256 of its key, as libp2p places keys and
//! peers). Its holders are, of the [`CANDIDATES`] peers closest to that place by XOR, those with the highest rendezvous hash (Thaler and
//! Ravishankar, 1998): closeness alone gives a few peers several times their share, as their parts of the keyspace are larger.

use sha2::{Digest as _, Sha256};

use crate::hash::Hash;

/// Placement groups of a network.
pub const GROUPS: u16 = 1 << 12;

/// Peers closest to a group, among whom its holders are chosen.
pub const CANDIDATES: usize = 8;

/// A place in Kademlia's keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub [u8; 32]);

impl Position {
    /// The place of a key, or of a peer by the bytes of its id.
    pub fn of(key: &[u8]) -> Position {
        Position(Sha256::digest(key).into())
    }

    /// How far `other` is: XOR, as a big-endian number.
    pub fn distance(&self, other: &Position) -> [u8; 32] {
        std::array::from_fn(|at| self.0[at] ^ other.0[at])
    }

    /// Leading bits that both have in common.
    pub fn common_bits(&self, other: &Position) -> u32 {
        let mut bits = 0;
        for byte in self.distance(other) {
            bits += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        bits
    }
}

/// A placement group: the chunks whose homes start with the same 12 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u16);

impl Group {
    /// The group of the chunks with this home.
    pub fn of(home: [u8; 4]) -> Group {
        Group(u16::from_be_bytes([home[0], home[1]]) >> 4)
    }

    /// Group number `number`, if there is one.
    pub fn new(number: u16) -> Option<Group> {
        (number < GROUPS).then_some(Group(number))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Its key in the Kademlia of network `network_id`.
    pub fn key(self, network_id: &str) -> Hash {
        Hash::of(&[network_id.as_bytes(), &self.0.to_be_bytes()].concat())
    }
}

/// A peer that can hold chunks: anything with an id.
pub trait Candidate {
    /// The bytes of its id.
    fn id(&self) -> &[u8];
    /// The place of its id.
    fn position(&self) -> Position;
}

/// The peers that hold the group with this key, the highest in rank first: the first R hold its replicas, the others step in. At most
/// [`CANDIDATES`] of `peers`, which may be in any order, and should have each peer once.
pub fn ranked<'p, P: Candidate>(group_key: &Hash, peers: impl IntoIterator<Item = &'p P>) -> Vec<&'p P> {
    let place = Position::of(group_key.as_bytes());
    let mut near: Vec<([u8; 32], &P)> =
        peers.into_iter().map(|peer| (place.distance(&peer.position()), peer)).collect();
    if near.len() > CANDIDATES {
        near.select_nth_unstable_by(CANDIDATES, |a, b| a.0.cmp(&b.0));
        near.truncate(CANDIDATES);
    }
    let mut scored: Vec<(Hash, &P)> = near.into_iter().map(|(_, peer)| (score(group_key, peer.id()), peer)).collect();
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    scored.into_iter().map(|(_, peer)| peer).collect()
}

fn score(group_key: &Hash, id: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(group_key.as_bytes());
    hasher.update(id);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) struct Peer(Vec<u8>, Position);

    impl Candidate for Peer {
        fn id(&self) -> &[u8] {
            &self.0
        }

        fn position(&self) -> Position {
            self.1
        }
    }

    fn peers(count: u32) -> Vec<Peer> {
        (0..count).map(|n| Peer(n.to_le_bytes().to_vec(), Position::of(&n.to_le_bytes()))).collect()
    }

    #[test]
    fn every_group_has_holders_and_they_depend_on_the_set_of_peers_only() {
        for count in [0, 1, 2, 3, 7, 8, 9, 60] {
            let mut there = peers(count);
            let before: Vec<Vec<Vec<u8>>> = all_holders(&there);
            assert!(before.iter().all(|holders| holders.len() == (count as usize).min(CANDIDATES)));
            there.reverse();
            assert_eq!(all_holders(&there), before);
        }
    }

    fn all_holders(peers: &[Peer]) -> Vec<Vec<Vec<u8>>> {
        let groups = (0..GROUPS).step_by(17).filter_map(Group::new);
        let keys = groups.map(|group| group.key("test"));
        keys.map(|key| ranked(&key, peers).into_iter().map(|peer| peer.0.clone()).collect()).collect()
    }

    #[test]
    fn no_peer_of_many_has_much_more_than_its_share() {
        let there = peers(200);
        let mut load = vec![0_u32; 200];
        for group in (0..GROUPS).filter_map(Group::new) {
            for peer in ranked(&group.key("test"), &there).into_iter().take(3) {
                load[u32::from_le_bytes(peer.0[..].try_into().unwrap()) as usize] += 1;
            }
        }
        let (max, mean) = (*load.iter().max().unwrap(), f64::from(GROUPS) * 3.0 / 200.0);
        assert!(f64::from(max) < 2.2 * mean, "{max} of {mean}");
    }

    #[test]
    fn one_peer_more_moves_few_groups() {
        let (before, after) = (all_holders(&peers(50)), all_holders(&peers(51)));
        let top = |holders: &Vec<Vec<u8>>| holders.iter().take(3).cloned().collect::<Vec<_>>();
        let moved = before.iter().zip(&after).filter(|(a, b)| top(a) != top(b)).count();
        assert!(moved * 4 < before.len(), "{moved} of {}", before.len());
    }

    #[test]
    fn a_group_is_the_first_bits_of_a_home() {
        assert_eq!(Group::of([0, 0, 255, 255]).number(), 0);
        assert_eq!(Group::of([0xab, 0xcd, 0, 0]).number(), 0xabc);
        assert_eq!(Group::new(4095).map(Group::number), Some(4095));
        assert_eq!(Group::new(4096), None);
    }
}
