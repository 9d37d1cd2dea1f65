//! [`FaultDisk`]: a disk in memory that keeps what is durable apart from what was merely written, counts every operation,
//! and fails from a chosen one on. The crash tests run a store on it, stop it anywhere, and reopen what a crash would leave.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{ObjectInfo, ObjectReader, ObjectWriter, StorageBackend};

/// Which operations a [`FaultDisk`] counts and can fail at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// An object is created.
    Create,
    /// Bytes are written to an object or to the index.
    Write,
    /// An object or the index is synced.
    Sync,
    /// An object is deleted.
    Delete,
    /// An object or the index is cut to a length.
    Truncate,
}

/// What survives the crash of a [`FaultDisk`], beyond all that was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Survivors {
    /// Nothing: the drive's cache was lost.
    Synced,
    /// Everything: only the process died.
    Written,
    /// Unsynced bytes up to the middle of them: a torn write.
    Torn,
}

#[derive(Debug, Clone, Default)]
struct Image {
    live: Vec<u8>,
    /// What a crash is sure to leave.
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct Disk {
    objects: BTreeMap<String, Arc<Mutex<Image>>>,
    index: Arc<Mutex<Image>>,
    operations: Vec<Operation>,
    /// Operations that may still succeed; `None`: all of them.
    budget: Option<u64>,
    failure: Option<i32>,
}

/// A disk that can be stopped at any operation. Clones are handles on the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultDisk {
    disk: Arc<Mutex<Disk>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultDisk {
    /// An empty disk that never fails.
    pub fn new() -> FaultDisk {
        FaultDisk::default()
    }

    /// Every counted operation so far, in order.
    pub fn operations(&self) -> Vec<Operation> {
        lock(&self.disk).operations.clone()
    }

    /// Lets `count` more operations succeed; every later one fails with `EIO`.
    pub fn fail_after(&self, count: u64) {
        self.fail_after_with(count, rustix::io::Errno::IO.raw_os_error());
    }

    /// As [`fail_after`](FaultDisk::fail_after), with an error number of the caller's choice, such as `ENOSPC`.
    pub fn fail_after_with(&self, count: u64, errno: i32) {
        let mut disk = lock(&self.disk);
        disk.budget = Some(count);
        disk.failure = Some(errno);
    }

    /// A new disk that holds what a crash at this moment leaves.
    pub fn crash(&self, survivors: Survivors) -> FaultDisk {
        let disk = lock(&self.disk);
        let leave = |image: &Arc<Mutex<Image>>| {
            let image = lock(image);
            let bytes = match survivors {
                Survivors::Synced => image.durable.clone(),
                Survivors::Written => image.live.clone(),
                Survivors::Torn => torn(&image),
            };
            Arc::new(Mutex::new(Image { live: bytes.clone(), durable: bytes }))
        };
        let objects = disk.objects.iter().map(|(name, image)| (name.clone(), leave(image))).collect();
        let left = Disk { objects, index: leave(&disk.index), ..Disk::default() };
        FaultDisk { disk: Arc::new(Mutex::new(left)) }
    }

    /// The live bytes of the object `name`, to look at or to damage.
    pub fn with_object<T>(&self, name: &str, act: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let image = lock(&self.disk).objects.get(name).cloned()?;
        let mut image = lock(&image);
        let result = act(&mut image.live);
        image.durable = image.live.clone();
        Some(result)
    }

    pub(crate) fn index_storage(&self) -> IndexStorage {
        IndexStorage { disk: self.clone(), image: Arc::clone(&lock(&self.disk).index) }
    }

    fn step(&self, operation: Operation) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        if let Some(budget) = &mut disk.budget {
            match budget.checked_sub(1) {
                Some(left) => *budget = left,
                None => return Err(io::Error::from_raw_os_error(disk.failure.unwrap_or_default())),
            }
        }
        disk.operations.push(operation);
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<Arc<Mutex<Image>>> {
        lock(&self.disk).objects.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The durable bytes, with the first half of what differs from them taken from the live ones.
fn torn(image: &Image) -> Vec<u8> {
    let len = image.live.len().max(image.durable.len());
    let differs = |at: &usize| image.live.get(*at) != image.durable.get(*at);
    let changed = (0..len).filter(differs).count();
    let mut bytes = image.durable.clone();
    for at in (0..len).filter(differs).take(changed / 2) {
        if let Some(&byte) = image.live.get(at) {
            if bytes.len() <= at {
                bytes.resize(at + 1, 0);
            }
            bytes[at] = byte;
        }
    }
    bytes
}

impl StorageBackend for FaultDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn ObjectWriter>> {
        self.step(Operation::Create)?;
        let image = Arc::new(Mutex::new(Image::default()));
        match lock(&self.disk).objects.insert(name.to_owned(), Arc::clone(&image)) {
            None => Ok(Arc::new(FaultObject { disk: self.clone(), image })),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn resume(&self, name: &str, len: u64) -> io::Result<Arc<dyn ObjectWriter>> {
        let image = self.find(name)?;
        {
            let mut image = lock(&image);
            let len = usize::try_from(len).map_err(io::Error::other)?;
            if image.live.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if image.live.len() > len {
                self.step(Operation::Truncate)?;
                image.live.truncate(len);
                image.durable = image.live.clone();
            }
        }
        Ok(Arc::new(FaultObject { disk: self.clone(), image }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ObjectReader>> {
        Ok(Arc::new(FaultObject { disk: self.clone(), image: self.find(name)? }))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let disk = lock(&self.disk);
        let matching = disk.objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(matching
            .map(|(name, image)| ObjectInfo { name: name.clone(), len: lock(image).live.len() as u64 })
            .collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.step(Operation::Delete)?;
        lock(&self.disk).objects.remove(name);
        Ok(())
    }

    fn describe(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("fault-disk:{name}"))
    }
}

#[derive(Debug)]
struct FaultObject {
    disk: FaultDisk,
    image: Arc<Mutex<Image>>,
}

impl ObjectWriter for FaultObject {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let outcome = self.disk.step(Operation::Write);
        // The write at which the disk stops is torn: a part of it reached the object.
        let written = if outcome.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        lock(&self.image).live.extend_from_slice(written);
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step(Operation::Sync)?;
        let mut image = lock(&self.image);
        image.durable = image.live.clone();
        Ok(())
    }
}

impl ObjectReader for FaultObject {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.image).live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let image = lock(&self.image);
        let start = usize::try_from(offset).map_or(image.live.len(), |offset| offset.min(image.live.len()));
        let found = &image.live[start..];
        let n = found.len().min(buffer.len());
        buffer[..n].copy_from_slice(&found[..n]);
        Ok(n)
    }
}

/// The index database of a store on a [`FaultDisk`].
#[derive(Debug)]
pub(crate) struct IndexStorage {
    disk: FaultDisk,
    image: Arc<Mutex<Image>>,
}

impl IndexStorage {
    pub(crate) fn clear(&self) {
        *lock(&self.image) = Image::default();
    }

    fn range(offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(start..end)
    }
}

impl redb::StorageBackend for IndexStorage {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(lock(&self.image).live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let image = lock(&self.image);
        let bytes = image.live.get(Self::range(offset, out.len())?).ok_or(io::ErrorKind::UnexpectedEof);
        out.copy_from_slice(bytes.map_err(io::Error::from)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.disk.step(Operation::Truncate)?;
        lock(&self.image).live.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.disk.step(Operation::Sync)?;
        let mut image = lock(&self.image);
        image.durable = image.live.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.disk.step(Operation::Write)?;
        let mut image = lock(&self.image);
        let range = Self::range(offset, data.len())?;
        if image.live.len() < range.end {
            image.live.resize(range.end, 0);
        }
        image.live[range].copy_from_slice(data);
        Ok(())
    }
}
