//! [`Relays`]: through which peers a node is reached that cannot be reached itself. Pure: it is told what happens and when.
//!
//! It keeps a place at two of those that relay, of its own network and connected to it directly: so it is still reached when one of them goes.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId};
use rand::seq::IteratorRandom as _;

/// So many relays does a node keep a place at.
const WANTED: usize = 2;

/// How long one that gave no place, or took it back, is not asked.
const REST: Duration = Duration::from_secs(30);

/// How long there may be no relay until the user is told.
const PATIENCE: Duration = Duration::from_secs(15);

/// A peer that relays.
#[derive(Debug)]
struct Offer {
    /// Where others find it.
    address: Multiaddr,
    rests: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Relays {
    wanted: usize,
    offers: BTreeMap<PeerId, Offer>,
    /// Places that this node has or has asked for.
    places: HashMap<ListenerId, PeerId>,
    /// When the user is told that there is no relay, unless there is one by then.
    complain: Option<Instant>,
}

impl Relays {
    /// Of a node that needs some or does not.
    pub(super) fn new(needed: bool, now: Instant) -> Relays {
        let (wanted, complain) = if needed { (WANTED, Some(now + PATIENCE)) } else { (0, None) };
        Relays { wanted, offers: BTreeMap::new(), places: HashMap::new(), complain }
    }

    /// A peer that is connected directly relays, and others find it at `address`.
    pub(super) fn offered(&mut self, peer: PeerId, address: Multiaddr) {
        if self.wanted > 0 {
            self.offers.entry(peer).or_insert(Offer { address, rests: None });
        }
    }

    /// A peer relays no longer, or is gone.
    pub(super) fn withdrawn(&mut self, peer: &PeerId) {
        self.offers.remove(peer);
    }

    fn holds(&self, peer: &PeerId) -> bool {
        self.places.values().any(|other| other == peer)
    }

    /// The next peer to ask for a place, if one is needed.
    pub(super) fn next(&self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        if self.places.len() >= self.wanted {
            return None;
        }
        let is_free = |peer, offer: &Offer| offer.rests.is_none_or(|until| until <= now) && !self.holds(peer);
        let free = self.offers.iter().filter(|(peer, offer)| is_free(peer, offer));
        let (peer, offer) = free.choose(&mut rand::rng())?;
        Some((*peer, offer.address.clone()))
    }

    /// `peer` was asked for a place, which `listener` stands for.
    pub(super) fn asked(&mut self, peer: PeerId, listener: ListenerId) {
        self.places.insert(listener, peer);
    }

    /// `peer` is not asked for a while.
    pub(super) fn rest(&mut self, peer: &PeerId, now: Instant) {
        if let Some(offer) = self.offers.get_mut(peer) {
            offer.rests = Some(now + REST);
        }
    }

    /// There is a place: others reach this node.
    pub(super) fn given(&mut self, listener: ListenerId) -> bool {
        let is_ours = self.places.contains_key(&listener);
        if is_ours {
            self.complain = None;
        }
        is_ours
    }

    /// The place that `listener` stands for is gone, or was refused.
    pub(super) fn ended(&mut self, listener: ListenerId, now: Instant) {
        let Some(peer) = self.places.remove(&listener) else { return };
        self.rest(&peer, now);
        if self.places.is_empty() {
            self.complain.get_or_insert(now + PATIENCE);
        }
    }

    /// What the user is to be told by now.
    pub(super) fn notice(&mut self, now: Instant) -> Option<&'static str> {
        self.complain.take_if(|until| *until <= now)?;
        Some(
            "no peer that relays is connected: others do not reach this node, if it is behind a NAT; run a node that they all reach with `--relay`, and join it",
        )
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let lacks = self.places.len() < self.wanted;
        let free = self.offers.iter().filter(|(peer, _)| lacks && !self.holds(peer));
        free.filter_map(|(_, offer)| offer.rests).chain(self.complain).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_node_keeps_two_places_and_replaces_one_that_it_loses() {
        let start = Instant::now();
        let mut relays = Relays::new(true, start);
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        peers.iter().zip(1..).for_each(|(peer, port)| relays.offered(*peer, address(port)));
        let ask = |relays: &mut Relays, now: Instant| {
            let (peer, _) = relays.next(now)?;
            let listener = ListenerId::next();
            relays.asked(peer, listener);
            assert!(relays.given(listener));
            Some((peer, listener))
        };
        let (first, listener) = ask(&mut relays, start).unwrap();
        let (second, _) = ask(&mut relays, start).unwrap();
        assert!(first != second && ask(&mut relays, start).is_none());
        relays.ended(listener, start);
        let (third, listener) = ask(&mut relays, start).unwrap();
        assert!(third != first && third != second, "one that gave it up rests");
        relays.ended(listener, start);
        let (fourth, listener) = ask(&mut relays, start).unwrap();
        relays.withdrawn(&fourth);
        relays.ended(listener, start);
        assert!(ask(&mut relays, start).is_none());
        assert_eq!(relays.due(), Some(start + REST));
        assert!([first, third].contains(&ask(&mut relays, start + REST).unwrap().0));
    }

    #[test]
    fn that_there_is_no_relay_is_told_once() {
        let start = Instant::now();
        let mut relays = Relays::new(true, start);
        assert_eq!((relays.due(), relays.notice(start)), (Some(start + PATIENCE), None));
        assert!(relays.notice(start + PATIENCE).is_some() && relays.notice(start + 2 * PATIENCE).is_none());
        let listener = ListenerId::next();
        relays.asked(PeerId::random(), listener);
        relays.given(listener);
        relays.ended(listener, start + 3 * PATIENCE);
        assert!(relays.notice(start + 4 * PATIENCE).is_some(), "it was there and is gone");
    }

    #[test]
    fn a_node_that_is_reached_needs_none() {
        let start = Instant::now();
        let mut relays = Relays::new(false, start);
        relays.offered(PeerId::random(), address(1));
        assert!(relays.next(start).is_none() && relays.due().is_none());
    }
}
