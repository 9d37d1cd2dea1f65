//! Hosts on a local network: they find each other by themselves, and a network that is cut in two heals.

use rustix::process::Signal;

use crate::lan::Lan;
use crate::process::{Net, random};

/// What takes hours takes seconds.
const QUICK: [&str; 6] = ["--refresh-interval", "2s", "--departure", "2s", "--ttl", "120s"];

#[test]
fn nodes_on_one_network_find_each_other_by_themselves() {
    let Some(lan) = Lan::new(3) else { return };
    let net = Net::on(lan, &QUICK);
    let bytes = random(2 << 20, 1);
    let put = net.json(0, &["put", &net.write("payload.bin", &bytes), "--as", "m"]);
    assert_eq!(put["replicas"], 3, "{put}");
    net.json(2, &["get", &net.key(0, "m"), "-o", "restored.bin"]);
    assert!(net.read("restored.bin") == bytes);
}

#[test]
fn a_network_that_was_cut_in_two_heals() {
    let Some(lan) = Lan::new(6) else { return };
    let net = Net::on(lan, &QUICK);
    let versions: Vec<Vec<u8>> = (0..3).map(|seed| random(2 << 20, seed)).collect();
    let put = |node: usize, key: &str, bytes: &[u8]| {
        let file = net.write(&format!("payload-{node}"), bytes);
        net.run(node, &["--json", "put", &file, "--as", key])
    };
    assert!(put(0, "m", &versions[0]).status.success());
    let (ours, theirs) = (net.key(0, "m"), net.key(4, "n"));
    net.json(4, &["get", &ours, "-o", "before.bin"]);
    assert!(net.read("before.bin") == versions[0]);

    net.lan().cut_off(3..6);
    // Either half goes on: with what it has, and with what is put into it. A put that finds too few peers for a replica is kept.
    net.json(4, &["get", &ours, "-o", "meanwhile.bin"]);
    assert!(net.read("meanwhile.bin") == versions[0]);
    for (node, key, bytes) in [(0, "m", &versions[1]), (4, "n", &versions[2])] {
        let ran = put(node, key, bytes);
        assert!(matches!(ran.status.code(), Some(0 | 4)), "{ran:?}");
        net.ok(node, &["get", key, "-o", "own.bin", "--force"]);
        assert!(net.read("own.bin") == *bytes, "what was put is there");
    }

    net.lan().heal();
    for (node, key, bytes) in [(5, &ours, &versions[1]), (1, &theirs, &versions[2])] {
        let out = format!("after-{node}.bin");
        net.eventually("what was put into the other half is found", || {
            net.run(node, &["get", key, "-o", &out, "--force"]).status.success() && net.read(&out) == *bytes
        });
    }
    net.eventually("every chunk is where it belongs", || {
        (0..6).all(|node| net.json(node, &["health"])["under_replicated"] == 0)
    });
}

#[test]
fn nodes_that_froze_and_thaw_go_on() {
    let net = Net::start(6, &QUICK);
    let signal = |signal: Signal| net.nodes[3..].iter().for_each(|node| node.signal(signal));
    let versions: Vec<Vec<u8>> = (3..5).map(|seed| random(2 << 20, seed)).collect();
    net.json(0, &["put", &net.write("one", &versions[0]), "--as", "m"]);
    signal(Signal::STOP);
    let ran = net.run(0, &["--json", "put", &net.write("two", &versions[1]), "--as", "m"]);
    assert!(matches!(ran.status.code(), Some(0 | 4)), "{ran:?}");
    signal(Signal::CONT);
    let key = net.key(0, "m");
    net.eventually("those that were away find what was put meanwhile", || {
        net.run(5, &["get", &key, "-o", "restored.bin", "--force"]).status.success()
            && net.read("restored.bin") == versions[1]
    });
    net.json(4, &["get", &format!("{key}@1"), "-o", "first.bin"]);
    assert!(net.read("first.bin") == versions[0]);
}
