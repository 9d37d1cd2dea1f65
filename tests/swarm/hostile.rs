//! Peers that lie, stall, flood, and pretend.

use caskad::chunk::{Codec, LeaseTerms, Parcel};
use caskad::net::wire::{Frame, PutStatus};
use caskad::{GetOptions, Hash, Monitor};

use crate::liar::{Liar, Lie};
use crate::nodes::{Swarm, Warnings, eventually, quick, random, restored};
use crate::raw::Raw;

/// One of four peers lies, and everybody trusts it with a share of the chunks: the reader gets all of them right, from the others.
fn a_liar_is_replaced(lie: Lie, seed: u64) {
    let swarm = Swarm::start(4, quick());
    let liar = Liar::start(lie, &swarm.free_address(), &swarm.address(0));
    let there = |node: &caskad::Node| {
        let peers = node.peers().unwrap();
        peers.iter().any(|peer| peer.peer_id == liar.peer.to_string() && !peer.addresses.is_empty())
    };
    eventually("all know the liar", || swarm.nodes.iter().all(there));
    let none = Monitor::none();
    let out = swarm.dir.path().join("out");
    let warnings = Warnings::default();
    let reader = &swarm.nodes[3];
    let read = |round: u64| {
        let bytes = random(6 << 20, 10 * seed + round);
        swarm.put(0, "m", bytes.clone());
        let name = swarm.name(0, "m");
        let report = reader.get(&name, &out, &GetOptions::default(), &Monitor::new(warnings.clone())).unwrap();
        assert!(restored(&out) == bytes, "{lie:?}");
        assert!(report.from_peers > 0);
    };
    read(0);
    if matches!(lie, Lie::WrongBytes | Lie::Bomb) {
        // Where it was so late that others were asked in its place, it has not lied yet.
        let is_named = || warnings.all().iter().any(|warning| warning.contains(&liar.peer.to_string()));
        for round in 1.. {
            if is_named() {
                break;
            }
            assert!(round < 10, "{lie:?}: the liar is named");
            read(round);
        }
        let banned =
            reader.peers().unwrap().into_iter().any(|peer| peer.peer_id == liar.peer.to_string() && peer.banned);
        assert!(banned || !there(reader), "{lie:?}: the liar is dropped");
    }
    assert!(reader.store().verify_all(&none).unwrap().ok, "{lie:?}: nothing wrong was stored");
}

#[test]
fn wrong_bytes_of_the_right_length() {
    a_liar_is_replaced(Lie::WrongBytes, 1);
}

#[test]
fn a_bomb() {
    a_liar_is_replaced(Lie::Bomb, 2);
}

#[test]
fn silence() {
    a_liar_is_replaced(Lie::Silence, 3);
}

#[test]
fn endless_frames_garbage_and_a_hangup() {
    a_liar_is_replaced(Lie::EndlessFrame, 4);
    a_liar_is_replaced(Lie::Garbage, 5);
    a_liar_is_replaced(Lie::Hangup, 6);
}

pub(crate) fn terms(owner: [u8; 32]) -> LeaseTerms {
    LeaseTerms { manifest: Hash::of(b"manifest"), owner, expires_unix_ms: u64::MAX }
}

fn parcel(plain: &[u8], payload: Vec<u8>, codec: Codec) -> Parcel {
    let hash = Hash::of(plain);
    Parcel {
        hash,
        home: *hash.as_bytes().first_chunk().unwrap(),
        plain_len: plain.len() as u32,
        codec,
        base: None,
        payload,
    }
}

/// A chunk as it is.
pub(crate) fn parcel_of(plain: &[u8]) -> Parcel {
    parcel(plain, plain.to_vec(), Codec::Raw)
}

#[test]
fn a_flood_of_puts_ends_at_the_quota() {
    let mut config = quick();
    config.peer_bytes = 1 << 20;
    let swarm = Swarm::start(1, config);
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    assert_eq!(raw.ask(&Frame::Begin(1, terms(raw.key))), Frame::Done(1));
    let mut stored = 0;
    for n in 0..40_u64 {
        let plain = random(100_000, n);
        match raw.ask(&Frame::Put(10 + n as u32, 1, vec![parcel(&plain, plain.clone(), Codec::Raw)])) {
            Frame::Taken(_, statuses) if statuses == [PutStatus::Stored] => stored += 1,
            Frame::Taken(_, statuses) => assert_eq!(statuses, [PutStatus::Full]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stored, 10, "ten times 100 KB are below 1 MiB");
    assert_eq!(swarm.nodes[0].health().unwrap().refused_requests, 40 - stored);
    assert_eq!(raw.ask(&Frame::Commit(99, 1)), Frame::Done(99));
    assert!(swarm.nodes[0].store().stat().unwrap().stored_bytes < 2 << 20);
    assert!(swarm.nodes[0].store().verify_all(&Monitor::none()).unwrap().ok);
}

#[test]
fn a_node_keeps_what_belongs_to_it_and_no_more() {
    let mut config = quick();
    config.replication_factor = 1;
    // More than there are candidates for a group.
    let swarm = Swarm::start(24, config);
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    assert_eq!(raw.ask(&Frame::Begin(1, terms(raw.key))), Frame::Done(1));
    let (mut kept, mut elsewhere) = (Vec::new(), Vec::new());
    let (mut seed, mut request) = (0, 10);
    // A node that does not know who else there is takes everything; it looks around when it puts something itself, and may have to
    // again when another peer shows up.
    while elsewhere.is_empty() {
        assert!(seed < 20, "{} chunks are kept", kept.len());
        seed += 1;
        swarm.put(0, "m", random(8 << 20, seed));
        for _ in 0..60 {
            request += 1;
            let plain = random(1000, 1000 + u64::from(request));
            let chunk = parcel(&plain, plain.clone(), Codec::Raw);
            let hash = chunk.hash;
            match raw.ask(&Frame::Put(request, 1, vec![chunk])) {
                Frame::Taken(_, statuses) if statuses == [PutStatus::Stored] => kept.push(hash),
                Frame::Taken(_, statuses) => {
                    assert_eq!(statuses, [PutStatus::Elsewhere]);
                    elsewhere.push(hash);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(raw.ask(&Frame::Commit(2, 1)), Frame::Done(2));
    for (hashes, there) in [(kept, true), (elsewhere, false)] {
        let expected = vec![there; hashes.len()];
        assert_eq!(raw.ask(&Frame::Have(3, hashes)), Frame::Bits(3, expected));
    }
}

#[test]
fn what_does_not_match_its_hash_is_not_stored_and_counted() {
    let swarm = Swarm::start(1, quick());
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    raw.ask(&Frame::Begin(1, terms(raw.key)));
    let plain = random(1000, 1);
    let wrong = Parcel { payload: random(1000, 2), ..parcel(&plain, Vec::new(), Codec::Raw) };
    let short = Parcel { payload: vec![0; 10], ..parcel(&plain, Vec::new(), Codec::Planes) };
    let empty = Parcel { plain_len: 0, ..parcel(&plain, Vec::new(), Codec::Raw) };
    let orphan =
        Parcel { codec: Codec::Delta, base: Some(Hash::of(b"nowhere")), ..parcel(&plain, vec![1; 10], Codec::Raw) };
    let own = Parcel { codec: Codec::Delta, base: Some(Hash::of(&plain)), ..parcel(&plain, vec![1; 10], Codec::Raw) };
    let right = parcel(&plain, plain.clone(), Codec::Raw);
    let answer = raw.ask(&Frame::Put(2, 1, vec![wrong, short, empty, orphan, own, right.clone(), right]));
    use PutStatus::{Known, NeedsBase, Stored, Wrong};
    assert_eq!(answer, Frame::Taken(2, vec![Wrong, Wrong, Wrong, NeedsBase, Wrong, Stored, Known]));
    assert_eq!(raw.ask(&Frame::Commit(3, 1)), Frame::Done(3));
    assert_eq!(swarm.nodes[0].health().unwrap().wrong_chunks, 4);
    assert_eq!(swarm.nodes[0].store().stat().unwrap().chunks, 1);
}

#[test]
fn leases_of_others_and_requests_out_of_place_are_refused() {
    let swarm = Swarm::start(1, quick());
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    for frame in [
        Frame::Renew(1, terms([9; 32])),
        Frame::Release(1, Hash::of(b"manifest"), [9; 32]),
        Frame::Put(1, 77, Vec::new()),
        Frame::Commit(1, 77),
    ] {
        let answer = raw.ask(&frame);
        assert!(matches!(answer, Frame::Refuse(1, ..)), "{frame:?}: {answer:?}");
    }
    for intake in 10..14 {
        assert_eq!(raw.ask(&Frame::Begin(intake, terms(raw.key))), Frame::Done(intake));
    }
    assert!(matches!(raw.ask(&Frame::Begin(14, terms(raw.key))), Frame::Refuse(14, ..)), "intakes are bounded");
    assert_eq!(raw.ask(&Frame::Renew(20, terms(raw.key))), Frame::Lease(20, None), "nothing was committed");
    let health = swarm.nodes[0].health().unwrap();
    assert_eq!((health.listen.len(), health.refused_requests), (1, 5), "the node goes on");
}

#[test]
fn frames_that_make_no_sense_end_their_stream_and_nothing_else() {
    let swarm = Swarm::start(1, quick());
    for bytes in [&[0xff, 0xff, 0xff, 0xff, 24][..], &[0, 0, 0, 0, 0], &[5, 0, 0, 0, 99, 1, 0, 0, 0], &[1, 0, 0, 0, 24]]
    {
        let mut raw = Raw::connect(&swarm.address(0), "caskad");
        raw.send(bytes);
        let answer = raw.next();
        assert!(matches!(answer, None | Some(Frame::Refuse(0, ..))), "{bytes:?}: {answer:?}");
    }
    // An answer where a question belongs.
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    let mut bytes = Vec::new();
    Frame::Done(1).encode(&mut bytes);
    raw.send(&bytes);
    assert!(matches!(raw.next(), None | Some(Frame::Refuse(0, ..))));
    eventually("they are counted", || swarm.nodes[0].health().unwrap().broken_streams >= 5);
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    assert_eq!(raw.ask(&Frame::Have(1, vec![Hash::of(b"x")])), Frame::Bits(1, vec![false]));
}

#[test]
fn a_slow_reader_is_cut_off_and_holds_nobody_up() {
    let swarm = Swarm::start(2, quick());
    let bytes = random(4 << 20, 8);
    swarm.put(0, "m", bytes);
    let version = swarm.nodes[0].store().version(&"m".parse().unwrap()).unwrap();
    let mut raw = Raw::connect(&swarm.address(0), "caskad");
    // Ask for much, read nothing.
    let mut frames = Vec::new();
    for round in 0..60_u32 {
        for (n, chunk) in version.manifest().chunks.iter().enumerate() {
            Frame::Get(round * 1000 + n as u32, chunk.hash, Vec::new()).encode(&mut frames);
        }
    }
    raw.send_some(&frames);
    let out = swarm.dir.path().join("out");
    let name = swarm.name(0, "m");
    swarm.nodes[1].get(&name, &out, &GetOptions::default(), &Monitor::none()).unwrap();
    eventually("the slow reader is cut off", || swarm.nodes[0].health().unwrap().broken_streams > 0);
}
