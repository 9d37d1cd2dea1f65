//! What an address says: where a peer is, and through whom it is reached.

use std::collections::HashSet;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::limits;

/// An address without the id of the peer there.
pub(super) fn bare(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if matches!(bare.iter().last(), Some(Protocol::P2p(_))) {
        bare.pop();
    }
    bare
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay that an address leads through.
fn relay(address: &Multiaddr) -> Option<PeerId> {
    let before = address.iter().take_while(|part| *part != Protocol::P2pCircuit);
    let ids = before.filter_map(|part| if let Protocol::P2p(id) = part { Some(id) } else { None });
    ids.last().filter(|_| is_relayed(address))
}

/// Whether only this machine is reached by an address.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Those addresses of a peer that are noted. Of each relay one, since it is a place at the relay that counts and not how one gets there; and
/// those first: all are dialled, so many at a time, and of the others some may lead nowhere from here.
pub(super) fn noted(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let (mut relayed, direct): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_relayed);
    relayed.sort_by_key(is_loopback);
    let mut relays = HashSet::new();
    relayed.retain(|address| relay(address).is_some_and(|relay| relays.insert(relay)));
    relayed.into_iter().chain(direct).take(limits::PEER_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_through_a_relay_keeps_the_relay() {
        let (relay_id, peer) = (PeerId::random(), PeerId::random());
        let through = address(&format!("/ip4/10.0.0.1/tcp/1/p2p/{relay_id}/p2p-circuit"));
        assert_eq!(bare(&through.clone().with(Protocol::P2p(peer))), through);
        assert!(is_relayed(&through) && relay(&through) == Some(relay_id));
        let direct = address("/ip4/10.0.0.1/tcp/1");
        assert_eq!(bare(&direct.clone().with(Protocol::P2p(peer))), direct);
        assert!(!is_relayed(&direct) && relay(&direct.with(Protocol::P2p(peer))).is_none());
    }

    #[test]
    fn one_address_through_each_relay_is_noted_and_those_first() {
        let relays = [PeerId::random(), PeerId::random()];
        let through = |ip: &str, relay: usize| address(&format!("/ip4/{ip}/tcp/1/p2p/{}/p2p-circuit", relays[relay]));
        let direct = address("/ip4/192.168.0.2/tcp/1");
        let said = [direct.clone(), through("127.0.0.1", 0), through("10.0.0.1", 0), through("127.0.0.1", 1)];
        assert_eq!(noted(&said), [through("10.0.0.1", 0), through("127.0.0.1", 1), direct]);
        let many: Vec<Multiaddr> = (0..100).map(|port| address(&format!("/ip4/10.0.0.1/tcp/{port}"))).collect();
        assert_eq!(noted(&many).len(), limits::PEER_ADDRESSES);
    }
}
