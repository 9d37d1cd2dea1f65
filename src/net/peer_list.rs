//! [`PeerList`]: the peers of a fetch, whom its chunks name by place.

use std::collections::HashMap;

use libp2p::PeerId;

use crate::net::handle::PeerAddresses;

/// Places of peers in a list, each once.
#[derive(Debug, Default)]
pub(crate) struct PeerList {
    pub(crate) peers: Vec<PeerAddresses>,
    places: HashMap<PeerId, u32>,
}

impl PeerList {
    /// The place of `peer`, which is added if it is new.
    pub(crate) fn place(&mut self, peer: &PeerAddresses) -> u32 {
        let place = *self.places.entry(peer.peer).or_insert_with(|| {
            self.peers.push(peer.clone());
            self.peers.len() as u32 - 1
        });
        if let Some(known) = self.peers.get_mut(place as usize).filter(|known| known.addresses.is_empty()) {
            known.addresses.clone_from(&peer.addresses);
        }
        place
    }
}
