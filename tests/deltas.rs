//! Deltas in the chunk store: chains of bases are read, kept, refused and blamed as they should be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::sync::Arc;

use caskad::backend::StorageBackend;
use caskad::backend::testing::FaultDisk;
use caskad::chunk::{Codec, ElementWidth};
use caskad::codec::{Effort, Encoder};
use caskad::limits::DELTA_DEPTH;
use caskad::store::{
    ChunkStore, ChunkStoreOptions, EncodedChunk, IndexPlace, LiveSet, RecordKind, Session, Sweep, SweepReport,
};
use caskad::{Error, Hash, Monitor, Result};

const CHUNK_BYTES: usize = 20_000;

/// Weights after `step` steps of training: each differs a little from those of the step before.
fn weights(step: u32) -> Vec<u8> {
    (0..CHUNK_BYTES as u32 / 4).flat_map(|n| ((n as f32).sin() + step as f32 * 1e-6).to_le_bytes()).collect()
}

fn noise(label: &str) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_BYTES];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn open_with(disk: &FaultDisk, pack_bytes: u64) -> ChunkStore {
    // A database from the start, so that it can be lost.
    let options = ChunkStoreOptions { pack_bytes, index_journal_bytes: 0, ..ChunkStoreOptions::default() };
    ChunkStore::open(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone()), options).unwrap()
}

fn open(disk: &FaultDisk) -> ChunkStore {
    open_with(disk, 256 << 20)
}

/// Appends `plain`, as a delta to `base` if there is one.
fn append(session: &Session, plain: &[u8], base: Option<&[u8]>) -> Result<Hash> {
    let mut payload = Vec::new();
    let mut encoder = Encoder::new(Effort::Default);
    let codec = match base {
        Some(base) => encoder.encode_against(plain, ElementWidth::Four, base, &mut payload),
        None => encoder.encode(plain, ElementWidth::Four, &mut payload),
    };
    assert_eq!(codec.has_base(), base.is_some(), "{codec}");
    let hash = Hash::of(plain);
    let payload = if codec == Codec::Raw { plain } else { &payload };
    let chunk = EncodedChunk { hash, plain_len: plain.len() as u32, codec, base: base.map(Hash::of), payload };
    session.append(&chunk).map(|()| hash)
}

/// Commits steps `0..=depth` of training, each as a delta to the one before.
fn commit_chain(store: &ChunkStore, depth: u32) -> Vec<Hash> {
    let session = store.begin().unwrap();
    let mut hashes = vec![append(&session, &weights(0), None).unwrap()];
    for step in 1..=depth {
        hashes.push(append(&session, &weights(step), Some(&weights(step - 1))).unwrap());
    }
    commit(&session);
    hashes
}

fn commit(session: &Session) {
    let payload = b"a manifest";
    let manifest = EncodedChunk { hash: Hash::of(payload), plain_len: 10, codec: Codec::Raw, base: None, payload };
    session.commit(&manifest, |_| Ok(Vec::new())).unwrap();
}

fn read(store: &ChunkStore, hash: &Hash) -> Result<Vec<u8>> {
    let mut plain = vec![0; CHUNK_BYTES];
    store.reader().read(hash, &mut plain).map(|()| plain)
}

fn collect(store: &ChunkStore, live: &[Hash]) -> SweepReport {
    let mark = |set: &mut LiveSet| {
        for hash in live {
            set.insert(hash);
        }
        Ok(())
    };
    store.collect(Sweep::Usual, mark, &Monitor::none()).unwrap()
}

/// Alters a byte in the payload of the record of `hash`, of which there must be one.
fn damage(store: &ChunkStore, disk: &FaultDisk, hash: &Hash) {
    let entry = store.locate(hash, RecordKind::Chunk).unwrap().unwrap();
    let at = u64::from(entry.position.offset) + entry.record_len() - 40;
    disk.with_object(&format!("p-{:08}.pack", entry.position.pack), |bytes| bytes[at as usize] ^= 4);
}

fn is_stored(store: &ChunkStore, hash: &Hash) -> bool {
    store.begin().unwrap().has(hash).unwrap()
}

/// The index is gone, in whichever form it was: the packs have to tell.
fn lose_index(disk: &FaultDisk) {
    disk.with_index(Vec::clear);
    if let Err(error) = disk.delete("index.journal") {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn a_chain_is_read_to_its_limit_and_no_longer_one_is_written() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let steps = u32::from(DELTA_DEPTH);
    let hashes = commit_chain(&store, steps);
    let session = store.begin().unwrap();
    match append(&session, &weights(steps + 1), Some(&weights(steps))) {
        Err(Error::Limit { found, limit, .. }) => assert_eq!((found, limit), (17, 16)),
        other => panic!("{other:?}"),
    }
    let base = |depth: u8| session.base(&hashes[16], depth).unwrap().unwrap();
    assert_eq!((base(255).hash, base(255).depth), (hashes[16], 16));
    assert_eq!((base(3).hash, base(3).depth), (hashes[3], 3), "the nearest that is shallow enough");
    assert_eq!((base(0).hash, base(0).depth, base(0).plain_len), (hashes[0], 0, CHUNK_BYTES as u32));
    assert_eq!(session.base(&Hash::of(b"absent"), 4).unwrap(), None);
    drop(session);
    let check = |store: &ChunkStore| {
        let (mut reader, mut plain) = (store.reader(), vec![0; CHUNK_BYTES]);
        for (step, hash) in hashes.iter().enumerate() {
            reader.read(hash, &mut plain).unwrap();
            assert!(plain == weights(step as u32), "step {step}");
            let entry = store.locate(hash, RecordKind::Chunk).unwrap().unwrap();
            assert_eq!(usize::from(entry.depth), step);
            assert_eq!(entry.base, step.checked_sub(1).map(|base| hashes[base]));
        }
    };
    check(&store);
    drop(store);
    check(&open(&disk));
    lose_index(&disk);
    check(&open(&disk));
}

#[test]
fn a_held_base_ends_the_chain() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let hashes = commit_chain(&store, 4);
    damage(&store, &disk, &hashes[2]);
    let held: Arc<[u8]> = weights(3).into();
    let mut plain = vec![0; CHUNK_BYTES];
    let mut reader = store.reader();
    reader.read_with(&hashes[4], &mut plain, &|hash| (*hash == hashes[3]).then(|| Arc::clone(&held))).unwrap();
    assert!(plain == weights(4));
    // The wanted chunk itself is for the caller to look up.
    assert!(reader.read_with(&hashes[3], &mut plain, &|hash| (*hash == hashes[3]).then(|| Arc::clone(&held))).is_err());
    damage(&store, &disk, &hashes[4]);
    assert!(reader.read_with(&hashes[4], &mut plain, &|hash| (*hash == hashes[3]).then(|| Arc::clone(&held))).is_err());
    assert_eq!(reader.culprit().unwrap().0, hashes[4]);
}

#[test]
fn nobody_is_to_blame_for_a_length_that_the_caller_has_wrong() {
    let store = open(&FaultDisk::new());
    let hashes = commit_chain(&store, 1);
    let mut reader = store.reader();
    for hash in &hashes {
        let error = reader.read(hash, &mut vec![0; CHUNK_BYTES + 1]).unwrap_err();
        assert!(error.to_string().contains("20000 plain bytes where its manifest says 20001"), "{error}");
        assert_eq!(reader.culprit(), None);
    }
}

#[test]
fn what_was_stored_again_since_it_was_found_damaged_is_not_forgotten() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let chunk = commit_chain(&store, 0)[0];
    damage(&store, &disk, &chunk);
    let mut reader = store.reader();
    assert!(reader.read(&chunk, &mut vec![0; CHUNK_BYTES]).is_err());
    let found = reader.culprit();
    store.forget_damaged(found).unwrap();
    assert!(!is_stored(&store, &chunk));
    commit_chain(&store, 0);
    // Somebody else who has read the damaged record is late to say so.
    store.forget_damaged(found).unwrap();
    assert!(read(&store, &chunk).unwrap() == weights(0));
}

/// The index is a cache: that it does not know of a record which something reaches is no reason to delete the record.
#[test]
fn a_collection_spares_what_is_reached_and_the_index_has_lost() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let hashes = commit_chain(&store, 3);
    let session = store.begin().unwrap();
    for n in 0..40 {
        append(&session, &noise(&format!("dead {n}")), None).unwrap();
    }
    drop(session);
    store.checkpoint().unwrap();
    let lost = hashes[..2].iter().map(|hash| (*hash, store.locate(hash, RecordKind::Chunk).unwrap().unwrap()));
    store.forget_damaged(lost).unwrap();
    assert!(read(&store, &hashes[3]).is_err());
    assert_eq!(collect(&store, &hashes).removed_chunks, 41, "and the manifest, which nothing names");
    for (step, hash) in hashes.iter().enumerate() {
        assert!(read(&store, hash).unwrap() == weights(step as u32), "step {step}");
        assert!(is_stored(&store, hash), "step {step}");
    }
    lose_index(&disk);
    drop(store);
    assert!(read(&open(&disk), &hashes[3]).unwrap() == weights(3));
}

#[test]
fn what_is_no_delta_or_lacks_its_base_is_refused() {
    let store = open(&FaultDisk::new());
    let hashes = commit_chain(&store, 1);
    let session = store.begin().unwrap();
    let plain = weights(9);
    let refused = |codec, base| {
        let chunk = EncodedChunk { hash: Hash::of(&plain), plain_len: 9, codec, base, payload: b"payload" };
        session.append(&chunk).unwrap_err().kind()
    };
    assert_eq!(refused(Codec::Raw, Some(hashes[0])), "syntax");
    assert_eq!(refused(Codec::Delta, None), "syntax");
    assert_eq!(refused(Codec::Delta, Some(Hash::of(b"absent"))), "syntax");
    assert_eq!(refused(Codec::Delta, Some(Hash::of(&plain))), "syntax");
    assert!(!session.has(&Hash::of(&plain)).unwrap());
}

/// Two puts that each store what the other takes for a base: the second finds its chunk in the chain that it was about to close.
#[test]
fn chunks_never_come_to_be_each_others_bases() {
    let store = open(&FaultDisk::new());
    let (one, two) = (store.begin().unwrap(), store.begin().unwrap());
    let (a, b) = (weights(1), weights(2));
    assert!(!two.has(&Hash::of(&b)).unwrap());
    append(&one, &b, None).unwrap();
    append(&one, &a, Some(&b)).unwrap();
    let before = two.new_chunks();
    append(&two, &b, Some(&a)).unwrap();
    assert_eq!(two.new_chunks(), before, "it is there by now");
    for plain in [a, b] {
        assert!(read(&store, &Hash::of(&plain)).unwrap() == plain);
    }
}

#[test]
fn a_damaged_base_is_blamed_by_name_and_heals_its_deltas_with_itself() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let hashes = commit_chain(&store, 4);
    damage(&store, &disk, &hashes[2]);
    let (mut reader, mut plain) = (store.reader(), vec![0; CHUNK_BYTES]);
    for (step, hash) in hashes.iter().enumerate() {
        let outcome = reader.read(hash, &mut plain);
        if step < 2 {
            outcome.unwrap();
            assert_eq!(reader.culprit(), None);
            continue;
        }
        let message = outcome.unwrap_err().to_string();
        assert_eq!(reader.culprit().unwrap().0, hashes[2], "step {step}: {message}");
        assert!(message.contains(&hash.short().to_string()), "{message}");
        assert_eq!(message.contains(&format!("its base {} is damaged in p-", hashes[2])), step > 2, "{message}");
    }
    store.forget_damaged(reader.culprit()).unwrap();
    for (step, hash) in hashes.iter().enumerate() {
        assert_eq!(is_stored(&store, hash), step < 2, "step {step}");
    }
    let message = read(&store, &hashes[4]).unwrap_err().to_string();
    assert!(message.contains(&format!("its base {} is missing", hashes[2])), "{message}");
    // A put that wants the last step stores it anew; one that wants the damaged step heals all between.
    let session = store.begin().unwrap();
    assert_eq!(session.base(&hashes[3], 16).unwrap(), None);
    append(&session, &weights(2), Some(&weights(1))).unwrap();
    commit(&session);
    for (step, hash) in hashes.iter().enumerate() {
        assert!(read(&store, hash).unwrap() == weights(step as u32), "step {step}");
        assert!(is_stored(&store, hash), "step {step}");
    }
}

#[test]
fn a_collection_keeps_the_bases_of_what_is_live_and_of_what_a_put_relies_on() {
    let disk = FaultDisk::new();
    let store = open_with(&disk, 1 << 20);
    let hashes = commit_chain(&store, 4);
    let session = store.begin().unwrap();
    let other: Vec<Hash> = ["a", "b"].map(|label| append(&session, &noise(label), None).unwrap()).to_vec();
    commit(&session);
    drop(session);
    let put = store.begin().unwrap();
    assert!(put.has(&hashes[3]).unwrap());
    let report = collect(&store, &other[..1]);
    assert_eq!(report.removed_chunks, 3, "step 4, the other chunk and the manifest");
    for (step, hash) in hashes.iter().enumerate() {
        assert_eq!(read(&store, hash).is_ok(), step < 4, "step {step}");
    }
    drop(put);
    // A version that lists step 2 alone.
    assert_eq!(collect(&store, &hashes[2..3]).removed_chunks, 2, "step 3 and the other chunk");
    for (step, hash) in hashes.iter().enumerate() {
        assert_eq!(read(&store, hash).is_ok(), step < 3, "step {step}");
    }
    drop(store);
    let store = open(&disk);
    assert!(read(&store, &hashes[2]).unwrap() == weights(2));
    assert_eq!(collect(&store, &[]).removed_chunks, 3);
}

/// A base that a running collection has condemned is answered as not stored, whatever its own bases are.
#[test]
fn a_put_does_not_rely_on_a_delta_that_is_being_swept() {
    let store = open(&FaultDisk::new());
    let hashes = commit_chain(&store, 2);
    let during = store.begin().unwrap();
    // The mark runs before anything is condemned: what is relied on there is kept, bases included.
    let mark = |_: &mut LiveSet| {
        assert!(during.has(&hashes[1])?);
        Ok(())
    };
    store.collect(Sweep::Usual, mark, &Monitor::none()).unwrap();
    assert!(read(&store, &hashes[1]).is_ok() && read(&store, &hashes[2]).is_err());
    assert!(!during.has(&hashes[2]).unwrap());
    assert_eq!(during.base(&hashes[1], 0).unwrap().unwrap().hash, hashes[0]);
}

/// The index is lost after a sweep, and the packs still have the swept deltas, but not their bases.
#[test]
fn a_swept_delta_that_an_index_built_anew_has_again_is_not_relied_on() {
    let disk = FaultDisk::new();
    let store = open_with(&disk, 1 << 20);
    // The base and much that is dead in one pack, its deltas and much that lives in the next.
    let session = store.begin().unwrap();
    append(&session, &weights(0), None).unwrap();
    for n in 0..60 {
        append(&session, &noise(&format!("dead {n}")), None).unwrap();
    }
    let deltas: Vec<Hash> =
        (1..4).map(|step| append(&session, &weights(step), Some(&weights(step - 1))).unwrap()).collect();
    let live: Vec<Hash> = (0..40).map(|n| append(&session, &noise(&format!("{n}")), None).unwrap()).collect();
    commit(&session);
    drop(session);
    let packs = [Hash::of(&weights(0)), deltas[0]].map(|hash| store.locate(&hash, RecordKind::Chunk).unwrap().unwrap());
    assert!(packs[0].position.pack < packs[1].position.pack);
    collect(&store, &live);
    assert!(deltas.iter().all(|hash| store.locate(hash, RecordKind::Chunk).unwrap().is_none()));
    drop(store);
    lose_index(&disk);
    let store = open(&disk);
    assert!(store.locate(&deltas[0], RecordKind::Chunk).unwrap().is_some(), "the test is about what comes back");
    for (step, hash) in deltas.iter().enumerate() {
        assert!(!is_stored(&store, hash));
        assert_eq!(store.begin().unwrap().base(hash, 16).unwrap(), None);
        assert!(read(&store, hash).is_err(), "step {step}");
    }
    // A put stores what it needs, and a collection finishes what the lost index knew.
    let session = store.begin().unwrap();
    let again = append(&session, &weights(1), None).unwrap();
    commit(&session);
    assert!(read(&store, &again).unwrap() == weights(1));
    assert!(is_stored(&store, &deltas[2]), "its chain ends again");
    assert!(read(&store, &deltas[2]).unwrap() == weights(3));
    drop(session);
    collect(&store, &live);
    assert!(live.iter().all(|hash| read(&store, hash).is_ok()));
}

/// Stores `plain` again, as a delta to `base` if there is one.
fn replace(store: &ChunkStore, plain: &[u8], base: Option<&[u8]>) -> bool {
    let mut payload = Vec::new();
    let mut encoder = Encoder::new(Effort::Compact);
    let codec = match base {
        Some(base) => encoder.encode_against(plain, ElementWidth::Four, base, &mut payload),
        None => encoder.encode(plain, ElementWidth::Four, &mut payload),
    };
    let (hash, plain_len) = (Hash::of(plain), plain.len() as u32);
    let chunk = EncodedChunk { hash, plain_len, codec, base: base.map(Hash::of), payload: &payload };
    let reencoding = store.reencode().unwrap();
    let replaced = reencoding.replacer().replace(&chunk, base).unwrap();
    reencoding.finish().unwrap();
    replaced
}

/// Turns `weights(0) <- weights(1) <- … <- weights(steps)` around, the newest first.
fn turn_around(store: &ChunkStore, steps: u32) {
    assert!(replace(store, &weights(steps), None));
    for step in (0..steps).rev() {
        assert!(replace(store, &weights(step), Some(&weights(step + 1))), "step {step}");
    }
}

#[test]
fn a_chain_is_turned_around_in_place() {
    let disk = FaultDisk::new();
    let store = open_with(&disk, 1 << 20);
    let hashes = commit_chain(&store, 5);
    turn_around(&store, 5);
    let check = |store: &ChunkStore| {
        for (step, hash) in hashes.iter().enumerate() {
            assert!(read(store, hash).unwrap() == weights(step as u32), "step {step}");
            assert_eq!(store.chain(hash).unwrap().unwrap().len(), 6 - step);
            assert!(is_stored(store, hash));
        }
    };
    check(&store);
    drop(store);
    // The last record of a chunk holds, whatever the index knew.
    lose_index(&disk);
    let store = open(&disk);
    check(&store);
    let before = store.disk_usage().unwrap().pack_bytes;
    assert!(collect(&store, &hashes).kept_bytes < before, "the old records are dead");
    check(&store);
    drop(store);
    lose_index(&disk);
    check(&open(&disk));
}

#[test]
fn what_would_make_a_circle_or_too_long_a_chain_is_not_replaced() {
    let store = open(&FaultDisk::new());
    let hashes = commit_chain(&store, 10);
    for step in [3, 4, 10] {
        assert!(!replace(&store, &weights(3), Some(&weights(step))), "step {step} depends on step 3");
    }
    let session = store.begin().unwrap();
    append(&session, &weights(20), None).unwrap();
    for step in 21..26 {
        append(&session, &weights(step), Some(&weights(step - 1))).unwrap();
    }
    commit(&session);
    // Ten deltas lie on step 0: with up to five bases below it there is one left to a put.
    assert!(!replace(&store, &weights(0), Some(&weights(25))));
    assert!(replace(&store, &weights(0), Some(&weights(24))));
    assert_eq!(store.chain(&hashes[10]).unwrap().unwrap().len(), 16);
    assert!(read(&store, &hashes[10]).unwrap() == weights(10));
    append(&session, &weights(11), Some(&weights(10))).unwrap();
    assert!(read(&store, &Hash::of(&weights(11))).unwrap() == weights(11));
    // With that one, step 0 has to stay where it is, or come up.
    assert!(!replace(&store, &weights(0), Some(&weights(24))));
    assert!(replace(&store, &weights(0), Some(&weights(20))));
    assert!(read(&store, &Hash::of(&weights(11))).unwrap() == weights(11));
}

/// A put appends deltas while chunks are encoded anew: what it adds to a chain counts.
#[test]
fn a_delta_that_a_put_appends_meanwhile_is_counted() {
    let store = open(&FaultDisk::new());
    commit_chain(&store, 13);
    let session = store.begin().unwrap();
    append(&session, &weights(30), None).unwrap();
    let reencoding = store.reencode().unwrap();
    for step in 14..=15 {
        append(&session, &weights(step), Some(&weights(step - 1))).unwrap();
    }
    let mut payload = Vec::new();
    let codec =
        Encoder::new(Effort::Default).encode_against(&weights(0), ElementWidth::Four, &weights(30), &mut payload);
    let (hash, plain_len) = (Hash::of(&weights(0)), CHUNK_BYTES as u32);
    let chunk = EncodedChunk { hash, plain_len, codec, base: Some(Hash::of(&weights(30))), payload: &payload };
    assert!(!reencoding.replacer().replace(&chunk, Some(&weights(30))).unwrap());
    drop(reencoding);
    assert!(read(&store, &Hash::of(&weights(15))).unwrap() == weights(15));
}

#[test]
fn an_encoding_that_does_not_give_the_chunk_takes_no_place() {
    let store = open(&FaultDisk::new());
    let hashes = commit_chain(&store, 1);
    let reencoding = store.reencode().unwrap();
    let (hash, plain_len) = (hashes[1], CHUNK_BYTES as u32);
    let plain = weights(7);
    let chunk = EncodedChunk { hash, plain_len, codec: Codec::Raw, base: None, payload: &plain };
    assert_eq!(reencoding.replacer().replace(&chunk, None).unwrap_err().kind(), "syntax");
    let absent = EncodedChunk { hash: Hash::of(&plain), ..chunk };
    assert!(!reencoding.replacer().replace(&absent, None).unwrap(), "it is not stored, so it is not stored again");
    drop(reencoding);
    assert!(read(&store, &hashes[1]).unwrap() == weights(1));
}

/// Chains are turned around again and again while others read, and a collection follows each time.
#[test]
fn gets_go_on_while_chunks_are_encoded_anew() {
    let store = open_with(&FaultDisk::new(), 1 << 20);
    let hashes = commit_chain(&store, 6);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut reader, mut plain) = (store.reader(), vec![0; CHUNK_BYTES]);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for (step, hash) in hashes.iter().enumerate() {
                        reader.read(hash, &mut plain).unwrap();
                        assert!(plain == weights(step as u32));
                    }
                }
            });
        }
        let turning = scope.spawn(|| {
            for _ in 0..10 {
                turn_around(&store, 6);
                collect(&store, &hashes);
                // Step 6 alone keeps all the others while they are its bases.
                assert!(replace(&store, &weights(0), None));
                for step in 1..=6 {
                    assert!(replace(&store, &weights(step), Some(&weights(step - 1))), "step {step}");
                }
                collect(&store, &hashes);
            }
        });
        let outcome = turning.join();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.unwrap();
    });
}

/// A put relies on a chunk that is then encoded anew: the base that it gets is kept for the put too.
#[test]
fn a_put_in_flight_keeps_the_bases_that_its_chunks_get() {
    let store = open(&FaultDisk::new());
    let hashes = commit_chain(&store, 2);
    let session = store.begin().unwrap();
    assert!(session.has(&hashes[0]).unwrap());
    turn_around(&store, 2);
    collect(&store, &[]);
    assert!(hashes.iter().enumerate().all(|(step, hash)| read(&store, hash).unwrap() == weights(step as u32)));
}

/// What was the base of a chunk is swept while others read the chunk: they find that it needs it no more.
#[test]
fn a_base_that_is_let_go_is_not_missed() {
    let store = open_with(&FaultDisk::new(), 1 << 20);
    let newest = Hash::of(&weights(4));
    let done = std::sync::atomic::AtomicBool::new(false);
    commit_chain(&store, 4);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (mut reader, mut plain) = (store.reader(), vec![0; CHUNK_BYTES]);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    reader.read(&newest, &mut plain).unwrap();
                    assert!(plain == weights(4));
                }
            });
        }
        let letting_go = scope.spawn(|| {
            for _ in 0..30 {
                assert!(replace(&store, &weights(4), None));
                assert!(collect(&store, &[newest]).removed_chunks >= 4);
                let session = store.begin().unwrap();
                append(&session, &weights(0), None).unwrap();
                for step in 1..4 {
                    append(&session, &weights(step), Some(&weights(step - 1))).unwrap();
                }
                commit(&session);
                assert!(replace(&store, &weights(4), Some(&weights(3))));
            }
        });
        let outcome = letting_go.join();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.unwrap();
    });
}
