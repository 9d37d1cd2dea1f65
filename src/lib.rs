//! caskad keeps many versions of model checkpoints at the price of what changed, and proves every byte by hash.

pub mod backend;
pub mod cache;
mod cbor;
pub mod chunk;
pub mod codec;
pub mod error;
pub mod hash;
pub mod key;
pub mod limits;
pub mod manifest;
mod meta;
pub mod monitor;
pub mod node;
pub mod refs;
pub mod split;
pub mod store;

pub use error::{Error, Result};
pub use hash::Hash;
pub use key::{Key, Label, PutName, VersionRef, VersionSpec};
pub use monitor::{Monitor, Progress};
pub use node::*;
