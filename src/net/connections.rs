//! [`Connections`]: who is connected, and whether directly or through a relay. Pure: it is told what happens and when.
//!
//! Of two peers that are connected through a relay the one that was dialled tries at once to connect directly (libp2p's DCUtR). Whoever wants
//! to talk to the other waits a moment for that; once it is there, the connection through the relay ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::net::address::is_relayed;
use crate::net::handle::PeerAddresses;

/// How long a connection through a relay is not used, since a direct one may come of it.
const PUNCHING: Duration = Duration::from_secs(2);

/// How long a connection through a relay is kept beside a direct one that was there before it, and may be dead: longer than it takes to
/// notice that.
const BESIDE: Duration = Duration::from_secs(30);

/// A peer with a connection.
#[derive(Debug, Default)]
struct Peer {
    /// Where it says that it listens.
    addresses: Vec<Multiaddr>,
    direct: HashSet<ConnectionId>,
    /// Through relays, and since when.
    relayed: HashMap<ConnectionId, Instant>,
    /// Where this node has reached it directly.
    reached: Option<Multiaddr>,
    /// Until when it is waited for a direct connection.
    punching: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Connections(BTreeMap<PeerId, Peer>);

impl Connections {
    /// A connection to `peer` is there; true if it is the first.
    pub(super) fn opened(&mut self, peer: PeerId, id: ConnectionId, end: &ConnectedPoint, now: Instant) -> bool {
        let is_first = !self.0.contains_key(&peer);
        let known = self.0.entry(peer).or_default();
        if end.is_relayed() {
            known.relayed.insert(id, now);
            known.punching = (known.direct.is_empty() && is_first).then(|| now + PUNCHING).or(known.punching);
        } else {
            known.direct.insert(id);
            known.punching = None;
            if let ConnectedPoint::Dialer { address, .. } = end {
                known.reached = Some(address.clone());
            }
        }
        is_first
    }

    /// A connection to `peer` is gone; true if it was the last.
    pub(super) fn closed(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(known) = self.0.get_mut(peer) else { return false };
        known.direct.remove(&id);
        known.relayed.remove(&id);
        let is_last = known.direct.is_empty() && known.relayed.is_empty();
        if is_last {
            self.0.remove(peer);
        }
        is_last
    }

    /// Whether a connection is the only direct one to `peer`.
    pub(super) fn is_last_direct(&self, peer: &PeerId, id: ConnectionId) -> bool {
        self.0.get(peer).is_some_and(|known| known.direct.len() == 1 && known.direct.contains(&id))
    }

    /// Connections through relays to `peer`, which has just been connected directly.
    pub(super) fn superseded(&self, peer: &PeerId) -> Vec<ConnectionId> {
        self.0.get(peer).map(|known| known.relayed.keys().copied().collect()).unwrap_or_default()
    }

    /// Connections through relays that have been beside a direct one for long. They are to be closed, and count no more.
    pub(super) fn needless(&mut self, now: Instant) -> Vec<ConnectionId> {
        let needless: Vec<_> = self.beside().filter(|(_, since)| now >= *since + BESIDE).map(|(id, _)| id).collect();
        for known in self.0.values_mut() {
            known.relayed.retain(|id, _| !needless.contains(id));
        }
        needless
    }

    /// Connections through relays beside direct ones, and since when.
    fn beside(&self) -> impl Iterator<Item = (ConnectionId, Instant)> {
        let peers = self.0.values().filter(|known| !known.direct.is_empty());
        peers.flat_map(|known| known.relayed.iter().map(|(id, since)| (*id, *since)))
    }

    /// Whether a connection to `peer` is a direct one.
    pub(super) fn is_direct(&self, peer: &PeerId, id: ConnectionId) -> bool {
        self.0.get(peer).is_some_and(|known| known.direct.contains(&id))
    }

    /// No direct connection will come.
    pub(super) fn stays_relayed(&mut self, peer: &PeerId) {
        if let Some(known) = self.0.get_mut(peer) {
            known.punching = None;
        }
    }

    /// Whether `peer` can be talked to.
    pub(super) fn is_usable(&self, peer: &PeerId) -> bool {
        self.0.get(peer).is_some_and(|known| known.punching.is_none())
    }

    /// Those that can be talked to from now on, since it has been waited for a direct connection for long enough.
    pub(super) fn waited(&mut self, now: Instant) -> Vec<PeerId> {
        let over = self.0.iter_mut().filter(|(_, known)| known.punching.is_some_and(|until| until <= now));
        over.map(|(peer, known)| {
            known.punching = None;
            *peer
        })
        .collect()
    }

    /// When there is something to do: some can be talked to, or a connection is needless.
    pub(super) fn next(&self) -> Option<Instant> {
        let waits = self.0.values().filter_map(|known| known.punching);
        waits.chain(self.beside().map(|(_, since)| since + BESIDE)).min()
    }

    /// A peer says that it listens at `addresses`.
    pub(super) fn listens(&mut self, peer: &PeerId, addresses: Vec<Multiaddr>) {
        if let Some(known) = self.0.get_mut(peer) {
            known.addresses = addresses;
        }
    }

    /// The address by which others may reach a peer: the one that this node has reached it by, before those that it says.
    pub(super) fn address(&self, peer: &PeerId) -> Option<Multiaddr> {
        let known = self.0.get(peer).filter(|known| !known.direct.is_empty())?;
        known.reached.clone().or_else(|| known.addresses.iter().find(|address| !is_relayed(address)).cloned())
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.0.contains_key(peer)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.0.keys().copied()
    }

    pub(super) fn view(&self) -> Vec<PeerAddresses> {
        let view = self.0.iter();
        view.map(|(peer, known)| PeerAddresses { peer: *peer, addresses: known.addresses.clone() }).collect()
    }

    /// Those that are connected only through a relay.
    pub(super) fn relayed(&self) -> Vec<PeerId> {
        self.0.iter().filter(|(_, known)| known.direct.is_empty()).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    use super::*;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn dialled(address: &str) -> ConnectedPoint {
        let address = address.parse().unwrap();
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::Reuse }
    }

    const RELAY: &str = "/ip4/10.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit";

    #[test]
    fn who_is_reached_through_a_relay_is_talked_to_when_no_direct_connection_comes() {
        let (mut connections, peer, start) = (Connections::default(), PeerId::random(), Instant::now());
        assert!(connections.opened(peer, id(1), &dialled(RELAY), start));
        assert!(!connections.is_usable(&peer) && connections.next() == Some(start + PUNCHING));
        assert!(connections.waited(start).is_empty());
        assert_eq!(connections.waited(start + PUNCHING), [peer]);
        assert!(connections.is_usable(&peer) && connections.next().is_none());
        assert_eq!((connections.relayed(), connections.address(&peer)), (vec![peer], None));
        assert!(!connections.opened(peer, id(2), &dialled(RELAY), start + PUNCHING));
        assert!(connections.is_usable(&peer), "another one is no reason to wait again");
        assert!(!connections.closed(&peer, id(1)) && connections.closed(&peer, id(2)));
        assert!(connections.is_empty());
    }

    #[test]
    fn a_direct_connection_takes_the_place_of_one_through_a_relay() {
        let (mut connections, peer, start) = (Connections::default(), PeerId::random(), Instant::now());
        connections.opened(peer, id(1), &dialled(RELAY), start);
        assert!(!connections.is_direct(&peer, id(1)));
        assert!(!connections.opened(peer, id(2), &dialled("/ip4/10.0.0.2/tcp/2"), start));
        assert!(
            connections.is_usable(&peer) && connections.is_direct(&peer, id(2)) && connections.relayed().is_empty()
        );
        assert!(connections.is_last_direct(&peer, id(2)) && !connections.is_last_direct(&peer, id(1)));
        assert_eq!(connections.superseded(&peer), [id(1)]);
        assert_eq!(connections.address(&peer), Some("/ip4/10.0.0.2/tcp/2".parse().unwrap()));
        assert!(!connections.closed(&peer, id(1)) && connections.superseded(&peer).is_empty());
        assert!(connections.closed(&peer, id(2)));
    }

    #[test]
    fn one_through_a_relay_is_kept_until_it_is_known_that_the_direct_one_before_it_lives() {
        let (mut connections, peer, start) = (Connections::default(), PeerId::random(), Instant::now());
        connections.opened(peer, id(1), &dialled("/ip4/10.0.0.2/tcp/2"), start);
        connections.opened(peer, id(2), &dialled(RELAY), start);
        assert!(connections.is_usable(&peer) && connections.needless(start).is_empty());
        assert_eq!(connections.next(), Some(start + BESIDE));
        assert_eq!(connections.needless(start + BESIDE), [id(2)]);
        assert!(connections.next().is_none() && !connections.closed(&peer, id(2)));
        connections.opened(peer, id(3), &dialled(RELAY), start + BESIDE);
        connections.closed(&peer, id(1));
        assert!(connections.needless(start + 3 * BESIDE).is_empty() && connections.next().is_none());
    }

    #[test]
    fn where_it_is_known_that_none_comes_nobody_waits() {
        let (mut connections, peer) = (Connections::default(), PeerId::random());
        connections.opened(peer, id(1), &dialled(RELAY), Instant::now());
        connections.stays_relayed(&peer);
        assert!(connections.is_usable(&peer));
        assert!(!connections.is_usable(&PeerId::random()));
    }
}
