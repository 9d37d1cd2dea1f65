//! A file that did not change since the key's last version moves at hashing speed: it is neither cut nor looked up chunk by chunk.
//!
//! A few chunks spread over the file are compared with the earlier version first, so a changed file costs next to nothing here. Only
//! when all of them match are the others compared too. Each by its own hash, and not the file by that of the whole, which says nothing of
//! the chunks that the earlier version lists beside it.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::chunk::ChunkRef;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::manifest::{Content, Manifest, RegularFile, SegmentEntry};
use crate::node::store::Store;
use crate::node::threads::in_parallel;

/// Chunks that are compared before all are.
const PROBES: usize = 16;

/// The version before the one that is put, if there is one.
pub(super) struct Earlier(Option<Manifest>);

/// A file of the version before.
pub(super) struct EarlierFile<'m> {
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
        usable.then_some(EarlierFile { blob_hash: file.blob_hash, chunks, segments: &file.segments })
    }
}

/// True if `file` has the bytes of `earlier`: each of its chunks matches its hash.
pub(super) fn is_unchanged(
    file: &File,
    earlier: &EarlierFile<'_>,
    threads: NonZeroUsize,
    read_error: &(dyn Fn(io::Error) -> Error + Sync),
) -> Result<bool> {
    let places: Vec<(u64, ChunkRef)> = places(earlier.chunks).collect();
    let step = places.len().div_ceil(PROBES).max(1);
    // The chunk in the middle of each step: the first one of a container is its header, which often stays.
    let probed: Vec<_> = places.iter().copied().skip(step / 2).step_by(step).collect();
    Ok(all_match(file, &probed, NonZeroUsize::MIN).map_err(read_error)?
        && all_match(file, &places, threads).map_err(read_error)?)
}

/// Each chunk with the offset that it has in its file.
fn places(chunks: &[ChunkRef]) -> impl Iterator<Item = (u64, ChunkRef)> {
    chunks.iter().scan(0, |end, chunk| {
        let offset = *end;
        *end += u64::from(chunk.len);
        Some((offset, *chunk))
    })
}

/// True if `file` has the bytes of all of `places`, which several threads compare.
fn all_match(file: &File, places: &[(u64, ChunkRef)], threads: NonZeroUsize) -> io::Result<bool> {
    let (next, differs) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> io::Result<()> {
        let mut buffer = Vec::new();
        while let Some((offset, chunk)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            buffer.resize(chunk.len as usize, 0);
            file.read_exact_at(&mut buffer, *offset)?;
            if Hash::of(&buffer) != chunk.hash {
                differs.store(true, Ordering::Relaxed);
                next.store(places.len(), Ordering::Relaxed);
            }
        }
        Ok(())
    };
    in_parallel(places.len().min(threads.get()), work)?;
    Ok(!differs.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_unchanged_only_where_each_of_its_chunks_is() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let ref_of = |bytes: &[u8]| ChunkRef { hash: Hash::of(bytes), len: bytes.len() as u32 };
        let chunks: Vec<ChunkRef> = bytes.chunks(1999).map(ref_of).collect();
        let unchanged = |chunks: &[ChunkRef]| {
            // The hash of the whole is right in all cases.
            let earlier = EarlierFile { blob_hash: Hash::of(&bytes), chunks, segments: &[] };
            let failed = |error| Error::io("read", "the file", error);
            is_unchanged(&file, &earlier, NonZeroUsize::new(3).unwrap(), &failed).unwrap()
        };
        assert!(unchanged(&chunks));
        for altered in 0..chunks.len() {
            let mut chunks = chunks.clone();
            chunks[altered].hash = Hash::of(b"other bytes");
            assert!(!unchanged(&chunks), "chunk {altered}");
        }
    }
}
