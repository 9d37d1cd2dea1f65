//! Verify: every chunk re-read, decoded and re-hashed; what does not match is named by version, file, tensor and offset.

use std::collections::{BTreeMap, HashMap, HashSet};
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
use crate::node::report::{Damage, VerifyReport};
use crate::node::store::Store;
use crate::node::threads::in_parallel;
use crate::node::version::Version;
use crate::refs::Entity;
use crate::store::Entry;

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
        let version =
            manifest.map(|manifest| Version { store: self.clone(), key: wanted.key.clone(), number, entry, manifest });
        let versions: Vec<Version> = version.into_iter().collect();
        self.verify_versions(versions, Vec::new(), damaged, started, monitor)
    }

    /// Checks the settings, the index, every record of every pack, every manifest and every chunk of every version.
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
        // What no version reaches, or none that can be read, is read too: a put would rely on it.
        let (suspects, manifests) = self.inner.chunks.held_in(&packs.packs)?;
        for manifest in &manifests {
            self.manifest_or_damage(manifest, &mut Vec::new())?;
        }
        if !self.inner.chunks.is_read_only() {
            damaged.extend(self.inner.chunks.mend_refs()?.iter().map(Damage::of_ref));
        }
        let mut versions = Vec::new();
        for (key, refs) in self.inner.chunks.all_refs("")? {
            for (number, entry) in refs.versions {
                let known = damaged.len();
                if let Some(manifest) = self.manifest_or_damage(&entry.manifest, &mut damaged)? {
                    versions.push(Version { store: self.clone(), key: key.clone(), number, entry, manifest });
                }
                for damage in damaged.iter_mut().skip(known) {
                    (damage.key, damage.version) = (Some(key.clone()), Some(number));
                }
            }
        }
        self.verify_versions(versions, suspects, damaged, started, monitor)
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

    /// Reads each chunk of `versions`, and `suspects` besides, once, by several threads, and names every place that a damaged one has.
    fn verify_versions(
        &self,
        versions: Vec<Version>,
        suspects: Vec<ChunkRef>,
        mut damaged: Vec<Damage>,
        started: Instant,
        monitor: &Monitor,
    ) -> Result<VerifyReport> {
        let mut seen = HashSet::new();
        let all = versions.iter().flat_map(|version| &version.manifest.chunks).chain(&suspects);
        let chunks: Vec<ChunkRef> = all.filter(|chunk| seen.insert(chunk.hash)).copied().collect();
        drop(seen);
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        monitor.begin("verify", bytes);
        let bad = self.bad_chunks(&chunks, monitor)?;
        monitor.finish();
        for version in &versions {
            damaged.extend(damages_of(version, &bad));
        }
        Ok(VerifyReport {
            ok: damaged.is_empty(),
            versions: versions.len() as u64,
            chunks: chunks.len() as u64,
            bytes,
            seconds: started.elapsed().as_secs_f64(),
            damaged,
        })
    }

    fn bad_chunks(&self, chunks: &[ChunkRef], monitor: &Monitor) -> Result<HashMap<Hash, String>> {
        let next = AtomicUsize::new(0);
        let bad = Mutex::new(HashMap::new());
        let work = || -> Result<()> {
            let mut reader = self.inner.chunks.reader();
            let mut plain = Vec::new();
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                monitor.check()?;
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
                monitor.advance(chunk.len.into());
            }
            Ok(())
        };
        let work = || work().inspect_err(|_| next.store(chunks.len(), Ordering::Relaxed));
        in_parallel(self.threads().get(), work)?;
        let bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Where a base is damaged, its deltas are not: once it is stored again, they can be read.
        let lost: HashMap<Hash, Entry> = bad.values().filter_map(|(culprit, _)| *culprit).collect();
        if !self.inner.chunks.is_read_only() {
            self.inner.chunks.forget_damaged(lost)?;
        }
        Ok(bad.into_iter().map(|(hash, (_, why))| (hash, why)).collect())
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
