//! One conformance suite that every storage backend passes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::io::ErrorKind;
use std::sync::Arc;

use caskad::backend::testing::FaultDisk;
use caskad::backend::{FileBackend, MemoryBackend, ObjectReader, StorageBackend};

fn on_every_backend(test: impl Fn(&dyn StorageBackend)) {
    let directory = tempfile::tempdir().unwrap();
    for backend in
        [&FileBackend::new(directory.path()) as &dyn StorageBackend, &MemoryBackend::new(), &FaultDisk::new()]
    {
        test(backend);
    }
}

fn all(reader: &dyn ObjectReader) -> Vec<u8> {
    let mut bytes = vec![0xEE; reader.len().unwrap() as usize];
    assert_eq!(reader.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

#[test]
fn an_object_is_created_once_and_grows_by_what_is_appended() {
    on_every_backend(|backend| {
        let writer = backend.create("p-1").unwrap();
        assert!(backend.open("p-1").unwrap().is_empty().unwrap());
        writer.append(b"one").unwrap();
        writer.append(b"").unwrap();
        writer.append(b" two").unwrap();
        writer.sync().unwrap();
        writer.append(b" three").unwrap();
        let reader = backend.open("p-1").unwrap();
        assert_eq!(all(&*reader), b"one two three", "{backend:?}: what is appended is read back before any sync");
        let again = backend.create("p-1").unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{backend:?}");
        assert_eq!(all(&*backend.open("p-1").unwrap()), b"one two three", "{backend:?}: a refused create does no harm");
        writer.append(b".").unwrap();
        assert_eq!(reader.len().unwrap(), 14, "{backend:?}: a reader sees the object grow");
    });
}

#[test]
fn a_read_gives_what_there_is_and_no_more() {
    on_every_backend(|backend| {
        backend.create("p").unwrap().append(b"0123456789").unwrap();
        let reader = backend.open("p").unwrap();
        for (offset, wanted, expected) in [
            (0, 10, "0123456789"),
            (3, 4, "3456"),
            (8, 5, "89"),
            (10, 3, ""),
            (11, 1, ""),
            (1 << 40, 1, ""),
            (2, 0, ""),
        ] {
            let mut buffer = vec![b'x'; wanted];
            let n = reader.read_at(offset, &mut buffer).unwrap();
            assert_eq!(&buffer[..n], expected.as_bytes(), "{backend:?} at {offset}");
            assert!(buffer[n..].iter().all(|&byte| byte == b'x'), "{backend:?}: the rest of the buffer is left alone");
        }
    });
}

#[test]
fn an_object_continues_where_it_is_told_to() {
    on_every_backend(|backend| {
        backend.create("p").unwrap().append(b"kept and dropped").unwrap();
        let writer = backend.resume("p", 4).unwrap();
        assert_eq!(all(&*backend.open("p").unwrap()), b"kept", "{backend:?}: what follows is gone at once");
        writer.append(b" on").unwrap();
        writer.sync().unwrap();
        assert_eq!(all(&*backend.open("p").unwrap()), b"kept on");
        backend.resume("p", 7).unwrap().append(b"!").unwrap();
        assert_eq!(all(&*backend.open("p").unwrap()), b"kept on!");
        assert_eq!(backend.resume("p", 9).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{backend:?}");
        assert_eq!(all(&*backend.open("p").unwrap()), b"kept on!", "{backend:?}: a refused resume does no harm");
        assert_eq!(backend.resume("q", 0).unwrap_err().kind(), ErrorKind::NotFound, "{backend:?}");
    });
}

#[test]
fn a_list_is_in_order_of_name_and_holds_the_prefix_only() {
    on_every_backend(|backend| {
        for (name, len) in [("p-2", 2), ("q-1", 1), ("p-1", 3), ("p-10", 0), ("p", 5)] {
            backend.create(name).unwrap().append(&vec![0; len]).unwrap();
        }
        let list = |prefix: &str| -> Vec<(String, u64)> {
            backend.list(prefix).unwrap().into_iter().map(|object| (object.name, object.len)).collect()
        };
        let own = |names: &[(&str, u64)]| names.iter().map(|&(name, len)| (name.to_owned(), len)).collect::<Vec<_>>();
        assert_eq!(list("p-"), own(&[("p-1", 3), ("p-10", 0), ("p-2", 2)]), "{backend:?}");
        assert_eq!(list("").len(), 5);
        assert_eq!(list("z"), []);
    });
}

#[test]
fn a_deleted_object_stays_readable_for_those_who_hold_it_and_its_name_is_free() {
    on_every_backend(|backend| {
        backend.create("p").unwrap().append(b"first").unwrap();
        let reader = backend.open("p").unwrap();
        backend.delete("p").unwrap();
        assert_eq!(all(&*reader), b"first", "{backend:?}");
        assert_eq!(backend.open("p").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(backend.delete("p").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(backend.list("").unwrap(), []);
        backend.create("p").unwrap().append(b"second").unwrap();
        assert_eq!((all(&*reader), all(&*backend.open("p").unwrap())), (b"first".to_vec(), b"second".to_vec()));
    });
}

#[test]
fn a_sync_may_run_beside_appends() {
    on_every_backend(|backend| {
        let writer = backend.create("p").unwrap();
        std::thread::scope(|scope| {
            let syncing = Arc::clone(&writer);
            scope.spawn(move || (0..20).for_each(|_| syncing.sync().unwrap()));
            (0..200_u8).for_each(|byte| writer.append(&[byte; 100]).unwrap());
        });
        let expected: Vec<u8> = (0..200_u8).flat_map(|byte| [byte; 100]).collect();
        assert_eq!(all(&*backend.open("p").unwrap()), expected);
    });
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
