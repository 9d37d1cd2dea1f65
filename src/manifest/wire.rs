//! The wire form of a manifest. The numbers of its fields are those of `manifests/manifest.cddl`.
//!
//! Invariant: `decode(encode(m)) == m`, and whatever `decode` takes, `encode` gives back byte for byte.

use std::collections::BTreeMap;

use crate::cbor::{DecodeError, Fields, Reader, Sink, Writer};
use crate::chunk::{ChunkRef, Span};
use crate::hash::Hash;
use crate::limits;
use crate::manifest::model::{Content, Contents, FileEntry, FileKind, Manifest, RegularFile, SegmentEntry};
use crate::meta::Meta;

/// The version of the manifest format that this caskad writes, and the newest that it reads.
pub const MANIFEST_VERSION: u64 = 1;

/// Entries that a list makes room for on the word of its head alone; past that it grows as they arrive.
const RESERVED: usize = 1024;

const REGULAR: u64 = 0;
const SYMLINK: u64 = 1;
const DIRECTORY: u64 = 2;

type Result<T> = std::result::Result<T, DecodeError>;

impl Manifest {
    /// The manifest as deterministic CBOR, at most [`limits::MANIFEST_BYTES`] of it. The manifest hash is
    /// [`Hash::of`](crate::Hash::of) these bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(self.encoded_bytes));
        encode(&mut writer, self);
        writer.0
    }

    /// Reads what [`encode`](Manifest::encode) wrote, and nothing else. The bytes may come from anyone.
    ///
    /// Memory stays proportional to `bytes`: not much over their length for a manifest of many chunks, and never more
    /// than the entries that have arrived take, whatever number of them a head claims.
    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        let mut reader = Reader::new(bytes, limits::MANIFEST_BYTES)?;
        let contents = decode(&mut reader)?;
        reader.finish("manifest")?;
        Ok(Manifest::new(contents)?)
    }
}

pub(super) fn encode<S: Sink>(writer: &mut Writer<S>, contents: &Contents) {
    let optional =
        [!contents.homes.is_empty(), contents.parent.is_some(), contents.base.is_some(), !contents.meta.is_empty()];
    writer.map(7 + optional.iter().filter(|there| **there).count());
    writer.uint(0);
    writer.uint(MANIFEST_VERSION);
    writer.uint(1);
    writer.text(contents.key.as_str());
    writer.uint(2);
    writer.boolean(contents.single);
    writer.uint(3);
    writer.array(contents.files.len());
    for entry in &contents.files {
        encode_file(writer, entry);
    }
    writer.uint(4);
    writer.bytes_in_parts(
        Hash::LEN * contents.chunks.len(),
        contents.chunks.iter().map(|c| c.hash.as_bytes().as_slice()),
    );
    writer.uint(5);
    writer.array(contents.chunks.len());
    for chunk in &contents.chunks {
        writer.uint(chunk.len.into());
    }
    if !contents.homes.is_empty() {
        writer.uint(6);
        writer.map(contents.homes.len());
        for (&chunk, home) in &contents.homes {
            writer.uint(chunk.into());
            writer.bytes(home);
        }
    }
    for (field, hash) in [(7, contents.parent), (8, contents.base)] {
        if let Some(hash) = hash {
            writer.uint(field);
            writer.bytes(hash.as_bytes());
        }
    }
    writer.uint(9);
    writer.uint(contents.created_unix_ms);
    if !contents.meta.is_empty() {
        writer.uint(10);
        contents.meta.encode(writer);
    }
}

fn encode_file<S: Sink>(writer: &mut Writer<S>, entry: &FileEntry) {
    let (kind, more) = match &entry.kind {
        FileKind::Regular(file) => (REGULAR, regular_fields(file)),
        FileKind::Symlink { .. } => (SYMLINK, 1),
        FileKind::Directory => (DIRECTORY, 0),
    };
    writer.map(2 + more);
    writer.uint(0);
    writer.text(&entry.path);
    writer.uint(1);
    writer.uint(kind);
    match &entry.kind {
        FileKind::Regular(file) => encode_regular(writer, file),
        FileKind::Symlink { target } => {
            writer.uint(8);
            writer.text(target);
        }
        FileKind::Directory => {}
    }
}

fn regular_fields(file: &RegularFile) -> usize {
    let optional = [
        file.executable,
        file.media_type.is_some(),
        matches!(file.content, Content::Inline(_)),
        !file.segments.is_empty(),
    ];
    2 + optional.iter().filter(|there| **there).count()
}

fn encode_regular<S: Sink>(writer: &mut Writer<S>, file: &RegularFile) {
    writer.uint(2);
    writer.uint(file.len);
    writer.uint(3);
    writer.bytes(file.blob_hash.as_bytes());
    if file.executable {
        writer.uint(4);
        writer.boolean(true);
    }
    if let Some(media_type) = &file.media_type {
        writer.uint(5);
        writer.text(media_type);
    }
    if let Content::Inline(bytes) = &file.content {
        writer.uint(6);
        writer.bytes(bytes);
    }
    if !file.segments.is_empty() {
        writer.uint(7);
        writer.array(file.segments.len());
        for segment in &file.segments {
            encode_segment(writer, segment);
        }
    }
}

fn encode_segment<S: Sink>(writer: &mut Writer<S>, segment: &SegmentEntry) {
    let optional = [!segment.dtype.is_empty(), !segment.shape.is_empty(), segment.tensor];
    writer.map(3 + optional.iter().filter(|there| **there).count());
    writer.uint(0);
    writer.text(&segment.name);
    if !segment.dtype.is_empty() {
        writer.uint(1);
        writer.text(&segment.dtype);
    }
    if !segment.shape.is_empty() {
        writer.uint(2);
        writer.array(segment.shape.len());
        for &dimension in &segment.shape {
            writer.uint(dimension);
        }
    }
    writer.uint(3);
    writer.uint(segment.span.offset);
    writer.uint(4);
    writer.uint(segment.span.len);
    if segment.tensor {
        writer.uint(5);
        writer.boolean(true);
    }
}

fn decode(reader: &mut Reader<'_>) -> Result<Contents> {
    let mut fields = reader.fields("manifest")?;
    fields.version(reader, MANIFEST_VERSION)?;
    let (mut key, mut single, mut files, mut hashes, mut chunks) = (None, None, None, None, None);
    let (mut parent, mut base, mut created, mut meta) = (None, None, None, Meta::default());
    let mut homes = BTreeMap::new();
    while let Some(field) = fields.next(reader)? {
        match field {
            1 => key = Some(reader.parsed("key", limits::KEY_BYTES)?),
            2 => single = Some(reader.boolean("single-file flag")?),
            3 => files = Some(decode_files(reader)?),
            4 => hashes = Some(reader.bytes("chunk hashes", limits::CHUNKS * Hash::LEN)?),
            5 => chunks = Some(decode_chunks(reader, fields.required(reader, hashes, "chunk hashes")?)?),
            6 => homes = decode_homes(reader)?,
            7 => parent = Some(reader.hash("parent manifest")?),
            8 => base = Some(reader.hash("base manifest")?),
            9 => created = Some(reader.uint("creation time")?),
            10 => meta = Meta::decode(reader)?,
            other => return fields.unknown(reader, other),
        }
    }
    Ok(Contents {
        key: fields.required(reader, key, "key")?,
        single: fields.required(reader, single, "single-file flag")?,
        files: fields.required(reader, files, "list of files")?,
        chunks: fields.required(reader, chunks, "list of chunk lengths")?,
        homes,
        parent,
        base,
        created_unix_ms: fields.required(reader, created, "creation time")?,
        meta,
    })
}

/// Reads the column of lengths and joins it with that of the hashes.
fn decode_chunks(reader: &mut Reader<'_>, hashes: &[u8]) -> Result<Vec<ChunkRef>> {
    const WHAT: &str = "chunk lengths";
    let count = reader.array(WHAT, limits::CHUNKS)?;
    if hashes.len() != count * Hash::LEN {
        let why = format!("{count} of them, but {} bytes of chunk hashes, 32 for each", hashes.len());
        return Err(reader.malformed(WHAT, why));
    }
    let mut chunks = Vec::with_capacity(count);
    for hash in hashes.chunks_exact(Hash::LEN) {
        let hash = Hash::from_slice(hash).unwrap_or_default();
        let len = reader.uint(WHAT)?;
        let len = u32::try_from(len).map_err(|_| reader.malformed(WHAT, format!("{len} is longer than any chunk")))?;
        chunks.push(ChunkRef { hash, len });
    }
    Ok(chunks)
}

fn decode_homes(reader: &mut Reader<'_>) -> Result<BTreeMap<u32, [u8; 4]>> {
    const WHAT: &str = "homes";
    let mut homes = BTreeMap::new();
    let mut fields = Fields::new(reader, WHAT, limits::CHUNKS)?;
    while let Some(chunk) = fields.next(reader)? {
        let chunk = u32::try_from(chunk).map_err(|_| reader.malformed(WHAT, format!("there is no chunk {chunk}")))?;
        homes.insert(chunk, reader.byte_array(WHAT)?);
    }
    match homes.is_empty() {
        true => Err(reader.malformed(WHAT, "an empty map, it is left out instead")),
        false => Ok(homes),
    }
}

fn decode_files(reader: &mut Reader<'_>) -> Result<Vec<FileEntry>> {
    let count = reader.array("files", limits::FILES)?;
    let mut files = Vec::with_capacity(count.min(RESERVED));
    let mut segments_left = limits::SEGMENTS;
    for _ in 0..count {
        files.push(decode_file(reader, &mut segments_left)?);
    }
    Ok(files)
}

/// The file's fields as they come, before its kind tells which of them belong to it.
#[derive(Default)]
struct FileFields {
    len: Option<u64>,
    blob_hash: Option<Hash>,
    executable: bool,
    media_type: Option<String>,
    inline: Option<Vec<u8>>,
    segments: Vec<SegmentEntry>,
    target: Option<String>,
}

fn decode_file(reader: &mut Reader<'_>, segments_left: &mut usize) -> Result<FileEntry> {
    let mut fields = reader.fields("file")?;
    let (mut path, mut kind, mut found) = (None, None, FileFields::default());
    while let Some(field) = fields.next(reader)? {
        match (field, kind) {
            (0, _) => path = Some(reader.text("file path", limits::PATH_BYTES)?.to_owned()),
            (1, _) => match reader.uint("file kind")? {
                known @ (REGULAR | SYMLINK | DIRECTORY) => kind = Some(known),
                other => return Err(reader.malformed("file kind", format!("{other} is unknown"))),
            },
            (2, Some(REGULAR)) => found.len = Some(reader.uint("file length")?),
            (3, Some(REGULAR)) => found.blob_hash = Some(reader.hash("blob hash")?),
            (4, Some(REGULAR)) => found.executable = reader.only_true("executable flag")?,
            (5, Some(REGULAR)) => {
                found.media_type = Some(reader.text("media type", limits::MEDIA_TYPE_BYTES)?.to_owned());
            }
            (6, Some(REGULAR)) => found.inline = Some(reader.bytes("inline bytes", limits::INLINE_BYTES - 1)?.to_vec()),
            (7, Some(REGULAR)) => found.segments = decode_segments(reader, segments_left)?,
            (8, Some(SYMLINK)) => {
                found.target = Some(reader.text("symlink target", limits::PATH_BYTES)?.to_owned());
            }
            (2..=8, Some(kind)) => {
                return Err(reader.malformed("file", format!("field {field} is not one of kind {kind}")));
            }
            (other, _) => return fields.unknown(reader, other),
        }
    }
    let kind = match fields.required(reader, kind, "kind")? {
        REGULAR => FileKind::Regular(RegularFile {
            len: fields.required(reader, found.len, "length")?,
            blob_hash: fields.required(reader, found.blob_hash, "blob hash")?,
            executable: found.executable,
            media_type: found.media_type,
            content: found.inline.map_or(Content::Chunks, Content::Inline),
            segments: found.segments,
        }),
        SYMLINK => FileKind::Symlink { target: fields.required(reader, found.target, "symlink target")? },
        _ => FileKind::Directory,
    };
    Ok(FileEntry { path: fields.required(reader, path, "path")?, kind })
}

fn decode_segments(reader: &mut Reader<'_>, segments_left: &mut usize) -> Result<Vec<SegmentEntry>> {
    let count = reader.array("segments", *segments_left)?;
    *segments_left -= count;
    if count == 0 {
        return Err(reader.malformed("segments", "an empty list, it is left out instead"));
    }
    let mut segments = Vec::with_capacity(count.min(RESERVED));
    for _ in 0..count {
        segments.push(decode_segment(reader)?);
    }
    Ok(segments)
}

fn decode_segment(reader: &mut Reader<'_>) -> Result<SegmentEntry> {
    let mut fields = reader.fields("segment")?;
    let (mut name, mut offset, mut len) = (None, None, None);
    let (mut dtype, mut shape, mut tensor) = (String::new(), Vec::new(), false);
    while let Some(field) = fields.next(reader)? {
        match field {
            0 => name = Some(reader.text("segment name", limits::SEGMENT_NAME_BYTES)?.to_owned()),
            1 => dtype = reader.non_empty_text("element type", limits::DTYPE_BYTES)?.to_owned(),
            2 => shape = decode_shape(reader)?,
            3 => offset = Some(reader.uint("segment offset")?),
            4 => len = Some(reader.uint("segment length")?),
            5 => tensor = reader.only_true("tensor flag")?,
            other => return fields.unknown(reader, other),
        }
    }
    let name = fields.required(reader, name, "name")?;
    let offset = fields.required(reader, offset, "offset")?;
    let len = fields.required(reader, len, "length")?;
    Ok(SegmentEntry { name, dtype, shape, span: Span::new(offset, len), tensor })
}

fn decode_shape(reader: &mut Reader<'_>) -> Result<Vec<u64>> {
    match reader.array("shape", limits::SHAPE_DIMENSIONS)? {
        0 => Err(reader.malformed("shape", "an empty list, it is left out instead")),
        dimensions => (0..dimensions).map(|_| reader.uint("shape")).collect(),
    }
}
