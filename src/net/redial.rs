//! [`Redial`]: peers that were here and cannot be reached are tried again by itself, less often the longer they are away, and not by anybody
//! else in between.
//!
//! Kademlia forgets a peer that cannot be dialled. Without this, the two halves of a network that was cut would each forget the other, and
//! stay apart when the cut is mended; and until they had forgotten, every lookup would wait for connections that do not come.
//!
//! Peers that are named on the local network, which anybody there can do, are tried again for a while too, but never in place of those
//! that showed that they are of this network. Peers that were only heard of, from others that have not noticed yet that they are gone, are
//! left alone for a while.
//!
//! A try is a dial of an address, and not of a peer: whoever dials the peer meanwhile would wait for it. Only a relay has to be told whom it is
//! asked for.

use std::collections::{HashMap, HashSet, VecDeque};
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

use crate::net::address::{bare, is_relayed};

/// Peers that were connected: so many are kept in mind, the last ones heard of, and tried for so long.
const MET: (NonZeroUsize, Duration) = (NonZeroUsize::new(1024).unwrap(), Duration::from_secs(24 * 3600));

/// The same for peers that were only named on the local network.
const NAMED: (NonZeroUsize, Duration) = (NonZeroUsize::new(32).unwrap(), Duration::from_secs(300));

/// Peers that others spoke of, and that could not be reached.
const HEARD: (NonZeroUsize, Duration) = (NonZeroUsize::new(256).unwrap(), Duration::from_secs(300));

/// Peers that are tried at the same time.
const AT_ONCE: usize = 16;

/// The time between two tries: a quarter of how long the peer has been away, within these bounds.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(300);

/// How long at least a peer that others spoke of is left alone. Nobody looks meanwhile whether it is there.
const HEARD_PAUSE: Duration = Duration::from_secs(15);

/// Why a peer is not dialled now.
#[derive(Debug, thiserror::Error)]
#[error("it could not be reached a moment ago")]
struct Resting;

/// A peer that cannot be reached.
#[derive(Debug)]
struct Away {
    since: Instant,
    next: Instant,
    /// The dials by which it is being tried.
    under_way: Vec<ConnectionId>,
}

/// Where peers were reached, and which of them are away. Pure: it is told the time.
#[derive(Debug)]
struct Peers {
    addresses: LruCache<PeerId, Vec<Multiaddr>>,
    away: HashMap<PeerId, Away>,
    patience: Duration,
    /// The shortest time between two tries.
    pause: Duration,
}

impl Peers {
    fn new((room, patience): (NonZeroUsize, Duration)) -> Peers {
        Peers { addresses: LruCache::new(room), away: HashMap::new(), patience, pause: *PAUSE.start() }
    }

    /// A peer is at `addresses`. At new ones it is worth a try at once.
    fn known(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        let new = addresses.iter().any(|address| !self.knows(&peer, address));
        if let Some(away) = self.away.get_mut(&peer).filter(|_| new) {
            (away.since, away.next) = (now, now);
        }
        if let Some((forgotten, _)) = self.addresses.push(peer, addresses).filter(|(pushed, _)| *pushed != peer) {
            self.away.remove(&forgotten);
        }
    }

    fn forget(&mut self, peer: &PeerId) {
        self.addresses.pop(peer);
        self.away.remove(peer);
    }

    fn reached(&mut self, peer: &PeerId) {
        self.away.remove(peer);
    }

    fn failed(&mut self, peer: &PeerId, now: Instant) {
        if !self.addresses.contains(peer) {
            return;
        }
        let away = self.away.entry(*peer).or_insert(Away { since: now, next: now, under_way: Vec::new() });
        let gone = now.saturating_duration_since(away.since);
        away.next = now + (gone / 4).clamp(self.pause, *PAUSE.end());
        if gone > self.patience {
            self.forget(peer);
        }
    }

    /// A dial by which somebody was tried came to nothing, or to somebody else.
    fn missed(&mut self, dial: ConnectionId, now: Instant) {
        let Some((peer, away)) = self.away.iter_mut().find(|(_, away)| away.under_way.contains(&dial)) else { return };
        away.under_way.retain(|other| *other != dial);
        if away.under_way.is_empty() {
            let peer = *peer;
            self.failed(&peer, now);
        }
    }

    /// Nobody rests any more.
    fn hurry(&mut self, now: Instant) {
        for away in self.away.values_mut() {
            away.next = away.next.min(now);
        }
    }

    fn rests(&self, peer: &PeerId, now: Instant) -> bool {
        self.away.get(peer).is_some_and(|away| now < away.next || !away.under_way.is_empty())
    }

    fn knows(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        let bare = |address: &Multiaddr| address.clone().with_p2p(*peer).unwrap_or_else(|address| address);
        self.addresses.peek(peer).is_some_and(|known| known.iter().any(|known| bare(known) == bare(address)))
    }

    fn under_way(&self) -> usize {
        self.away.values().filter(|away| !away.under_way.is_empty()).count()
    }

    /// Whether a dial is one of those by which somebody is tried.
    fn tries(&self, dial: ConnectionId) -> bool {
        self.away.values().any(|away| away.under_way.contains(&dial))
    }

    /// The next peer to try, if it is time for one.
    fn due(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        let waiting = self.away.iter().filter(|(_, away)| away.under_way.is_empty() && away.next <= now);
        let (peer, _) = waiting.min_by_key(|(_, away)| away.next)?;
        Some((*peer, self.addresses.peek(peer).cloned().unwrap_or_default()))
    }

    fn tried(&mut self, peer: &PeerId, dials: Vec<ConnectionId>, now: Instant) {
        match self.away.get_mut(peer) {
            Some(away) if !dials.is_empty() => away.under_way = dials,
            _ => self.failed(peer, now),
        }
    }

    /// When the next peer is to be tried.
    fn next(&self) -> Option<Instant> {
        self.away.values().filter(|away| away.under_way.is_empty()).map(|away| away.next).min()
    }
}

/// The behaviour of a swarm.
pub(crate) struct Redial {
    met: Peers,
    named: Peers,
    heard: Peers,
    connected: HashSet<PeerId>,
    /// Tries that are to be made.
    dials: VecDeque<DialOpts>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Redial {
    pub(super) fn new() -> Redial {
        Redial {
            met: Peers::new(MET),
            named: Peers::new(NAMED),
            heard: Peers { pause: HEARD_PAUSE, ..Peers::new(HEARD) },
            connected: HashSet::new(),
            dials: VecDeque::new(),
            timer: None,
        }
    }

    /// A peer of this network is connected, and can be reached at `addresses`.
    pub(super) fn met(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.named.forget(&peer);
        self.heard.forget(&peer);
        self.met.known(peer, addresses, Instant::now());
    }

    /// Somebody on the local network says that a peer is at `addresses`.
    pub(super) fn named(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.named.known(peer, addresses, Instant::now());
    }

    /// Nobody is connected: whoever may be there again is not to be waited for.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        self.met.hurry(now);
        self.heard.hurry(now);
    }

    fn all(&mut self) -> [&mut Peers; 3] {
        [&mut self.met, &mut self.named, &mut self.heard]
    }

    /// Somebody dialled a peer in vain.
    fn failed(&mut self, peer: PeerId, error: &DialError) {
        let now = Instant::now();
        if self.connected.contains(&peer) {
            // A dial that crosses a connection says nothing.
            self.all().into_iter().for_each(|peers| peers.reached(&peer));
            return;
        }
        let DialError::Transport(tried) = error else { return };
        let (known, new): (Vec<_>, Vec<_>) =
            tried.iter().map(|(address, _)| address.clone()).partition(|address| self.is_known(&peer, address));
        // What became of a dial elsewhere says nothing of where it was found.
        if known.is_empty() && !self.met.addresses.contains(&peer) && !self.named.addresses.contains(&peer) {
            self.heard.known(peer, new, now);
            self.heard.failed(&peer, now);
        } else if !known.is_empty() {
            self.all().into_iter().for_each(|peers| peers.failed(&peer, now));
        }
    }

    fn is_known(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        [&self.met, &self.named, &self.heard].into_iter().any(|peers| peers.knows(peer, address))
    }

    fn rests(&self, peer: &PeerId, now: Instant) -> bool {
        self.met.rests(peer, now) || self.heard.rests(peer, now)
    }

    /// Tries the next peer that it is time for; false if there is none.
    fn try_next(&mut self, now: Instant) -> bool {
        for peers in [&mut self.met, &mut self.named] {
            let Some((peer, addresses)) = peers.due(now) else { continue };
            // A relay must be told whom it is asked for.
            let dial = |address: Multiaddr| match is_relayed(&address) {
                true => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build(),
                false => DialOpts::unknown_peer_id().address(bare(&address)).build(),
            };
            let dials: Vec<DialOpts> = addresses.into_iter().map(dial).collect();
            peers.tried(&peer, dials.iter().map(DialOpts::connection_id).collect(), now);
            self.dials.extend(dials);
            return true;
        }
        false
    }
}

impl NetworkBehaviour for Redial {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        dial: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        // At an address where it was not tried it may be.
        let vain = |peer: &PeerId| addresses.iter().all(|address| self.is_known(peer, address));
        let is_try = self.met.tries(dial) || self.named.tries(dial);
        match peer.is_some_and(|peer| !is_try && self.rests(&peer, Instant::now()) && vain(&peer)) {
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
            FromSwarm::ConnectionEstablished(established) => {
                self.connected.insert(established.peer_id);
                for peers in self.all() {
                    peers.reached(&established.peer_id);
                    peers.missed(established.connection_id, Instant::now());
                }
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.connected.remove(&closed.peer_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.all().into_iter().for_each(|peers| peers.missed(failure.connection_id, Instant::now()));
                if let Some(peer) = failure.peer_id {
                    self.failed(peer, failure.error);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        loop {
            if let Some(opts) = self.dials.pop_front() {
                return Poll::Ready(ToSwarm::Dial { opts });
            }
            // The end of one of them is an event, after which this is asked again.
            if self.met.under_way() + self.named.under_way() >= AT_ONCE {
                return Poll::Pending;
            }
            if self.try_next(Instant::now()) {
                continue;
            }
            let next = [&self.met, &self.named].into_iter().filter_map(Peers::next).min();
            let Some(next) = next else { return Poll::Pending };
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

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    /// Takes the next peer that is due and tries it.
    fn try_next(peers: &mut Peers, now: Instant) -> Option<PeerId> {
        let (peer, addresses) = peers.due(now)?;
        let dials = addresses.into_iter().map(|address| DialOpts::unknown_peer_id().address(address).build());
        peers.tried(&peer, dials.map(|dial| dial.connection_id()).collect(), now);
        Some(peer)
    }

    /// All the tries of a peer came to nothing.
    fn miss(peers: &mut Peers, peer: &PeerId, now: Instant) {
        for dial in peers.away[peer].under_way.clone() {
            peers.missed(dial, now);
        }
    }

    #[test]
    fn who_is_away_is_tried_less_and_less_often_until_it_is_there() {
        let (mut peers, start) = (Peers::new(MET), Instant::now());
        let (peer, stranger) = (PeerId::random(), PeerId::random());
        peers.known(peer, vec![address(1)], start);
        peers.failed(&stranger, start);
        assert_eq!(peers.next(), None, "one that never was here is nobody's loss");
        let (mut now, mut tries) = (start, Vec::new());
        peers.failed(&peer, now);
        while now < start + seconds(7200) {
            assert!(peers.rests(&peer, now) && try_next(&mut peers, now).is_none());
            now = peers.next().unwrap();
            assert!(!peers.rests(&peer, now));
            assert_eq!(try_next(&mut peers, now), Some(peer));
            assert!(try_next(&mut peers, now).is_none() && peers.next().is_none(), "one try at a time");
            assert!(peers.rests(&peer, now), "nobody else waits for it");
            tries.push((now - start).as_secs());
            miss(&mut peers, &peer, now);
        }
        assert_eq!(tries[..6], [2, 4, 6, 8, 10, 12]);
        assert!(tries.len() < 60 && tries.windows(2).all(|pair| pair[1] - pair[0] <= 300), "{tries:?}");
        assert!(peers.rests(&peer, now));
        peers.known(peer, vec![address(1)], now);
        assert!(peers.rests(&peer, now), "nothing is new");
        peers.known(peer, vec![address(2)], now);
        assert!(!peers.rests(&peer, now), "it may be at its new address");
        peers.failed(&peer, now);
        peers.hurry(now);
        assert!(try_next(&mut peers, now).is_some(), "there is nobody else");
        peers.reached(&peer);
        assert!(peers.next().is_none() && !peers.rests(&peer, now));
        peers.failed(&peer, now);
        peers.failed(&peer, now + MET.1 + seconds(1));
        assert_eq!((peers.next(), peers.addresses.len()), (None, 0), "it is given up");
    }

    #[test]
    fn no_more_are_kept_in_mind_or_tried_than_there_is_room_for() {
        let (mut redial, now) = (Redial::new(), Instant::now());
        for _ in 0..2 * MET.0.get() {
            let (met, named) = (PeerId::random(), PeerId::random());
            redial.met(met, vec![address(1)]);
            redial.named(named, vec![address(2)]);
            redial.met.failed(&met, now);
            redial.named.failed(&named, now);
        }
        assert_eq!((redial.met.addresses.len(), redial.met.away.len()), (MET.0.get(), MET.0.get()));
        assert_eq!((redial.named.addresses.len(), redial.named.away.len()), (NAMED.0.get(), NAMED.0.get()));
        redial.hurry();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let dials =
            std::iter::from_fn(|| matches!(redial.poll(&mut cx), Poll::Ready(ToSwarm::Dial { .. })).then_some(()));
        assert_eq!(dials.count(), AT_ONCE, "and then it waits for one of them to end");
    }

    fn failure(port: u16) -> DialError {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        DialError::Transport(vec![(address(port), libp2p::TransportError::Other(refused))])
    }

    /// Whether a dial of `peer` at an address is let through.
    fn is_dialled(redial: &mut Redial, peer: PeerId, port: u16) -> bool {
        let dial = DialOpts::peer_id(peer).build().connection_id();
        redial.handle_pending_outbound_connection(dial, Some(peer), &[address(port)], Endpoint::Dialer).is_ok()
    }

    #[test]
    fn a_dial_that_crosses_a_connection_leaves_nobody_away() {
        let (mut redial, peer) = (Redial::new(), PeerId::random());
        redial.met(peer, vec![address(1)]);
        redial.failed(peer, &failure(9));
        assert!(redial.met.away.is_empty(), "it was never there");
        redial.failed(peer, &failure(1));
        assert!(!is_dialled(&mut redial, peer, 1) && is_dialled(&mut redial, peer, 9));
        redial.connected.insert(peer);
        redial.failed(peer, &failure(1));
        assert!(redial.met.away.is_empty());
    }

    #[test]
    fn who_was_only_heard_of_rests_and_is_not_tried_again() {
        let (mut redial, peer) = (Redial::new(), PeerId::random());
        redial.failed(peer, &failure(1));
        assert!(!is_dialled(&mut redial, peer, 1) && is_dialled(&mut redial, peer, 9));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(redial.poll(&mut cx).is_pending() && redial.timer.is_none());
        redial.met(peer, vec![address(1)]);
        assert!(is_dialled(&mut redial, peer, 1));
    }
}
