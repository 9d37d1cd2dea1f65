//! caskad keeps many versions of model checkpoints at the price of what changed, and proves every byte by hash.
//!
//! A payload (a checkpoint, a directory of shards, any bytes) is split at its tensors, at fixed lengths inside them, and at
//! content-defined cut points everywhere else. Every chunk is named by the BLAKE3 hash of its plain bytes, kept once in its smallest
//! encoding, and appended to crash-safe packs. A version of a key is a manifest that lists chunks; two versions share the chunks that
//! they have in common, and a chunk that changed a little is kept as its difference to the one that it faces in an earlier version.
//!
//! ```
//! use caskad::{GetOptions, Monitor, Payload, PutOptions, Store};
//!
//! # let dir = tempfile::tempdir()?;
//! # let checkpoint = dir.path().join("model.safetensors");
//! # std::fs::write(&checkpoint, vec![7; 100_000])?;
//! let store = Store::open(dir.path().join("store"))?;
//! let none = Monitor::none();
//!
//! // put: a file becomes the next version of a key; a label can name it.
//! let put = store.put(&"runs/a@best".parse()?, Payload::path(&checkpoint), &PutOptions::default(), &none)?;
//! println!("version {} added {} bytes", put.version, put.stored_bytes);
//!
//! // get: every chunk is verified before it is written, and the file appears only when it is whole.
//! store.get(&"runs/a@best".parse()?, dir.path().join("restored"), &GetOptions::default(), &none)?;
//! assert_eq!(std::fs::read(dir.path().join("restored"))?, std::fs::read(&checkpoint)?);
//!
//! // verify: every stored byte is read and hashed again.
//! assert!(store.verify_all(&none)?.ok);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The house
//!
//! | layer | modules | what it knows |
//! |---|---|---|
//! | 0 | [`error`] [`hash`] [`limits`] [`monitor`] [`identity`] | nothing of ours but errors |
//! | 1 | [`chunk`] [`key`] [`refs`] | plain data and names |
//! | 2 | [`split`] [`codec`] | pure: bytes in, cut points or encodings out |
//! | 3 | [`manifest`]; [`backend`] | neither sees the other |
//! | 4 | [`store`] [`cache`] | packs, index, recovery, garbage collection; manifests are opaque bytes here |
//! | 5 | [`net`] | placement, records, the exchange with peers; never sees the store |
//! | 6 | [`node`] | the facade that joins them: [`Store`], with one file for each verb, and `Node`, a store in the network |
//! | 7 | `http` | the window of a node: blobs, JSON, metrics, a dashboard |
//! | 7 | [`gradient`] | publishes, collects and folds the contributions of a round of training |
//! | 8 | the `caskad` command | this crate's public API only |
//!
//! A module imports only from the rows above it (`tests/layering.rs`). Start reading at [`node`]: put and get are its two straight
//! lines. `docs/encodings.md` explains how chunks are kept small, `docs/format.md` describes every byte on disk, `docs/protocol.md` every byte
//! that travels.
//!
//! # Promises
//!
//! - **Durable**: a put that returned is on disk, and found again after `kill -9` (`tests/crash`).
//! - **Proven**: no byte is handed out that does not match its chunk's hash (`tests/damage`).
//! - **Bounded**: memory follows [`Config`], not the payload; every length that is read is checked against [`limits`].
//!
//! # Features
//!
//! `net` (default) brings the network, on libp2p; `http` (default) its window; `remote` (default) packs in S3 and Redis, on OpenDAL; `cli` (default) builds the `caskad` command,
//! and needs them all. A library user who wants a store on one machine turns them off with `default-features = false`.

pub mod backend;
pub mod cache;
mod cbor;
pub mod chunk;
pub mod codec;
pub mod error;
pub mod gradient;
pub mod hash;
#[cfg(feature = "http")]
pub mod http;
pub mod identity;
pub mod key;
pub mod limits;
pub mod manifest;
mod meta;
pub mod monitor;
pub mod net;
pub mod node;
pub mod refs;
pub mod size;
pub mod split;
pub mod store;

pub use error::{Error, Result};
pub use hash::Hash;
pub use identity::{Identity, ScopeKey};
pub use key::{Key, Label, PutName, Scope, VersionRef, VersionSpec};
pub use monitor::{Monitor, Progress};
pub use node::*;
