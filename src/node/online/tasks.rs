//! Work that takes long, for those that may not wait: the node's own few threads talk to all peers, and a slow disk would keep each of them
//! waiting.

use crate::error::{Error, Result};
use crate::limits;

/// Does `work` on a thread that may block. One that panics has failed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.unwrap_or_else(|error| Err(unfinished(error)))
}

/// What it means that a task has not come to an end: it panicked, or the node is shutting down.
pub(super) fn unfinished(error: tokio::task::JoinError) -> Error {
    Error::io("finish", "a task of the node", std::io::Error::other(error))
}

/// Does `work` over `bytes` here; where they are many, others go on meanwhile.
pub(super) fn over<T>(bytes: &[u8], work: impl FnOnce(&[u8]) -> T) -> T {
    match bytes.len() > limits::CHUNK_BYTES {
        true => tokio::task::block_in_place(|| work(bytes)),
        false => work(bytes),
    }
}
