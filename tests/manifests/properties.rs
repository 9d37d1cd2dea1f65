//! What holds for every manifest and record, and for whatever bytes a stranger sends.

use std::collections::BTreeMap;

use caskad::Hash;
use caskad::chunk::{ChunkRef, Span};
use caskad::limits;
use caskad::manifest::{Content, Contents, DecodeError, FileEntry, FileKind, Manifest, Meta, MetaValue, RegularFile};
use caskad::refs::{RefChange, RefRecord};
use ciborium::Value;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::generate::{manifest, record};
use crate::golden;

/// A change to some bytes: replace one, drop one, insert one, or end early.
fn mutate(bytes: &mut Vec<u8>, (what, place, byte): (u8, Index, u8)) {
    if bytes.is_empty() {
        return;
    }
    let at = place.index(bytes.len());
    match what {
        0 => bytes[at] = byte,
        1 => bytes[at] ^= 1 << (byte % 8),
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, byte),
        _ => bytes.truncate(at),
    }
}

/// Decodes as both formats; whatever is taken must encode to the same bytes.
fn taken_bytes_are_their_own_encoding(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes);
    }
    if let Ok(record) = RefRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
}

/// An independent encoder writes the same bytes from the same items, so heads, lengths and floats are the shortest.
fn another_encoder_agrees(bytes: &[u8]) {
    let value: Value = ciborium::from_reader(bytes).unwrap();
    let mut again = Vec::new();
    ciborium::into_writer(&value, &mut again).unwrap();
    assert_eq!(again, bytes);
}

proptest! {
    #[test]
    fn manifests_come_back_as_they_were(manifest in manifest()) {
        let bytes = manifest.encode();
        another_encoder_agrees(&bytes);
        prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    }

    #[test]
    fn records_come_back_as_they_were(record in record()) {
        let bytes = record.encode();
        another_encoder_agrees(&bytes);
        prop_assert_eq!(RefRecord::decode(&bytes).unwrap(), record);
    }

    #[test]
    fn a_beginning_is_incomplete_and_never_invalid(manifest in manifest(), record in record(), cut in any::<Index>()) {
        let bytes = manifest.encode();
        let error = Manifest::decode(&bytes[..cut.index(bytes.len())]).unwrap_err();
        prop_assert!(matches!(error, DecodeError::Incomplete { .. }), "{}", error);
        let bytes = record.encode();
        let error = RefRecord::decode(&bytes[..cut.index(bytes.len())]).unwrap_err();
        prop_assert!(matches!(error, DecodeError::Incomplete { .. }), "{}", error);
    }

    #[test]
    fn damaged_bytes_are_refused_or_canonical(
        manifest in manifest(),
        record in record(),
        changes in prop::collection::vec((0..5u8, any::<Index>(), any::<u8>()), 1..4),
    ) {
        for mut bytes in [manifest.encode(), record.encode()] {
            changes.iter().for_each(|change| mutate(&mut bytes, *change));
            taken_bytes_are_their_own_encoding(&bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(mut bytes in prop::collection::vec(any::<u8>(), 0..200), versioned: bool) {
        if versioned && bytes.len() > 2 {
            // A head of a small map and the version: further in than noise gets.
            bytes[0] = 0xa0 | bytes[0] & 0x0f;
            bytes[1..3].copy_from_slice(&[0, 1]);
        }
        taken_bytes_are_their_own_encoding(&bytes);
    }

    #[test]
    fn lookups_agree_with_a_walk(manifest in manifest(), offset in 0..3_000_000u64, len in prop_oneof![0..9u64, any::<u64>()]) {
        let mut next = 0;
        for (file, entry) in manifest.files.iter().enumerate() {
            prop_assert_eq!(manifest.find_file(&entry.path), Some((file, entry)));
            let chunks = manifest.file_chunks(file);
            prop_assert_eq!(chunks.start, next);
            next = chunks.end;
            let offset = if entry.bytes() == 0 { offset } else { offset % (entry.bytes() + 2) };
            let (mut at, mut expected) = (0, Vec::new());
            for chunk in chunks {
                let span = Span::new(at, manifest.chunks[chunk].len.into());
                at = span.end();
                if span.intersection(Span::new(offset, len)).is_some() {
                    expected.push((chunk, span));
                }
            }
            prop_assert_eq!(manifest.chunks_overlapping(file, Span::new(offset, len)).collect::<Vec<_>>(), expected);
            let inline = matches!(entry.regular(), Some(RegularFile { content: Content::Inline(_), .. }));
            prop_assert_eq!(at, if inline { 0 } else { entry.bytes() });
        }
        prop_assert_eq!(next, manifest.chunks.len());
        prop_assert_eq!(manifest.bytes(), manifest.files.iter().map(FileEntry::bytes).sum::<u64>());
        prop_assert!(manifest.find_file("no/such file").is_none());
        prop_assert_eq!(manifest.file_chunks(manifest.files.len()), 0..0);
        for (file, segment) in manifest.segments() {
            prop_assert!(manifest.find_segments(&segment.name).any(|found| found == (file, segment)));
        }
    }
}

#[test]
fn a_record_at_all_its_limits_stays_below_its_own() {
    let mut meta = Meta::default();
    for entry in 0..limits::META_ENTRIES {
        let text = "x".repeat(limits::META_TOTAL_BYTES / limits::META_ENTRIES - 4);
        meta.insert(format!("{entry:04}"), MetaValue::Text(text)).unwrap();
    }
    assert!(meta.insert("one more", MetaValue::Integer(0)).is_err());
    let mut record = golden::records().remove("ref-version-expiring").unwrap();
    if let RefChange::Version { key, entry, .. } = &mut record.change {
        *key = "k".repeat(limits::KEY_BYTES).parse().unwrap();
        entry.meta = meta;
    }
    assert_eq!(RefRecord::decode(&record.encode()).unwrap(), record);
}

#[test]
fn more_bytes_than_allowed_are_refused_unread() {
    let error = RefRecord::decode(&vec![0; limits::REF_BYTES + 1]).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { len: limits::REF_BYTES + 1, limit: limits::REF_BYTES });
    let error = Manifest::decode(&vec![0; limits::MANIFEST_BYTES + 1]).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { len: limits::MANIFEST_BYTES + 1, limit: limits::MANIFEST_BYTES });
}

/// A directory whose paths alone are longer than a manifest may be.
#[test]
fn contents_that_would_encode_to_more_than_allowed_are_refused() {
    let entry = |index: usize| FileEntry { path: format!("{index:09}{}", "x".repeat(4000)), kind: FileKind::Directory };
    let mut contents = golden::manifests().remove("manifest-empty-directory").unwrap();
    contents.files = (0..limits::MANIFEST_BYTES / 4000).map(entry).collect();
    assert!(Manifest::new(contents).unwrap_err().to_string().contains("at most 134217728 are allowed"));
}

#[test]
fn a_million_chunks_come_back_as_they_were() {
    let hash = |index: u64| Hash::of(&index.to_le_bytes());
    let chunks: Vec<_> = (0..1_000_000).map(|index| ChunkRef { hash: hash(index), len: 262_144 }).collect();
    let file = RegularFile {
        len: chunks.len() as u64 * 262_144,
        blob_hash: hash(0),
        executable: false,
        media_type: None,
        content: Content::Chunks,
        segments: Vec::new(),
    };
    let contents = Contents {
        files: vec![FileEntry { path: "model.bin".to_owned(), kind: FileKind::Regular(file) }],
        homes: BTreeMap::new(),
        chunks,
        ..golden::manifests().remove("manifest-safetensors").unwrap()
    };
    let start = std::time::Instant::now();
    let manifest = Manifest::new(contents).unwrap();
    let checked = start.elapsed();
    let bytes = manifest.encode();
    let encoded = start.elapsed();
    let decoded = Manifest::decode(&bytes).unwrap();
    println!("check {checked:?}, encode {:?}, decode {:?}", encoded - checked, start.elapsed() - encoded);
    assert_eq!(decoded, manifest);
    assert_eq!(bytes.len() / 1_000_000, 37, "a hash, a length and its head for each chunk");
}
