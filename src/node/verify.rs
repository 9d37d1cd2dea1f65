//! Verify: every chunk re-read, decoded and re-hashed; what does not match is named by version, file, tensor and offset.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::chunk::ChunkRef;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::VersionRef;
use crate::manifest::{Content, FileKind, Manifest, RegularFile};
use crate::monitor::Monitor;
use crate::node::report::{Damage, Timestamp, VerifyReport};
use crate::node::store::Store;
use crate::node::threads::in_parallel;
use crate::node::version::Version;
use crate::refs::Entity;
use crate::store::pack::PackId;
use crate::store::{Entry, LiveSet, RecordKind};

/// Chunks that no version reaches which are listed at a time.
const REST_CHUNKS: usize = 1 << 20;

impl Store {
    /// Re-reads and re-hashes every chunk of one version.
    ///
    /// A chunk that is found damaged counts as not stored from then on, and so does each that is a delta against it: putting the same
    /// bytes again heals both.
    pub fn verify(&self, wanted: &VersionRef, monitor: &Monitor) -> Result<VerifyReport> {
        let started = Instant::now();
        let wanted = &self.canonical_version(wanted)?;
        let (number, entry) = self.resolve(wanted)?;
        let mut damaged = Vec::new();
        let manifest = self.manifest_or_damage(&entry.manifest, &mut damaged)?;
        for damage in &mut damaged {
            (damage.key, damage.version) = (Some(wanted.key.clone()), Some(number));
        }
        let mut check = Check::new(self, monitor);
        if let Some(manifest) = manifest {
            monitor.begin("verify", manifest.bytes());
            let version = Version { store: self.clone(), key: wanted.key.clone(), number, entry, manifest };
            check.version(&version, &mut damaged)?;
            monitor.finish();
        }
        Ok(check.report(damaged, started))
    }

    /// Checks the settings, the index, every record of every pack, every manifest and every chunk, whatever it is kept for.
    pub fn verify_all(&self, monitor: &Monitor) -> Result<VerifyReport> {
        let started = Instant::now();
        let mut damaged = Vec::new();
        if let Some(why) = self.config_damage() {
            damaged.push(Damage::new("config", format!("config.toml: {why}")));
        }
        match self.inner.chunks.check_index() {
            Ok(false) => {}
            Ok(true) => {
                damaged.push(Damage::new("index", "it was damaged and has been rebuilt from the packs".to_owned()))
            }
            Err(error @ Error::Damaged { .. }) => damaged.push(Damage::new("index", error.to_string())),
            Err(error) => return Err(error),
        }
        let packs = self.inner.chunks.check_packs(monitor)?;
        damaged.extend(packs.places.iter().map(|(place, why)| Damage::new("pack", format!("{place}: {why}"))));
        let (chunks, manifests) = self.inner.chunks.totals_in(&packs.packs)?;
        for manifest in &manifests {
            self.manifest_or_damage(manifest, &mut Vec::new())?;
        }
        if !self.inner.chunks.is_read_only() {
            damaged.extend(self.inner.chunks.mend_refs()?.iter().map(Damage::of_ref));
        }
        monitor.begin("verify", chunks);
        let mut check = Check::new(self, monitor);
        for (key, refs) in self.inner.chunks.all_refs("")? {
            for (number, entry) in refs.versions {
                let known = damaged.len();
                if let Some(manifest) = self.manifest_or_damage(&entry.manifest, &mut damaged)? {
                    let version = Version { store: self.clone(), key: key.clone(), number, entry, manifest };
                    check.version(&version, &mut damaged)?;
                }
                for damage in damaged.iter_mut().skip(known) {
                    (damage.key, damage.version) = (Some(key.clone()), Some(number));
                }
            }
        }
        check.rest(&packs.packs, &mut damaged)?;
        monitor.finish();
        Ok(check.report(damaged, started))
    }

    fn manifest_or_damage(&self, hash: &Hash, damaged: &mut Vec<Damage>) -> Result<Option<Manifest>> {
        match self.manifest(hash) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                damaged.push(Damage::new("manifest", error.to_string()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares a version with the file or directory at `path`, which is only read. The store's own chunks are not.
    pub fn verify_against(
        &self,
        wanted: &VersionRef,
        path: impl AsRef<Path>,
        monitor: &Monitor,
    ) -> Result<VerifyReport> {
        let started = Instant::now();
        let version = self.version(wanted)?;
        monitor.begin("verify", version.bytes());
        let against = Against { version: &version, monitor, bytes: AtomicU64::new(0), chunks: AtomicU64::new(0) };
        let mut damaged = Vec::new();
        let path = path.as_ref();
        let found = fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
        if version.manifest.single {
            against.file(0, path, &found, &mut damaged)?;
        } else {
            if !found.is_dir() {
                let why = "it is no directory, and the version is one".to_owned();
                return Err(Error::Input { path: path.to_owned(), why });
            }
            for index in 0..version.manifest.files.len() {
                against.entry(index, path, &mut damaged)?;
            }
            against.strangers(path, &mut damaged)?;
        }
        monitor.finish();
        Ok(VerifyReport {
            ok: damaged.is_empty(),
            versions: 1,
            chunks: against.chunks.into_inner(),
            bytes: against.bytes.into_inner(),
            seconds: started.elapsed().as_secs_f64(),
            damaged,
        })
    }
}

/// A verification of chunks, each of which is read once.
struct Check<'a> {
    store: &'a Store,
    monitor: &'a Monitor,
    seen: LiveSet,
    /// Why each damaged chunk is.
    bad: HashMap<Hash, String>,
    versions: u64,
    chunks: u64,
    bytes: u64,
}

impl<'a> Check<'a> {
    fn new(store: &'a Store, monitor: &'a Monitor) -> Check<'a> {
        let (seen, bad) = (LiveSet::default(), HashMap::new());
        Check { store, monitor, seen, bad, versions: 0, chunks: 0, bytes: 0 }
    }

    /// Reads the chunks of `version` that no version before it has, and names every place that a damaged one has.
    fn version(&mut self, version: &Version, damaged: &mut Vec<Damage>) -> Result<()> {
        self.versions += 1;
        let chunks = version.manifest.chunks.iter();
        let new: Vec<ChunkRef> = chunks.filter(|chunk| self.seen.insert(&chunk.hash)).copied().collect();
        self.read(&new)?;
        damaged.extend(damages_of(version, &self.bad));
        Ok(())
    }

    /// Reads what no version reaches, or none that can be read: it may be kept for others, and a put would rely on it. Of those, what lies
    /// in one of the `packs` that are known to be damaged is named with it.
    ///
    /// A collection that was interrupted, or an index that was built anew, leaves chunks whose base is gone. A put does not rely on them, and
    /// unless one is kept for others nobody misses them.
    fn rest(&mut self, packs: &BTreeSet<PackId>, damaged: &mut Vec<Damage>) -> Result<()> {
        let mut leased = LiveSet::default();
        if let Some(leases) = self.store.existing_leases()? {
            leases.live(Timestamp::now().0, &mut |hash, _, _| {
                leased.insert(hash);
            })?;
        }
        loop {
            let mut rest = Vec::new();
            self.store.inner.chunks.for_each_entry(|hash, entry| {
                if entry.kind == RecordKind::Chunk && rest.len() < REST_CHUNKS && self.seen.insert(&hash) {
                    rest.push((ChunkRef { hash, len: entry.plain_len }, packs.contains(&entry.position.pack)));
                }
            })?;
            let is_last = rest.len() < REST_CHUNKS;
            let mut chunks = Vec::new();
            for (chunk, _) in &rest {
                if leased.contains(&chunk.hash) || self.store.inner.chunks.has_chain(&chunk.hash)? {
                    chunks.push(*chunk);
                }
            }
            self.read(&chunks)?;
            for (chunk, _) in rest.iter().filter(|(_, known)| !known) {
                if let Some(why) = self.bad.get(&chunk.hash) {
                    damaged.push(Damage { chunk: Some(chunk.hash), ..Damage::new("chunk", why.clone()) });
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reads each of `chunks`, by several threads. What is damaged counts as not stored from then on.
    fn read(&mut self, chunks: &[ChunkRef]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let bad = Mutex::new(HashMap::new());
        let work = || -> Result<()> {
            let mut reader = self.store.inner.chunks.reader();
            let mut plain = Vec::new();
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.monitor.check()?;
                plain.resize(chunk.len as usize, 0);
                match reader.read(&chunk.hash, &mut plain) {
                    Ok(()) => {}
                    Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                        bad.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(chunk.hash, (reader.culprit(), error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
                self.monitor.advance(chunk.len.into());
            }
            Ok(())
        };
        let work = || work().inspect_err(|_| next.store(chunks.len(), Ordering::Relaxed));
        in_parallel(self.store.threads().get().min(chunks.len()), work)?;
        let bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Where a base is damaged, its deltas are not: once it is stored again, they can be read.
        let lost: HashMap<Hash, Entry> = bad.values().filter_map(|(culprit, _)| *culprit).collect();
        if !self.store.inner.chunks.is_read_only() {
            self.store.inner.chunks.forget_damaged(lost)?;
        }
        self.bad.extend(bad.into_iter().map(|(hash, (_, why))| (hash, why)));
        self.chunks += chunks.len() as u64;
        self.bytes += chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
        Ok(())
    }

    fn report(self, damaged: Vec<Damage>, started: Instant) -> VerifyReport {
        VerifyReport {
            ok: damaged.is_empty(),
            versions: self.versions,
            chunks: self.chunks,
            bytes: self.bytes,
            seconds: started.elapsed().as_secs_f64(),
            damaged,
        }
    }
}

/// A comparison of a version with files.
struct Against<'a> {
    version: &'a Version,
    monitor: &'a Monitor,
    bytes: AtomicU64,
    chunks: AtomicU64,
}

impl Against<'_> {
    fn damage(&self, index: usize, why: String) -> Damage {
        let file = self.version.manifest.files.get(index).map(|entry| entry.path.clone());
        let (key, version) = (Some(self.version.key.clone()), Some(self.version.number));
        Damage { key, version, file, ..Damage::new("file", why) }
    }

    fn entry(&self, index: usize, root: &Path, damaged: &mut Vec<Damage>) -> Result<()> {
        let Some(entry) = self.version.manifest.files.get(index) else { return Ok(()) };
        let path = root.join(&entry.path);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) => {
                let why = stands_in_the_way(&error).ok_or_else(|| Error::io("read", &path, error))?;
                damaged.push(self.damage(index, why.to_owned()));
                return Ok(());
            }
        };
        let differs = match &entry.kind {
            FileKind::Regular(_) if found.is_symlink() => Some("it is a link there".to_owned()),
            FileKind::Regular(_) => return self.file(index, &path, &found, damaged),
            FileKind::Symlink { .. } if !found.is_symlink() => Some("it is not a link there".to_owned()),
            FileKind::Symlink { target } => {
                let found = fs::read_link(&path).map_err(|error| Error::io("read", &path, error))?;
                (found.as_os_str() != target.as_str()).then(|| format!("the link points to {}", found.display()))
            }
            FileKind::Directory => (!found.is_dir()).then(|| "it is not a directory there".to_owned()),
        };
        damaged.extend(differs.map(|why| self.damage(index, why)));
        Ok(())
    }

    /// Compares a file with the one at `path`, of which `found` is known.
    fn file(&self, index: usize, path: &Path, found: &Metadata, damaged: &mut Vec<Damage>) -> Result<()> {
        let regular = self.version.regular(index)?;
        let other = || self.damage(index, "it is not a regular file there".to_owned());
        // A pipe is not opened, and does not hold up whoever opens it should it come in between.
        if !found.is_file() {
            damaged.push(other());
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        let file = options.open(path).map_err(|error| Error::io("open", path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("read", path, error))?;
        if !metadata.is_file() {
            damaged.push(other());
            return Ok(());
        }
        let executable = metadata.permissions().mode() & 0o111 != 0;
        if executable != regular.executable && !self.version.manifest.single {
            let why = if executable { "it is executable there" } else { "it is not executable there" };
            damaged.push(self.damage(index, why.to_owned()));
        }
        if metadata.len() != regular.len {
            damaged.push(self.damage(index, format!("it has {} bytes there, not {}", metadata.len(), regular.len)));
        }
        self.contents(index, regular, &file, path, damaged)
    }

    fn contents(
        &self,
        index: usize,
        regular: &RegularFile,
        file: &File,
        path: &Path,
        damaged: &mut Vec<Damage>,
    ) -> Result<()> {
        if let Content::Inline(bytes) = &regular.content {
            let mut found = vec![0; bytes.len()];
            if file.read_exact_at(&mut found, 0).is_err() || found != *bytes {
                damaged.push(self.damage(index, "its bytes differ".to_owned()));
            }
            return Ok(());
        }
        let mut places = Vec::new();
        let mut offset = 0;
        for chunk in self.version.manifest.chunks.get(self.version.manifest.file_chunks(index)).unwrap_or_default() {
            places.push((offset, *chunk));
            offset += u64::from(chunk.len);
        }
        let next = AtomicUsize::new(0);
        let bad = Mutex::new(BTreeMap::new());
        let work = || -> Result<()> {
            let mut buffer = Vec::new();
            while let Some((offset, chunk)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.monitor.check()?;
                buffer.resize(chunk.len as usize, 0);
                match file.read_exact_at(&mut buffer, *offset) {
                    Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        return Err(Error::io("read", path, error));
                    }
                    Ok(()) if Hash::of(&buffer) == chunk.hash => {}
                    _ => {
                        bad.lock().unwrap_or_else(PoisonError::into_inner).insert(*offset, *chunk);
                    }
                }
                self.bytes.fetch_add(chunk.len.into(), Ordering::Relaxed);
                self.chunks.fetch_add(1, Ordering::Relaxed);
                self.monitor.advance(chunk.len.into());
            }
            Ok(())
        };
        in_parallel(self.version.store.threads().get(), work)?;
        for (offset, chunk) in bad.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let mut damage = self.damage(index, "its bytes differ".to_owned());
            damage.place(self.version, index, offset, &chunk);
            damaged.push(damage);
        }
        Ok(())
    }

    /// Names what is in the directory and not in the version, whatever it is.
    fn strangers(&self, root: &Path, damaged: &mut Vec<Damage>) -> Result<()> {
        let known = damaged.len();
        let mut directories = vec![(root.to_owned(), String::new())];
        while let Some((directory, path)) = directories.pop() {
            self.monitor.check()?;
            let failed = |error| Error::io("list", &directory, error);
            let mut empty = true;
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                empty = false;
                let name = entry.file_name();
                let below = if path.is_empty() { String::new() } else { format!("{path}/") };
                let below = below + &name.to_string_lossy();
                if entry.file_type().map_err(failed)?.is_dir() {
                    directories.push((entry.path(), below));
                } else if name.to_str().is_none() || self.version.manifest.find_file(&below).is_none() {
                    damaged.push(self.stranger(below));
                }
            }
            if empty && !path.is_empty() && self.version.manifest.find_file(&path).is_none() {
                damaged.push(self.stranger(path));
            }
        }
        damaged.get_mut(known..).unwrap_or_default().sort_by(|a, b| a.file.cmp(&b.file));
        Ok(())
    }

    fn stranger(&self, path: String) -> Damage {
        let (key, version) = (Some(self.version.key.clone()), Some(self.version.number));
        Damage { key, version, file: Some(path), ..Damage::new("file", "it is not in the version".to_owned()) }
    }
}

/// Why there is nothing at the path of an entry, if that is what `error` says: a difference, and no failure.
fn stands_in_the_way(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::NotFound => Some("it is missing there"),
        io::ErrorKind::NotADirectory => Some("it is missing there: what should be its directory is none"),
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Some("it is missing there: what should be its directory is a link to itself")
        }
        _ => None,
    }
}

impl Damage {
    pub(super) fn new(what: &'static str, why: String) -> Damage {
        Damage {
            what,
            key: None,
            version: None,
            file: None,
            tensors: Vec::new(),
            offset: None,
            len: None,
            chunk: None,
            why,
        }
    }

    /// A ref whose record was damaged. The index had it whole, so it is no more.
    fn of_ref(entity: &Entity) -> Damage {
        let (name, version) = match entity {
            Entity::Version { number, .. } => (format!("version {number}"), Some(*number)),
            Entity::Label { label, .. } => (format!("label {label}"), None),
            Entity::Pin { number, .. } => (format!("pin on version {number}"), Some(*number)),
        };
        let why = format!("the record of {name} in the packs was damaged and has been written anew");
        Damage { key: Some(entity.key().clone()), version, ..Damage::new("ref", why) }
    }

    /// Says that the damage is `chunk` at `offset` of a file, and which tensors that touches.
    fn place(&mut self, version: &Version, file: usize, offset: u64, chunk: &ChunkRef) {
        let span = crate::chunk::Span::new(offset, chunk.len.into());
        let entry = version.manifest.files.get(file);
        self.file = entry.map(|entry| entry.path.clone());
        self.offset = Some(offset);
        self.len = Some(chunk.len.into());
        self.chunk = Some(chunk.hash);
        let segments = entry.and_then(|entry| entry.regular()).map_or(&[][..], |regular| &regular.segments);
        let touched = segments.iter().filter(|segment| segment.span.intersection(span).is_some());
        self.tensors = touched.map(|segment| segment.name.clone()).collect();
    }
}

/// Every place in `version` that has a bad chunk.
fn damages_of(version: &Version, bad: &HashMap<Hash, String>) -> Vec<Damage> {
    let mut damages = Vec::new();
    if bad.is_empty() {
        return damages;
    }
    for file in 0..version.manifest.files.len() {
        let mut offset = 0;
        for chunk in version.manifest.chunks.get(version.manifest.file_chunks(file)).unwrap_or_default() {
            if let Some(why) = bad.get(&chunk.hash) {
                let mut damage = Damage::new("chunk", why.clone());
                (damage.key, damage.version) = (Some(version.key.clone()), Some(version.number));
                damage.place(version, file, offset, chunk);
                damages.push(damage);
            }
            offset += u64::from(chunk.len);
        }
    }
    damages
}
