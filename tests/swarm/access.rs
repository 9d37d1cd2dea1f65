//! Who may take part: allow-lists, networks of their own, and caps.

use std::time::{Duration, Instant};

use caskad::net::config::NetConfig;
use caskad::{Error, GetOptions, Monitor, PutOptions};

use crate::nodes::{Swarm, Warnings, eventually, payload, quick, random, restored};
use crate::raw::Raw;

#[test]
fn a_network_with_another_id_finds_nothing_to_say() {
    let mut config = quick();
    config.network_id = "lab".to_owned();
    let swarm = Swarm::start(2, config);
    assert!(Raw::try_connect(&swarm.address(0), "caskad").is_none());
    assert!(Raw::try_connect(&swarm.address(0), "lab").is_some());
}

#[test]
fn only_the_peers_on_the_list_connect() {
    let mut config = quick();
    config.allow = vec![libp2p::PeerId::random()];
    let swarm = Swarm::start(1, config);
    assert!(Raw::try_connect(&swarm.address(0), "caskad").is_none());
    eventually("it is counted", || swarm.nodes[0].health().unwrap().refused_connections == 1);
}

#[test]
fn whoever_puts_is_told_of_peers_that_allow_it_no_more() {
    let mut config = quick();
    config.peer_bytes = 1 << 20;
    let swarm = Swarm::start(3, config);
    let (warnings, node) = (Warnings::default(), &swarm.nodes[0]);
    let (name, own) = ("m".parse().unwrap(), payload(random(4 << 20, 1)));
    let put = node.put(&name, own, &PutOptions::default(), &Monitor::new(warnings.clone()));
    assert!(matches!(put, Err(Error::TooFewPeers { .. })), "{put:?}");
    let warnings = warnings.all();
    for full in &swarm.nodes[1..] {
        let peer = full.health().unwrap().peer_id.to_string();
        let told = warnings.iter().any(|warning| warning.contains(&peer) && warning.contains("no room"));
        assert!(told, "{peer}: {warnings:?}");
    }
}

/// How long it takes a node of these settings to get 3 MiB that `holders` keep.
fn time_to_get(holders: &Swarm, mut reader: NetConfig) -> Duration {
    let bytes = random(3 << 20, 1);
    holders.put(0, "m", bytes.clone());
    let mut others = Swarm::start(0, quick());
    reader.join.push(holders.address(0));
    let reader = others.add_with(reader);
    eventually("it has joined", || reader.health().unwrap().known_peers == holders.nodes.len());
    let out = others.dir.path().join("out");
    let started = Instant::now();
    let report = reader.get(&holders.name(0, "m"), &out, &GetOptions::default(), &Monitor::none()).unwrap();
    assert!(restored(&out) == bytes);
    assert!(report.from_peers > 0);
    started.elapsed()
}

#[test]
fn a_download_is_no_faster_than_its_cap() {
    let mut config = quick();
    config.download_bytes_per_second = 1 << 20;
    let mut holders = quick();
    // Nothing is brought to the reader before it asks.
    holders.refresh_interval = Duration::from_secs(3600);
    let took = time_to_get(&Swarm::start(3, holders), config);
    assert!(took > Duration::from_secs(2), "3 MiB at 1 MiB a second in {took:?}");
}

#[test]
fn an_upload_is_no_faster_than_its_cap() {
    let mut config = quick();
    config.upload_bytes_per_second = 1 << 20;
    config.replication_factor = 1;
    // Nothing is brought to the reader before it asks.
    config.refresh_interval = Duration::from_secs(3600);
    let took = time_to_get(&Swarm::start(1, config), quick());
    assert!(took > Duration::from_secs(2), "3 MiB at 1 MiB a second in {took:?}");
}
