//! What every [`StorageBackend`] must do, as checks to run against one: `conformance::check(|| my_backend())` in a test of yours.
//!
//! The checks panic where a backend does not keep a promise, and say which. What they cannot show is that bytes survive a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is a test, wherever it is run")]

use std::io::ErrorKind;
use std::sync::Arc;

use crate::backend::{ObjectReader, ObjectWriter, StorageBackend};

/// Runs every check, each on a backend of its own. `empty` makes one that holds nothing.
///
/// # Panics
///
/// Where the backend breaks a promise.
pub fn check<B: StorageBackend>(mut empty: impl FnMut() -> B) {
    type Check = fn(&dyn StorageBackend);
    let checks: [Check; 9] = [
        an_object_is_created_once_and_grows_by_what_is_appended,
        a_read_gives_what_there_is_and_no_more,
        an_object_continues_where_it_is_told_to,
        an_object_is_cut_at_any_length,
        a_list_is_in_order_of_name_and_holds_the_prefix_only,
        a_deleted_object_stays_readable_and_its_name_is_free,
        a_sync_may_run_beside_appends,
        an_object_of_many_megabytes_is_read_at_any_place,
        many_read_at_a_time,
    ];
    checks.iter().for_each(|check| check(&empty()));
}

fn all(reader: &dyn ObjectReader) -> Vec<u8> {
    let mut bytes = vec![0xEE; reader.len().unwrap() as usize];
    assert_eq!(reader.read_at(0, &mut bytes).unwrap(), bytes.len(), "a read of all gives all");
    bytes
}

/// Bytes that no two places share.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(len / 8 + 1).flatten().collect();
    bytes.truncate(len);
    bytes
}

/// `resume`, unless the backend cannot, which it says without doing harm.
fn resume(backend: &dyn StorageBackend, name: &str, len: u64) -> Option<Arc<dyn ObjectWriter>> {
    match backend.resume(name, len) {
        Err(error) if error.kind() == ErrorKind::Unsupported => None,
        resumed => Some(resumed.unwrap()),
    }
}

fn an_object_is_created_once_and_grows_by_what_is_appended(backend: &dyn StorageBackend) {
    let writer = backend.create("p-1").unwrap();
    assert!(backend.open("p-1").unwrap().is_empty().unwrap());
    writer.append(b"one").unwrap();
    writer.append(b"").unwrap();
    writer.append(b" two").unwrap();
    writer.sync().unwrap();
    writer.sync().unwrap();
    writer.append(b" three").unwrap();
    writer.start_writing(7, 6);
    let reader = backend.open("p-1").unwrap();
    assert_eq!(all(&*reader), b"one two three", "what is appended is read back before any sync");
    let again = backend.create("p-1").unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
    assert_eq!(all(&*backend.open("p-1").unwrap()), b"one two three", "a refused create does no harm");
    writer.append(b".").unwrap();
    assert_eq!(reader.len().unwrap(), 14, "a reader sees the object grow");
    assert_eq!(backend.list("p-").unwrap()[0].len, 14, "and so does a list");
    assert_eq!(backend.open("p-2").unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_read_gives_what_there_is_and_no_more(backend: &dyn StorageBackend) {
    let writer = backend.create("p").unwrap();
    writer.append(b"01234").unwrap();
    writer.sync().unwrap();
    writer.append(b"56789").unwrap();
    let reader = backend.open("p").unwrap();
    for (offset, wanted, expected) in
        [(0, 10, "0123456789"), (3, 4, "3456"), (8, 5, "89"), (10, 3, ""), (11, 1, ""), (1 << 40, 1, ""), (2, 0, "")]
    {
        let mut buffer = vec![b'x'; wanted];
        let n = reader.read_at(offset, &mut buffer).unwrap();
        assert_eq!(&buffer[..n], expected.as_bytes(), "{wanted} bytes at {offset}");
        assert!(buffer[n..].iter().all(|&byte| byte == b'x'), "the rest of the buffer is left alone");
    }
}

fn an_object_continues_where_it_is_told_to(backend: &dyn StorageBackend) {
    let writer = backend.create("p").unwrap();
    writer.append(b"kept and ").unwrap();
    writer.sync().unwrap();
    writer.append(b"dropped").unwrap();
    drop(writer);
    let Some(writer) = resume(backend, "p", 4) else { return };
    assert_eq!(all(&*backend.open("p").unwrap()), b"kept", "what follows is gone at once");
    writer.append(b" on").unwrap();
    writer.sync().unwrap();
    assert_eq!(all(&*backend.open("p").unwrap()), b"kept on");
    drop(writer);
    let writer = resume(backend, "p", 7).unwrap();
    writer.append(b"!").unwrap();
    writer.sync().unwrap();
    assert_eq!(all(&*backend.open("p").unwrap()), b"kept on!");
    drop(writer);
    assert_eq!(backend.resume("p", 9).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(all(&*backend.open("p").unwrap()), b"kept on!", "a refused resume does no harm");
    assert_eq!(backend.resume("q", 0).unwrap_err().kind(), ErrorKind::NotFound);
}

fn an_object_is_cut_at_any_length(backend: &dyn StorageBackend) {
    let writer = backend.create("p").unwrap();
    for piece in [b"0123", b"4567", b"89ab"] {
        writer.append(piece).unwrap();
        writer.sync().unwrap();
    }
    drop(writer);
    for (len, expected) in [(12, "0123456789ab+"), (10, "0123456789+"), (8, "01234567+"), (3, "012+"), (0, "+")] {
        let Some(writer) = resume(backend, "p", len) else { return };
        writer.append(b"+").unwrap();
        writer.sync().unwrap();
        assert_eq!(all(&*backend.open("p").unwrap()), expected.as_bytes());
        assert_eq!(backend.list("p").unwrap()[0].len, expected.len() as u64);
    }
}

fn a_list_is_in_order_of_name_and_holds_the_prefix_only(backend: &dyn StorageBackend) {
    for (name, len) in [("p-2", 2), ("q-1", 1), ("p-1", 3), ("p-10", 0), ("p", 5)] {
        backend.create(name).unwrap().append(&vec![0; len]).unwrap();
    }
    let list = |prefix: &str| -> Vec<(String, u64)> {
        backend.list(prefix).unwrap().into_iter().map(|object| (object.name, object.len)).collect()
    };
    // What was never synced need not be there any more; names are.
    let names = |prefix: &str| list(prefix).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("p-"), ["p-1", "p-10", "p-2"]);
    assert_eq!(list("").len(), 5);
    assert_eq!(list("z"), []);
}

fn a_deleted_object_stays_readable_and_its_name_is_free(backend: &dyn StorageBackend) {
    let writer = backend.create("p").unwrap();
    writer.append(b"first").unwrap();
    writer.sync().unwrap();
    drop(writer);
    let reader = backend.open("p").unwrap();
    backend.delete("p").unwrap();
    assert_eq!(all(&*reader), b"first", "those who hold it go on reading");
    assert_eq!(backend.open("p").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(backend.delete("p").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(backend.list("").unwrap(), []);
    let writer = backend.create("p").unwrap();
    writer.append(b"second").unwrap();
    writer.sync().unwrap();
    assert_eq!((all(&*reader), all(&*backend.open("p").unwrap())), (b"first".to_vec(), b"second".to_vec()));
    drop(reader);
    assert_eq!(all(&*backend.open("p").unwrap()), b"second", "what was deleted takes nothing of its namesake along");
}

fn a_sync_may_run_beside_appends(backend: &dyn StorageBackend) {
    let writer = backend.create("p").unwrap();
    std::thread::scope(|scope| {
        let syncing = Arc::clone(&writer);
        scope.spawn(move || (0..20).for_each(|_| syncing.sync().unwrap()));
        (0..200_u8).for_each(|byte| writer.append(&[byte; 100]).unwrap());
    });
    let expected: Vec<u8> = (0..200_u8).flat_map(|byte| [byte; 100]).collect();
    assert_eq!(all(&*backend.open("p").unwrap()), expected);
}

fn an_object_of_many_megabytes_is_read_at_any_place(backend: &dyn StorageBackend) {
    let bytes = noise(37_000_003);
    let writer = backend.create("p").unwrap();
    for (nth, piece) in bytes.chunks(1 << 20).enumerate() {
        writer.append(piece).unwrap();
        if nth == 20 {
            writer.sync().unwrap();
        }
    }
    let reader = backend.open("p").unwrap();
    assert!(all(&*reader) == bytes, "before it is synced whole");
    writer.sync().unwrap();
    drop(writer);
    let mut place = 0;
    for len in [1, 1000, 65_536, 1 << 20, 3 << 20, 9 << 20] {
        for _ in 0..8 {
            place = (place * 5 + 7_654_321) % bytes.len();
            let expected = &bytes[place..bytes.len().min(place + len)];
            let mut buffer = vec![0; len];
            let n = reader.read_at(place as u64, &mut buffer).unwrap();
            assert!(&buffer[..n] == expected, "{len} bytes at {place}");
        }
    }
    assert!(all(&*backend.open("p").unwrap()) == bytes);
}

fn many_read_at_a_time(backend: &dyn StorageBackend) {
    let bytes = noise(6_000_000);
    let writer = backend.create("p").unwrap();
    writer.append(&bytes).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let reader = backend.open("p").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (reader, bytes) = (&reader, &bytes);
            scope.spawn(move || {
                for nth in 0..60 {
                    let place = (thread * 1_500_000 + nth * 65_000) % bytes.len();
                    let expected = &bytes[place..bytes.len().min(place + 65_000)];
                    let mut buffer = vec![0; expected.len()];
                    assert_eq!(reader.read_at(place as u64, &mut buffer).unwrap(), expected.len());
                    assert!(buffer == expected, "65000 bytes at {place}");
                }
            });
        }
    });
}
