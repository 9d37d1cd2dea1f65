//! [`Version`]: one version, resolved: its manifest, and reads of any part of it.

use std::io::Write;
use std::ops::Range;

use crate::chunk::Span;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, VersionRef};
use crate::manifest::{Content, FileEntry, FileKind, Manifest, RegularFile, SegmentEntry};
use crate::monitor::Monitor;
use crate::node::fetch::{Piece, Sources, stream};
use crate::node::report::Timestamp;
use crate::node::store::{Store, nearest};
use crate::refs::VersionEntry;

/// A version of a key, open for reading. It stays readable while it is held only as long as it is not removed and collected.
#[derive(Debug, Clone)]
pub struct Version {
    pub(super) store: Store,
    pub(super) key: Key,
    pub(super) number: u64,
    pub(super) entry: VersionEntry,
    pub(super) manifest: Manifest,
}

impl Store {
    /// Opens the version that `wanted` names, and checks its manifest.
    pub fn version(&self, wanted: &VersionRef) -> Result<Version> {
        let wanted = &self.canonical_version(wanted)?;
        let (number, entry) = self.resolve(wanted)?;
        let manifest = self.manifest(&entry.manifest)?;
        Ok(Version { store: self.clone(), key: wanted.key.clone(), number, entry, manifest })
    }
}

impl Version {
    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The version's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// BLAKE3 of the manifest.
    pub fn manifest_hash(&self) -> Hash {
        self.entry.manifest
    }

    /// Files, segments and chunks.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// When it was stored.
    pub fn created(&self) -> Timestamp {
        Timestamp(self.entry.created_unix_ms)
    }

    /// The regular file at `path` (`None`: the only file): its path, and what the manifest says of it.
    pub fn file(&self, path: Option<&str>) -> Result<(&str, &RegularFile)> {
        let index = self.file_index(path)?;
        let path = self.manifest.files.get(index).map_or("", |entry| entry.path.as_str());
        Ok((path, self.regular(index)?))
    }

    /// Payload bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes()
    }

    /// Bytes `range` of the file at `path` (`None`: the only file), verified. An end past the file's is an error.
    pub fn read_range(&self, path: Option<&str>, range: Range<u64>) -> Result<Vec<u8>> {
        let file = self.file_index(path)?;
        let span = self.checked_range(file, &range)?;
        let mut bytes = Vec::new();
        self.copy(file, span, &mut bytes, &Monitor::none())?;
        Ok(bytes)
    }

    /// The tensor called `name`: what the file says of it, and its bytes, verified. Only the chunks that it touches are read.
    pub fn read_tensor(&self, name: &str) -> Result<(SegmentEntry, Vec<u8>)> {
        let (file, segment) = self.find_tensor(None, name)?;
        let mut bytes = Vec::new();
        self.copy(file, segment.span, &mut bytes, &Monitor::none())?;
        Ok((segment.clone(), bytes))
    }

    /// Writes bytes `range` of the file at `path` (`None`: the only file) to `out`, each verified before it is written.
    pub fn copy_range(
        &self,
        path: Option<&str>,
        range: Range<u64>,
        out: &mut dyn Write,
        monitor: &Monitor,
    ) -> Result<()> {
        let file = self.file_index(path)?;
        let span = self.checked_range(file, &range)?;
        self.copy(file, span, out, monitor)
    }

    fn copy(&self, file: usize, span: Span, out: &mut dyn Write, monitor: &Monitor) -> Result<()> {
        self.copy_span(
            file,
            span,
            out,
            &|error| Error::io("write", "the output", error),
            &Sources::default(),
            true,
            monitor,
        )
    }

    /// Writes `span` of a file to `out`.
    #[allow(clippy::too_many_arguments)] // What is read, where it goes, and who is told: no two belong together.
    pub(super) fn copy_span(
        &self,
        file: usize,
        span: Span,
        out: &mut dyn Write,
        write_error: &dyn Fn(std::io::Error) -> Error,
        sources: &Sources,
        keep: bool,
        monitor: &Monitor,
    ) -> Result<()> {
        if let Content::Inline(bytes) = &self.regular(file)?.content {
            let range =
                usize::try_from(span.offset).unwrap_or(usize::MAX)..usize::try_from(span.end()).unwrap_or(usize::MAX);
            out.write_all(bytes.get(range).unwrap_or_default()).map_err(write_error)?;
            monitor.advance(span.len);
            return Ok(());
        }
        let overlapping = self.manifest.chunks_overlapping(file, span);
        let pieces: Vec<Piece> = overlapping
            .filter_map(|(index, covered)| {
                let wanted = covered.intersection(span)?;
                let chunk = *self.manifest.chunks.get(index)?;
                Some(Piece { chunk, wanted: Span::new(wanted.offset - covered.offset, wanted.len) })
            })
            .collect();
        stream(&self.store, &pieces, out, write_error, sources, keep, monitor)
    }

    pub(super) fn regular(&self, file: usize) -> Result<&RegularFile> {
        let entry = self.manifest.files.get(file);
        entry.and_then(FileEntry::regular).ok_or_else(|| self.no_file(entry.map_or("", |entry| &entry.path)))
    }

    /// The file at `path`, or the only one.
    pub(super) fn file_index(&self, path: Option<&str>) -> Result<usize> {
        let Some(path) = path else {
            if self.manifest.files.len() == 1 {
                return Ok(0);
            }
            return Err(Error::Syntax {
                what: "selection",
                input: self.to_string(),
                why: format!("the version has {} files; name one of them with --file", self.manifest.files.len()),
            });
        };
        match self.manifest.find_file(path) {
            Some((index, FileEntry { kind: FileKind::Regular(_), .. })) => Ok(index),
            Some((_, FileEntry { kind: FileKind::Symlink { target }, .. })) => Err(Error::Syntax {
                what: "file",
                input: path.to_owned(),
                why: format!("it is a link to {target:?}; name the file itself"),
            }),
            _ => Err(self.no_file(path)),
        }
    }

    pub(super) fn find_tensor(&self, path: Option<&str>, name: &str) -> Result<(usize, &SegmentEntry)> {
        let only = path.map(|path| self.file_index(Some(path))).transpose()?;
        let mut found = self
            .manifest
            .segments()
            .filter(|(file, segment)| segment.name == name && only.is_none_or(|only| only == *file));
        match (found.next(), found.next()) {
            (Some(first), None) => Ok(first),
            (Some(_), Some(_)) => Err(Error::Syntax {
                what: "tensor",
                input: name.to_owned(),
                why: "several files have a tensor of that name; name the file too, with --file".to_owned(),
            }),
            (None, _) => Err(Error::NotFound {
                what: "tensor",
                name: name.to_owned(),
                place: self.to_string(),
                nearest: nearest(name, self.manifest.segments().map(|(_, segment)| segment.name.as_str())),
            }),
        }
    }

    pub(super) fn checked_range(&self, file: usize, range: &Range<u64>) -> Result<Span> {
        let len = self.regular(file)?.len;
        match range.start <= range.end && range.end <= len {
            true => Ok(Span::new(range.start, range.end - range.start)),
            false => Err(Error::Syntax {
                what: "range",
                input: format!("{}..{}", range.start, range.end),
                why: format!("the file has {len} bytes, so a range lies in 0..{len}"),
            }),
        }
    }

    fn no_file(&self, path: &str) -> Error {
        let (what, name) = ("file", path.to_owned());
        let files =
            || self.manifest.files.iter().filter(|file| file.regular().is_some()).map(|file| file.path.as_str());
        let inside = format!("{}/", path.trim_end_matches('/'));
        let is_directory = |file: &FileEntry| {
            file.path.starts_with(&inside)
                || file.kind == FileKind::Directory && inside.strip_suffix('/') == Some(&file.path)
        };
        if self.manifest.files.iter().any(is_directory) {
            let nearest = files().filter(|file| file.starts_with(&inside)).take(3).map(str::to_owned).collect();
            return Error::NotFound { what, name, place: format!("{self}, where it is a directory"), nearest };
        }
        Error::NotFound { what, name, place: self.to_string(), nearest: nearest(path, files()) }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.key, self.number)
    }
}
