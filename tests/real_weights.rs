//! What holds for real weights: they come back, they shrink as measured, and one tensor is stored once whatever file it is in.
//!
//! The files are cuts of a trained model: `tests/fixtures/README.md`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod formats;

use std::collections::BTreeSet;
use std::path::PathBuf;

use caskad::chunk::Codec;
use caskad::split::recognise;
use caskad::{GetOptions, Hash, Monitor, Payload, PutOptions, PutReport, Store, VersionRef};
use formats::{Member, Tensor, npy, pt, zip};

const F32: &str = "real_f32.safetensors";
const BF16: &str = "real_bf16_v1.safetensors";
const TUNED: &str = "real_bf16_v2.safetensors";

/// Tensors from here on share chunks with their twins in other files; smaller ones are cut together with their neighbours.
const SHARED_BYTES: u64 = 64 << 10;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    (folder, store)
}

fn put(store: &Store, key: &str, payload: Payload<'_>) -> PutReport {
    store.put(&key.parse().unwrap(), payload, &PutOptions::default(), &Monitor::none()).unwrap()
}

fn get(store: &Store, wanted: &str) -> Vec<u8> {
    let mut out = Vec::new();
    store.get_to(&wanted.parse().unwrap(), &mut out, &GetOptions::default(), &Monitor::none()).unwrap();
    out
}

/// The tensors of a fixture, to be put into other files.
fn tensors(name: &str, dtype: &'static str) -> Vec<Tensor> {
    let payload = std::fs::read(path(name)).unwrap();
    let layout = recognise(payload.len() as u64, &mut |offset, buffer| {
        buffer.copy_from_slice(&payload[offset as usize..][..buffer.len()]);
        Ok(())
    });
    let tensor = |segment: caskad::split::Segment| {
        assert_eq!(segment.dtype, dtype);
        let bytes = payload[segment.span.offset as usize..segment.span.end() as usize].to_vec();
        Tensor { name: segment.name, dtype, shape: segment.shape, bytes }
    };
    layout.unwrap().segments.into_iter().map(tensor).collect()
}

/// The chunks of each large tensor of a version, by the order in which they lie in the file.
fn tensor_chunks(store: &Store, wanted: &str) -> Vec<Vec<Hash>> {
    let version = store.version(&wanted.parse::<VersionRef>().unwrap()).unwrap();
    let manifest = version.manifest();
    let large = manifest.segments().filter(|(_, segment)| segment.tensor && segment.span.len > SHARED_BYTES);
    let chunks = |file, span| manifest.chunks_overlapping(file, span).map(|(chunk, _)| manifest.chunks[chunk].hash);
    large.map(|(file, segment)| chunks(file, segment.span).collect()).collect()
}

#[test]
fn real_weights_come_back_and_shrink_as_measured() {
    // Measured: f32 0.834, bf16 0.667.
    for (name, most) in [(F32, 0.86), (BF16, 0.70), (TUNED, 0.70)] {
        let (_folder, store) = open();
        let raw = std::fs::read(path(name)).unwrap();
        let report = put(&store, "real/weights", Payload::path(path(name)));
        let ratio = report.stored_bytes as f64 / raw.len() as f64;
        println!("{name}: {ratio:.3}");
        assert!(ratio <= most, "{name}: {ratio:.3} of the raw bytes, at most {most} was expected");
        assert!(ratio > most - 0.1, "{name}: {ratio:.3} is better than ever: tighten the bound");
        assert!(get(&store, "real/weights") == raw, "{name}");

        let codecs = store.stat().unwrap().codecs;
        let planes = codecs.get(&Codec::Planes).map_or(0, |used| used.raw_bytes);
        assert!(planes as f64 > 0.98 * raw.len() as f64, "{name}: {codecs:?}");
    }
}

#[test]
fn what_is_stored_already_adds_nothing_but_its_manifest() {
    let (_folder, store) = open();
    for name in [F32, BF16] {
        let first = put(&store, "real/first", Payload::path(path(name)));
        assert!(first.new_chunks > 0);
        // As a file of another key, and as a stream, which is cut only after it was read.
        let bytes = std::fs::read(path(name)).unwrap();
        for (key, payload) in [
            ("real/first", Payload::path(path(name))),
            ("real/second", Payload::path(path(name))),
            ("real/third", Payload::bytes("m", &bytes)),
        ] {
            let again = put(&store, key, payload);
            assert_eq!((again.new_chunks, again.chunks), (0, first.chunks), "{name} as {key}");
            assert!(again.stored_bytes < 4096, "{name} as {key}: {} bytes", again.stored_bytes);
        }
    }
}

#[test]
fn a_fine_tuned_version_shares_what_training_left_alone() {
    let (_folder, store) = open();
    put(&store, "real/weights", Payload::path(path(BF16)));
    put(&store, "real/weights", Payload::path(path(TUNED)));
    assert!(get(&store, "real/weights@1") == std::fs::read(path(BF16)).unwrap());
    assert!(get(&store, "real/weights@2") == std::fs::read(path(TUNED)).unwrap());
    let diff = store.diff(&"real/weights@1".parse().unwrap(), &"real/weights@2".parse().unwrap()).unwrap();
    assert!(diff.added.is_empty() && diff.removed.is_empty());
    assert_eq!(diff.unchanged as usize + diff.changed.len(), tensors(BF16, "BF16").len());
    assert!(diff.changed.iter().any(|entry| entry.tensor.as_deref() == Some("embeddings.word_embeddings.weight")));
}

#[test]
fn a_tensor_has_the_same_chunks_in_every_container() {
    let (_folder, store) = open();
    for (name, dtype, descr) in [(F32, "F32", Some("<f4")), (BF16, "BF16", None)] {
        let tensors = tensors(name, dtype);
        let large = tensors.iter().filter(|tensor| tensor.bytes.len() as u64 > SHARED_BYTES).count();
        put(&store, "real/safetensors", Payload::path(path(name)));
        let expected = tensor_chunks(&store, "real/safetensors");
        assert_eq!(expected.len(), large);
        assert_eq!(expected.concat().iter().collect::<BTreeSet<_>>().len(), expected.concat().len());

        let mut twins = vec![("real/pt", pt(&tensors))];
        // NumPy has no bf16.
        if let Some(descr) = descr {
            let member = |tensor: &Tensor| {
                let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
                let array = npy(1, descr, false, &format!("({},)", shape.join(", ")), &tensor.bytes);
                Member::stored(&format!("{}.npy", tensor.name), &array)
            };
            twins.push(("real/npz", zip(&tensors.iter().map(member).collect::<Vec<_>>(), true)));
        }
        for (key, twin) in twins {
            let report = put(&store, key, Payload::bytes("twin", &twin));
            assert_eq!(tensor_chunks(&store, key), expected, "{name} as {key}");
            // New are the frame of the container and the small tensors, which lie among other neighbours.
            assert!(report.stored_bytes < 32 << 10, "{name} as {key}: {} bytes", report.stored_bytes);
            assert!(get(&store, key) == twin, "{name} as {key}");
        }
    }
}
