//! A real store against a plain map: any operations in any order, and many threads at once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

mod formats;
mod stores;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caskad::backend::MemoryBackend;
use caskad::chunk::Codec;
use caskad::store::IndexPlace;
use caskad::{Error, GcOptions, ImportOptions, Monitor, Store};
use proptest::prelude::*;

use formats::{Tensor, checkpoint, safetensors};
use stores::{Bytes, Model, Op, Outcome, apply, assert_sound, at, get, noise, options, read};

const KEYS: [&str; 3] = ["m", "team/model", "team/model2"];
const LABELS: [&str; 3] = ["best", "old", "v1.0"];
const PACK_BYTES: u64 = 200 << 10;

/// What is done to the store: an operation, or something around it.
#[derive(Debug, Clone)]
enum Action {
    Do(Op),
    Reopen,
    /// Reopens without the index, which the packs then refill.
    LoseIndex,
    /// Exports a version and imports it as the next one of another key.
    Copy {
        from: (&'static str, u64),
        to: &'static str,
    },
}

/// Payloads that share content: stretches of a few streams, and tensors of a few names.
fn payloads() -> impl Strategy<Value = Bytes> {
    let stretch = (0..3_u8, 0..200_000_usize, 0..100_000_usize);
    let opaque = prop::collection::vec(stretch, 0..4).prop_map(|stretches| {
        let taken = stretches.into_iter().flat_map(|(stream, start, len)| {
            let stream = noise(&format!("stream {stream}"), 300_000);
            stream[start..start + len].to_vec()
        });
        taken.collect::<Vec<u8>>().into()
    });
    let tensors = prop::collection::vec((0..6_u8, prop::sample::select(vec!["BF16", "F32", "U8"])), 0..4);
    let container = tensors.prop_map(|tensors| {
        let named: BTreeMap<u8, &'static str> = tensors.into_iter().collect();
        let tensor = |(name, dtype)| Tensor::random(&format!("layer.{name}"), dtype, 4096 * (1 + u64::from(name)));
        safetensors(&named.into_iter().map(tensor).collect::<Vec<_>>()).into()
    });
    let text = (0..5000_usize).prop_map(|lines| "caskad keeps every version\n".repeat(lines).into_bytes().into());
    let inline = (0..1100_usize).prop_map(|len| noise("inline", len).into());
    // Steps of one training, which are kept as differences to one another.
    let trained = (0..2_u8, 0..9_u32).prop_map(|(run, step)| checkpoint(&format!("run {run}"), step).into());
    prop_oneof![4 => opaque, 3 => container, 5 => trained, 1 => text, 1 => inline]
}

fn actions() -> impl Strategy<Value = Action> {
    let key = || prop::sample::select(KEYS.to_vec());
    let label = || prop::sample::select(LABELS.to_vec());
    let version = || 1..5_u64;
    prop_oneof![
        8 => (key(), prop::option::of(label()), payloads()).prop_map(|(key, label, payload)| Action::Do(Op::Put { key, label, payload })),
        2 => (key(), version(), label()).prop_map(|(key, version, label)| Action::Do(Op::Tag(key, version, label))),
        1 => (key(), label()).prop_map(|(key, label)| Action::Do(Op::Untag(key, label))),
        1 => (key(), version()).prop_map(|(key, version)| Action::Do(Op::Pin(key, version))),
        1 => (key(), version()).prop_map(|(key, version)| Action::Do(Op::Unpin(key, version))),
        4 => (key(), version()).prop_map(|(key, version)| Action::Do(Op::Remove(key, version))),
        3 => Just(Action::Do(Op::Gc)),
        1 => Just(Action::Do(Op::GcDryRun)),
        3 => key().prop_map(|key| Action::Do(Op::Compact(key))),
        1 => Just(Action::Reopen),
        1 => Just(Action::LoseIndex),
        2 => (key(), version(), key()).prop_map(|(key, version, to)| Action::Copy { from: (key, version), to }),
    ]
}

/// Does `action` to the model.
fn act_on_model(model: &mut Model, action: &Action) -> Outcome {
    match action {
        Action::Do(op) => model.apply(op),
        Action::Reopen | Action::LoseIndex => Ok(()),
        Action::Copy { from: (key, version), to } => {
            let found = model.0.get(*key).and_then(|state| state.versions.get(version)).ok_or("not_found")?;
            let payload = found.clone();
            model.apply(&Op::Put { key: to, label: None, payload })
        }
    }
}

fn copy(store: &Store, (key, version): (&str, u64), to: &str) -> Result<(), Error> {
    let mut archive = Vec::new();
    store.export_to(&at(key, version), &mut archive, &Monitor::none())?;
    let mut options = ImportOptions::default();
    options.name = Some(to.parse()?);
    store.import_from(archive.as_slice(), "archive", &options, &Monitor::none()).map(drop)
}

/// What a collection leaves are exactly the chunks that manifests list, and the bases of those.
fn assert_collected(store: &Store) {
    let mut live = HashSet::new();
    for key in store.keys("").unwrap() {
        for version in store.log(&key.key).unwrap() {
            let version = store.version(&at(key.key.as_str(), version.version)).unwrap();
            live.extend(version.manifest().chunks.iter().map(|chunk| chunk.hash));
        }
    }
    let stat = store.stat().unwrap();
    let deltas: u64 = stat.codecs.iter().filter(|(codec, _)| codec.has_base()).map(|(_, used)| used.chunks).sum();
    let bases = stat.chunks.checked_sub(live.len() as u64).expect("a chunk is gone");
    // Each that nothing lists has a chain of deltas upon it, up to one that something does.
    assert!(bases <= deltas, "{bases} chunks that nothing reaches are left beside {deltas} deltas");
}

/// Does `actions` to the store that `open` gives, and compares it with the model after each.
fn compare(actions: &[Action], open: impl Fn(bool) -> Store) {
    let (mut model, mut store) = (Model::default(), Some(open(false)));
    for action in actions {
        let expected = act_on_model(&mut model, action);
        let opened = store.take().unwrap();
        let before = opened.stat().unwrap();
        let outcome = match action {
            Action::Do(op) => apply(&opened, op),
            Action::Copy { from, to } => copy(&opened, *from, to),
            Action::Reopen | Action::LoseIndex => Ok(()),
        };
        assert_eq!(outcome.map_err(|error| error.kind()), expected, "{action:?}");
        store = match action {
            Action::Reopen | Action::LoseIndex => {
                drop(opened);
                Some(open(matches!(action, Action::LoseIndex)))
            }
            _ => Some(opened),
        };
        let store = store.as_ref().unwrap();
        match action {
            Action::Do(Op::Gc) => assert_collected(store),
            Action::Do(Op::GcDryRun) => {
                let after = store.stat().unwrap();
                assert_eq!(
                    (before.pack_bytes, before.chunks),
                    (after.pack_bytes, after.chunks),
                    "a dry run changed something"
                );
            }
            _ => {}
        }
        assert!(read(store).unwrap() == model.visible(), "after {action:?}");
    }
    assert_sound(&store.unwrap(), "at the end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// In memory, where each reopen refills the index from the packs.
    #[test]
    fn a_store_in_memory_does_what_a_map_does(actions in prop::collection::vec(actions(), 1..16)) {
        let backend = Arc::new(MemoryBackend::new());
        compare(&actions, |_| options(PACK_BYTES).open_backend(backend.clone(), IndexPlace::Memory).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_disk_does_what_a_map_does(actions in prop::collection::vec(actions(), 1..16)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        compare(&actions, |lose_index| {
            if lose_index {
                std::fs::remove_file(path.join("index.journal")).unwrap();
            }
            options(PACK_BYTES).open(&path).unwrap()
        });
    }
}

/// Threads that put, a thread that removes, one that collects without pause, and one that reads what is there.
#[test]
fn puts_gets_removals_and_collections_may_run_at_once() {
    for seed in 0..6 {
        let backend = Arc::new(MemoryBackend::new());
        let store = options(PACK_BYTES).open_backend(backend.clone(), IndexPlace::Memory).unwrap();
        let done = AtomicBool::new(false);
        let acknowledged: Vec<BTreeMap<u64, Vec<u8>>> = std::thread::scope(|scope| {
            let putting: Vec<_> = (0..4)
                .map(|thread| {
                    scope.spawn({
                        let store = &store;
                        move || put_some(store, seed, thread)
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.gc(GcOptions::default(), &Monitor::none()).unwrap();
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for key in store.keys("kept").unwrap() {
                        for version in store.log(&key.key).unwrap() {
                            get(&store, key.key.as_str(), version.version).unwrap();
                        }
                    }
                }
            });
            let acknowledged = putting.into_iter().map(|thread| thread.join().unwrap()).collect();
            done.store(true, Ordering::Relaxed);
            acknowledged
        });
        let check = |store: &Store| {
            for (thread, versions) in acknowledged.iter().enumerate() {
                for (version, bytes) in versions {
                    assert!(get(store, &format!("kept/{thread}"), *version).unwrap() == *bytes, "seed {seed}");
                }
            }
            assert!(store.keys("gone").unwrap().is_empty());
            assert_sound(store, &format!("seed {seed}"));
        };
        check(&store);
        store.gc(GcOptions::default(), &Monitor::none()).unwrap();
        check(&store);
        assert_collected(&store);
        drop(store);
        check(&options(PACK_BYTES).open_backend(backend, IndexPlace::Memory).unwrap());
    }
}

/// Puts versions of a key that stays. Their content is what another thread has put and removed a moment ago: dead, perhaps about to
/// be swept, and now wanted again.
fn put_some(store: &Store, seed: u64, thread: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut kept = BTreeMap::new();
    let put = |key: String, bytes: &[u8]| {
        let payload = caskad::Payload::bytes("payload.bin", bytes);
        store.put(&key.parse().unwrap(), payload, &caskad::PutOptions::default(), &Monitor::none()).unwrap().version
    };
    let part = |round: u64, thread: u64| noise(&format!("{seed} {round} {}", thread % 4), 15_000);
    for round in 0..40 {
        let passing = format!("gone/{}", round % 3 + 3 * thread);
        let version = put(passing.clone(), &[part(round, thread + 1), part(round, thread + 2)].concat());
        store.remove(&at(&passing, version)).unwrap();
        let bytes = part(round, thread);
        kept.insert(put(format!("kept/{thread}"), &bytes), bytes);
    }
    kept
}

/// Keys that are trained step by step, each version a difference to others, while older versions are removed, keys are compacted and
/// collections run without pause.
#[test]
fn differences_keep_their_bases_while_all_else_goes_on() {
    for seed in 0..3 {
        let backend = Arc::new(MemoryBackend::new());
        let store = options(PACK_BYTES).open_backend(backend.clone(), IndexPlace::Memory).unwrap();
        let done = AtomicBool::new(false);
        let acknowledged: Vec<BTreeMap<u64, Vec<u8>>> = std::thread::scope(|scope| {
            let training: Vec<_> = (0..3)
                .map(|thread| {
                    scope.spawn({
                        let store = &store;
                        move || train(store, seed, thread)
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.gc(GcOptions::default(), &Monitor::none()).unwrap();
                }
            });
            scope.spawn(|| {
                for key in ["run/0", "run/1", "run/2"].into_iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    match apply(&store, &Op::Compact(key)) {
                        Err(Error::NotFound { .. }) => {}
                        outcome => outcome.unwrap(),
                    }
                }
            });
            let acknowledged = training.into_iter().map(|thread| thread.join().unwrap()).collect();
            done.store(true, Ordering::Relaxed);
            acknowledged
        });
        let check = |store: &Store| {
            for (thread, versions) in acknowledged.iter().enumerate() {
                for (version, bytes) in versions {
                    assert!(get(store, &format!("run/{thread}"), *version).unwrap() == *bytes, "seed {seed}");
                }
            }
            assert_sound(store, &format!("seed {seed}"));
        };
        check(&store);
        apply(&store, &Op::Gc).unwrap();
        check(&store);
        assert_collected(&store);
        drop(store);
        check(&options(PACK_BYTES).open_backend(backend, IndexPlace::Memory).unwrap());
    }
}

/// Puts steps of a training that starts where that of another thread has been a moment ago, and removes every other version.
fn train(store: &Store, seed: u32, thread: u32) -> BTreeMap<u64, Vec<u8>> {
    let (key, mut kept) = (format!("run/{thread}"), BTreeMap::new());
    for round in 0..24 {
        let run = format!("{seed} {}", (round / 6 + thread) % 3);
        let bytes = checkpoint(&run, round);
        let payload = caskad::Payload::bytes("payload.bin", &bytes);
        let put = store.put(&key.parse().unwrap(), payload, &caskad::PutOptions::default(), &Monitor::none()).unwrap();
        kept.insert(put.version, bytes);
        if round % 2 == 1 {
            store.remove(&at(&key, put.version - 1)).unwrap();
            kept.remove(&(put.version - 1));
        }
    }
    kept
}

/// Numbers are given out once, whatever was removed, collected or rebuilt in between.
#[test]
fn a_version_number_is_never_given_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen = HashSet::new();
    for round in 0..8_u64 {
        let store = options(PACK_BYTES).open(directory.path()).unwrap();
        let payload = noise(&format!("{round}"), 5000).into();
        apply(&store, &Op::Put { key: "m", label: Some("l"), payload }).unwrap();
        let number = store.log(&"m".parse().unwrap()).unwrap()[0].version;
        assert!(seen.insert(number), "{number} again");
        store.remove(&at("m", number)).unwrap();
        for _ in 0..round % 4 {
            store.gc(GcOptions::default(), &Monitor::none()).unwrap();
        }
        drop(store);
        if round % 2 == 1 {
            std::fs::remove_file(directory.path().join("index.journal")).unwrap();
        }
    }
}

/// A chunk that nothing lists stays while a patch needs it, and goes with the patch.
#[test]
fn a_patch_keeps_its_base() {
    let store = options(PACK_BYTES).open_backend(Arc::new(MemoryBackend::new()), IndexPlace::Memory).unwrap();
    let text = |lines| Bytes::from("caskad keeps every version\n".repeat(lines).into_bytes());
    for lines in [38, 607] {
        apply(&store, &Op::Put { key: "m", label: None, payload: text(lines) }).unwrap();
    }
    store.remove(&at("m", 1)).unwrap();
    apply(&store, &Op::Gc).unwrap();
    assert_eq!(
        store.stat().unwrap().codecs[&Codec::Patch].chunks,
        1,
        "the second is kept as what it adds to the first"
    );
    assert_eq!(store.stat().unwrap().chunks, 2);
    assert_collected(&store);
    assert!(get(&store, "m", 2).unwrap() == *text(607).0);
    store.remove(&at("m", 2)).unwrap();
    apply(&store, &Op::Gc).unwrap();
    assert_eq!(store.stat().unwrap().chunks, 0);
}

/// A payload may have the bytes of a manifest that the store keeps: it is a chunk of its own.
#[test]
fn a_manifest_can_be_a_payload() {
    let store = options(PACK_BYTES).open_backend(Arc::new(MemoryBackend::new()), IndexPlace::Memory).unwrap();
    let tensors: Vec<Tensor> = (0..60).map(|n| Tensor::random(&format!("layer.{n}"), "F32", 64)).collect();
    let payload = Bytes::from(safetensors(&tensors));
    apply(&store, &Op::Put { key: "m", label: None, payload: payload.clone() }).unwrap();
    let manifest = Bytes::from(store.version(&at("m", 1)).unwrap().manifest().encode());
    assert!(manifest.0.len() > 1024, "it is not carried inline");
    apply(&store, &Op::Put { key: "manifests", label: None, payload: manifest.clone() }).unwrap();
    for key in ["m", "manifests"] {
        let expected = if key == "m" { &payload } else { &manifest };
        assert!(get(&store, key, 1).unwrap() == *expected.0, "{key}");
    }
    assert_sound(&store, "with a manifest as payload");
    store.remove(&at("m", 1)).unwrap();
    store.gc(GcOptions::default(), &Monitor::none()).unwrap();
    assert!(get(&store, "manifests", 1).unwrap() == *manifest.0);
}
