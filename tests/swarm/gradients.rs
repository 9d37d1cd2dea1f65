//! A round of training: every worker publishes, every worker collects.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use caskad::chunk::ChunkRef;
use caskad::gradient::{
    AggregateOptions, BytesContribution, Contribution, Rule, VersionContribution, aggregate, collect,
    end_rounds_before, publish, unfit,
};
use caskad::manifest::{Content, Contents, FileEntry, FileKind, Manifest, RegularFile};
use caskad::net::catalogue::{Catalogue, CataloguedVersion};
use caskad::net::record::{Body, CataloguePlace, Record};
use caskad::refs::{Meta, VersionEntry};
use caskad::{Error, GcOptions, Hash, Identity, Monitor, Node, Payload, PutOptions};

use crate::liar::Mute;
use crate::nodes::{Swarm, Warnings, eventually, quick, random};
use crate::records::Scribe;

fn contribution(value: f32) -> Vec<u8> {
    let data: Vec<u8> = (0..50_000).flat_map(|n| (value + n as f32 * 1e-3).to_le_bytes()).collect();
    let json = format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[50000],\"data_offsets\":[0,{}]}}}}", data.len());
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat()
}

#[test]
fn every_worker_collects_the_round_and_knows_who_is_missing() {
    let swarm = Swarm::start(4, quick());
    let none = Monitor::none();
    for (worker, node) in swarm.nodes.iter().enumerate().take(3) {
        let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(worker as f32)));
        publish(node, "run", 7, payload, Duration::from_secs(600), &none).unwrap();
    }
    let workers: Vec<_> = swarm.nodes.iter().map(|node| node.scope()).collect();
    for node in &swarm.nodes {
        // So that all of it is there before time counts.
        collect(node, "run", 7, &workers[..3], Duration::from_secs(60), &none).unwrap();
        let started = Instant::now();
        let round = collect(node, "run", 7, &workers, Duration::from_secs(3), &none).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(round.missing, [workers[3]]);
        let contributions =
            round.contributions.into_iter().map(|one| VersionContribution::new(one.version, None).unwrap());
        let contributions: Vec<VersionContribution> = contributions.collect();
        let contributions: Vec<&dyn Contribution> = contributions.iter().map(|one| one as &dyn Contribution).collect();
        assert_eq!(contributions.len(), 3);
        let mut out = Vec::new();
        aggregate(&contributions, &Rule::Mean, &AggregateOptions::default(), &mut out, &none).unwrap();
        let last = f32::from_le_bytes(out[out.len() - 4..].try_into().unwrap());
        assert!((last - (1.0 + 49_999.0 * 1e-3)).abs() < 1e-4, "{last}");
    }
    // A late one is waited for.
    let late = swarm.nodes[3].clone();
    let publishing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(3.0)));
        publish(&late, "run", 7, payload, Duration::from_secs(600), &Monitor::none()).unwrap();
    });
    let round = collect(&swarm.nodes[0], "run", 7, &workers, Duration::from_secs(30), &none).unwrap();
    assert_eq!((round.contributions.len(), round.missing.len()), (4, 0));
    publishing.join().unwrap();
}

#[test]
fn rounds_that_end_free_the_disks_of_all_who_kept_them() {
    let mut config = quick();
    // Long before any lease ends.
    (config.ttl, config.refresh_interval) = (Duration::from_secs(24 * 3600), Duration::from_secs(3600));
    let swarm = Swarm::start(3, config);
    let (publisher, collector, none) = (&swarm.nodes[0], &swarm.nodes[1], Monitor::none());
    let worker = publisher.scope();
    let pinned = format!("@{worker}/gradient/run/2@1").parse().unwrap();
    for round in 1..=4 {
        let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(round as f32)));
        publish(publisher, "run", round, payload, Duration::from_secs(3600), &none).unwrap();
        collect(collector, "run", round, &[worker], Duration::from_secs(30), &none).unwrap();
    }
    collector.store().pin(&pinned).unwrap();
    publisher
        .store()
        .put(&"gradient/run/02".parse().unwrap(), Payload::bytes("a", b"no round's"), &PutOptions::default(), &none)
        .unwrap();
    let ended: Vec<Hash> = (1..=3)
        .map(|round| {
            publisher.store().version(&format!("gradient/run/{round}").parse().unwrap()).unwrap().manifest_hash()
        })
        .collect();
    assert_eq!(end_rounds_before(publisher, "run", 4).unwrap(), 3);
    assert_eq!(end_rounds_before(collector, "run", 4).unwrap(), 2);
    assert_eq!(end_rounds_before(publisher, "run", 4).unwrap(), 0);
    let names: Vec<String> = publisher.store().keys("").unwrap().iter().map(|key| key.key.to_string()).collect();
    assert_eq!(names, ["gradient/run/02", "gradient/run/4"]);
    let leased = |node: &Node, manifest: &Hash| {
        node.store().leases().unwrap().all().iter().any(|lease| lease.terms.manifest == *manifest)
    };
    for node in &swarm.nodes {
        eventually("rounds 1 and 3 are let go", || !leased(node, &ended[0]) && !leased(node, &ended[2]));
    }
    // What is pinned is kept, by all for whoever has pinned it.
    eventually("round 2 is kept", || leased(collector, &ended[1]) && leased(&swarm.nodes[2], &ended[1]));
    for node in &swarm.nodes {
        let swept = node.store().gc(GcOptions::default(), &none).unwrap();
        assert!(swept.removed_chunks >= 2, "{swept:?}");
    }
    assert!(collector.store().verify(&pinned, &none).unwrap().ok);
    assert!(collector.store().verify_all(&none).unwrap().ok);
}

#[test]
fn a_contribution_ends_with_its_time_and_counts_once() {
    let swarm = Swarm::start(5, quick());
    let none = Monitor::none();
    let publisher = &swarm.nodes[0];
    let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(1.0)));
    let ttl = Duration::from_secs(20);
    publish(publisher, "run", 1, payload, ttl, &none).unwrap();
    let over = Instant::now() + ttl;
    let worker = publisher.scope();
    let ask = |node: usize| collect(&swarm.nodes[node], "run", 1, &[worker], Duration::from_millis(50), &none).unwrap();
    let round = collect(&swarm.nodes[1], "run", 1, &[worker], Duration::from_secs(30), &none).unwrap();
    assert_eq!((round.contributions.len(), round.missing.len()), (1, 0));
    // Long before the leases of this network would.
    std::thread::sleep(over.saturating_duration_since(Instant::now()));
    assert!(ask(2).missing == [worker] && ask(3).contributions.is_empty(), "nobody has it any more");
    let twice = collect(&swarm.nodes[1], "run", 2, &[worker, worker], Duration::from_millis(50), &none);
    assert!(matches!(twice, Err(Error::Syntax { what: "worker", .. })));
}

#[test]
fn those_who_do_not_publish_hold_nobody_up() {
    let swarm = Swarm::start(3, quick());
    let absent = (0..40).map(|_| Identity::generate().unwrap().scope());
    let mut workers: Vec<_> = absent.collect();
    workers.extend(swarm.nodes[1..].iter().map(|node| node.scope()));
    let put = |node: usize, wait: u64, ttl_seconds: u64| {
        let publisher = swarm.nodes[node].clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(wait));
            let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(1.0)));
            publish(&publisher, "run", 3, payload, Duration::from_secs(ttl_seconds), &Monitor::none()).unwrap();
        })
    };
    // Whoever asks when the deadline is near comes too late for the first.
    put(1, 0, 10).join().unwrap();
    let late = put(2, 1000, 600);
    let (deadline, started) = (Duration::from_secs(15), Instant::now());
    let round = collect(&swarm.nodes[0], "run", 3, &workers, deadline, &Monitor::none()).unwrap();
    let took = started.elapsed();
    late.join().unwrap();
    assert_eq!(round.contributions.iter().map(|one| one.worker).collect::<Vec<_>>(), workers[40..]);
    assert_eq!(round.missing, workers[..40]);
    assert!(took < deadline + Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_deadline_that_no_clock_reaches_never_comes() {
    let swarm = Swarm::start(2, quick());
    let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(1.0)));
    publish(&swarm.nodes[1], "run", 4, payload, Duration::MAX, &Monitor::none()).unwrap();
    let worker = swarm.nodes[1].scope();
    let round = collect(&swarm.nodes[0], "run", 4, &[worker], Duration::MAX, &Monitor::none()).unwrap();
    assert_eq!((round.contributions.len(), round.missing.len()), (1, 0));
}

/// A manifest of one file that consists of `chunks`, long enough to be a chunk itself.
fn manifest_of(name: char, chunks: Vec<ChunkRef>) -> Vec<u8> {
    let file = RegularFile {
        len: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        blob_hash: Hash::of(b"of the file"),
        executable: false,
        media_type: None,
        content: Content::Chunks,
        segments: Vec::new(),
    };
    let contents = Contents {
        key: "gradient/run/9".parse().unwrap(),
        single: true,
        files: vec![FileEntry { path: name.to_string().repeat(2000), kind: FileKind::Regular(file) }],
        chunks,
        homes: BTreeMap::new(),
        parent: None,
        base: None,
        created_unix_ms: 1_800_000_000_000,
        meta: Meta::default(),
    };
    Manifest::new(contents).unwrap().encode()
}

/// The record by which `worker` says that its first version of round 9 has that manifest.
fn record_of(worker: &Identity, seq: u64, manifest: &[u8]) -> Vec<u8> {
    let body = Body { hash: Hash::of(manifest), len: manifest.len() as u64, pieces: None };
    let entry = VersionEntry {
        manifest: body.hash,
        manifest_bytes: body.len,
        bytes: 20_000,
        stored_bytes: 20_000,
        chunks: 2,
        new_chunks: 2,
        created_unix_ms: 1_800_000_000_000,
        expires_unix_ms: None,
        single: true,
        meta: Meta::default(),
    };
    let version = CataloguedVersion { manifest: body, entry, labels: Vec::new(), peer: None };
    let catalogue = Catalogue { versions: [(1, version)].into() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let record = Record {
        publisher: worker.scope(),
        name: "gradient/run/9".to_owned(),
        seq,
        version: 1,
        manifest: body,
        catalogue: CataloguePlace::Inline(catalogue.encode()),
        expires_unix_ms: now.as_millis() as u64 + 600_000,
        peer: [0; 32],
    };
    record.sign(worker).bytes().to_vec()
}

#[test]
fn a_round_is_collected_whatever_one_worker_publishes() {
    let swarm = Swarm::start(4, quick());
    let (honest, reader, none) = (&swarm.nodes[0], &swarm.nodes[2], Monitor::none());
    let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(1.0)));
    publish(honest, "run", 9, payload, Duration::from_secs(600), &none).unwrap();
    let data = random(10_000, 1);
    let chunk = |len| ChunkRef { hash: Hash::of(&data), len };
    swarm.put(1, "data", data.clone());
    let addresses: Vec<_> = (0..4).map(|index| swarm.address(index)).collect();
    let mut scribe = Scribe::join(&addresses);
    // Manifests are chunks like others, so a file's content may be one.
    let mut bring = |worker: &Identity, seq, key: &str, manifest: Vec<u8>| {
        let record = record_of(worker, seq, &manifest);
        swarm.put(1, key, manifest);
        let key = Record::key(&worker.scope(), "gradient/run/9");
        assert!((0..5).any(|_| scribe.write(&key, &record) == 4), "all four have it");
    };
    let (twice, changed) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    bring(&changed, 1, "first", manifest_of('a', vec![chunk(10_000)]));
    let round = collect(reader, "run", 9, &[changed.scope()], Duration::from_secs(30), &none).unwrap();
    assert_eq!(round.contributions.len(), 1);
    bring(&changed, 2, "second", manifest_of('b', vec![chunk(10_000)]));
    bring(&twice, 1, "third", manifest_of('c', vec![chunk(10_000), chunk(9_999)]));
    let workers = [honest.scope(), twice.scope(), changed.scope()];
    let warnings = Warnings::default();
    let told = Monitor::new(warnings.clone());
    let round = collect(reader, "run", 9, &workers, Duration::from_secs(10), &told).unwrap();
    assert_eq!(round.contributions.iter().map(|one| one.worker).collect::<Vec<_>>(), [honest.scope()]);
    assert_eq!(round.missing, [twice.scope(), changed.scope()]);
    let said = |worker: &Identity, why: &str| {
        warnings.all().iter().any(|said| said.contains(&worker.scope().to_string()) && said.contains(why))
    };
    assert!(said(&twice, "another length") && said(&changed, "changed it"), "{:?}", warnings.all());
}

#[test]
fn peers_that_do_not_answer_hold_no_collection_up_beyond_its_deadline() {
    let swarm = Swarm::start(2, quick());
    let mute = Mute::start(&swarm.free_address(), &swarm.address(0));
    let node = &swarm.nodes[0];
    eventually("the node knows who is mute", || {
        let peers = node.peers().unwrap();
        peers.iter().any(|peer| peer.peer_id == mute.peer.to_string() && !peer.addresses.is_empty())
    });
    let (nobody, started) = (Identity::generate().unwrap().scope(), Instant::now());
    let round = collect(node, "run", 1, &[nobody], Duration::from_secs(1), &Monitor::none()).unwrap();
    assert_eq!(round.missing, [nobody]);
    // Kademlia would wait for ten seconds.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn who_does_not_fit_is_told_from_the_rest() {
    let named = |name: &str, bytes: Vec<u8>| BytesContribution::new(name, bytes);
    let mut renamed = contribution(4.0);
    let at = renamed.windows(3).position(|bytes| bytes == b"\"w\"").unwrap();
    renamed[at + 1] = b'v';
    let all = [
        named("renamed", renamed),
        named("first", contribution(1.0)),
        named("junk", b"junk".to_vec()),
        named("second", contribution(2.0)),
    ];
    let all: Vec<&dyn Contribution> = all.iter().map(|one| one as &dyn Contribution).collect();
    let unfit = unfit(&all);
    assert_eq!(unfit.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2]);
    assert!(unfit[0].1.to_string().contains("it has no tensor \"w\""), "{}", unfit[0].1);
}
