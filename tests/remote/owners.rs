//! One store to a place: who may write there, who is refused, and what a damaged or missing catalogue does.

use std::sync::Arc;

use caskad::backend::{ObjectBackend, ObjectOptions, StorageBackend};
use caskad::store::IndexPlace;
use caskad::{Error, Store};

use crate::fault::Faults;
use crate::stores::{Op, apply, get, noise, options, read};

fn owner(name: &str) -> ObjectOptions {
    ObjectOptions { place: "memory".to_owned(), owner: name.to_owned(), ..ObjectOptions::default() }
}

fn store(faults: &Faults, settings: ObjectOptions) -> Result<Store, Error> {
    let backend = ObjectBackend::open(faults.operator(), settings)?;
    options(64 << 10).open_backend(Arc::new(backend), IndexPlace::Memory)
}

fn put(label: &str) -> Op {
    Op::Put { key: "k", label: None, payload: noise(label, 30_000).into() }
}

#[test]
fn a_place_is_one_stores_until_another_takes_it_over() {
    let faults = Faults::new();
    let first = store(&faults, owner("first")).unwrap();
    apply(&first, &put("one")).unwrap();
    let refused = store(&faults, owner("second")).unwrap_err();
    assert!(matches!(&refused, Error::NotAStore { why, .. } if why.contains("--take-over")), "{refused}");
    let second = store(&faults, ObjectOptions { take_over: true, ..owner("second") }).unwrap();
    assert_eq!(get(&second, "k", 1).unwrap(), noise("one", 30_000));
    apply(&second, &put("two")).unwrap();
    // The one that was there before learns of it before anything of its own is acknowledged.
    let refused = apply(&first, &put("three")).unwrap_err().to_string();
    assert!(refused.contains("taken the store over"), "{refused}");
    drop(first);
    assert!(store(&faults, owner("first")).is_err());
    drop(second);
    let second = store(&faults, owner("second")).unwrap();
    assert_eq!(get(&second, "k", 2).unwrap(), noise("two", 30_000));
    assert_eq!(read(&second).unwrap().0["k"].versions.len(), 2);
}

#[test]
fn of_two_that_open_one_store_the_one_that_writes_first_goes_on() {
    let faults = Faults::new();
    let one = store(&faults, owner("us")).unwrap();
    apply(&one, &put("one")).unwrap();
    drop(one);
    let (one, two) = (store(&faults, owner("us")).unwrap(), store(&faults, owner("us")).unwrap());
    apply(&one, &put("two")).unwrap();
    assert!(apply(&two, &put("three")).unwrap_err().to_string().contains("taken the store over"));
    apply(&one, &put("four")).unwrap();
    assert_eq!(get(&store(&faults, owner("us")).unwrap(), "k", 3).unwrap(), noise("four", 30_000));
}

#[test]
fn a_place_that_is_gone_or_damaged_is_not_taken_for_a_new_one() {
    let faults = Faults::new();
    apply(&store(&faults, owner("us")).unwrap(), &put("one")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let catalogue = runtime.block_on(faults.operator().read("catalogue")).unwrap().to_vec();
    let mut damaged = catalogue.clone();
    damaged[100] ^= 1;
    runtime.block_on(faults.operator().write("catalogue", damaged)).unwrap();
    assert!(matches!(store(&faults, owner("us")), Err(Error::Damaged { what: "catalogue", .. })));
    runtime.block_on(faults.operator().delete("catalogue")).unwrap();
    let refused = store(&faults, owner("us")).unwrap_err().to_string();
    assert!(refused.contains("parts of objects but no catalogue"), "{refused}");
    let refused = store(&Faults::new(), ObjectOptions { existing: true, ..owner("us") }).unwrap_err().to_string();
    assert!(refused.contains("catalogue is gone"), "{refused}");
    runtime.block_on(faults.operator().write("catalogue", catalogue)).unwrap();
    assert_eq!(get(&store(&faults, owner("us")).unwrap(), "k", 1).unwrap(), noise("one", 30_000));
}

#[test]
fn a_part_that_is_gone_costs_what_was_in_it_and_no_more() {
    let faults = Faults::new();
    let store_ = store(&faults, owner("us")).unwrap();
    apply(&store_, &put("one")).unwrap();
    apply(&store_, &put("two")).unwrap();
    drop(store_);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let parts: Vec<String> = faults.paths().into_iter().filter(|path| path.starts_with("objects/")).collect();
    assert_eq!(parts.len(), 2);
    let index = tempfile::tempdir().unwrap();
    let open = || {
        let backend = ObjectBackend::open(faults.operator(), owner("us")).unwrap();
        options(1 << 20).open_backend(Arc::new(backend), IndexPlace::File(index.path().join("index.redb"))).unwrap()
    };
    drop(open());
    runtime.block_on(faults.operator().delete(&parts[0])).unwrap();
    let opened = open();
    let report = opened.verify_all(&caskad::Monitor::none()).unwrap();
    assert!(!report.ok);
    assert!(matches!(get(&opened, "k", 1), Err(Error::Damaged { .. })));
    assert_eq!(get(&opened, "k", 2).unwrap(), noise("two", 30_000));
}

#[test]
fn read_only_means_that_nothing_is_written_there() {
    let faults = Faults::new();
    apply(&store(&faults, owner("us")).unwrap(), &put("one")).unwrap();
    let before = faults.made();
    let backend = ObjectBackend::open(faults.operator(), ObjectOptions { read_only: true, ..owner("us") }).unwrap();
    assert_eq!(backend.list("p-").unwrap().len(), 1);
    assert!(backend.create("p-2").is_err());
    assert_eq!(faults.made(), before);
    let nothing = ObjectBackend::open(Faults::new().operator(), ObjectOptions { read_only: true, ..owner("us") });
    assert!(nothing.is_err());
}
