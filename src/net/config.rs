//! [`NetConfig`]: the settings of a node, checked. They are the section `[network]` of `config.toml`, and flags of `caskad node`.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use toml::Table;

use crate::error::{Error, Result};
use crate::limits;
use crate::net::address::is_relayed;

/// The least bound on what travels that is one, in bytes a second.
const LEAST_RATE: u64 = 256 << 10;

/// Settings of a node. Every field can be left out of `config.toml`; durations are written as `30m` or `12h`, bytes as a number or as
/// `64 MiB`. There `preset = "high-throughput"` or `"low-latency"` stands for what [a preset](NetConfig::high_throughput) says of the fields that are left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NetConfig {
    /// Which network: nodes of another one are not spoken to (default `caskad`). Letters, digits, `. _ -`.
    pub network_id: String,
    /// Where to listen (default: every address, TCP and QUIC, a port that the system chooses).
    #[serde(deserialize_with = "parsed")]
    pub listen: Vec<Multiaddr>,
    /// More addresses by which others reach this node: that of a router which passes a port on to it, or a public one that the machine itself
    /// does not know of.
    #[serde(deserialize_with = "parsed")]
    pub announce: Vec<Multiaddr>,
    /// Whether others cannot connect to this node, so that it is to be reached through peers that relay (default false).
    pub behind_nat: bool,
    /// Whether to relay: to pass on connections to peers that cannot be reached otherwise (default false). Others must reach this node.
    pub relay: bool,
    /// Peers to join through, each address ending in `/p2p/PEER` or not.
    #[serde(deserialize_with = "parsed")]
    pub join: Vec<Multiaddr>,
    /// Whether to find peers on the local network by mDNS (default true).
    pub mdns: bool,
    /// Peers that may connect; empty: everybody of the same network.
    #[serde(deserialize_with = "parsed")]
    pub allow: Vec<PeerId>,
    /// Peers that one bucket of the routing table holds, and that a lookup answers with (default 20).
    pub k_bucket_size: NonZeroUsize,
    /// Requests that a lookup has under way at once (default 3; at most `k_bucket_size`).
    pub alpha: NonZeroUsize,
    /// Peers that each chunk is placed on (default 3; 1 to 8).
    pub replication_factor: usize,
    /// How often the routing table is refreshed and replicas are compared with their other holders (default 1 h).
    #[serde(with = "duration")]
    pub refresh_interval: Duration,
    /// How long peers keep what is not renewed (default 24 h). It is renewed three times in that span.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// How long a peer may be away before what it held is copied elsewhere (default 10 min).
    #[serde(with = "duration")]
    pub departure: Duration,
    /// Most bytes that are kept here for one other peer (default 256 GiB).
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub peer_bytes: u64,
    /// Most chunks that are kept here for one other peer (default 4 Mi).
    pub peer_chunks: u64,
    /// Most bytes a second sent to all peers together: 256 KiB at least; 0 for no bound.
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub upload_bytes_per_second: u64,
    /// Most bytes a second taken from all peers together: 256 KiB at least; 0 for no bound.
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub download_bytes_per_second: u64,
    /// Memory for what travels to and from all peers (default 64 MiB; 8 MiB at least).
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub buffer_bytes: usize,
}

impl Default for NetConfig {
    fn default() -> NetConfig {
        let fixed = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        NetConfig {
            network_id: "caskad".to_owned(),
            listen: ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"]
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect(),
            announce: Vec::new(),
            behind_nat: false,
            relay: false,
            join: Vec::new(),
            mdns: true,
            allow: Vec::new(),
            k_bucket_size: fixed(20),
            alpha: fixed(3),
            replication_factor: 3,
            refresh_interval: Duration::from_secs(3600),
            ttl: Duration::from_secs(24 * 3600),
            departure: Duration::from_secs(600),
            peer_bytes: 256 << 30,
            peer_chunks: 4 << 20,
            upload_bytes_per_second: 0,
            download_bytes_per_second: 0,
            buffer_bytes: 64 << 20,
        }
    }
}

impl NetConfig {
    /// For throughput: buckets of 32, 8 requests at once, 5 replicas, refreshed every 30 minutes, kept for 48 hours.
    pub fn high_throughput() -> NetConfig {
        NetConfig::preset(32, 8, 5, 30 * 60, 48 * 3600)
    }

    /// For short waits: buckets of 10, 2 requests at once, 2 replicas, refreshed every 2 hours, kept for 12 hours.
    pub fn low_latency() -> NetConfig {
        NetConfig::preset(10, 2, 2, 2 * 3600, 12 * 3600)
    }

    fn preset(k: usize, alpha: usize, replicas: usize, refresh_seconds: u64, ttl_seconds: u64) -> NetConfig {
        let fixed = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        NetConfig {
            k_bucket_size: fixed(k),
            alpha: fixed(alpha),
            replication_factor: replicas,
            refresh_interval: Duration::from_secs(refresh_seconds),
            ttl: Duration::from_secs(ttl_seconds),
            ..NetConfig::default()
        }
    }

    /// Takes from `preset` what presets speak of, and leaves the other settings as they are.
    pub fn take_preset(&mut self, preset: &NetConfig) {
        self.take_from(preset, |_| true);
    }

    fn take_from(&mut self, preset: &NetConfig, wanted: impl Fn(&str) -> bool) {
        fn take<T: Clone>(field: &mut T, preset: &T, wanted: bool) {
            if wanted {
                field.clone_from(preset);
            }
        }
        take(&mut self.k_bucket_size, &preset.k_bucket_size, wanted("k_bucket_size"));
        take(&mut self.alpha, &preset.alpha, wanted("alpha"));
        take(&mut self.replication_factor, &preset.replication_factor, wanted("replication_factor"));
        take(&mut self.refresh_interval, &preset.refresh_interval, wanted("refresh_interval"));
        take(&mut self.ttl, &preset.ttl, wanted("ttl"));
    }

    /// Checks each field against its range; the error names the field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(field, why)| Error::Syntax { what: "setting", input: field.to_owned(), why })
    }

    /// The first field that is out of its range, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let refuse = |field, why| Err((field, why));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.network_id.is_empty() || self.network_id.len() > 64 || !self.network_id.chars().all(plain) {
            return refuse("network_id", "it is 1 to 64 letters, digits and `. _ -`".to_owned());
        }
        if let Some(address) = self.announce.iter().find(|address| !leads_somewhere(address)) {
            let why =
                "nobody can connect to it; write it as /ip4/203.0.113.5/tcp/4700 or /ip4/203.0.113.5/udp/4700/quic-v1";
            return refuse("announce", format!("{address:?}: {why}"));
        }
        if let Some(address) = self.listen.iter().find(|address| is_relayed(address)) {
            let why =
                format!("{address} is at a relay; leave it out, and set behind_nat: relays are found among the peers");
            return refuse("listen", why);
        }
        if self.relay && self.behind_nat {
            return refuse("relay", "a node that is behind_nat is not reached by others, and cannot relay".to_owned());
        }
        if self.k_bucket_size.get() > 256 {
            return refuse("k_bucket_size", format!("it is {}, the most is 256", self.k_bucket_size));
        }
        if self.alpha > self.k_bucket_size {
            let why = format!("it is {}, more than k_bucket_size ({})", self.alpha, self.k_bucket_size);
            return refuse("alpha", why);
        }
        if !(1..=limits::REPLICAS).contains(&self.replication_factor) {
            let why = format!("it is {}, it must be between 1 and {}", self.replication_factor, limits::REPLICAS);
            return refuse("replication_factor", why);
        }
        for (field, value, least) in [
            ("refresh_interval", self.refresh_interval, Duration::from_secs(1)),
            ("ttl", self.ttl, Duration::from_secs(3)),
            ("departure", self.departure, Duration::from_secs(1)),
        ] {
            if value < least || value > limits::LEASE_TTL {
                let bounds = (humantime::format_duration(least), humantime::format_duration(limits::LEASE_TTL));
                let value = humantime::format_duration(value);
                return refuse(field, format!("it is {value}, it must be between {} and {}", bounds.0, bounds.1));
            }
        }
        if self.buffer_bytes < 8 << 20 {
            return refuse("buffer_bytes", format!("it is {}, the least is 8 MiB", self.buffer_bytes));
        }
        for (field, value) in [
            ("upload_bytes_per_second", self.upload_bytes_per_second),
            ("download_bytes_per_second", self.download_bytes_per_second),
        ] {
            // Slower, an answer of each peer would not come before it counts as lost.
            if (1..LEAST_RATE).contains(&value) {
                return refuse(field, format!("it is {value}, the least is {LEAST_RATE}; 0 means no bound"));
            }
        }
        Ok(())
    }

    /// Holders that must have acknowledged a chunk before a put is done: the majority of its replicas.
    pub fn quorum(&self) -> usize {
        self.replication_factor / 2 + 1
    }
}

/// Whether somebody can be dialled at an address as it is written.
fn leads_somewhere(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Ip4, Ip6, P2p, Udp};
    let last = address.iter().filter(|part| !matches!(part, P2p(_))).last();
    let is_whole = last.is_some_and(|last| !matches!(last, Dns(_) | Dns4(_) | Dns6(_) | Ip4(_) | Ip6(_) | Udp(_)));
    is_whole
        && !is_relayed(address)
        && address.iter().all(|part| match part {
            Protocol::Ip4(ip) => !ip.is_unspecified(),
            Protocol::Ip6(ip) => !ip.is_unspecified(),
            Protocol::Tcp(port) | Protocol::Udp(port) => port > 0,
            _ => true,
        })
}

impl<'de> Deserialize<'de> for NetConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<NetConfig, D::Error> {
        let mut table = Table::deserialize(from)?;
        let preset = match table.remove("preset") {
            None => None,
            Some(name) => Some(match name.as_str() {
                Some("high-throughput") => NetConfig::high_throughput(),
                Some("low-latency") => NetConfig::low_latency(),
                _ => return Err(D::Error::custom(format!("preset {name} is neither high-throughput nor low-latency"))),
            }),
        };
        let mut config = NetConfig::deserialize(table.clone()).map_err(D::Error::custom)?;
        if let Some(preset) = preset {
            config.take_from(&preset, |field| !table.contains_key(field));
        }
        Ok(config)
    }
}

/// Reads a list of texts, each parsed.
fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let parse = |text: &String| text.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")));
    texts.iter().map(parse).collect()
}

mod duration {
    //! Durations as people write them: `90s`, `30m`, `12h`.
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(config: &NetConfig) -> String {
        match config.validate() {
            Ok(()) => String::new(),
            Err(Error::Syntax { input, .. }) => input,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_presets_are_valid_and_what_they_say() {
        for config in [NetConfig::default(), NetConfig::high_throughput(), NetConfig::low_latency()] {
            assert_eq!(refused(&config), "");
        }
        let fast = NetConfig::high_throughput();
        assert_eq!((fast.k_bucket_size.get(), fast.alpha.get(), fast.replication_factor), (32, 8, 5));
        assert_eq!((fast.refresh_interval.as_secs(), fast.ttl.as_secs()), (1800, 48 * 3600));
        let near = NetConfig::low_latency();
        assert_eq!((near.k_bucket_size.get(), near.alpha.get(), near.replication_factor), (10, 2, 2));
        assert_eq!((near.refresh_interval.as_secs(), near.ttl.as_secs()), (7200, 12 * 3600));
    }

    #[test]
    fn a_refused_setting_is_named() {
        let default = NetConfig::default;
        let few = NonZeroUsize::new(2).unwrap();
        assert_eq!(refused(&NetConfig { k_bucket_size: few, ..default() }), "alpha");
        assert_eq!(refused(&NetConfig { replication_factor: 0, ..default() }), "replication_factor");
        assert_eq!(refused(&NetConfig { ttl: Duration::ZERO, ..default() }), "ttl");
        assert_eq!(refused(&NetConfig { network_id: "a/b".to_owned(), ..default() }), "network_id");
        assert_eq!(refused(&NetConfig { relay: true, behind_nat: true, ..default() }), "relay");
        for nowhere in ["", "/ip4/0.0.0.0/tcp/1", "/ip4/10.0.0.1/udp/0/quic-v1", "/ip4/10.0.0.1", "/ip4/10.0.0.1/udp/1"]
        {
            let announce = vec![nowhere.parse().unwrap()];
            assert_eq!(refused(&NetConfig { announce, ..default() }), "announce");
        }
        assert_eq!(refused(&NetConfig { buffer_bytes: 1, ..default() }), "buffer_bytes");
        assert_eq!(refused(&NetConfig { upload_bytes_per_second: 5, ..default() }), "upload_bytes_per_second");
        let unknown = toml::from_str::<NetConfig>("replicas = 3").unwrap_err().to_string();
        assert!(unknown.contains("replicas"), "{unknown}");
        let preset = toml::from_str::<NetConfig>("preset = \"slow\"").unwrap_err().to_string();
        assert!(preset.contains("neither high-throughput nor low-latency"), "{preset}");
        let bad = toml::from_str::<NetConfig>("listen = [\"nowhere\"]").unwrap_err().to_string();
        assert!(bad.contains("nowhere"), "{bad}");
    }

    #[test]
    fn what_is_written_goes_before_the_preset() {
        let config: NetConfig = toml::from_str("alpha = 9\npreset = \"high-throughput\"\npeer_chunks = 5").unwrap();
        let wanted = NetConfig { alpha: NonZeroUsize::new(9).unwrap(), peer_chunks: 5, ..NetConfig::high_throughput() };
        assert_eq!(config, wanted);
        assert_eq!(toml::from_str::<NetConfig>("").unwrap(), NetConfig::default());
    }

    proptest! {
        #[test]
        fn a_config_is_valid_exactly_within_its_ranges(k in 1_usize..400, alpha in 1_usize..400, replicas in 0_usize..12) {
            let number = |n| NonZeroUsize::new(n).unwrap();
            let config = NetConfig { k_bucket_size: number(k), alpha: number(alpha), replication_factor: replicas, ..NetConfig::default() };
            let valid = k <= 256 && alpha <= k && (1..=8).contains(&replicas);
            prop_assert_eq!(config.validate().is_ok(), valid);
        }
    }
}
