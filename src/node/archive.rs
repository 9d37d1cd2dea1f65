//! Export and import: one version as a single file to carry by hand.
//!
//! An archive is a header, the manifest's record and the record of each chunk, in the order in which the manifest first lists it: the
//! records of a pack, so `docs/format.md` describes both. It is self-contained, without bases, and it proves itself: the manifest is checked
//! against its hash, each chunk and each file against its own, and an archive that lacks a chunk is incomplete.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::chunk::{ChunkRef, Codec, ElementWidth};
use crate::codec::{Decoder, Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{PutName, VersionRef};
use crate::manifest::Manifest;
use crate::monitor::Monitor;
use crate::node::put::refuse_scope;
use crate::node::report::{ArchiveReport, Timestamp};
use crate::node::store::Store;
use crate::node::width::chunk_widths;
use crate::store::pack::{Record, RecordHeader};
use crate::store::{ArchiveReader, ArchiveRecord, ChunkReader, EncodedChunk, RecordKind, archive_header};

/// What errors call an archive.
const ARCHIVE: &str = "archive";

/// How an archive is imported.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Under which key and label; `None`: the key that it was exported from.
    pub name: Option<PutName>,
}

impl Store {
    /// Writes the version `wanted` to the file `target`, which appears only when it is whole and synced.
    pub fn export(&self, wanted: &VersionRef, target: impl AsRef<Path>, monitor: &Monitor) -> Result<ArchiveReport> {
        let target = target.as_ref();
        let failed = |error| Error::io("write", target, error);
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        let report = {
            let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
            let report = self.export_to(wanted, &mut out, monitor)?;
            out.flush().map_err(failed)?;
            report
        };
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist(target).map_err(|error| failed(error.error))?;
        Ok(report)
    }

    /// Writes the version `wanted` to `out` as an archive. Every chunk is decoded and verified on the way; one that is kept as a delta
    /// is encoded to stand alone.
    pub fn export_to(&self, wanted: &VersionRef, out: &mut dyn Write, monitor: &Monitor) -> Result<ArchiveReport> {
        let started = Instant::now();
        let version = self.version(wanted)?;
        monitor.begin("export", version.bytes());
        let failed = |error| Error::io("write", "the archive", error);
        let mut reader = self.inner.chunks.reader();
        let mut archive_bytes = 0;
        let mut write = |bytes: &[u8]| {
            archive_bytes += bytes.len() as u64;
            out.write_all(bytes).map_err(failed)
        };
        write(&archive_header())?;
        write(reader.record(&version.entry.manifest, RecordKind::Manifest)?)?;
        let (mut written, mut plain) = (HashSet::new(), Vec::new());
        let mut alone = StandAlone::new();
        for (chunk, width) in version.manifest.chunks.iter().zip(chunk_widths(&version.manifest)) {
            monitor.check()?;
            if written.insert(chunk.hash) {
                plain.resize(chunk.len as usize, 0);
                reader.read(&chunk.hash, &mut plain)?;
                write(alone.record(&chunk.hash, &plain, width, reader.last_record()))?;
            }
            monitor.advance(chunk.len.into());
        }
        monitor.finish();
        Ok(ArchiveReport {
            key: version.key.clone(),
            version: version.number,
            manifest: version.entry.manifest,
            bytes: version.bytes(),
            chunks: written.len() as u64,
            archive_bytes,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Stores the version in the archive `source` as the next version of its key, or of the key that `options` name.
    pub fn import(
        &self,
        source: impl AsRef<Path>,
        options: &ImportOptions,
        monitor: &Monitor,
    ) -> Result<ArchiveReport> {
        let source = source.as_ref();
        let file = File::open(source).map_err(|error| Error::io("open", source, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("read", source, error))?;
        if metadata.is_dir() {
            return Err(Error::Input {
                path: source.to_owned(),
                why: "it is a directory; name an archive that `caskad export` wrote".into(),
            });
        }
        self.import_from(io::BufReader::with_capacity(1 << 20, file), source, options, monitor)
    }

    /// As [`import`](Store::import), from a stream; `name` is what errors call it.
    pub fn import_from(
        &self,
        source: impl Read,
        name: impl AsRef<Path>,
        options: &ImportOptions,
        monitor: &Monitor,
    ) -> Result<ArchiveReport> {
        let started = Instant::now();
        let name = name.as_ref();
        let session = self.inner.chunks.begin()?;
        let refuse = |why: String| Error::Damaged { what: ARCHIVE, place: name.display().to_string(), why };
        let of_archive = |error| match error {
            Error::Damaged { what: ARCHIVE, why, .. } => refuse(why),
            error => error,
        };
        let mut archive = ArchiveReader::open(source, name)?;
        let mut decoder = Decoder::new();
        let first = archive.next_record()?.filter(|record| record.kind == RecordKind::Manifest);
        let first = first.ok_or_else(|| refuse("it does not start with a manifest".to_owned()))?;
        let manifest_bytes = first.plain(&mut decoder).map_err(|why| refuse(format!("its manifest: {why}")))?;
        let manifest = Manifest::decode(&manifest_bytes).map_err(|why| refuse(format!("its manifest: {why}")))?;
        monitor.begin("import", manifest.bytes());
        let mut missing: HashMap<Hash, u32> = HashMap::new();
        for chunk in &manifest.chunks {
            if missing.insert(chunk.hash, chunk.len).is_some_and(|len| len != chunk.len) {
                return Err(refuse(format!("its manifest gives chunk {} two lengths", chunk.hash.short())));
            }
        }
        let mut chunks = 0;
        let mut files = FileHashes::new(&manifest, self.inner.chunks.reader());
        while let Some(record) = archive.next_record()? {
            monitor.check()?;
            let imported = self.import_chunk(&record, &mut missing, &session, &mut decoder);
            let imported = imported.and_then(|plain| files.advance(&missing, &record.hash, &plain));
            imported.map_err(of_archive)?;
            chunks += 1;
            monitor.advance(record.plain_len.into());
        }
        for (hash, len) in missing {
            let stored = if session.has(&hash)? { self.inner.chunks.locate(&hash, RecordKind::Chunk)? } else { None };
            if stored.is_none_or(|stored| stored.plain_len != len) {
                return Err(refuse(format!("it ends before chunk {}; copy the archive again", hash.short())));
            }
        }
        files.finish(monitor).map_err(of_archive)?;
        options.name.iter().try_for_each(|name| refuse_scope(&name.key))?;
        let target = options.name.clone().unwrap_or_else(|| PutName { key: manifest.key.clone(), label: None });
        let (hash, payload) = (first.hash, &first.payload);
        let record = EncodedChunk { hash, plain_len: first.plain_len, codec: first.codec, base: None, payload };
        let version = self.commit_version(&session, &target, &manifest, &record, Timestamp::now().0, None)?;
        monitor.finish();
        Ok(ArchiveReport {
            key: target.key,
            version,
            manifest: hash,
            bytes: manifest.bytes(),
            chunks,
            archive_bytes: archive.bytes_read(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Takes in one chunk of an archive, verified; one that the manifest does not list is refused. Answers with its plain bytes.
    fn import_chunk(
        &self,
        record: &ArchiveRecord,
        missing: &mut HashMap<Hash, u32>,
        session: &crate::store::Session,
        decoder: &mut Decoder,
    ) -> Result<Vec<u8>> {
        let refuse = |why: String| Error::Damaged { what: ARCHIVE, place: String::new(), why };
        let listed = record.kind == RecordKind::Chunk && missing.remove(&record.hash) == Some(record.plain_len);
        if !listed {
            return Err(refuse(format!("it holds a record that its manifest does not list ({})", record.hash.short())));
        }
        let plain = record.plain(decoder).map_err(|why| refuse(format!("chunk {}: {why}", record.hash.short())))?;
        if !session.has(&record.hash)? {
            let (hash, plain_len, codec) = (record.hash, record.plain_len, record.codec);
            session.append(&EncodedChunk { hash, plain_len, codec, base: None, payload: &record.payload })?;
        }
        Ok(plain)
    }
}

/// Hashes each file of a manifest, from chunks as they come. An archive has them in the manifest's order, so hardly any is read again.
struct FileHashes<'m> {
    manifest: &'m Manifest,
    reader: ChunkReader,
    hasher: blake3::Hasher,
    /// The file that is hashed, and the next chunk of it, as an index into the manifest's.
    file: usize,
    next: usize,
}

impl<'m> FileHashes<'m> {
    fn new(manifest: &'m Manifest, reader: ChunkReader) -> FileHashes<'m> {
        FileHashes { manifest, reader, hasher: blake3::Hasher::new(), file: 0, next: 0 }
    }

    /// Goes on as far as the chunks are here that are not `missing`; of `arrived`, these are the `bytes`.
    fn advance(&mut self, missing: &HashMap<Hash, u32>, arrived: &Hash, bytes: &[u8]) -> Result<()> {
        while let Some(chunk) = self.manifest.chunks.get(self.next).filter(|chunk| !missing.contains_key(&chunk.hash)) {
            if chunk.hash == *arrived { self.take(bytes)? } else { self.read(chunk)? }
        }
        Ok(())
    }

    /// Reads the chunks that are left, all of which are stored.
    fn finish(mut self, monitor: &Monitor) -> Result<()> {
        while let Some(chunk) = self.manifest.chunks.get(self.next) {
            monitor.check()?;
            self.read(chunk)?;
        }
        Ok(())
    }

    fn read(&mut self, chunk: &ChunkRef) -> Result<()> {
        let mut bytes = vec![0; chunk.len as usize];
        self.reader.read(&chunk.hash, &mut bytes)?;
        self.take(&bytes)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.next += 1;
        let is_done = |at: usize| self.manifest.file_chunks(at).end <= self.next;
        while let Some(file) = self.manifest.files.get(self.file).filter(|_| is_done(self.file)) {
            let chunks = self.manifest.file_chunks(self.file);
            self.file += 1;
            // What is inline, the manifest's rules have looked at.
            if let Some(regular) = file.regular().filter(|_| !chunks.is_empty()) {
                if regular.blob_hash != self.hasher.finalize().into() {
                    let why = format!("{}: its chunks do not come to the file whose hash it has", file.path);
                    return Err(Error::Damaged { what: ARCHIVE, place: String::new(), why });
                }
                self.hasher.reset();
            }
        }
        Ok(())
    }
}

/// Makes records that need no base.
struct StandAlone {
    encoder: Encoder,
    payload: Vec<u8>,
    record: Vec<u8>,
}

impl StandAlone {
    fn new() -> StandAlone {
        StandAlone { encoder: Encoder::new(Effort::Default), payload: Vec::new(), record: Vec::new() }
    }

    /// The record `stored` of the chunk `hash`, or another for the same `plain` bytes if it has a base.
    fn record<'r>(&'r mut self, hash: &Hash, plain: &[u8], width: ElementWidth, stored: &'r [u8]) -> &'r [u8] {
        if RecordHeader::decode(stored).is_ok_and(|header| !header.has_base) {
            return stored;
        }
        let codec = self.encoder.encode(plain, width, &mut self.payload);
        let payload = if codec == Codec::Raw { plain } else { &self.payload };
        let (kind, plain_len) = (RecordKind::Chunk, plain.len() as u32);
        self.record.clear();
        Record { kind, codec, depth: 0, base: None, plain_len, hash: *hash, payload }.write(&mut self.record);
        &self.record
    }
}
