//! What each operation costs the disk: exact numbers of creates, writes and syncs of packs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

mod stores;

use std::sync::Arc;

use caskad::backend::testing::{FaultDisk, Operation};
use caskad::store::IndexPlace;
use caskad::{GcOptions, ImportOptions, Monitor, Payload, PutOptions, Store};

use Operation::{Create, Delete, Sync, Write};
use stores::{Op, apply, assert_sound, at, get, noise, options, read};

/// A store whose packs are on a disk that counts, and whose index is elsewhere.
struct Counted {
    disk: FaultDisk,
    store: Store,
    seen: std::cell::Cell<usize>,
}

impl Counted {
    fn new(pack_bytes: u64) -> Counted {
        let disk = FaultDisk::new();
        let store = options(pack_bytes).open_backend(Arc::new(disk.clone()), IndexPlace::Memory).unwrap();
        Counted { disk, store, seen: std::cell::Cell::new(0) }
    }

    /// The operations since the last call.
    fn operations(&self) -> Vec<Operation> {
        let all = self.disk.operations();
        all[self.seen.replace(all.len())..].to_vec()
    }

    fn put(&self, key: &'static str, bytes: Vec<u8>) {
        apply(&self.store, &Op::Put { key, label: None, payload: bytes.into() }).unwrap();
    }

    fn pack_bytes(&self) -> u64 {
        self.store.stat().unwrap().pack_bytes
    }
}

#[test]
fn a_put_is_one_write_and_one_sync_a_mebibyte_more_is_one_write_more() {
    let counted = Counted::new(256 << 20);
    assert_eq!(counted.operations(), [], "a new store has no pack");
    counted.put("m", noise("first", 100_000));
    assert_eq!(counted.operations(), [Create, Write, Sync]);
    counted.put("m", noise("second", 100_000));
    assert_eq!(counted.operations(), [Write, Sync]);
    counted.put("m", noise("large", 5 << 20));
    let operations = counted.operations();
    let writes = operations.iter().filter(|&&operation| operation == Write).count();
    assert!((4..=6).contains(&writes), "{operations:?}");
    assert_eq!(operations.len(), writes + 1, "one sync commits chunks, manifest and ref together: {operations:?}");
    assert_eq!(operations.last(), Some(&Sync));
}

#[test]
fn packs_that_fill_up_cost_a_sync_and_a_create_each() {
    let counted = Counted::new(1 << 20);
    counted.put("m", noise("large", 5 << 20));
    let operations = counted.operations();
    let count = |wanted: Operation| operations.iter().filter(|&&operation| operation == wanted).count();
    let packs = counted.store.stat().unwrap().packs as usize;
    assert!(packs >= 5);
    assert_eq!((count(Create), count(Sync), count(Delete)), (packs, packs, 0), "{operations:?}");
    assert!(count(Write) <= 2 * packs, "{operations:?}");
}

#[test]
fn an_unchanged_file_adds_a_manifest_and_a_ref_and_no_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.bin");
    std::fs::write(&file, noise("model", 3 << 20)).unwrap();
    let counted = Counted::new(256 << 20);
    let put = || {
        let name = "m".parse().unwrap();
        counted.store.put(&name, Payload::path(&file), &PutOptions::default(), &Monitor::none()).unwrap()
    };
    let first = put();
    assert!(first.new_chunks > 0);
    counted.operations();
    let before = counted.pack_bytes();
    let again = put();
    assert_eq!((again.new_chunks, again.chunks), (0, first.chunks));
    assert_eq!(counted.operations(), [Write, Sync]);
    let grown = counted.pack_bytes() - before;
    assert!(grown < 4096, "{grown} bytes for a manifest and a ref");
    // The same bytes under another key: found chunk by chunk.
    counted.put("other", std::fs::read(&file).unwrap());
    assert_eq!(counted.operations(), [Write, Sync]);
    assert!(counted.pack_bytes() - before < 2 * 4096);
}

#[test]
fn reading_writes_nothing() {
    let counted = Counted::new(1 << 20);
    counted.put("m", noise("m", 300_000));
    counted.put("m", noise("n", 300_000));
    counted.operations();
    let store = &counted.store;
    get(store, "m", 1).unwrap();
    read(store).unwrap();
    store.show(&at("m", 2)).unwrap();
    store.diff(&at("m", 1), &at("m", 2)).unwrap();
    store.stat().unwrap();
    store.verify(&at("m", 1), &Monitor::none()).unwrap();
    assert_sound(store, "reading");
    store.export_to(&at("m", 1), &mut Vec::new(), &Monitor::none()).unwrap();
    apply(store, &Op::GcDryRun).unwrap();
    assert!(store.log(&"absent".parse().unwrap()).is_err());
    assert_eq!(counted.operations(), []);
}

#[test]
fn refs_cost_one_write_and_one_sync() {
    let counted = Counted::new(1 << 20);
    counted.put("m", noise("m", 30_000));
    counted.operations();
    for op in [Op::Tag("m", 1, "best"), Op::Pin("m", 1), Op::Unpin("m", 1), Op::Untag("m", "best"), Op::Remove("m", 1)]
    {
        apply(&counted.store, &op).unwrap();
        assert_eq!(counted.operations(), [Write, Sync], "{op:?}");
    }
}

#[test]
fn a_collection_copies_what_is_live_once_and_one_with_nothing_to_do_writes_nothing() {
    let counted = Counted::new(256 << 20);
    counted.put("m", noise("m", 100_000));
    counted.operations();
    let gc = || counted.store.gc(GcOptions::default(), &Monitor::none()).unwrap();
    gc();
    assert_eq!(counted.operations(), [], "all is live");
    counted.put("gone", noise("gone", 500_000));
    apply(&counted.store, &Op::Remove("gone", 1)).unwrap();
    counted.operations();
    let report = gc();
    // The pack is sealed; what is live is copied to a new one, synced; then the old one goes.
    assert_eq!(counted.operations(), [Sync, Create, Write, Sync, Delete]);
    assert!(report.reclaimed_bytes > 500_000 && report.kept_bytes < 110_000, "{report:?}");
    gc();
    assert_eq!(counted.operations(), [], "and again there is nothing to do");
}

#[test]
fn an_import_is_one_commit() {
    let (from, to) = (Counted::new(1 << 20), Counted::new(64 << 20));
    from.put("m", noise("m", 500_000));
    let mut archive = Vec::new();
    from.store.export_to(&at("m", 1), &mut archive, &Monitor::none()).unwrap();
    to.store.import_from(archive.as_slice(), "archive", &ImportOptions::default(), &Monitor::none()).unwrap();
    assert_eq!(to.operations(), [Create, Write, Sync]);
}

/// A store whose packs and index are on one disk that counts.
fn open_whole(disk: &FaultDisk, journal_bytes: usize) -> Store {
    let options = options(1 << 20).index_journal_bytes(journal_bytes);
    options.open_backend(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone())).unwrap()
}

fn put_small(store: &Store, label: &str) {
    apply(store, &Op::Put { key: "m", label: None, payload: noise(label, 30_000).into() }).unwrap();
}

#[test]
fn a_small_index_costs_a_write_and_a_sync_a_commit_and_nothing_to_open_and_close() {
    let disk = FaultDisk::new();
    let seen = std::cell::Cell::new(0);
    let operations = || {
        let all = disk.operations();
        all[seen.replace(all.len())..].to_vec()
    };
    let store = open_whole(&disk, usize::MAX);
    assert_eq!(operations(), [Create, Write, Sync], "that the log is covered from its beginning");
    put_small(&store, "first");
    assert_eq!(operations(), [Create, Write, Sync, Write, Sync], "the pack, then the journal");
    put_small(&store, "second");
    assert_eq!(operations(), [Write, Sync, Write, Sync]);
    apply(&store, &Op::Tag("m", 1, "best")).unwrap();
    assert_eq!(operations(), [Write, Sync, Write, Sync]);
    drop(store);
    drop(open_whole(&disk, usize::MAX));
    assert_eq!(operations(), []);
}

#[test]
fn an_index_that_outgrows_its_journal_is_a_database_from_then_on() {
    let disk = FaultDisk::new();
    let store = open_whole(&disk, 2000);
    let names = || disk.names().iter().any(|name| name == "index.journal");
    let mut commits = 0;
    while disk.with_index(|bytes| bytes.is_empty()) {
        assert!(names(), "a journal at first");
        put_small(&store, &format!("{commits}"));
        commits += 1;
    }
    assert!(commits > 2 && !names(), "{commits} commits");
    drop(store);
    let store = open_whole(&disk, usize::MAX);
    put_small(&store, "later");
    assert!(!names());
    assert_sound(&store, "outgrown");
    assert_eq!(store.log(&"m".parse().unwrap()).unwrap().len(), commits + 1);
}

#[test]
fn opening_and_closing_a_database_leaves_the_packs_alone() {
    let disk = FaultDisk::new();
    let open = |disk: &FaultDisk| open_whole(disk, 0);
    let store = open(&disk);
    for n in 0..8 {
        apply(&store, &Op::Put { key: "m", label: None, payload: noise(&format!("{n}"), 300_000).into() }).unwrap();
    }
    let before = disk.operations().len();
    apply(&store, &Op::Put { key: "m", label: None, payload: noise("last", 30_000).into() }).unwrap();
    let index = disk.operations().len() - before - 2;
    assert!(index < 20, "{index} operations of the index for one commit");
    drop(store);
    let packs = |disk: &FaultDisk| {
        disk.names()
            .into_iter()
            .map(|name| (name.clone(), disk.with_object(&name, |bytes| bytes.clone())))
            .collect::<Vec<_>>()
    };
    let (contents, before) = (packs(&disk), disk.operations().len());
    drop(open(&disk));
    assert!(packs(&disk) == contents);
    let operations = disk.operations().split_off(before);
    assert!(operations.iter().all(|operation| !matches!(operation, Create | Delete)), "{operations:?}");
    assert!(operations.len() < 30, "{} operations of the index: {operations:?}", operations.len());
    eprintln!("index operations: {index} a commit, {} an open and close", operations.len());
}
