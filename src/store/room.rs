//! [`RoomGauge`]: sees to it that chunks never take the last room on a disk.
//!
//! After a write that failed for want of room, a log or a database takes no more of them until it is opened again. So chunks are refused
//! while there is some room left: for the manifests and refs of what is stored already, for the index and the leases, and for a garbage
//! collection, which copies before it deletes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{Room, StorageBackend};
use crate::error::{Error, Result};

/// Bytes that chunks leave, of a large disk.
const KEPT_BYTES: u64 = 64 << 20;

/// What they leave of a small one: one part in so many.
const KEPT_PARTS: u64 = 16;

/// Chunks may take so many bytes before it is looked again: one part in so many of what they leave, since others write to the disk too.
const UNSEEN_PARTS: u64 = 4;

/// Knows how much chunks may take until the disk has to be looked at again.
#[derive(Debug, Default)]
pub(super) struct RoomGauge {
    unseen: AtomicU64,
}

impl RoomGauge {
    /// Takes `bytes` for a chunk on `backend`. Fails with [`Error::NoSpace`] where too little room would be left; nothing is written then,
    /// and the next call finds what has become free meanwhile.
    pub(super) fn take(&self, backend: &dyn StorageBackend, bytes: u64) -> Result<()> {
        let take = |unseen: u64| unseen.checked_sub(bytes);
        if self.unseen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        // Where that is not known, the writes themselves find out.
        let Some(Room { free, total }) = backend.room() else { return Ok(()) };
        let kept = KEPT_BYTES.min(total / KEPT_PARTS);
        match free.saturating_sub(kept).checked_sub(bytes) {
            Some(left) => {
                self.unseen.store(left.min(kept / UNSEEN_PARTS), Ordering::Relaxed);
                Ok(())
            }
            None => {
                let why = format!("{free} bytes are left, of which {kept} are kept for other things than chunks");
                Err(Error::io("write", backend.describe(""), io::Error::new(io::ErrorKind::StorageFull, why)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::FaultDisk;

    #[test]
    fn chunks_leave_a_part_of_the_disk_and_go_on_when_there_is_more() {
        let disk = FaultDisk::new();
        disk.hold(Some(1 << 20));
        let writer = disk.create("pack").unwrap();
        let (gauge, chunk) = (RoomGauge::default(), [7; 10_000]);
        let mut taken = 0;
        let refused = loop {
            match gauge.take(&disk, chunk.len() as u64) {
                Ok(()) => writer.append(&chunk).unwrap(),
                Err(error) => break error,
            }
            taken += 1;
        };
        assert!(matches!(&refused, Error::NoSpace { .. }));
        assert!(refused.to_string().contains("65536 are kept"), "{refused}");
        assert_eq!(taken, ((1 << 20) - (1 << 16)) / 10_000);
        assert!(gauge.take(&disk, 10_000).is_err());
        disk.hold(Some(2 << 20));
        gauge.take(&disk, 10_000).unwrap();
        disk.hold(None);
        gauge.take(&disk, 1 << 40).unwrap();
    }
}
