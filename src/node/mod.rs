//! The facade: a [`Store`], and one file for each thing that it does.
//!
//! This is the only layer that joins the pure ones (`split`, `codec`, `manifest`) with the one that keeps bytes (`store`). The two
//! straight lines run through it:
//!
//! - put: `payload` (what is there) → `put` (one file after another) → `unchanged` (the same as last time?) → `stripe` (read) →
//!   `ingest` (cut, hash, look up, encode, append) → `put` again (manifest) → `commit`;
//! - get: `version` (key to manifest) → `get` (where it goes) → `fetch` (cache, packs, hash check) → `get` again (rename).
//!
//! `online` goes on from there: a `Node` is a store in the network. It serves chunks (`source`), takes them in (`intake`, under `leases`), and
//! adopts versions of others (`adopt`); what it puts reaches its peers, and what it lacks comes from them.

mod adopt;
mod alias;
mod archive;
mod base;
mod blob_hash;
mod commit;
mod compact;
mod config;
mod fetch;
mod get;
mod home;
mod in_place;
mod ingest;
#[cfg(feature = "net")]
mod intake;
mod kin;
mod lease_file;
mod leases;
mod lineage;
mod list;
mod maintain;
#[cfg(feature = "net")]
mod online;
mod packs;
mod partial;
mod payload;
mod pool;
mod put;
mod report;
mod source;
mod store;
mod stripe;
mod threads;
mod unchanged;
mod verify;
mod version;
mod width;

pub use archive::ImportOptions;
pub use compact::CompactOptions;
pub use config::{Config, HttpConfig};
pub use get::{GetOptions, Part};
pub use leases::{Lease, LeasedChunk, Leases};
pub use maintain::GcOptions;
#[cfg(feature = "net")]
pub use online::{Health, Node, NodeOptions, PeerSummary};
#[cfg(feature = "net")]
pub(crate) use online::{Look, Watch};
pub use payload::Payload;
pub use put::{DeltaBase, PutOptions, check_media_type};
pub use report::{
    ArchiveReport, CodecUse, CompactReport, Cost, Damage, DiffEntry, DiffReport, FileSummary, GcReport, GetReport,
    KeySummary, NetPut, PutReport, RefReport, SegmentSummary, ShowReport, StatReport, Timestamp, VerifyReport,
    VersionSummary,
};
pub use store::{Store, StoreOptions};
pub use version::Version;
