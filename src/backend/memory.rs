//! Objects in memory: for tests, and for stores that need not outlive the process.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{ObjectInfo, ObjectReader, ObjectWriter, StorageBackend};

type Object = Arc<Mutex<Vec<u8>>>;

/// Keeps every object in memory. Clones share their objects.
#[derive(Debug, Clone, Default)]
pub struct MemoryBackend {
    objects: Arc<Mutex<BTreeMap<String, Object>>>,
}

impl MemoryBackend {
    /// A backend that holds nothing.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }

    fn find(&self, name: &str) -> io::Result<Object> {
        lock(&self.objects).get(name).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Object bytes stay consistent at every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StorageBackend for MemoryBackend {
    fn create(&self, name: &str) -> io::Result<Arc<dyn ObjectWriter>> {
        let mut objects = lock(&self.objects);
        if objects.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let object = Object::default();
        objects.insert(name.to_owned(), Arc::clone(&object));
        Ok(Arc::new(MemoryObject(object)))
    }

    fn resume(&self, name: &str, len: u64) -> io::Result<Arc<dyn ObjectWriter>> {
        let object = self.find(name)?;
        {
            let mut bytes = lock(&object);
            let len = usize::try_from(len).map_err(io::Error::other)?;
            if bytes.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(len);
        }
        Ok(Arc::new(MemoryObject(object)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ObjectReader>> {
        Ok(Arc::new(MemoryObject(self.find(name)?)))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let objects = lock(&self.objects);
        let matching = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(matching.map(|(name, object)| ObjectInfo { name: name.clone(), len: lock(object).len() as u64 }).collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        lock(&self.objects).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn describe(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("memory:{name}"))
    }
}

#[derive(Debug)]
struct MemoryObject(Object);

impl ObjectWriter for MemoryObject {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectReader for MemoryObject {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = lock(&self.0);
        let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let found = &bytes[start..];
        let n = found.len().min(buffer.len());
        buffer[..n].copy_from_slice(&found[..n]);
        Ok(n)
    }

    fn read_at_hand(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.read_at(offset, buffer).is_ok_and(|read| read == buffer.len())
    }
}
