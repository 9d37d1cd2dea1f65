//! Places of a pack that the disk cannot read: they hold up nothing else, and what is there is not forgotten for good.

use std::sync::Arc;

use caskad::backend::StorageBackend;
use caskad::backend::testing::FaultDisk;
use caskad::store::IndexPlace;
use caskad::{Error, Store};

use crate::fixture::PACK_BYTES;
use crate::stores::{Model, Op, apply, get, noise, options, read};

const JOURNAL: &str = "index.journal";
const KEPT: [&str; 4] = ["kept-1", "kept-2", "kept-3", "kept-4"];
const GONE: [&str; 4] = ["gone-1", "gone-2", "gone-3", "gone-4"];

fn open(disk: &FaultDisk) -> Result<Store, Error> {
    options(PACK_BYTES).open_backend(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone()))
}

/// A store with four packs that are mostly dead, and one that is not.
fn fixture() -> (FaultDisk, Model) {
    let (disk, mut model) = (FaultDisk::new(), Model::default());
    let put = |key, len| Op::Put { key, label: None, payload: noise(key, len).into() };
    let puts = KEPT.into_iter().zip(GONE).flat_map(|(kept, gone)| [put(kept, 10_000), put(gone, 60_000)]);
    let store = open(&disk).unwrap();
    for op in puts.chain(GONE.map(|gone| Op::Remove(gone, 1))) {
        apply(&store, &op).unwrap();
        model.apply(&op).unwrap();
    }
    drop(store);
    (disk, model)
}

fn packs(disk: &FaultDisk) -> Vec<String> {
    disk.list("p-").unwrap().into_iter().map(|object| object.name).collect()
}

#[test]
fn a_collection_keeps_a_pack_that_cannot_be_read_and_goes_on() {
    let (disk, model) = fixture();
    let before = packs(&disk);
    assert!(before.len() > 4, "{before:?}");
    disk.wear_out(&before[0], 5000..5001).unwrap();
    let store = open(&disk).unwrap();
    apply(&store, &Op::Gc).unwrap();
    let after = packs(&disk);
    assert_eq!(before.iter().filter(|pack| after.contains(pack)).collect::<Vec<_>>(), [&before[0]]);
    assert!(get(&store, KEPT[0], 1).is_err());
    for kept in &KEPT[1..] {
        assert!(get(&store, kept, 1).unwrap() == noise(kept, 10_000), "{kept}");
    }
    disk.wear_out(&before[0], 0..0).unwrap();
    assert!(read(&store).unwrap() == model.visible(), "nothing was let go");
    apply(&store, &Op::Gc).unwrap();
    assert!(!packs(&disk).contains(&before[0]));
    assert!(read(&store).unwrap() == model.visible());
}

/// What can be read is there, what cannot is not forgotten for good, and nothing is collected until all is known.
fn assert_steps_over(disk: &FaultDisk, pack: &str, at: u64, model: &Model, context: &str) {
    disk.wear_out(pack, at..at + 1).unwrap();
    for turn in 0..2 {
        let store = open(disk).unwrap_or_else(|error| panic!("{context}, turn {turn}: {error}"));
        let whole = KEPT.iter().filter(|kept| get(&store, kept, 1).is_ok_and(|bytes| bytes == noise(kept, 10_000)));
        assert!(whole.count() >= KEPT.len() - 1, "{context}, turn {turn}");
        let gc = apply(&store, &Op::Gc).unwrap_err();
        assert!(gc.to_string().contains(pack), "{context}, turn {turn}: {gc}");
    }
    disk.wear_out(pack, 0..0).unwrap();
    let store = open(disk).unwrap_or_else(|error| panic!("{context}, readable again: {error}"));
    assert!(read(&store).unwrap() == model.visible(), "{context}: readable again");
    apply(&store, &Op::Gc).unwrap_or_else(|error| panic!("{context}, readable again: {error}"));
    assert!(read(&store).unwrap() == model.visible(), "{context}: after gc");
}

#[test]
fn an_index_is_built_anew_around_what_cannot_be_read() {
    let names = packs(&fixture().0);
    for pack in &names {
        let len = fixture().0.with_object(pack, |bytes| bytes.len()).unwrap() as u64;
        for at in (0..len).step_by(7001).chain([len - 1]) {
            let (disk, model) = fixture();
            disk.with_object(JOURNAL, Vec::clear).unwrap();
            assert_steps_over(&disk, pack, at, &model, &format!("{pack}, byte {at}"));
        }
    }
}

/// The index is one from before the last puts: they are the tail of the log.
#[test]
fn a_tail_that_cannot_be_read_is_not_cut() {
    let (disk, _) = fixture();
    let newest = packs(&disk).pop().unwrap();
    let covered = disk.with_object(&newest, |bytes| bytes.len()).unwrap() as u64;
    for behind in [0, 57, 4000, 9000, 15_000] {
        let (disk, mut model) = fixture();
        let yesterday = disk.with_object(JOURNAL, |bytes| bytes.clone()).unwrap();
        let op = Op::Put { key: "late", label: None, payload: noise("late", 20_000).into() };
        apply(&open(&disk).unwrap(), &op).unwrap();
        model.apply(&op).unwrap();
        disk.with_object(JOURNAL, |bytes| *bytes = yesterday).unwrap();
        assert_steps_over(&disk, &newest, covered + behind, &model, &format!("{behind} bytes into the tail"));
    }
}
