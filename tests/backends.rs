//! One conformance suite that every storage backend passes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::io::ErrorKind;
use std::sync::Arc;

use caskad::backend::testing::FaultDisk;
use caskad::backend::{FileBackend, MemoryBackend, StorageBackend, conformance};
use caskad::{Monitor, Payload, PutOptions, Store, StoreOptions};

#[test]
fn files_conform() {
    let directory = tempfile::tempdir().unwrap();
    let mut count = 0;
    conformance::check(|| {
        count += 1;
        let path = directory.path().join(count.to_string());
        std::fs::create_dir(&path).unwrap();
        FileBackend::new(path)
    });
}

#[test]
fn memory_conforms() {
    conformance::check(MemoryBackend::new);
}

#[test]
fn the_fault_disk_conforms() {
    conformance::check(FaultDisk::new);
}

#[cfg(feature = "remote")]
#[test]
fn an_object_store_conforms() {
    use caskad::backend::{ObjectBackend, ObjectOptions};
    let memory = || opendal::Operator::new(opendal::services::Memory::default()).unwrap().finish();
    conformance::check(|| ObjectBackend::open(memory(), ObjectOptions::default()).unwrap());
}

#[test]
fn files_that_are_no_objects_do_not_disturb() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path());
    std::fs::create_dir(directory.path().join("p-directory")).unwrap();
    std::fs::write(directory.path().join("elsewhere"), b"moved").unwrap();
    std::os::unix::fs::symlink("elsewhere", directory.path().join("p-link")).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("p-dangling")).unwrap();
    let listed = backend.list("p-").unwrap();
    assert_eq!(listed.iter().map(|object| (&*object.name, object.len)).collect::<Vec<_>>(), [("p-link", 5)]);
    for bad in ["", "../p", "a/b", ".hidden"] {
        assert_eq!(backend.create(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(backend.open(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
}

#[test]
fn a_store_keeps_its_packs_where_it_is_told_to() {
    let put = |store: &Store| {
        let weights = b"some weights ".repeat(500);
        let (key, payload) = ("k".parse().unwrap(), Payload::bytes("w", &weights));
        store.put(&key, payload, &PutOptions::default(), &Monitor::none()).unwrap().version
    };
    let dir = tempfile::tempdir().unwrap();
    let (own, shelf) = (dir.path().join("own"), Arc::new(MemoryBackend::new()));
    for version in 1..=2 {
        let store = StoreOptions::new().backend(shelf.clone()).open(&own).unwrap();
        assert_eq!(put(&store), version, "the index goes on in the directory");
    }
    assert_eq!(shelf.list("p-").unwrap().len(), 1);
    let memory = dir.path().join("memory");
    for _ in 0..2 {
        let store = StoreOptions::new().backend_url("memory:").open(&memory).unwrap();
        assert_eq!(put(&store), 1, "what is in memory ends with the store");
        assert!(store.leases().unwrap().all().is_empty());
    }
    let files = dir.path().join("files");
    put(&Store::open(&files).unwrap());
    let refused = StoreOptions::new().backend_url("memory:").open(&files).unwrap_err().to_string();
    assert!(refused.contains("its packs are in files:"), "{refused}");
    assert_eq!(put(&StoreOptions::new().backend_url("files:").open(&files).unwrap()), 2);
}
