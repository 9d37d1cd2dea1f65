//! Damage to chunks that others are differences to.

use std::fs;

use crate::fixture::{Copy, Fixture, Seeded, examine, flip};
use crate::formats::checkpoint;
use crate::stores::{Op, apply, read};

const FLIPS: u64 = 150;

/// Five steps of a training, each a difference to the one before, and five of another, each a difference to the one after.
fn fixture() -> Fixture {
    let put = |key, step| Op::Put { key, label: None, payload: checkpoint(key, step).into() };
    let ops = (1..=5).flat_map(|step| [put("m", step), put("turned", step)]).chain([Op::Compact("turned")]);
    let fixture = Fixture::of(ops, false);
    let copy = fixture.copy();
    let store = copy.open().unwrap();
    for (key, version) in [("m", 5), ("turned", 1)] {
        let files = store.show(&crate::stores::at(key, version)).unwrap().files;
        assert!(files.iter().any(|file| file.cost.bases == 4), "{key}@{version}: {files:?}");
    }
    fixture
}

fn damage(copy: &Copy, seeded: &mut Seeded) -> String {
    let packs = copy.packs();
    let pack = seeded.below(packs.len() as u64) as usize;
    let bit = seeded.below(8 * fs::metadata(&packs[pack]).unwrap().len());
    flip(&packs[pack], bit);
    format!("bit {bit} of pack {pack}")
}

/// Puts all versions again, which heals those that were there.
fn heal(copy: &Copy, fixture: &Fixture, context: &str) {
    let store = copy.open().unwrap();
    let before = fixture.model.visible().0;
    for (key, state) in &before {
        let key = if key == "m" { "m" } else { "turned" };
        for payload in state.versions.values() {
            apply(&store, &Op::Put { key, label: None, payload: payload.clone() }).unwrap();
        }
    }
    let found = read(&store).unwrap_or_else(|error| panic!("{context}: put again: {error}"));
    for (key, state) in &before {
        for (version, bytes) in &state.versions {
            assert!(found.0[key].versions[version] == *bytes, "{context}: {key}@{version}");
        }
    }
}

#[test]
fn a_flipped_bit_is_named_and_healed_by_the_same_bytes() {
    let (fixture, mut seeded) = (fixture(), Seeded::new("flip a base"));
    let (mut hurt, mut bases) = (0, 0);
    for case in 0..FLIPS {
        let copy = fixture.copy();
        let context = format!("case {case}: {}", damage(&copy, &mut seeded));
        let examined = examine(&copy, &fixture.model, &context);
        assert!(!examined.refused && examined.unlisted.is_empty(), "{context}");
        hurt += usize::from(!examined.hurt.is_empty());
        bases += usize::from(examined.damages.iter().any(|damage| damage.why.contains("its base ")));
        // Manifests are no chunks: a version whose own is damaged stays lost.
        if examined.damages.iter().all(|damage| damage.what != "manifest") {
            heal(&copy, &fixture, &context);
        }
    }
    assert!(hurt > 60 && bases > 40, "{hurt} of {FLIPS} hurt a version, {bases} a base");
    eprintln!("flipped bits: {FLIPS}, {hurt} of them hurt a version, {bases} a base");
}

#[test]
fn a_flipped_bit_and_a_lost_index_cost_no_more_than_what_needs_the_bit() {
    let (fixture, mut seeded) = (fixture(), Seeded::new("flip a base and lose the index"));
    for case in 0..FLIPS / 3 {
        let copy = fixture.copy();
        let context = format!("case {case}: {}, no index", damage(&copy, &mut seeded));
        fs::remove_file(copy.index()).unwrap();
        let examined = examine(&copy, &fixture.model, &context);
        assert!(!examined.refused, "{context}");
        let names_lost = examined.unlisted.is_empty();
        if names_lost && examined.damages.iter().all(|damage| damage.what != "manifest") {
            heal(&copy, &fixture, &context);
        }
    }
}

/// Compacting with damage in the store, and after it was healed.
#[test]
fn a_damaged_store_is_compacted_without_further_loss() {
    let (fixture, mut seeded) = (fixture(), Seeded::new("compact damage"));
    let mut compacted = 0;
    for case in 0..FLIPS / 3 {
        let copy = fixture.copy();
        let context = format!("case {case}: {}", damage(&copy, &mut seeded));
        let whole = {
            let before = examine(&copy, &fixture.model, &context);
            if before.damages.iter().any(|damage| damage.what == "manifest") {
                continue;
            }
            before.whole
        };
        let store = copy.open().unwrap();
        for key in ["m", "turned"] {
            apply(&store, &Op::Compact(key)).unwrap_or_else(|error| panic!("{context}: {key}: {error}"));
        }
        drop(store);
        let after = examine(&copy, &fixture.model, &context);
        assert!(after.whole >= whole, "{context}: {} versions of {whole}", after.whole);
        heal(&copy, &fixture, &context);
        let store = copy.open().unwrap();
        for key in ["m", "turned"] {
            apply(&store, &Op::Compact(key)).unwrap_or_else(|error| panic!("{context}: {key}: {error}"));
        }
        compacted += 1;
        apply(&store, &Op::Gc).unwrap();
        let report = store.verify_all(&caskad::Monitor::none()).unwrap();
        assert!(report.damaged.iter().all(|damage| damage.what == "pack"), "{context}: {:?}", report.damaged);
    }
    assert!(compacted > 30);
}
