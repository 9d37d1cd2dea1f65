//! What a store holds: keys, versions, one version whole, two versions compared, and the totals.

use std::collections::{BTreeMap, HashMap};

use crate::chunk::{Codec, Span};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, Label, VersionRef};
use crate::manifest::{Content, FileKind};
use crate::node::report::{
    CodecUse, Cost, DiffEntry, DiffReport, FileSummary, KeySummary, SegmentSummary, ShowReport, StatReport, Timestamp,
    VersionSummary,
};
use crate::node::store::Store;
use crate::node::version::Version;
use crate::store::{KeyRefs, RecordKind};

impl Store {
    /// The keys whose names start with `prefix`, in order of name.
    pub fn keys(&self, prefix: &str) -> Result<Vec<KeySummary>> {
        let keys = self.inner.chunks.all_refs(prefix)?;
        let summary = |(key, refs): (Key, KeyRefs)| {
            let (latest, entry) = refs.versions.last_key_value()?;
            Some(KeySummary {
                key,
                versions: refs.versions.len() as u64,
                latest: *latest,
                bytes: entry.bytes,
                created: Timestamp(entry.created_unix_ms),
            })
        };
        Ok(keys.into_iter().filter_map(summary).collect())
    }

    /// The versions of `key`, the oldest first.
    pub fn log(&self, key: &Key) -> Result<Vec<VersionSummary>> {
        Ok(summaries(&self.key_refs(key)?))
    }

    /// One version: its files, their tensors, and what each costs and shares with the version before.
    pub fn show(&self, wanted: &VersionRef) -> Result<ShowReport> {
        let version = self.version(wanted)?;
        let refs = self.key_refs(&wanted.key)?;
        let summary = version_summary(&refs, version.number).ok_or_else(|| Error::NotFound {
            what: "version",
            name: version.number.to_string(),
            place: format!("key {}", wanted.key),
            nearest: Vec::new(),
        })?;
        let previous = refs.versions.range(..version.number).next_back();
        let earlier = match previous {
            Some((_, entry)) => chunk_hashes(&self.manifest(&entry.manifest)?.chunks),
            None => HashMap::new(),
        };
        let mut files = Vec::with_capacity(version.manifest.files.len());
        for index in 0..version.manifest.files.len() {
            files.extend(self.file_summary(&version, index, &earlier)?);
        }
        Ok(ShowReport {
            key: version.key.clone(),
            summary,
            manifest_bytes: version.entry.manifest_bytes,
            previous: previous.map(|(number, _)| *number),
            files,
        })
    }

    fn file_summary(
        &self,
        version: &Version,
        index: usize,
        earlier: &HashMap<Hash, u64>,
    ) -> Result<Option<FileSummary>> {
        let Some(entry) = version.manifest.files.get(index) else { return Ok(None) };
        let mut summary = FileSummary {
            path: entry.path.clone(),
            kind: "file",
            bytes: entry.bytes(),
            blob_hash: None,
            target: None,
            media_type: None,
            inline: false,
            segments: Vec::new(),
            cost: Cost::default(),
        };
        match &entry.kind {
            FileKind::Directory => summary.kind = "directory",
            FileKind::Symlink { target } => {
                summary.kind = "symlink";
                summary.target = Some(target.clone());
            }
            FileKind::Regular(file) => {
                summary.blob_hash = Some(file.blob_hash);
                summary.media_type.clone_from(&file.media_type);
                summary.inline = matches!(file.content, Content::Inline(_));
                summary.cost = self.cost(version, index, Span::new(0, file.len), earlier)?;
                for segment in &file.segments {
                    summary.segments.push(SegmentSummary {
                        name: segment.name.clone(),
                        dtype: segment.dtype.clone(),
                        shape: segment.shape.clone(),
                        offset: segment.span.offset,
                        bytes: segment.span.len,
                        cost: self.cost(version, index, segment.span, earlier)?,
                    });
                }
            }
        }
        Ok(Some(summary))
    }

    /// What `span` of a file costs: a chunk that lies in it in part counts by that part.
    fn cost(&self, version: &Version, file: usize, span: Span, earlier: &HashMap<Hash, u64>) -> Result<Cost> {
        let mut cost = Cost::default();
        for (index, covered) in version.manifest.chunks_overlapping(file, span) {
            let (Some(chunk), Some(inside)) = (version.manifest.chunks.get(index), covered.intersection(span)) else {
                continue;
            };
            cost.chunks += 1;
            if earlier.contains_key(&chunk.hash) {
                cost.shared_bytes += inside.len;
            }
            if let Some(entry) = self.inner.chunks.locate(&chunk.hash, RecordKind::Chunk)? {
                cost.stored_bytes += entry.record_len() * inside.len / covered.len.max(1);
                *cost.codecs.entry(entry.codec).or_default() += 1;
                let chain = self.inner.chunks.chain(&chunk.hash)?.unwrap_or_default();
                cost.bases = cost.bases.max(chain.len().saturating_sub(1) as u64);
            }
        }
        Ok(cost)
    }

    /// How version `b` differs from version `a`, tensor by tensor, and file by file where there are no tensors.
    pub fn diff(&self, a: &VersionRef, b: &VersionRef) -> Result<DiffReport> {
        let (a, b) = (self.version(a)?, self.version(b)?);
        let (in_a, in_b) = (Parts::of(&a), Parts::of(&b));
        let (hashes_a, hashes_b) = (chunk_hashes(&a.manifest.chunks), chunk_hashes(&b.manifest.chunks));
        let shared = b.manifest.chunks.iter().filter(|chunk| hashes_a.contains_key(&chunk.hash));
        let mut report = DiffReport {
            a: a.to_string(),
            b: b.to_string(),
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            unchanged: 0,
            bytes_a: a.bytes(),
            bytes_b: b.bytes(),
            shared_bytes: shared.map(|chunk| u64::from(chunk.len)).sum(),
        };
        for (name, part) in &in_b.0 {
            match in_a.0.get(name) {
                None => report.added.push(self.diff_entry(&b, part, name, &hashes_a)?),
                Some(before) if self.same(&a, before, &b, part)? => report.unchanged += 1,
                Some(_) => report.changed.push(self.diff_entry(&b, part, name, &hashes_a)?),
            }
        }
        for (name, part) in in_a.0.iter().filter(|(name, _)| !in_b.0.contains_key(*name)) {
            report.removed.push(self.diff_entry(&a, part, name, &hashes_b)?);
        }
        Ok(report)
    }

    fn diff_entry(
        &self,
        version: &Version,
        part: &ComparedPart,
        (path, tensor): &(String, Option<String>),
        other: &HashMap<Hash, u64>,
    ) -> Result<DiffEntry> {
        let file = version.manifest.files.get(part.file).map_or_else(|| path.clone(), |file| file.path.clone());
        let cost = self.cost(version, part.file, part.span, other)?;
        Ok(DiffEntry { file, tensor: tensor.clone(), bytes: part.span.len, cost })
    }

    /// True if both parts have the same type, shape and bytes. Equal chunks in equal places prove that without reading; where
    /// they are cut otherwise, the bytes are read.
    fn same(&self, a: &Version, in_a: &ComparedPart, b: &Version, in_b: &ComparedPart) -> Result<bool> {
        if in_a.description != in_b.description || in_a.span.len != in_b.span.len {
            return Ok(false);
        }
        let whole = |version: &Version, part: &ComparedPart| {
            let file = version.regular(part.file).ok()?;
            (part.span.len == file.len).then_some(file.blob_hash)
        };
        if let (Some(hash_a), Some(hash_b)) = (whole(a, in_a), whole(b, in_b)) {
            return Ok(hash_a == hash_b);
        }
        let covered = |version: &Version, part: &ComparedPart| -> Vec<(Hash, i128, u64)> {
            let chunks = version.manifest.chunks_overlapping(part.file, part.span);
            let relative = |offset: u64| i128::from(offset) - i128::from(part.span.offset);
            let listed = |(index, span): (usize, Span)| {
                Some((version.manifest.chunks.get(index)?.hash, relative(span.offset), span.len))
            };
            chunks.filter_map(listed).collect()
        };
        if covered(a, in_a) == covered(b, in_b) {
            return Ok(true);
        }
        Ok(part_hash(a, in_a)? == part_hash(b, in_b)?)
    }

    /// Totals of the store, and how it keeps its chunks.
    pub fn stat(&self) -> Result<StatReport> {
        let keys = self.inner.chunks.all_refs("")?;
        let versions = keys.values().flat_map(|refs| refs.versions.values());
        let (count, logical_bytes) = versions.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.bytes));
        let mut codecs: BTreeMap<Codec, CodecUse> = BTreeMap::new();
        let mut chunks = 0;
        self.inner.chunks.for_each_entry(|_, entry| {
            if entry.kind == RecordKind::Chunk {
                chunks += 1;
                let used = codecs.entry(entry.codec).or_default();
                used.chunks += 1;
                used.raw_bytes += u64::from(entry.plain_len);
                used.stored_bytes += entry.record_len();
            }
        })?;
        let usage = self.inner.chunks.disk_usage()?;
        let stored_bytes = usage.pack_bytes + usage.index_bytes;
        Ok(StatReport {
            keys: keys.len() as u64,
            versions: count,
            logical_bytes,
            stored_bytes,
            ratio: if logical_bytes == 0 { 0.0 } else { stored_bytes as f64 / logical_bytes as f64 },
            chunks,
            packs: usage.packs,
            pack_bytes: usage.pack_bytes,
            index_bytes: usage.index_bytes,
            codecs,
            cache: self.inner.cache.stats(),
        })
    }
}

fn chunk_hashes(chunks: &[crate::chunk::ChunkRef]) -> HashMap<Hash, u64> {
    chunks.iter().map(|chunk| (chunk.hash, u64::from(chunk.len))).collect()
}

pub(super) fn labels_of(refs: &KeyRefs, number: u64) -> Vec<Label> {
    refs.labels.iter().filter(|&(_, &labelled)| labelled == number).map(|(label, _)| label.clone()).collect()
}

/// The versions of a key, the oldest first.
pub(super) fn summaries(refs: &KeyRefs) -> Vec<VersionSummary> {
    refs.versions.keys().filter_map(|&number| version_summary(refs, number)).collect()
}

fn version_summary(refs: &KeyRefs, number: u64) -> Option<VersionSummary> {
    let entry = refs.versions.get(&number)?;
    let labels = labels_of(refs, number);
    Some(VersionSummary {
        version: number,
        label: labels.first().cloned(),
        labels,
        manifest: entry.manifest,
        bytes: entry.bytes,
        stored_bytes: entry.stored_bytes,
        chunks: entry.chunks,
        new_chunks: entry.new_chunks,
        created: Timestamp(entry.created_unix_ms),
        expires: entry.expires_unix_ms.map(Timestamp),
        pinned: refs.pins.contains_key(&number),
        meta: entry.meta.clone(),
    })
}

/// The tensors of a version, and its files without tensors.
struct Parts(BTreeMap<(String, Option<String>), ComparedPart>);

/// A tensor or file to compare.
struct ComparedPart {
    file: usize,
    span: Span,
    /// What must be equal beside the bytes: type and shape, or kind and target of a link.
    description: String,
}

impl Parts {
    fn of(version: &Version) -> Parts {
        let mut parts = BTreeMap::new();
        for (file, entry) in version.manifest.files.iter().enumerate() {
            // The only file of a version is the same file whatever it was called.
            let path = if version.manifest.single { String::new() } else { entry.path.clone() };
            let segments = entry.regular().map_or(&[][..], |file| &file.segments);
            for segment in segments {
                let description = format!("{} {:?}", segment.dtype, segment.shape);
                let part = ComparedPart { file, span: segment.span, description };
                parts.insert((path.clone(), Some(segment.name.clone())), part);
            }
            if segments.is_empty() {
                let description = match &entry.kind {
                    FileKind::Regular(_) => "file".to_owned(),
                    FileKind::Directory => "directory".to_owned(),
                    FileKind::Symlink { target } => format!("link to {target}"),
                };
                parts.insert((path, None), ComparedPart { file, span: Span::new(0, entry.bytes()), description });
            }
        }
        Parts(parts)
    }
}

fn part_hash(version: &Version, part: &ComparedPart) -> Result<Hash> {
    struct Hashing(blake3::Hasher);
    impl std::io::Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hashing = Hashing(blake3::Hasher::new());
    let range = part.span.offset..part.span.end();
    let path = version
        .manifest
        .files
        .get(part.file)
        .filter(|_| version.manifest.files.len() > 1)
        .map(|file| file.path.as_str());
    if version.regular(part.file).is_ok() {
        version.copy_range(path, range, &mut hashing, &crate::Monitor::none())?;
    }
    Ok(hashing.0.finalize().into())
}
