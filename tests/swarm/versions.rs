//! Versions of a model in the network: what travels of a new one, what an interruption costs, and what is remembered.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caskad::{Error, GetOptions, Monitor, Payload, Progress, PutOptions, StatReport};

use crate::nodes::{Swarm, Warnings, damage, eventually, payload, quick, random, restored};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

#[test]
fn a_reader_of_version_1_receives_version_2_as_differences() {
    let swarm = Swarm::start(6, quick());
    let none = Monitor::none();
    let versions = [fixture("real_bf16_v1.safetensors"), fixture("real_bf16_v2.safetensors")];
    let name = "ft".parse().unwrap();
    let put = |bytes: &Vec<u8>| {
        let model = Payload::reader("model.safetensors", std::io::Cursor::new(bytes.clone()));
        swarm.nodes[0].put(&name, model, &PutOptions::default(), &none).unwrap()
    };
    put(&versions[0]);
    let reader = &swarm.nodes[5];
    let get = |number: usize| {
        let out = swarm.dir.path().join(format!("out-{number}"));
        let version = format!("@{}/ft@{number}", swarm.nodes[0].scope()).parse().unwrap();
        let report = reader.get(&version, &out, &GetOptions::default(), &none).unwrap();
        assert!(restored(&out) == versions[number - 1]);
        report
    };
    get(1);
    let second = put(&versions[1]);
    assert!(
        second.network.unwrap().sent_bytes < 3 * versions[1].len() as u64 / 4,
        "replicas are sent as differences, too"
    );
    let report = get(2);
    assert_eq!(report.peer_deltas, report.from_peers, "{report:?}");
    assert!(report.received_bytes * 100 < 35 * versions[1].len() as u64, "{} received", report.received_bytes);
}

#[test]
fn a_key_of_few_versions_and_of_many_is_found_alike() {
    // The catalogue of a few is in the record; of many it is a document.
    let swarm = Swarm::start(4, quick());
    let none = Monitor::none();
    for number in 1..=12_u64 {
        swarm.put(0, "m", random(1 << 16, number));
        let log = swarm.nodes[3].log(&swarm.name(0, "m").key, &none).unwrap();
        assert_eq!(log.iter().map(|version| version.version).collect::<Vec<_>>(), (1..=number).collect::<Vec<_>>());
    }
    for number in [1, 12] {
        let out = swarm.dir.path().join(format!("out-{number}"));
        let wanted = swarm.name(0, &format!("m@{number}"));
        swarm.nodes[2].get(&wanted, &out, &GetOptions::default(), &none).unwrap();
        assert!(restored(&out) == random(1 << 16, number));
    }
}

/// Cancels after so many bytes.
struct Stopper {
    monitor: std::sync::OnceLock<Monitor>,
    left: AtomicU64,
}

struct Stop(Arc<Stopper>);

impl Progress for Stop {
    fn advance(&self, bytes: u64) {
        let left = self.0.left.fetch_sub(bytes.min(self.0.left.load(Ordering::SeqCst)), Ordering::SeqCst);
        if left <= bytes {
            self.0.monitor.get().unwrap().cancel();
        }
    }
}

/// Bytes of all chunks as they are stored.
fn stored_bytes(stat: &StatReport) -> u64 {
    stat.codecs.values().map(|used| used.stored_bytes).sum()
}

#[test]
fn an_interrupted_get_fetches_no_verified_chunk_again() {
    let swarm = Swarm::start(5, quick());
    let none = Monitor::none();
    let bytes = random(16 << 20, 1);
    swarm.put(0, "m", bytes.clone());
    let name = swarm.name(0, "m");
    let reader = swarm.nodes.iter().skip(1).min_by_key(|node| node.store().stat().unwrap().chunks).unwrap();
    let before = reader.store().stat().unwrap();
    let stopper = Arc::new(Stopper { monitor: std::sync::OnceLock::new(), left: AtomicU64::new(3 << 20) });
    let monitor = Monitor::new(Stop(Arc::clone(&stopper)));
    stopper.monitor.set(monitor.clone()).unwrap();
    let out = swarm.dir.path().join("out");
    let stopped = reader.get(&name, &out, &GetOptions::default(), &monitor);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    let now = reader.store().stat().unwrap();
    let came = now.chunks - before.chunks;
    let came_bytes = stored_bytes(&now) - stored_bytes(&before);
    assert!(came > 0, "what came is kept");
    let report = reader.get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    let version = swarm.nodes[0].store().version(&"m".parse().unwrap()).unwrap();
    let chunks = version.manifest().chunks.len() as u64;
    // The manifest and the catalogue came the first time.
    assert!(report.from_peers <= chunks + 2 - came, "{} of {chunks} after {came}", report.from_peers);
    // Beside chunks there are their headers, and questions and their answers.
    let most = bytes.len() as u64 - came_bytes + (256 << 10);
    assert!(report.received_bytes <= most, "{} bytes after {came_bytes}", report.received_bytes);
}

#[test]
fn a_copy_that_is_here_is_found_when_its_publisher_names_it_no_more() {
    let swarm = Swarm::start(3, quick());
    let (bytes, name, none) = (random(1 << 20, 6), swarm.name(0, "m"), Monitor::none());
    swarm.put(0, "m", bytes.clone());
    let reader = &swarm.nodes[1];
    reader.fetch(&name, &none).unwrap();
    swarm.nodes[0].store().remove(&"m@1".parse().unwrap()).unwrap();
    swarm.nodes[0].wake();
    let other = &swarm.nodes[2];
    eventually("nobody names it any more", || other.log(&name.key, &none).is_err());
    let warnings = Warnings::default();
    let monitor = Monitor::new(warnings.clone());
    assert_eq!(reader.version(&name, &monitor).unwrap().number(), 1);
    let mut out = Vec::new();
    reader.get_to(&name, &mut out, &GetOptions::default(), &monitor).unwrap();
    assert!(out == bytes);
    assert!(warnings.all().iter().all(|warning| warning.contains("is taken from the copy here")));
    assert_eq!(warnings.all().len(), 2);
}

#[test]
fn what_is_removed_is_no_longer_kept() {
    let mut config = quick();
    config.ttl = std::time::Duration::from_secs(12);
    let swarm = Swarm::start(4, config);
    let none = Monitor::none();
    let name = "m".parse().unwrap();
    swarm.nodes[0].put(&name, payload(random(1 << 20, 1)), &PutOptions::default(), &none).unwrap();
    swarm.nodes[0].put(&name, payload(random(1 << 20, 2)), &PutOptions::default(), &none).unwrap();
    let manifest = swarm.nodes[0].store().version(&"m@1".parse().unwrap()).unwrap().manifest_hash();
    let kept = || {
        let leases = |node: &caskad::Node| node.store().leases().unwrap().all();
        swarm.nodes.iter().skip(1).flat_map(leases).filter(|lease| lease.terms.manifest == manifest).count()
    };
    assert!(kept() > 0);
    let chunks = || swarm.nodes.iter().skip(1).map(|node| node.store().stat().unwrap().chunks).sum::<u64>();
    let before = chunks();
    for node in &swarm.nodes {
        node.store().gc(caskad::GcOptions::default(), &none).unwrap();
    }
    assert!(chunks() >= before, "garbage collection spares what is under a lease");
    // Renewed, a lease outlives its time.
    std::thread::sleep(std::time::Duration::from_secs(15));
    assert!(kept() > 0, "it was renewed");
    swarm.nodes[0].store().remove(&"m@1".parse().unwrap()).unwrap();
    swarm.nodes[0].wake();
    eventually("its leases have ended", || kept() == 0);
    eventually("and what was under them is reclaimed", || chunks() < before);
    let out = swarm.dir.path().join("out");
    let scope = swarm.nodes[0].scope();
    let gone = swarm.nodes[3].get(&format!("@{scope}/m@1").parse().unwrap(), &out, &GetOptions::default(), &none);
    assert!(matches!(gone, Err(Error::NotFound { what: "version", .. })), "{gone:?}");
    swarm.nodes[3].get(&format!("@{scope}/m@2").parse().unwrap(), &out, &GetOptions::default(), &none).unwrap();
}

#[test]
fn what_somebody_has_pinned_stays_in_the_network_without_its_publisher() {
    let mut config = quick();
    config.ttl = std::time::Duration::from_secs(6);
    let mut swarm = Swarm::start(5, config);
    let (bytes, name, none) = (random(1 << 20, 9), swarm.name(0, "m"), Monitor::none());
    swarm.put(0, "m", bytes.clone());
    let manifest = swarm.nodes[0].store().version(&"m@1".parse().unwrap()).unwrap().manifest_hash();
    swarm.nodes[1].fetch(&name, &none).unwrap();
    swarm.nodes[1].store().pin(&name).unwrap();
    swarm.nodes[1].wake();
    let owners = |nodes: &[caskad::Node]| -> HashSet<[u8; 32]> {
        let leases = nodes.iter().flat_map(|node| node.store().leases().unwrap().all());
        leases.filter(|lease| lease.terms.manifest == manifest).map(|lease| lease.terms.owner).collect()
    };
    eventually("others keep it for both", || owners(&swarm.nodes[2..]).len() == 2);
    swarm.nodes.remove(0).shutdown().unwrap();
    eventually("what its publisher had there has ended", || owners(&swarm.nodes[1..]).len() == 1);
    let pack = swarm.store(1).join("packs").join("p-00000001.pack");
    damage(&pack, (1 << 18..(1 << 18) + 400_000).step_by(1000));
    let (pinned, out) = (&swarm.nodes[0], swarm.dir.path().join("out"));
    pinned.get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    pinned.store().unpin(&name).unwrap();
    eventually("it has ended as well", || owners(&swarm.nodes[1..]).is_empty());
}

#[test]
fn every_node_sees_the_newest_record() {
    let swarm = Swarm::start(4, quick());
    let none = Monitor::none();
    for seed in 1..3 {
        swarm.put(0, "m", random(100_000, seed));
    }
    let scoped = swarm.name(0, "m").key;
    let latest = |node: usize| swarm.nodes[node].log(&scoped, &none).unwrap().last().unwrap().version;
    assert_eq!((latest(1), latest(2), latest(3)), (2, 2, 2));
}

#[test]
fn a_version_of_anothers_is_kept_by_the_name_that_its_scope_has_here() {
    let swarm = Swarm::start(4, quick());
    let none = Monitor::none();
    let bytes = random(1 << 20, 9);
    swarm.put(0, "m", bytes.clone());
    let reader = &swarm.nodes[3];
    let store = reader.store();
    store.set_alias("alice", swarm.nodes[0].scope()).unwrap();
    let version: caskad::VersionRef = "@alice/m@1".parse().unwrap();
    let out = swarm.dir.path().join("out");
    reader.get(&version, &out, &GetOptions::default(), &none).unwrap();
    assert!(store.pin(&version).unwrap().pinned);
    // The next get would take the publisher's labels again.
    let label = "mine".parse().unwrap();
    assert!(matches!(store.tag(&version, &label), Err(Error::Syntax { what: "key", .. })));
    assert!(matches!(store.untag(&version.key, &label), Err(Error::Syntax { what: "key", .. })));
    assert!(store.verify(&version, &none).unwrap().ok);
    let shown = store.show(&swarm.name(0, "m@1")).unwrap();
    assert!(shown.summary.pinned && shown.summary.labels.is_empty());
    assert!(matches!(store.remove(&version), Err(Error::Pinned { .. })), "it is pinned");
    assert!(!store.unpin(&version).unwrap().pinned);
    store.compact(&version.key, Default::default(), &none).unwrap();
    store.remove(&version).unwrap();
    assert!(matches!(store.show(&version), Err(Error::NotFound { .. })));
}
