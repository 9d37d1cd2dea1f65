//! What operations answer. The fields are the ones that `--json` prints.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::cache::CacheStats;
use crate::chunk::Codec;
use crate::hash::Hash;
use crate::key::{Key, Label};
use crate::refs::Meta;

/// A moment, in milliseconds since 1970; printed as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment.
    pub fn now() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(self.0));
        // Beyond the year 9999 there is no RFC 3339 text.
        match time.filter(|_| self.0 < 253_402_300_800_000) {
            Some(time) => write!(f, "{}", humantime::format_rfc3339_seconds(time)),
            None => write!(f, "{} ms since 1970", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a put stored.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PutReport {
    /// The key.
    pub key: Key,
    /// The number that the version got.
    pub version: u64,
    /// The label that it got, if one was asked for.
    pub label: Option<Label>,
    /// BLAKE3 of the manifest.
    pub manifest: Hash,
    /// Files, links and empty directories in the version.
    pub files: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Chunks that the manifest lists.
    pub chunks: u64,
    /// Chunks that the store did not have before.
    pub new_chunks: u64,
    /// How many of those are kept as differences to another chunk.
    pub delta_chunks: u64,
    /// Bytes that the packs grew by.
    pub stored_bytes: u64,
    /// What the network did, where there is one.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetPut>,
    /// Wall time.
    pub seconds: f64,
}

/// What a put did in the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetPut {
    /// The fewest peers, this one included, that keep one of the chunks.
    pub replicas: u64,
    /// Lookups that it took to find them.
    pub lookups: u64,
    /// Encoded bytes of the chunks that were sent.
    pub sent_bytes: u64,
}

/// What a get restored.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct GetReport {
    /// The key.
    pub key: Key,
    /// The version's number.
    pub version: u64,
    /// BLAKE3 of its manifest.
    pub manifest: Hash,
    /// Payload bytes restored.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// How much of that it took until all that was not here had come from peers, verified and stored.
    pub fetch_seconds: f64,
    /// Chunks that were in memory.
    pub from_cache: u64,
    /// Chunks that were read from packs.
    pub from_store: u64,
    /// Chunks that an interrupted get had restored, and that were verified where they lay.
    pub resumed: u64,
    /// Chunks that came from peers.
    pub from_peers: u64,
    /// How many of those came as differences to chunks that were here.
    pub peer_deltas: u64,
    /// Lookups in the network.
    pub lookups: u64,
    /// Bytes received from peers, of chunks and all that is said about them.
    pub received_bytes: u64,
}

/// Something that a verification found damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Damage {
    /// `chunk`, `manifest`, `pack`, `index`, `config`, `ref` or `file` (with `--against`).
    pub what: &'static str,
    /// The key whose version it touches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// That version's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The file in that version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The tensors that the damaged bytes belong to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<String>,
    /// Where in the file the damaged bytes start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// The damaged chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Hash>,
    /// What does not match, and where.
    pub why: String,
}

/// What a verification saw.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// True when nothing is damaged.
    pub ok: bool,
    /// Versions that were looked at.
    pub versions: u64,
    /// Chunks that were read and hashed.
    pub chunks: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// What is damaged.
    pub damaged: Vec<Damage>,
}

/// A key, as `ls` lists it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct KeySummary {
    /// The key.
    pub key: Key,
    /// Number of versions.
    pub versions: u64,
    /// The newest version's number.
    pub latest: u64,
    /// Payload bytes of the newest version.
    pub bytes: u64,
    /// When the newest version was stored.
    pub created: Timestamp,
}

/// A version, as `log` lists it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VersionSummary {
    /// Its number.
    pub version: u64,
    /// The first of its labels, in order of name.
    pub label: Option<Label>,
    /// All of its labels.
    pub labels: Vec<Label>,
    /// BLAKE3 of its manifest.
    pub manifest: Hash,
    /// Payload bytes.
    pub bytes: u64,
    /// Bytes that it added to the packs when it was stored.
    pub stored_bytes: u64,
    /// Chunks that its manifest lists.
    pub chunks: u64,
    /// Chunks that it added.
    pub new_chunks: u64,
    /// When it was stored.
    pub created: Timestamp,
    /// When it may be collected.
    pub expires: Option<Timestamp>,
    /// True while it is protected from removal and expiry.
    pub pinned: bool,
    /// The user's metadata.
    pub meta: Meta,
}

/// Chunks and bytes of one encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CodecUse {
    /// Chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub raw_bytes: u64,
    /// Their bytes in the packs, record headers included.
    pub stored_bytes: u64,
}

/// What the chunks of a stretch of payload cost, and what they share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Chunks that overlap it.
    pub chunks: u64,
    /// Its share of their bytes in the packs. A chunk that several versions use is counted in each.
    pub stored_bytes: u64,
    /// Plain bytes whose chunks the version that it is compared with has too.
    pub shared_bytes: u64,
    /// Its chunks by encoding.
    pub codecs: BTreeMap<Codec, u64>,
    /// Bases to decode before its deepest chunk can be; 0 where every chunk stands alone.
    pub bases: u64,
}

/// A tensor or other named stretch, as `show` lists it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SegmentSummary {
    /// Its name.
    pub name: String,
    /// Its element type, in the words of its format.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What it costs.
    #[serde(flatten)]
    pub cost: Cost,
}

/// A file of a version, as `show` lists it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FileSummary {
    /// Its path inside the version.
    pub path: String,
    /// `file`, `symlink` or `directory`.
    pub kind: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// What `b3sum` prints for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob_hash: Option<Hash>,
    /// Where a link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Its media type, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// True for a payload that the manifest itself carries.
    pub inline: bool,
    /// Its tensors.
    pub segments: Vec<SegmentSummary>,
    /// What it costs.
    #[serde(flatten)]
    pub cost: Cost,
}

/// A version, whole.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ShowReport {
    /// The key.
    pub key: Key,
    /// What `log` tells of it.
    #[serde(flatten)]
    pub summary: VersionSummary,
    /// The manifest's own bytes.
    pub manifest_bytes: u64,
    /// The version before it in the key that still exists.
    pub previous: Option<u64>,
    /// Its files.
    pub files: Vec<FileSummary>,
}

/// A tensor or file that two versions have in common or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiffEntry {
    /// The file.
    pub file: String,
    /// The tensor; absent for a file without tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Its bytes; in the second version, unless it is only in the first.
    pub bytes: u64,
    /// How it is kept in that version, and what of it the other version has too.
    #[serde(flatten)]
    pub cost: Cost,
}

/// How two versions differ.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DiffReport {
    /// The first version: key and number.
    pub a: String,
    /// The second.
    pub b: String,
    /// Only in the second.
    pub added: Vec<DiffEntry>,
    /// Only in the first.
    pub removed: Vec<DiffEntry>,
    /// In both, with other bytes, type or shape.
    pub changed: Vec<DiffEntry>,
    /// Number of tensors and files that are the same in both.
    pub unchanged: u64,
    /// Payload bytes of the first version.
    pub bytes_a: u64,
    /// Payload bytes of the second.
    pub bytes_b: u64,
    /// Bytes of the second whose chunks the first has too.
    pub shared_bytes: u64,
}

/// What a garbage collection did, or with a dry run would do.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct GcReport {
    /// True if nothing was changed.
    pub dry_run: bool,
    /// Versions whose time was up.
    pub expired_versions: u64,
    /// Chunks and manifests that no version reaches.
    pub removed_chunks: u64,
    /// Bytes that the packs shrank by.
    pub reclaimed_bytes: u64,
    /// Bytes of the packs afterwards.
    pub kept_bytes: u64,
    /// Packs with something to reclaim that were left as they are, since there was too little room to copy what of them is needed.
    pub left_packs: u64,
    /// Wall time.
    pub seconds: f64,
}

/// What a compaction came to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CompactReport {
    /// The key.
    pub key: Key,
    /// Its versions.
    pub versions: u64,
    /// Different chunks that they list.
    pub chunks: u64,
    /// How many of those were encoded anew.
    pub replaced_chunks: u64,
    /// Bytes of the chunks in the packs before, record headers included.
    pub bytes_before: u64,
    /// The same afterwards.
    pub bytes_after: u64,
    /// Bytes that the packs shrank by when what had become dead was collected.
    pub reclaimed_bytes: u64,
    /// Bytes of the packs afterwards.
    pub kept_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// What a store holds.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StatReport {
    /// Keys with at least one version.
    pub keys: u64,
    /// Versions.
    pub versions: u64,
    /// Payload bytes of all versions together.
    pub logical_bytes: u64,
    /// Bytes of packs and index on disk.
    pub stored_bytes: u64,
    /// Stored bytes per logical byte.
    pub ratio: f64,
    /// Different chunks.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of the packs.
    pub pack_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Chunks by encoding.
    pub codecs: BTreeMap<Codec, CodecUse>,
    /// The hot-chunk cache of this process.
    pub cache: CacheStats,
}

/// A version that was removed, pinned or labelled.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RefReport {
    /// The key.
    pub key: Key,
    /// The version's number.
    pub version: u64,
    /// Its labels, after the operation.
    pub labels: Vec<Label>,
    /// True if it is pinned, after the operation.
    pub pinned: bool,
}

/// What an export wrote or an import read.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ArchiveReport {
    /// The key.
    pub key: Key,
    /// The version's number in this store.
    pub version: u64,
    /// BLAKE3 of its manifest.
    pub manifest: Hash,
    /// Payload bytes.
    pub bytes: u64,
    /// Chunks in the archive.
    pub chunks: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}
