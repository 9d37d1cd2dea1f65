//! The task that alone owns the swarm. Everybody else holds a [`Handle`] and asks it: command in, answer out.
//!
//! It is also where peers enter and leave the routing table: only one whose identify message shows our Kademlia protocol is added, with
//! the addresses that it says it listens on; libp2p drops it again when none of them answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::kad;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, dcutr, identify, mdns, relay};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::limits;
use crate::net::address::{bare, noted, widest};
use crate::net::behaviour::{Behaviour, BehaviourEvent, protocol};
use crate::net::config::NetConfig;
use crate::net::connections::Connections;
use crate::net::handle::{Command, Counts, Handle, NetworkView, PeerAddresses, PeerEvent};
use crate::net::look_around::LookAround;
use crate::net::notices::{Notices, cause};
use crate::net::queries::Queries;
use crate::net::relays::Relays;

pub(crate) struct EventLoop {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<PeerEvent>,
    kad_protocol: libp2p::StreamProtocol,
    queries: Queries,
    listens: HashMap<libp2p::core::transport::ListenerId, oneshot::Sender<Result<Multiaddr>>>,
    dials: HashMap<PeerId, Vec<oneshot::Sender<Result<()>>>>,
    connections: Connections,
    relays: Relays,
    /// Whether it relays, and which addresses it says beside those that it listens on.
    relay: bool,
    announced: Vec<Multiaddr>,
    join: Vec<Multiaddr>,
    look_around: LookAround,
    notices: Notices,
    counts: Arc<Counts>,
}

/// How often a node without peers tries again to join.
const REJOIN: Duration = Duration::from_secs(5);

/// How long a node stays that has closed its connections.
const LINGER: Duration = Duration::from_millis(200);

/// How long, at most, connections take to be closed.
const CLOSING: Duration = Duration::from_secs(1);

impl EventLoop {
    pub(crate) fn new(mut swarm: Swarm<Behaviour>, config: &NetConfig, join: Vec<Multiaddr>) -> (Handle, EventLoop) {
        let (handle, commands, events) = Handle::new(*swarm.local_peer_id(), swarm.behaviour().streams.new_control());
        for address in &config.announce {
            swarm.add_external_address(bare(address));
        }
        let event_loop = EventLoop {
            swarm,
            commands,
            events,
            kad_protocol: protocol("kad", &config.network_id),
            queries: Queries::new(handle.counts()),
            listens: HashMap::new(),
            dials: HashMap::new(),
            connections: Connections::default(),
            relays: Relays::new(config.behind_nat, !config.join.is_empty(), Instant::now()),
            relay: config.relay,
            announced: config.announce.clone(),
            join,
            look_around: LookAround::new(config.refresh_interval, Instant::now()),
            notices: Notices::new(handle.own(), config.join.clone()),
            counts: handle.counts(),
        };
        (handle, event_loop)
    }

    /// Runs until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut rejoin = tokio::time::interval(REJOIN);
        rejoin.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Close(answer)) => {
                        let _ = tokio::time::timeout(CLOSING, self.close()).await;
                        let _ = answer.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.event(event),
                _ = rejoin.tick() => self.rejoin(),
                () = tokio::time::sleep_until(due.into()) => self.on_time(),
            }
        }
    }

    /// Closes all connections. A peer on the other end of one that is merely dropped may take it for alive for a while: QUIC has no FIN.
    async fn close(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        self.relays = Relays::new(false, false, Instant::now());
        for peer in self.connections.peers() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        while !self.connections.is_empty() {
            let event = self.swarm.select_next_some().await;
            // Whoever is quick connects again.
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = &event {
                let _ = self.swarm.disconnect_peer_id(*peer_id);
            }
            self.event(event);
        }
        // QUIC says that a connection is closed before it has told the other end, and nobody when it has.
        tokio::time::sleep(LINGER).await;
    }

    fn rejoin(&mut self) {
        if self.connections.is_empty() {
            self.swarm.behaviour_mut().redial.hurry();
            for address in self.join.clone() {
                self.join(address);
            }
        }
    }

    /// When there is something to do by itself.
    fn due(&self) -> Instant {
        let others = [self.connections.next(), self.relays.due()].into_iter().flatten().min();
        others.map_or(self.look_around.next(), |other| other.min(self.look_around.next()))
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        for peer in self.connections.waited(now) {
            self.dialled(peer, None);
        }
        if self.look_around.next() <= now {
            self.look_around(now);
        }
        for relayed in self.connections.needless(now) {
            self.swarm.close_connection(relayed);
        }
        warn(self.relays.notice(now).map(str::to_owned));
        self.find_relays(now);
    }

    /// Looks for the peers that are closest to this node: those that answer enter the routing table.
    fn look_around(&mut self, now: Instant) {
        self.look_around.looked(now);
        let own = *self.swarm.local_peer_id();
        // Nobody waits for the answer.
        self.swarm.behaviour_mut().kad.get_closest_peers(own);
    }

    /// Has those that get a place here told where here is: where this node listens, as far as others may reach it there.
    fn tell_relayed(&mut self) {
        if !self.relay || !self.announced.is_empty() {
            return;
        }
        let told = widest(self.swarm.listeners().cloned().collect());
        let before: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        before.iter().filter(|before| !told.contains(before)).for_each(|gone| self.swarm.remove_external_address(gone));
        told.into_iter().for_each(|address| self.swarm.add_external_address(address));
    }

    /// Asks relays for the places that this node needs.
    fn find_relays(&mut self, now: Instant) {
        while let Some((peer, address)) = self.relays.next(now) {
            let address = bare(&address).with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
            match self.swarm.listen_on(address) {
                Ok(listener) => self.relays.asked(peer, listener),
                Err(error) => {
                    tracing::debug!("{peer} cannot be asked to relay: {}", cause(&error));
                    self.relays.failed(peer, now);
                }
            }
        }
    }

    fn join(&mut self, address: Multiaddr) {
        let options = DialOpts::from(address.clone());
        self.notices.joins(options.connection_id(), &address);
        self.dial(options);
    }

    fn dial(&mut self, options: DialOpts) {
        let (dial, peer) = (options.connection_id(), options.get_peer_id());
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!("a peer cannot be dialled: {error}");
            self.warn_of_dial(dial, peer, &error);
        }
    }

    fn warn_of_dial(&mut self, dial: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        warn(self.notices.failed(dial, peer, error, self.swarm.listeners()));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Listen(address, answer) => match self.swarm.listen_on(address.clone()) {
                Ok(listener) => {
                    self.listens.insert(listener, answer);
                }
                Err(error) => {
                    let _ = answer.send(Err(cannot_listen(&address, &cause(&error))));
                }
            },
            Command::Dial(address) => self.join(address),
            Command::Connect(peer, answer) => self.connect(peer, answer),
            Command::Disconnect(peer) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Closest(key, answer) => self.queries.closest(&mut self.swarm.behaviour_mut().kad, key, answer),
            Command::PutRecord(record, peers, answer) => {
                self.queries.put(&mut self.swarm.behaviour_mut().kad, record, peers, answer)
            }
            Command::GetRecord(key, enough, answer) => {
                self.queries.get(&mut self.swarm.behaviour_mut().kad, key, enough, answer)
            }
            Command::View(answer) => {
                let _ = answer.send(self.view());
            }
            // It ends the loop, which handles it.
            Command::Close(_) => {}
        }
    }

    fn connect(&mut self, peer: PeerAddresses, answer: oneshot::Sender<Result<()>>) {
        if self.connections.is_usable(&peer.peer) {
            let _ = answer.send(Ok(()));
            return;
        }
        let waiting = self.dials.entry(peer.peer).or_default();
        waiting.push(answer);
        if waiting.len() > 1 || self.connections.contains(&peer.peer) {
            return;
        }
        let options = DialOpts::peer_id(peer.peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(peer.addresses)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            // Somebody else's dial is under way: its end is ours.
            Ok(()) | Err(DialError::DialPeerConditionFalse(PeerCondition::DisconnectedAndNotDialing)) => {}
            Err(error) => self.dialled(peer.peer, Some(error.to_string())),
        }
    }

    /// Tells those who wait for a connection to `peer` how it went.
    fn dialled(&mut self, peer: PeerId, failed: Option<String>) {
        for answer in self.dials.remove(&peer).unwrap_or_default() {
            let outcome = match &failed {
                None => Ok(()),
                Some(why) => Err(Error::Network { what: "a peer", why: format!("{peer} cannot be reached: {why}") }),
            };
            let _ = answer.send(outcome);
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            })) => {
                self.notices.settled(connection_id, peer_id);
                self.identified(peer_id, &info);
                // What it says through a relay is what it does there.
                if self.connections.is_direct(&peer_id, connection_id) {
                    self.look_at_offer(peer_id, &info);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                stats,
                step,
            })) => {
                self.queries.progressed(&mut self.swarm.behaviour_mut().kad, id, result, &stats, step.last);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
                for (peer, address) in found {
                    let addresses: &mut Vec<Multiaddr> = peers.entry(peer).or_default();
                    if addresses.len() < limits::PEER_ADDRESSES {
                        addresses.push(address);
                    }
                }
                peers.retain(|peer, _| !self.connections.contains(peer));
                for (peer, addresses) in peers {
                    // It is told of once: should it not be reached, it is tried again.
                    self.swarm.behaviour_mut().redial.named(peer, addresses.clone());
                    self.dial(DialOpts::peer_id(peer).addresses(addresses).build());
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if self.relays.given(listener_id) {
                    tracing::info!("others reach this node through {address}");
                }
                self.tell_relayed();
                if let Some(answer) = self.listens.remove(&listener_id) {
                    let _ = answer.send(Ok(address));
                }
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.tell_relayed(),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let now = Instant::now();
                self.relays.ended(listener_id, now);
                self.find_relays(now);
                if let Some(answer) = self.listens.remove(&listener_id) {
                    let why = reason.err().map_or_else(|| "it was closed".to_owned(), |error| cause(&error));
                    let _ = answer.send(Err(cannot_listen(&Multiaddr::empty(), &why)));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id: peer, result: Err(error) })) => {
                tracing::debug!("{peer} is reached through a relay only: {error}");
                self.connections.stays_relayed(&peer);
                if self.connections.is_usable(&peer) {
                    self.dialled(peer, None);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Relay(relay::Event::CircuitReqAccepted { .. })) => {
                self.counts.passed_on.fetch_add(1, Ordering::Relaxed);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if self.connections.opened(peer_id, connection_id, &endpoint, Instant::now()) {
                    let _ = self.events.send(PeerEvent::Came(peer_id));
                }
                if !endpoint.is_relayed() {
                    for relayed in self.connections.superseded(&peer_id) {
                        self.swarm.close_connection(relayed);
                    }
                }
                if self.connections.is_usable(&peer_id) {
                    self.dialled(peer_id, None);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let now = Instant::now();
                if self.connections.is_last_direct(&peer_id, connection_id) {
                    self.relays.withdrawn(&peer_id, now);
                }
                match self.connections.closed(&peer_id, connection_id) {
                    true => {
                        self.dialled(peer_id, Some("the connection has ended".to_owned()));
                        let _ = self.events.send(PeerEvent::Went(peer_id));
                        warn(self.notices.ended(connection_id, &peer_id, cause.is_some()));
                    }
                    false => self.notices.ended_early(connection_id),
                }
                self.find_relays(now);
            }
            SwarmEvent::IncomingConnectionError { peer_id, error, .. } => {
                let is_refused = matches!(error, ListenError::Denied { .. });
                self.counts.refused_connections.fetch_add(u64::from(is_refused), Ordering::Relaxed);
                warn(self.notices.turned_away(peer_id, &error, Instant::now()));
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.warn_of_dial(connection_id, peer_id, &error);
                // A direct connection that does not come about is no loss where there is one through a relay.
                if let Some(peer) = peer_id.filter(|peer| !self.connections.contains(peer)) {
                    tracing::debug!("{peer} cannot be reached: {error}");
                    self.dialled(peer, Some(error.to_string()));
                }
            }
            _ => {}
        }
    }

    /// A peer said who it is. It is of this network if it speaks its Kademlia.
    fn identified(&mut self, peer: PeerId, info: &identify::Info) {
        if !info.protocols.contains(&self.kad_protocol) {
            // One that speaks none only asks.
            let of_none = protocol("kad", "");
            match info.protocols.iter().any(|other| other.as_ref().starts_with(of_none.as_ref())) {
                true => self.part_with(peer),
                false => tracing::debug!("{peer} keeps no records"),
            }
            return;
        }
        let addresses = noted(&info.listen_addrs);
        let before = self.known_addresses(peer);
        for address in &addresses {
            self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
        }
        let known = self.known_addresses(peer);
        // One for which the routing table has no room is nobody new, however often it comes.
        if before.is_empty() && !known.is_empty() {
            self.look_around.came(Instant::now());
        }
        // What it said before counts no more: the addresses of a peer are part of every answer that names it.
        let said: Vec<Multiaddr> = addresses.iter().filter_map(|address| address.clone().with_p2p(peer).ok()).collect();
        for address in known {
            if !said.contains(&address) && !addresses.contains(&address) {
                self.swarm.behaviour_mut().kad.remove_address(&peer, &address);
            }
        }
        self.swarm.behaviour_mut().redial.met(peer, addresses.clone());
        self.connections.listens(&peer, addresses);
        let _ = self.events.send(PeerEvent::Came(peer));
    }

    /// Notes whether a peer of this network relays.
    fn look_at_offer(&mut self, peer: PeerId, info: &identify::Info) {
        let now = Instant::now();
        let offers = [&self.kad_protocol, &relay::HOP_PROTOCOL_NAME].iter().all(|name| info.protocols.contains(name));
        match self.connections.address(&peer).filter(|_| offers) {
            Some(address) => {
                let named = self.notices.names(peer, &address);
                self.relays.offered(peer, address, named);
            }
            None => self.relays.withdrawn(&peer, now),
        }
        self.find_relays(now);
    }

    /// Leaves a peer of another network.
    fn part_with(&mut self, peer: PeerId) {
        warn(self.notices.stranger(&peer, &self.kad_protocol));
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    /// The addresses of a peer in the routing table.
    fn known_addresses(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let Some(bucket) = self.swarm.behaviour_mut().kad.kbucket(peer) else { return Vec::new() };
        let entry = bucket.iter().find(|entry| *entry.node.key.preimage() == peer);
        entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
    }

    fn view(&mut self) -> NetworkView {
        let (mut known, mut bucket_sizes) = (Vec::new(), Vec::new());
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            bucket_sizes.push(bucket.num_entries());
            known.extend(bucket.iter().map(|entry| PeerAddresses {
                peer: *entry.node.key.preimage(),
                addresses: entry.node.value.iter().cloned().collect(),
            }));
        }
        let own = *self.swarm.local_peer_id();
        let listening = self.swarm.listeners().map(|address| {
            let named = address.iter().any(|part| matches!(part, Protocol::P2p(_)));
            if named { address.clone() } else { address.clone().with(Protocol::P2p(own)) }
        });
        let (connected, relayed) = (self.connections.view(), self.connections.relayed());
        NetworkView { listening: listening.collect(), connected, relayed, known, bucket_sizes }
    }
}

/// Tells the user of what there is to tell.
fn warn(notice: Option<String>) {
    if let Some(notice) = notice {
        tracing::warn!("{notice}");
    }
}

fn cannot_listen(address: &Multiaddr, why: &str) -> Error {
    Error::Network { what: "listening", why: format!("{address}: {why}; choose another address with --listen") }
}
