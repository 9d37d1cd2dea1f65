//! The same crashes on a store whose versions are differences to one another, with a key that is compacted in between.

use caskad::backend::testing::FaultDisk;

use crate::failing::fail_everywhere;
use crate::formats::{Tensor, safetensors};
use crate::rebuild::{crash_while_rebuilding, without_index};
use crate::scenario::{Kept, Run, Step, check, put};
use crate::stores::Op;
use crate::{crash_twice, whatever_the_crash};

/// The weights of a small model in its `step`-th step of training: each has moved a little since the step before. The one tensor has a
/// chunk of its own, the other shares one.
pub(crate) fn checkpoint(step: u32) -> Vec<u8> {
    let tensor = |name: &str, elements: u32| {
        let weight = |n: u32| (n as f32).sin() + step as f32 * 1e-6;
        let bytes = (0..elements).flat_map(|n| weight(n).to_le_bytes()).collect();
        Tensor { name: name.to_owned(), dtype: "F32", shape: vec![elements.into()], bytes }
    };
    safetensors(&[tensor("embed", 17_000), tensor("head", 2_000)])
}

/// Versions that are differences to one another, removed, collected, and turned around.
fn deltas() -> Vec<Step> {
    let step = |step: u32| put("t", None, checkpoint(step));
    let (compact, gc) = (|| Step::Do(Op::Compact("t")), || Step::Do(Op::Gc));
    vec![
        step(1),
        step(2),
        put("u", None, checkpoint(2)),
        step(3),
        Step::Do(Op::Remove("t", 1)),
        gc(),
        compact(),
        step(4),
        Step::Reopen,
        step(5),
        Step::Do(Op::Remove("t", 3)),
        compact(),
        Step::Do(Op::Remove("u", 1)),
        Step::Do(Op::Remove("t", 5)),
        gc(),
        step(6),
        compact(),
    ]
}

/// What is proved of differences would else be proved of something else.
#[test]
fn the_versions_are_kept_as_differences() {
    let steps = 1..=deltas().len();
    let with_deltas = steps.filter(|&done| {
        let (_, store) = Run::open_end(&FaultDisk::new(), &deltas()[..done], Kept::Journal);
        store.unwrap().stat().unwrap().codecs.keys().any(|codec| codec.has_base())
    });
    assert!(with_deltas.count() >= 10);
}

#[test]
fn whatever_the_crash_differences_have_their_bases() {
    whatever_the_crash(&deltas(), Kept::Journal);
}

#[test]
fn whatever_the_crash_differences_have_their_bases_with_a_database() {
    whatever_the_crash(&deltas(), Kept::Database);
}

#[test]
fn a_crash_during_recovery_costs_no_base_either() {
    for (kept, every) in [(Kept::Journal, 7), (Kept::Database, 37)] {
        let pairs = crash_twice(&deltas(), kept, every);
        eprintln!("crash twice, differences, {kept:?}: {pairs} pairs");
    }
}

#[test]
fn a_full_or_broken_disk_spares_differences_and_their_bases() {
    fail_everywhere(&deltas(), &[Kept::Journal, Kept::Database]);
}

#[test]
fn a_crash_while_the_index_is_rebuilt_costs_no_base() {
    crash_while_rebuilding(&deltas(), &[Kept::Journal, Kept::Database]);
}

/// The index is lost after each step: what was swept comes back from the packs, and nothing relies on it.
#[test]
fn an_index_lost_at_any_time_costs_no_difference_its_base() {
    for done in 1..=deltas().len() {
        let (disk, run) = without_index(&deltas()[..done], Kept::Database);
        check(&disk, &run, &format!("index lost after {done} steps"));
    }
}
