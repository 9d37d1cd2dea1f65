//! `caskad node`: runs the store as a node of a network, until it is told to stop.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use caskad::http::{HttpOptions, HttpServer, Token};
use caskad::net::config::NetConfig;
use caskad::net::{Multiaddr, PeerId, Protocol};
use caskad::{Node as RunningNode, NodeOptions};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::context::{Context, Host};
use crate::control::Server;
use crate::failure::{Exit, Failure, Result};

/// Most bytes of a file with a token that are read.
const TOKEN_FILE_BYTES: u64 = 4 << 10;

/// Settings that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Buckets of 32, 8 requests at once, 5 replicas, compared every 30 minutes and kept for 48 hours
    HighThroughput,
    /// Buckets of 10, 2 requests at once, 2 replicas, compared every 2 hours and kept for 12 hours
    LowLatency,
}

/// Run the store as a node: keep chunks on peers, and fetch them from there
///
/// While it runs, every other command on the same store goes through it. What was put before it started is published as well. It ends
/// in good order on SIGINT and SIGTERM. Flags go before --preset, and that before `[network]` in the store's `config.toml`, where `preset` stands
/// for what is left out; addresses to announce, and peers to join and to allow, are those of both.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad node
  caskad node --listen /ip4/0.0.0.0/tcp/4700 --join /dns4/store.example.org/tcp/4700
  caskad node --listen /ip4/0.0.0.0/tcp/4700 --announce /ip4/203.0.113.5/tcp/4700 --relay
  caskad node --behind-nat --join /ip4/203.0.113.5/tcp/4700
  caskad node --http 127.0.0.1:4701
  caskad node --network-id lab --allow 12D3KooW… --allow 12D3KooW… --no-mdns")]
pub(crate) struct Node {
    /// Where to listen (repeatable) [default: every address, TCP and QUIC, free ports]
    #[arg(long, value_name = "ADDR", value_parser = own_address)]
    listen: Vec<Multiaddr>,
    /// Peers to join through (repeatable)
    #[arg(long, value_name = "ADDR", value_parser = address)]
    join: Vec<Multiaddr>,
    /// One more address by which others reach this node: of a router that passes the port on, say (repeatable)
    #[arg(long, value_name = "ADDR")]
    announce: Vec<Multiaddr>,
    /// Others cannot connect to this node: be reached through peers that relay
    #[arg(long)]
    behind_nat: bool,
    /// Relay: pass on connections to peers that are behind a NAT. What is passed on is not counted in --upload
    #[arg(long, conflicts_with = "behind_nat")]
    relay: bool,
    /// Do not look for peers on the local network
    #[arg(long)]
    no_mdns: bool,
    /// Which network: nodes of another are not spoken to [default: caskad]
    #[arg(long, value_name = "ID")]
    network_id: Option<String>,
    /// Let only these peers connect, whose ids `caskad id` prints there (repeatable) [default: all of the network]
    #[arg(long, value_name = "PEER")]
    allow: Vec<PeerId>,
    /// Settings that go together
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Peers that one bucket of the routing table holds [default: 20]
    #[arg(long, value_name = "N")]
    k_bucket_size: Option<NonZeroUsize>,
    /// Requests that a lookup has under way at once [default: 3]
    #[arg(long, value_name = "N")]
    alpha: Option<NonZeroUsize>,
    /// Peers that each chunk is placed on [default: 3]
    #[arg(long, value_name = "N")]
    replication_factor: Option<usize>,
    /// How often replicas are compared with their other holders [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    refresh_interval: Option<Duration>,
    /// How long peers keep what is not renewed [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// How long a peer may be away before what it held is copied elsewhere [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    departure: Option<Duration>,
    /// Serve HTTP at this address: 127.0.0.1:4701, say. One that other machines reach needs a token
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// A file with the bearer token that HTTP requests need [default: $CASKAD_HTTP_TOKEN, if it is set]
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<PathBuf>,
    /// Most bytes of an upload over HTTP [default: no bound but the disk's]
    #[arg(long, value_name = "BYTES", value_parser = caskad::size::parse::<u64>)]
    http_upload_bytes: Option<u64>,
    /// Most bytes a second sent to peers [default: no bound]
    #[arg(long, value_name = "BYTES", value_parser = caskad::size::parse::<u64>)]
    upload: Option<u64>,
    /// Most bytes a second taken from peers [default: no bound]
    #[arg(long, value_name = "BYTES", value_parser = caskad::size::parse::<u64>)]
    download: Option<u64>,
    /// Most bytes that are kept here for one other peer [default: 256 GiB]
    #[arg(long, value_name = "BYTES", value_parser = caskad::size::parse::<u64>)]
    peer_bytes: Option<u64>,
    /// Most chunks that are kept here for one other peer [default: 4 Mi]
    #[arg(long, value_name = "N")]
    peer_chunks: Option<u64>,
    /// Memory for what travels to and from all peers [default: 64 MiB]
    #[arg(long, value_name = "BYTES", value_parser = caskad::size::parse::<usize>)]
    buffer_bytes: Option<usize>,
}

/// An address by which a node may be reached.
fn address(text: &str) -> Result<Multiaddr, String> {
    let address: Multiaddr = text.parse().map_err(|error| format!("{error}"))?;
    let reaches = |part| matches!(part, Protocol::Tcp(_) | Protocol::QuicV1 | Protocol::P2pCircuit);
    match address.iter().any(reaches) {
        true => Ok(address),
        false => Err("it names no port, as in /ip4/192.0.2.7/tcp/4700 or /ip4/192.0.2.7/udp/4700/quic-v1".to_owned()),
    }
}

/// An address of this node itself.
fn own_address(text: &str) -> Result<Multiaddr, String> {
    let address = address(text)?;
    match address.iter().last() {
        Some(Protocol::P2p(_)) => Err("it ends in the id of a peer: leave that out, this node has its own".to_owned()),
        _ => Ok(address),
    }
}

impl Node {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let store = context.create_as_set()?;
        let directory = store.path().map(std::path::Path::to_owned).unwrap_or_default();
        let config = self.config(store.config().network.clone());
        let node = RunningNode::start(store, NodeOptions::new(config))?;
        let failed = |source| caskad::Error::Io { action: "listen on", path: directory.join("node.sock"), source };
        let server = Server::start(&directory, Host { node: node.clone() }).map_err(failed)?;
        let http = self.http(&node, context)?;
        let address = http.as_ref().map(|http| format!("http://{}", http.address()));
        let listening = node.health()?.listen;
        let ready = json!({
            "event": "ready",
            "store": directory.display().to_string(),
            "pid": std::process::id(),
            "peer_id": node.peer_id().to_string(),
            "scope": node.scope().to_string(),
            "listen": listening,
            "http": address,
        });
        context.list(&ready, |_| {
            let addresses: String = listening.iter().chain(&address).map(|address| format!("  {address}\n")).collect();
            format!("node ready: peer {}, scope @{}\n{addresses}", node.peer_id(), node.scope())
        })?;
        let (stop, stopped) = mpsc::channel();
        let monitor = context.monitor().clone();
        std::thread::spawn(move || {
            // The handler of signals cancels the monitor.
            while monitor.check().is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = stop.send(());
        });
        stopped.recv().map_err(|_| Failure::Usage("the wait for a signal ended by itself".to_owned()))?;
        drop(http);
        server.stop();
        node.shutdown()?;
        Ok(Exit::Done)
    }

    /// Opens the node's window, if it is to have one.
    fn http(&self, node: &RunningNode, context: &Context) -> Result<Option<HttpServer>> {
        let settings = &node.store().config().http;
        let Some(address) = self.http.or(settings.address) else {
            return match self.http_token_file.is_some() || self.http_upload_bytes.is_some() {
                true => Err(Failure::Usage("nothing is served over HTTP; say where with --http ADDR".to_owned())),
                false => Ok(None),
            };
        };
        let directory = node.store().path().unwrap_or(Path::new(""));
        let given = self.http_token_file.as_ref().map(|file| context.path(file));
        let token = match given.or_else(|| settings.token_file.as_ref().map(|file| directory.join(file))) {
            Some(path) => {
                let mut text = String::new();
                let read = File::open(&path).and_then(|file| file.take(TOKEN_FILE_BYTES).read_to_string(&mut text));
                read.map_err(|source| caskad::Error::Io { action: "read the token in", path, source })?;
                Some(text)
            }
            None => std::env::var("CASKAD_HTTP_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        let token = token.map(|token| Token::new(token.trim())).transpose()?;
        let upload_bytes = self.http_upload_bytes.or(settings.upload_bytes).unwrap_or(u64::MAX);
        let options = HttpOptions::new(address).token(token).upload_bytes(upload_bytes);
        Ok(Some(HttpServer::start(node.clone(), options)?))
    }

    /// What the flags make of the settings in `config.toml`.
    fn config(&self, written: NetConfig) -> NetConfig {
        let mut config = written;
        match self.preset {
            None => {}
            Some(Preset::HighThroughput) => config.take_preset(&NetConfig::high_throughput()),
            Some(Preset::LowLatency) => config.take_preset(&NetConfig::low_latency()),
        }
        if !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        config.join.extend(self.join.iter().cloned());
        config.announce.extend(self.announce.iter().cloned());
        config.behind_nat |= self.behind_nat;
        config.relay |= self.relay;
        config.mdns &= !self.no_mdns;
        config.allow.extend(self.allow.iter().copied());
        fn set<T: Clone>(field: &mut T, flag: Option<&T>) {
            if let Some(flag) = flag {
                field.clone_from(flag);
            }
        }
        set(&mut config.network_id, self.network_id.as_ref());
        set(&mut config.k_bucket_size, self.k_bucket_size.as_ref());
        set(&mut config.alpha, self.alpha.as_ref());
        set(&mut config.replication_factor, self.replication_factor.as_ref());
        set(&mut config.refresh_interval, self.refresh_interval.as_ref());
        set(&mut config.ttl, self.ttl.as_ref());
        set(&mut config.departure, self.departure.as_ref());
        set(&mut config.upload_bytes_per_second, self.upload.as_ref());
        set(&mut config.download_bytes_per_second, self.download.as_ref());
        set(&mut config.peer_bytes, self.peer_bytes.as_ref());
        set(&mut config.peer_chunks, self.peer_chunks.as_ref());
        set(&mut config.buffer_bytes, self.buffer_bytes.as_ref());
        config
    }
}
