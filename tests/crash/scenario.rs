//! What is done to the store whose disk stops, and what must hold afterwards.

use std::sync::Arc;

use caskad::backend::testing::FaultDisk;
use caskad::store::IndexPlace;
use caskad::{Error, Store};

use crate::deltas::checkpoint;
use crate::stores::{Model, Op, apply, assert_sound, noise, options, read};

/// Small enough that the scenario fills several packs.
pub(crate) const PACK_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Do(Op),
    Reopen,
}

pub(crate) fn put(key: &'static str, label: Option<&'static str>, payload: Vec<u8>) -> Step {
    Step::Do(Op::Put { key, label, payload: payload.into() })
}

/// Puts that share content and fill packs, labels, pins, removals, collections that copy, and a reopen in the middle.
pub(crate) fn scenario() -> Vec<Step> {
    let shared = noise("shared", 90_000);
    let with = |tail: &str, len: usize| [&shared[..], &noise(tail, len)].concat();
    vec![
        put("a", None, shared.clone()),
        put("b", None, noise("large", 1_200_000)),
        put("a", Some("best"), with("two", 50_000)),
        Step::Do(Op::Tag("a", 1, "old")),
        Step::Do(Op::Pin("a", 1)),
        put("c/inline", None, b"a few bytes".to_vec()),
        Step::Do(Op::Remove("b", 1)),
        Step::Do(Op::Gc),
        put("a", Some("best"), with("three", 2_000)),
        Step::Reopen,
        Step::Do(Op::Untag("a", "old")),
        Step::Do(Op::Unpin("a", 1)),
        // Its removal is several records, and a crash may keep the first alone.
        Step::Do(Op::Tag("a", 2, "second")),
        Step::Do(Op::Remove("a", 2)),
        Step::Do(Op::Gc),
        put("b", None, noise("after", 3_000)),
        Step::Do(Op::Remove("b", 2)),
        Step::Do(Op::Gc),
        put("b", Some("last"), noise("end", 30_000)),
    ]
}

/// What the index is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A journal, as in every small store.
    Journal,
    /// A journal that the scenario outgrows half-way.
    Outgrown,
    /// A database, as in every large store.
    Database,
}

impl Kept {
    pub(crate) const ALL: [Kept; 3] = [Kept::Journal, Kept::Outgrown, Kept::Database];

    fn journal_bytes(self) -> usize {
        match self {
            Kept::Journal => usize::MAX,
            Kept::Outgrown => 4000,
            Kept::Database => 0,
        }
    }
}

pub(crate) fn open(disk: &FaultDisk, kept: Kept) -> Result<Store, Error> {
    let options = options(PACK_BYTES).index_journal_bytes(kept.journal_bytes());
    options.open_backend(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone()))
}

/// Operations that `steps` take on a disk that never fails, closing the store included.
pub(crate) fn operations_of(steps: &[Step], kept: Kept) -> u64 {
    let disk = FaultDisk::new();
    let run = Run::of(&disk, steps, kept);
    assert!(run.error.is_none(), "{:?}", run.error);
    disk.operations().len() as u64
}

/// How far the steps came.
pub(crate) struct Run {
    /// What was acknowledged.
    pub(crate) model: Model,
    /// What was under way when the disk stopped.
    pub(crate) attempted: Option<Op>,
    pub(crate) error: Option<Error>,
    /// The store was being closed, which says nothing of failures, or had been.
    pub(crate) closing: bool,
    pub(crate) kept: Kept,
}

impl Run {
    /// Does `steps` on a new store until one fails, then closes the store.
    pub(crate) fn of(disk: &FaultDisk, steps: &[Step], kept: Kept) -> Run {
        let (mut run, store) = Run::open_end(disk, steps, kept);
        drop(store);
        run.closing |= run.error.is_none();
        run
    }

    /// As `of`, with the store still open if it could be opened.
    pub(crate) fn open_end(disk: &FaultDisk, steps: &[Step], kept: Kept) -> (Run, Option<Store>) {
        let mut run = Run { model: Model::default(), attempted: None, error: None, closing: false, kept };
        let mut store = match open(disk, kept) {
            Ok(store) => Some(store),
            Err(error) => {
                run.error = Some(error);
                None
            }
        };
        for step in steps {
            let Some(opened) = &store else { break };
            let failed = match step {
                Step::Do(op) => {
                    let outcome = apply(opened, op);
                    match outcome.is_ok() {
                        true => run.model.apply(op).unwrap(),
                        false => run.attempted = Some(op.clone()),
                    }
                    outcome.err()
                }
                Step::Reopen => {
                    drop(store.take());
                    match open(disk, kept) {
                        Ok(reopened) => {
                            store = Some(reopened);
                            None
                        }
                        Err(error) => Some(error),
                    }
                }
            };
            if failed.is_some() {
                run.error = failed;
                break;
            }
        }
        (run, store)
    }

    /// What the store may hold after the crash: what was acknowledged, with or without what was under way.
    pub(crate) fn allowed(&self) -> Vec<Model> {
        let after = |op: &Op| {
            let mut model = self.model.clone();
            model.apply(op).unwrap();
            model
        };
        let mut allowed = vec![self.model.clone()];
        allowed.extend(self.attempted.as_ref().map(after));
        if let Some(Op::Put { key, label: Some(_), payload }) = &self.attempted {
            // The version comes before its label.
            allowed.push(after(&Op::Put { key, label: None, payload: payload.clone() }));
        }
        allowed
    }
}

/// Opens what a crash left on `disk` and compares it with `run`; then goes on using it.
pub(crate) fn check(disk: &FaultDisk, run: &Run, context: &str) {
    let store = open(disk, run.kept).unwrap_or_else(|error| panic!("{context}: open: {error}"));
    let found = read(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
    let allowed = run.allowed().into_iter().find(|model| model.visible() == found);
    let mut model = allowed.unwrap_or_else(|| panic!("{context}: the store holds {}", describe(&found)));
    assert_sound(&store, context);
    let put = Op::Put { key: "b", label: Some("next"), payload: noise("next", 20_000).into() };
    let deltas = model.visible().0.contains_key("t");
    let more = [Op::Put { key: "t", label: None, payload: checkpoint(7).into() }, Op::Compact("t")];
    for op in [put, Op::Gc].into_iter().chain(more.into_iter().filter(|_| deltas)) {
        apply(&store, &op).unwrap_or_else(|error| panic!("{context}: {op:?}: {error}"));
        model.apply(&op).unwrap();
    }
    let found = read(&store).unwrap_or_else(|error| panic!("{context}: after gc: {error}"));
    assert!(found == model.visible(), "{context}: after gc the store holds {}", describe(&found));
    drop(store);
    let store = open(disk, run.kept).unwrap_or_else(|error| panic!("{context}: reopen: {error}"));
    assert_sound(&store, context);
    assert!(read(&store).unwrap() == model.visible(), "{context}: after a reopen");
}

fn describe(model: &Model) -> String {
    let keys = model.0.iter().map(|(key, state)| {
        format!("{key} {:?} {:?} {:?}", state.versions.keys().collect::<Vec<_>>(), state.labels, state.pins)
    });
    keys.collect::<Vec<_>>().join("; ")
}
