//! Hosts that do not reach each other, as behind NATs: what one has, another gets through a relay.

use crate::lan::Lan;
use crate::process::{Net, random};

/// Hosts of which the first relays, and the others reach only that one.
fn behind_nats(hosts: usize, relays: usize) -> Option<Net> {
    let lan = Lan::new(hosts)?;
    lan.isolate(relays..hosts);
    let mut net = Net::prepare(Some(lan), &["--refresh-interval", "2s"]);
    for index in 0..hosts {
        let flag = if index < relays { "--relay" } else { "--behind-nat" };
        let node = net.launch_with(index, &[flag]);
        net.nodes.push(node);
    }
    net.settle();
    Some(net)
}

#[test]
fn hosts_behind_nats_reach_each_other_through_a_relay() {
    let Some(mut net) = behind_nats(5, 2) else { return };
    for index in 2..5 {
        let health = net.json(index, &["health"]);
        let places = health["listen"].as_array().unwrap().iter();
        assert!(places.filter(|address| address.as_str().unwrap().contains("p2p-circuit")).count() >= 2, "{health}");
        assert!(health["relayed_peers"].as_u64().unwrap() >= 1, "{health}");
    }
    let bytes = random(8 << 20, 1);
    let put = net.json(2, &["put", &net.write("payload.bin", &bytes), "--as", "m"]);
    assert_eq!(put["replicas"], 3, "{put}");
    let key = net.key(2, "m");
    for index in 3..5 {
        net.json(index, &["get", &key, "-o", &format!("restored-{index}.bin")]);
        assert!(net.read(&format!("restored-{index}.bin")) == bytes);
    }
    let passed_on = |index| net.json(index, &["health"])["passed_on"].as_u64().unwrap();
    assert!(passed_on(0) + passed_on(1) > 0);

    // One of the relays goes: each has a place at the other one.
    net.kill(0);
    let second = random(1 << 20, 2);
    net.eventually("the others still reach each other", || {
        net.run(3, &["put", &net.write("second.bin", &second), "--as", "n"]).status.success()
    });
    net.json(4, &["get", &net.key(3, "n"), "-o", "second-restored.bin"]);
    assert!(net.read("second-restored.bin") == second);
}

#[test]
fn a_direct_connection_takes_the_place_of_one_through_a_relay() {
    let mut net = Net::prepare(None, &[]);
    let relay = net.launch_with(0, &["--relay"]);
    let second = net.launch_with(1, &["--behind-nat", "--join", &relay.address]);
    net.nodes.extend([relay, second]);
    let place = format!("{}/p2p-circuit/p2p/{}", net.nodes[0].address, net.nodes[1].id());
    net.eventually("the second has its place", || {
        net.json(1, &["health"])["listen"].as_array().unwrap().iter().any(|address| address == &place)
    });
    // It knows of the second only where its place is.
    let third = net.launch_with(2, &["--join", &place]);
    net.nodes.push(third);
    net.settle();
    net.eventually("the second and the third are connected directly", || {
        let states = [1, 2].map(|index| net.json(index, &["health"])["relayed_peers"].clone());
        states.iter().all(|relayed| *relayed == 0)
    });
    assert_ne!(net.json(0, &["health"])["passed_on"], 0);
    let bytes = random(1 << 20, 1);
    net.json(2, &["put", &net.write("payload.bin", &bytes), "--as", "m"]);
    net.json(1, &["get", &net.key(2, "m"), "-o", "restored.bin"]);
    assert!(net.read("restored.bin") == bytes);
}

#[test]
fn a_node_behind_a_nat_tells_that_nobody_relays() {
    let mut net = Net::prepare(None, &[]);
    let node = net.launch_with(0, &["--behind-nat"]);
    net.nodes.push(node);
    net.eventually("it is told", || net.log(0).contains("--relay"));
}
