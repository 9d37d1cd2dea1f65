//! A file that did not change since the key's last version moves at hashing speed: it is neither cut nor looked up chunk by chunk.
//!
//! A few chunks spread over the file are compared with the earlier version first, so a changed file costs next to nothing here. Only
//! when all of them match is the whole file hashed and compared with the earlier blob hash, which proves that it is the same.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::chunk::ChunkRef;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::manifest::{Content, Manifest, RegularFile, SegmentEntry};
use crate::node::blob_hash::{StripeHash, join};
use crate::node::store::Store;
use crate::node::stripe::{STRIPE_BYTES, Stripe};
use crate::node::threads::in_parallel;

/// Chunks that are compared before the whole file is hashed.
const PROBES: usize = 16;
/// Bytes that are read at a time to be hashed: they stay in a core's own cache.
const READ_BYTES: usize = 128 << 10;

/// The version before the one that is put, if there is one.
pub(super) struct Earlier(Option<Manifest>);

/// A file of the version before.
pub(super) struct EarlierFile<'m> {
    pub(super) len: u64,
    pub(super) blob_hash: Hash,
    pub(super) chunks: &'m [ChunkRef],
    pub(super) segments: &'m [SegmentEntry],
}

impl Earlier {
    /// Reads the manifest `parent`. One that is damaged is no reason to refuse a put: it is as good as none.
    pub(super) fn find(store: &Store, parent: Option<Hash>) -> Result<Earlier> {
        match parent.map(|parent| store.manifest(&parent)).transpose() {
            Ok(manifest) => Ok(Earlier(manifest)),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!("the version before cannot be compared with: {error}");
                Ok(Earlier(None))
            }
            Err(error) => Err(error),
        }
    }

    /// The manifest of that version, if there is one and it is sound.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        self.0.as_ref()
    }

    /// The file at `path`, or the only one, if it had chunks and this length.
    pub(super) fn file(&self, path: &str, len: u64) -> Option<EarlierFile<'_>> {
        let manifest = self.0.as_ref()?;
        let index = match manifest.single {
            true => 0,
            false => manifest.find_file(path)?.0,
        };
        let file: &RegularFile = manifest.files.get(index)?.regular()?;
        let chunks = manifest.chunks.get(manifest.file_chunks(index))?;
        let usable = file.len == len && file.content == Content::Chunks;
        usable.then_some(EarlierFile { len, blob_hash: file.blob_hash, chunks, segments: &file.segments })
    }
}

/// True if `file` has the bytes of `earlier`, proven by their hash.
pub(super) fn is_unchanged(
    file: &File,
    earlier: &EarlierFile<'_>,
    threads: NonZeroUsize,
    read_error: &(dyn Fn(io::Error) -> Error + Sync),
) -> Result<bool> {
    if !probes_match(file, earlier).map_err(read_error)? {
        return Ok(false);
    }
    Ok(blob_hash(file, earlier.len, threads).map_err(read_error)? == earlier.blob_hash)
}

fn probes_match(file: &File, earlier: &EarlierFile<'_>) -> io::Result<bool> {
    let step = earlier.chunks.len().div_ceil(PROBES).max(1);
    // The chunk in the middle of each step: the first one of a container is its header, which often stays.
    let probed = |index: usize| index % step == step / 2;
    let (mut offset, mut buffer) = (0, Vec::new());
    for (index, chunk) in earlier.chunks.iter().enumerate() {
        if probed(index) {
            buffer.resize(chunk.len as usize, 0);
            file.read_exact_at(&mut buffer, offset)?;
            if Hash::of(&buffer) != chunk.hash {
                return Ok(false);
            }
        }
        offset += u64::from(chunk.len);
    }
    Ok(true)
}

/// The hash of the first `len` bytes of `file`, by several threads, one stripe each.
fn blob_hash(file: &File, len: u64, threads: NonZeroUsize) -> io::Result<Hash> {
    let stripes = len.div_ceil(STRIPE_BYTES);
    let next = AtomicU64::new(0);
    let hashes = Mutex::new(Vec::new());
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        while let Some(stripe) = Stripe::at(next.fetch_add(1, Ordering::Relaxed), len) {
            let hash = StripeHash::read(&stripe, file, &mut buffer)?;
            hashes.lock().unwrap_or_else(PoisonError::into_inner).push((stripe.index, hash));
        }
        Ok(())
    };
    in_parallel(stripes.min(threads.get() as u64) as usize, work)?;
    let mut hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
    hashes.sort_unstable_by_key(|(index, _)| *index);
    let hashes: Vec<StripeHash> = hashes.into_iter().map(|(_, hash)| hash).collect();
    Ok(join(&hashes, len))
}
