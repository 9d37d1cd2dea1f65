//! The store that is damaged, and what must hold of it whatever the damage.

use std::fs;
use std::path::{Path, PathBuf};

use caskad::{Error, Monitor, Store, StoreOptions};
use tempfile::TempDir;

use crate::formats::{Tensor, safetensors};
use crate::stores::{Bytes, Model, Op, apply, assert_sound, get, noise, options, read};

pub(crate) const PACK_BYTES: u64 = 64 << 10;

/// Numbers that look random and are the same at every run.
pub(crate) struct Seeded(blake3::OutputReader);

impl Seeded {
    pub(crate) fn new(label: &str) -> Seeded {
        Seeded(blake3::Hasher::new().update(label.as_bytes()).finalize_xof())
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }
}

/// A store, closed, and what it holds.
pub(crate) struct Fixture {
    directory: TempDir,
    /// The index is a database, as in a large store, and no journal.
    database: bool,
    pub(crate) model: Model,
}

/// A model after `step` steps: three tensors that stay, and one of the step's own. Each is large enough to have its own chunks.
pub(crate) fn checkpoint(step: u64) -> Bytes {
    let shared = (0..3).map(|n| Tensor::random(&format!("layer.{n}"), "BF16", 34_000));
    let own = Tensor::random(&format!("head.{step}"), "F32", 17_000);
    safetensors(&shared.chain([own]).collect::<Vec<_>>()).into()
}

fn options_of(database: bool) -> StoreOptions {
    let options = options(PACK_BYTES);
    if database { options.index_journal_bytes(0) } else { options }
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::kept(false)
    }

    /// One whose index is a journal, and one whose index is a database.
    pub(crate) fn both() -> [Fixture; 2] {
        [Fixture::kept(false), Fixture::kept(true)]
    }

    fn kept(database: bool) -> Fixture {
        let ops = [
            Op::Put { key: "gone", label: Some("label"), payload: noise("gone", 20_000).into() },
            Op::Put { key: "m", label: Some("first"), payload: checkpoint(1) },
            Op::Put { key: "m", label: Some("best"), payload: checkpoint(2) },
            Op::Pin("m", 1),
            Op::Remove("gone", 1),
            Op::Put { key: "opaque", label: None, payload: noise("opaque", 150_000).into() },
            Op::Put { key: "text", label: None, payload: "a line of text\n".repeat(9000).into_bytes().into() },
            Op::Put { key: "inline", label: Some("tiny"), payload: b"few".to_vec().into() },
            Op::Tag("m", 1, "old"),
        ];
        Fixture::of(ops, database)
    }

    /// A store to which `ops` were done.
    pub(crate) fn of(ops: impl IntoIterator<Item = Op>, database: bool) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let store = options_of(database).open(directory.path().join("store")).unwrap();
        for op in ops {
            apply(&store, &op).unwrap();
            model.apply(&op).unwrap();
        }
        assert_sound(&store, "before any damage");
        drop(store);
        Fixture { directory, database, model }
    }

    /// A copy to damage.
    pub(crate) fn copy(&self) -> Copy {
        let directory = tempfile::tempdir().unwrap();
        let (from, path) = (self.directory.path().join("store"), directory.path().join("store"));
        for folder in ["", "packs", "tmp"] {
            fs::create_dir(path.join(folder)).unwrap();
            for entry in fs::read_dir(from.join(folder)).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), path.join(folder).join(entry.file_name())).unwrap();
                }
            }
        }
        Copy { _directory: directory, database: self.database, path }
    }
}

/// A store to damage, and its directory.
pub(crate) struct Copy {
    _directory: TempDir,
    database: bool,
    pub(crate) path: PathBuf,
}

impl Copy {
    pub(crate) fn options(&self) -> StoreOptions {
        options_of(self.database)
    }

    pub(crate) fn open(&self) -> Result<Store, Error> {
        self.options().open(&self.path)
    }

    /// The pack files, the oldest first.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let mut packs: Vec<PathBuf> =
            fs::read_dir(self.path.join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        packs.sort();
        packs
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.path.join(if self.database { "index.redb" } else { "index.journal" })
    }

    /// Opens the store and demands that it holds all of `model`, and is sound once `verify_all` has told what it mended.
    pub(crate) fn assert_whole(&self, model: &Model, context: &str) {
        let store = self.open().unwrap_or_else(|error| panic!("{context}: {error}"));
        let found = read(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(found == model.visible(), "{context}: {found:?}");
        store.verify_all(&Monitor::none()).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_sound(&store, context);
    }
}

pub(crate) fn flip(path: &Path, bit: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

pub(crate) fn truncate(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// What came of a damaged store.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) refused: bool,
    /// Versions that are whole, and that are not.
    pub(crate) whole: usize,
    pub(crate) hurt: Vec<(String, u64)>,
    pub(crate) unlisted: Vec<(String, u64)>,
    pub(crate) damages: Vec<caskad::Damage>,
}

/// Opens `copy` and reads all there is: each version whole or refused with a word on its damage, and named by `verify_all`.
pub(crate) fn examine(copy: &Copy, model: &Model, context: &str) -> Examined {
    let mut examined = Examined::default();
    let store = match copy.open() {
        Ok(store) => store,
        Err(error) => {
            assert!(!error.to_string().is_empty() && !matches!(error, Error::Index { .. }), "{context}: {error}");
            examined.refused = true;
            return examined;
        }
    };
    for (key, state) in &model.visible().0 {
        for (version, bytes) in &state.versions {
            match get(&store, key, *version) {
                Ok(found) => {
                    assert!(found == *bytes.0, "{context}: {key}@{version} came back with wrong bytes");
                    examined.whole += 1;
                }
                Err(Error::Damaged { .. }) => examined.hurt.push((key.clone(), *version)),
                Err(Error::NotFound { .. }) => examined.unlisted.push((key.clone(), *version)),
                Err(error) => panic!("{context}: {key}@{version}: {error}"),
            }
        }
    }
    let report = store.verify_all(&Monitor::none()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(report.ok, report.damaged.is_empty());
    for (key, version) in &examined.hurt {
        let named = |damage: &&caskad::Damage| {
            damage.key.as_ref().is_some_and(|named| named.as_str() == key) && damage.version == Some(*version)
        };
        let damage = report.damaged.iter().find(named);
        let damage = damage.unwrap_or_else(|| panic!("{context}: {key}@{version} is hurt and not named"));
        if damage.what == "chunk" {
            assert!(
                damage.file.is_some() && damage.offset.is_some() && damage.chunk.is_some(),
                "{context}: {damage:?}"
            );
            let header = damage.offset == Some(0);
            assert_eq!(
                ["m", "turned"].contains(&key.as_str()) && !header,
                !damage.tensors.is_empty(),
                "{context}: {damage:?}"
            );
        }
    }
    examined.damages = report.damaged;
    // A damaged store goes on taking versions, and what it takes is whole.
    let put = Op::Put { key: "after", label: None, payload: noise("after damage", 30_000).into() };
    apply(&store, &put).unwrap_or_else(|error| panic!("{context}: {error}"));
    drop(store);
    let store = copy.open().unwrap_or_else(|error| panic!("{context}: again: {error}"));
    let after = store.log(&"after".parse().unwrap()).unwrap().last().unwrap().version;
    assert!(get(&store, "after", after).unwrap() == noise("after damage", 30_000), "{context}");
    examined
}
