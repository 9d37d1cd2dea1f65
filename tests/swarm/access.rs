//! Who may take part: allow-lists, networks of their own, and caps.

use std::time::{Duration, Instant};

use caskad::{GetOptions, Monitor, PutOptions};

use crate::nodes::{Swarm, payload, quick, random, restored};
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
}

#[test]
fn a_download_is_no_faster_than_its_cap() {
    let swarm = Swarm::start(3, quick());
    let none = Monitor::none();
    let bytes = random(3 << 20, 1);
    swarm.nodes[0].put(&"m".parse().unwrap(), payload(bytes.clone()), &PutOptions::default(), &none).unwrap();
    let mut slow = Swarm::start(0, quick());
    let mut config = quick();
    config.download_bytes_per_second = 1 << 20;
    config.join.push(swarm.address(0));
    let reader = slow.add_with(config);
    crate::nodes::eventually("it has joined", || reader.peers().unwrap().len() == 3);
    let out = slow.dir.path().join("out");
    let started = Instant::now();
    let name = format!("@{}/m", swarm.nodes[0].scope()).parse().unwrap();
    let report = reader.get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    assert!(report.from_peers > 0);
    assert!(started.elapsed() > Duration::from_secs(2), "3 MiB at 1 MiB a second in {:?}", started.elapsed());
}
