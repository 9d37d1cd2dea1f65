//! [`ObjectBackend`]: objects that grow, on stores whose objects do not: S3, Redis, and whatever else OpenDAL speaks.
//!
//! An object is kept as **parts** of 8 MiB at most (1 MiB on Redis), which are written once and never changed, and one **catalogue** says which parts
//! make which object. Replacing the catalogue is the only change that counts, and a store replaces one object whole or not at all:
//!
//! ```text
//! PLACE/catalogue                              which objects there are, and their parts
//! PLACE/objects/NAME/OFFSET-EPOCH-WRITER       bytes of NAME from OFFSET (12 hex digits) on
//! ```
//!
//! - **Append** gathers a part and uploads it while the next one fills, four at a time; a reader is given from memory what is on its way.
//! - **Sync** uploads what is left, waits for all parts, then replaces the catalogue. What it does not name was never acknowledged.
//! - **Delete** takes the object out of the catalogue and lists its parts there as waste, which is deleted once nobody reads it.
//! - **One writer**: the first change that a process makes raises the epoch in the catalogue, and every later one is refused if the
//!   catalogue is no longer what this process has written. Where the store can replace an object on a condition, as S3 can, that is
//!   decided there; elsewhere, as on Redis, the catalogue is read before it is replaced. No two writers give a part the same name.
//! - **After a crash** the next writer deletes the waste, and the parts that the last one had written and not named.
//!
//! Every request is bounded in time. Those that can be repeated are, up to four times with growing pauses, until 20 s have passed. One that
//! is not answered in its time is repeated until twice that time has passed, so once where that is long. A catalogue is sent again after a
//! timeout only where the condition makes that safe: a late one must not undo a later one.
//!
//! Reads go through a cache of 1 MiB blocks, 64 MiB in all. Where they follow each other, the next 8 MiB are on their way meanwhile, 40 MiB
//! at most for all reads together. A part that is gone reads
//! as zeros: the records that it held are reported as damaged, and those behind it are still found.

mod ahead;
mod blocks;
mod catalogue;
mod growing;
mod operator;
mod remote;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

pub use operator::operator;

use crate::backend::object::blocks::Blocks;
use crate::backend::object::catalogue::{Catalogue, Entry, PartId, Waste};
use crate::backend::object::growing::{Growth, Object};
use crate::backend::object::remote::{Published, Remote};
use crate::backend::{ObjectInfo, ObjectReader, ObjectWriter, StorageBackend};
use crate::error::{Error, Result};

/// How an [`ObjectBackend`] is opened.
#[derive(Debug, Clone)]
pub struct ObjectOptions {
    /// What people call the place: a URL without secrets.
    pub place: String,
    /// Whose objects they are: the id of the one store that may use the place.
    pub owner: String,
    /// Makes the place that owner's if it is another's.
    pub take_over: bool,
    /// Fails where there is no catalogue, rather than begin one.
    pub existing: bool,
    /// Begins and takes over nothing.
    pub read_only: bool,
    /// How long a request may take, one that moves a part of 8 MiB included (default 60 s).
    pub timeout: Duration,
    /// How long after a failure it is first repeated (default 200 ms); each later pause is twice as long.
    pub pause: Duration,
}

impl Default for ObjectOptions {
    fn default() -> ObjectOptions {
        let (place, owner) = (String::new(), String::new());
        let (timeout, pause) = (Duration::from_secs(60), Duration::from_millis(200));
        ObjectOptions { place, owner, take_over: false, existing: false, read_only: false, timeout, pause }
    }
}

/// Keeps objects in an object store. See the [module](self) for how.
#[derive(Debug)]
pub struct ObjectBackend {
    shared: Arc<Shared>,
}

/// What a backend and its objects have in common.
#[derive(Debug)]
struct Shared {
    remote: Remote,
    blocks: Arc<Blocks>,
    options: ObjectOptions,
    /// As it was last published.
    catalogue: Mutex<Arc<Catalogue>>,
    /// Held while the catalogue is replaced.
    published: Mutex<Published>,
    /// Waste that is gone, and still in the catalogue.
    swept: Mutex<Vec<Waste>>,
    /// Objects that someone holds.
    live: Mutex<HashMap<String, Weak<Object>>>,
    next_writer: AtomicU32,
}

/// What these locks guard is consistent between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ObjectBackend {
    /// Opens the place that `operator` leads to, and begins a catalogue where there is none.
    ///
    /// Fails with [`Error::NotAStore`] if the place is another owner's, or holds something else.
    pub fn open(operator: opendal::Operator, options: ObjectOptions) -> Result<ObjectBackend> {
        let not_ours = |why: String| Error::NotAStore { path: PathBuf::from(&options.place), why };
        let remote = Remote::new(operator, options.timeout, options.pause)
            .map_err(|error| Error::io("open", &options.place, error))?;
        let read =
            remote.read_catalogue().map_err(|error| Error::io("read the catalogue of", &options.place, error))?;
        let found = match &read {
            None => None,
            Some((bytes, _)) => Some(Catalogue::decode(bytes).map_err(|why| Error::Damaged {
                what: "catalogue",
                place: options.place.clone(),
                why,
            })?),
        };
        let foreign = found.as_ref().is_some_and(|catalogue| catalogue.owner != options.owner);
        match &found {
            None if options.existing => {
                return Err(not_ours(
                    "its catalogue is gone, or was never there; is the address right, and the server's data whole?"
                        .to_owned(),
                ));
            }
            None if options.read_only => return Err(not_ours("nothing is there yet".to_owned())),
            None if remote.holds_parts().map_err(|error| Error::io("list", &options.place, error))? => {
                return Err(not_ours(
                    "it holds parts of objects but no catalogue; restore that, or choose another place".to_owned(),
                ));
            }
            Some(catalogue) if foreign && !options.take_over => {
                let why = format!(
                    "it belongs to another store, last written to by {}; take it over (--take-over) if that one is gone, or choose another place",
                    catalogue.host
                );
                return Err(not_ours(why));
            }
            _ => {}
        }
        let begin = (found.is_none() || foreign) && !options.read_only;
        let catalogue = found.unwrap_or_else(|| Catalogue::begin(&options.owner));
        let shared = Shared {
            remote,
            blocks: Arc::default(),
            options,
            catalogue: Mutex::new(Arc::new(catalogue)),
            published: Mutex::new(Published::read(read)),
            swept: Mutex::default(),
            live: Mutex::default(),
            next_writer: AtomicU32::new(0),
        };
        if begin {
            let begun = shared.publish(|_| {});
            begun.map_err(|error| Error::io("write the catalogue of", &shared.options.place, error))?;
        }
        Ok(ObjectBackend { shared: Arc::new(shared) })
    }

    fn object(&self, name: &str) -> io::Result<Arc<Object>> {
        check_name(name)?;
        let mut live = lock(&self.shared.live);
        if let Some(object) = live.get(name).and_then(Weak::upgrade).filter(|object| !object.has_failed()) {
            return Ok(object);
        }
        let catalogue = self.shared.catalogue();
        let entry = catalogue.objects.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let object = Arc::new(Object::stored(&self.shared, name, entry));
        live.insert(name.to_owned(), Arc::downgrade(&object));
        Ok(object)
    }
}

impl Shared {
    fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&lock(&self.catalogue))
    }

    /// A number that no other writer of this process has had.
    fn next_writer(&self) -> u32 {
        self.next_writer.fetch_add(1, Ordering::Relaxed)
    }

    /// Replaces the catalogue by one that `change` was made to. The first time, that makes this process the one that may.
    fn publish(&self, change: impl FnOnce(&mut Catalogue)) -> io::Result<()> {
        if self.options.read_only {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the store is open for reading only"));
        }
        let mut published = lock(&self.published);
        let before = self.catalogue();
        let mut next = Catalogue::clone(&before);
        if !published.claimed {
            next.claim(&self.options.owner, self.remote.part_bytes());
        }
        let swept = lock(&self.swept).clone();
        next.waste.retain(|waste| !swept.contains(waste));
        change(&mut next);
        next.revision += 1;
        self.remote.replace_catalogue(&mut published, next.encode()?)?;
        lock(&self.swept).retain(|waste| !swept.contains(waste));
        let waste = match std::mem::replace(&mut published.claimed, true) {
            true => Vec::new(),
            // What the process before this one has left.
            false => [before.waste.clone(), self.remote.orphans(&before)].concat(),
        };
        *lock(&self.catalogue) = Arc::new(next);
        drop(published);
        waste.into_iter().for_each(|waste| self.sweep(waste));
        Ok(())
    }

    /// The name of this process's parts by writer `writer`, once it may write.
    fn part_id(&self, writer: u32) -> PartId {
        PartId { epoch: self.catalogue().epoch, writer }
    }

    /// Deletes parts that no object has any more. What cannot be deleted now is, once a next process opens the place.
    fn sweep(&self, waste: Waste) {
        let outcome = self.remote.delete_parts(&waste);
        self.swept(waste, outcome);
    }

    fn swept(&self, waste: Waste, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => lock(&self.swept).push(waste),
            Err(error) => tracing::warn!("{} is not cleared of what was deleted: {error}", self.options.place),
        }
    }

    fn describe(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.options.place.trim_end_matches('/')))
    }
}

fn check_name(name: &str) -> io::Result<()> {
    match name.is_empty() || name.contains('/') || name.starts_with('.') {
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("object name {name:?}"))),
        false => Ok(()),
    }
}

impl StorageBackend for ObjectBackend {
    fn create(&self, name: &str) -> io::Result<Arc<dyn ObjectWriter>> {
        check_name(name)?;
        if self.shared.catalogue().objects.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let writer = self.shared.next_writer();
        let object = Arc::new(Object::stored(&self.shared, name, &Entry::default()));
        self.shared.publish(|catalogue| {
            let writer = PartId { epoch: catalogue.epoch, writer };
            catalogue.objects.insert(name.to_owned(), Entry { writer, parts: Vec::new() });
            // Before anybody sees the name: whoever opens it shares what is appended.
            lock(&self.shared.live).insert(name.to_owned(), Arc::downgrade(&object));
        })?;
        Ok(Arc::new(Growth::begun(object, self.shared.part_id(writer))))
    }

    fn resume(&self, name: &str, len: u64) -> io::Result<Arc<dyn ObjectWriter>> {
        let object = self.object(name)?;
        let dropped = object.truncate(len)?;
        let known = self.shared.catalogue();
        if dropped.is_some() || known.objects.get(name).is_some_and(|entry| entry.len() != len) {
            let (parts, waste) = (object.stored_parts(), dropped.clone());
            self.shared.publish(|catalogue| {
                catalogue.objects.entry(name.to_owned()).or_default().parts = parts;
                catalogue.waste.extend(waste);
            })?;
        }
        dropped.into_iter().for_each(|waste| self.shared.sweep(waste));
        Ok(Arc::new(Growth::resumed(object)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ObjectReader>> {
        Ok(self.object(name)?)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let catalogue = self.shared.catalogue();
        let named = catalogue.objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let live = lock(&self.shared.live);
        // What is appended counts before it is synced.
        let len =
            |name: &str, entry: &Entry| live.get(name).and_then(Weak::upgrade).map_or(entry.len(), |held| held.size());
        Ok(named.map(|(name, entry)| ObjectInfo { name: name.clone(), len: len(name, entry) }).collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let object = self.object(name)?;
        self.shared.publish(|catalogue| {
            catalogue.objects.remove(name);
            catalogue.waste.push(object.whole());
        })?;
        lock(&self.shared.live).remove(name);
        object.doom();
        // Unless someone still reads it.
        if let Some(waste) = Arc::into_inner(object).and_then(|object| object.take_doomed()) {
            self.shared.sweep(waste);
        }
        Ok(())
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.shared.describe(name)
    }
}
