//! [`Salvage`]: a pack that is read around the places that the disk cannot read, so that what lies behind them is found.
//!
//! Such places read as zeros, which are no record: whoever walks the pack takes them for damage. But they may be read again one day,
//! so whoever walks it is told of them as well, and lets nothing go for their sake.
//!
//! Only what the system says of a local disk counts. A server that fails, or does not answer, says nothing of what is stored there:
//! that stays an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::ObjectReader;

/// A page, and a sector of most disks: what cannot be read is told from what can be by so many bytes.
const BLOCK_BYTES: u64 = 4096;

/// True for the answer of a disk that cannot read a place.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[derive(Debug)]
pub(super) struct Salvage {
    reader: Arc<dyn ObjectReader>,
    unreadable: AtomicBool,
}

impl Salvage {
    pub(super) fn new(reader: Arc<dyn ObjectReader>) -> Salvage {
        Salvage { reader, unreadable: AtomicBool::new(false) }
    }

    /// True if all that was asked for could be read.
    pub(super) fn is_whole(&self) -> bool {
        !self.unreadable.load(Ordering::Relaxed)
    }

    /// As [`read_at`](ObjectReader::read_at), block by block.
    fn read_around(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset + filled as u64;
            let len = rest.len().min((BLOCK_BYTES - at % BLOCK_BYTES) as usize);
            let (block, _) = rest.split_at_mut(len);
            let read = match self.reader.read_at(at, block) {
                Err(error) if is_unreadable(&error) => {
                    self.unreadable.store(true, Ordering::Relaxed);
                    block.fill(0);
                    len
                }
                read => read?,
            };
            filled += read;
            if read < len {
                break;
            }
        }
        Ok(filled)
    }
}

impl ObjectReader for Salvage {
    fn len(&self) -> io::Result<u64> {
        self.reader.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reader.read_at(offset, buffer) {
            Err(error) if is_unreadable(&error) => self.read_around(offset, buffer),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::StorageBackend;
    use crate::backend::testing::FaultDisk;

    use super::*;

    #[test]
    fn what_lies_around_an_unreadable_place_is_read() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| (n % 251 + 1) as u8).collect();
        let disk = FaultDisk::new();
        disk.create("pack").unwrap().append(&bytes).unwrap();
        let reader = || Salvage::new(disk.open("pack").unwrap());
        disk.wear_out("pack", 9000..9001).unwrap();
        let mut found = vec![7; 30_000];
        let around = reader();
        assert_eq!(around.read_at(5, &mut found).unwrap(), bytes.len() - 5);
        let mut expected = bytes.clone();
        expected[8192..12288].fill(0);
        assert!(found[..bytes.len() - 5] == expected[5..] && !around.is_whole());
        assert!(!is_unreadable(&io::ErrorKind::TimedOut.into()), "a server may answer later");
        let beside = reader();
        assert_eq!(beside.read_at(12_288, &mut found).unwrap(), bytes.len() - 12_288);
        assert!(beside.is_whole());
    }
}
