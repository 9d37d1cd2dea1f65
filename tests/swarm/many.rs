//! Networks in which not everybody keeps everything.

use std::time::{Duration, Instant};

use caskad::net::placement::{CANDIDATES, Group, Position};
use caskad::net::wire::{Frame, PutStatus};
use caskad::{GetOptions, Monitor};

use crate::hostile::{parcel_of, terms};
use crate::nodes::{Swarm, quick, random, restored};
use crate::raw::Raw;

#[test]
fn a_hundred_nodes_find_each_other_and_what_they_keep() {
    let mut config = quick();
    config.refresh_interval = Duration::from_secs(3600);
    config.ttl = Duration::from_secs(24 * 3600);
    let swarm = Swarm::start(100, config);
    let none = Monitor::none();
    let bytes = random(24 << 20, 1);
    let put = swarm.put(17, "m", bytes.clone());
    let network = put.network.unwrap();
    assert_eq!(network.replicas, 3);
    // Those for the chunks, and those for the record: its place, itself before and after, and the catalogue's.
    assert!(network.lookups <= 100 / 11 + 8 + 4, "{network:?}");
    let out = swarm.dir.path().join("out");
    let name = swarm.name(17, "m");
    let report = swarm.nodes[83].get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    assert!(report.lookups <= 100 / 11 + 8 + 3, "{}", report.lookups);
    let closest = swarm.nodes[5].find_closest(b"anything").unwrap();
    assert_eq!(closest.len(), 20);
}

#[test]
fn a_node_steps_in_for_those_that_are_gone_though_it_has_asked_them_nothing() {
    let mut config = quick();
    (config.refresh_interval, config.departure) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let mut swarm = Swarm::start(24, config);
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    assert_eq!(raw.ask(&Frame::Begin(1, terms(raw.key))), Frame::Done(1));
    let mut request = 1;
    let mut put = |seed: u64| {
        request += 1;
        match raw.ask(&Frame::Put(request, 1, vec![parcel_of(&random(1000, seed))])) {
            Frame::Taken(_, statuses) => statuses[0],
            other => panic!("{other:?}"),
        }
    };
    let nearer = |seed: u64| -> Vec<usize> {
        let group = Group::of(parcel_of(&random(1000, seed)).home).key("caskad");
        let group = Position::of(group.as_bytes());
        let distance = |node: usize| group.distance(&Position::of(&swarm.nodes[node].peer_id().to_bytes()));
        (1..swarm.nodes.len()).filter(|node| distance(*node) < distance(0)).collect()
    };
    // Of what belongs to others, the chunk for which the fewest have to go until it belongs here. A node that puts something looks who belongs
    // where, and again when somebody has shown up.
    let chunk = (0..20).find_map(|round| {
        swarm.put(0, "m", random(8 << 20, round));
        let elsewhere = (1000 * (round + 1)..).take(20).filter(|seed| put(*seed) == PutStatus::Elsewhere);
        elsewhere.min_by_key(|seed| nearer(*seed).len())
    });
    let chunk = chunk.unwrap();
    let nearer = nearer(chunk);
    assert_eq!(put(chunk), PutStatus::Elsewhere);
    for gone in nearer[CANDIDATES - 1..].iter().rev() {
        drop(swarm.nodes.remove(*gone));
    }
    let until = Instant::now() + Duration::from_secs(120);
    while put(chunk) != PutStatus::Stored {
        assert!(Instant::now() < until, "in vain: it belongs here");
        std::thread::sleep(Duration::from_millis(50));
    }
}
