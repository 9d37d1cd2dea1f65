//! Nodes that die, come back, and are replaced.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::process::{Net, random};

/// What takes hours takes seconds.
const QUICK: [&str; 6] = ["--refresh-interval", "2s", "--departure", "2s", "--ttl", "60s"];

#[test]
fn two_of_eight_are_killed_and_the_rest_give_and_heal_what_was_put() {
    let mut net = Net::start(8, &QUICK);
    let bytes = random(6 << 20, 1);
    let file = net.write("payload.bin", &bytes);
    let put = net.json(0, &["put", &file, "--as", "team/model"]);
    assert_eq!(put["replicas"], 3, "{put}");
    assert!(put["lookups"].as_u64().unwrap() <= 8 + 3, "{put}");
    let replicas = |net: &Net, alive: &[usize]| -> u64 {
        alive.iter().map(|&index| net.json(index, &["stat"])["chunks"].as_u64().unwrap()).sum()
    };
    let before = replicas(&net, &[0, 1, 2, 3, 4, 5, 6, 7]);
    net.kill(6);
    net.kill(7);
    let key = net.key(0, "team/model");
    let get = net.json(3, &["get", &key, "-o", "restored.bin"]);
    assert!(net.read("restored.bin") == bytes, "{get}");
    assert!(get["from_peers"].as_u64().unwrap() > 0);
    let alive = [0, 1, 2, 3, 4, 5];
    // Node 3 has all of it now, as a copy; and of what two held, each chunk is on three of the others again.
    net.eventually("the replicas are back", || {
        let whole = |index: usize| net.json(index, &["health"])["under_replicated"] == 0;
        alive.iter().all(|&index| whole(index)) && replicas(&net, &alive) >= before
    });
    net.kill(0);
    let again = net.json(5, &["get", &key, "-o", "again.bin"]);
    assert!(net.read("again.bin") == bytes, "{again}");
}

#[test]
fn a_node_that_was_killed_comes_back_and_serves() {
    let mut net = Net::start(3, &QUICK);
    let bytes = random(2 << 20, 2);
    let file = net.write("payload.bin", &bytes);
    net.json(1, &["put", &file, "--as", "m"]);
    net.kill(1);
    let back = net.launch(1);
    assert_eq!(back.scope, net.nodes[1].scope, "it keeps its keys");
    net.nodes[1] = back;
    net.settle();
    assert_eq!(net.ok(1, &["verify", "--all"]).lines().next().unwrap().split(':').next(), Some("ok"));
    net.kill(0);
    let got = net.json(2, &["get", &net.key(1, "m"), "-o", "restored.bin"]);
    assert!(net.read("restored.bin") == bytes, "{got}");
}

/// The reader is one of those that keep the record, and lacks a third of the chunks.
#[test]
fn a_get_outlasts_peers_that_are_gone_for_a_moment() {
    let mut net = Net::start(3, &["--replication-factor", "2"]);
    let bytes = random(4 << 20, 7);
    net.json(0, &["put", &net.write("payload.bin", &bytes), "--as", "m"]);
    let key = net.key(0, "m");
    net.kill(0);
    net.kill(1);
    let mut get = net.command(2);
    let mut get = get.args(["get", &key, "-o", "restored.bin"]).spawn().unwrap();
    net.eventually("it has found nobody", || net.missed(2, 0) || net.missed(2, 1));
    assert!(get.try_wait().unwrap().is_none(), "it waits for them");
    let reader = net.nodes[2].address.clone();
    net.nodes[0] = net.launch_with(0, &["--join", &reader]);
    assert!(get.wait().unwrap().success());
    assert!(net.read("restored.bin") == bytes);
    // Without them, what is not here is told from what does not exist.
    net.kill(0);
    net.eventually("nobody is there", || net.json(2, &["health"])["connected_peers"] == 0);
    assert_eq!(net.run(2, &["get", &format!("{key}@7"), "-o", "other.bin"]).status.code(), Some(4));
}

#[test]
fn too_few_peers_is_said_and_finished_when_they_come() {
    let mut net = Net::start(1, &QUICK);
    let bytes = random(1 << 20, 3);
    let file = net.write("payload.bin", &bytes);
    let ran = net.run(0, &["--json", "put", &file, "--as", "m"]);
    assert_eq!(ran.status.code(), Some(4), "{ran:?}");
    let error: serde_json::Value = serde_json::from_slice(&ran.stderr).unwrap();
    let error = &error["error"];
    assert_eq!((&error["kind"], &error["found"], &error["needed"]), (&"too_few_peers".into(), &1.into(), &2.into()));
    net.ok(0, &["get", "m", "-o", "local.bin"]);
    assert!(net.read("local.bin") == bytes, "it is stored here");
    for index in 1..3 {
        let node = net.launch(index);
        net.nodes.push(node);
    }
    net.settle();
    let key = net.key(0, "m");
    net.eventually("the put is finished", || {
        net.run(2, &["get", &key, "-o", "remote.bin", "--force"]).status.success()
    });
    assert!(net.read("remote.bin") == bytes);
}

#[test]
fn damage_is_healed_from_peers() {
    let net = Net::start(4, &QUICK);
    let bytes = random(3 << 20, 4);
    let file = net.write("payload.bin", &bytes);
    net.json(0, &["put", &file, "--as", "m"]);
    let pack = net.store(0).join("packs").join("p-00000001.pack");
    // Where they lie: the node may be appending.
    let packed = std::fs::OpenOptions::new().read(true).write(true).open(&pack).unwrap();
    for at in [300_000, 1_300_000] {
        let mut byte = [0];
        packed.read_exact_at(&mut byte, at).unwrap();
        packed.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    assert_eq!(net.run(0, &["verify", "m"]).status.code(), Some(1));
    let healed = net.json(0, &["verify", "m", "--repair"]);
    assert_eq!(healed["ok"], true, "{healed}");
    let all = net.json(0, &["verify", "--all"]);
    assert_eq!(all["ok"], true, "what was damaged is of no account any more: {all}");
    net.ok(0, &["get", "m", "-o", "restored.bin"]);
    assert!(net.read("restored.bin") == bytes);
}

#[test]
fn a_node_remembers_its_peers() {
    let mut net = Net::start(3, &QUICK);
    let noted = net.store(2).join("network.redb");
    let before = std::fs::metadata(&noted).unwrap().modified().unwrap();
    net.eventually("its peers are noted", || std::fs::metadata(&noted).unwrap().modified().unwrap() > before);
    std::thread::sleep(Duration::from_secs(3));
    net.kill(2);
    // Nobody tells it where to join.
    net.nodes[2] = net.launch_with(2, &[]);
    net.settle();
}

#[test]
fn quic_serves_as_well() {
    let net = Net::start(3, &["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    assert!(net.nodes[0].address.contains("quic-v1"), "{}", net.nodes[0].address);
    let bytes = random(4 << 20, 5);
    let file = net.write("payload.bin", &bytes);
    net.json(0, &["put", &file, "--as", "m"]);
    net.json(2, &["get", &net.key(0, "m"), "-o", "restored.bin"]);
    assert!(net.read("restored.bin") == bytes);
}

#[test]
fn a_node_that_ends_takes_its_leave() {
    let mut net = Net::start(3, &["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    let connected = |net: &Net| net.json(1, &["health"])["connected_peers"].as_u64().unwrap();
    net.eventually("all are connected", || connected(&net) == 2);
    net.terminate(2);
    // Long before a connection that has only fallen silent is given up.
    net.within(Duration::from_secs(5), "it is missed", || connected(&net) == 1);
}
