//! [`ChunkReader`]: from a hash to proven plain bytes. One per thread: it owns the decoder and the buffer that reads reuse.

use crate::chunk::Codec;
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::{Entry, Position};
use crate::store::pack::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, pack_name};

/// How often a lookup is repeated when garbage collection moved the chunk meanwhile.
const MOVES: usize = 4;

/// Reads chunks and manifests of a store, and verifies each against its hash.
pub struct ChunkReader {
    store: ChunkStore,
    decoder: Decoder,
    record: Vec<u8>,
}

impl ChunkStore {
    /// A reader on this store.
    pub fn reader(&self) -> ChunkReader {
        ChunkReader { store: self.clone(), decoder: Decoder::new(), record: Vec::new() }
    }
}

impl ChunkReader {
    /// Fills `plain` with the chunk `hash`, whose plain length is `plain.len()`.
    pub fn read(&mut self, hash: &Hash, plain: &mut [u8]) -> Result<()> {
        let (entry, header) = self.fetch(hash, RecordKind::Chunk)?;
        if header.plain_len as usize != plain.len() {
            let why = format!("it has {} plain bytes where its manifest says {}", header.plain_len, plain.len());
            return Err(damaged(hash, entry.position, why));
        }
        let stored = &self.record[RECORD_HEADER_BYTES..];
        self.decoder
            .decode_into(header.codec, stored, None, plain)
            .map_err(|error| damaged(hash, entry.position, error.to_string()))?;
        match Hash::of(plain) == *hash {
            true => Ok(()),
            false => Err(damaged(hash, entry.position, "its bytes do not match its hash".to_owned())),
        }
    }

    /// The manifest `hash`, as the bytes that were committed.
    pub fn read_manifest(&mut self, hash: &Hash) -> Result<Vec<u8>> {
        let (entry, header) = self.fetch(hash, RecordKind::Manifest)?;
        let stored = &self.record[RECORD_HEADER_BYTES..];
        let plain = match header.codec {
            Codec::Raw => stored.to_vec(),
            _ => self
                .decoder
                .decode_frame(stored, header.plain_len as usize)
                .map_err(|error| damaged_manifest(hash, entry.position, error.to_string()))?,
        };
        match plain.len() == header.plain_len as usize && Hash::of(&plain) == *hash {
            true => Ok(plain),
            false => Err(damaged_manifest(hash, entry.position, "its bytes do not match its hash".to_owned())),
        }
    }

    /// The record of `hash` as it lies in its pack, without looking into its payload.
    pub fn record(&mut self, hash: &Hash, kind: RecordKind) -> Result<&[u8]> {
        self.fetch(hash, kind)?;
        Ok(&self.record)
    }

    /// The record that was read last.
    pub fn last_record(&self) -> &[u8] {
        &self.record
    }

    /// Reads the record of `hash` into the buffer and checks that its header is what the index says.
    fn fetch(&mut self, hash: &Hash, kind: RecordKind) -> Result<(Entry, RecordHeader)> {
        match self.try_fetch(hash, kind) {
            // The index may be what is damaged.
            Err(Error::Damaged { .. }) if self.store.mend_index()? => self.try_fetch(hash, kind),
            outcome => outcome,
        }
    }

    fn try_fetch(&mut self, hash: &Hash, kind: RecordKind) -> Result<(Entry, RecordHeader)> {
        let what = name_of(kind);
        let mut entry = self.lookup(hash, kind)?;
        let mut outcome = self.read_record(&entry);
        for _ in 0..MOVES {
            let whole = outcome.as_ref().is_ok_and(|&n| n == self.record.len());
            let now = if whole { entry } else { self.lookup(hash, kind)? };
            if now == entry {
                break;
            }
            entry = now;
            outcome = self.read_record(&entry);
        }
        let wrong = |why: String| Error::Damaged { what, place: place(hash, entry.position), why };
        let read = outcome?;
        let header = RecordHeader::decode(&self.record[..read]).map_err(|why| wrong(why.to_string()))?;
        let expected = header.hash == *hash && header.kind == kind && header.stored_len == entry.stored_len;
        match (expected, read == self.record.len()) {
            (true, true) => Ok((entry, header)),
            (true, false) => Err(wrong("the pack ends in the middle of it".to_owned())),
            (false, _) => Err(wrong("another record lies in its place".to_owned())),
        }
    }

    fn lookup(&self, hash: &Hash, kind: RecordKind) -> Result<Entry> {
        let what = name_of(kind);
        let missing = || Error::Damaged {
            what,
            place: format!("the store ({what} {})", hash.short()),
            why: "it is missing from the packs".to_owned(),
        };
        self.store.locate(hash, kind)?.ok_or_else(missing)
    }

    /// Fills the buffer with the record at `entry`; less than the buffer's length only where the pack ends before.
    fn read_record(&mut self, entry: &Entry) -> Result<usize> {
        let limit = entry.kind.limit() + Hash::LEN;
        let len = RECORD_HEADER_BYTES + (entry.stored_len as usize).min(limit);
        self.record.resize(len, 0);
        let position = entry.position;
        let name = pack_name(position.pack);
        let failed = |error| Error::io("read", self.store.inner.backend.describe(&name), error);
        let reader = match self.store.pack(position.pack) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Damaged { what: "pack", place: name, why: "the file is missing".to_owned() });
            }
            opened => opened.map_err(failed)?,
        };
        let n = reader.read_at(position.offset.into(), &mut self.record).map_err(failed)?;
        if n == len {
            return Ok(n);
        }
        // Some of it is still in the writer's buffer, or was until now.
        let mut log = lock(&self.store.inner.log);
        if log.writer.active_pack() == Some(position.pack) {
            log.writer.write_out()?;
        }
        drop(log);
        reader.read_at(position.offset.into(), &mut self.record).map_err(failed)
    }
}

fn name_of(kind: RecordKind) -> &'static str {
    if kind == RecordKind::Manifest { "manifest" } else { "chunk" }
}

fn place(hash: &Hash, position: Position) -> String {
    format!("{} at byte {} ({})", pack_name(position.pack), position.offset, hash.short())
}

fn damaged(hash: &Hash, position: Position, why: String) -> Error {
    Error::Damaged { what: "chunk", place: place(hash, position), why }
}

fn damaged_manifest(hash: &Hash, position: Position, why: String) -> Error {
    Error::Damaged { what: "manifest", place: place(hash, position), why }
}
