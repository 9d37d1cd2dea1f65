//! Compaction: what it makes of a key's versions, and what it leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

mod formats;
mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caskad::backend::StorageBackend;
use caskad::backend::testing::FaultDisk;
use caskad::store::IndexPlace;
use caskad::{CompactOptions, CompactReport, GcOptions, Monitor, Store};

use formats::checkpoint;
use stores::{Op, apply, assert_sound, at, get, noise, options, read};

fn open(disk: &FaultDisk) -> Store {
    // A database from the start, so that it can be lost.
    options(1 << 20)
        .index_journal_bytes(0)
        .open_backend(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone()))
        .unwrap()
}

/// A store with `steps` steps of one training as versions of `m`.
fn store(disk: &FaultDisk, steps: u32) -> Store {
    let store = open(disk);
    (1..=steps).for_each(|step| put(&store, "m", checkpoint("m", step)));
    store
}

fn put(store: &Store, key: &'static str, payload: Vec<u8>) {
    apply(store, &Op::Put { key, label: None, payload: payload.into() }).unwrap();
}

fn compact(store: &Store, key: &str) -> CompactReport {
    store.compact(&key.parse().unwrap(), CompactOptions::default(), &Monitor::none()).unwrap()
}

/// Chunks of a version that are kept as differences.
fn deltas(store: &Store, key: &str, version: u64) -> u64 {
    let report = store.show(&at(key, version)).unwrap();
    let codecs = report.files.into_iter().flat_map(|file| file.cost.codecs);
    codecs.filter(|(codec, _)| codec.has_base()).map(|(_, chunks)| chunks).sum()
}

/// The index is gone, in whichever form it was: the packs have to tell.
fn lose_index(disk: &FaultDisk) {
    disk.with_index(Vec::clear);
    if let Err(error) = disk.delete("index.journal") {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn the_newest_version_stands_alone_and_older_ones_look_forward() {
    let disk = FaultDisk::new();
    let store = store(&disk, 7);
    assert_eq!(deltas(&store, "m", 1), 0);
    assert!(deltas(&store, "m", 7) >= 3, "the test is about deltas");
    let before = read(&store).unwrap();
    let report = compact(&store, "m");
    assert_eq!((report.versions, report.key.as_str()), (7, "m"));
    assert!(report.replaced_chunks >= 3 * 7 - 3, "{report:?}");
    // What stands alone now has been trained seven times, and is noisier than what did before.
    assert!(report.bytes_after as f64 <= 1.1 * report.bytes_before as f64, "{report:?}");
    assert_eq!(deltas(&store, "m", 7), 0);
    assert!((1..7).all(|version| deltas(&store, "m", version) >= 3));
    assert!(read(&store).unwrap() == before);
    assert_sound(&store, "compacted");
    // What it made dead is gone, and a second time there is nothing to do.
    let gc = store.gc(GcOptions::default(), &Monitor::none()).unwrap();
    assert_eq!((gc.removed_chunks, gc.reclaimed_bytes), (0, 0));
    let again = compact(&store, "m");
    assert_eq!((again.replaced_chunks, again.bytes_after), (0, report.bytes_after), "{again:?}");
    drop(store);
    let store = open(&disk);
    assert!(read(&store).unwrap() == before);
    drop(store);
    lose_index(&disk);
    let store = open(&disk);
    assert!(read(&store).unwrap() == before, "the last record of each chunk holds");
    assert_sound(&store, "index built anew");
    // Later versions are differences to the newest, and compacting goes on from there.
    put(&store, "m", checkpoint("m", 8));
    put(&store, "m", checkpoint("m", 9));
    let before = read(&store).unwrap();
    compact(&store, "m");
    assert!(read(&store).unwrap() == before);
    assert_eq!((deltas(&store, "m", 9), deltas(&store, "m", 8)), (0, deltas(&store, "m", 7)));
}

#[test]
fn chains_are_no_longer_than_asked_for() {
    for depth in [1, 2, 8] {
        let store = store(&FaultDisk::new(), 12);
        let before = read(&store).unwrap();
        let mut options = CompactOptions::default();
        options.depth = depth;
        store.compact(&"m".parse().unwrap(), options, &Monitor::none()).unwrap();
        assert!(read(&store).unwrap() == before);
        let deepest = |version| {
            let report = store.show(&at("m", version)).unwrap();
            report.files.iter().map(|file| file.cost.bases).max().unwrap()
        };
        assert_eq!((1..=12).map(deepest).max().unwrap(), u64::from(depth));
        assert_eq!(deepest(12), 0);
    }
    let store = store(&FaultDisk::new(), 1);
    for depth in [0, 9, 255] {
        let mut options = CompactOptions::default();
        options.depth = depth;
        let refused = store.compact(&"m".parse().unwrap(), options, &Monitor::none()).unwrap_err();
        assert_eq!(refused.kind(), "syntax");
    }
    let absent = store.compact(&"absent".parse().unwrap(), CompactOptions::default(), &Monitor::none());
    assert_eq!(absent.unwrap_err().kind(), "not_found");
}

/// Removed versions that later ones are differences to cost nothing any more.
#[test]
fn removed_versions_are_let_go() {
    let store = store(&FaultDisk::new(), 4);
    for version in 1..4 {
        apply(&store, &Op::Remove("m", version)).unwrap();
    }
    let kept = store.gc(GcOptions::default(), &Monitor::none()).unwrap();
    assert!(store.stat().unwrap().chunks > store.version(&at("m", 4)).unwrap().manifest().chunks.len() as u64);
    assert!(get(&store, "m", 4).unwrap() == checkpoint("m", 4), "rm of a base hurts nobody");
    let report = compact(&store, "m");
    assert!(report.kept_bytes < kept.kept_bytes, "{report:?} after {kept:?}");
    assert_eq!(store.stat().unwrap().chunks, report.chunks);
    assert!(get(&store, "m", 4).unwrap() == checkpoint("m", 4));
}

/// A chunk of another key stays a base, and what two keys share stays whole in both.
#[test]
fn other_keys_keep_what_they_have() {
    let store = store(&FaultDisk::new(), 3);
    put(&store, "copy", checkpoint("m", 2));
    put(&store, "copy", checkpoint("m", 4));
    let mut options = caskad::PutOptions::default();
    options.base = caskad::DeltaBase::Version(at("m", 3));
    let tuned = checkpoint("m", 30);
    let name = "tuned".parse().unwrap();
    store.put(&name, caskad::Payload::bytes("payload.bin", &tuned), &options, &Monitor::none()).unwrap();
    let before = read(&store).unwrap();
    let alone = deltas(&store, "tuned", 1);
    assert!(alone >= 3);
    let stored = store.stat().unwrap().pack_bytes;
    for key in ["tuned", "copy", "m", "tuned", "copy"] {
        compact(&store, key);
        assert!(read(&store).unwrap() == before, "{key}");
        assert_sound(&store, key);
    }
    assert_eq!(deltas(&store, "tuned", 1), alone, "`m` keeps the base anyway");
    assert!(store.stat().unwrap().pack_bytes as f64 <= 1.05 * stored as f64);
    apply(&store, &Op::Remove("m", 3)).unwrap();
    apply(&store, &Op::Gc).unwrap();
    assert!(get(&store, "tuned", 1).unwrap() == tuned);
}

#[test]
fn puts_and_gets_go_on_meanwhile() {
    let store = store(&FaultDisk::new(), 6);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for version in 1..=6 {
                    assert!(get(&store, "m", version).unwrap() == checkpoint("m", version as u32));
                }
            }
        });
        scope.spawn(|| {
            for step in 7..30 {
                put(&store, "m", checkpoint("m", step));
                put(&store, "other", noise(&format!("{step}"), 30_000));
            }
        });
        let compacting = scope.spawn(|| (0..6).for_each(|_| drop(compact(&store, "m"))));
        let outcome = compacting.join();
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    for version in 1..30 {
        assert!(get(&store, "m", version).unwrap() == checkpoint("m", version as u32), "version {version}");
    }
    assert_sound(&store, "after all");
}

/// A damaged chunk stays as it is, and no other one suffers.
#[test]
fn damage_is_left_for_verify() {
    let disk = FaultDisk::new();
    let store = store(&disk, 4);
    let intact = read(&store).unwrap();
    let chunk = store.version(&at("m", 2)).unwrap().manifest().chunks[1].hash;
    let inside = store.show(&at("m", 2)).unwrap();
    assert!(inside.files[0].cost.chunks >= 4);
    // The hash of a chunk stands in its record's header, 40 bytes before the payload.
    for name in disk.names() {
        disk.with_object(&name, |bytes| {
            let found = bytes.windows(32).position(|window| window == chunk.as_bytes() && window.len() == 32);
            if let Some(at) = found.filter(|at| bytes[at - 16..at - 12] == *b"cREC") {
                bytes[at + 32 + 8 + 200] ^= 1;
            }
        });
    }
    compact(&store, "m");
    let report = store.verify_all(&Monitor::none()).unwrap();
    assert!(!report.ok);
    assert!(report.damaged.iter().any(|damage| damage.version == Some(2) && damage.chunk == Some(chunk)), "{report:?}");
    assert!(get(&store, "m", 1).unwrap() == *intact.0["m"].versions[&1].0);
    assert!(get(&store, "m", 2).is_err());
    put(&store, "m", checkpoint("m", 2));
    for version in 1..5 {
        assert!(get(&store, "m", version).unwrap() == checkpoint("m", version as u32), "version {version}");
    }
}
