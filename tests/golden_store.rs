//! Golden bytes of what a store writes, and a store of each released format that every later version must open.
//!
//! `CASKAD_REGENERATE=1 cargo test --test golden_store` writes the golden files anew. A changed one is a changed format: that takes a
//! new format version and a new fixture beside the old ones, which are never regenerated once released.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

mod formats;
mod stores;

use std::fs;
use std::path::{Path, PathBuf};

use caskad::chunk::Codec;
use caskad::codec::{Decoder, Effort, Encoder};
use caskad::manifest::{Contents, FileKind, Manifest};
use caskad::refs::{Entity, RefChange, RefRecord};
use caskad::store::pack::{PACK_HEADER_BYTES, Record, check_pack_header, pack_header, parse_record, split_base};
use caskad::store::{ArchiveReader, Entry, Position, RecordKind, archive_header};
use caskad::{GcOptions, Hash, ImportOptions, Monitor, Store, StoreOptions};

use formats::{Tensor, safetensors};
use stores::{Model, Op, apply, assert_sound, at, get, noise, options, read};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store")
}

fn regenerate() -> bool {
    std::env::var_os("CASKAD_REGENERATE").is_some_and(|value| value == "1")
}

/// Compares the golden file `name` with `expected`, or writes it.
fn check(name: &str, expected: &[u8]) {
    let path = folder().join(name);
    if regenerate() {
        fs::create_dir_all(folder()).unwrap();
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; regenerate it on purpose", path.display()));
    assert!(found == expected, "{name} is not what this version writes: a format change takes a new version");
}

#[test]
fn a_pack_begins_with_its_header() {
    check("pack-header.bin", &pack_header(7));
    let golden = fs::read(folder().join("pack-header.bin")).unwrap();
    assert_eq!(golden.len(), PACK_HEADER_BYTES);
    check_pack_header(&golden, 7).unwrap();
    assert!(check_pack_header(&golden, 8).is_err());
}

/// A golden record: its file's name, what it holds, its stored and its plain bytes.
type Golden = (&'static str, RecordKind, Codec, Vec<u8>, Vec<u8>);

/// A record of each kind.
fn records() -> Vec<Golden> {
    let text = "caskad keeps every version at the price of what changed\n".repeat(20).into_bytes();
    let mut frame = Vec::new();
    assert_eq!(Encoder::new(Effort::Default).encode_frame(&text, &mut frame), Codec::Zstd);
    let weights: Vec<u8> = (0..300_u32).flat_map(|n| (1.0 + n as f32 / 1000.0).to_le_bytes()).collect();
    let mut planes = Vec::new();
    let codec = Encoder::new(Effort::Default).encode(&weights, caskad::chunk::ElementWidth::Four, &mut planes);
    assert_eq!(codec, Codec::Planes);
    let raw = noise("raw", 100);
    let key: caskad::Key = "team/model".parse().unwrap();
    let label = RefChange::Label { key: key.clone(), label: "best".parse().unwrap(), number: 3 };
    let label = RefRecord { seq: 9, change: label }.encode();
    let removal = RefRecord { seq: 10, change: RefChange::Removal(Entity::Version { key, number: 2 }) }.encode();
    vec![
        ("chunk-raw.bin", RecordKind::Chunk, Codec::Raw, raw.clone(), raw),
        ("chunk-zstd.bin", RecordKind::Chunk, Codec::Zstd, frame.clone(), text.clone()),
        ("chunk-planes.bin", RecordKind::Chunk, Codec::Planes, planes, weights),
        ("manifest.bin", RecordKind::Manifest, Codec::Zstd, frame, text),
        ("ref.bin", RecordKind::Ref, Codec::Raw, label.clone(), label),
        ("removal.bin", RecordKind::Removal, Codec::Raw, removal.clone(), removal),
    ]
}

#[test]
fn each_kind_of_record_is_written_and_read_as_ever() {
    for (name, kind, codec, payload, plain) in records() {
        let path = folder().join(name);
        // How well a codec does may change without a change of format: the golden payload stays, and must decode.
        let golden = if regenerate() { None } else { Some(fs::read(&path).expect("a golden record")) };
        let stored = golden.as_deref().map_or(payload, |golden| parse_record(golden).unwrap().1.to_vec());
        let (plain_len, hash) = (plain.len() as u32, Hash::of(&plain));
        let record = Record { kind, codec, depth: 0, base: None, plain_len, hash, payload: &stored };
        let mut bytes = Vec::new();
        let written = record.write(&mut bytes);
        check(name, &bytes);
        let (header, found) =
            parse_record(&fs::read(path).unwrap()).map(|(header, found)| (header, found.to_vec())).unwrap();
        assert_eq!(
            (header, header.kind, header.codec, header.plain_len, header.hash),
            (written, kind, codec, plain_len, hash)
        );
        assert_eq!((header.record_len(), header.depth, header.has_base), (bytes.len() as u64, 0, false));
        let mut decoded = Vec::new();
        match kind {
            RecordKind::Chunk => Decoder::new().decode(codec, &found, plain.len(), None, &mut decoded).unwrap(),
            RecordKind::Manifest => decoded = Decoder::new().decode_frame(&found, plain.len()).unwrap(),
            _ => decoded = found,
        }
        assert!(decoded == plain, "{name}");
    }
}

/// Weights after `step` steps of training, each of which moved all by a little: the smaller a weight, the more of its bits changed.
fn trained(step: u32) -> Vec<u8> {
    let numbers = |label: &str| noise(label, 2 * 3000).as_chunks::<2>().0.to_vec().into_iter().map(u16::from_le_bytes);
    let part = |number: u16| f32::from(number) / 65536.0 - 0.5;
    let mut weights: Vec<f32> = numbers("weights").map(|number| 4.0 * part(number) * part(number).abs()).collect();
    for step in 0..step {
        let moves = numbers(&format!("step {step}"));
        weights.iter_mut().zip(moves).for_each(|(weight, moved)| *weight += part(moved) / 2000.0);
    }
    weights.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[test]
fn a_record_with_a_base_names_it_before_its_payload() {
    let (base, plain) = (trained(1), trained(2));
    for (name, codec, effort) in
        [("chunk-delta.bin", Codec::Delta, Effort::Default), ("chunk-delta-ctx.bin", Codec::DeltaCtx, Effort::Compact)]
    {
        let path = folder().join(name);
        let mut payload = Vec::new();
        Encoder::new(effort).encode_against(&plain, caskad::chunk::ElementWidth::Four, &base, &mut payload);
        // As above: the golden payload stays, and must decode.
        if !regenerate() {
            let golden = fs::read(&path).expect("a golden record");
            payload = parse_record(&golden).unwrap().1[Hash::LEN..].to_vec();
        }
        let (kind, plain_len, hash) = (RecordKind::Chunk, plain.len() as u32, Hash::of(&plain));
        let record = Record { kind, codec, depth: 2, base: Some(Hash::of(&base)), plain_len, hash, payload: &payload };
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        check(name, &bytes);
        let (header, found) = parse_record(&bytes).unwrap();
        let stored_len = (Hash::LEN + payload.len()) as u32;
        assert_eq!((header.has_base, header.depth, header.stored_len, header.codec), (true, 2, stored_len, codec));
        let (named, start) = split_base(&header, found).unwrap();
        assert_eq!(named, Some(Hash::of(&base)));
        let mut decoded = Vec::new();
        Decoder::new().decode(codec, &found[start..], plain.len(), Some(&base), &mut decoded).unwrap();
        assert!(decoded == plain, "{name}");
    }
}

#[test]
fn index_values_keep_their_bytes() {
    let alone = Entry {
        position: Position { pack: 0x0102_0304, offset: 0x1112_1314 },
        stored_len: 0x2122_2324,
        plain_len: 0x3132_3334,
        kind: RecordKind::Chunk,
        codec: Codec::Planes,
        depth: 0,
        base: None,
    };
    let delta = Entry { codec: Codec::Delta, depth: 3, base: Some(Hash::of(b"base")), ..alone };
    for (name, entry) in [("index-entry.bin", alone), ("index-entry-with-base.bin", delta)] {
        check(name, &entry.encode());
        let golden = fs::read(folder().join(name)).unwrap();
        assert_eq!(Entry::decode(&golden), Some(entry));
        assert_eq!(Entry::decode(&golden[..golden.len() - 1]), None, "{name} cut short");
    }
}

#[test]
fn an_archive_begins_with_its_header() {
    check("archive-header.bin", &archive_header());
    let golden = fs::read(folder().join("archive-header.bin")).unwrap();
    let mut archive = ArchiveReader::open(golden.as_slice(), Path::new("golden")).unwrap();
    assert!(archive.next_record().unwrap().is_none());
    let mut newer = golden.clone();
    newer[8] += 1;
    let refused = ArchiveReader::open(newer.as_slice(), Path::new("newer")).map(drop).unwrap_err();
    assert_eq!(refused.kind(), "newer_format");
}

/// What a fixture holds, one line a fact.
fn describe(store: &Store) -> String {
    let mut text = String::new();
    for (key, state) in read(store).unwrap().0 {
        for (version, bytes) in &state.versions {
            text += &format!("{key}@{version} {} {}\n", bytes.0.len(), blake3::hash(&bytes.0));
        }
        state.labels.iter().for_each(|(label, version)| text += &format!("{key}@{label} -> {version}\n"));
        state.pins.iter().for_each(|version| text += &format!("{key}@{version} pinned\n"));
    }
    text
}

/// Writes the fixture of the newest format anew: versions of each codec, an inline one, labels, pins, a removal, a key whose versions
/// are differences to the one before, one that was compacted, and an archive.
fn write_fixture(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (store, mut held) = (options(4 << 10).open(&path).unwrap(), Model::default());
    let weights =
        |scale: f32| (0..1000_u32).flat_map(|n| (scale + n as f32 / 5000.0).to_le_bytes()).collect::<Vec<u8>>();
    let tensor =
        |name: &str, scale| Tensor { name: name.to_owned(), dtype: "F32", shape: vec![10, 100], bytes: weights(scale) };
    let model = |scale: f32| safetensors(&[tensor("embed", 1.0), tensor("head", scale)]);
    let trained = |step: u32| {
        let bytes = trained(step);
        safetensors(&[Tensor { name: "w".to_owned(), dtype: "F32", shape: vec![20, bytes.len() as u64 / 80], bytes }])
    };
    let text = "every later version reads this\n".repeat(100).into_bytes();
    for op in [
        Op::Put { key: "team/model", label: Some("first"), payload: model(2.0).into() },
        Op::Put { key: "team/model", label: Some("best"), payload: model(3.0).into() },
        Op::Put { key: "text", label: None, payload: text.into() },
        Op::Put { key: "noise", label: None, payload: noise("noise", 3000).into() },
        Op::Put { key: "inline", label: None, payload: b"a few bytes".to_vec().into() },
        Op::Put { key: "gone", label: Some("lost"), payload: noise("gone", 2000).into() },
        Op::Pin("team/model", 1),
        Op::Remove("gone", 1),
        Op::Tag("team/model", 2, "released"),
        Op::Put { key: "run", label: None, payload: trained(1).into() },
        Op::Put { key: "run", label: None, payload: trained(2).into() },
        Op::Put { key: "run", label: None, payload: trained(3).into() },
        Op::Put { key: "turned", label: None, payload: trained(4).into() },
        Op::Put { key: "turned", label: None, payload: trained(5).into() },
        Op::Compact("turned"),
    ] {
        apply(&store, &op).unwrap();
        held.apply(&op).unwrap();
    }
    assert!(read(&store).unwrap() == held.visible());
    fs::create_dir_all(folder.join("packs")).unwrap();
    store.export(&at("team/model", 2), folder.join("team-model-2.caskad"), &Monitor::none()).unwrap();
    fs::write(folder.join("expected.txt"), describe(&store)).unwrap();
    drop(store);
    fs::copy(path.join("format"), folder.join("format")).unwrap();
    for pack in fs::read_dir(path.join("packs")).unwrap().map(Result::unwrap) {
        fs::copy(pack.path(), folder.join("packs").join(pack.file_name())).unwrap();
    }
}

/// A copy of the fixture of format `version`, to open.
fn fixture(version: &str) -> (tempfile::TempDir, String) {
    static WRITTEN: std::sync::Once = std::sync::Once::new();
    // That of format 1 is as version 0.1 wrote it.
    if regenerate() && version == "v2" {
        WRITTEN.call_once(|| write_fixture(&folder().join(version)));
    }
    let (from, directory) = (folder().join(version), tempfile::tempdir().unwrap());
    fs::create_dir(directory.path().join("packs")).unwrap();
    for name in fs::read_dir(from.join("packs")).expect("the fixture").map(|entry| entry.unwrap().file_name()) {
        fs::copy(from.join("packs").join(&name), directory.path().join("packs").join(&name)).unwrap();
    }
    fs::copy(from.join("format"), directory.path().join("format")).unwrap();
    (directory, fs::read_to_string(from.join("expected.txt")).unwrap())
}

#[test]
fn a_store_of_format_1_opens_and_restores() {
    let (directory, _) = a_store_opens_and_restores("v1");
    // With its first difference it becomes one of format 2.
    assert_eq!(fs::read(directory.path().join("format")).unwrap(), b"caskad 1\n");
    let store = Store::open(directory.path()).unwrap();
    let model = get(&store, "team/model", 2).unwrap();
    let moved: Vec<u8> = model.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at > 4000 && at % 4 == 0)).collect();
    apply(&store, &Op::Put { key: "team/model", label: None, payload: moved.clone().into() }).unwrap();
    assert_eq!(store.stat().unwrap().codecs[&Codec::Delta].chunks, 1);
    assert!(get(&store, "team/model", 3).unwrap() == moved);
    assert_eq!(fs::read(directory.path().join("format")).unwrap(), b"caskad 2\n");
}

#[test]
fn a_store_of_format_2_opens_and_restores() {
    let (directory, store) = a_store_opens_and_restores("v2");
    let codecs = store.stat().unwrap().codecs;
    assert!(codecs[&Codec::Delta].chunks >= 2 && codecs[&Codec::DeltaCtx].chunks >= 1, "{codecs:?}");
    assert_eq!(fs::read(directory.path().join("format")).unwrap(), b"caskad 2\n");
    assert_eq!(store.show(&at("run", 3)).unwrap().files[0].cost.bases, 2);
    assert_eq!(store.show(&at("turned", 1)).unwrap().files[0].cost.bases, 1);
}

/// Opens the fixture `version` and compares it with what it should hold; goes on using it, and opens it again.
fn a_store_opens_and_restores(version: &str) -> (tempfile::TempDir, Store) {
    let (directory, expected) = fixture(version);
    assert!(expected.lines().count() >= 9, "the fixture says what it holds");
    let read_only = StoreOptions::new().read_only(true).open(directory.path()).unwrap();
    assert_eq!(describe(&read_only), expected, "read-only");
    drop(read_only);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(describe(&store), expected);
    assert_sound(&store, version);
    // It goes on as a store of today's.
    apply(&store, &Op::Put { key: "gone", label: None, payload: noise("again", 2000).into() }).unwrap();
    assert!(get(&store, "gone", 2).is_ok(), "the removed version keeps its number");
    store.gc(GcOptions::default(), &Monitor::none()).unwrap();
    store.remove(&at("gone", 2)).unwrap();
    assert_eq!(describe(&store), expected, "after a collection");
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(describe(&store), expected, "reopened");
    (directory, store)
}

#[test]
fn an_archive_of_format_1_is_imported() {
    let (_directory, expected) = fixture("v1");
    let target = tempfile::tempdir().unwrap();
    let store = Store::open(target.path()).unwrap();
    let archive = folder().join("v1/team-model-2.caskad");
    store.import(&archive, &ImportOptions::default(), &Monitor::none()).unwrap();
    let bytes = get(&store, "team/model", 1).unwrap();
    assert!(expected.contains(&format!("team/model@2 {} {}\n", bytes.len(), blake3::hash(&bytes))));
    // Any flipped bit is refused, and any cut.
    let whole = fs::read(&archive).unwrap();
    for bit in (0..8 * whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = store.import_from(bytes.as_slice(), "flipped", &ImportOptions::default(), &Monitor::none());
        // Four bytes of the archive's header mean nothing yet.
        assert!(refused.is_err() || (96..128).contains(&bit), "bit {bit}");
    }
    for len in 0..whole.len() {
        if len % 53 == 0 {
            let cut = store.import_from(&whole[..len], "cut", &ImportOptions::default(), &Monitor::none());
            // Chunks that the store has need not be in the archive.
            assert!(cut.is_err() || len > 100, "cut to {len}");
        }
    }
    let empty = tempfile::tempdir().unwrap();
    let empty = Store::open(empty.path()).unwrap();
    for len in (0..whole.len()).step_by(211) {
        let cut = empty.import_from(&whole[..len], "cut", &ImportOptions::default(), &Monitor::none());
        assert!(cut.is_err(), "cut to {len}");
        assert!(empty.keys("").unwrap().is_empty());
    }
}

/// Chunks that match their hashes do not yet make the file whose hash the manifest gives, which users compare with what others publish.
#[test]
fn an_archive_whose_chunks_do_not_make_its_files_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (Store::open(from.path()).unwrap(), Store::open(to.path()).unwrap());
    let once = noise("once", 300_000);
    let payload = [once.clone(), noise("between", 100_000), once].concat();
    apply(&from, &Op::Put { key: "m", label: None, payload: payload.clone().into() }).unwrap();
    let mut whole = Vec::new();
    from.export_to(&at("m", 1), &mut whole, &Monitor::none()).unwrap();
    let (manifest, _) = parse_record(&whole[archive_header().len()..]).unwrap();
    let chunks = archive_header().len() + manifest.record_len() as usize;
    let import = |alter: fn(&mut Contents)| {
        let mut contents = from.version(&at("m", 1)).unwrap().manifest().clone().into_contents();
        alter(&mut contents);
        let manifest = Manifest::new(contents).unwrap().encode();
        let (kind, plain_len, hash) = (RecordKind::Manifest, manifest.len() as u32, Hash::of(&manifest));
        let record = Record { kind, codec: Codec::Raw, depth: 0, base: None, plain_len, hash, payload: &manifest };
        let mut archive = archive_header().to_vec();
        record.write(&mut archive);
        archive.extend_from_slice(&whole[chunks..]);
        to.import_from(archive.as_slice(), "archive", &ImportOptions::default(), &Monitor::none())
    };
    import(|_| {}).unwrap();
    assert!(get(&to, "m", 1).unwrap() == payload);
    let refused = import(|contents| {
        let FileKind::Regular(file) = &mut contents.files[0].kind else { panic!("it is a regular file") };
        file.blob_hash = Hash::of(b"another file");
    });
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("payload.bin: its chunks do not come to the file"), "{refused}");
    assert_eq!(to.log(&"m".parse().unwrap()).unwrap().len(), 1);
}
