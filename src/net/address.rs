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

/// How far away an address may be used: on this machine only (2), on its local network only (1), or anywhere.
fn narrowness(address: &Multiaddr) -> u8 {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => 2,
        Some(Protocol::Ip4(ip)) if ip.is_private() || ip.is_link_local() => 1,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => 2,
        Some(Protocol::Ip6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => 1,
        _ => 0,
    }
}

/// Those of `addresses` that lead here from the farthest.
pub(super) fn widest(mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let least = addresses.iter().map(narrowness).min();
    addresses.retain(|address| Some(narrowness(address)) == least);
    addresses
}

/// Those addresses of a peer that are noted. Of each relay one, the one that leads there from the farthest; and those first: all are dialled,
/// so many at a time, and of the others some may lead nowhere from here.
pub(super) fn noted(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let (mut relayed, direct): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_relayed);
    // A peer says them in any order: the same are noted each time.
    relayed.sort_by_cached_key(|address| (narrowness(address), address.to_vec()));
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
        let mut said = [through("127.0.0.1", 0), through("10.0.0.1", 0), direct.clone(), through("203.0.113.1", 0)];
        assert_eq!(noted(&said), [through("203.0.113.1", 0), direct.clone()]);
        said[0] = through("172.17.0.1", 1);
        let one_each = noted(&said);
        assert_eq!((one_each.len(), one_each[2].clone()), (3, direct));
        said.reverse();
        assert_eq!(noted(&said), one_each);
        let of_relay =
            [address("/ip4/127.0.0.1/tcp/1"), address("/ip4/172.17.0.1/tcp/1"), address("/ip4/203.0.113.1/tcp/1")];
        assert_eq!(widest(of_relay.to_vec()), [of_relay[2].clone()]);
        assert_eq!(widest(of_relay[..2].to_vec()), [of_relay[1].clone()]);
        let many: Vec<Multiaddr> = (0..100).map(|port| address(&format!("/ip4/10.0.0.1/tcp/{port}"))).collect();
        assert_eq!(noted(&many).len(), limits::PEER_ADDRESSES);
    }
}
