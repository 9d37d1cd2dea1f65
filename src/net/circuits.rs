//! [`Circuits`]: libp2p's transport through relays, with some of its edges taken off. A dial through a relay that somebody else is dialling at
//! the moment is given up there, and made again here; and a relay may name as many addresses of itself as it likes, of which few are taken.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::relay::client;

/// How long a relay is given to be connected, by whoever dials it.
const RELAY_CONNECTED: Duration = Duration::from_secs(1);

/// Addresses of one place at a relay that are taken.
const ADDRESSES: usize = 4;

pub(super) struct Circuits {
    circuits: client::Transport,
    /// Addresses that each place has been given.
    places: HashMap<ListenerId, usize>,
}

impl Circuits {
    pub(super) fn new(circuits: client::Transport) -> Circuits {
        Circuits { circuits, places: HashMap::new() }
    }
}

impl Transport for Circuits {
    type Output = client::Connection;
    type Error = client::transport::Error;
    type ListenerUpgrade = <client::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<client::Connection, client::transport::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.circuits.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.circuits.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        // Neither begins before it is polled.
        let (first, again) = (self.circuits.dial(address.clone(), options)?, self.circuits.dial(address, options)?);
        Ok(async move {
            match first.await {
                Err(client::transport::Error::ResponseFromBehaviourCanceled(_)) => {
                    tokio::time::sleep(RELAY_CONNECTED).await;
                    again.await
                }
                outcome => outcome,
            }
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        loop {
            let event = match Pin::new(&mut self.circuits).poll(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            };
            match &event {
                TransportEvent::NewAddress { listener_id, .. } => {
                    let given = self.places.entry(*listener_id).or_default();
                    *given = given.saturating_add(1);
                    if *given > ADDRESSES {
                        continue;
                    }
                }
                TransportEvent::ListenerClosed { listener_id, .. } => drop(self.places.remove(listener_id)),
                _ => {}
            }
            return Poll::Ready(event);
        }
    }
}
