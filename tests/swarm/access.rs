//! Who may take part: allow-lists, networks of their own, and caps.

use std::time::{Duration, Instant};

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

#[test]
fn a_download_is_no_faster_than_its_cap() {
    let swarm = Swarm::start(3, quick());
    let none = Monitor::none();
    let bytes = random(3 << 20, 1);
    swarm.put(0, "m", bytes.clone());
    let mut slow = Swarm::start(0, quick());
    let mut config = quick();
    config.download_bytes_per_second = 1 << 20;
    config.join.push(swarm.address(0));
    let reader = slow.add_with(config);
    eventually("it has joined", || reader.peers().unwrap().len() == 3);
    let out = slow.dir.path().join("out");
    let started = Instant::now();
    let name = swarm.name(0, "m");
    let report = reader.get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    assert!(report.from_peers > 0);
    assert!(started.elapsed() > Duration::from_secs(2), "3 MiB at 1 MiB a second in {:?}", started.elapsed());
}
