//! Arbitrary valid manifests and records.

use std::collections::BTreeMap;

use caskad::Hash;
use caskad::chunk::{ChunkRef, Span};
use caskad::limits;
use caskad::manifest::{
    Content, Contents, FileEntry, FileKind, Manifest, Meta, MetaValue, RegularFile, SegmentEntry, compare_paths,
};
use caskad::refs::{Entity, PinEntry, RefChange, RefRecord, VersionEntry};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash::from_bytes)
}

fn meta() -> impl Strategy<Value = Meta> {
    let value = prop_oneof![
        ".{0,12}".prop_map(MetaValue::Text),
        any::<i64>().prop_map(MetaValue::Integer),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(MetaValue::Float),
        any::<i16>().prop_map(|number| MetaValue::Float(f64::from(number) / 8.0)),
    ];
    btree_map(".{1,6}", value, 0..5).prop_map(|entries| Meta::try_from(entries).unwrap())
}

fn segments(len: u64) -> impl Strategy<Value = Vec<SegmentEntry>> {
    let segment = (any::<[u16; 2]>(), ".{0,5}", "(F32|BF16|Q8_0|)", vec(any::<u64>(), 0..4), any::<bool>());
    vec(segment, 0..4).prop_map(move |segments| {
        let mut at = 0;
        let place = |([gap, want], name, dtype, shape, tensor): ([u16; 2], _, String, _, _)| {
            let offset = (at + u64::from(gap)).min(len);
            let span = Span::new(offset, u64::from(want).min(len - offset));
            at = span.end();
            SegmentEntry { name, dtype, shape, span, tensor }
        };
        segments.into_iter().map(place).collect()
    })
}

/// A file and the lengths of its chunks.
fn regular() -> impl Strategy<Value = (FileKind, Vec<u32>)> {
    let inline = vec(any::<u8>(), 0..40).prop_map(|bytes| (Some(bytes), Vec::new()));
    let chunk_len = prop_oneof![1..300u32, 1..=limits::CHUNK_BYTES as u32];
    let chunks = vec(chunk_len, 1..6).prop_map(|lens| (None, lens));
    (prop_oneof![inline, chunks], hash(), any::<bool>(), option::of("[a-z]{1,4}/[a-z]{1,4}"))
        .prop_flat_map(|((inline, lens), hash, executable, media_type)| {
            let len = inline.as_ref().map_or_else(|| lens.iter().copied().map(u64::from).sum(), |b| b.len() as u64);
            (Just((inline, lens, hash, executable, media_type, len)), segments(len))
        })
        .prop_map(|((inline, lens, hash, executable, media_type, len), segments)| {
            let blob_hash = inline.as_deref().map_or(hash, Hash::of);
            let content = inline.map_or(Content::Chunks, Content::Inline);
            (FileKind::Regular(RegularFile { len, blob_hash, executable, media_type, content, segments }), lens)
        })
}

fn kind() -> impl Strategy<Value = (FileKind, Vec<u32>)> {
    prop_oneof![
        4 => regular(),
        1 => "[a-z./]{1,9}".prop_map(|target| (FileKind::Symlink { target }, Vec::new())),
        1 => Just((FileKind::Directory, Vec::new())),
    ]
}

/// Files in order, none below another, with the lengths of their chunks.
fn tree() -> impl Strategy<Value = Vec<(FileEntry, Vec<u32>)>> {
    vec(("[abé-]{1,2}(/[ab. -]{0,2}c){0,2}", kind()), 0..9).prop_map(|entries| {
        let mut entries: Vec<_> =
            entries.into_iter().map(|(path, (kind, lens))| (FileEntry { path, kind }, lens)).collect();
        entries.sort_by(|(a, _), (b, _)| compare_paths(&a.path, &b.path));
        entries.dedup_by(|(below, _), (above, _)| {
            below.path == above.path || below.path.starts_with(&format!("{}/", above.path))
        });
        entries
    })
}

fn single() -> impl Strategy<Value = Vec<(FileEntry, Vec<u32>)>> {
    ("[a-z]{1,5}", regular()).prop_map(|(path, (kind, lens))| vec![(FileEntry { path, kind }, lens)])
}

/// Any contents that obey the rules.
pub(crate) fn contents() -> impl Strategy<Value = Contents> {
    let files =
        prop_oneof![2 => tree().prop_map(|files| (false, files)), 1 => single().prop_map(|files| (true, files))];
    let homes = btree_map(0..30u32, any::<[u8; 4]>(), 0..4);
    let key = "[a-z0-9]{1,4}(/[a-z0-9:._-]{1,3}x){0,2}";
    (key, files, any::<u64>(), homes, option::of(hash()), option::of(hash()), any::<u64>(), meta()).prop_map(
        |(key, (single, tree), seed, homes, parent, base, created_unix_ms, meta)| {
            let (files, lens): (Vec<_>, Vec<_>) = tree.into_iter().unzip();
            let name = |index: usize| Hash::of(&(seed.wrapping_add(index as u64)).to_le_bytes());
            let chunks: Vec<_> = (0..).zip(lens.concat()).map(|(i, len)| ChunkRef { hash: name(i), len }).collect();
            let foreign = |(&index, home): (&u32, &[u8; 4])| {
                chunks.get(index as usize).is_some_and(|chunk| !chunk.hash.as_bytes().starts_with(home))
            };
            let homes: BTreeMap<_, _> = homes.into_iter().filter(|(index, home)| foreign((index, home))).collect();
            Contents { key: key.parse().unwrap(), single, files, chunks, homes, parent, base, created_unix_ms, meta }
        },
    )
}

/// Any manifest.
pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    contents().prop_map(|contents| Manifest::new(contents).unwrap())
}

fn version_entry() -> impl Strategy<Value = VersionEntry> {
    (hash(), any::<[u64; 6]>(), option::of(any::<u64>()), any::<bool>(), meta()).prop_map(
        |(manifest, numbers, expires_unix_ms, single, meta)| {
            let [manifest_bytes, bytes, stored_bytes, chunks, new_chunks, created_unix_ms] = numbers;
            VersionEntry {
                manifest,
                manifest_bytes,
                bytes,
                stored_bytes,
                chunks,
                new_chunks,
                created_unix_ms,
                expires_unix_ms,
                single,
                meta,
            }
        },
    )
}

/// Any ref or removal record.
pub(crate) fn record() -> impl Strategy<Value = RefRecord> {
    let names = ("[a-z0-9:._-]{0,4}x", "[a-z0-9._-]{0,4}x");
    (names, any::<[u64; 4]>(), version_entry(), option::of(any::<u64>()), 0..6).prop_map(
        |((key, label), [seq, number, target, created_unix_ms], entry, expires_unix_ms, kind)| {
            let (key, label) = (key.parse().unwrap(), format!("l{label}").parse().unwrap());
            let change = match kind {
                0 => RefChange::Version { key, number, entry },
                1 => RefChange::Label { key, label, number: target },
                2 => RefChange::Pin { key, number, pin: PinEntry { created_unix_ms, expires_unix_ms } },
                3 => RefChange::Removal(Entity::Version { key, number }),
                4 => RefChange::Removal(Entity::Label { key, label }),
                _ => RefChange::Removal(Entity::Pin { key, number }),
            };
            RefRecord { seq, change }
        },
    )
}
