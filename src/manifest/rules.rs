//! The rules that the contents of a manifest obey, beyond being well-formed.
//!
//! Invariant: what passes can be restored inside one directory without following a link, and every byte of it is in
//! exactly one place. The work is linear in the size of the manifest, whatever it holds.

use std::cmp::Ordering;

use crate::cbor::{Length, RuleError, Writer};
use crate::chunk::{ChunkRef, Span};
use crate::hash::Hash;
use crate::limits;
use crate::manifest::model::{Content, Contents, FileEntry, FileKind, Offsets, RegularFile, SegmentEntry};
use crate::manifest::wire;

type Result<T> = std::result::Result<T, RuleError>;

/// The order of files in a manifest: component by component, each by its bytes, as a sorted directory walk meets them.
///
/// All that lies below a path comes right after it, so two neighbours tell whether one lies below the other.
pub fn compare_paths(a: &str, b: &str) -> Ordering {
    a.split('/').cmp(b.split('/'))
}

/// Checks everything but the encoded length.
pub(super) fn check(contents: &Contents) -> Result<Offsets> {
    at_most("manifest", "files", contents.files.len(), limits::FILES)?;
    at_most("manifest", "chunks", contents.chunks.len(), limits::CHUNKS)?;
    if contents.key.scope().is_some() {
        return Err(RuleError::new(
            "manifest",
            "its key has a scope; who published it is said by the record, never by the manifest",
        ));
    }
    check_tree(&contents.files)?;
    check_single(contents)?;
    check_homes(contents)?;
    let chunks = chunk_offsets(&contents.chunks)?;
    let mut files = Vec::with_capacity(contents.files.len() + 1);
    let (mut chunk, mut bytes, mut segments) = (0, 0_u64, 0);
    for entry in &contents.files {
        files.push(chunk);
        let Some(file) = entry.regular() else { continue };
        segments += file.segments.len();
        chunk = check_regular(entry, file, &chunks, chunk)?;
        bytes =
            bytes.checked_add(file.len).ok_or_else(|| broken(entry, "the lengths of all files overflow 64 bits"))?;
    }
    files.push(chunk);
    at_most("manifest", "segments", segments, limits::SEGMENTS)?;
    match contents.chunks.len() - chunk {
        0 => Ok(Offsets { chunks, files, bytes }),
        more => Err(RuleError::new("chunks", format!("{more} of them belong to no file: the lengths do not add up"))),
    }
}

/// The length of the encoded contents, which [`limits::MANIFEST_BYTES`] bounds.
pub(super) fn check_encoded(contents: &Contents) -> Result<usize> {
    let mut writer = Writer(Length::default());
    wire::encode(&mut writer, contents);
    at_most("manifest", "bytes", writer.0.0, limits::MANIFEST_BYTES)?;
    Ok(writer.0.0)
}

fn broken(entry: &FileEntry, why: impl Into<String>) -> RuleError {
    RuleError::new(format!("file {:?}", entry.path), why)
}

fn at_most(what: &str, unit: &str, found: usize, limit: usize) -> Result<()> {
    match found <= limit {
        true => Ok(()),
        false => Err(RuleError::new(what, format!("{found} {unit}, at most {limit} are allowed"))),
    }
}

fn check_single(contents: &Contents) -> Result<()> {
    match contents.files.as_slice() {
        _ if !contents.single => Ok(()),
        [FileEntry { path, kind: FileKind::Regular(_) }] if !path.contains('/') => Ok(()),
        _ => Err(RuleError::new("manifest", "a single-file version holds exactly one regular file, named without `/`")),
    }
}

fn check_tree(files: &[FileEntry]) -> Result<()> {
    for entry in files {
        check_path(entry)?;
        if let FileKind::Symlink { target } = &entry.kind {
            check_target(entry, target)?;
        }
    }
    for pair in files.windows(2) {
        let [above, below] = pair else { continue };
        match compare_paths(&above.path, &below.path) {
            Ordering::Less => {}
            Ordering::Equal => return Err(broken(below, "it is there twice")),
            Ordering::Greater => return Err(broken(below, format!("it is out of order after {:?}", above.path))),
        }
        if below.path.strip_prefix(above.path.as_str()).is_some_and(|rest| rest.starts_with('/')) {
            let what = match &above.kind {
                FileKind::Regular(_) => "a regular file",
                FileKind::Symlink { .. } => "a symlink",
                FileKind::Directory => "a directory that is listed as empty",
            };
            return Err(broken(below, format!("its path goes through {:?}, which is {what}", above.path)));
        }
    }
    Ok(())
}

fn check_path(entry: &FileEntry) -> Result<()> {
    at_most("file path", "bytes", entry.path.len(), limits::PATH_BYTES)?;
    if entry.path.contains('\0') {
        return Err(broken(entry, "its path contains a NUL"));
    }
    if entry.path.starts_with('/') {
        return Err(broken(entry, "its path is absolute, it must be relative"));
    }
    match entry.path.split('/').find(|component| matches!(*component, "" | "." | "..")) {
        Some("") => Err(broken(entry, "its path has an empty component")),
        Some(dots) => Err(broken(entry, format!("its path has the component `{dots}`"))),
        None => Ok(()),
    }
}

fn check_target(entry: &FileEntry, target: &str) -> Result<()> {
    at_most("symlink target", "bytes", target.len(), limits::PATH_BYTES)?;
    match target.is_empty() || target.contains('\0') {
        true => Err(broken(entry, "its symlink target is empty or contains a NUL")),
        false => Ok(()),
    }
}

fn chunk_offsets(chunks: &[ChunkRef]) -> Result<Vec<u64>> {
    let mut offsets = Vec::with_capacity(chunks.len() + 1);
    let mut at = 0;
    offsets.push(at);
    for (index, chunk) in chunks.iter().enumerate() {
        if chunk.len == 0 || chunk.len as usize > limits::CHUNK_BYTES {
            let why = format!("it has {} bytes, 1 to {} are allowed", chunk.len, limits::CHUNK_BYTES);
            return Err(RuleError::new(format!("chunk {index}"), why));
        }
        // At most CHUNKS lengths of at most CHUNK_BYTES: far from 64 bits.
        at += u64::from(chunk.len);
        offsets.push(at);
    }
    Ok(offsets)
}

/// Checks a file whose first chunk, if it has any, is `first`; returns the first chunk of the next file.
fn check_regular(entry: &FileEntry, file: &RegularFile, offsets: &[u64], first: usize) -> Result<usize> {
    if let Some(media_type) = &file.media_type {
        at_most("media type", "bytes", media_type.len(), limits::MEDIA_TYPE_BYTES)?;
        if media_type.is_empty() {
            return Err(broken(entry, "its media type is empty, it is left out instead"));
        }
    }
    check_segments(entry, file)?;
    match &file.content {
        Content::Inline(bytes) => check_inline(entry, file, bytes).map(|()| first),
        Content::Chunks if file.len == 0 => Err(broken(entry, "it is empty but not inline")),
        Content::Chunks => {
            let end = offsets[first].checked_add(file.len);
            let next = end.and_then(|end| offsets[first..].binary_search(&end).ok());
            next.map(|chunks| first + chunks).ok_or_else(|| {
                broken(entry, format!("no chunk ends at its {} bytes: the lengths do not add up", file.len))
            })
        }
    }
}

fn check_inline(entry: &FileEntry, file: &RegularFile, bytes: &[u8]) -> Result<()> {
    if bytes.len() >= limits::INLINE_BYTES {
        let why = format!("{} bytes are inline, they must be fewer than {}", bytes.len(), limits::INLINE_BYTES);
        return Err(broken(entry, why));
    }
    if bytes.len() as u64 != file.len {
        return Err(broken(entry, format!("its length is {}, but {} bytes are inline", file.len, bytes.len())));
    }
    match Hash::of(bytes) == file.blob_hash {
        true => Ok(()),
        false => Err(broken(entry, "its inline bytes do not match its blob hash")),
    }
}

fn check_segments(entry: &FileEntry, file: &RegularFile) -> Result<()> {
    let mut last = Span::default();
    for segment in &file.segments {
        let SegmentEntry { name, dtype, shape, span, tensor: _ } = segment;
        at_most("segment name", "bytes", name.len(), limits::SEGMENT_NAME_BYTES)?;
        at_most("element type of a segment", "bytes", dtype.len(), limits::DTYPE_BYTES)?;
        at_most("shape of a segment", "dimensions", shape.len(), limits::SHAPE_DIMENSIONS)?;
        if span.offset.checked_add(span.len).is_none_or(|end| end > file.len) {
            return Err(broken(entry, format!("its segment {name:?} reaches past its {} bytes", file.len)));
        }
        if span.offset < last.end() {
            return Err(broken(entry, format!("its segment {name:?} overlaps the one before, or is out of order")));
        }
        last = *span;
    }
    Ok(())
}

fn check_homes(contents: &Contents) -> Result<()> {
    for (&index, home) in &contents.homes {
        let what = || format!("home of chunk {index}");
        match contents.chunks.get(index as usize) {
            None => return Err(RuleError::new(what(), "there is no such chunk")),
            Some(chunk) if chunk.hash.as_bytes().starts_with(home) => {
                return Err(RuleError::new(what(), "it is the chunk's own hash, it is left out instead"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
