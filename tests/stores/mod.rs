//! What the store tests share: operations on a store, a plain model of what they should do, and comparing the two.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caskad::{
    CompactOptions, Config, Error, GcOptions, GetOptions, Monitor, Payload, PutOptions, Store, StoreOptions, VersionRef,
};

/// Payload bytes, shared by the model's copies.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct Bytes(pub(crate) Arc<Vec<u8>>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(Arc::new(bytes))
    }
}

/// `len` bytes that no encoding shortens: the extendable output of BLAKE3 over `label`.
pub(crate) fn noise(label: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Options for stores that do the same at every run: one thread, and packs so small that a few puts fill several.
pub(crate) fn options(pack_bytes: u64) -> StoreOptions {
    let mut config = Config::default();
    config.threads = std::num::NonZeroUsize::MIN;
    StoreOptions::new().config(config).pack_bytes(pack_bytes)
}

/// `key@version`.
pub(crate) fn at(key: &str, version: u64) -> VersionRef {
    format!("{key}@{version}").parse().unwrap()
}

/// What can be done to a store.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put { key: &'static str, label: Option<&'static str>, payload: Bytes },
    Tag(&'static str, u64, &'static str),
    Untag(&'static str, &'static str),
    Pin(&'static str, u64),
    Unpin(&'static str, u64),
    Remove(&'static str, u64),
    Gc,
    GcDryRun,
    Compact(&'static str),
}

/// What is known of one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct KeyState {
    pub(crate) versions: BTreeMap<u64, Bytes>,
    pub(crate) labels: BTreeMap<String, u64>,
    pub(crate) pins: BTreeSet<u64>,
    /// The last number that was given out. A store does not show it.
    pub(crate) last_number: u64,
}

/// What a store should hold: the plain model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model(pub(crate) BTreeMap<String, KeyState>);

/// How an operation ended, in the words that model and store share: `Error::kind`, or nothing.
pub(crate) type Outcome = Result<(), &'static str>;

impl Model {
    /// Does `op` to the model.
    pub(crate) fn apply(&mut self, op: &Op) -> Outcome {
        let found = |state: Option<&KeyState>, version: &u64| match state {
            Some(state) if state.versions.contains_key(version) => Ok(()),
            _ => Err("not_found"),
        };
        match op {
            Op::Put { key, label, payload } => {
                let state = self.0.entry((*key).to_owned()).or_default();
                state.last_number += 1;
                state.versions.insert(state.last_number, payload.clone());
                state.labels.extend(label.map(|label| (label.to_owned(), state.last_number)));
            }
            Op::Tag(key, version, label) => {
                found(self.0.get(*key), version)?;
                self.key(key).labels.insert((*label).to_owned(), *version);
            }
            Op::Untag(key, label) => {
                self.0.get_mut(*key).and_then(|state| state.labels.remove(*label)).ok_or("not_found")?;
            }
            Op::Pin(key, version) => {
                found(self.0.get(*key), version)?;
                self.key(key).pins.insert(*version);
            }
            Op::Unpin(key, version) => {
                found(self.0.get(*key), version)?;
                self.key(key).pins.remove(version);
            }
            Op::Remove(key, version) => {
                found(self.0.get(*key), version)?;
                let state = self.key(key);
                if state.pins.contains(version) {
                    return Err("pinned");
                }
                state.versions.remove(version);
                state.labels.retain(|_, number| number != version);
            }
            Op::Gc | Op::GcDryRun => {}
            Op::Compact(key) => {
                self.0.get(*key).filter(|state| !state.versions.is_empty()).ok_or("not_found")?;
            }
        }
        Ok(())
    }

    fn key(&mut self, key: &str) -> &mut KeyState {
        self.0.entry(key.to_owned()).or_default()
    }

    /// The model without what a store does not show.
    pub(crate) fn visible(&self) -> Model {
        let shown = self.0.iter().filter(|(_, state)| !state.versions.is_empty());
        Model(shown.map(|(key, state)| (key.clone(), KeyState { last_number: 0, ..state.clone() })).collect())
    }
}

/// Does `op` to the store.
pub(crate) fn apply(store: &Store, op: &Op) -> Result<(), Error> {
    let monitor = Monitor::none();
    match op {
        Op::Put { key, label, payload } => {
            let name = label.map_or_else(|| (*key).to_owned(), |label| format!("{key}@{label}"));
            let payload = Payload::bytes("payload.bin", &payload.0);
            store.put(&name.parse().unwrap(), payload, &PutOptions::default(), &monitor).map(drop)
        }
        Op::Tag(key, version, label) => store.tag(&at(key, *version), &label.parse().unwrap()).map(drop),
        Op::Untag(key, label) => store.untag(&key.parse().unwrap(), &label.parse().unwrap()).map(drop),
        Op::Pin(key, version) => store.pin(&at(key, *version)).map(drop),
        Op::Unpin(key, version) => store.unpin(&at(key, *version)).map(drop),
        Op::Remove(key, version) => store.remove(&at(key, *version)).map(drop),
        Op::Gc => store.gc(GcOptions::default(), &monitor).map(drop),
        Op::Compact(key) => store.compact(&key.parse().unwrap(), CompactOptions::default(), &monitor).map(drop),
        Op::GcDryRun => {
            let mut options = GcOptions::default();
            options.dry_run = true;
            store.gc(options, &monitor).map(drop)
        }
    }
}

/// The bytes of one version.
pub(crate) fn get(store: &Store, key: &str, version: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    store.get_to(&at(key, version), &mut bytes, &GetOptions::default(), &Monitor::none())?;
    Ok(bytes)
}

/// All that the store shows, every byte of it read.
pub(crate) fn read(store: &Store) -> Result<Model, Error> {
    let mut model = Model::default();
    for summary in store.keys("")? {
        let mut state = KeyState::default();
        for version in store.log(&summary.key)? {
            let bytes = get(store, summary.key.as_str(), version.version)?;
            assert_eq!(bytes.len() as u64, version.bytes);
            state.versions.insert(version.version, bytes.into());
            state.labels.extend(version.labels.iter().map(|label| (label.to_string(), version.version)));
            state.pins.extend(version.pinned.then_some(version.version));
        }
        assert_eq!(state.versions.len() as u64, summary.versions);
        model.0.insert(summary.key.to_string(), state);
    }
    Ok(model)
}

/// Fails unless `verify_all` finds everything sound.
pub(crate) fn assert_sound(store: &Store, context: &str) {
    let report = store.verify_all(&Monitor::none()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(report.ok, "{context}: {:#?}", report.damaged);
}
