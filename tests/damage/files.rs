//! The small files of a store's directory.

use std::fs;

use caskad::{Error, Monitor, Store};

use crate::fixture::{Fixture, flip};
use crate::stores::{Op, apply};

#[test]
fn the_lock_file_may_hold_anything_or_be_gone() {
    let fixture = Fixture::new();
    for damage in [Some(&b""[..]), Some(b"not a number"), Some(&[0xFF; 5000]), None] {
        let copy = fixture.copy();
        match damage {
            Some(bytes) => fs::write(copy.path.join("LOCK"), bytes).unwrap(),
            None => fs::remove_file(copy.path.join("LOCK")).unwrap(),
        }
        copy.assert_whole(&fixture.model, "LOCK");
    }
}

#[test]
fn a_second_opener_is_told_who_has_the_store() {
    let fixture = Fixture::new();
    let copy = fixture.copy();
    let store = copy.open().unwrap();
    match copy.open() {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    assert!(matches!(caskad::StoreOptions::new().read_only(true).open(&copy.path), Err(Error::Locked { .. })));
    // Without its lock file the directory itself still tells that it is in use.
    fs::remove_file(copy.path.join("LOCK")).unwrap();
    assert!(matches!(copy.open(), Err(Error::Locked { .. })));
    assert!(matches!(caskad::StoreOptions::new().read_only(true).open(&copy.path), Err(Error::Locked { .. })));
    assert!(copy.index().exists(), "it was not replaced under its owner");
    drop(store);
    let readers = [0, 1].map(|_| caskad::StoreOptions::new().read_only(true).open(&copy.path).unwrap());
    match copy.open() {
        Err(Error::Locked { pid, .. }) => {
            assert_eq!(pid, None, "readers leave no number, and an old one would mislead")
        }
        other => panic!("{other:?}"),
    }
    drop(readers);
    copy.assert_whole(&fixture.model, "after the readers");
}

#[test]
fn damaged_settings_are_reported_and_the_defaults_hold() {
    let fixture = Fixture::new();
    for text in ["pack_bytes = 7", "threads = 0", "unknown = 1", "pack_bytes = ", "\u{0}\u{1}"] {
        let copy = fixture.copy();
        fs::write(copy.path.join("config.toml"), text).unwrap();
        let store = Store::open(&copy.path).unwrap();
        assert!(store.config_damage().is_some(), "{text:?}");
        let report = store.verify_all(&Monitor::none()).unwrap();
        assert_eq!(report.damaged.iter().map(|damage| damage.what).collect::<Vec<_>>(), ["config"], "{text:?}");
        assert!(crate::stores::read(&store).unwrap() == fixture.model.visible());
    }
    let copy = fixture.copy();
    fs::write(copy.path.join("config.toml"), [0xFF, 0xFE, 0x00]).unwrap();
    assert!(Store::open(&copy.path).unwrap().config_damage().is_some());
}

#[test]
fn damaged_settings_that_may_name_a_backend_make_no_store_of_files() {
    let fixture = Fixture::new();
    let texts: [&[u8]; 5] = [
        b"backend = \"s3://b/p\"\nunknown = 1",
        b"backnd = \"s3://b/p\"",
        b"backend = \"s3://b/p\"\nthreads = ",
        b"\xFF \n \"backend\" = \"memory:\"",
        b"b\0a\0c\0k\0e\0n\0d\0 \0=\0",
    ];
    for text in texts {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.toml"), text).unwrap();
        let refused = Store::open(dir.path()).unwrap_err();
        let message = refused.to_string();
        assert!(matches!(refused, Error::Input { .. }), "{message}");
        assert!(message.contains("config.toml: ") && message.contains("--backend URL"), "{message}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made of it");
        // The place can be said; and where packs are already, it is known.
        assert!(caskad::StoreOptions::new().backend_url("files:").open(dir.path()).is_ok());
        let copy = fixture.copy();
        fs::write(copy.path.join("config.toml"), text).unwrap();
        let store = Store::open(&copy.path).unwrap();
        assert!(store.config_damage().is_some() && crate::stores::read(&store).unwrap() == fixture.model.visible());
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), "unknown = 1 # backend").unwrap();
    assert!(Store::open(dir.path()).is_ok());
}

#[test]
fn a_damaged_format_file_is_mended_or_refused_in_words() {
    let fixture = Fixture::new();
    let len = fs::metadata(fixture.copy().path.join("format")).unwrap().len();
    for bit in 0..8 * len {
        let copy = fixture.copy();
        flip(&copy.path.join("format"), bit);
        match copy.open() {
            Ok(store) => assert!(crate::stores::read(&store).unwrap() == fixture.model.visible(), "bit {bit}"),
            Err(Error::NewerFormat { found, supported, .. }) => assert!(found > supported, "bit {bit}"),
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }
    for damage in [Some(&b""[..]), Some(b"caskad"), Some(&[0xFF; 100]), None] {
        let copy = fixture.copy();
        match damage {
            Some(bytes) => fs::write(copy.path.join("format"), bytes).unwrap(),
            None => fs::remove_file(copy.path.join("format")).unwrap(),
        }
        copy.assert_whole(&fixture.model, "format");
        assert_eq!(fs::read(copy.path.join("format")).unwrap(), b"caskad 2\n", "as if there were deltas");
    }
}

#[test]
fn a_store_on_a_medium_that_cannot_be_written_to_is_read_all_the_same() {
    let fixture = Fixture::new();
    for (what, lose) in [("as it was", ""), ("without index", "index.journal"), ("without lock", "LOCK")] {
        let copy = fixture.copy();
        if !lose.is_empty() {
            fs::remove_file(copy.path.join(lose)).unwrap();
        }
        let before = listing(&copy.path);
        let store = caskad::StoreOptions::new().read_only(true).open(&copy.path).unwrap();
        assert!(crate::stores::read(&store).unwrap() == fixture.model.visible(), "{what}");
        assert!(store.verify_all(&Monitor::none()).unwrap().ok, "{what}");
        store.stat().unwrap();
        for op in [
            Op::Put { key: "x", label: None, payload: vec![1].into() },
            Op::Remove("text", 1),
            Op::Gc,
            Op::Tag("m", 1, "x"),
        ] {
            assert!(matches!(apply(&store, &op), Err(Error::ReadOnly { .. })), "{what}: {op:?}");
        }
        drop(store);
        assert_eq!(listing(&copy.path), before, "{what}: something was changed");
    }
    let copy = fixture.copy();
    for (bit, name) in [(8 * 500, "index.journal"), (8 * 1000, "index.journal")] {
        flip(&copy.path.join(name), bit);
    }
    let store = caskad::StoreOptions::new().read_only(true).open(&copy.path).unwrap();
    assert!(crate::stores::read(&store).unwrap() == fixture.model.visible(), "with a damaged index");
}

fn listing(path: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in [path.to_owned(), path.join("packs")] {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                files.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.sort();
    files
}
