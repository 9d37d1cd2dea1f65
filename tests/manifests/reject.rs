//! Bytes with one fault each. All of them must be refused, by a message that names the fault.

use std::collections::BTreeMap;

use caskad::Hash;
use caskad::manifest::Manifest;
use caskad::refs::RefRecord;
use ciborium::Value;

use crate::{fixtures, golden};

/// A file under `manifests/reject`.
struct Fault {
    name: &'static str,
    bytes: Vec<u8>,
    /// A part of the message.
    message: &'static str,
}

/// The golden file `from` with a change to its items. It is written as it then stands: keys are not put in order.
fn items(name: &'static str, from: &str, message: &'static str, change: impl FnOnce(&mut Value)) -> Fault {
    let mut value = ciborium::from_reader(&golden::bytes(from)[..]).unwrap();
    change(&mut value);
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).unwrap();
    Fault { name, bytes, message }
}

/// The golden file `from` with the one place that holds `old` replaced.
fn raw(name: &'static str, from: &str, message: &'static str, old: &[u8], new: &[u8]) -> Fault {
    let bytes = golden::bytes(from);
    let places: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(old)).collect();
    assert_eq!(places.len(), 1, "{name}: {old:02x?} is at {places:?}");
    let bytes = [&bytes[..places[0]], new, &bytes[places[0] + old.len()..]].concat();
    Fault { name, bytes, message }
}

fn entries(value: &mut Value) -> &mut Vec<(Value, Value)> {
    value.as_map_mut().unwrap()
}

/// The value of a field; a step into an array is an index.
fn at<'a>(value: &'a mut Value, path: &[usize]) -> &'a mut Value {
    path.iter().fold(value, |value, &step| match value {
        Value::Array(items) => &mut items[step],
        map => &mut entries(map).iter_mut().find(|(key, _)| *key == Value::from(step as u64)).unwrap().1,
    })
}

fn set(path: &[usize], to: impl Into<Value>) -> impl FnOnce(&mut Value) {
    move |value| *at(value, path) = to.into()
}

/// Adds a field to the map at `path`, in its place.
fn add(path: &[usize], field: u64, to: impl Into<Value>) -> impl FnOnce(&mut Value) {
    move |value| {
        let entries = entries(at(value, path));
        let place = entries.partition_point(|(key, _)| u64::try_from(key.as_integer().unwrap()).unwrap() < field);
        entries.insert(place, (field.into(), to.into()));
    }
}

fn drop_field(path: &[usize], field: u64) -> impl FnOnce(&mut Value) {
    move |value| entries(at(value, path)).retain(|(key, _)| *key != Value::from(field))
}

fn map(entries: impl IntoIterator<Item = (Value, Value)>) -> Value {
    Value::Map(entries.into_iter().collect())
}

const INLINE: &str = "manifest-inline";
const SAFETENSORS: &str = "manifest-safetensors";
const DIRECTORY: &str = "manifest-directory";
const HOMES: &str = "manifest-homes";
const META: &str = "manifest-meta";

/// Bytes that are not deterministic CBOR.
fn encodings() -> Vec<Fault> {
    let inline = golden::bytes(INLINE);
    let nested = [&[3][..], &[0x81; 10_000]].concat();
    let trailing = [&inline[..], &[0]].concat();
    let endless = [&[0xbf], &inline[1..], &[0xff]].concat();
    let whole = |name, message, bytes| Fault { name, bytes, message };
    vec![
        whole("manifest-empty", "the bytes end after 0", Vec::new()),
        whole("manifest-truncated", "the bytes end after", inline[..inline.len() - 1].to_vec()),
        whole("manifest-trailing-byte", "1 trailing bytes", trailing),
        whole("manifest-indefinite-map", "length is indefinite", endless),
        raw("manifest-deep-nesting", INLINE, "expected a map, found an array", &[3, 0x81], &nested),
        raw("manifest-long-integer", INLINE, "6 is not in its shortest form", &[2, 6, 3], &[2, 0x18, 6, 3]),
        raw("manifest-long-length", INLINE, "10 is not in its shortest form", b"\x6ateam/", b"\x78\x0ateam/"),
        raw("manifest-long-version", INLINE, "1 is not in its shortest form", &[0xa7, 0, 1], &[0xa7, 0, 0x19, 0, 1]),
        raw("manifest-indefinite-text", INLINE, "length is indefinite", b"\x6ateam/model", b"\x7f\x6ateam/model\xff"),
        raw("manifest-indefinite-bytes", INLINE, "length is indefinite", &[4, 0x40], &[4, 0x5f, 0xff]),
        raw("manifest-indefinite-array", INLINE, "length is indefinite", &[5, 0x80], &[5, 0x9f, 0xff]),
        raw("manifest-reserved-head", INLINE, "reserved", &[5, 0x80], &[5, 0x9c]),
        raw(
            "manifest-huge-count",
            INLINE,
            "at most 1048576",
            &[3, 0x81],
            &[3, 0x9b, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
        raw("manifest-claimed-count", INLINE, "the bytes end after", &[3, 0x81], &[3, 0x9a, 0, 0x0f, 0xff, 0xff]),
        raw("manifest-claimed-bytes", INLINE, "the bytes end after", &[4, 0x40], &[4, 0x5a, 7, 0, 0, 0]),
        raw("manifest-huge-fields", INLINE, "at most 64", &[0xa7, 0, 1], &[0xb9, 1, 0, 0, 1]),
        raw("manifest-not-utf8", INLINE, "not UTF-8", b"hello.txt", b"hell\xff.txt"),
        raw(
            "manifest-long-float",
            META,
            "3.0 is not in its shortest form",
            &[0xf9, 0x42, 0],
            &[0xfa, 0x40, 0x40, 0, 0],
        ),
        items("manifest-unsorted-fields", INLINE, "field 1 is out of order", |v| entries(v).swap(1, 2)),
        items("manifest-duplicate-field", INLINE, "field 2 is there twice", add(&[], 2, true)),
        items("manifest-float-for-integer", INLINE, "expected an unsigned integer, found a float", set(&[9], 1.0)),
        items("manifest-negative-integer", INLINE, "found a negative integer", set(&[9], -1)),
        items("manifest-tag", INLINE, "found a tag", |v| {
            let time = at(v, &[9]);
            *time = Value::Tag(1, Box::new(time.clone()));
        }),
        items("manifest-null", SAFETENSORS, "expected a byte string", set(&[7], Value::Null)),
        items("manifest-integer-for-flag", INLINE, "expected true or false", set(&[2], 1)),
        items("manifest-text-for-bytes", INLINE, "expected a byte string, found a text", set(&[4], "")),
        items("manifest-not-a-map", INLINE, "expected a map, found an array", |v| *v = Value::Array(Vec::new())),
    ]
}

/// Manifests with a field too many, too few, or of another version.
fn shapes() -> Vec<Fault> {
    vec![
        items("manifest-newer-version", INLINE, "format version 2, this caskad reads up to 1", set(&[0], 2)),
        items("manifest-version-zero", INLINE, "no format version 0", set(&[0], 0)),
        items("manifest-without-version", INLINE, "does not start with its format version", drop_field(&[], 0)),
        items("manifest-without-key", INLINE, "its key is missing", drop_field(&[], 1)),
        items("manifest-without-files", INLINE, "its list of files is missing", drop_field(&[], 3)),
        items("manifest-without-hashes", INLINE, "its chunk hashes is missing", drop_field(&[], 4)),
        items("manifest-without-created", INLINE, "its creation time is missing", drop_field(&[], 9)),
        items("manifest-unknown-field", INLINE, "manifest, before byte 93: field 11 is unknown", add(&[], 11, 0)),
        items("manifest-unknown-file-field", INLINE, "field 9 is unknown", add(&[3, 0], 9, 0)),
        items("manifest-unknown-segment-field", SAFETENSORS, "field 6 is unknown", add(&[3, 0, 7, 0], 6, 0)),
        items("manifest-unknown-kind", INLINE, "file kind, before byte 33: 3 is unknown", set(&[3, 0, 1], 3)),
        items("manifest-key-with-dots", INLINE, "`..` is not allowed", set(&[1], "a/../b")),
        items("manifest-key-with-scope", INLINE, "its key has a scope", set(&[1], "@team/model")),
        items("manifest-short-parent", SAFETENSORS, "31 bytes, it takes 32", set(&[7], vec![0; 31])),
        items("manifest-long-parent", SAFETENSORS, "33 bytes, at most 32", set(&[7], vec![0; 33])),
        items("manifest-explicit-false", INLINE, "left out instead", add(&[3, 0], 4, false)),
        items("manifest-empty-segments", INLINE, "left out instead", add(&[3, 0], 7, Vec::<Value>::new())),
        items("manifest-empty-meta", INLINE, "left out instead", add(&[], 10, map([]))),
        items("manifest-empty-homes", INLINE, "left out instead", add(&[], 6, map([]))),
        items("manifest-symlink-without-target", DIRECTORY, "target is missing", drop_field(&[3, 3], 8)),
        items("manifest-symlink-with-length", DIRECTORY, "field 2 is not one of kind 1", add(&[3, 3], 2, 0)),
        items("manifest-directory-with-target", DIRECTORY, "field 8 is not one of kind 2", add(&[3, 1], 8, "x")),
    ]
}

/// File trees that must not be restored.
fn trees() -> Vec<Fault> {
    let path = |name, message, path: &str| {
        items(name, INLINE, message, |value| {
            *at(value, &[2]) = false.into();
            *at(value, &[3, 0, 0]) = path.into();
        })
    };
    let below = |name, message, below: &'static str| items(name, DIRECTORY, message, set(&[3, 4, 0], below));
    vec![
        path("manifest-path-above", "the component `..`", "../x"),
        path("manifest-path-up-and-down", "the component `..`", "a/../../x"),
        path("manifest-path-dot", "the component `.`", "a/./x"),
        path("manifest-path-absolute", "is absolute", "/etc/passwd"),
        path("manifest-path-doubled-slash", "empty component", "a//x"),
        path("manifest-path-trailing-slash", "empty component", "a/"),
        path("manifest-path-empty", "empty component", ""),
        path("manifest-path-nul", "contains a NUL", "a\0b"),
        path("manifest-path-too-long", "4097 bytes, at most 4096", &"x".repeat(4097)),
        items("manifest-single-in-directory", INLINE, "named without `/`", set(&[3, 0, 0], "a/x")),
        below("manifest-through-symlink", "goes through \"latest\", which is a symlink", "latest/x"),
        items(
            "manifest-through-file",
            DIRECTORY,
            "goes through \"empty\", which is a regular file",
            set(&[3, 3, 0], "empty/x"),
        ),
        items("manifest-through-empty-directory", DIRECTORY, "listed as empty", set(&[3, 2, 0], "cache/x")),
        below("manifest-path-twice", "there twice", "latest"),
        items("manifest-paths-unsorted", DIRECTORY, "out of order after", |v| {
            at(v, &[3]).as_array_mut().unwrap().swap(0, 1)
        }),
        items("manifest-paths-in-byte-order", DIRECTORY, "out of order after", |v| {
            at(v, &[3]).as_array_mut().unwrap()[4..].rotate_right(1);
        }),
        items("manifest-symlink-to-nothing", DIRECTORY, "target is empty", set(&[3, 3, 8], "")),
        items("manifest-symlink-nul", DIRECTORY, "contains a NUL", set(&[3, 3, 8], "a\0b")),
        items("manifest-single-of-many", DIRECTORY, "exactly one regular file", set(&[2], true)),
    ]
}

/// Columns and lengths that contradict each other.
fn sums() -> Vec<Fault> {
    let home = |chunk: u64, home: &[u8]| map([(chunk.into(), home.to_vec().into())]);
    let own_home = |value: &mut Value| {
        let own = at(value, &[4]).as_bytes().unwrap()[..4].to_vec();
        *at(value, &[6]) = map([(0.into(), own.into())]);
    };
    let inline_kib = |value: &mut Value| {
        *at(value, &[3, 0, 2]) = 1024.into();
        *at(value, &[3, 0, 3]) = Hash::of(&[0; 1024]).as_bytes().to_vec().into();
        *at(value, &[3, 0, 6]) = vec![0; 1024].into();
    };
    let offset = |segment: usize| [3, 0, 7, segment, 3];
    vec![
        items("manifest-hashes-short", SAFETENSORS, "32 for each", |v| {
            at(v, &[4]).as_bytes_mut().unwrap().truncate(95)
        }),
        items("manifest-lengths-short", SAFETENSORS, "32 for each", |v| {
            drop(at(v, &[5]).as_array_mut().unwrap().pop())
        }),
        items("manifest-chunk-empty", SAFETENSORS, "chunk 1: it has 0 bytes", set(&[5, 1], 0)),
        items("manifest-chunk-too-long", SAFETENSORS, "it has 1048577 bytes", set(&[5, 1], 1_048_577)),
        items("manifest-chunk-over-32-bits", SAFETENSORS, "longer than any chunk", set(&[5, 1], 1_u64 << 32)),
        items("manifest-file-too-long", SAFETENSORS, "do not add up", set(&[3, 0, 2], 131_501)),
        items("manifest-file-in-mid-chunk", DIRECTORY, "do not add up", set(&[3, 4, 2], 70_001)),
        items("manifest-file-length-overflow", DIRECTORY, "do not add up", set(&[3, 5, 2], u64::MAX)),
        items("manifest-chunk-left-over", DIRECTORY, "1 of them belong to no file", |v| {
            drop(at(v, &[3]).as_array_mut().unwrap().remove(5));
        }),
        items("manifest-empty-file-not-inline", DIRECTORY, "empty but not inline", drop_field(&[3, 2], 6)),
        items("manifest-inline-wrong-hash", INLINE, "do not match its blob hash", set(&[3, 0, 6], b"hellO\n".to_vec())),
        items("manifest-inline-wrong-length", INLINE, "its length is 7, but 6", set(&[3, 0, 2], 7)),
        items("manifest-inline-too-long", INLINE, "1024 bytes, at most 1023", inline_kib),
        items("manifest-segments-overlap", SAFETENSORS, "overlaps the one before", set(&offset(1), 131_159)),
        items("manifest-segments-unsorted", SAFETENSORS, "out of order", |v| {
            at(v, &[3, 0, 7]).as_array_mut().unwrap().swap(0, 1);
        }),
        items("manifest-segment-past-end", SAFETENSORS, "reaches past its 131500 bytes", set(&offset(2), 131_201)),
        items("manifest-segment-overflow", SAFETENSORS, "reaches past", set(&offset(2), u64::MAX)),
        items("manifest-shape-too-deep", SAFETENSORS, "at most 16", set(&[3, 0, 7, 0, 2], vec![Value::from(1); 17])),
        items("manifest-home-own", HOMES, "the chunk's own hash", own_home),
        items("manifest-home-of-nothing", HOMES, "there is no such chunk", set(&[6], home(3, b"abcd"))),
        items("manifest-home-short", HOMES, "3 bytes, it takes 4", set(&[6], home(0, b"abc"))),
        items("manifest-home-twice", HOMES, "field 0 is there twice", add(&[6], 0, b"abcd".to_vec())),
    ]
}

fn metadata() -> Vec<Fault> {
    let meta = |name, message, key: &str, value: Value| {
        items(name, META, message, set(&[10], map([(Value::from(key), value)])))
    };
    vec![
        meta("manifest-meta-infinite", "not finite", "x", f64::INFINITY.into()),
        meta("manifest-meta-nan", "not finite", "x", f64::NAN.into()),
        meta("manifest-meta-bool", "expected a float", "x", true.into()),
        meta("manifest-meta-list", "expected a float", "x", Value::Array(Vec::new())),
        meta("manifest-meta-integer-too-large", "does not fit 64 bits", "x", (1_u64 << 63).into()),
        meta(
            "manifest-meta-integer-too-small",
            "does not fit 64 bits",
            "x",
            (-1_i128 << 64).try_into().map(Value::Integer).unwrap(),
        ),
        meta("manifest-meta-key-empty", "it is empty", "", 0.into()),
        meta("manifest-meta-key-too-long", "4097 bytes, at most 4096", &"k".repeat(4097), 0.into()),
        items("manifest-meta-key-integer", META, "expected a text", set(&[10], map([(0.into(), 0.into())]))),
        items("manifest-meta-unsorted", META, "out of order", |v| entries(at(v, &[10])).swap(0, 1)),
        // Sorted as texts, but a longer text sorts after a shorter one in deterministic CBOR.
        items("manifest-meta-text-order", META, "out of order", |v| {
            *at(v, &[10]) = map(["aa", "b"].map(|key| (key.into(), 0.into())));
        }),
        items("manifest-meta-twice", META, "there twice", |v| {
            let first = entries(at(v, &[10]))[0].clone();
            entries(at(v, &[10])).insert(1, first);
        }),
    ]
}

fn records() -> Vec<Fault> {
    let trailing = Fault {
        name: "ref-trailing-byte",
        bytes: [&golden::bytes("ref-version")[..], &[0xf6]].concat(),
        message: "1 trailing bytes",
    };
    vec![
        trailing,
        items("ref-newer-version", "ref-version", "use a newer caskad", set(&[0], 2)),
        items("ref-unknown-kind", "ref-version", "record kind, before byte 5: 2 is unknown", set(&[1], 2)),
        items("ref-unknown-entity", "ref-version", "entity kind, before byte 23: 3 is unknown", set(&[3, 0], 3)),
        items("ref-without-value", "ref-version", "its value is missing", drop_field(&[], 4)),
        items("ref-without-sequence", "ref-label", "its sequence number is missing", drop_field(&[], 2)),
        items("ref-without-entity", "ref-pin", "its entity is missing", drop_field(&[], 3)),
        items("ref-unknown-field", "ref-label", "field 5 is unknown", add(&[], 5, 0)),
        items("ref-short-entity", "ref-version", "not [kind, key, number or label]", |v| {
            drop(at(v, &[3]).as_array_mut().unwrap().pop());
        }),
        items("ref-entity-mismatch", "ref-label", "expected an unsigned integer, found a text", set(&[3, 0], 0)),
        items(
            "ref-value-of-another",
            "ref-pin",
            "manifest hash, before byte 27: expected a byte string",
            set(&[3, 0], 0),
        ),
        items("ref-label-of-digits", "ref-label", "given by the store", set(&[3, 2], "12")),
        items("ref-key-with-alias", "ref-version", "its scope is no public key", set(&[3, 1], "@alice/model")),
        items("ref-entry-incomplete", "ref-version", "its new chunk count is missing", drop_field(&[4], 5)),
        items("ref-entry-unknown-field", "ref-version", "field 10 is unknown", add(&[4], 10, 0)),
        items("ref-pin-null", "ref-pin", "found a float or simple value", add(&[4], 1, Value::Null)),
        items("removal-with-value", "removal-label", "which only a ref has", add(&[], 4, 0)),
        items("removal-without-entity", "removal-pin", "its entity is missing", drop_field(&[], 3)),
    ]
}

#[test]
fn each_fault_is_refused_by_its_name() {
    let faults: Vec<_> =
        [encodings(), shapes(), trees(), sums(), metadata(), records()].into_iter().flatten().collect();
    let files: BTreeMap<_, _> =
        faults.iter().map(|fault| (format!("{}.cbor", fault.name), fault.bytes.clone())).collect();
    assert_eq!(files.len(), faults.len(), "two faults have one name");
    fixtures::check("reject", &files);
    let mut wrong = Vec::new();
    for Fault { name, bytes, message } in faults {
        let refused = match name.starts_with("manifest") {
            true => Manifest::decode(&bytes).err(),
            false => RefRecord::decode(&bytes).err(),
        };
        match refused.map(|error| error.to_string()) {
            Some(error) if error.contains(message) => {}
            other => wrong.push(format!("{name}: expected …{message}…, got {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
