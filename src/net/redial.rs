//! [`Redial`]: peers that were here and cannot be reached are tried again by itself, less often the longer they are away, and not by anybody
//! else in between.
//!
//! Kademlia forgets a peer that cannot be dialled. Without this, the two halves of a network that was cut would each forget the other, and
//! stay apart when the cut is mended; and until they had forgotten, every lookup would wait for connections that do not come.

use std::collections::HashMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use lru::LruCache;

/// Peers that are kept in mind, the last ones heard of.
const PEERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Peers that are tried at the same time.
const AT_ONCE: usize = 16;

/// The time between two tries: a quarter of how long the peer has been away, within these bounds.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(300);

/// How long a peer is tried before it is taken for gone.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Why a peer is not dialled now.
#[derive(Debug, thiserror::Error)]
#[error("it could not be reached a moment ago")]
struct Resting;

/// A peer that cannot be reached.
#[derive(Debug)]
struct Away {
    since: Instant,
    next: Instant,
    /// It is being tried.
    under_way: bool,
}

/// The peers that were connected, and which of them are away. Pure: it is told the time.
#[derive(Debug)]
struct Peers {
    addresses: LruCache<PeerId, Vec<Multiaddr>>,
    away: HashMap<PeerId, Away>,
}

impl Peers {
    fn new() -> Peers {
        Peers { addresses: LruCache::new(PEERS), away: HashMap::new() }
    }

    fn known(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if let Some((forgotten, _)) = self.addresses.push(peer, addresses).filter(|(pushed, _)| *pushed != peer) {
            self.away.remove(&forgotten);
        }
    }

    fn reached(&mut self, peer: &PeerId) {
        self.away.remove(peer);
    }

    fn failed(&mut self, peer: &PeerId, now: Instant) {
        if !self.addresses.contains(peer) {
            return;
        }
        let away = self.away.entry(*peer).or_insert(Away { since: now, next: now, under_way: false });
        let gone = now.saturating_duration_since(away.since);
        away.under_way = false;
        away.next = now + (gone / 4).clamp(*PAUSE.start(), *PAUSE.end());
        if gone > PATIENCE {
            self.addresses.pop(peer);
            self.away.remove(peer);
        }
    }

    fn rests(&self, peer: &PeerId, now: Instant) -> bool {
        self.away.get(peer).is_some_and(|away| now < away.next)
    }

    /// The next peer to try, if it is time for one.
    fn due(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        if self.away.values().filter(|away| away.under_way).count() >= AT_ONCE {
            return None;
        }
        let waiting = self.away.iter_mut().filter(|(_, away)| !away.under_way && away.next <= now);
        let (peer, away) = waiting.min_by_key(|(_, away)| away.next)?;
        away.under_way = true;
        Some((*peer, self.addresses.peek(peer).cloned().unwrap_or_default()))
    }

    /// When the next peer is to be tried.
    fn next(&self) -> Option<Instant> {
        self.away.values().filter(|away| !away.under_way).map(|away| away.next).min()
    }
}

/// The behaviour of a swarm.
pub(crate) struct Redial {
    peers: Peers,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Redial {
    pub(super) fn new() -> Redial {
        Redial { peers: Peers::new(), timer: None }
    }

    /// A peer of this network is connected, and can be reached at `addresses`.
    pub(super) fn known(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.peers.known(peer, addresses);
    }
}

impl NetworkBehaviour for Redial {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match peer.is_some_and(|peer| self.peers.rests(&peer, Instant::now())) {
            true => Err(ConnectionDenied::new(Resting)),
            false => Ok(Vec::new()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => self.peers.reached(&established.peer_id),
            FromSwarm::DialFailure(failure) => match (failure.peer_id, failure.error) {
                (Some(peer), DialError::Transport(_)) => self.peers.failed(&peer, Instant::now()),
                // Whatever else kept it from being dialled, it is not being tried any more.
                (Some(peer), _) => {
                    if let Some(away) = self.peers.away.get_mut(&peer).filter(|away| away.under_way) {
                        away.under_way = false;
                        away.next = Instant::now() + *PAUSE.start();
                    }
                }
                (None, _) => {}
            },
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        loop {
            if let Some((peer, addresses)) = self.peers.due(Instant::now()) {
                let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
                return Poll::Ready(ToSwarm::Dial { opts: options.addresses(addresses).build() });
            }
            let Some(next) = self.peers.next() else { return Poll::Pending };
            let timer = self.timer.insert(Box::pin(tokio::time::sleep_until(next.into())));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_away_is_tried_less_and_less_often_until_it_is_there() {
        let (mut peers, start) = (Peers::new(), Instant::now());
        let (peer, stranger) = (PeerId::random(), PeerId::random());
        peers.known(peer, vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()]);
        peers.failed(&stranger, start);
        assert_eq!(peers.next(), None, "one that never was here is nobody's loss");
        let (mut now, mut tries) = (start, Vec::new());
        peers.failed(&peer, now);
        while now < start + seconds(7200) {
            assert!(peers.rests(&peer, now) && peers.due(now).is_none());
            now = peers.next().unwrap();
            assert!(!peers.rests(&peer, now));
            assert_eq!(peers.due(now).unwrap().0, peer);
            assert!(peers.due(now).is_none() && peers.next().is_none(), "one try at a time");
            tries.push((now - start).as_secs());
            peers.failed(&peer, now);
        }
        assert_eq!(tries[..6], [2, 4, 6, 8, 10, 12]);
        assert!(tries.len() < 60 && tries.windows(2).all(|pair| pair[1] - pair[0] <= 300), "{tries:?}");
        peers.reached(&peer);
        assert!(peers.next().is_none() && !peers.rests(&peer, now));
        peers.failed(&peer, now);
        peers.failed(&peer, now + PATIENCE + seconds(1));
        assert_eq!(peers.next(), None, "it is given up");
    }

    #[test]
    fn no_more_are_kept_in_mind_or_tried_than_there_is_room_for() {
        let (mut peers, now) = (Peers::new(), Instant::now());
        for _ in 0..2 * PEERS.get() {
            let peer = PeerId::random();
            peers.known(peer, Vec::new());
            peers.failed(&peer, now);
        }
        assert_eq!((peers.addresses.len(), peers.away.len()), (PEERS.get(), PEERS.get()));
        let later = now + seconds(10);
        assert_eq!(std::iter::from_fn(|| peers.due(later)).count(), AT_ONCE);
    }
}
