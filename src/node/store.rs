//! [`Store`]: a store on this machine, opened. Everything else in this layer is a method of it, in the file of its verb.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::StorageBackend;
use crate::cache::{CacheStats, ChunkCache};
use crate::codec::Encoder;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, VersionRef, VersionSpec};
use crate::manifest::Manifest;
use crate::node::config::Config;
#[cfg(feature = "net")]
use crate::node::intake::IntakeWorker;
use crate::node::leases::Leases;
use crate::node::packs::{self, Demand, Packs};
use crate::node::pool::Pool;
use crate::node::source::SourceWorker;
use crate::refs::VersionEntry;
use crate::store::{ChunkReader, ChunkStore, ChunkStoreOptions, IndexPlace, KeyRefs, StoreDirectory};

/// A store. Cheap to clone and safe to share between threads: clones are handles on the same store, which closes with the last one.
///
/// One process at a time has a store open; a second one is told the holder's process id ([`Error::Locked`]).
///
/// ```
/// use caskad::{GetOptions, Monitor, Payload, PutOptions, Store};
///
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path().join("store"))?;
/// let put = store.put(&"runs/demo@first".parse()?, Payload::bytes("w.bin", b"weights"), &PutOptions::default(), &Monitor::none())?;
/// assert_eq!((put.version, put.bytes), (1, 7));
///
/// let out = dir.path().join("w.bin");
/// store.get(&"runs/demo@first".parse()?, &out, &GetOptions::default(), &Monitor::none())?;
/// assert_eq!(std::fs::read(out)?, b"weights");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) inner: Arc<StoreInner>,
}

#[derive(Debug)]
pub(super) struct StoreInner {
    pub(super) chunks: ChunkStore,
    pub(super) cache: ChunkCache,
    pub(super) config: Config,
    /// Why `config.toml` could not be used, in a store opened all the same.
    pub(super) config_damage: Option<String>,
    // As many as are in use at once; what an intake verifies with may hold some chunks' bytes.
    pub(super) encoders: Pool<Encoder, 16>,
    pub(super) source_workers: Pool<SourceWorker, 16>,
    #[cfg(feature = "net")]
    pub(super) intake_workers: Pool<IntakeWorker, 4>,
    /// Opened when the first lease is asked for.
    pub(super) leases: Mutex<Option<Arc<Leases>>>,
    /// Dropped last: it holds the lock. `None` for a store that is not in a directory.
    pub(super) directory: Option<StoreDirectory>,
}

/// How a [`Store`] is opened.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    config: Option<Config>,
    threads: Option<NonZeroUsize>,
    backend: Option<Arc<dyn StorageBackend>>,
    backend_url: Option<String>,
    take_over: bool,
    read_only: bool,
    existing: bool,
    sound_config: bool,
    pack_bytes: Option<u64>,
    checked_index_bytes: Option<u64>,
    index_journal_bytes: Option<usize>,
}

impl StoreOptions {
    /// The settings of the store's `config.toml`, for reading and writing.
    pub fn new() -> StoreOptions {
        StoreOptions::default()
    }

    /// Uses `config` in place of what `config.toml` says.
    #[must_use]
    pub fn config(mut self, config: Config) -> StoreOptions {
        self.config = Some(config);
        self
    }

    /// Uses `threads` threads for each operation, whatever the settings say.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> StoreOptions {
        self.threads = Some(threads);
        self
    }

    /// Keeps the packs where `url` says, in place of what the settings say: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`,
    /// `redis://HOST:PORT/DB/PREFIX`, `memory:`, or `files:` for the store's own directory. A store remembers its place, and moves to
    /// another only by [`export`](Store::export) and [`import`](Store::import). Credentials come from the environment: see
    /// `backend::object::operator`.
    #[must_use]
    pub fn backend_url(mut self, url: impl Into<String>) -> StoreOptions {
        self.backend_url = Some(url.into());
        self
    }

    /// Makes the place that the packs are in this store's if it is another's: for when the machine that had it is gone. The other store
    /// is refused every change from then on.
    #[must_use]
    pub fn take_over(mut self, take_over: bool) -> StoreOptions {
        self.take_over = take_over;
        self
    }

    /// Keeps the packs in `backend`, which the caller hands in each time that the store is opened.
    #[must_use]
    pub fn backend(mut self, backend: Arc<dyn StorageBackend>) -> StoreOptions {
        self.backend = Some(backend);
        self
    }

    /// Changes nothing, and refuses what would: for a medium that cannot be written to.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> StoreOptions {
        self.read_only = read_only;
        self
    }

    /// Fails where there is no store yet, rather than create one.
    #[must_use]
    pub fn existing(mut self, existing: bool) -> StoreOptions {
        self.existing = existing;
        self
    }

    /// Fails where `config.toml` cannot be used, rather than go by the defaults.
    #[must_use]
    pub fn sound_config(mut self, sound: bool) -> StoreOptions {
        self.sound_config = sound;
        self
    }

    /// Packs of a length that the settings do not allow: so small that a test sees many of them.
    #[doc(hidden)]
    #[must_use]
    pub fn pack_bytes(mut self, bytes: u64) -> StoreOptions {
        self.pack_bytes = Some(bytes);
        self
    }

    /// Below how many bytes the index is checked page by page when it is opened.
    #[doc(hidden)]
    #[must_use]
    pub fn checked_index_bytes(mut self, bytes: u64) -> StoreOptions {
        self.checked_index_bytes = Some(bytes);
        self
    }

    /// Up to how many bytes the index lies in a journal, so that a test sees it outgrow that.
    #[doc(hidden)]
    #[must_use]
    pub fn index_journal_bytes(mut self, bytes: usize) -> StoreOptions {
        self.index_journal_bytes = Some(bytes);
        self
    }

    /// Opens the store in the directory `path`.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let settings = self.config.clone().map_or_else(|| Config::read(&StoreDirectory::config(path)), Ok);
        let configured = settings.as_ref().ok().and_then(|config| config.backend.as_deref());
        let url = self.backend_url.as_deref().or(configured);
        if let Err(Error::Damaged { why, .. }) = &settings
            && url.is_none()
            && self.backend.is_none()
        {
            refuse_guess(path, why)?;
        }
        let directory = match self.read_only {
            true => StoreDirectory::open_read_only(path)?,
            // A store whose packs are elsewhere may be new to this machine.
            false => StoreDirectory::open(path, !self.existing || url.is_some_and(packs::are_elsewhere))?,
        };
        let url = url.map(str::to_owned);
        let (mut config, config_damage) = match settings {
            Ok(config) => (config, None),
            Err(Error::Damaged { place, why, .. }) if self.sound_config => {
                return Err(Error::Input { path: place.into(), why });
            }
            Err(Error::Damaged { place, why, .. }) => {
                tracing::warn!("{place} cannot be used, and the default settings are: {why}");
                (Config::default(), Some(why))
            }
            Err(error) => return Err(error),
        };
        config.threads = self.threads.unwrap_or(config.threads);
        let packs = match self.backend.clone() {
            Some(backend) => packs::handed_in(&directory, backend)?,
            None => {
                let demand = Demand { take_over: self.take_over, existing: self.existing };
                packs::find(&directory, url.as_deref(), demand)?
            }
        };
        self.assemble(packs, config, config_damage, Some(directory))
    }

    /// Opens a store whose packs are in `backend` and whose index is at `index`. Nothing guards it against a second process.
    pub fn open_backend(self, backend: Arc<dyn StorageBackend>, index: IndexPlace) -> Result<Store> {
        let mut config = self.config.clone().unwrap_or_default();
        config.threads = self.threads.unwrap_or(config.threads);
        self.assemble(Packs { backend, index }, config, None, None)
    }

    fn assemble(
        self,
        packs: Packs,
        config: Config,
        config_damage: Option<String>,
        directory: Option<StoreDirectory>,
    ) -> Result<Store> {
        config.validate().map_err(|why| Error::Syntax { what: "setting", input: String::new(), why })?;
        let defaults = ChunkStoreOptions::default();
        let options = ChunkStoreOptions {
            pack_bytes: self.pack_bytes.unwrap_or(config.pack_bytes),
            index_cache_bytes: usize::try_from(config.index_cache_bytes).unwrap_or(usize::MAX),
            read_only: self.read_only,
            checked_index_bytes: self.checked_index_bytes.unwrap_or(defaults.checked_index_bytes),
            index_journal_bytes: self.index_journal_bytes.unwrap_or(defaults.index_journal_bytes),
            directory: directory.as_ref().map(|directory| directory.path().to_owned()),
        };
        let chunks = ChunkStore::open(packs.backend, packs.index, options)?;
        let inner = StoreInner {
            chunks,
            cache: ChunkCache::new(config.cache_bytes),
            config,
            config_damage,
            encoders: Pool::default(),
            source_workers: Pool::default(),
            #[cfg(feature = "net")]
            intake_workers: Pool::default(),
            leases: Mutex::default(),
            directory,
        };
        Ok(Store { inner: Arc::new(inner) })
    }
}

impl Store {
    /// Opens the store in the directory `path` for reading and writing, creating it where there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        StoreOptions::new().open(path)
    }

    /// The directory of the store, if it is in one.
    pub fn path(&self) -> Option<&Path> {
        self.inner.directory.as_ref().map(StoreDirectory::path)
    }

    /// True when nothing in the store may be changed.
    pub fn is_read_only(&self) -> bool {
        self.inner.directory.as_ref().is_some_and(StoreDirectory::read_only)
    }

    /// How the cache of hot chunks has done so far.
    pub fn cache_stats(&self) -> CacheStats {
        self.inner.cache.stats()
    }

    /// The settings in use.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Why `config.toml` is not in use, if it is there and cannot be: then the defaults are. A node must not be started on them, since an
    /// allow-list that cannot be read would let everybody in.
    pub fn config_damage(&self) -> Option<&str> {
        self.inner.config_damage.as_deref()
    }

    /// What this store keeps for others, and until when. Created on disk with the first call.
    ///
    /// Fails with [`Error::Input`] for a store that is in no directory.
    pub fn leases(&self) -> Result<Arc<Leases>> {
        let mut leases = self.inner.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leases) = leases.as_ref() {
            return Ok(Arc::clone(leases));
        }
        let Some(directory) = &self.inner.directory else {
            let why = "a store in no directory keeps nothing for others; open one with a directory".to_owned();
            return Err(Error::Input { path: "the store".into(), why });
        };
        if directory.read_only() {
            return Err(Error::ReadOnly { path: directory.path().to_owned() });
        }
        let opened = Arc::new(Leases::open(directory.path())?);
        Ok(Arc::clone(leases.insert(opened)))
    }

    /// As [`leases`](Store::leases), for a store that has some.
    pub(super) fn existing_leases(&self) -> Result<Option<Arc<Leases>>> {
        let Some(directory) = self.inner.directory.as_ref().filter(|_| !self.is_read_only()) else { return Ok(None) };
        let path = Leases::path(directory.path());
        // Unless it is known that there are none: what is leased must not be taken for garbage.
        match path.try_exists().map_err(|error| Error::io("open", &path, error))? {
            true => self.leases().map(Some),
            false => Ok(None),
        }
    }

    /// Where payloads that must be whole before they are split are kept meanwhile.
    pub(super) fn spool(&self) -> PathBuf {
        self.inner.directory.as_ref().map_or_else(std::env::temp_dir, StoreDirectory::tmp)
    }

    pub(super) fn threads(&self) -> NonZeroUsize {
        self.inner.config.threads
    }

    /// The refs of a key. Before one is taken for new: is the index that says so sound? A version hidden by an altered page would
    /// lose its number to the next one.
    pub(super) fn known_refs(&self, key: &Key) -> Result<KeyRefs> {
        let key = &self.canonical(key)?;
        let refs = self.inner.chunks.refs(key)?;
        match refs.versions.is_empty() && self.inner.chunks.mend_index()? {
            true => self.inner.chunks.refs(key),
            false => Ok(refs),
        }
    }

    /// The refs of a key that has versions.
    pub(super) fn key_refs(&self, key: &Key) -> Result<KeyRefs> {
        let refs = self.known_refs(key)?;
        if !refs.versions.is_empty() {
            return Ok(refs);
        }
        let keys = self.inner.chunks.all_refs("")?;
        Err(Error::NotFound {
            what: "key",
            name: key.to_string(),
            place: self.searched("the store", key)?,
            nearest: nearest(key.as_str(), keys.keys().map(Key::as_str)),
        })
    }

    /// The `place` where something of `key` is not, and for another scope's key how it gets there.
    fn searched(&self, place: &str, key: &Key) -> Result<String> {
        Ok(match self.canonical(key)?.scope() {
            None => place.to_owned(),
            Some(_) => {
                format!("{place}; `caskad get` fetches what another scope has, through a running node (`caskad node`)")
            }
        })
    }

    /// The version that `wanted` names.
    pub(super) fn resolve(&self, wanted: &VersionRef) -> Result<(u64, VersionEntry)> {
        let refs = self.key_refs(&wanted.key)?;
        if let Some(found) = find_version(&refs, wanted) {
            return Ok(found);
        }
        // As in `key_refs`: is it the index that hides it?
        let refs = if self.inner.chunks.mend_index()? { self.key_refs(&wanted.key)? } else { refs };
        match find_version(&refs, wanted) {
            Some(found) => Ok(found),
            None => {
                let place = self.searched(&format!("key {}", wanted.key), &wanted.key)?;
                Err(unknown_version(wanted, &refs, place))
            }
        }
    }

    /// The refs of a key as they are; none for one that has no versions.
    #[cfg(feature = "net")]
    pub(super) fn refs_of(&self, key: &Key) -> Result<KeyRefs> {
        self.inner.chunks.refs(key)
    }

    /// Has what is to blame for the failure of the reader's last read count as not stored from now on: a put would rely on it, and no
    /// other holder would bring it back.
    pub(super) fn note_culprit(&self, reader: &ChunkReader) {
        if !self.inner.chunks.is_read_only()
            && let Err(error) = self.inner.chunks.forget_damaged(reader.culprit())
        {
            tracing::warn!("what is damaged still counts as stored: {error}");
        }
    }

    /// The bytes of a manifest, verified.
    pub(super) fn manifest_bytes(&self, hash: &Hash) -> Result<Vec<u8>> {
        let mut reader = self.inner.chunks.reader();
        reader.read_manifest(hash).inspect_err(|_| self.note_culprit(&reader))
    }

    /// The manifest of a version, decoded and checked.
    pub(super) fn manifest(&self, hash: &Hash) -> Result<Manifest> {
        let bytes = self.manifest_bytes(hash)?;
        Manifest::decode(&bytes).map_err(|why| Error::Damaged {
            what: "manifest",
            place: format!("manifest {}", hash.short()),
            why: why.to_string(),
        })
    }
}

/// Settings that cannot be used may name the place of the packs. A store without any would take the default for good.
fn refuse_guess(store: &Path, why: &str) -> Result<()> {
    let config = StoreDirectory::config(store);
    if packs::are_known(store) || !Config::may_name_backend(&config) {
        return Ok(());
    }
    let why = format!(
        "{why}; nothing was opened, since it may say where the packs are, and the store has none yet: \
         --backend URL says so too (`files:` is the store's own directory)"
    );
    Err(Error::Input { path: config, why })
}

pub(super) fn find_version(refs: &KeyRefs, wanted: &VersionRef) -> Option<(u64, VersionEntry)> {
    let number = match &wanted.version {
        VersionSpec::Latest => refs.versions.last_key_value().map(|(number, _)| *number),
        VersionSpec::Number(number) => Some(*number),
        VersionSpec::Label(label) => refs.labels.get(label).copied(),
        VersionSpec::Manifest(prefix) => {
            let mut matching = refs.versions.iter().filter(|(_, entry)| prefix.matches(&entry.manifest));
            matching.next_back().map(|(number, _)| *number)
        }
    }?;
    refs.versions.get(&number).map(|entry| (number, entry.clone()))
}

/// That a key, which has `refs` in `place`, has no such version there.
pub(super) fn unknown_version(wanted: &VersionRef, refs: &KeyRefs, place: String) -> Error {
    let (what, name) = match &wanted.version {
        VersionSpec::Latest => ("version", "latest".to_owned()),
        VersionSpec::Number(number) => ("version", number.to_string()),
        VersionSpec::Label(label) => ("label", label.to_string()),
        VersionSpec::Manifest(prefix) => ("version", format!("b3-{}", prefix.as_str())),
    };
    let nearest = match &wanted.version {
        VersionSpec::Label(label) => nearest(label.as_str(), refs.labels.keys().map(|label| label.as_str())),
        VersionSpec::Number(number) => {
            let mut numbers: Vec<u64> = refs.versions.keys().copied().collect();
            numbers.sort_by_key(|there| there.abs_diff(*number));
            numbers.into_iter().take(3).map(|there| there.to_string()).collect()
        }
        _ => Vec::new(),
    };
    Error::NotFound { what, name, place, nearest }
}

/// The three of `names` that are closest to `name`, if any is close at all.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut close: Vec<(f64, &str)> = names
        .map(|there| {
            let contains = there.contains(name) || name.contains(there);
            (strsim::jaro_winkler(name, there) + if contains { 0.2 } else { 0.0 }, there)
        })
        .filter(|(likeness, _)| *likeness > 0.75)
        .collect();
    close.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    close.into_iter().take(3).map(|(_, there)| there.to_owned()).collect()
}
