//! [`Overlay`]: a database that is opened and read while nothing below it changes.
//!
//! redb marks a database as open and repairs one that was not closed, so it writes even for a reader. What it writes stays in memory
//! here. That opens an index on a medium that cannot be written to, and goes on reading one after a write to it failed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

use crate::backend::testing::IndexStorage;

const BLOCK_BYTES: usize = 4096;

/// What lies below.
#[derive(Debug)]
pub(super) enum Base {
    File(File),
    FaultDisk(IndexStorage),
}

impl Base {
    fn len(&self) -> io::Result<u64> {
        match self {
            Base::File(file) => Ok(file.metadata()?.len()),
            Base::FaultDisk(storage) => redb::StorageBackend::len(storage),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Base::File(file) => file.read_exact_at(out, offset),
            Base::FaultDisk(storage) => redb::StorageBackend::read(storage, offset, out),
        }
    }
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Bytes of the base that are still to be seen.
    base_len: u64,
    blocks: HashMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

/// The base, with what was written to it since in memory.
#[derive(Debug)]
pub(super) struct Overlay {
    base: Base,
    written: RwLock<Written>,
}

impl Overlay {
    pub(super) fn new(base: Base) -> io::Result<Overlay> {
        let len = base.len()?;
        Ok(Overlay { base, written: RwLock::new(Written { len, base_len: len, blocks: HashMap::new() }) })
    }

    /// Block `index` as the base has it, zeros behind its end.
    fn base_block(&self, index: u64, base_len: u64) -> io::Result<Box<[u8; BLOCK_BYTES]>> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        let start = index * BLOCK_BYTES as u64;
        let len = base_len.saturating_sub(start).min(BLOCK_BYTES as u64) as usize;
        self.base.read(start, &mut block[..len])?;
        Ok(block)
    }
}

/// The blocks that `len` bytes from `offset` touch: number, bytes inside the block, bytes inside the stretch.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = (at % BLOCK_BYTES as u64) as usize;
        let take = (BLOCK_BYTES - start).min(len - done);
        let piece = (at / BLOCK_BYTES as u64, start..start + take, done..done + take);
        done += take;
        (take > 0).then_some(piece)
    })
}

impl redb::StorageBackend for Overlay {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.written.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, inside, place) in pieces(offset, out.len()) {
            match written.blocks.get(&index) {
                Some(block) => out[place].copy_from_slice(&block[inside]),
                None => out[place].copy_from_slice(&self.base_block(index, written.base_len)?[inside]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        if len < written.len {
            // What is cut comes back as zeros.
            let (edge, inside) = (len / BLOCK_BYTES as u64, (len % BLOCK_BYTES as u64) as usize);
            written.base_len = written.base_len.min(len);
            written.blocks.retain(|&index, _| index <= edge);
            if let Some(block) = written.blocks.get_mut(&edge) {
                block[inside..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        written.len = written.len.max(end);
        let base_len = written.base_len;
        for (index, inside, place) in pieces(offset, data.len()) {
            let block = match written.blocks.entry(index) {
                std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
                std::collections::hash_map::Entry::Vacant(free) => free.insert(self.base_block(index, base_len)?),
            };
            block[inside].copy_from_slice(&data[place]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use redb::StorageBackend;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_file_below_stays_as_it_was() {
        let mut file = tempfile::tempfile().unwrap();
        let before: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        file.write_all(&before).unwrap();
        let overlay = Overlay::new(Base::File(file.try_clone().unwrap())).unwrap();
        let mut expected = before.clone();
        expected[4000..8500].fill(7);
        overlay.write(4000, &[7; 4500]).unwrap();
        overlay.set_len(9000).unwrap();
        overlay.set_len(13_000).unwrap();
        expected.truncate(9000);
        expected.resize(13_000, 0);
        let mut found = vec![1; 13_000];
        overlay.read(0, &mut found).unwrap();
        assert_eq!((overlay.len().unwrap(), found), (13_000, expected));
        assert!(overlay.read(12_999, &mut [0; 2]).is_err());
        let mut below = vec![0; 10_000];
        file.read_exact_at(&mut below, 0).unwrap();
        assert_eq!(below, before);
    }
}
