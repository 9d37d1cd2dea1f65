//! Requests that fail: at each of them in turn, and what is left is what was acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use caskad::backend::{ObjectBackend, ObjectOptions};
use caskad::store::IndexPlace;
use caskad::{Error, Store};

use crate::fault::{Fate, Faults};
use crate::stores::{Model, Op, apply, assert_sound, noise, options, read};

/// Small enough that the scenario fills several packs.
const PACK_BYTES: u64 = 64 << 10;

pub(crate) fn open(faults: &Faults) -> Result<Store, Error> {
    let (timeout, pause) = (Duration::from_millis(200), Duration::from_millis(5));
    let settings = ObjectOptions { timeout, pause, ..ObjectOptions::default() };
    let backend = ObjectBackend::open(faults.operator(), settings)?;
    // Without an index: all that a new machine has are the packs.
    options(PACK_BYTES).open_backend(Arc::new(backend), IndexPlace::Memory)
}

fn scenario() -> Vec<Op> {
    let shared = noise("shared", 90_000);
    let put = |key, label, payload: Vec<u8>| Op::Put { key, label, payload: payload.into() };
    vec![
        put("a", None, shared.clone()),
        put("b", None, noise("large", 400_000)),
        put("a", Some("best"), [&shared[..], &noise("two", 50_000)].concat()),
        Op::Pin("a", 1),
        put("c/inline", None, b"a few bytes".to_vec()),
        Op::Remove("b", 1),
        Op::Gc,
        put("a", Some("best"), [&shared[..], &noise("three", 2_000)].concat()),
        Op::Unpin("a", 1),
        Op::Remove("a", 2),
        Op::Gc,
        put("b", None, noise("after", 3_000)),
    ]
}

/// Runs the scenario until something fails. The answer is what was acknowledged, and what it would be with the step that failed.
fn run(faults: &Faults) -> (Model, Model) {
    let mut acknowledged = Model::default();
    let Ok(store) = open(faults) else { return (acknowledged.clone(), acknowledged) };
    for op in scenario() {
        let mut next = acknowledged.clone();
        next.apply(&op).unwrap();
        if apply(&store, &op).is_err() {
            return (acknowledged, next);
        }
        acknowledged = next;
    }
    (acknowledged.clone(), acknowledged)
}

/// Every part that there is belongs to an object or is known as waste.
fn assert_nothing_is_left_over(faults: &Faults, context: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let catalogue = runtime.block_on(faults.operator().read("catalogue")).unwrap().to_vec();
    let body = &catalogue[catalogue.iter().position(|&byte| byte == b'\n').unwrap() + 1..];
    let catalogue: serde_json::Value = serde_json::from_slice(body).unwrap();
    let mut named = BTreeSet::new();
    let mut take = |object: &str, mut offset: u64, runs: &serde_json::Value| {
        for run in runs.as_array().unwrap() {
            let [len, epoch, writer, count] = [0, 1, 2, 3].map(|nth: usize| run[nth].as_u64().unwrap());
            for _ in 0..count {
                named.insert(format!("objects/{object}/{offset:012x}-{epoch}-{writer}"));
                offset += len;
            }
        }
    };
    for (name, entry) in catalogue["objects"].as_object().unwrap() {
        take(name, 0, &entry["parts"]);
    }
    let parts: BTreeSet<String> = faults.paths().into_iter().filter(|path| path != "catalogue").collect();
    assert_eq!(parts, named, "{context}");
}

#[test]
fn whatever_request_fails_what_was_acknowledged_is_there() {
    let whole = Faults::new();
    let (expected, _) = run(&whole);
    assert_eq!(read(&open(&whole).unwrap()).unwrap(), expected.visible());
    let changes = whole.made();
    assert!(changes > 25, "{changes}");
    for fate in [Fate::Refused, Fate::Unanswered, Fate::Stalled] {
        // A stall takes as long as the bound on it.
        for count in (0..changes).step_by(if fate == Fate::Stalled { 5 } else { 1 }) {
            let context = format!("{fate:?} from change {count} on");
            let faults = Faults::new();
            faults.fail_after(count, fate);
            let (acknowledged, attempted) = run(&faults);
            faults.heal();
            let store = open(&faults).unwrap_or_else(|error| panic!("{context}: {error}"));
            let left = read(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!([acknowledged.visible(), attempted.visible()].contains(&left), "{context}: {left:#?}");
            assert_sound(&store, &context);
            // The store goes on, and clears away what the failure has left.
            apply(&store, &Op::Put { key: "next", label: None, payload: noise("next", 10_000).into() }).unwrap();
            drop(store);
            let store = open(&faults).unwrap();
            apply(&store, &Op::Put { key: "next", label: None, payload: noise("over", 10_000).into() }).unwrap();
            drop(store);
            assert_nothing_is_left_over(&faults, &context);
        }
    }
}

#[test]
fn requests_that_stumble_are_repeated() {
    for fate in [Fate::Refused, Fate::Unanswered, Fate::Stalled] {
        for count in [0, 1, 2, 3, 7, 12, 20] {
            let faults = Faults::new();
            faults.stumble(count, fate, 1);
            let (acknowledged, _) = run(&faults);
            let mut expected = Model::default();
            scenario().iter().for_each(|op| expected.apply(op).unwrap());
            // A catalogue on a store that knows no conditions is not sent twice when its fate is unknown.
            if fate != Fate::Stalled {
                assert_eq!(acknowledged, expected, "{fate:?} at change {count}");
            }
            assert_eq!(read(&open(&faults).unwrap()).unwrap(), acknowledged.visible());
        }
    }
}
