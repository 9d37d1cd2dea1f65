//! [`Relays`]: through which peers a node is reached that cannot be reached itself. Pure: it is told what happens and when.
//!
//! It keeps a place at two of those that relay, of its own network and connected to it directly: so it is still reached when one of them goes.
//! Whoever gives it a place sees who comes, and can keep them away. So those that its user has named go first, and others are asked only when
//! none of those has been there for a while.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId};
use rand::seq::IteratorRandom as _;

/// So many relays does a node keep a place at.
const WANTED: usize = 2;

/// How long a relay that gave no place is not asked.
const REFUSED: Duration = Duration::from_secs(30);

/// How long one is not asked whose place was lost: what is lost is not always the relay's doing.
const LOST: Duration = Duration::from_secs(2);

/// How long there may be no place until the user is told, and no relay that the user has named until others are asked.
const PATIENCE: Duration = Duration::from_secs(15);

/// A peer that relays.
#[derive(Debug)]
struct Offer {
    /// Where others find it.
    address: Multiaddr,
    /// The user has told this node to join through it.
    named: bool,
}

/// A place at a relay, or the wait for one.
#[derive(Debug)]
struct Place {
    relay: PeerId,
    named: bool,
    given: bool,
}

#[derive(Debug)]
pub(super) struct Relays {
    wanted: usize,
    offers: BTreeMap<PeerId, Offer>,
    places: HashMap<ListenerId, Place>,
    /// Until when some are not asked, whether or not they relay meanwhile.
    rests: HashMap<PeerId, Instant>,
    /// The user has named some to join through, and so none but those is asked before then.
    strangers: Option<Instant>,
    /// When the user is told that there is no place, unless there is one by then.
    complain: Option<Instant>,
}

impl Relays {
    /// Of a node that needs some or does not, and whose user has named peers to join through or not.
    pub(super) fn new(needed: bool, named: bool, now: Instant) -> Relays {
        let (wanted, later) = if needed { (WANTED, Some(now + PATIENCE)) } else { (0, None) };
        let (offers, places, rests) = Default::default();
        Relays { wanted, offers, places, rests, strangers: later.filter(|_| named), complain: later }
    }

    /// A peer that is connected directly relays, and others find it at `address`; whether the user has `named` it.
    pub(super) fn offered(&mut self, peer: PeerId, address: Multiaddr, named: bool) {
        if self.wanted > 0 {
            self.offers.insert(peer, Offer { address, named });
        }
    }

    /// A peer relays no longer, or is gone.
    pub(super) fn withdrawn(&mut self, peer: &PeerId, now: Instant) {
        if self.offers.remove(peer).is_some_and(|offer| offer.named) {
            self.strangers = Some(now + PATIENCE);
        }
    }

    /// Those that may be asked, if not now, then when some time is over: with the time.
    fn eligible(&self) -> impl Iterator<Item = (&PeerId, &Offer, Option<Instant>)> {
        let any_named = self.offers.values().any(|offer| offer.named);
        // A stranger's place is no reason not to ask one that is named.
        let lacks_named = self.places.values().filter(|place| place.named).count() < self.wanted;
        let lacks_any = self.places.len() < self.wanted && !any_named;
        let held = |peer: &PeerId| self.places.values().any(|place| place.relay == *peer);
        let may =
            move |(peer, offer): &(&PeerId, &Offer)| (if offer.named { lacks_named } else { lacks_any }) && !held(peer);
        self.offers.iter().filter(may).map(|(peer, offer)| {
            let strangers = self.strangers.filter(|_| !offer.named);
            (peer, offer, self.rests.get(peer).copied().max(strangers))
        })
    }

    /// The next peer to ask for a place, if one is needed.
    pub(super) fn next(&self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        let free = self.eligible().filter(|(.., from)| from.is_none_or(|from| from <= now));
        let (peer, offer, _) = free.choose(&mut rand::rng())?;
        Some((*peer, offer.address.clone()))
    }

    /// `peer` was asked for a place, which `listener` stands for.
    pub(super) fn asked(&mut self, peer: PeerId, listener: ListenerId) {
        let named = self.offers.get(&peer).is_some_and(|offer| offer.named);
        self.places.insert(listener, Place { relay: peer, named, given: false });
    }

    /// `peer` cannot be asked.
    pub(super) fn failed(&mut self, peer: PeerId, now: Instant) {
        self.rest(peer, now + REFUSED, now);
    }

    fn rest(&mut self, peer: PeerId, until: Instant, now: Instant) {
        self.rests.retain(|_, until| *until > now);
        self.rests.insert(peer, until);
    }

    /// The place that `listener` stands for is given: others reach this node. False if that is known, or it stands for none.
    pub(super) fn given(&mut self, listener: ListenerId) -> bool {
        let Some(place) = self.places.get_mut(&listener) else { return false };
        self.complain = None;
        !std::mem::replace(&mut place.given, true)
    }

    /// The place that `listener` stands for is gone, or was refused.
    pub(super) fn ended(&mut self, listener: ListenerId, now: Instant) {
        let Some(Place { relay, given, .. }) = self.places.remove(&listener) else { return };
        self.rest(relay, now + if given { LOST } else { REFUSED }, now);
        if given && !self.places.values().any(|place| place.given) {
            self.complain.get_or_insert(now + PATIENCE);
        }
    }

    /// What the user is to be told by now.
    pub(super) fn notice(&mut self, now: Instant) -> Option<&'static str> {
        self.complain.take_if(|until| *until <= now)?;
        Some(
            "no relay gives this node a place: others do not reach it, if it is behind a NAT; run a node that they all reach with `--relay`, and join it",
        )
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.eligible().filter_map(|(.., from)| from).chain(self.complain).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn peers<const N: usize>() -> [PeerId; N] {
        std::array::from_fn(|_| PeerId::random())
    }

    /// Asks the next relay, which gives a place.
    fn ask(relays: &mut Relays, now: Instant) -> Option<(PeerId, ListenerId)> {
        let (peer, _) = relays.next(now)?;
        let listener = ListenerId::next();
        relays.asked(peer, listener);
        assert!(relays.given(listener) && !relays.given(listener));
        Some((peer, listener))
    }

    #[test]
    fn a_node_keeps_two_places_and_replaces_one_that_it_loses() {
        let start = Instant::now();
        let mut relays = Relays::new(true, false, start);
        let peers: [PeerId; 4] = peers();
        peers.iter().zip(1..).for_each(|(peer, port)| relays.offered(*peer, address(port), false));
        let (first, listener) = ask(&mut relays, start).unwrap();
        let (second, _) = ask(&mut relays, start).unwrap();
        assert!(first != second && ask(&mut relays, start).is_none() && relays.due().is_none());
        relays.ended(listener, start);
        let (third, listener) = ask(&mut relays, start).unwrap();
        assert!(third != first && third != second, "one whose place was lost rests");
        relays.ended(listener, start);
        let (fourth, listener) = ask(&mut relays, start).unwrap();
        relays.withdrawn(&fourth, start);
        relays.ended(listener, start);
        assert!(ask(&mut relays, start).is_none());
        assert_eq!(relays.due(), Some(start + LOST));
        assert!([first, third].contains(&ask(&mut relays, start + LOST).unwrap().0));
    }

    #[test]
    fn who_refuses_is_left_alone_whatever_it_offers_meanwhile() {
        let start = Instant::now();
        let mut relays = Relays::new(true, false, start);
        let [peer] = peers();
        relays.offered(peer, address(1), false);
        let listener = ListenerId::next();
        relays.asked(relays.next(start).unwrap().0, listener);
        relays.ended(listener, start);
        relays.withdrawn(&peer, start);
        relays.offered(peer, address(2), false);
        assert!(relays.next(start).is_none() && relays.due() == Some(start + PATIENCE));
        assert!(relays.notice(start + PATIENCE).is_some() && relays.due() == Some(start + REFUSED));
        assert_eq!(relays.next(start + REFUSED), Some((peer, address(2))));
    }

    #[test]
    fn relays_that_the_user_has_named_go_before_all_others() {
        let start = Instant::now();
        let mut relays = Relays::new(true, true, start);
        let [named, other] = peers();
        relays.offered(other, address(1), false);
        assert!(ask(&mut relays, start).is_none() && relays.due() == Some(start + PATIENCE));
        relays.offered(named, address(2), true);
        assert_eq!(ask(&mut relays, start).unwrap().0, named);
        let later = start + PATIENCE;
        assert!(ask(&mut relays, later).is_none());
        relays.withdrawn(&named, later);
        assert!(ask(&mut relays, later).is_none(), "it may be back in a moment");
        assert_eq!(ask(&mut relays, later + PATIENCE).unwrap().0, other);
    }

    #[test]
    fn strangers_take_no_place_of_relays_that_the_user_has_named() {
        let start = Instant::now();
        let mut relays = Relays::new(true, true, start);
        let [named, first, second] = peers();
        relays.offered(first, address(1), false);
        relays.offered(second, address(2), false);
        let later = start + PATIENCE;
        assert!(ask(&mut relays, later).is_some() && ask(&mut relays, later).is_some());
        relays.offered(named, address(3), true);
        assert_eq!(ask(&mut relays, later).unwrap().0, named);
        assert!(ask(&mut relays, later).is_none());
    }

    #[test]
    fn that_there_is_no_place_is_told_once() {
        let start = Instant::now();
        let mut relays = Relays::new(true, false, start);
        assert_eq!((relays.due(), relays.notice(start)), (Some(start + PATIENCE), None));
        assert!(relays.notice(start + PATIENCE).is_some());
        let [peer] = peers();
        relays.offered(peer, address(1), false);
        let refused = ListenerId::next();
        relays.asked(peer, refused);
        relays.ended(refused, start + PATIENCE);
        assert!(relays.notice(start + 3 * PATIENCE).is_none(), "nothing has changed");
        let (_, listener) = ask(&mut relays, start + 3 * PATIENCE).unwrap();
        relays.ended(listener, start + 3 * PATIENCE);
        assert!(relays.notice(start + 4 * PATIENCE).is_some(), "it was there and is gone");
    }

    #[test]
    fn a_node_that_is_reached_needs_none() {
        let start = Instant::now();
        let mut relays = Relays::new(false, false, start);
        relays.offered(PeerId::random(), address(1), true);
        assert!(relays.next(start).is_none() && relays.due().is_none());
    }
}
