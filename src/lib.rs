//! caskad keeps many versions of model checkpoints at the price of what changed, and proves every byte by hash.

pub mod chunk;
pub mod codec;
pub mod error;
pub mod hash;
pub mod limits;
pub mod manifest;
pub mod monitor;
pub mod split;

pub use error::{Error, Result};
pub use hash::Hash;
pub use monitor::{Monitor, Progress};
