//! [`FaultDisk`]: a disk in memory that keeps what is durable apart from what was merely written, counts every operation,
//! and fails from a chosen one on. The crash tests run a store on it, stop it anywhere, and reopen what a crash would leave.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{ObjectInfo, ObjectReader, ObjectWriter, Room, StorageBackend};

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
    /// Everything: only the process died. What was not synced still is not, and a second crash may take it.
    Written,
    /// Unsynced bytes up to the middle of them: a torn write.
    Torn,
    /// Unsynced bytes from the middle of them on: pages reached the disk out of order.
    Reordered,
    /// The lengths that files had, and zeros where bytes were not synced: what file systems leave that allocate late.
    Zeroed,
}

impl Survivors {
    /// Every one of them.
    pub const ALL: [Survivors; 5] =
        [Survivors::Synced, Survivors::Written, Survivors::Torn, Survivors::Reordered, Survivors::Zeroed];
}

#[derive(Debug, Clone, Default)]
struct Image {
    live: Vec<u8>,
    /// What a crash is sure to leave.
    durable: Vec<u8>,
    /// The name itself may be lost: the disk stopped while it was made.
    unsure: bool,
    /// Bytes that cannot be read.
    worn: Option<Range<u64>>,
}

impl Image {
    fn left(&self, survivors: Survivors) -> Vec<u8> {
        match survivors {
            Survivors::Synced => self.durable.clone(),
            Survivors::Written => self.live.clone(),
            Survivors::Torn => self.mixed(|nth, changed| nth < changed / 2),
            Survivors::Reordered => self.mixed(|nth, changed| nth >= changed / 2),
            Survivors::Zeroed => {
                let mut bytes = self.durable.clone();
                bytes.resize(self.live.len(), 0);
                bytes
            }
        }
    }

    /// The durable bytes, and of those that differ from them the ones that `survives` picks, by their count.
    fn mixed(&self, survives: impl Fn(usize, usize) -> bool) -> Vec<u8> {
        let len = self.live.len().max(self.durable.len());
        let differing: Vec<usize> = (0..len).filter(|&at| self.live.get(at) != self.durable.get(at)).collect();
        let mut bytes = self.durable.clone();
        for (nth, &at) in differing.iter().enumerate() {
            if let Some(&byte) = self.live.get(at).filter(|_| survives(nth, differing.len())) {
                if bytes.len() <= at {
                    bytes.resize(at + 1, 0);
                }
                bytes[at] = byte;
            }
        }
        bytes
    }
}

#[derive(Debug, Default)]
struct Disk {
    objects: BTreeMap<String, Arc<Mutex<Image>>>,
    /// Objects at whose deletion the disk stopped.
    unsure_deletions: BTreeMap<String, Arc<Mutex<Image>>>,
    index: Arc<Mutex<Image>>,
    operations: Vec<Operation>,
    /// Operations that may still succeed; `None`: all of them.
    budget: Option<u64>,
    failure: Option<i32>,
    /// Bytes that objects may have together; `None`: any number.
    capacity: Option<u64>,
}

impl Disk {
    /// Bytes that all objects have together.
    fn taken(&self) -> u64 {
        self.objects.values().map(|image| lock(image).live.len() as u64).sum()
    }
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

    /// Lets the disk hold so many bytes of objects, or any number. A write beyond that fails with `ENOSPC`.
    pub fn hold(&self, capacity: Option<u64>) {
        lock(&self.disk).capacity = capacity;
    }

    /// A new disk that holds what a crash at this moment leaves.
    pub fn crash(&self, survivors: Survivors) -> FaultDisk {
        let disk = lock(&self.disk);
        let leave = |image: &Arc<Mutex<Image>>| {
            let image = lock(image);
            let live = image.left(survivors);
            let left = match survivors {
                Survivors::Written => Image { live, ..image.clone() },
                _ => Image { durable: live.clone(), live, unsure: false, worn: image.worn.clone() },
            };
            Arc::new(Mutex::new(left))
        };
        let lost = |image: &Arc<Mutex<Image>>| survivors == Survivors::Synced && lock(image).unsure;
        let kept = disk.objects.iter().filter(|(_, image)| !lost(image));
        let undeleted = disk.unsure_deletions.iter().filter(|_| survivors == Survivors::Synced);
        let objects = kept.chain(undeleted).map(|(name, image)| (name.clone(), leave(image))).collect();
        let left = Disk { objects, index: leave(&disk.index), ..Disk::default() };
        FaultDisk { disk: Arc::new(Mutex::new(left)) }
    }

    /// The names of the objects.
    pub fn names(&self) -> Vec<String> {
        lock(&self.disk).objects.keys().cloned().collect()
    }

    /// The live bytes of the index database, to look at or to damage.
    pub fn with_index<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let image = Arc::clone(&lock(&self.disk).index);
        let mut image = lock(&image);
        let result = act(&mut image.live);
        image.durable = image.live.clone();
        result
    }

    /// The live bytes of the object `name`, to look at or to damage.
    pub fn with_object<T>(&self, name: &str, act: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let image = lock(&self.disk).objects.get(name).cloned()?;
        let mut image = lock(&image);
        let result = act(&mut image.live);
        image.durable = image.live.clone();
        Some(result)
    }

    /// Makes every read of the object `name` that touches the bytes `worn` fail with `EIO`; an empty range heals it.
    pub fn wear_out(&self, name: &str, worn: Range<u64>) -> io::Result<()> {
        lock(&*self.find(name)?).worn = Some(worn).filter(|worn| !worn.is_empty());
        Ok(())
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

impl StorageBackend for FaultDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn ObjectWriter>> {
        if lock(&self.disk).objects.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let outcome = self.step(Operation::Create);
        let image = Arc::new(Mutex::new(Image { unsure: outcome.is_err(), ..Image::default() }));
        lock(&self.disk).objects.insert(name.to_owned(), Arc::clone(&image));
        outcome.map(|()| -> Arc<dyn ObjectWriter> { Arc::new(FaultObject { disk: self.clone(), image }) })
    }

    fn resume(&self, name: &str, len: u64) -> io::Result<Arc<dyn ObjectWriter>> {
        let image = self.find(name)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let found = lock(&image).live.len();
        if found < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if found > len {
            let outcome = self.step(Operation::Truncate);
            let mut image = lock(&image);
            image.live.truncate(len);
            outcome?;
            image.durable = image.live.clone();
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
        let image = self.find(name)?;
        let outcome = self.step(Operation::Delete);
        let mut disk = lock(&self.disk);
        disk.objects.remove(name);
        if outcome.is_err() {
            disk.unsure_deletions.insert(name.to_owned(), image);
        }
        outcome
    }

    fn room(&self) -> Option<Room> {
        let disk = lock(&self.disk);
        let total = disk.capacity?;
        Some(Room { free: total.saturating_sub(disk.taken()), total })
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
        if self.disk.room().is_some_and(|room| room.free < bytes.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
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
        let end = (start + n) as u64;
        if image.worn.as_ref().is_some_and(|worn| worn.start < end && offset < worn.end) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
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
    /// Deletes the database.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let outcome = self.disk.step(Operation::Delete);
        let mut image = lock(&self.image);
        image.live.clear();
        outcome?;
        image.durable.clear();
        Ok(())
    }

    fn range(offset: u64, len: usize) -> io::Result<Range<usize>> {
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
        let outcome = self.disk.step(Operation::Truncate);
        lock(&self.image).live.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        outcome
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.disk.step(Operation::Sync)?;
        let mut image = lock(&self.image);
        image.durable = image.live.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let outcome = self.disk.step(Operation::Write);
        // As with objects: the write at which the disk stops is torn.
        let data = if outcome.is_ok() { data } else { &data[..data.len() / 2] };
        let mut image = lock(&self.image);
        let range = Self::range(offset, data.len())?;
        if image.live.len() < range.end {
            image.live.resize(range.end, 0);
        }
        image.live[range].copy_from_slice(data);
        outcome
    }
}
