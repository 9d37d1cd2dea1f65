//! One conformance suite that every storage backend passes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::io::ErrorKind;

use caskad::backend::testing::FaultDisk;
use caskad::backend::{FileBackend, MemoryBackend, StorageBackend, conformance};

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
