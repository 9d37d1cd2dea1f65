//! Damaged packs: sealed ones and the one that grows.

use std::fs;

use caskad::Monitor;

use crate::fixture::{Copy, Fixture, Seeded, examine, flip, truncate};
use crate::stores::{Op, apply, noise, read};

const FLIPS: u64 = 300;

fn len(copy: &Copy, pack: usize) -> u64 {
    fs::metadata(&copy.packs()[pack]).unwrap().len()
}

#[test]
fn a_flipped_bit_is_named_and_hurts_only_what_lies_there() {
    let fixture = Fixture::new();
    let packs = fixture.copy().packs().len();
    assert!(packs > 3, "{packs} packs");
    let (mut seeded, mut hurt) = (Seeded::new("flip a pack"), 0);
    for case in 0..FLIPS {
        let copy = fixture.copy();
        let pack = seeded.below(packs as u64) as usize;
        let bit = seeded.below(8 * len(&copy, pack));
        flip(&copy.packs()[pack], bit);
        let context = format!("case {case}: bit {bit} of pack {pack}");
        let examined = examine(&copy, &fixture.model, &context);
        assert!(!examined.refused && examined.unlisted.is_empty(), "{context}: the index knows all versions");
        assert!(!examined.damages.is_empty(), "{context}: nobody noticed");
        assert!(examined.damages.iter().any(|damage| damage.why.contains(".pack")), "{context}: the pack is not named");
        hurt += usize::from(!examined.hurt.is_empty());
    }
    assert!(hurt > 100, "only {hurt} of {FLIPS} flips hurt a version: the fixture is mostly dead");
    eprintln!("flipped bits in packs: {FLIPS}, {hurt} of them hurt a version");
}

#[test]
fn a_flipped_bit_and_a_lost_index_never_give_wrong_bytes() {
    let fixture = Fixture::new();
    let mut seeded = Seeded::new("flip a pack and lose the index");
    for case in 0..FLIPS / 3 {
        let copy = fixture.copy();
        let pack = seeded.below(copy.packs().len() as u64) as usize;
        let bit = seeded.below(8 * len(&copy, pack));
        flip(&copy.packs()[pack], bit);
        fs::remove_file(copy.index()).unwrap();
        let examined = examine(&copy, &fixture.model, &format!("case {case}: bit {bit} of pack {pack}, no index"));
        assert!(!examined.refused && !examined.damages.is_empty());
        assert!(examined.whole >= 3, "case {case}: {examined:?}");
    }
}

#[test]
fn a_pack_that_is_cut_or_gone_takes_no_name_with_it() {
    let fixture = Fixture::new();
    let packs = fixture.copy().packs().len();
    let (mut seeded, mut cases) = (Seeded::new("cut a pack"), 0);
    for pack in 0..packs {
        let full = len(&fixture.copy(), pack);
        let mut lens = vec![None, Some(0), Some(1), Some(15), Some(16), Some(17), Some(full - 1)];
        lens.extend((0..12).map(|_| Some(seeded.below(full))));
        for cut in lens {
            let copy = fixture.copy();
            match cut {
                None => fs::remove_file(&copy.packs()[pack]).unwrap(),
                Some(cut) => truncate(&copy.packs()[pack], cut),
            }
            let context = format!("pack {pack} cut to {cut:?} of {full}");
            let examined = examine(&copy, &fixture.model, &context);
            assert!(!examined.refused && examined.unlisted.is_empty(), "{context}: {:?}", examined.unlisted);
            // Refs that lay there were written anew: they even outlast the index.
            fs::remove_file(copy.index()).unwrap();
            let again = examine(&copy, &fixture.model, &format!("{context}, then no index"));
            assert!(again.unlisted.is_empty(), "{context}, then no index: {:?}", again.unlisted);
            assert_eq!(again.hurt, examined.hurt, "{context}");
            cases += 1;
        }
    }
    eprintln!("packs cut or gone: {cases}");
}

/// The index alone knows the refs that lay there: it is asked at once, since it may be the next to go.
#[test]
fn refs_of_a_lost_pack_are_written_anew_when_the_store_is_opened() {
    let fixture = Fixture::new();
    for pack in 0..fixture.copy().packs().len() {
        let copy = fixture.copy();
        fs::remove_file(&copy.packs()[pack]).unwrap();
        drop(copy.open().unwrap());
        fs::remove_file(copy.index()).unwrap();
        let store = copy.open().unwrap();
        for (key, state) in &fixture.model.visible().0 {
            let log = store.log(&key.parse().unwrap()).unwrap();
            assert!(log.iter().map(|version| version.version).eq(state.versions.keys().copied()), "pack {pack}: {key}");
            let labels: usize = log.iter().map(|version| version.labels.len()).sum();
            assert_eq!(labels, state.labels.len(), "pack {pack}: {key}");
        }
    }
}

/// What a lost pack held is not taken for stored: putting the same again makes the store whole.
#[test]
fn putting_the_same_again_heals_what_a_lost_pack_held() {
    let fixture = Fixture::new();
    for pack in 0..fixture.copy().packs().len() {
        let copy = fixture.copy();
        fs::remove_file(&copy.packs()[pack]).unwrap();
        let store = copy.open().unwrap();
        for (key, payload) in [("m", 1), ("m", 2), ("opaque", 1), ("text", 1)]
            .map(|(key, version)| (key, fixture.model.0[key].versions[&version].clone()))
        {
            apply(&store, &Op::Put { key, label: None, payload: payload.clone() }).unwrap();
            let latest = store.log(&key.parse().unwrap()).unwrap().last().unwrap().version;
            assert!(crate::stores::get(&store, key, latest).unwrap() == *payload.0, "pack {pack}");
            // The older version shares its chunks; only where its manifest is gone it stays hurt.
        }
        drop(store);
        copy.open().unwrap();
    }
}

/// A copy of a lost pack that is put back is taken in, and no collection takes it for garbage.
#[test]
fn a_lost_pack_that_is_put_back_makes_the_store_whole() {
    for fixture in Fixture::both() {
        for pack in 0..fixture.copy().packs().len() {
            for left in [None, Some(0), Some(30_000)] {
                let copy = fixture.copy();
                let path = copy.packs()[pack].clone();
                let bytes = fs::read(&path).unwrap();
                match left.filter(|&left| left < bytes.len() as u64) {
                    None => fs::remove_file(&path).unwrap(),
                    Some(left) => truncate(&path, left),
                }
                drop(copy.open().unwrap());
                fs::write(&path, bytes).unwrap();
                let context = format!("pack {pack}, of which {left:?} bytes had been left");
                let store = copy.open().unwrap();
                assert!(read(&store).unwrap() == fixture.model.visible(), "{context}");
                apply(&store, &Op::Gc).unwrap();
                assert!(read(&store).unwrap() == fixture.model.visible(), "{context}: after gc");
                drop(store);
                fs::remove_file(copy.index()).unwrap();
                copy.assert_whole(&fixture.model, &format!("{context}: without the index"));
            }
        }
    }
}

#[test]
fn a_pack_that_is_not_ours_is_left_alone() {
    let fixture = Fixture::new();
    let copy = fixture.copy();
    let packs = copy.path.join("packs");
    // A directory has the name of the pack that comes next.
    let newest = copy.packs().pop().unwrap();
    let number: u64 = newest.file_stem().unwrap().to_str().unwrap()[2..].parse().unwrap();
    fs::create_dir(packs.join(format!("p-{:08}.pack", number + 1))).unwrap();
    for (name, bytes) in
        [("notes.txt", &b"hello"[..]), ("p-1.pack", b"x"), ("p-.pack", b""), ("p-00000001.pack.bak", b"y")]
    {
        fs::write(packs.join(name), bytes).unwrap();
    }
    copy.assert_whole(&fixture.model, "foreign files");
    fs::remove_file(copy.index()).unwrap();
    copy.assert_whole(&fixture.model, "foreign files, no index");
    let store = copy.open().unwrap();
    let put = Op::Put { key: "more", label: None, payload: crate::stores::noise("more", 200_000).into() };
    apply(&store, &put).unwrap();
    assert_eq!(read(&store).unwrap().0["more"].versions.len(), 1);
    assert_eq!(fs::read(packs.join("notes.txt")).unwrap(), b"hello");
}

/// What a read has found to be damaged is not taken for stored by the next put.
#[test]
fn putting_the_same_again_heals_what_a_get_has_found_damaged() {
    let fixture = Fixture::new();
    let payload = fixture.model.0["opaque"].versions[&1].clone();
    let mut seeded = Seeded::new("heal after get");
    for turn in 0..20 {
        let copy = fixture.copy();
        let pack = seeded.below(copy.packs().len() as u64) as usize;
        flip(&copy.packs()[pack], seeded.below(len(&copy, pack) * 8));
        let store = copy.open().unwrap();
        let _ = crate::stores::get(&store, "opaque", 1);
        apply(&store, &Op::Put { key: "opaque", label: None, payload: payload.clone() }).unwrap();
        assert!(crate::stores::get(&store, "opaque", 2).unwrap() == *payload.0, "turn {turn}");
    }
}

/// Nor is what `verify` has found damaged and no version reaches any more.
#[test]
fn putting_what_was_removed_again_does_not_rely_on_damage() {
    let fixture = Fixture::new();
    let payload = noise("gone", 20_000);
    for pack in 0..fixture.copy().packs().len() {
        let copy = fixture.copy();
        let path = &copy.packs()[pack];
        let mut bytes = fs::read(path).unwrap();
        bytes[64..].iter_mut().step_by(512).for_each(|byte| *byte ^= 1);
        fs::write(path, bytes).unwrap();
        let store = copy.open().unwrap();
        assert!(!store.verify_all(&Monitor::none()).unwrap().ok);
        let put = Op::Put { key: "gone", label: None, payload: payload.clone().into() };
        apply(&store, &put).unwrap();
        let latest = store.log(&"gone".parse().unwrap()).unwrap().last().unwrap().version;
        assert!(crate::stores::get(&store, "gone", latest).unwrap() == payload, "pack {pack}");
    }
}
