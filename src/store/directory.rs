//! [`StoreDirectory`]: the directory of a store on local disk, its layout and its lock.
//!
//! ```text
//! STORE/  LOCK   config.toml   format   index.journal or index.redb   packs/p-00000001.pack …   tmp/   backend
//! ```
//!
//! A store whose packs are elsewhere has none in `packs`, and the file `backend`, which says where.
//!
//! The directory belongs to one process at a time: whoever holds the lock on `LOCK`, whose text is that process's id, and one on the
//! directory itself, which is still there when someone deletes `LOCK`. The system drops locks when the process ends, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::backend::sync_directory;
use crate::error::{Error, Result};

/// The newest format of stores that this version reads, and that of a store whose packs are elsewhere.
pub const STORE_FORMAT: u32 = 3;

/// The format of a store with deltas.
const FORMAT_WITH_DELTAS: u32 = 2;

/// The format of a store without deltas, which the first version of caskad reads too.
const FORMAT_WITHOUT_DELTAS: u32 = 1;

/// An open store directory. Dropping it gives the lock back.
#[derive(Debug)]
pub struct StoreDirectory {
    path: PathBuf,
    read_only: bool,
    /// Held for its lock. `None` on a medium where not even a lock can be taken.
    lock: Option<File>,
    _own_lock: Option<File>,
}

impl Drop for StoreDirectory {
    fn drop(&mut self) {
        // Readers share the lock and cannot write their number: the next to be refused should not be told ours.
        if let Some(lock) = self.lock.as_ref().filter(|_| !self.read_only) {
            let _ = lock.set_len(0);
        }
    }
}

impl StoreDirectory {
    /// Opens the store at `path` for writing, creating it if `create` allows and there is nothing there.
    pub fn open(path: &Path, create: bool) -> Result<StoreDirectory> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(not_a_store(path, "it is not a directory")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                let parents = parents_of_missing(path);
                fs::create_dir_all(path).map_err(|error| Error::io("create", path, error))?;
                for parent in parents {
                    sync_directory(parent).map_err(|error| Error::io("sync", parent, error))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent(path)),
            Err(error) => return Err(Error::io("open", path, error)),
        }
        if !is_there(&path.join("format"))? && !is_there(&path.join("packs"))? {
            require_creatable(path, create)?;
        }
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(|error| Error::io("open", &lock_path, error))?;
        let lock = Some(take_lock(lock, path, true)?);
        let mut directory = StoreDirectory { path: path.to_owned(), read_only: false, lock, _own_lock: None };
        directory._own_lock = lock_directory(path, true)?;
        directory.prepare()?;
        Ok(directory)
    }

    /// Opens an existing store without changing anything in it.
    pub fn open_read_only(path: &Path) -> Result<StoreDirectory> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(not_a_store(path, "it is not a directory")),
            Ok(_) if !is_there(&path.join("packs").join("."))? => return Err(absent(path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent(path)),
            Err(error) => return Err(Error::io("open", path, error)),
        }
        let lock = match File::open(path.join("LOCK")) {
            Ok(lock) => Some(take_lock(lock, path, false)?),
            Err(_) => None,
        };
        let own_lock = lock_directory(path, false)?;
        check_format(path)?;
        Ok(StoreDirectory { path: path.to_owned(), read_only: true, lock, _own_lock: own_lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when nothing in it may be changed.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Where packs are.
    pub fn packs(&self) -> PathBuf {
        self.path.join("packs")
    }

    /// Where payloads lie that must be whole before they are split. Emptied at each open.
    pub fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The settings file of the store at `path`, which may be there before the store is.
    pub fn config(path: &Path) -> PathBuf {
        path.join("config.toml")
    }

    fn prepare(&self) -> Result<()> {
        let fresh = !self.packs().exists();
        let has_format = check_format(&self.path)?.is_some();
        for part in [self.packs(), self.tmp()] {
            match fs::create_dir(&part) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", part, error));
                }
                _ => {}
            }
        }
        for left in fs::read_dir(self.tmp()).map_err(|error| Error::io("list", self.tmp(), error))?.flatten() {
            // What an interrupted put left; nobody else is here, we hold the lock.
            let _ = fs::remove_file(left.path());
        }
        if !has_format {
            // In place of one that is damaged: the store may have deltas.
            let format = match (fresh, self.path.join("backend").exists()) {
                (_, true) => STORE_FORMAT,
                (false, false) => FORMAT_WITH_DELTAS,
                (true, false) => FORMAT_WITHOUT_DELTAS,
            };
            write_format(&self.path, format)?;
        }
        if fresh || !has_format {
            // All names at once, and before any pack is created below them.
            sync_directory(&self.path).map_err(|error| Error::io("sync", &self.path, error))?;
        }
        Ok(())
    }

    /// Makes the store in the directory `path` one that may have deltas, durably. The first version of caskad, which would take them
    /// for damage, refuses it from then on.
    pub fn allow_deltas(path: &Path) -> Result<()> {
        raise_format(path, FORMAT_WITH_DELTAS)
    }

    /// Makes it a store whose packs are elsewhere, durably. Versions of caskad that would look for them here refuse it from then on.
    pub fn packs_are_elsewhere(&self) -> Result<()> {
        raise_format(&self.path, STORE_FORMAT)
    }

    /// Whether its packs are elsewhere, as far as its format tells.
    pub fn has_packs_elsewhere(&self) -> Result<bool> {
        Ok(check_format(&self.path)? == Some(STORE_FORMAT))
    }

    /// Puts `bytes` in place of the file `name` of the store, durably.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace_file(&self.path, name, bytes)?;
        sync_directory(&self.path).map_err(|error| Error::io("sync", &self.path, error))
    }
}

/// Makes the store in the directory `path` one of `format` at least, durably.
fn raise_format(path: &Path, format: u32) -> Result<()> {
    if check_format(path)?.is_some_and(|found| found >= format) {
        return Ok(());
    }
    write_format(path, format)?;
    sync_directory(path).map_err(|error| Error::io("sync", path, error))
}

/// Writes the format file anew. Its name is durable once the directory is synced.
fn write_format(store: &Path, format: u32) -> Result<()> {
    replace_file(store, "format", format!("caskad {format}\n").as_bytes())
}

/// Puts `bytes` in place of the file `name`, whole or not at all. Its name is durable once the directory is synced.
fn replace_file(store: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, temporary) = (store.join(name), store.join("tmp").join(name));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    });
    written.map_err(|error| Error::io("write", path, error))
}

/// The directories that get an entry when the one at `path` is created with all those above it. A name in one that was not synced may be
/// gone after a power failure, and all below it.
fn parents_of_missing(path: &Path) -> Vec<&Path> {
    let named = path.ancestors().take_while(|above| !above.as_os_str().is_empty());
    let missing = named.take_while(|above| !above.exists());
    let parents = missing.filter_map(Path::parent);
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).collect()
}

/// Whether there is something at `path`. That it must not be seen is no answer.
fn is_there(path: &Path) -> Result<bool> {
    match path.try_exists() {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        answer => answer.map_err(|error| Error::io("open", path, error)),
    }
}

fn absent(path: &Path) -> Error {
    not_a_store(path, "there is none; `caskad put` creates one, --store DIR or CASKAD_STORE names another place")
}

fn not_a_store(path: &Path, why: &str) -> Error {
    Error::NotAStore { path: path.to_owned(), why: why.to_owned() }
}

/// A directory with other things in it is not turned into a store by accident.
fn require_creatable(path: &Path, create: bool) -> Result<()> {
    if !create {
        return Err(absent(path));
    }
    let entries = fs::read_dir(path).map_err(|error| Error::io("list", path, error))?;
    let strange = entries
        .flatten()
        .find(|entry| !matches!(entry.file_name().to_str(), Some("LOCK" | "tmp" | "config.toml" | "identity.key")));
    match strange {
        Some(entry) => Err(not_a_store(
            path,
            &format!("it holds other files ({}); choose an empty or a new directory", entry.file_name().display()),
        )),
        None => Ok(()),
    }
}

/// The format that the format file names, which this version reads. `None` if the file is missing or damaged.
fn check_format(path: &Path) -> Result<Option<u32>> {
    let file = path.join("format");
    let mut text = String::new();
    let read = File::open(&file).and_then(|file| file.take(64).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
        Err(error) => return Err(Error::io("read", file, error)),
        Ok(_) => {}
    }
    match text.strip_prefix("caskad ").and_then(|rest| rest.trim_end().parse::<u32>().ok()) {
        Some(found) if found > STORE_FORMAT => {
            Err(Error::NewerFormat { path: path.to_owned(), found, supported: STORE_FORMAT })
        }
        Some(found) => Ok(Some(found)),
        // Packs carry their own version, so a damaged format file hides nothing: it is written anew.
        None => {
            tracing::warn!("{}: damaged, the packs tell their own version", file.display());
            Ok(None)
        }
    }
}

/// Locks the directory itself, where its file system can do that.
fn lock_directory(path: &Path, exclusive: bool) -> Result<Option<File>> {
    let Ok(directory) = File::open(path) else { return Ok(None) };
    let taken = if exclusive { directory.try_lock() } else { directory.try_lock_shared() };
    match taken {
        Ok(()) => Ok(Some(directory)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned(), pid: None }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn take_lock(mut file: File, store: &Path, exclusive: bool) -> Result<File> {
    let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
    match taken {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut text);
            return Err(Error::Locked { path: store.to_owned(), pid: text.trim().parse().ok() });
        }
        // A file system without locks: better an unguarded store than none, and said so.
        Err(TryLockError::Error(error)) => tracing::warn!("{}: cannot be locked: {error}", store.display()),
    }
    if exclusive {
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| Error::io("write", store.join("LOCK"), error))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_that_gets_an_entry_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("one/two"));
        assert_eq!(parents_of_missing(&two.join("three")), [two.as_path(), &one, dir.path()]);
        fs::create_dir(&one).unwrap();
        assert_eq!(parents_of_missing(&two), [one.as_path()]);
        assert_eq!(parents_of_missing(&one), [] as [&Path; 0]);
        let relative = Path::new("no-such-directory/store");
        assert_eq!(parents_of_missing(relative), [Path::new("no-such-directory"), Path::new(".")]);
        drop(StoreDirectory::open(&two.join("three"), true).unwrap());
    }
}
