//! Intakes: what strangers bring is stored if it is right, and only then, under a lease that never outruns its chunks.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

mod parcels;
mod stores;

use std::sync::atomic::{AtomicBool, Ordering};

use caskad::chunk::{ChunkSink as _, ChunkSource as _, Codec, Parcel, Taken};
use caskad::limits::{CHUNK_BYTES, DELTA_DEPTH, ENCODED_CHUNK_BYTES};
use caskad::{Error, GcOptions, Hash, Monitor, Store};

use parcels::{WEIGHTS_BYTES, delta, home, opened, standing, terms, weights};
use stores::noise;

fn gc(store: &Store) -> u64 {
    store.gc(GcOptions::default(), &Monitor::none()).unwrap().removed_chunks
}

fn take(store: &Store, parcel: &Parcel) -> Taken {
    let intake = store.open(terms("version", 1, u64::MAX)).unwrap();
    let taken = intake.take(parcel).unwrap();
    intake.commit().unwrap();
    taken
}

/// The plain bytes of a chunk of the store, by way of a parcel that stands alone into another store, read as a version there.
fn stand_alone(store: &Store, hash: &Hash) -> Parcel {
    let parcel = store.parcel(hash, &[]).unwrap().unwrap();
    assert_eq!((parcel.base, parcel.hash), (None, *hash));
    parcel
}

fn plain(parcel: &Parcel) -> Vec<u8> {
    let mut plain = Vec::new();
    let len = parcel.plain_len as usize;
    caskad::codec::Decoder::new().decode(parcel.codec, &parcel.payload, len, None, &mut plain).unwrap();
    plain
}

#[test]
fn what_is_committed_is_found_after_reopening_and_its_lease_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let parcels: Vec<Parcel> = (0..5).map(|n| standing(&noise(&format!("{n}"), 3_000))).collect();
    let intake = store.open(terms("version", 1, u64::MAX)).unwrap();
    for parcel in &parcels {
        assert_eq!(intake.take(parcel).unwrap(), Taken::Stored);
        assert_eq!(intake.take(parcel).unwrap(), Taken::Known);
    }
    intake.commit().unwrap();
    drop((intake, store));
    let store = opened(&dir);
    assert_eq!(gc(&store), 0);
    let lease = store.leases().unwrap().lease(&Hash::of(b"version"), &[1; 32]).unwrap();
    assert_eq!((lease.chunks, lease.terms.expires_unix_ms), (5, u64::MAX));
    for parcel in &parcels {
        assert_eq!(store.parcel(&parcel.hash, &[]).unwrap().as_ref(), Some(parcel));
        let holders = store.leases().unwrap().of_chunk(&parcel.hash, parcel.home, 0).unwrap();
        assert_eq!(holders, [terms("version", 1, u64::MAX)]);
    }
}

#[test]
fn a_difference_is_kept_and_served_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let (base, top) = (standing(&weights(0)), delta(&weights(1), &weights(0)));
    assert_eq!(take(&store, &top), Taken::NeedsBase);
    assert_eq!(store.holds(&[top.hash, base.hash]).unwrap(), [false; 2]);
    assert_eq!(take(&store, &base), Taken::Stored);
    assert_eq!(take(&store, &top), Taken::Stored);
    let codecs = store.stat().unwrap().codecs;
    assert_eq!(codecs.get(top.codec.name()).map(|used| used.chunks), Some(1), "{codecs:?}");
    // To whoever has the base it goes as it lies here, to others decoded and encoded anew.
    assert_eq!(store.parcel(&top.hash, &[base.hash]).unwrap().as_ref(), Some(&top));
    assert_eq!(plain(&stand_alone(&store, &top.hash)), weights(1));
    assert_eq!(plain(&stand_alone(&store, &base.hash)), weights(0));
    assert_eq!(store.parcel(&Hash::of(b"elsewhere"), &[]).unwrap(), None);
}

/// Each is told from the right one, and leaves nothing behind.
#[test]
fn what_is_wrong_is_refused_and_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let base = standing(&weights(0));
    assert_eq!(take(&store, &base), Taken::Stored);
    let right = delta(&weights(1), &weights(0));
    let other = standing(&weights(2));
    let raw = |hash: Hash, payload: Vec<u8>| Parcel {
        hash,
        home: home(&hash),
        plain_len: payload.len() as u32,
        codec: Codec::Raw,
        base: None,
        payload,
    };
    let bomb = {
        let frame = standing(&vec![0; CHUNK_BYTES]);
        assert!(frame.payload.len() < 1_000);
        frame
    };
    let wrong = [
        ("other bytes of the same length", Parcel { hash: Hash::of(b"x"), ..standing(&weights(1)) }),
        ("a difference that comes to other bytes", Parcel { hash: Hash::of(b"x"), ..right.clone() }),
        ("the difference to another base", Parcel { base: Some(other.hash), ..right.clone() }),
        ("no base", Parcel { base: None, ..right.clone() }),
        ("a base that it does not take", Parcel { base: Some(base.hash), ..standing(&weights(1)) }),
        ("itself as its base", Parcel { base: Some(right.hash), ..right.clone() }),
        ("a shorter length", Parcel { plain_len: right.plain_len - 4, ..right.clone() }),
        ("a longer length", Parcel { plain_len: right.plain_len + 4, ..right.clone() }),
        ("no bytes", raw(Hash::of(b""), Vec::new())),
        ("an empty payload", Parcel { payload: Vec::new(), ..standing(&weights(1)) }),
        ("half of its payload", Parcel { payload: right.payload[..right.payload.len() / 2].to_vec(), ..right.clone() }),
        ("more than a chunk", raw(Hash::of(&vec![7; CHUNK_BYTES + 1]), vec![7; CHUNK_BYTES + 1])),
        ("a length beyond all chunks", Parcel { plain_len: u32::MAX, ..bomb.clone() }),
        ("a bomb in a small chunk", Parcel { plain_len: 1_000, hash: Hash::of(&[0; 1_000]), ..bomb }),
        ("too long a payload", Parcel { payload: vec![0; ENCODED_CHUNK_BYTES + 1], ..right.clone() }),
        ("another encoding", Parcel { codec: Codec::Planes, base: None, ..right.clone() }),
    ];
    assert_eq!(take(&store, &other), Taken::Stored);
    let chunks = store.stat().unwrap().chunks;
    for (what, parcel) in &wrong {
        assert!(matches!(take(&store, parcel), Taken::Wrong(_)), "{what}: {:?}", take(&store, parcel));
        assert_eq!(store.holds(&[parcel.hash]).unwrap(), [false], "{what}");
    }
    assert_eq!(store.stat().unwrap().chunks, chunks);
    let leases = store.leases().unwrap();
    assert_eq!(leases.lease(&Hash::of(b"version"), &[1; 32]).unwrap().chunks, 2);
    assert_eq!(take(&store, &right), Taken::Stored, "the right one is still welcome");
}

#[test]
fn a_chain_of_bases_that_is_too_long_is_asked_for_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    assert_eq!(take(&store, &standing(&weights(0))), Taken::Stored);
    for step in 1..=u32::from(DELTA_DEPTH) {
        assert_eq!(take(&store, &delta(&weights(step), &weights(step - 1))), Taken::Stored, "step {step}");
    }
    let beyond = u32::from(DELTA_DEPTH) + 1;
    assert_eq!(take(&store, &delta(&weights(beyond), &weights(beyond - 1))), Taken::NeedsBase);
    assert_eq!(take(&store, &standing(&weights(beyond))), Taken::Stored);
    assert_eq!(plain(&stand_alone(&store, &Hash::of(&weights(beyond - 1)))), weights(beyond - 1));
}

#[test]
fn without_a_commit_only_reclaimable_bytes_are_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let parcels: Vec<Parcel> = (0..3).map(|n| standing(&noise(&format!("{n}"), 3_000))).collect();
    let intake = store.open(terms("version", 1, u64::MAX)).unwrap();
    for parcel in &parcels {
        assert_eq!(intake.take(parcel).unwrap(), Taken::Stored);
    }
    assert_eq!(gc(&store), 0, "shielded for as long as the intake is open");
    assert!(store.holds(&[parcels[0].hash]).unwrap()[0]);
    drop(intake);
    assert_eq!(store.leases().unwrap().all(), []);
    assert_eq!(gc(&store), 3);
    assert_eq!(store.holds(&[parcels[0].hash]).unwrap(), [false]);
}

/// An intake that took nothing leaves no lease: rows cost a stranger nothing, and this store a little each.
#[test]
fn an_intake_that_took_nothing_leaves_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    store.open(terms("version", 1, u64::MAX)).unwrap().commit().unwrap();
    assert_eq!(store.leases().unwrap().all(), []);
}

/// A chunk counts once in a lease, and under one home, however often it is held.
#[test]
fn a_chunk_that_is_held_again_and_again_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let parcel = standing(&weights(0));
    let intake = store.open(terms("version", 1, u64::MAX)).unwrap();
    assert_eq!(intake.take(&parcel).unwrap(), Taken::Stored);
    for n in 0..200 {
        assert!(intake.hold(&parcel.hash, [n, 0, 0, 0]).unwrap());
    }
    intake.commit().unwrap();
    let lease = store.leases().unwrap().lease(&Hash::of(b"version"), &[1; 32]).unwrap();
    assert_eq!(lease.chunks, 1);
}

#[test]
fn a_damaged_chunk_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let (base, top) = (standing(&weights(0)), delta(&weights(1), &weights(0)));
    assert_eq!([take(&store, &base), take(&store, &top)], [Taken::Stored, Taken::Stored]);
    let pack = dir.path().join("store/packs/p-00000001.pack");
    let mut bytes = std::fs::read(&pack).unwrap();
    let at = bytes.windows(64).position(|window| *window == base.payload[100..164]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    assert_eq!(store.parcel(&base.hash, &[]).unwrap(), None);
    assert_eq!(store.parcel(&top.hash, &[]).unwrap(), None, "it cannot be decoded");
    // Its own bytes are sound, and whoever has the base can use them.
    assert_eq!(store.parcel(&top.hash, &[base.hash]).unwrap().as_ref(), Some(&top));
    // Nor can what is put be proven against it: it has to come by itself.
    assert_eq!(take(&store, &delta(&weights(2), &weights(0))), Taken::NeedsBase);
    assert_eq!(take(&store, &standing(&weights(2))), Taken::Stored);
}

/// Several threads take, hold and commit while collections run: what a commit answered for is there, and readable.
#[test]
fn intakes_of_several_threads_survive_collections() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir);
    let done = AtomicBool::new(false);
    const THREADS: u32 = 3;
    const STEPS: u32 = 12;
    // Each thread has a training of its own, and all share the noise.
    let own = |thread: u32, step: u32| {
        let mut bytes = weights(step);
        bytes.extend_from_slice(&noise(&format!("thread {thread}"), 400));
        bytes
    };
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !done.load(Ordering::Relaxed) {
                match store.gc(GcOptions::default(), &Monitor::none()) {
                    Ok(_) => collections += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            collections
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (store, own) = (&store, &own);
                scope.spawn(move || {
                    for step in 0..STEPS {
                        // Short of the last, every lease has expired: collections have something to do.
                        let expires = if step + 4 > STEPS { u64::MAX } else { 1 };
                        let intake = store.open(terms(&format!("{thread}/{step}"), 1, expires)).unwrap();
                        let taken = match step % 6 {
                            0 => Taken::NeedsBase,
                            _ => intake.take(&delta(&own(thread, step), &own(thread, step - 1))).unwrap(),
                        };
                        if taken == Taken::NeedsBase {
                            let taken = intake.take(&standing(&own(thread, step))).unwrap();
                            assert!(matches!(taken, Taken::Stored | Taken::Known), "{taken:?}");
                        }
                        intake.take(&standing(&noise(&format!("shared {step}"), 2_000))).unwrap();
                        intake.commit().unwrap();
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    drop(store);
    let store = opened(&dir);
    gc(&store);
    for thread in 0..THREADS {
        for step in STEPS - 3..STEPS {
            let hash = Hash::of(&own(thread, step));
            assert_eq!(plain(&stand_alone(&store, &hash)), own(thread, step), "thread {thread}, step {step}");
        }
    }
    let report = store.verify_all(&Monitor::none()).unwrap();
    assert!(report.ok, "{:?}", report.damaged);
}

#[test]
fn a_store_in_no_directory_takes_nothing_in_for_good() {
    use std::sync::Arc;
    let disk = caskad::backend::testing::FaultDisk::new();
    let store = stores::options(1 << 20)
        .open_backend(Arc::new(disk.clone()), caskad::store::IndexPlace::FaultDisk(disk))
        .unwrap();
    let intake = store.open(terms("version", 1, u64::MAX)).unwrap();
    assert_eq!(intake.take(&standing(&weights(0))).unwrap(), Taken::Stored);
    assert!(matches!(intake.commit(), Err(Error::Input { .. })));
    assert_eq!(WEIGHTS_BYTES, weights(0).len());
}
