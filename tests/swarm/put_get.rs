//! Put on one node, get on another.

use caskad::chunk::ChunkSource as _;
use caskad::{Error, GetOptions, Hash, ImportOptions, Monitor, Part, PutOptions};

use crate::nodes::{Swarm, damage, eventually, payload, quick, random, restored};

#[test]
fn what_one_node_puts_another_gets_byte_for_byte() {
    let swarm = Swarm::start(5, quick());
    let none = Monitor::none();
    let bytes = random(3 << 20, 1);
    let put = swarm.put(0, "team/model@best", bytes.clone());
    let network = put.network.unwrap();
    assert_eq!(network.replicas, 3);
    assert!(network.lookups > 0 && network.sent_bytes > 0);
    let scope = swarm.nodes[0].scope();
    let out = swarm.dir.path().join("out");
    for version in ["", "@1", "@best"] {
        let name = format!("@{scope}/team/model{version}");
        let report = swarm.nodes[4].get(&name.parse().unwrap(), &out, &GetOptions::default(), &none).unwrap();
        assert_eq!(restored(&out), bytes);
        assert_eq!((report.version, report.bytes), (1, 3 << 20));
        std::fs::remove_file(&out).unwrap();
    }
    let misspelt = format!("@{scope}/team/modle").parse().unwrap();
    eventually("the listing is published, and the nearest name suggested", || {
        match swarm.nodes[4].get(&misspelt, &out, &GetOptions::default(), &none) {
            Err(Error::NotFound { nearest, .. }) => nearest == ["team/model"],
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_range_fetches_only_its_chunks() {
    let swarm = Swarm::start(5, quick());
    let none = Monitor::none();
    let bytes = random(8 << 20, 2);
    swarm.put(1, "m", bytes.clone());
    let name = swarm.name(1, "m");
    let mut options = GetOptions::default();
    options.part = Part::Range { file: None, range: (4_000_000, Some(4_100_000)) };
    let mut out = Vec::new();
    let reader = swarm.nodes.iter().min_by_key(|node| node.store().stat().unwrap().stored_bytes).unwrap();
    let report = reader.get_to(&name, &mut out, &options, &none).unwrap();
    assert_eq!(out, bytes[4_000_000..4_100_000]);
    assert!(report.received_bytes < 2 << 20, "{}", report.received_bytes);
}

#[test]
fn what_is_damaged_here_comes_from_peers() {
    let swarm = Swarm::start(3, quick());
    let bytes = random(3 << 20, 1);
    swarm.put(0, "m", bytes.clone());
    let pack = swarm.store(0).join("packs").join("p-00000001.pack");
    damage(&pack, (1 << 20..(1 << 20) + 400_000).step_by(1000));
    let (out, none) = (swarm.dir.path().join("out"), Monitor::none());
    swarm.nodes[0].get(&"m".parse().unwrap(), &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    assert!(swarm.nodes[0].store().verify(&"m".parse().unwrap(), &none).unwrap().ok);
}

/// Of one's own version, and of another's of which only a part was fetched.
#[test]
fn what_is_damaged_here_of_a_stream_comes_from_peers() {
    let swarm = Swarm::start(3, quick());
    let (bytes, none) = (random(3 << 20, 7), Monitor::none());
    swarm.put(0, "m", bytes.clone());
    let mut options = GetOptions::default();
    options.part = Part::Range { file: None, range: (1 << 20, Some(5 << 19)) };
    for (index, name) in [(0, "m".parse().unwrap()), (2, swarm.name(0, "m"))] {
        let read = || {
            let mut out = Vec::new();
            swarm.nodes[index].get_to(&name, &mut out, &options, &none).unwrap();
            out
        };
        assert!(read() == bytes[1 << 20..5 << 19]);
        let pack = swarm.store(index).join("packs").join("p-00000001.pack");
        let len = std::fs::metadata(&pack).unwrap().len() as usize;
        damage(&pack, (100..len).step_by(5000));
        assert!(read() == bytes[1 << 20..5 << 19]);
    }
}

#[test]
fn a_manifest_that_is_damaged_here_comes_from_peers() {
    let swarm = Swarm::start(3, quick());
    let (bytes, name, none) = (random(3 << 20, 3), "m".parse().unwrap(), Monitor::none());
    swarm.put(0, "m", bytes.clone());
    let node = &swarm.nodes[0];
    let manifest = node.store().version(&name).unwrap().manifest_hash();
    let pack = swarm.store(0).join("packs").join("p-00000001.pack");
    let damage_manifest = || {
        let packed = std::fs::read(&pack).unwrap();
        let records = packed.windows(32).enumerate().filter(|(_, window)| *window == manifest.as_bytes());
        let places: Vec<usize> = records.map(|(at, _)| at + 200).collect();
        assert!(!places.is_empty());
        damage(&pack, places);
    };
    damage_manifest();
    let out = swarm.dir.path().join("out");
    node.get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    damage_manifest();
    let report = node.store().verify(&name, &none).unwrap();
    assert!(report.damaged.iter().any(|damage| damage.what == "manifest"), "{report:?}");
    // The other holders may have been faster.
    assert!(node.heal(&report, &none).unwrap() <= 1);
    assert!(node.store().verify(&name, &none).unwrap().ok);
}

/// The holder finds out when it is asked for the bytes: from then on it no longer lists them as kept.
#[test]
fn what_is_damaged_at_a_holder_is_brought_back_by_the_others() {
    let swarm = Swarm::start(3, quick());
    swarm.put(0, "m", random(3 << 20, 2));
    let version = swarm.nodes[0].store().version(&"m".parse().unwrap()).unwrap();
    let chunks: Vec<Hash> = version.manifest().chunks.iter().map(|chunk| chunk.hash).collect();
    let holder = swarm.nodes[1].store();
    let served = || chunks.iter().filter(|chunk| holder.parcel(chunk, &[]).unwrap().is_some()).count();
    eventually("the holder has all of it", || served() == chunks.len());
    let whole = holder.verify_all(&Monitor::none()).unwrap();
    assert!(whole.ok && whole.chunks >= chunks.len() as u64, "what is kept for others is looked at too: {whole:?}");
    let pack = swarm.store(1).join("packs").join("p-00000001.pack");
    damage(&pack, (1 << 20..(1 << 20) + 400_000).step_by(1000));
    assert!(served() < chunks.len());
    eventually("the holder has all of it again", || served() == chunks.len());
}

#[test]
fn a_repair_brings_back_what_is_kept_for_others() {
    let mut config = quick();
    // Nobody brings it by himself meanwhile.
    config.refresh_interval = std::time::Duration::from_secs(3600);
    config.ttl = std::time::Duration::from_secs(24 * 3600);
    let swarm = Swarm::start(3, config);
    swarm.put(0, "m", random(3 << 20, 4));
    let (holder, none) = (&swarm.nodes[1], Monitor::none());
    let sound = || holder.store().verify_all(&none).unwrap();
    let whole = sound();
    assert!(whole.ok && whole.chunks > 8, "{whole:?}");
    let version = swarm.nodes[0].store().version(&"m".parse().unwrap()).unwrap();
    let pack = swarm.store(1).join("packs").join("p-00000001.pack");
    let packed = std::fs::read(&pack).unwrap();
    // In what follows the hash in a record's header, so that the record itself is still known for one.
    let hit = version
        .manifest()
        .chunks
        .iter()
        .step_by(3)
        .map(|chunk| packed.windows(32).position(|window| window == chunk.hash.as_bytes()).unwrap() + 5000);
    damage(&pack, hit.collect::<Vec<_>>());
    let found = sound();
    assert!(!found.ok, "{found:?}");
    // Chunks of no version here: only their leases tell of them.
    assert_eq!(holder.heal(&found, &none).unwrap(), 0);
    let healed = holder.heal_kept(&none).unwrap();
    assert!(healed > 0);
    let mended = sound();
    assert!(mended.ok && mended.chunks == whole.chunks, "{healed} healed: {mended:?}");
    assert_eq!(holder.heal_kept(&none).unwrap(), 0);
}

#[test]
fn what_was_removed_and_comes_back_is_placed_again() {
    let mut config = quick();
    // Long before anything is renewed, or compared.
    (config.ttl, config.refresh_interval) =
        (std::time::Duration::from_secs(24 * 3600), std::time::Duration::from_secs(3600));
    let swarm = Swarm::start(3, config);
    let (none, name) = (Monitor::none(), "m@1".parse().unwrap());
    let bytes = random(300_000, 5);
    swarm.put(0, "m", bytes.clone());
    let (node, archive) = (&swarm.nodes[0], swarm.dir.path().join("m.caskad"));
    let manifest = node.store().version(&name).unwrap().manifest_hash();
    node.store().export(&name, &archive, &none).unwrap();
    let kept = |peer: usize| {
        let leases = swarm.nodes[peer].store().leases().unwrap().all();
        leases.iter().any(|lease| lease.terms.manifest == manifest && lease.chunks > 1)
    };
    assert!(kept(1) && kept(2));
    node.store().remove(&name).unwrap();
    node.wake();
    eventually("the peers have let go", || !kept(1) && !kept(2));
    // The same manifest, under the next number.
    node.store().import(&archive, &ImportOptions::default(), &none).unwrap();
    node.wake();
    eventually("the peers keep it again", || kept(1) && kept(2));
    let out = swarm.dir.path().join("out");
    swarm.nodes[2].get(&swarm.name(0, "m"), &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
}

#[test]
fn what_no_holder_has_any_more_comes_from_the_peer_that_published_it() {
    let mut config = quick();
    config.replication_factor = 1;
    // Nobody brings it elsewhere meanwhile.
    config.refresh_interval = std::time::Duration::from_secs(3600);
    config.ttl = std::time::Duration::from_secs(24 * 3600);
    let mut swarm = Swarm::start(20, config);
    let none = Monitor::none();
    let bytes = random(8 << 20, 3);
    swarm.put(0, "m", bytes.clone());
    let name = swarm.name(0, "m");
    // Those that step in by rank are 8 of the 10 that are left: for some chunks, the publisher is not among them.
    let lost: u64 = swarm.nodes.drain(1..11).map(|node| node.store().stat().unwrap().stored_bytes).sum();
    assert!(lost > 1 << 20, "{lost}");
    let out = swarm.dir.path().join("out");
    swarm.nodes[5].get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
}

#[test]
fn peers_that_are_gone_cost_a_small_network_no_lookups() {
    let mut swarm = Swarm::start(6, quick());
    swarm.nodes.drain(1..3);
    let lookups = |seed| swarm.put(0, "m", random(3 << 20, seed)).network.unwrap().lookups;
    // For a chunk, for the record, and as many again when the routing tables change meanwhile.
    assert!((1..3).all(|seed| lookups(seed) <= 4));
}

#[test]
fn a_put_does_not_wait_for_the_last_holder_and_that_one_is_not_forgotten() {
    let mut swarm = Swarm::start(3, quick());
    let mut slow = quick();
    slow.download_bytes_per_second = 256 << 10;
    let slow = swarm.add_with(slow);
    swarm.settle();
    let publisher = &swarm.nodes[0];
    let put = swarm.put(0, "m", random(3 << 20, 1));
    assert_eq!(put.network.unwrap().replicas, 2, "a majority");
    assert_eq!(publisher.health().unwrap().unpublished, 1);
    eventually("the slow one has what belongs to it", || publisher.health().unwrap().unpublished == 0);
    assert!(slow.store().stat().unwrap().stored_bytes > 1 << 20);
}

#[test]
fn chunks_for_which_there_are_too_few_peers_are_told_of() {
    let mut swarm = Swarm::start(2, quick());
    let short = |node: &caskad::Node| node.health().unwrap().under_replicated;
    swarm.put(0, "m", random(1 << 20, 1));
    eventually("two are too few for three replicas", || swarm.nodes.iter().all(|node| short(node) > Some(0)));
    swarm.add();
    swarm.settle();
    eventually("three are enough", || swarm.nodes.iter().all(|node| short(node) == Some(0)));
}

#[test]
fn a_put_that_finds_too_few_peers_speaks_of_its_own_version() {
    let swarm = Swarm::start(1, quick());
    for version in 1..3 {
        let (key, options) = ("m".parse().unwrap(), PutOptions::default());
        let put = swarm.nodes[0].put(&key, payload(random(4 << 20, 1)), &options, &Monitor::none());
        let Err(Error::TooFewPeers { name, short, chunks, .. }) = put else { panic!("{put:?}") };
        let own = swarm.nodes[0].store().version(&name.parse().unwrap()).unwrap().manifest().chunks.len();
        // The chunks of its manifest, and the manifest.
        assert_eq!((name, short, chunks), (format!("m@{version}"), own + 1, own + 1));
    }
    assert_eq!(swarm.nodes[0].health().unwrap().unpublished_why.as_deref(), Some("nobody is connected"));
}

#[test]
fn a_lone_node_looks_nothing_up() {
    let mut config = quick();
    config.replication_factor = 1;
    let swarm = Swarm::start(1, config);
    for seed in 0..2 {
        assert_eq!(swarm.put(0, "m", random(8 << 20, seed)).network.unwrap().lookups, 0, "there is nobody to ask");
    }
}
