//! A damaged index: rebuilt from the packs, with every ref, label and pin, and without a word of redb's on standard error.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use caskad::Monitor;
use caskad::backend::testing::FaultDisk;
use caskad::store::IndexPlace;

use crate::fixture::{Copy, Fixture, PACK_BYTES, Seeded, examine, flip, truncate};
use crate::stores::{Op, apply, at, noise, options, read};

const FLIPS: u64 = 300;

/// Panics inside redb so far. The hook is this test program's own: the library does not touch it.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts the panics inside redb while `test` runs, and no others.
fn panics_during(test: impl FnOnce()) -> usize {
    static ALONE: Mutex<()> = Mutex::new(());
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            match info.location().is_some_and(|location| location.file().contains("redb")) {
                true => {
                    PANICS.fetch_add(1, Ordering::Relaxed);
                }
                false => before(info),
            }
        }));
    });
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = PANICS.load(Ordering::Relaxed);
    test();
    PANICS.load(Ordering::Relaxed) - before
}

fn damaged_index(fixture: &Fixture, seeded: &mut Seeded) -> (Copy, u64) {
    let copy = fixture.copy();
    let len = fs::metadata(copy.index()).unwrap().len();
    // Pages in use crowd at the front; the rest of the file is mostly free.
    let bound = if seeded.below(2) == 0 { len.min(64 << 10) } else { len };
    let bit = seeded.below(8 * bound);
    flip(&copy.index(), bit);
    (copy, bit)
}

#[test]
fn a_flipped_bit_costs_nothing_and_shows_nothing() {
    let mut seeded = Seeded::new("flip the index");
    let panics = panics_during(|| {
        for fixture in Fixture::both() {
            for case in 0..FLIPS {
                let (copy, bit) = damaged_index(&fixture, &mut seeded);
                copy.assert_whole(&fixture.model, &format!("case {case}: bit {bit} of {}", copy.index().display()));
            }
        }
    });
    assert_eq!(panics, 0, "a small index is checked before redb trusts it");
    eprintln!("flipped bits in the index: {FLIPS}");
}

/// A large index is not checked when it is opened: the damage is met on the way.
#[test]
fn a_flipped_bit_that_is_met_on_the_way_never_gives_wrong_bytes() {
    let ([_, fixture], mut seeded) = (Fixture::both(), Seeded::new("meet a flip"));
    let mut rebuilt = 0;
    let panics = panics_during(|| {
        for case in 0..FLIPS {
            let (copy, bit) = damaged_index(&fixture, &mut seeded);
            rebuilt += usize::from(meet(&fixture, &copy, &format!("case {case}: bit {bit} of the index, unchecked")));
        }
    });
    eprintln!("flipped bits in an unchecked index: {FLIPS}, {rebuilt} found by verify, {panics} panics held back");
}

/// Uses a store whose index was not checked when it was opened. True if `verify_all` was the first to find the damage.
fn meet(fixture: &Fixture, copy: &Copy, context: &str) -> bool {
    let options = copy.options().checked_index_bytes(0);
    let store = options.open(&copy.path).unwrap_or_else(|error| panic!("{context}: open: {error}"));
    for (key, state) in &fixture.model.visible().0 {
        for (version, bytes) in &state.versions {
            let found = crate::stores::get(&store, key, *version);
            let found = found.unwrap_or_else(|error| panic!("{context}: {key}@{version}: {error}"));
            assert!(found == *bytes.0, "{context}: {key}@{version}");
        }
    }
    let report = store.verify_all(&Monitor::none()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let other: Vec<_> = report.damaged.iter().filter(|damage| damage.what != "index").collect();
    assert!(other.is_empty(), "{context}: {other:?}");
    assert!(read(&store).unwrap() == fixture.model.visible(), "{context}");
    drop(store);
    copy.assert_whole(&fixture.model, context);
    !report.ok
}

/// A key that was altered makes a row look as if it did not exist. No value shows that: only the check before saying so does.
#[test]
fn a_row_whose_key_was_altered_is_not_reported_as_missing() {
    Fixture::both().into_iter().for_each(alter_keys);
}

fn alter_keys(fixture: Fixture) {
    let (version, chunks) = {
        let copy = fixture.copy();
        let version = copy.open().unwrap().version(&at("opaque", 1)).unwrap();
        (version.manifest_hash(), version.manifest().chunks.clone())
    };
    let mut rows: Vec<Vec<u8>> = vec![b"vopaque\0".to_vec(), version.as_bytes().to_vec()];
    rows.extend(chunks.iter().map(|chunk| chunk.hash.as_bytes().to_vec()));
    let mut cases = 0;
    for row in rows {
        let bytes = fs::read(fixture.copy().index()).unwrap();
        let places = (0..bytes.len() - row.len()).filter(|&place| bytes[place..].starts_with(&row));
        for place in places {
            let copy = fixture.copy();
            flip(&copy.index(), 8 * (place as u64 + 3) + 6);
            meet(&fixture, &copy, &format!("row at {place} of the index"));
            cases += 1;
        }
    }
    assert!(cases > 4, "{cases} rows found");
}

#[test]
fn a_lost_cut_or_foreign_index_is_rebuilt() {
    Fixture::both().into_iter().for_each(lose_and_cut);
}

fn lose_and_cut(fixture: Fixture) {
    let len = fs::metadata(fixture.copy().index()).unwrap().len();
    let mut seeded = Seeded::new("cut the index");
    let mut cuts = vec![0, 1, 63, 64, 320, 4095, 4096, 8192, len / 2, len.saturating_sub(4096), len - 1];
    cuts.retain(|&cut| cut < len);
    cuts.extend((0..20).map(|_| seeded.below(len)));
    for cut in cuts {
        let copy = fixture.copy();
        truncate(&copy.index(), cut);
        copy.assert_whole(&fixture.model, &format!("index cut to {cut} of {len}"));
    }
    for (what, bytes) in
        [("zeros", vec![0; len as usize]), ("noise", noise("index", len as usize)), ("text", b"hello".to_vec())]
    {
        let copy = fixture.copy();
        fs::write(copy.index(), bytes).unwrap();
        copy.assert_whole(&fixture.model, &format!("index of {what}"));
    }
    let copy = fixture.copy();
    fs::remove_file(copy.index()).unwrap();
    copy.assert_whole(&fixture.model, "no index");
    let extended = fixture.copy();
    let mut bytes = fs::read(extended.index()).unwrap();
    bytes.extend([7; 10_000]);
    fs::write(extended.index(), bytes).unwrap();
    extended.assert_whole(&fixture.model, "longer index");
}

/// What was acknowledged last lies at the very end of the log, where a crash would have torn something: the index tells which it is.
#[test]
fn damage_to_what_was_acknowledged_last_is_named_and_not_cut() {
    for fixture in Fixture::both() {
        let len = fs::metadata(fixture.copy().packs().last().unwrap()).unwrap().len();
        for back in (1..80).step_by(7) {
            let copy = fixture.copy();
            let pack = copy.packs().pop().unwrap();
            flip(&pack, 8 * (len - back));
            let report = copy.open().unwrap().verify_all(&Monitor::none()).unwrap();
            assert!(
                report.damaged.iter().any(|damage| damage.what == "pack"),
                "{back} bytes before the end: {report:?}"
            );
            assert!(fs::metadata(pack).unwrap().len() >= len, "cut");
            // The index says what it was: here, a label.
            assert!(read(&copy.open().unwrap()).unwrap() == fixture.model.visible());
        }
        let copy = fixture.copy();
        truncate(&copy.packs().pop().unwrap(), len - 1);
        assert!(read(&copy.open().unwrap()).unwrap() == fixture.model.visible(), "what was cut is written anew");
    }
}

/// A journal that was put back after the index had outgrown it.
#[test]
fn a_journal_from_yesterday_beside_a_database_catches_up() {
    let fixture = Fixture::new();
    let copy = fixture.copy();
    let yesterday = fs::read(copy.index()).unwrap();
    let mut model = fixture.model.clone();
    let store = copy.options().index_journal_bytes(0).open(&copy.path).unwrap();
    for op in [Op::Remove("opaque", 1), Op::Gc, Op::Put { key: "m", label: None, payload: noise("today", 9000).into() }]
    {
        apply(&store, &op).unwrap();
        model.apply(&op).unwrap();
    }
    drop(store);
    assert!(!copy.index().exists() && copy.path.join("index.redb").exists());
    copy.assert_whole(&model, "the database alone");
    fs::write(copy.index(), yesterday).unwrap();
    copy.assert_whole(&model, "with the journal");
    assert!(!copy.path.join("index.redb").exists(), "one of them is the index");
}

/// An older copy of the index, put back while the packs went on.
#[test]
fn an_index_from_yesterday_catches_up() {
    Fixture::both().into_iter().for_each(put_yesterday_back);
}

fn put_yesterday_back(fixture: Fixture) {
    let copy = fixture.copy();
    let yesterday = fs::read(copy.index()).unwrap();
    let mut model = fixture.model.clone();
    let store = copy.open().unwrap();
    for op in [
        Op::Put { key: "m", label: Some("best"), payload: crate::fixture::checkpoint(3) },
        Op::Remove("opaque", 1),
        Op::Gc,
        Op::Put { key: "m", label: None, payload: noise("today", 100_000).into() },
    ] {
        apply(&store, &op).unwrap();
        model.apply(&op).unwrap();
    }
    drop(store);
    fs::write(copy.index(), yesterday).unwrap();
    let examined = examine(&copy, &model, "yesterday's index");
    assert!(examined.hurt.is_empty() && examined.unlisted.is_empty(), "{examined:?}");
}

/// The index is altered again and again while threads put: each rebuild holds back who would take what is not there yet for missing,
/// and give out a version's number again.
#[test]
fn an_index_damaged_while_it_is_used_costs_no_acknowledged_version() {
    damage_while_used(0);
    damage_while_used(usize::MAX);
}

fn damage_while_used(journal_bytes: usize) {
    let disk = FaultDisk::new();
    let open = || {
        let place = IndexPlace::FaultDisk(disk.clone());
        let options = options(PACK_BYTES).checked_index_bytes(0).index_journal_bytes(journal_bytes);
        options.open_backend(Arc::new(disk.clone()), place).unwrap()
    };
    let (store, done, rebuilt) = (open(), AtomicBool::new(false), AtomicUsize::new(0));
    let put = |thread: u64| {
        for round in 0..40 {
            let payload = noise(&format!("{thread} {round}"), 3000).into();
            apply(&store, &Op::Put { key: "m", label: None, payload }).unwrap();
        }
    };
    let mut seeded = Seeded::new("damage under way");
    let mut damage = |bytes: &mut Vec<u8>, from: u64, bytes_in_use: u64| {
        for _ in 0..20 {
            let at = (from + seeded.below(bytes_in_use)) as usize;
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
        }
    };
    panics_during(|| {
        std::thread::scope(|scope| {
            let putting: Vec<_> = (0..3)
                .map(|thread| {
                    scope.spawn({
                        let put = &put;
                        move || put(thread)
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Pages in use crowd behind the header.
                    disk.with_index(|bytes| damage(bytes, 4096, 128 << 10));
                    disk.with_object("index.journal", |bytes| damage(bytes, 0, 16 << 10));
                    let report = store.verify_all(&Monitor::none()).unwrap();
                    rebuilt.fetch_add(usize::from(!report.ok), Ordering::Relaxed);
                }
            });
            putting.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
    });
    let versions = store.log(&"m".parse().unwrap()).unwrap();
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
    let held: HashSet<Vec<u8>> = read(&store).unwrap().0["m"].versions.values().map(|bytes| bytes.0.to_vec()).collect();
    assert_eq!(held.len(), 120, "a number was given out twice");
    assert!(rebuilt.load(Ordering::Relaxed) > 0, "nothing was rebuilt");
    eprintln!(
        "index damaged while in use: rebuilt {} times, at most {journal_bytes} bytes of journal",
        rebuilt.into_inner()
    );
}
