//! What the packs and the index hold, all of it: for totals, and to find damage that no version reaches.

use std::collections::BTreeSet;

use crate::backend::ObjectReader;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::monitor::Monitor;
use crate::store::chunk_store::ChunkStore;
use crate::store::entry::Entry;
use crate::store::index::IndexChange;
use crate::store::pack::{
    PACK_HEADER_BYTES, PackId, RECORD_HEADER_BYTES, RecordError, RecordHeader, RecordKind, check_pack_header, pack_name,
};
use crate::store::recovery::list_packs;
use crate::store::scan::{Found, Walk, walk_pack};

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Number of packs.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes of the index database.
    pub index_bytes: u64,
}

/// What is damaged in the packs.
#[derive(Debug, Clone, Default)]
pub struct DamagedPacks {
    /// Each damaged place, and what is wrong there.
    pub places: Vec<(String, String)>,
    /// The packs that they are in.
    pub packs: BTreeSet<PackId>,
}

impl ChunkStore {
    /// Calls `visit` for every chunk and manifest, in order of hash.
    pub fn for_each_entry(&self, visit: impl FnMut(Hash, Entry)) -> Result<()> {
        self.checkpoint_if_writable()?;
        self.inner.index.for_each(visit)
    }

    /// What the store takes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let packs = list_packs(&*self.inner.backend)?;
        let pack_bytes = packs.iter().map(|&(_, len)| len).sum();
        Ok(DiskUsage { packs: packs.len() as u64, pack_bytes, index_bytes: self.inner.index.disk_bytes()? })
    }

    /// Checks both checksums of every record of every pack. A damaged payload that was stored again since is of no account: the next one
    /// lies elsewhere, and is checked there.
    pub fn check_packs(&self, monitor: &Monitor) -> Result<DamagedPacks> {
        self.checkpoint_if_writable()?;
        let end = self.end();
        let mut found = DamagedPacks::default();
        let packs = list_packs(&*self.inner.backend)?;
        monitor.begin("packs", packs.iter().map(|&(_, len)| len).sum());
        for (pack, len) in packs {
            // What is appended meanwhile may be there in part.
            let len = if pack == end.pack && self.writable().is_ok() { len.min(end.offset.into()) } else { len };
            if pack > end.pack && self.writable().is_ok() {
                continue;
            }
            let mut damaged = Vec::new();
            match self.check_pack(pack, len, monitor, &mut damaged) {
                // A disk that cannot read a place is what this looks for; a pack that a collection deleted meanwhile is not.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error @ Error::Io { .. }) => damaged.push((pack_name(pack), error.to_string())),
                outcome => outcome?,
            }
            if !damaged.is_empty() {
                found.packs.insert(pack);
                found.places.append(&mut damaged);
            }
            monitor.advance(len);
        }
        monitor.finish();
        Ok(found)
    }

    /// The plain bytes of all chunks, and the manifests that are said to lie in these packs.
    pub fn totals_in(&self, packs: &BTreeSet<PackId>) -> Result<(u64, Vec<Hash>)> {
        let (mut bytes, mut manifests) = (0, Vec::new());
        self.for_each_entry(|hash, entry| match entry.kind {
            RecordKind::Chunk => bytes += u64::from(entry.plain_len),
            _ if packs.contains(&entry.position.pack) => manifests.push(hash),
            _ => {}
        })?;
        Ok((bytes, manifests))
    }

    /// Drops the index entries of chunks or manifests that were found damaged, so that the next put of the same bytes stores them anew.
    /// Their versions keep failing until then, and so do those with deltas against them, which count as not stored meanwhile; the
    /// damaged records stay in their packs.
    ///
    /// What was stored again since lies elsewhere than these entries say, and stays. Nothing is dropped where the index turns out to be
    /// what is damaged: that is rebuilt.
    pub fn forget_damaged(&self, damaged: impl IntoIterator<Item = (Hash, Entry)>) -> Result<()> {
        self.writable()?;
        let removed: Vec<(Hash, Entry)> = damaged.into_iter().collect();
        if removed.is_empty() || self.check_index_again()? {
            return Ok(());
        }
        self.checkpoint_with(IndexChange { removed, ..IndexChange::default() })
    }

    fn check_pack(&self, pack: PackId, len: u64, monitor: &Monitor, damaged: &mut Vec<(String, String)>) -> Result<()> {
        let name = pack_name(pack);
        let read_error = |error| Error::io("read", self.inner.backend.describe(&name), error);
        let reader = self.inner.backend.open(&name).map_err(read_error)?;
        let mut header = [0; PACK_HEADER_BYTES];
        let n = reader.read_at(0, &mut header).map_err(read_error)?;
        if let Err(why) = check_pack_header(header.get(..n).unwrap_or_default(), pack) {
            damaged.push((name.clone(), why.to_string()));
        }
        walk_pack(&*reader, 0..len, read_error, |found| {
            monitor.check()?;
            if let Found::Damage { offset, end, why } = found
                && !(why == RecordError::Payload && self.is_stored_again(&*reader, pack, offset)?)
            {
                damaged.push((format!("{name} bytes {offset}..{end}"), why.to_string()));
            }
            Ok(Walk::Continue)
        })
    }

    /// Whether what the record at `offset`, whose header is sound, was to hold is used from another place.
    fn is_stored_again(&self, reader: &dyn ObjectReader, pack: PackId, offset: u64) -> Result<bool> {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let header = reader.read_at(offset, &mut bytes).ok().and_then(|_| RecordHeader::decode(&bytes).ok());
        let Some(header) = header.filter(|header| matches!(header.kind, RecordKind::Chunk | RecordKind::Manifest))
        else {
            return Ok(false);
        };
        let used = self.locate(&header.hash, header.kind)?;
        Ok(used.is_some_and(|used| (used.position.pack, u64::from(used.position.offset)) != (pack, offset)))
    }

    fn checkpoint_if_writable(&self) -> Result<()> {
        if self.writable().is_ok() { self.checkpoint() } else { Ok(()) }
    }
}
