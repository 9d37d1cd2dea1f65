//! Compact: the newest version of a key comes to stand alone, and each older one becomes the difference to the next newer.
//!
//! A put can only look back: every version is the difference to one before, and the newest, which is read most, has the most bases
//! below it. Here that is turned around, with the encodings that take the most time and the fewest bytes. What no version reaches
//! any more, such as the removed versions that newer ones were differences to, is collected afterwards.
//!
//! Chunks are taken lineage by lineage ([`Lineages`]), from the newest down, so what one faces was decoded a moment ago. A chunk that a
//! version of another key lists is left where it is as a base: that key keeps it anyway.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::chunk::Codec;
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::Key;
use crate::limits;
use crate::monitor::Monitor;
use crate::node::lineage::{Lineages, Member};
use crate::node::report::CompactReport;
use crate::node::store::Store;
use crate::node::threads::in_parallel;
use crate::store::pack::RECORD_HEADER_BYTES;
use crate::store::{ChunkReader, ChunkStore, EncodedChunk, Entry, LiveSet, RecordKind, Reencoding, Replacer, Sweep};

/// Decoded chunks that a thread keeps of the lineage that it is at.
const HELD_CHUNKS: usize = 8;

/// How a key is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactOptions {
    /// Most bases between a chunk and one that stands alone, from 1 to 8. Each is one more chunk to decode when an old version is read.
    pub depth: u8,
}

impl Default for CompactOptions {
    fn default() -> CompactOptions {
        CompactOptions { depth: limits::PUT_DELTA_DEPTH }
    }
}

impl Store {
    /// Encodes the chunks of `key` anew, so that its newest version stands alone and older ones are differences to newer ones, and
    /// reclaims what that frees. No version changes; puts and gets may go on meanwhile.
    ///
    /// The new encodings lie beside the old ones until the end. A crash or an error leaves every version readable, with some of its
    /// chunks encoded anew; the next [`gc`](Store::gc) or compaction reclaims the rest.
    pub fn compact(&self, key: &Key, options: CompactOptions, monitor: &Monitor) -> Result<CompactReport> {
        let started = Instant::now();
        let depths = 1..=limits::PUT_DELTA_DEPTH;
        if !depths.contains(&options.depth) {
            let why = format!("it lies between {} and {}", depths.start(), depths.end());
            return Err(Error::Syntax { what: "depth", input: options.depth.to_string(), why });
        }
        let key = &self.canonical(key)?;
        let chunks = &self.inner.chunks;
        // First of all: no manifest that is read below is collected before this ends.
        let reencoding = chunks.reencode()?;
        let versions: Vec<Hash> =
            self.key_refs(key)?.versions.into_values().rev().map(|entry| entry.manifest).collect();
        let mut elsewhere = LiveSet::default();
        self.mark(&mut elsewhere, &|other, _| other != key, monitor)?;
        let lineages = Lineages::of(self, &versions, monitor)?;
        let bytes_before = stored_bytes(chunks, &lineages)?;
        monitor.begin("compact", lineages.members.iter().map(|member| u64::from(member.chunk.len)).sum());
        let shared =
            Shared { lineages: &lineages, elsewhere: &elsewhere, options, monitor, replaced: AtomicU64::new(0) };
        let outcome = shared.work(chunks, &reencoding, self.threads().get());
        // What was replaced is as good as what it replaced, however this ended.
        let finished = reencoding.finish();
        outcome.and(finished)?;
        monitor.finish();
        let sweep = self.collect(Sweep::Thorough, &|_, _| true, monitor)?;
        Ok(CompactReport {
            key: key.clone(),
            versions: versions.len() as u64,
            chunks: lineages.members.len() as u64,
            replaced_chunks: shared.replaced.into_inner(),
            bytes_before,
            bytes_after: stored_bytes(chunks, &lineages)?,
            reclaimed_bytes: sweep.reclaimed_bytes,
            kept_bytes: sweep.kept_bytes,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Bytes of the records of all chunks in the list.
fn stored_bytes(chunks: &ChunkStore, lineages: &Lineages) -> Result<u64> {
    lineages.members.iter().try_fold(0, |bytes, member| {
        let entry = chunks.locate(&member.chunk.hash, RecordKind::Chunk)?;
        Ok(bytes + entry.map_or(0, |entry| entry.record_len()))
    })
}

/// What the threads of one compaction share.
struct Shared<'a> {
    lineages: &'a Lineages,
    /// What versions of other keys list.
    elsewhere: &'a LiveSet,
    options: CompactOptions,
    monitor: &'a Monitor,
    replaced: AtomicU64,
}

impl Shared<'_> {
    /// Does all lineages, by several threads.
    fn work(&self, chunks: &ChunkStore, reencoding: &Reencoding<'_>, threads: usize) -> Result<()> {
        let (next, cause) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || -> Result<()> {
            let mut worker = Worker {
                shared: self,
                chunks,
                reader: chunks.reader(),
                replacer: reencoding.replacer(),
                encoder: Encoder::new(Effort::Compact),
                encoded: Vec::new(),
                lineage: Vec::new(),
            };
            while let Some(member) = self.lineages.members.get(next.fetch_add(1, Ordering::Relaxed)) {
                if member.faces.is_none() {
                    worker.lineage(member)?;
                }
            }
            Ok(())
        };
        in_parallel(threads, || {
            if let Err(error) = work() {
                next.store(self.lineages.members.len(), Ordering::Relaxed);
                let mut cause = cause.lock().unwrap_or_else(PoisonError::into_inner);
                // That an earlier write failed is only the echo of what another thread can say better.
                if matches!(*cause, None | Some(Error::WriteFailed { .. })) {
                    *cause = Some(error);
                }
            }
            Ok::<(), Error>(())
        })?;
        cause.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// One thread's readers and buffers.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    chunks: &'a ChunkStore,
    reader: ChunkReader,
    replacer: Replacer<'a>,
    encoder: Encoder,
    encoded: Vec<u8>,
    /// The chunk that is at work, after the one that it faces, and so on; only the last few are held.
    lineage: Vec<(Hash, Option<Arc<[u8]>>)>,
}

impl Worker<'_> {
    /// Does `root` and all that faces it, directly or through others.
    fn lineage(&mut self, root: &Member) -> Result<()> {
        let lineages = self.shared.lineages;
        let mut waiting: Vec<(u32, usize)> =
            lineages.place(&root.chunk.hash).map(|place| (place, 0)).into_iter().collect();
        while let Some((place, depth)) = waiting.pop() {
            self.shared.monitor.check()?;
            let Some(member) = lineages.member(place) else { continue };
            self.lineage.truncate(depth);
            if let Some((_, left)) = depth.checked_sub(HELD_CHUNKS).and_then(|left| self.lineage.get_mut(left)) {
                *left = None;
            }
            let plain = self.member(place, member)?;
            self.lineage.push((member.chunk.hash, plain));
            waiting.extend(lineages.facing(place).map(|place| (place, depth + 1)));
            self.shared.monitor.advance(member.chunk.len.into());
        }
        Ok(())
    }

    /// Encodes one chunk anew, if that is of use; answers with its plain bytes. `None` if it is damaged: it stays as it is.
    fn member(&mut self, place: u32, member: &Member) -> Result<Option<Arc<[u8]>>> {
        let hash = member.chunk.hash;
        let mut plain = vec![0; member.chunk.len as usize];
        let (chain, read) = (self.chunks.chain(&hash)?, self.read(&hash, &mut plain));
        let chain = match (chain, read) {
            (Some(chain), Ok(())) => chain,
            (_, Err(error)) if !matches!(error, Error::Damaged { .. }) => return Err(error),
            (_, outcome) => {
                let why = outcome.err().map(|error| error.to_string()).unwrap_or_default();
                self.shared.monitor.warn(&format!("a chunk stays as it is, since it cannot be read: {why}"));
                return Ok(None);
            }
        };
        let Some((_, entry)) = chain.first() else { return Ok(None) };
        let backwards = self.is_backwards(place, entry);
        let wanted = match member.faces {
            Some(faces) => self.base_of(faces)?,
            None if backwards && self.may_part(entry) => self.base_elsewhere(&chain)?,
            None => return Ok(Some(plain.into())),
        };
        self.encode(member, entry, backwards, &plain, wanted)?;
        Ok(Some(plain.into()))
    }

    fn read(&mut self, hash: &Hash, plain: &mut [u8]) -> Result<()> {
        let lineage = &self.lineage;
        let held = |wanted: &Hash| lineage.iter().rev().find(|(hash, _)| hash == wanted)?.1.clone();
        self.reader.read_with(hash, plain, &held)
    }

    /// True for a delta against an older version of this key, or against what no version has any more.
    fn is_backwards(&self, place: u32, entry: &Entry) -> bool {
        let forwards = |base: &Hash| {
            let newer = self.shared.lineages.place(base).is_some_and(|base| base < place);
            newer || self.shared.elsewhere.contains(base)
        };
        entry.base.is_some_and(|base| !forwards(&base))
    }

    /// False for a delta against an older chunk that nothing newer faces: one of the two has to stand alone, and it may as well be
    /// the one that does.
    fn may_part(&self, entry: &Entry) -> bool {
        let base = entry.base.and_then(|base| self.shared.lineages.place(&base));
        base.and_then(|base| self.shared.lineages.member(base)).is_none_or(|base| base.faces.is_some())
    }

    /// The base for a chunk that faces the one at `faces`: that one, or the nearest of its bases that leaves the chain short enough.
    fn base_of(&mut self, faces: u32) -> Result<Option<(Hash, Vec<u8>)>> {
        let Some(member) = self.shared.lineages.member(faces) else { return Ok(None) };
        let chain = self.chunks.chain(&member.chunk.hash)?.unwrap_or_default();
        let above = chain.len().saturating_sub(self.shared.options.depth.into());
        self.base_at(chain.get(above))
    }

    /// The first chunk of `chain` that another key keeps, for the first chunk of it.
    fn base_elsewhere(&mut self, chain: &[(Hash, Entry)]) -> Result<Option<(Hash, Vec<u8>)>> {
        let mut kept = chain.iter().enumerate().skip(1).filter(|(_, (hash, _))| self.shared.elsewhere.contains(hash));
        let found = kept.find(|(link, _)| chain.len() - link <= self.shared.options.depth.into());
        self.base_at(found.map(|(_, link)| link))
    }

    fn base_at(&mut self, link: Option<&(Hash, Entry)>) -> Result<Option<(Hash, Vec<u8>)>> {
        let Some((hash, entry)) = link else { return Ok(None) };
        let mut plain = vec![0; (entry.plain_len as usize).min(limits::CHUNK_BYTES)];
        let held = self.lineage.iter().rev().find(|(held, _)| held == hash).and_then(|(_, plain)| plain.clone());
        match held {
            Some(held) => plain = held.to_vec(),
            None => match self.read(hash, &mut plain) {
                Err(Error::Damaged { .. }) => return Ok(None),
                outcome => outcome?,
            },
        }
        Ok(Some((*hash, plain)))
    }

    /// Puts the smallest encoding of a chunk in the place of the one that it has as `entry`: any, if that one looks back.
    fn encode(
        &mut self,
        member: &Member,
        entry: &Entry,
        backwards: bool,
        plain: &[u8],
        base: Option<(Hash, Vec<u8>)>,
    ) -> Result<()> {
        let codec = match &base {
            Some((_, base)) => self.encoder.encode_against(plain, member.width, base, &mut self.encoded),
            None => self.encoder.encode(plain, member.width, &mut self.encoded),
        };
        let payload = if codec == Codec::Raw { plain } else { &self.encoded };
        let base = base.filter(|_| codec.has_base());
        let base_len = if base.is_some() { Hash::LEN } else { 0 };
        let record_len = (RECORD_HEADER_BYTES + base_len + payload.len()) as u64;
        if !backwards && record_len >= entry.record_len() {
            return Ok(());
        }
        let (hash, plain_len) = (member.chunk.hash, member.chunk.len);
        let (base, base_plain) = base.unzip();
        let chunk = EncodedChunk { hash, plain_len, codec, base, payload };
        if self.replacer.replace(&chunk, base_plain.as_deref())? {
            self.shared.replaced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
