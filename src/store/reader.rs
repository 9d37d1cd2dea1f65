//! [`ChunkReader`]: from a hash to proven plain bytes. One per thread: it owns the decoder and the buffers that reads reuse.
//!
//! **Deltas.** The index tells the chain of bases down to a chunk that stands alone; the chain is then decoded from there upwards,
//! each chunk into the buffer that the one before last has left. Only the wanted chunk is hashed: whatever went wrong below it, its
//! own bytes would not match. Where they do not, the chain is decoded once more, hashing each link, to name the damaged one.
//! The chain in the index counts, and never the depth in a record, which says what was true when it was written.

use std::sync::Arc;

use crate::chunk::Codec;
use crate::codec::{CodecError, Decoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::{Entry, Position};
use crate::store::pack::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, pack_name, split_base};

/// How often a lookup is repeated when garbage collection moved the chunk meanwhile, or a chunk of the chain was encoded anew.
const MOVES: usize = 4;

/// Reads chunks and manifests of a store, and verifies each against its hash.
pub struct ChunkReader {
    store: ChunkStore,
    decoder: Decoder,
    record: Vec<u8>,
    /// The wanted chunk, its base, and so on.
    chain: Vec<(Hash, Entry)>,
    /// Decoded bases: each is read while the other is filled.
    plains: [Vec<u8>; 2],
    culprit: Option<(Hash, Entry)>,
}

/// Why a chain does not give the wanted chunk.
enum Trouble {
    /// What was read is no longer what the index says.
    Changed,
    /// Link `.0` of the chain cannot be had.
    Unread(usize, Error),
    /// Link `.0` does not decode with the bytes that its base has come to.
    Undecoded(usize, CodecError),
    /// The wanted chunk came to other bytes.
    Mismatch,
    /// The wanted chunk has so many bytes, and the caller wants another number.
    Length(u32),
}

/// Bases that may be at hand, decoded and verified.
pub type HeldChunks<'h> = &'h dyn Fn(&Hash) -> Option<Arc<[u8]>>;

impl ChunkStore {
    /// A reader on this store.
    pub fn reader(&self) -> ChunkReader {
        ChunkReader {
            store: self.clone(),
            decoder: Decoder::new(),
            record: Vec::new(),
            chain: Vec::new(),
            plains: Default::default(),
            culprit: None,
        }
    }
}

impl ChunkReader {
    /// Fills `plain` with the chunk `hash`, whose plain length is `plain.len()`.
    pub fn read(&mut self, hash: &Hash, plain: &mut [u8]) -> Result<()> {
        self.read_with(hash, plain, &|_| None)
    }

    /// As [`read`](ChunkReader::read); a base that `held` has is not read and decoded. What it answers must have been verified.
    ///
    /// Nothing is offered in return: a base that was decoded on the way is not proven, and one get needs it only once.
    pub fn read_with(&mut self, hash: &Hash, plain: &mut [u8], held: HeldChunks<'_>) -> Result<()> {
        self.culprit = None;
        let mut moves = 0;
        loop {
            let lowest = self.follow(hash, held)?;
            match self.decode(plain, lowest.as_deref()) {
                Ok(()) => return Ok(()),
                // A base that cannot be had may be one no more: what needed it was encoded anew, and it was collected.
                Err(Trouble::Changed | Trouble::Unread(1.., Error::Damaged { .. })) if moves < MOVES => moves += 1,
                Err(trouble) => return Err(self.explain(hash, plain.len(), trouble, lowest.as_deref())),
            }
        }
    }

    /// The chunk or manifest whose record is to blame for the failure of the last read, and where that lies: what was wanted, or one of
    /// its bases. `None` where no record is known to be damaged: the disk did not answer, the encoding is of a newer
    /// version, or the caller is wrong about the length.
    pub fn culprit(&self) -> Option<(Hash, Entry)> {
        self.culprit
    }

    /// Lists the chain of `hash`, down to a chunk that stands alone or whose base is held; that one is the answer.
    fn follow(&mut self, hash: &Hash, held: HeldChunks<'_>) -> Result<Option<Arc<[u8]>>> {
        match self.try_follow(hash, held) {
            // The index may be what is damaged.
            Err(Error::Damaged { .. }) if self.store.mend_index()? => self.try_follow(hash, held),
            outcome => outcome,
        }
    }

    fn try_follow(&mut self, hash: &Hash, held: HeldChunks<'_>) -> Result<Option<Arc<[u8]>>> {
        let mut moves = 0;
        loop {
            self.chain.clear();
            let mut at = *hash;
            while self.chain.len() <= usize::from(limits::DELTA_DEPTH) {
                let Some(entry) = self.store.locate(&at, RecordKind::Chunk)? else {
                    if self.chain.is_empty() || moves == MOVES {
                        return Err(self.missing(&at));
                    }
                    break;
                };
                self.chain.push((at, entry));
                match entry.base {
                    None => return Ok(None),
                    Some(base) => at = base,
                }
                if let Some(found) = held(&at) {
                    return Ok(Some(found));
                }
            }
            // So long a chain is damage, as is one without an end, unless chunks were encoded anew between two look-ups: then
            // another look shows it.
            if moves == MOVES {
                break;
            }
            moves += 1;
        }
        let why = format!("more than {} bases lie below it", limits::DELTA_DEPTH);
        Err(damaged(hash, self.chain.first().map_or_else(Position::default, |(_, entry)| entry.position), why))
    }

    fn missing(&self, hash: &Hash) -> Error {
        match self.chain.first() {
            None => missing("chunk", hash),
            Some((top, entry)) => damaged(top, entry.position, format!("its base {hash} is missing from the packs")),
        }
    }

    /// Decodes the chain, the lowest link first, with `lowest` as that one's base.
    fn decode(&mut self, plain: &mut [u8], lowest: Option<&[u8]>) -> Result<(), Trouble> {
        let bases = 1..self.chain.len();
        let mut below = None;
        for link in bases.rev() {
            below = Some(self.decode_base(link, below, lowest)?);
        }
        let header = self.fetch_link(0)?;
        let Some(&(hash, _)) = self.chain.first() else { return Err(Trouble::Changed) };
        if header.plain_len as usize != plain.len() {
            return Err(Trouble::Length(header.plain_len));
        }
        let base = match below {
            Some(len) => self.plains[1].get(..len),
            None => lowest,
        };
        let stored = stored_bytes(&self.record, &header);
        let decoded = self.decoder.decode_into(header.codec, stored, base, plain);
        decoded.map_err(|error| Trouble::Undecoded(0, error))?;
        if Hash::of(plain) == hash { Ok(()) } else { Err(Trouble::Mismatch) }
    }

    /// Decodes link `link` into its buffer, from the `below` bytes that the next link has left in the other; says how many it has.
    fn decode_base(&mut self, link: usize, below: Option<usize>, lowest: Option<&[u8]>) -> Result<usize, Trouble> {
        let header = self.fetch_link(link)?;
        let stored = stored_bytes(&self.record, &header);
        let [even, odd] = &mut self.plains;
        let (out, other) = if link.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let len = header.plain_len as usize;
        if out.len() < len {
            out.resize(len, 0);
        }
        let base = match below {
            Some(len) => other.get(..len),
            None => lowest,
        };
        let Some(out) = out.get_mut(..len) else { return Err(Trouble::Changed) };
        let decoded = self.decoder.decode_into(header.codec, stored, base, out);
        decoded.map_err(|error| Trouble::Undecoded(link, error))?;
        Ok(len)
    }

    /// Reads the record of link `link`, and checks that it has the base that the chain goes on with.
    fn fetch_link(&mut self, link: usize) -> Result<RecordHeader, Trouble> {
        let Some(&(hash, entry)) = self.chain.get(link) else { return Err(Trouble::Changed) };
        let fetched = self.fetch(&hash, RecordKind::Chunk, Some(entry));
        let (entry, header) = fetched.map_err(|error| Trouble::Unread(link, error))?;
        let payload = self.record.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let base = split_base(&header, payload).and_then(|(base, _)| base);
        match self.chain.get_mut(link) {
            Some((_, known)) if known.base == base => {
                *known = entry;
                Ok(header)
            }
            // The name of the base is no part of what the chunk's hash proves: the checksum tells whether it was altered.
            _ if crc32c::crc32c(payload) != header.payload_crc => {
                let why = "the name of its base does not match the record's checksum".to_owned();
                Err(Trouble::Unread(link, damaged(&hash, entry.position, why)))
            }
            _ => Err(Trouble::Changed),
        }
    }

    /// The error that says which chunk of the chain is to blame.
    fn explain(&mut self, hash: &Hash, len: usize, trouble: Trouble, lowest: Option<&[u8]>) -> Error {
        let position = self.chain.first().map_or_else(Position::default, |(_, entry)| entry.position);
        let (link, error) = match trouble {
            Trouble::Changed => {
                return damaged(hash, position, "the index and the packs do not agree on its bases".to_owned());
            }
            Trouble::Length(found) => {
                let why = format!("it has {found} plain bytes where its manifest says {len}");
                return damaged(hash, position, why);
            }
            Trouble::Unread(link, error) => {
                let lost = matches!(error, Error::Damaged { .. });
                self.culprit = self.chain.get(link).copied().filter(|_| lost);
                (link, error)
            }
            Trouble::Undecoded(link, error) => self.blame(link, Some(error), lowest),
            Trouble::Mismatch => self.blame(0, None, lowest),
        };
        match (self.chain.get(link), error) {
            (Some((base, _)), Error::Damaged { place, why, .. }) if link > 0 => {
                damaged(hash, position, format!("its base {base} is damaged in {place}: {why}"))
            }
            (_, error) => error,
        }
    }

    /// Finds the lowest link whose own bytes are wrong: link `failed` did not decode, or was the wanted chunk and had other bytes.
    fn blame(&mut self, failed: usize, error: Option<CodecError>, lowest: Option<&[u8]>) -> (usize, Error) {
        let (mut found, mut below) = (failed, None);
        for link in (failed + 1..self.chain.len()).rev() {
            below = self.decode_base(link, below, lowest).ok();
            let plain = below.and_then(|len| self.plains[link % 2].get(..len));
            if plain.zip(self.chain.get(link)).is_none_or(|(plain, (hash, _))| Hash::of(plain) != *hash) {
                found = link;
                break;
            }
        }
        let error = error.filter(|_| found == failed);
        let why = error.map_or_else(|| "its bytes do not match its hash".to_owned(), |error| error.to_string());
        self.culprit = self.chain.get(found).copied();
        let (hash, position) =
            self.culprit.map_or((Hash::of(&[]), Position::default()), |(hash, entry)| (hash, entry.position));
        (found, damaged(&hash, position, why))
    }

    /// The manifest `hash`, as the bytes that were committed.
    pub fn read_manifest(&mut self, hash: &Hash) -> Result<Vec<u8>> {
        let known = self.store.locate(hash, RecordKind::Manifest)?;
        self.culprit = known.map(|entry| (*hash, entry));
        let plain = self.decode_manifest(hash, known);
        if !matches!(plain, Err(Error::Damaged { .. })) {
            self.culprit = None;
        }
        plain
    }

    fn decode_manifest(&mut self, hash: &Hash, known: Option<Entry>) -> Result<Vec<u8>> {
        let (entry, header) = self.fetch(hash, RecordKind::Manifest, known)?;
        let stored = stored_bytes(&self.record, &header);
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
        self.fetch(hash, kind, None)?;
        Ok(&self.record)
    }

    /// As [`record`](ChunkReader::record), for a chunk. `None` where it would have to be waited for, or is not found as usual: then
    /// `record` says what there is to say.
    pub fn record_at_hand(&mut self, hash: &Hash) -> Option<&[u8]> {
        let entry = self.store.locate_at_hand(hash)?;
        let pack = self.store.open_pack(entry.position.pack)?;
        self.record.resize(record_len(&entry), 0);
        if !pack.read_at_hand(entry.position.offset.into(), &mut self.record) {
            return None;
        }
        let header = RecordHeader::decode(&self.record).ok()?;
        is_record_of(&header, hash, &entry).then_some(&*self.record)
    }

    /// The record that was read last: after a [`read`](ChunkReader::read) that of the wanted chunk.
    pub fn last_record(&self) -> &[u8] {
        &self.record
    }

    /// Reads the record of `hash` into the buffer and checks that its header is what the index says. `known` is what it has said.
    fn fetch(&mut self, hash: &Hash, kind: RecordKind, known: Option<Entry>) -> Result<(Entry, RecordHeader)> {
        match self.try_fetch(hash, kind, known) {
            // The index may be what is damaged.
            Err(Error::Damaged { .. }) if self.store.mend_index()? => self.try_fetch(hash, kind, None),
            outcome => outcome,
        }
    }

    fn try_fetch(&mut self, hash: &Hash, kind: RecordKind, known: Option<Entry>) -> Result<(Entry, RecordHeader)> {
        let what = name_of(kind);
        let mut entry = match known {
            Some(entry) => entry,
            None => self.lookup(hash, kind)?,
        };
        let mut outcome = self.read_record(&entry);
        for _ in 0..MOVES {
            if outcome.as_ref().is_ok_and(|&n| n == self.record.len()) {
                break;
            }
            let now = match (self.lookup(hash, kind), &outcome) {
                // Never written, and nothing of it was: what the disk said tells more.
                (Err(_), Err(error)) if !matches!(error, Error::Damaged { .. }) => break,
                (now, _) => now?,
            };
            if now == entry {
                break;
            }
            entry = now;
            outcome = self.read_record(&entry);
        }
        let wrong = |why: String| Error::Damaged { what, place: place(hash, entry.position), why };
        let read = outcome?;
        let header = RecordHeader::decode(&self.record[..read]).map_err(|why| wrong(why.to_string()))?;
        match (is_record_of(&header, hash, &entry), read == self.record.len()) {
            (true, true) => Ok((entry, header)),
            (true, false) => Err(wrong("the pack ends in the middle of it".to_owned())),
            (false, _) => Err(wrong("another record lies in its place".to_owned())),
        }
    }

    fn lookup(&self, hash: &Hash, kind: RecordKind) -> Result<Entry> {
        self.store.locate(hash, kind)?.ok_or_else(|| missing(name_of(kind), hash))
    }

    /// Fills the buffer with the record at `entry`; less than the buffer's length only where the pack ends before.
    fn read_record(&mut self, entry: &Entry) -> Result<usize> {
        let len = record_len(entry);
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
        let written = match log.writer.active_pack() == Some(position.pack) {
            true => log.writer.write_out(),
            false => Ok(()),
        };
        drop(log);
        // What could not be written will never be there. Where it was to replace an older record, that one holds again.
        written.inspect_err(|_| self.store.forget_from(position))?;
        reader.read_at(position.offset.into(), &mut self.record).map_err(failed)
    }
}

/// Bytes of the record at `entry`, bounded by what its kind may have.
fn record_len(entry: &Entry) -> usize {
    RECORD_HEADER_BYTES + (entry.stored_len as usize).min(entry.kind.limit() + Hash::LEN)
}

/// Whether `header` is that of `hash`, as `entry` describes it.
fn is_record_of(header: &RecordHeader, hash: &Hash, entry: &Entry) -> bool {
    header.hash == *hash && header.kind == entry.kind && header.stored_len == entry.stored_len
}

/// The encoded bytes of `record`: what follows its header, and its base's hash if it has one.
fn stored_bytes<'r>(record: &'r [u8], header: &RecordHeader) -> &'r [u8] {
    let base_len = if header.has_base { Hash::LEN } else { 0 };
    record.get(RECORD_HEADER_BYTES + base_len..).unwrap_or_default()
}

fn name_of(kind: RecordKind) -> &'static str {
    if kind == RecordKind::Manifest { "manifest" } else { "chunk" }
}

fn place(hash: &Hash, position: Position) -> String {
    format!("{} at byte {} ({})", pack_name(position.pack), position.offset, hash.short())
}

fn missing(what: &'static str, hash: &Hash) -> Error {
    Error::Damaged {
        what,
        place: format!("the store ({what} {})", hash.short()),
        why: "it is missing from the packs".to_owned(),
    }
}

fn damaged(hash: &Hash, position: Position, why: String) -> Error {
    Error::Damaged { what: "chunk", place: place(hash, position), why }
}

fn damaged_manifest(hash: &Hash, position: Position, why: String) -> Error {
    Error::Damaged { what: "manifest", place: place(hash, position), why }
}
