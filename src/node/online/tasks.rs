//! Work that takes long, for those that may not wait: the node's own few threads talk to all peers, and a slow disk would keep each of them
//! waiting.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits;
use crate::monitor::Monitor;

/// How soon it is noticed that a caller asks to stop.
const NOTICED: Duration = Duration::from_millis(50);

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

/// Comes to an end when `monitor` asks to stop.
pub(super) async fn cancelled(monitor: &Monitor) -> Error {
    loop {
        if let Err(error) = monitor.check() {
            return error;
        }
        tokio::time::sleep(NOTICED).await;
    }
}

/// Does `work` until it is done or `monitor` asks to stop: peers that do not answer are waited for in vain for many seconds. Then it is dropped
/// where it is, so nothing may depend on its end.
pub(super) async fn cancellable<T>(monitor: &Monitor, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        error = cancelled(monitor) => Err(error),
    }
}
