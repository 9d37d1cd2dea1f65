//! Where a store keeps its packs: in its directory, in memory, in an object store, or where the caller says.
//!
//! The index of packs in an object store stays in the directory, and the file `backend` there says where they are: `{"url": URL}`. Order of
//! events: the catalogue is begun at the other end, in the name of the store's identity; the format is raised, so that nobody takes the
//! store for an empty one; the file is written. From then on a place without a catalogue is a wrong or emptied one, and never a new one.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::{FileBackend, MemoryBackend, StorageBackend};
use crate::error::{Error, Result};
use crate::node::leases::Leases;
use crate::store::{IndexPlace, StoreDirectory, index_path};

const FILE: &str = "backend";

/// Most bytes of that file.
const FILE_BYTES: u64 = 64 << 10;

/// True if `url` names a place that other machines reach too.
pub(super) fn are_elsewhere(url: &str) -> bool {
    !matches!(url, "files:" | "memory:")
}

/// The packs of a store and their index.
pub(super) struct Packs {
    pub(super) backend: Arc<dyn StorageBackend>,
    pub(super) index: IndexPlace,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    url: String,
}

/// True if it is known where the packs of the store at `path` are: they are there, or its file says where.
pub(super) fn are_known(path: &Path) -> bool {
    let listed = FileBackend::new(path.join("packs")).list("p-").unwrap_or_default();
    !listed.is_empty() || path.join(FILE).exists()
}

/// The packs that a caller brings along.
pub(super) fn handed_in(directory: &StoreDirectory, backend: Arc<dyn StorageBackend>) -> Result<Packs> {
    match Place::read(directory)? {
        Some(place) => Err(elsewhere(directory, &place.url)),
        None if says_elsewhere(directory)? => Err(elsewhere(directory, "another place")),
        None => Ok(Packs { backend, index: IndexPlace::File(index_path(directory.path())) }),
    }
}

/// What is asked of a place.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "remote"), allow(dead_code, reason = "files and memory are nobody else's, and always there"))]
pub(super) struct Demand {
    /// It becomes this store's if it is another's.
    pub(super) take_over: bool,
    /// Packs are there already.
    pub(super) existing: bool,
}

/// The packs of the store in `directory`: where `url` says, or else where they have been.
pub(super) fn find(directory: &StoreDirectory, url: Option<&str>, demand: Demand) -> Result<Packs> {
    let place = Place::read(directory)?;
    let index = IndexPlace::File(index_path(directory.path()));
    let files = || Arc::new(FileBackend::new(directory.packs()));
    match url.or(place.as_ref().map(|place| place.url.as_str())) {
        None if says_elsewhere(directory)? => Err(Error::Damaged {
            what: "store",
            place: directory.path().join(FILE).display().to_string(),
            why: "the file that says where its packs are is missing; name the place with --backend URL".to_owned(),
        }),
        None => Ok(Packs { backend: files(), index }),
        Some("files:" | "memory:") if place.is_some() || says_elsewhere(directory)? => {
            Err(elsewhere(directory, place.as_ref().map_or("another place", |place| &place.url)))
        }
        Some("files:") => Ok(Packs { backend: files(), index }),
        Some(_) if has_files(directory)? => Err(elsewhere(directory, "files:")),
        Some("memory:") => {
            tracing::warn!("packs are kept in memory: what is stored is gone when this process ends");
            // What was kept for others has ended with the chunks.
            remove(&Leases::path(directory.path()))?;
            Ok(Packs { backend: Arc::new(MemoryBackend::new()), index: IndexPlace::Memory })
        }
        Some(url) => Ok(Packs { backend: remote(directory, url, place.as_ref(), demand)?, index }),
    }
}

fn elsewhere(directory: &StoreDirectory, url: &str) -> Error {
    let why = format!(
        "its packs are in {url}; to have them elsewhere, `caskad export` its versions and import them into a new store"
    );
    Error::Input { path: directory.path().to_owned(), why }
}

/// Deletes a file, if there is one.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", path, error)),
        _ => Ok(()),
    }
}

/// True if the format says that packs are elsewhere. Where they are not, it is what is damaged.
fn says_elsewhere(directory: &StoreDirectory) -> Result<bool> {
    Ok(directory.has_packs_elsewhere()? && !has_files(directory)?)
}

/// True if packs are in the directory.
fn has_files(directory: &StoreDirectory) -> Result<bool> {
    let packs = directory.packs();
    let listed = FileBackend::new(&packs).list("p-").map_err(|error| Error::io("list", packs, error))?;
    Ok(!listed.is_empty())
}

#[cfg(not(feature = "remote"))]
fn remote(_: &StoreDirectory, url: &str, _: Option<&Place>, _: Demand) -> Result<Arc<dyn StorageBackend>> {
    let why = "this build knows no object stores; build it with the feature `remote`".to_owned();
    Err(Error::Syntax { what: "backend", input: url.to_owned(), why })
}

#[cfg(feature = "remote")]
fn remote(
    directory: &StoreDirectory,
    url: &str,
    known: Option<&Place>,
    demand: Demand,
) -> Result<Arc<dyn StorageBackend>> {
    use crate::backend::{ObjectBackend, ObjectOptions, object};
    use crate::identity::Identity;

    let operator = object::operator(url)?;
    let key = directory.path().join("identity.key");
    let read_only = directory.read_only();
    let identity = if read_only { Identity::load(&key)? } else { Identity::load_or_create(&key)? };
    let options = ObjectOptions {
        place: url.split_once('?').map_or(url, |(place, _)| place).to_owned(),
        owner: identity.scope().to_string(),
        take_over: demand.take_over,
        existing: demand.existing || known.is_some() || directory.has_packs_elsewhere()?,
        read_only,
        ..ObjectOptions::default()
    };
    let backend = ObjectBackend::open(operator, options)?;
    // Also for packs that are this store's under another address than before.
    if !read_only && known.is_none_or(|place| place.url != url) {
        directory.packs_are_elsewhere()?;
        Place { url: url.to_owned() }.write(directory)?;
    }
    Ok(Arc::new(backend))
}

impl Place {
    fn read(directory: &StoreDirectory) -> Result<Option<Place>> {
        let path = directory.path().join(FILE);
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > FILE_BYTES => Vec::new(),
            _ => std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Damaged {
            what: "store",
            place: path.display().to_string(),
            why: format!("the file does not say where its packs are ({error}); delete it and name the place again with --backend URL"),
        })
    }

    #[cfg(feature = "remote")]
    fn write(&self, directory: &StoreDirectory) -> Result<()> {
        let text = serde_json::json!({ "url": self.url });
        directory.write_file(FILE, format!("{text}\n").as_bytes())
    }
}
