//! Parts of a pack that are gone: what lay in them is damaged, and nothing else.

use caskad::Error;

use crate::fault::Faults;
use crate::faults::open;
use crate::stores::{Op, apply, get, noise};

/// Each put is a part of the pack, which the index is built from anew.
#[test]
fn what_lies_behind_a_lost_part_is_found_by_an_index_that_is_built_anew() {
    let faults = Faults::new();
    let store = open(&faults).unwrap();
    for key in ["a", "b", "c"] {
        apply(&store, &Op::Put { key, label: None, payload: noise(key, 5000).into() }).unwrap();
    }
    drop(store);
    let mut parts: Vec<String> = faults.paths().into_iter().filter(|path| path.starts_with("objects/")).collect();
    parts.sort();
    assert_eq!(parts.len(), 3, "{parts:?}");
    faults.lose(&parts[1]);
    let store = open(&faults).unwrap();
    for key in ["a", "c"] {
        assert!(get(&store, key, 1).unwrap() == noise(key, 5000), "{key}");
    }
    assert!(matches!(get(&store, "b", 1), Err(Error::NotFound { .. })));
    apply(&store, &Op::Put { key: "b", label: None, payload: noise("b", 5000).into() }).unwrap();
    assert!(get(&store, "b", 1).unwrap() == noise("b", 5000));
}
