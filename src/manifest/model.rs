//! [`Contents`], the plain data of a manifest, and [`Manifest`], contents that obey the rules.
//!
//! Invariant: every index and offset that [`Manifest`] hands out lies inside its own columns.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

use crate::cbor::RuleError;
use crate::chunk::{ChunkRef, Span};
use crate::hash::Hash;
use crate::key::Key;
use crate::manifest::rules::{self, compare_paths};
use crate::meta::Meta;

/// What a manifest says. [`Manifest::new`] checks the rules that are written next to each field.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The key that the version belongs to.
    pub key: Key,
    /// Whether the payload is one file, restored under whatever name is asked for, rather than a directory. Then there is
    /// exactly one entry, a regular file.
    pub single: bool,
    /// The files, sorted by [`compare_paths`], each path once. No entry lies below another, since only directories
    /// without entries are listed: so no path goes through a file or a symlink.
    pub files: Vec<FileEntry>,
    /// The chunks of all files with [`Content::Chunks`], in the order of the files. A chunk belongs to one file.
    pub chunks: Vec<ChunkRef>,
    /// The home of a chunk (by its index), where it is not the first four bytes of its own hash.
    pub homes: BTreeMap<u32, [u8; 4]>,
    /// Hash of the manifest of the version before.
    pub parent: Option<Hash>,
    /// Hash of the manifest whose cut points this version follows.
    pub base: Option<Hash>,
    /// When the version was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The user's metadata.
    pub meta: Meta,
}

/// One entry of a version's file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Components joined by `/`: none is empty, `.` or `..`, none holds a NUL; at most
    /// [`PATH_BYTES`](crate::limits::PATH_BYTES) long.
    ///
    /// Backslashes, colons and letters of any case are allowed, as they are ordinary on Unix. Where they are not, whoever
    /// restores must refuse a component that the system would not take for a single plain name.
    pub path: String,
    /// What is there.
    pub kind: FileKind,
}

impl FileEntry {
    /// The regular file, if it is one.
    pub fn regular(&self) -> Option<&RegularFile> {
        match &self.kind {
            FileKind::Regular(file) => Some(file),
            _ => None,
        }
    }

    /// Bytes of its payload; 0 for anything but a regular file.
    pub fn bytes(&self) -> u64 {
        self.regular().map_or(0, |file| file.len)
    }
}

/// The kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A file with bytes.
    Regular(RegularFile),
    /// A symbolic link.
    Symlink {
        /// What it points at, as it was found: any text without NUL. It may point outside; restoring creates the link and
        /// never follows it.
        target: String,
    },
    /// A directory without entries; all others follow from the paths below them.
    Directory,
}

/// A file with bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegularFile {
    /// Its length in bytes.
    pub len: u64,
    /// BLAKE3 of the whole file.
    pub blob_hash: Hash,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its media type, where the user gave one; not empty.
    pub media_type: Option<String>,
    /// Where its bytes are.
    pub content: Content,
    /// Its named stretches by offset. They do not overlap; gaps are allowed.
    pub segments: Vec<SegmentEntry>,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here: fewer than [`INLINE_BYTES`](crate::limits::INLINE_BYTES). An empty file is always inline.
    Inline(Vec<u8>),
    /// In as many of the manifest's chunks as make up its length; the last one ends where the file does.
    Chunks,
}

/// A named stretch of a file: a tensor, or a member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEntry {
    /// The name that the file gives it.
    pub name: String,
    /// The file format's word for the type of an element; empty where there is none.
    pub dtype: String,
    /// Dimensions, the slowest-varying first; empty for a scalar, or where unknown.
    pub shape: Vec<u64>,
    /// Where it lies in the file.
    pub span: Span,
    /// Whether it holds the elements of a tensor, and not a document next to it.
    pub tensor: bool,
}

/// A manifest that obeys the rules. Its [`Contents`] can be read, not changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    contents: Contents,
    offsets: Offsets,
    pub(super) encoded_bytes: usize,
}

/// Sums over the columns, from which any position is found by binary search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offsets {
    /// Where each chunk starts in the concatenation of all chunked files, and at the end where the last one ends.
    pub(super) chunks: Vec<u64>,
    /// The first chunk of each file, and at the end the number of chunks.
    pub(super) files: Vec<usize>,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

impl Deref for Manifest {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

impl Manifest {
    /// Takes `contents` that obey the rules; the error says which rule they break, and where.
    pub fn new(contents: Contents) -> Result<Manifest, RuleError> {
        let offsets = rules::check(&contents)?;
        let encoded_bytes = rules::check_encoded(&contents)?;
        Ok(Manifest { contents, offsets, encoded_bytes })
    }

    /// The contents, to derive another manifest from.
    pub fn into_contents(self) -> Contents {
        self.contents
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.offsets.bytes
    }

    /// The chunks of the file at `file`, as indexes into `chunks`. Empty for an inline file, for what is no regular file,
    /// and past the last file.
    pub fn file_chunks(&self, file: usize) -> Range<usize> {
        match self.offsets.files.get(file..) {
            Some([first, end, ..]) => *first..*end,
            _ => 0..0,
        }
    }

    /// The chunks of the file at `file` that touch `span` (in that file), each with all of the file that it covers.
    pub fn chunks_overlapping(&self, file: usize, span: Span) -> impl ExactSizeIterator<Item = (usize, Span)> {
        let chunks = self.file_chunks(file);
        let offsets = &self.offsets.chunks;
        let start = offsets[chunks.start];
        let first = chunks.start + offsets[chunks.start..chunks.end].partition_point(|at| at - start <= span.offset);
        let end = chunks.start + offsets[chunks.start..chunks.end].partition_point(|at| at - start < span.end());
        // The first chunk that starts after the offset has the wanted one before it, unless the file has no chunks or
        // ends before the offset.
        let first = match offsets[chunks.end] - start > span.offset && span.len > 0 {
            true => first.saturating_sub(1),
            false => end,
        };
        (first..end).map(move |chunk| (chunk, Span::new(offsets[chunk] - start, offsets[chunk + 1] - offsets[chunk])))
    }

    /// The home of the chunk at `index`: where in the keyspace it belongs. Past the last chunk there is none.
    pub fn home(&self, index: usize) -> Option<[u8; 4]> {
        let own = || self.chunks.get(index).and_then(|chunk| chunk.hash.as_bytes().first_chunk().copied());
        u32::try_from(index).ok().and_then(|index| self.homes.get(&index).copied()).or_else(own)
    }

    /// The file at `path`, with its index.
    pub fn find_file(&self, path: &str) -> Option<(usize, &FileEntry)> {
        let file = self.files.binary_search_by(|entry| compare_paths(&entry.path, path)).ok()?;
        Some((file, &self.files[file]))
    }

    /// All segments with the index of their file, by file and offset.
    pub fn segments(&self) -> impl Iterator<Item = (usize, &SegmentEntry)> {
        let files = self.files.iter().enumerate();
        files.flat_map(|(file, entry)| {
            entry.regular().into_iter().flat_map(move |r| r.segments.iter().map(move |s| (file, s)))
        })
    }

    /// The segments called `name`, with the index of their file. There may be several: a name is unique to its file at best.
    pub fn find_segments<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a SegmentEntry)> {
        self.segments().filter(move |(_, segment)| segment.name == name)
    }
}
