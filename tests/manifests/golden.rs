//! Golden bytes: one value of each shape that the formats have.

use std::collections::BTreeMap;

use caskad::Hash;
use caskad::chunk::{ChunkRef, Span};
use caskad::key::Key;
use caskad::manifest::{Content, Contents, FileEntry, FileKind, Manifest, Meta, MetaValue, RegularFile, SegmentEntry};
use caskad::refs::{Entity, PinEntry, RefChange, RefRecord, VersionEntry};

use crate::diag::diag;
use crate::fixtures;

/// 2026-01-01T00:00:00Z.
const CREATED: u64 = 1_767_225_600_000;

fn key() -> Key {
    "team/model".parse().unwrap()
}

fn inline(path: &str, bytes: &[u8]) -> FileEntry {
    let kind = FileKind::Regular(RegularFile {
        len: bytes.len() as u64,
        blob_hash: Hash::of(bytes),
        executable: false,
        media_type: None,
        content: Content::Inline(bytes.to_vec()),
        segments: Vec::new(),
    });
    FileEntry { path: path.to_owned(), kind }
}

fn chunked(path: &str, len: u64, segments: Vec<SegmentEntry>) -> FileEntry {
    let kind = FileKind::Regular(RegularFile {
        len,
        blob_hash: Hash::of(path.as_bytes()),
        executable: false,
        media_type: None,
        content: Content::Chunks,
        segments,
    });
    FileEntry { path: path.to_owned(), kind }
}

fn chunks(lens: &[u32]) -> Vec<ChunkRef> {
    let hash = |index: usize| Hash::of(format!("chunk {index}").as_bytes());
    lens.iter().enumerate().map(|(index, &len)| ChunkRef { hash: hash(index), len }).collect()
}

fn contents(single: bool, files: Vec<FileEntry>, lens: &[u32]) -> Contents {
    Contents {
        key: key(),
        single,
        files,
        chunks: chunks(lens),
        homes: BTreeMap::new(),
        parent: None,
        base: None,
        created_unix_ms: CREATED,
        meta: Meta::default(),
    }
}

fn segment(name: &str, shape: &[u64], offset: u64, len: u64) -> SegmentEntry {
    let span = Span::new(offset, len);
    SegmentEntry { name: name.to_owned(), dtype: "BF16".to_owned(), shape: shape.to_vec(), span, tensor: true }
}

fn safetensors() -> Contents {
    let segments = vec![
        segment("embed.weight", &[1024, 64], 88, 131_072),
        segment("scale", &[], 131_160, 2),
        SegmentEntry { dtype: String::new(), tensor: false, ..segment("notes", &[], 131_200, 300) },
    ];
    let mut file = chunked("model.safetensors", 131_500, segments);
    if let FileKind::Regular(file) = &mut file.kind {
        file.media_type = Some("application/octet-stream".to_owned());
    }
    Contents { parent: Some(Hash::of(b"version 1")), ..contents(true, vec![file], &[88, 131_072, 340]) }
}

fn directory() -> Contents {
    let mut script = inline("bin/run", b"#!/bin/sh\n");
    if let FileKind::Regular(file) = &mut script.kind {
        file.executable = true;
    }
    let files = vec![
        script,
        FileEntry { path: "cache".to_owned(), kind: FileKind::Directory },
        inline("empty", b""),
        FileEntry { path: "latest".to_owned(), kind: FileKind::Symlink { target: "weights/b.bin".to_owned() } },
        chunked("weights/a.bin", 70_000, Vec::new()),
        chunked("weights/b.bin", 1024, Vec::new()),
        inline("weights-of-others", b"none"),
    ];
    contents(false, files, &[65_536, 4464, 1024])
}

fn homes() -> Contents {
    Contents {
        homes: BTreeMap::from([(0, [0x12, 0x34, 0x56, 0x78]), (2, [0, 0, 0, 1])]),
        base: Some(Hash::of(b"the base")),
        ..safetensors()
    }
}

fn metadata() -> Meta {
    let entries = [
        ("zz", MetaValue::Integer(-1)),
        ("loss", MetaValue::Float(0.1)),
        ("epoch", MetaValue::Float(3.0)),
        ("third", MetaValue::Float(f64::from(1.0f32 / 3.0))),
        ("minus", MetaValue::Float(-0.0)),
        ("lowest", MetaValue::Integer(i64::MIN)),
        ("highest", MetaValue::Integer(i64::MAX)),
        ("note", MetaValue::Text("für später ✓".to_owned())),
        ("a longer key", MetaValue::Text(String::new())),
    ];
    Meta::try_from(BTreeMap::from(entries.map(|(key, value)| (key.to_owned(), value)))).unwrap()
}

/// The contents of each golden manifest.
pub(crate) fn manifests() -> BTreeMap<&'static str, Contents> {
    BTreeMap::from([
        ("manifest-inline", contents(true, vec![inline("hello.txt", b"hello\n")], &[])),
        ("manifest-safetensors", safetensors()),
        ("manifest-directory", directory()),
        ("manifest-empty-directory", contents(false, Vec::new(), &[])),
        ("manifest-homes", homes()),
        ("manifest-meta", Contents { meta: metadata(), ..safetensors() }),
    ])
}

fn version_entry() -> VersionEntry {
    VersionEntry {
        manifest: Hash::of(b"manifest"),
        manifest_bytes: 317,
        bytes: 131_500,
        stored_bytes: 90_210,
        chunks: 3,
        new_chunks: 2,
        created_unix_ms: CREATED,
        expires_unix_ms: None,
        single: true,
        meta: Meta::default(),
    }
}

/// Each golden record.
pub(crate) fn records() -> BTreeMap<&'static str, RefRecord> {
    let version = |entry| RefChange::Version { key: key(), number: 2, entry };
    let pin = |expires_unix_ms| PinEntry { created_unix_ms: CREATED, expires_unix_ms };
    let label = || "best".parse().unwrap();
    let expiring = VersionEntry { expires_unix_ms: Some(CREATED + 86_400_000), meta: metadata(), ..version_entry() };
    let changes = [
        ("ref-version", version(version_entry())),
        ("ref-version-expiring", version(expiring)),
        ("ref-label", RefChange::Label { key: key(), label: label(), number: 2 }),
        ("ref-pin", RefChange::Pin { key: key(), number: 2, pin: pin(None) }),
        ("ref-pin-lapsing", RefChange::Pin { key: key(), number: 2, pin: pin(Some(CREATED + 3_600_000)) }),
        ("removal-version", RefChange::Removal(Entity::Version { key: key(), number: 2 })),
        ("removal-label", RefChange::Removal(Entity::Label { key: key(), label: label() })),
        ("removal-pin", RefChange::Removal(Entity::Pin { key: key(), number: 2 })),
    ];
    (300..).zip(changes).map(|(seq, (name, change))| (name, RefRecord { seq, change })).collect()
}

/// The bytes of the golden file `name`.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    match manifests().remove(name) {
        Some(contents) => Manifest::new(contents).unwrap().encode(),
        None => records()[name].encode(),
    }
}

#[test]
fn golden_files_hold_what_is_encoded_and_decode_to_what_was_meant() {
    let mut files = BTreeMap::new();
    for name in manifests().into_keys().chain(records().into_keys()) {
        files.insert(format!("{name}.diag"), diag(&bytes(name)).into_bytes());
        files.insert(format!("{name}.cbor"), bytes(name));
    }
    fixtures::check("golden", &files);
    for (name, contents) in manifests() {
        assert_eq!(Manifest::decode(&bytes(name)).unwrap().into_contents(), contents, "{name}");
    }
    for (name, record) in records() {
        assert_eq!(RefRecord::decode(&bytes(name)).unwrap(), record, "{name}");
        assert_eq!(record.is_removal(), name.starts_with("removal"), "{name}");
    }
}

#[test]
fn a_minus_zero_keeps_its_sign() {
    let decoded = Manifest::decode(&bytes("manifest-meta")).unwrap();
    assert!(matches!(decoded.meta.get("minus"), Some(MetaValue::Float(zero)) if zero.is_sign_negative()));
}
