//! Put: payload → split → hash → already stored? → encode, by itself or against a base → pack → manifest → commit.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::chunk::{ChunkRef, Codec};
use crate::codec::Effort;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, PutName, VersionRef};
use crate::limits;
use crate::manifest::{Content, Contents, FileEntry, FileKind, Manifest, RegularFile, SegmentEntry, compare_paths};
use crate::monitor::Monitor;
use crate::node::base::{BASE_VERSIONS, Bases};
use crate::node::home::homes;
use crate::node::in_place::InPlace;
use crate::node::ingest::{Ingest, Ingested};
use crate::node::payload::{Item, Items, Payload, PayloadKind, find_items};
use crate::node::report::{PutReport, Timestamp};
use crate::node::store::Store;
use crate::node::stripe::StripeSource;
use crate::node::unchanged::{self, Earlier};
use crate::refs::Meta;
use crate::split::{Format, Layout, Segment, recognise};
use crate::store::{EncodedChunk, Session};

/// What the chunks of a new version may be kept as differences to. Whatever is named, a difference is kept only where it pays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeltaBase {
    /// The same tensors of the key's last versions.
    #[default]
    Auto,
    /// The same tensors of this version, of any key; where it has none, those of the key's last versions.
    Version(VersionRef),
    /// Nothing: each chunk is kept by itself.
    None,
}

/// How a payload is put.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PutOptions {
    /// How hard to look for a small encoding.
    pub effort: Effort,
    /// What the version may be kept as differences to.
    pub base: DeltaBase,
    /// What to note about the version.
    pub meta: Meta,
    /// After how long the version may be collected.
    pub ttl: Option<Duration>,
    /// The media type of the files: see [`check_media_type`].
    pub media_type: Option<String>,
}

impl Store {
    /// Stores `payload` as the next version of `name`'s key, and labels it if `name` has a label.
    ///
    /// Returns once the version is durable and visible. Fails with [`Error::Input`] for what cannot be stored, with
    /// [`Error::InputChanged`] if a file is written to meanwhile, and with [`Error::NoSpace`] when the disk is full; after any error
    /// every earlier version is as it was, and what was written for this one is reclaimed by the next [`gc`](Store::gc).
    pub fn put(
        &self,
        name: &PutName,
        payload: Payload<'_>,
        options: &PutOptions,
        monitor: &Monitor,
    ) -> Result<PutReport> {
        let started = Instant::now();
        refuse_scope(&name.key)?;
        options.media_type.as_deref().map_or(Ok(()), check_media_type)?;
        let session = self.inner.chunks.begin()?;
        let earlier: Vec<Hash> =
            self.known_refs(&name.key)?.versions.into_values().map(|entry| entry.manifest).collect();
        let parent = earlier.last().copied();
        let named = match &options.base {
            DeltaBase::Version(version) => Some(self.resolve(version)?.1.manifest),
            DeltaBase::Auto | DeltaBase::None => None,
        };
        let recent = earlier.into_iter().rev().take(if options.base == DeltaBase::None { 0 } else { BASE_VERSIONS });
        let bases = Bases::new(self, named.into_iter().chain(recent).collect());
        let mut put =
            Put { store: self, session: &session, options, monitor, earlier: Earlier::find(self, parent)?, bases };
        let contents = put.payload(&name.key, payload, parent, named)?;
        let manifest = Manifest::new(contents)
            .map_err(|why| Error::Input { path: name.key.as_str().into(), why: why.to_string() })?;
        let report = put.commit(name, &manifest, started)?;
        monitor.finish();
        Ok(report)
    }
}

/// One put under way.
struct Put<'a> {
    store: &'a Store,
    session: &'a Session,
    options: &'a PutOptions,
    monitor: &'a Monitor,
    earlier: Earlier,
    bases: Bases<'a>,
}

impl Put<'_> {
    /// Stores every file's chunks and gathers what the manifest says.
    fn payload(
        &mut self,
        key: &Key,
        payload: Payload<'_>,
        parent: Option<Hash>,
        base: Option<Hash>,
    ) -> Result<Contents> {
        let ingest = Ingest::new(self.store, self.session, self.options.effort, self.monitor);
        let mut contents = Contents {
            key: key.clone(),
            single: true,
            files: Vec::new(),
            chunks: Vec::new(),
            homes: Default::default(),
            parent,
            base,
            created_unix_ms: Timestamp::now().0,
            meta: self.options.meta.clone(),
        };
        match payload.0 {
            PayloadKind::Reader { name, reader } => {
                self.monitor.begin("put", 0);
                let stored = self.stream(&ingest, &name, reader)?;
                self.add(&mut contents, name, false, stored);
            }
            PayloadKind::Paths(paths) => {
                let Items { by_path, single } = {
                    let items = find_items(&paths, self.store.path())?;
                    self.monitor.begin("put", items.bytes());
                    items
                };
                contents.single = single;
                let mut items: Vec<(String, Item)> = by_path.into_iter().collect();
                items.sort_by(|(a, _), (b, _)| compare_paths(a, b));
                for (path, item) in items {
                    self.item(&ingest, &mut contents, path, item)?;
                }
            }
        }
        let versions: Vec<&Manifest> = self.earlier.manifest().into_iter().chain(self.bases.manifests()).collect();
        contents.homes = homes(self.store, &contents.chunks, &versions)?;
        Ok(contents)
    }

    fn item(&mut self, ingest: &Ingest<'_>, contents: &mut Contents, path: String, item: Item) -> Result<()> {
        match item {
            Item::File { source, executable, .. } => {
                let stored = self.file(ingest, &source, &path)?;
                self.add(contents, path, executable, stored);
            }
            Item::Symlink { target } => contents.files.push(FileEntry { path, kind: FileKind::Symlink { target } }),
            Item::Directory => contents.files.push(FileEntry { path, kind: FileKind::Directory }),
        }
        Ok(())
    }

    fn add(&self, contents: &mut Contents, path: String, executable: bool, stored: Stored) {
        contents.chunks.extend(stored.chunks);
        let media_type = self.options.media_type.clone();
        let Stored { len, blob_hash, content, segments, .. } = stored;
        let file = RegularFile { len, blob_hash, executable, media_type, content, segments };
        contents.files.push(FileEntry { path, kind: FileKind::Regular(file) });
    }

    /// Stores the file at `source`, and makes sure that it did not change on the way.
    fn file(&mut self, ingest: &Ingest<'_>, source: &Path, path: &str) -> Result<Stored> {
        let file = File::open(source).map_err(|error| Error::io("open", source, error))?;
        let before = Stamp::of(&file, source)?;
        let stored = self.open_file(ingest, &file, before.len, source, path).map_err(|error| match error {
            Error::Io { source: cause, .. } if cause.kind() == io::ErrorKind::UnexpectedEof => {
                Error::InputChanged { path: source.to_owned() }
            }
            error => error,
        })?;
        match Stamp::of(&file, source)? == before {
            true => Ok(stored),
            false => Err(Error::InputChanged { path: source.to_owned() }),
        }
    }

    fn open_file(&mut self, ingest: &Ingest<'_>, file: &File, len: u64, source: &Path, path: &str) -> Result<Stored> {
        let read_error = |error| Error::io("read", source, error);
        if len < limits::INLINE_BYTES as u64 {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, 0).map_err(read_error)?;
            return Ok(Stored::inline(bytes));
        }
        if let Some(earlier) = self.earlier.file(path, len)
            && unchanged::is_unchanged(file, &earlier, self.store.threads(), &read_error)?
            && earlier.chunks.iter().try_fold(true, |all, chunk| Ok(all && self.session.has(&chunk.hash)?))?
        {
            self.monitor.advance(len);
            return Ok(Stored {
                len,
                blob_hash: earlier.blob_hash,
                content: Content::Chunks,
                chunks: earlier.chunks.to_vec(),
                segments: earlier.segments.to_vec(),
            });
        }
        let layout = recognise(len, &mut |offset, buffer| file.read_exact_at(buffer, offset)).map_err(read_error)?;
        let in_place = match layout.format {
            Format::Opaque => InPlace::find(&mut self.bases, self.session, file, len, path, &read_error)?,
            _ => None,
        };
        let (runs, facing) = match in_place {
            Some(InPlace { runs, facing }) => (runs, facing),
            None if layout.format == Format::Opaque => (layout.runs(len), self.bases.kin(path)?),
            None => (layout.runs(len), self.bases.facing(path, &layout, len)?),
        };
        let ingested = ingest.store(StripeSource::file(file, len, runs), facing, &read_error)?;
        Ok(Stored::chunked(ingested, layout))
    }

    /// Stores what `reader` gives. A container is spooled first: its table can only be checked against all of it, and a zip's
    /// lies at its end.
    fn stream(&mut self, ingest: &Ingest<'_>, name: &str, mut reader: impl Read + Send) -> Result<Stored> {
        let read_error = |error| Error::io("read", name, error);
        let mut head = Vec::new();
        (&mut reader).take(limits::INLINE_BYTES as u64).read_to_end(&mut head).map_err(read_error)?;
        if head.len() < limits::INLINE_BYTES {
            return Ok(Stored::inline(head));
        }
        if may_be_container(&head) {
            let spool = self.store.spool();
            let mut file =
                tempfile::tempfile_in(&spool).map_err(|error| Error::io("create a file in", &spool, error))?;
            self.spool(&mut file, &head, &mut reader, name)?;
            let len = file.stream_position().map_err(|error| Error::io("write", &spool, error))?;
            return self.open_file(ingest, &file, len, Path::new(name), name);
        }
        let source = StripeSource::stream(head.as_slice().chain(reader));
        let ingested = ingest.store(source, self.bases.kin(name)?, &read_error)?;
        Ok(Stored::chunked(ingested, Layout::default()))
    }

    fn spool(&self, file: &mut File, head: &[u8], reader: &mut impl Read, name: &str) -> Result<()> {
        let spool_error = |error| Error::io("write", self.store.spool(), error);
        file.write_all(head).map_err(spool_error)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            self.monitor.check()?;
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => file.write_all(buffer.get(..n).unwrap_or_default()).map_err(spool_error)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", name, error)),
            }
        }
    }

    /// Makes the version durable and visible.
    fn commit(&self, name: &PutName, manifest: &Manifest, started: Instant) -> Result<PutReport> {
        self.monitor.check()?;
        let bytes = manifest.encode();
        let mut frame = Vec::new();
        let codec = self.store.with_encoder(self.options.effort, |encoder| encoder.encode_frame(&bytes, &mut frame));
        let hash = Hash::of(&bytes);
        let payload = if codec == Codec::Raw { &bytes } else { &frame };
        let record = EncodedChunk { hash, plain_len: bytes.len() as u32, codec, base: None, payload };
        let created = manifest.created_unix_ms;
        // A time to live beyond all clocks is one that never ends, not one that wraps around.
        let ttl_ms = self.options.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let expires = ttl_ms.map(|ttl| created.saturating_add(ttl));
        let version = self.store.commit_version(self.session, name, manifest, &record, created, expires)?;
        Ok(PutReport {
            key: name.key.clone(),
            version,
            label: name.label.clone(),
            manifest: hash,
            files: manifest.files.len() as u64,
            bytes: manifest.bytes(),
            chunks: manifest.chunks.len() as u64,
            new_chunks: self.session.new_chunks(),
            delta_chunks: self.session.delta_chunks(),
            stored_bytes: self.session.stored_bytes(),
            network: None,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Checks that `text` is a media type: TYPE/SUBTYPE (RFC 9110, section 8.3.1), with or without parameters, on one line of ASCII.
pub fn check_media_type(text: &str) -> Result<()> {
    let token = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(fits)
    };
    let parts = text.split_once(';').map(|(essence, parameters)| (essence.trim_end_matches(' '), parameters));
    let (essence, parameters) = parts.unwrap_or((text, ""));
    let sound = essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
        && parameters.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match sound && text.len() <= limits::MEDIA_TYPE_BYTES {
        true => Ok(()),
        false => Err(Error::Syntax {
            what: "media type",
            input: text.to_owned(),
            why: format!(
                "write it as TYPE/SUBTYPE, such as application/json, in {} ASCII characters at most",
                limits::MEDIA_TYPE_BYTES
            ),
        }),
    }
}

/// Only the holder of a scope's key publishes under it, and does so without naming it.
pub(super) fn refuse_scope(key: &Key) -> Result<()> {
    match key.scope() {
        None => Ok(()),
        Some(_) => Err(Error::Syntax {
            what: "key",
            input: key.to_string(),
            why: "a version is put without a scope: it is then in the scope of this store's identity".to_owned(),
        }),
    }
}

/// A stored file, as its manifest entry needs it.
struct Stored {
    len: u64,
    blob_hash: Hash,
    content: Content,
    chunks: Vec<ChunkRef>,
    segments: Vec<SegmentEntry>,
}

impl Stored {
    fn inline(bytes: Vec<u8>) -> Stored {
        let (len, blob_hash) = (bytes.len() as u64, Hash::of(&bytes));
        Stored { len, blob_hash, content: Content::Inline(bytes), chunks: Vec::new(), segments: Vec::new() }
    }

    fn chunked(ingested: Ingested, layout: Layout) -> Stored {
        let Ingested { len, blob_hash, chunks } = ingested;
        let segments = layout.segments.into_iter().map(segment_entry).collect();
        Stored { len, blob_hash, content: Content::Chunks, chunks, segments }
    }
}

fn segment_entry(segment: Segment) -> SegmentEntry {
    let Segment { name, dtype, shape, span, tensor } = segment;
    SegmentEntry { name, dtype, shape, span, tensor }
}

/// True where the first bytes could be those of a safetensors, GGUF or zip file.
fn may_be_container(head: &[u8]) -> bool {
    let safetensors = head.get(7).is_some_and(|&byte| byte == 0) && head.get(8) == Some(&b'{');
    safetensors || head.starts_with(b"GGUF") || head.starts_with(b"PK\x03\x04")
}

/// What shows that a file was written to.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: (u64, u64),
}

impl Stamp {
    fn of(file: &File, path: &Path) -> Result<Stamp> {
        let metadata: fs::Metadata = file.metadata().map_err(|error| Error::io("read", path, error))?;
        Ok(Stamp {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: (metadata.dev(), metadata.ino()),
        })
    }
}
