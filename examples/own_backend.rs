//! A backend of one's own: packs in a map, where a client of some database could be. `cargo run --example own_backend`

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Result};
use std::sync::{Arc, Mutex, PoisonError};

use caskad::backend::{ObjectInfo, ObjectReader, ObjectWriter, StorageBackend, conformance};

#[derive(Debug, Default)]
struct Item(Mutex<Vec<u8>>);
#[derive(Debug, Default)]
struct Shelf(Mutex<BTreeMap<String, Arc<Item>>>);

fn with<T, R>(held: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut held.lock().unwrap_or_else(PoisonError::into_inner))
}

impl StorageBackend for Shelf {
    fn create(&self, name: &str) -> Result<Arc<dyn ObjectWriter>> {
        let known = with(&self.0, |items| items.contains_key(name));
        let item = with(&self.0, |items| Arc::clone(items.entry(name.to_owned()).or_default()));
        if known { Err(ErrorKind::AlreadyExists.into()) } else { Ok(item) }
    }
    fn resume(&self, _: &str, _: u64) -> Result<Arc<dyn ObjectWriter>> {
        Err(ErrorKind::Unsupported.into()) // Each time it is opened, the store begins a new pack.
    }
    fn open(&self, name: &str) -> Result<Arc<dyn ObjectReader>> {
        Ok(with(&self.0, |items| items.get(name).cloned()).ok_or(ErrorKind::NotFound)?)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let info = |(name, item): (&String, &Arc<Item>)| Ok(ObjectInfo { name: name.clone(), len: item.len()? });
        with(&self.0, |items| items.iter().filter(|(name, _)| name.starts_with(prefix)).map(info).collect())
    }
    fn delete(&self, name: &str) -> Result<()> {
        Ok(with(&self.0, |items| items.remove(name)).map(drop).ok_or(ErrorKind::NotFound)?)
    }
}

impl ObjectWriter for Item {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        with(&self.0, |held| std::io::Write::write_all(held, bytes))
    }
    fn sync(&self) -> Result<()> {
        Ok(()) // A real one returns once what was appended survives a crash.
    }
}

impl ObjectReader for Item {
    fn len(&self) -> Result<u64> {
        Ok(with(&self.0, |held| held.len() as u64))
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        with(&self.0, |held| held.get(offset as usize..).unwrap_or_default().read(buffer))
    }
}

fn main() {
    conformance::check(Shelf::default); // Then: StoreOptions::new().backend(Arc::new(Shelf::default())).open(directory)
}
