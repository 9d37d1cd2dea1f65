//! The task that alone owns the swarm. Everybody else holds a [`Handle`] and asks it: command in, answer out.
//!
//! It is also where peers enter and leave the routing table: only one whose identify message shows our Kademlia protocol is added, with
//! the addresses that it says it listens on; libp2p drops it again when none of them answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::kad::GetRecordOk::FoundRecord;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::limits;
use crate::net::behaviour::{Behaviour, BehaviourEvent, protocol};
use crate::net::config::NetConfig;
use crate::net::handle::{Closest, Command, Counts, FoundRecords, Handle, NetworkView, PeerAddresses, PeerEvent};
use crate::net::look_around::LookAround;
use crate::net::notices::{Notices, cause};
use crate::net::region::ANSWERS;

/// A query of Kademlia under way, and who waits for it.
enum Query {
    Closest(Closest, oneshot::Sender<Closest>),
    Put(oneshot::Sender<(bool, Vec<PeerId>)>, Vec<PeerId>),
    Get { key: kad::RecordKey, found: FoundRecords, enough: usize, answer: oneshot::Sender<FoundRecords> },
}

pub(crate) struct EventLoop {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<PeerEvent>,
    kad_protocol: libp2p::StreamProtocol,
    queries: HashMap<QueryId, Query>,
    listens: HashMap<libp2p::core::transport::ListenerId, oneshot::Sender<Result<Multiaddr>>>,
    dials: HashMap<PeerId, Vec<oneshot::Sender<Result<()>>>>,
    connected: BTreeMap<PeerId, Vec<Multiaddr>>,
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
    pub(crate) fn new(swarm: Swarm<Behaviour>, config: &NetConfig, join: Vec<Multiaddr>) -> (Handle, EventLoop) {
        let (handle, commands, events) = Handle::new(*swarm.local_peer_id(), swarm.behaviour().streams.new_control());
        let event_loop = EventLoop {
            swarm,
            commands,
            events,
            kad_protocol: protocol("kad", &config.network_id),
            queries: HashMap::new(),
            listens: HashMap::new(),
            dials: HashMap::new(),
            connected: BTreeMap::new(),
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
                () = tokio::time::sleep_until(self.look_around.next().into()) => self.look_around(),
            }
        }
    }

    /// Closes all connections. A peer on the other end of one that is merely dropped may take it for alive for a while: QUIC has no FIN.
    async fn close(&mut self) {
        if self.connected.is_empty() {
            return;
        }
        for peer in self.connected.keys() {
            let _ = self.swarm.disconnect_peer_id(*peer);
        }
        while !self.connected.is_empty() {
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
        if self.connected.is_empty() {
            self.swarm.behaviour_mut().redial.hurry();
            for address in self.join.clone() {
                self.join(address);
            }
        }
    }

    /// Looks for the peers that are closest to this node: those that answer enter the routing table.
    fn look_around(&mut self) {
        self.look_around.looked(Instant::now());
        let own = *self.swarm.local_peer_id();
        // Nobody waits for the answer.
        self.swarm.behaviour_mut().kad.get_closest_peers(own);
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
            Command::Closest(key, answer) => {
                let query = self.swarm.behaviour_mut().kad.get_closest_peers(key);
                self.queries.insert(query, Query::Closest(Closest::default(), answer));
            }
            Command::PutRecord(record, peers, answer) => {
                let all = NonZeroUsize::new(peers.len()).unwrap_or(NonZeroUsize::MIN);
                let kad = &mut self.swarm.behaviour_mut().kad;
                // This node is one of those that have it: a network may have no other yet.
                let kept = kad.store_mut().put(record.clone()).is_ok();
                if peers.is_empty() || !kept {
                    let _ = answer.send((kept, Vec::new()));
                    return;
                }
                let query = kad.put_record_to(record, peers.clone().into_iter(), kad::Quorum::N(all));
                self.queries.insert(query, Query::Put(answer, peers));
            }
            Command::GetRecord(key, enough, answer) => {
                let query = self.swarm.behaviour_mut().kad.get_record(key.clone());
                self.queries.insert(query, Query::Get { key, found: FoundRecords::default(), enough, answer });
            }
            Command::View(answer) => {
                let _ = answer.send(self.view());
            }
            // It ends the loop, which handles it.
            Command::Close(_) => {}
        }
    }

    fn connect(&mut self, peer: PeerAddresses, answer: oneshot::Sender<Result<()>>) {
        if self.connected.contains_key(&peer.peer) {
            let _ = answer.send(Ok(()));
            return;
        }
        let waiting = self.dials.entry(peer.peer).or_default();
        waiting.push(answer);
        if waiting.len() > 1 {
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
                self.notices.settled(connection_id);
                self.identified(peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                stats,
                step,
            })) => {
                self.progressed(id, result, &stats, step.last);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
                for (peer, address) in found {
                    let addresses: &mut Vec<Multiaddr> = peers.entry(peer).or_default();
                    if addresses.len() < limits::PEER_ADDRESSES {
                        addresses.push(address);
                    }
                }
                peers.retain(|peer, _| !self.connected.contains_key(peer));
                for (peer, addresses) in peers {
                    // It is told of once: should it not be reached, it is tried again.
                    self.swarm.behaviour_mut().redial.named(peer, addresses.clone());
                    self.dial(DialOpts::peer_id(peer).addresses(addresses).build());
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if let Some(answer) = self.listens.remove(&listener_id) {
                    let _ = answer.send(Ok(address));
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(answer) = self.listens.remove(&listener_id) {
                    let why = reason.err().map_or_else(|| "it was closed".to_owned(), |error| cause(&error));
                    let _ = answer.send(Err(cannot_listen(&Multiaddr::empty(), &why)));
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } => {
                self.dialled(peer_id, None);
                if num_established.get() == 1 {
                    self.connected.insert(peer_id, Vec::new());
                    let _ = self.events.send(PeerEvent::Came(peer_id));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established: 0, cause, .. } => {
                self.connected.remove(&peer_id);
                let _ = self.events.send(PeerEvent::Went(peer_id));
                warn(self.notices.ended(connection_id, &peer_id, cause.is_some()));
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => self.notices.settled(connection_id),
            SwarmEvent::IncomingConnectionError { peer_id, error, .. } => {
                let is_refused = matches!(error, ListenError::Denied { .. });
                self.counts.refused_connections.fetch_add(u64::from(is_refused), Ordering::Relaxed);
                warn(self.notices.turned_away(peer_id, &error, Instant::now()));
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.warn_of_dial(connection_id, peer_id, &error);
                if let Some(peer) = peer_id {
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
        let addresses: Vec<Multiaddr> = info.listen_addrs.iter().take(limits::PEER_ADDRESSES).cloned().collect();
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
        if let Some(known) = self.connected.get_mut(&peer) {
            *known = addresses;
        }
        let _ = self.events.send(PeerEvent::Came(peer));
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

    /// Whether the network has fewer peers than a lookup answers with, as far as this node knows. Then a lookup asks them all, and those that
    /// do not answer hide nobody.
    fn is_small(&mut self) -> bool {
        let known = self.swarm.behaviour_mut().kad.kbuckets().map(|bucket| bucket.num_entries());
        known.sum::<usize>() < ANSWERS
    }

    /// A query has come to something.
    fn progressed(&mut self, id: QueryId, result: QueryResult, stats: &kad::QueryStats, last: bool) {
        let asked = stats.num_requests() > 0;
        // By all that were asked.
        let answered = stats.num_failures() == 0 && stats.num_pending() == 0;
        // Looked at only where it matters: all buckets are counted.
        let is_small = !answered && self.is_small();
        let Some(query) = self.queries.get_mut(&id) else { return };
        match (query, result) {
            (Query::Closest(closest, _), QueryResult::GetClosestPeers(outcome)) => {
                let timed_out = outcome.is_err();
                let peers = match outcome {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let found = peers.into_iter().map(|found| PeerAddresses {
                    peer: found.peer_id,
                    addresses: found.addrs.into_iter().take(limits::PEER_ADDRESSES).collect(),
                });
                closest.peers.extend(found);
                closest.asked = asked;
                closest.complete = (answered || is_small) && !timed_out;
            }
            (Query::Get { key, found, enough, .. }, QueryResult::GetRecord(Ok(FoundRecord(there)))) => {
                let kad = &mut self.swarm.behaviour_mut().kad;
                // Whatever a peer makes up must not end the search.
                match kad.store_mut().vet(key, &there.record.value) {
                    Ok(()) => found.records.push(there.record.value),
                    Err(refusal) => {
                        found.refused = true;
                        tracing::debug!("the answer of {:?} is passed over: {refusal}", there.peer);
                    }
                }
                if found.records.len() >= *enough
                    && let Some(mut query) = kad.query_mut(&id)
                {
                    query.finish();
                }
            }
            (Query::Get { found, .. }, QueryResult::GetRecord(outcome)) => {
                let timed_out = matches!(outcome, Err(kad::GetRecordError::Timeout { .. }));
                // One that does not answer may be the one that has it, were the network as small as it may be.
                found.complete = answered && !timed_out && !found.refused;
            }
            (Query::Put(_, took), QueryResult::PutRecord(Err(error))) => {
                let (kad::PutRecordError::QuorumFailed { success, .. } | kad::PutRecordError::Timeout { success, .. }) =
                    error;
                let success: HashSet<PeerId> = success.into_iter().collect();
                took.retain(|peer| success.contains(peer));
            }
            _ => {}
        }
        if last {
            let query = self.queries.remove(&id);
            let is_lookup = asked && matches!(query, Some(Query::Closest(..) | Query::Get { .. }));
            self.counts.lookups.fetch_add(u64::from(is_lookup), Ordering::Relaxed);
            match query {
                Some(Query::Closest(closest, answer)) => drop(answer.send(closest)),
                Some(Query::Put(answer, took)) => drop(answer.send((true, took))),
                Some(Query::Get { found, answer, .. }) => drop(answer.send(found)),
                None => {}
            }
        }
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
        let connected = self.connected.iter();
        let connected = connected.map(|(peer, addresses)| PeerAddresses { peer: *peer, addresses: addresses.clone() });
        let own = *self.swarm.local_peer_id();
        let listening = self.swarm.listeners().map(|address| {
            let named = address.iter().any(|part| matches!(part, Protocol::P2p(_)));
            if named { address.clone() } else { address.clone().with(Protocol::P2p(own)) }
        });
        NetworkView { listening: listening.collect(), connected: connected.collect(), known, bucket_sizes }
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
