//! [`Payload`]: what a user hands over, found out about before anything is read: which files, links and directories it has.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Bound;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::limits;

/// What to put: one file, a directory, several of either, or bytes from anywhere.
pub struct Payload<'a>(pub(super) PayloadKind<'a>);

pub(super) enum PayloadKind<'a> {
    Paths(Vec<PathBuf>),
    Reader { name: String, reader: Box<dyn Read + Send + 'a> },
}

impl<'a> Payload<'a> {
    /// The file or directory at `path`. A link given here is followed; links inside a directory are stored as links.
    pub fn path(path: impl Into<PathBuf>) -> Payload<'a> {
        Payload(PayloadKind::Paths(vec![path.into()]))
    }

    /// Several files and directories, which become one version under their own names.
    pub fn paths(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Payload<'a> {
        Payload(PayloadKind::Paths(paths.into_iter().map(Into::into).collect()))
    }

    /// All that `reader` gives until its end, as a file called `name`.
    pub fn reader(name: impl Into<String>, reader: impl Read + Send + 'a) -> Payload<'a> {
        Payload(PayloadKind::Reader { name: name.into(), reader: Box::new(reader) })
    }

    /// `bytes`, as a file called `name`.
    pub fn bytes(name: impl Into<String>, bytes: &'a [u8]) -> Payload<'a> {
        Payload::reader(name, bytes)
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            PayloadKind::Paths(paths) => f.debug_tuple("Payload").field(paths).finish(),
            PayloadKind::Reader { name, .. } => f.debug_tuple("Payload").field(name).finish(),
        }
    }
}

/// Something to store under a path of the version.
#[derive(Debug)]
pub(super) enum Item {
    File { source: PathBuf, executable: bool, bytes: u64 },
    Symlink { target: String },
    Directory,
}

/// All that a put stores, by path inside the version.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) by_path: BTreeMap<String, Item>,
    /// True for one file that is stored as itself.
    pub(super) single: bool,
}

impl Items {
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |item: &Item| if let Item::File { bytes, .. } = item { *bytes } else { 0 };
        self.by_path.values().map(bytes).sum()
    }
}

/// Finds all that `paths` name. `store` is the directory of the store, which must not be stored in itself.
pub(super) fn find_items(paths: &[PathBuf], store: Option<&Path>) -> Result<Items> {
    let store = store.and_then(|path| fs::canonicalize(path).ok());
    let mut walk = FindItems { by_path: BTreeMap::new(), store };
    if let [path] = paths {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
        if metadata.is_dir() {
            walk.directory(path, "", 0)?;
            if walk.by_path.is_empty() {
                return Err(input(path, "an empty directory has nothing to store"));
            }
            return Ok(Items { by_path: walk.by_path, single: false });
        }
        walk.add(file_name(path)?, path, &metadata)?;
        return Ok(Items { by_path: walk.by_path, single: true });
    }
    if paths.is_empty() {
        return Err(input(Path::new(""), "no path was given"));
    }
    for path in paths {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
        let name = file_name(path)?;
        if walk.has(&name) {
            return Err(input(
                path,
                &format!("another path is called {name:?} too; put their common directory, or rename one"),
            ));
        }
        if metadata.is_dir() {
            walk.directory(path, &name, 1)?;
        } else {
            walk.add(name, path, &metadata)?;
        }
    }
    Ok(Items { by_path: walk.by_path, single: false })
}

struct FindItems {
    by_path: BTreeMap<String, Item>,
    store: Option<PathBuf>,
}

impl FindItems {
    /// Whether something is stored as `name`, or below it.
    fn has(&self, name: &str) -> bool {
        let below = format!("{name}/");
        // The paths below it come one after another, though not right behind the name itself: `a-b` lies between `a` and `a/b`.
        let first = self.by_path.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded)).next();
        self.by_path.contains_key(name) || first.is_some_and(|(path, _)| path.starts_with(&below))
    }

    fn directory(&mut self, source: &Path, path: &str, depth: usize) -> Result<()> {
        if depth > limits::DIRECTORY_DEPTH {
            let (found, limit) = (depth as u64, limits::DIRECTORY_DEPTH as u64);
            return Err(Error::Limit { what: "depth of directories", found, limit });
        }
        if self.store.is_some() && fs::canonicalize(source).ok() == self.store {
            return Err(input(
                source,
                "this is the store itself; put something else, or choose a store outside with --store",
            ));
        }
        let mut empty = true;
        for entry in fs::read_dir(source).map_err(|error| unreadable(source, error))? {
            empty = false;
            let entry = entry.map_err(|error| unreadable(source, error))?;
            let name = entry.file_name().into_string().map_err(|_| input(&entry.path(), NOT_UTF8))?;
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            let metadata = entry.metadata().map_err(|error| unreadable(&entry.path(), error))?;
            if metadata.is_dir() {
                self.directory(&entry.path(), &path, depth + 1)?;
            } else {
                self.add(path, &entry.path(), &metadata)?;
            }
        }
        if empty && !path.is_empty() {
            self.insert(path.to_owned(), Item::Directory)?;
        }
        Ok(())
    }

    fn add(&mut self, path: String, source: &Path, metadata: &fs::Metadata) -> Result<()> {
        let kind = metadata.file_type();
        let item = if kind.is_file() {
            let executable = metadata.permissions().mode() & 0o111 != 0;
            Item::File { source: source.to_owned(), executable, bytes: metadata.len() }
        } else if kind.is_symlink() {
            let target = fs::read_link(source).map_err(|error| unreadable(source, error))?;
            let target = target.into_os_string().into_string().map_err(|_| input(source, NOT_UTF8_TARGET))?;
            Item::Symlink { target }
        } else {
            return Err(input(source, special(kind)));
        };
        self.insert(path, item)
    }

    fn insert(&mut self, path: String, item: Item) -> Result<()> {
        if path.len() > limits::PATH_BYTES {
            let (found, limit) = (path.len() as u64, limits::PATH_BYTES as u64);
            return Err(Error::Limit { what: "a path, in bytes,", found, limit });
        }
        self.by_path.insert(path, item);
        if self.by_path.len() > limits::FILES {
            let (found, limit) = (self.by_path.len() as u64, limits::FILES as u64);
            return Err(Error::Limit { what: "number of files in a version", found, limit });
        }
        Ok(())
    }
}

const NOT_UTF8: &str = "its name is not UTF-8 text; rename it";
const NOT_UTF8_TARGET: &str = "the link's target is not UTF-8 text; make it anew";

/// The name that a path given by the user is stored under.
fn file_name(path: &Path) -> Result<String> {
    // `.` and `..` have no name of their own: that of the directory they stand for is used.
    let named = match path.file_name() {
        Some(name) => name.to_owned(),
        None => {
            let full = fs::canonicalize(path).map_err(|error| unreadable(path, error))?;
            full.file_name()
                .map(ToOwned::to_owned)
                .ok_or_else(|| input(path, "the root directory has no name to store it under"))?
        }
    };
    named.into_string().map_err(|_| input(path, NOT_UTF8))
}

fn special(kind: fs::FileType) -> &'static str {
    if kind.is_fifo() {
        "it is a pipe; put its content from standard input with `-`"
    } else if kind.is_socket() {
        "it is a socket, which has no content to store; remove it from the directory"
    } else {
        "it is a device, which is not stored; remove it from the directory, or put its content from standard input with `-`"
    }
}

fn input(path: &Path, why: &str) -> Error {
    Error::Input { path: path.to_owned(), why: why.to_owned() }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => input(path, "there is no such file or directory"),
        std::io::ErrorKind::PermissionDenied => input(path, "permission denied; run as a user who may read it"),
        _ => Error::io("read", path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_by_itself_and_by_what_lies_below_it() {
        let item = |path: &str| (path.to_owned(), Item::Directory);
        let by_path = ["a-b", "a/b", "a0", "d", "d-", "e-", "ee"].map(item).into();
        let found = FindItems { by_path, store: None };
        for (name, taken) in [("a", true), ("a-b", true), ("d", true), ("e", false), ("a-", false), ("f", false)] {
            assert_eq!(found.has(name), taken, "{name}");
        }
    }
}
