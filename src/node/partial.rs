//! What a get restores, until it takes its target's name: a file or directory next to the target, whose name can be guessed.
//!
//! Invariant: in a directory that others may write to, what somebody else has put under that name is neither taken for an interrupted get's
//! nor written to nor deleted, and nobody else may write to what is restored before it is whole.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens the file at `path` that an interrupted get left, or a new one that is only ours. In a `private` directory nobody else can have put
/// it there, and one that is whole has its last mode.
pub(super) fn open_file(path: &Path, private: bool) -> Result<File> {
    let failed = |error| Error::io("write", path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        opened => return opened.map_err(failed),
    }
    let check = |found: &Metadata| {
        let ours = found.is_file() && found.nlink() == 1 && is_ours(found, private);
        ours.then_some(()).ok_or_else(|| not_ours(path))
    };
    // Before it is opened, as a pipe would wait, and after, as it may have been another.
    match fs::symlink_metadata(path) {
        // Another get to the same target has just ended.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return open_file(path, private),
        found => check(&found.map_err(failed)?)?,
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path).map_err(failed)?;
    check(&file.metadata().map_err(failed)?)?;
    Ok(file)
}

/// Creates the directory at `path`, for us only, unless an interrupted get left it.
pub(super) fn open_directory(path: &Path) -> Result<()> {
    let failed = |error| Error::io("create", path, error);
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created.map_err(failed),
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    match found.is_dir() && is_ours(&found, false) {
        true => Ok(()),
        false => Err(not_ours(path)),
    }
}

/// Deletes what lies at `path`, if it is ours.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !is_ours(&found, true) => Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives `file`, which is whole, the mode that a new one has: all may read it whom the umask lets, and execute it if it is `executable` or a
/// directory.
pub(super) fn finish(file: &File, executable: bool) -> io::Result<()> {
    let found = file.metadata()?.mode();
    let all = if executable { 0o777 } else { 0o666 };
    let wanted = all & !umask();
    if found & 0o777 == wanted {
        return Ok(());
    }
    // A directory hands its group on to what is in it.
    match file.set_permissions(Permissions::from_mode(found & 0o2000 | wanted)) {
        // A file system with modes of its own: it was created with none for others.
        Err(_) if found & 0o077 != 0 => Ok(()),
        given => given,
    }
}

/// The process's umask, which the system tells nobody who does not change it, but in a file.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    told.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022)
}

/// True if nobody else can have made it, or, unless it is in a `private` directory, write to it.
fn is_ours(found: &Metadata, private: bool) -> bool {
    found.uid() == rustix::process::geteuid().as_raw() && (private || found.mode() & 0o022 == 0)
}

fn not_ours(path: &Path) -> Error {
    let why = "it is in the way, and not surely what an interrupted get of yours left: it is somebody else's, others may write to it, \
               or it has another name too; remove it, or choose another output";
    Error::Input { path: path.to_owned(), why: why.to_owned() }
}
