//! What a node says on its connections: who it is, who is near to what (Kademlia), who is on the local network, who is reached through whom,
//! and the streams of the exchange. libp2p's own behaviours, put together, and one of ours for peers that are away.
//!
//! The names of our protocols and of Kademlia carry the network's id, so nodes of two networks find nothing to say to each other.

use std::num::NonZeroU32;
use std::time::Duration;

use libp2p::allow_block_list::{self, AllowedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, dcutr, identify, kad, mdns, relay};

use crate::error::{Error, Result};
use crate::limits;
use crate::net::config::NetConfig;
use crate::net::kad_records::KadRecords;
use crate::net::redial::Redial;

/// How long a connection without streams is kept.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(super) allowed: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) redial: Redial,
    pub(super) identify: identify::Behaviour,
    pub(super) kad: kad::Behaviour<KadRecords>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) relay: Toggle<relay::Behaviour>,
    pub(super) relay_client: relay::client::Behaviour,
    pub(super) dcutr: dcutr::Behaviour,
    pub(super) streams: libp2p_stream::Behaviour,
}

/// The name of a protocol in the network `id`.
pub(crate) fn protocol(what: &str, id: &str) -> StreamProtocol {
    // Validated ids have no `/`, so no two networks share a name.
    StreamProtocol::try_from_owned(format!("/caskad/{what}/1/{id}")).unwrap_or(StreamProtocol::new("/caskad/none"))
}

impl Behaviour {
    pub(crate) fn new(
        key: &Keypair,
        records: KadRecords,
        relay_client: relay::client::Behaviour,
        config: &NetConfig,
    ) -> Result<Behaviour> {
        let own = PeerId::from(key.public());
        let mut kad_config = kad::Config::new(protocol("kad", &config.network_id));
        kad_config
            .set_kbucket_size(config.k_bucket_size)
            .set_parallelism(config.alpha)
            .set_replication_factor(limits::RECORD_REPLICAS)
            .set_query_timeout(Duration::from_secs(20))
            .disjoint_query_paths(true)
            .set_record_filtering(kad::StoreInserts::Unfiltered)
            .set_record_ttl(None)
            .set_replication_interval(Some(config.refresh_interval))
            .set_publication_interval(None)
            .set_provider_publication_interval(None)
            .set_periodic_bootstrap_interval(Some(config.refresh_interval))
            .set_kbucket_inserts(kad::BucketInserts::Manual)
            .set_caching(kad::Caching::Disabled);
        let mut kad = kad::Behaviour::with_config(own, records, kad_config);
        kad.set_mode(Some(kad::Mode::Server));
        let identify = identify::Config::new(protocol("id", &config.network_id).to_string(), key.public())
            .with_agent_version(concat!("caskad/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_push_listen_addr_updates(true);
        let limits = ConnectionLimits::default()
            .with_max_established(Some(limits::CONNECTIONS))
            .with_max_established_per_peer(Some(limits::CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(limits::PENDING_CONNECTIONS));
        let allowed = (!config.allow.is_empty()).then(|| {
            let mut allowed = allow_block_list::Behaviour::<AllowedPeers>::default();
            for peer in &config.allow {
                allowed.allow_peer(*peer);
            }
            allowed
        });
        let mdns = match config.mdns {
            true => {
                Some(mdns::tokio::Behaviour::new(mdns::Config::default(), own).map_err(|error| Error::Network {
                    what: "the search for peers on the local network",
                    why: format!("{error}; switch it off with `mdns = false`"),
                })?)
            }
            false => None,
        };
        Ok(Behaviour {
            allowed: allowed.into(),
            limits: connection_limits::Behaviour::new(limits),
            redial: Redial::new(),
            identify: identify::Behaviour::new(identify),
            kad,
            mdns: mdns.into(),
            relay: config.relay.then(|| relay(own)).into(),
            relay_client,
            dcutr: dcutr::Behaviour::new(own),
            streams: libp2p_stream::Behaviour::new(),
        })
    }
}

/// Passes on connections to peers that have asked for a place here.
fn relay(own: PeerId) -> relay::Behaviour {
    let config = relay::Config {
        max_reservations: limits::RELAY_RESERVATIONS,
        // A place ends with its connection.
        reservation_duration: limits::RELAY_RESERVATION_TIME,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits::RELAY_CIRCUITS,
        max_circuits_per_peer: limits::RELAY_CIRCUITS_PER_PEER,
        max_circuit_duration: limits::RELAY_CIRCUIT_TIME,
        // Without a bound: checkpoints are large, and where no direct connection comes about they have no other way.
        max_circuit_bytes: 0,
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    };
    // So many at once, and one more whenever the time is over: by peer, since many of them may share an address.
    let each = NonZeroU32::new(limits::RELAY_CIRCUITS_PER_PEER as u32).unwrap_or(NonZeroU32::MIN);
    let config = config.circuit_src_per_peer(each, Duration::from_secs(60) / each.get());
    let config = config.reservation_rate_per_peer(limits::RELAY_REQUESTS, Duration::from_secs(60));
    let mut relay = relay::Behaviour::new(own, config);
    relay.set_status(Some(relay::Status::Enable));
    relay
}
