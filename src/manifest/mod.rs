//! The manifest: which files, segments and chunks make up one version of a key.
//!
//! A [`Manifest`] lists a version's files in the order of a directory walk, and below them one column of chunks for all
//! files together: the chunks of the first file, then those of the second, and so on. Nothing in it says how or where a
//! chunk is kept, so compacting or re-encoding a store changes no manifest and no hash of one.
//!
//! Its wire form is deterministic CBOR. `manifests/manifest.cddl` is the norm, `manifests/golden` proves it, and
//! `manifests/reject` holds what must be refused.
//!
//! Invariants, kept by construction and on decoding alike:
//! - a [`Manifest`] obeys every rule of [`Contents`]: paths that cannot leave the directory they are restored to, lengths
//!   that add up, segments that lie inside their file;
//! - one manifest has one encoding, so its hash names its contents.

mod model;
mod rules;
mod wire;

pub use crate::cbor::{DecodeError, RuleError};
pub use crate::meta::{Meta, MetaValue};
pub use model::{Content, Contents, FileEntry, FileKind, Manifest, RegularFile, SegmentEntry};
pub use rules::compare_paths;
pub use wire::MANIFEST_VERSION;
