//! [`Notices`]: what the user is told of connections that come to nothing, each thing once. Pure: it is told what happens and when, and says
//! what to warn of.
//!
//! Peers can invent as many ids as they like: how many are kept in mind is bounded, and how many are told of in a while.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use libp2p::allow_block_list::NotAllowed;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, DialError, ListenError};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use lru::LruCache;

use crate::net::address::bare;

/// Peers that were told of and are kept in mind.
const TOLD: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// So many peers that are turned away are told of in such a time.
const AT_MOST: (u32, Duration) = (10, Duration::from_secs(60));

/// What is wrong with an address to join through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trouble {
    Unreachable,
    AnotherPeer,
    OwnId,
    NotAllowed,
    Ended,
}

/// What was told, and what is yet to be told of.
pub(super) struct Notices {
    own: PeerId,
    /// Addresses to join through that the user has named.
    named: Vec<Multiaddr>,
    /// Dials of those, until the peer has said who it is.
    joining: HashMap<ConnectionId, Multiaddr>,
    /// Who was there.
    joined: LruCache<PeerId, ()>,
    told: HashSet<(Multiaddr, Trouble)>,
    told_of_networks: bool,
    turned_away: LruCache<PeerId, ()>,
    /// Since when peers that are turned away are counted, and how many were told of since then.
    lately: Option<(Instant, u32)>,
}

impl Notices {
    /// Of the peer `own`, whose user has `named` addresses to join through.
    pub(super) fn new(own: PeerId, named: Vec<Multiaddr>) -> Notices {
        Notices {
            own,
            named,
            joining: HashMap::new(),
            joined: LruCache::new(TOLD),
            told: HashSet::new(),
            told_of_networks: false,
            turned_away: LruCache::new(TOLD),
            lately: None,
        }
    }

    /// Whether the user has named `peer`, which was reached at `address`, to join through.
    pub(super) fn names(&self, peer: PeerId, address: &Multiaddr) -> bool {
        let is_it =
            |named: &Multiaddr| named.iter().last() == Some(Protocol::P2p(peer)) || bare(named) == bare(address);
        self.joined.contains(&peer) || self.named.iter().any(is_it)
    }

    /// An address is dialled to join through it.
    pub(super) fn joins(&mut self, dial: ConnectionId, address: &Multiaddr) {
        if self.named.contains(address) {
            self.joining.insert(dial, address.clone());
        }
    }

    /// A dial, of `peer` if that was asked for, came to nothing. This node listens at `own`.
    pub(super) fn failed<'a>(
        &mut self,
        dial: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
        mut own: impl Iterator<Item = &'a Multiaddr>,
    ) -> Option<String> {
        let address = self.joining.remove(&dial)?;
        let (trouble, why) = match (error, peer) {
            (DialError::Transport(tried), _) => {
                let (_, why) = tried.first()?;
                (Trouble::Unreachable, format!("{}; it is tried again", cause(why)))
            }
            (DialError::WrongPeerId { obtained, .. }, Some(expected)) => (
                Trouble::AnotherPeer,
                format!("{expected} was expected there, and {obtained} answers; if that is right, name it so"),
            ),
            // One list of addresses may serve all machines.
            (DialError::LocalPeerId { address: there }, _) => match own.any(|own| bare(own) == bare(there)) {
                true => return None,
                false => (
                    Trouble::OwnId,
                    format!(
                        "it has this node's own id, {}; if that is another node, one of them needs a peer.key of its own",
                        self.own
                    ),
                ),
            },
            (DialError::Denied { cause }, Some(peer)) if cause.downcast_ref::<NotAllowed>().is_some() => {
                (Trouble::NotAllowed, format!("{peer} is not on this node's list of peers (`allow`)"))
            }
            _ => return None,
        };
        let text = format!("cannot join through {address}: {why}");
        self.told.insert((address, trouble)).then_some(text)
    }

    /// Nothing is to be told of a connection any more: `peer` has said who it is.
    pub(super) fn settled(&mut self, connection: ConnectionId, peer: PeerId) {
        if self.joining.remove(&connection).is_some() {
            self.joined.put(peer, ());
        }
    }

    /// Nor of one that has ended, while the peer has another.
    pub(super) fn ended_early(&mut self, connection: ConnectionId) {
        self.joining.remove(&connection);
    }

    /// The last connection to a peer has ended, and not by this node's doing if that is `lost`.
    pub(super) fn ended(&mut self, connection: ConnectionId, peer: &PeerId, lost: bool) -> Option<String> {
        let address = self.joining.remove(&connection).filter(|_| lost)?;
        let text = format!(
            "{peer} at {address} ended the connection at once: this peer, {}, may not be on its list (`allow`), or of another network",
            self.own
        );
        self.told.insert((address, Trouble::Ended)).then_some(text)
    }

    /// A connection of `peer` was not let in.
    pub(super) fn turned_away(&mut self, peer: Option<PeerId>, error: &ListenError, now: Instant) -> Option<String> {
        let ListenError::Denied { cause } = error else { return None };
        let peer = peer.filter(|_| cause.downcast_ref::<NotAllowed>().is_some())?;
        if self.turned_away.get(&peer).is_some() {
            return None;
        }
        let (most, time) = AT_MOST;
        let (since, count) =
            self.lately.filter(|(since, _)| now.saturating_duration_since(*since) < time).unwrap_or((now, 0));
        if count >= most {
            return None;
        }
        self.lately = Some((since, count + 1));
        self.turned_away.put(peer, ());
        Some(format!("{peer} is turned away: it is not on this node's list of peers (`allow`)"))
    }

    /// A peer does not speak this network's Kademlia. The user is told of the first: both sides think that they have joined.
    pub(super) fn stranger(&mut self, peer: &PeerId, kad: &StreamProtocol) -> Option<String> {
        let is_news = !std::mem::replace(&mut self.told_of_networks, true);
        is_news.then(|| {
            format!(
                "{peer} is of another network: it does not speak {kad}; nodes of one network have the same network_id"
            )
        })
    }
}

/// What an error comes from: those of transports are wrapped many times, in words that say nothing.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    let inner = wrapped.map(|error| error as _).or_else(|| error.source());
    inner.map(cause).filter(|text| !text.is_empty()).unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use libp2p::allow_block_list::{AllowedPeers, Behaviour};
    use libp2p::swarm::{ConnectionDenied, NetworkBehaviour as _};

    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn dial(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    /// Why a peer is not let in.
    fn not_allowed(peer: PeerId) -> ConnectionDenied {
        let (mut list, nowhere) = (Behaviour::<AllowedPeers>::default(), Multiaddr::empty());
        list.handle_established_inbound_connection(dial(0), peer, &nowhere, &nowhere).err().unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_named_address_is_told_once() {
        let (own, peer, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let (here, there) = (address("/ip4/10.0.0.1/tcp/1"), address("/ip4/10.0.0.2/tcp/2"));
        let mut notices = Notices::new(own, vec![there.clone()]);
        let mut number = 0;
        let mut told = |of: &Multiaddr, error: DialError| {
            number += 1;
            notices.joins(dial(number), of);
            notices.failed(dial(number), Some(peer), &error, [here.clone()].iter()).unwrap_or_default()
        };
        let wrong = || DialError::WrongPeerId { obtained: other, address: there.clone() };
        assert_eq!(told(&here, wrong()), "", "nobody has named it");
        let text = told(&there, wrong());
        assert!([there.to_string(), peer.to_string(), other.to_string()].iter().all(|part| text.contains(part)));
        assert_eq!(told(&there, wrong()), "");
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let unreachable = || DialError::Transport(vec![(there.clone(), libp2p::TransportError::Other(refused()))]);
        assert!(told(&there, unreachable()).contains("tried again"), "another trouble");
        assert!(told(&there, DialError::Denied { cause: not_allowed(peer) }).contains("`allow`"));
        assert_eq!(told(&there, DialError::LocalPeerId { address: here.clone() }), "", "it is this node itself");
        assert!(told(&there, DialError::LocalPeerId { address: there.clone() }).contains("peer.key"));
        assert_eq!(told(&there, DialError::Aborted), "");
        assert!(notices.joining.is_empty());
    }

    #[test]
    fn a_peer_that_leaves_without_a_word_is_told_of() {
        let (own, peer, there) = (PeerId::random(), PeerId::random(), address("/memory/1"));
        let mut notices = Notices::new(own, vec![there.clone()]);
        let mut ended = |greets: bool, lost: bool| {
            notices.joins(dial(1), &there);
            if greets {
                notices.settled(dial(1), peer);
            }
            notices.ended(dial(1), &peer, lost).unwrap_or_default()
        };
        assert_eq!(ended(true, true), "", "it has said who it is");
        assert_eq!(ended(false, false), "", "this node ends");
        assert!(ended(false, true).contains(&own.to_string()));
        assert_eq!(ended(false, true), "", "once");
    }

    #[test]
    fn peers_that_invent_ids_fill_neither_the_log_nor_memory() {
        let (mut notices, start) = (Notices::new(PeerId::random(), Vec::new()), Instant::now());
        let mut told = |peer: PeerId, now: Instant| {
            let error = ListenError::Denied { cause: not_allowed(peer) };
            notices.turned_away(Some(peer), &error, now).is_some()
        };
        let (peer, (most, time)) = (PeerId::random(), AT_MOST);
        assert!(told(peer, start) && !told(peer, start));
        let flood = (0..10 * most).filter(|_| told(PeerId::random(), start)).count() as u32;
        assert_eq!(flood, most - 1);
        assert!(!told(peer, start + time), "it is kept in mind");
        assert!((1..100).all(|round| told(PeerId::random(), start + round * time)));
        assert!(notices.turned_away.len() <= TOLD.get());
        assert_eq!(notices.turned_away(None, &ListenError::Aborted, start), None);
    }
}
