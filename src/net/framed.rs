//! Frames over a stream: read whole, written whole, never more in memory than the budget allows, never faster than the cap.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;
use crate::net::wire::{self, FRAME_HEADER_BYTES, Frame, WireError};

/// Bytes of a reader's buffer that are kept for its next frame. Filled again, it costs neither zeroes nor the system's pages.
const SCRATCH_BYTES: usize = 256 << 10;

/// Why a stream came to its end before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The connection is gone.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other side does not keep to the protocol.
    #[error("it does not keep to the protocol: {0}")]
    Wire(#[from] WireError),
    /// Nothing came for too long.
    #[error("it did not answer for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The peer has said nothing at all for so long, though it had something to answer.
    #[error("it has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// It refused.
    #[error("it refused: {1} ({0:?})")]
    Refused(wire::Refused, String),
    /// It answered something else than what was asked.
    #[error("it gave an answer that does not fit the question")]
    Unfitting,
}

/// One part in so many of a budget is the most that one peer has of it.
const SHARES: usize = 4;

/// A budget of bytes for what travels, or one peer's share of it.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    total: usize,
    bytes: Arc<Semaphore>,
    /// Who waits for his own share takes nothing of others' meanwhile.
    share: Option<Arc<Semaphore>>,
}

/// Room that was taken from a budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: OwnedSemaphorePermit,
    share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Budget {
        let total = bytes.min(Semaphore::MAX_PERMITS);
        Budget { total, bytes: Arc::new(Semaphore::new(total)), share: None }
    }

    /// The same budget for one peer, who gets no more than a share of it at once: two frames at least.
    pub(crate) fn share(&self) -> Budget {
        let share = (self.total / SHARES).max(2 * limits::FRAME_BYTES).min(self.total);
        Budget { share: Some(Arc::new(Semaphore::new(share))), ..self.clone() }
    }

    /// Room for `bytes`, if there is.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let take = |from: &Arc<Semaphore>| Arc::clone(from).try_acquire_many_owned(bytes).ok();
        let share = match &self.share {
            Some(share) => Some(take(share)?),
            None => None,
        };
        Some(Room { bytes: take(&self.bytes)?, share })
    }

    /// Waits for room for `bytes`.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let share = match &self.share {
            Some(share) => Some(Arc::clone(share).acquire_many_owned(bytes).await.ok()?),
            None => None,
        };
        Some(Room { bytes: Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?, share })
    }
}

impl Room {
    /// Takes room for `bytes` out of this, if it is for as many.
    pub(crate) fn split(&mut self, bytes: usize) -> Option<Room> {
        let share = match &mut self.share {
            Some(share) => Some(share.split(bytes)?),
            None => None,
        };
        Some(Room { bytes: self.bytes.split(bytes)?, share })
    }
}

/// A cap on bytes a second, shared by all streams of one direction.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    bytes_per_second: u64,
    /// When the next byte may go.
    free: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A cap; 0 for none.
    pub(crate) fn new(bytes_per_second: u64) -> Throttle {
        Throttle { bytes_per_second, free: Mutex::default() }
    }

    /// Waits until `bytes` more may go.
    pub(crate) async fn take(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let wait = {
            // Held for this computation only, never across an await.
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = free.filter(|free| *free > now).unwrap_or(now);
            *free = Some(from + cost);
            from - now
        };
        tokio::time::sleep(wait).await;
    }
}

/// A frame that was read, and the room that it takes.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) frame: Frame,
    pub(crate) bytes: usize,
    pub(crate) room: Option<Room>,
}

/// Reads the next frame, by way of `scratch`; `None` where the stream ends between two. Nothing is allocated before there is room in the budget.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    scratch: &mut Vec<u8>,
    budget: &Budget,
    throttle: &Throttle,
    stall: Duration,
) -> Result<Option<Received>, StreamError> {
    match read_header(stream, stall).await? {
        Some(header) => read_fields(stream, header, scratch, budget, throttle, stall).await.map(Some),
        None => Ok(None),
    }
}

/// Reads how long the next frame is, and of what kind; `None` where the stream ends.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    stall: Duration,
) -> Result<Option<(usize, u8)>, StreamError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    match stream.read(&mut header).await? {
        0 => return Ok(None),
        n => within(stall, stream.read_exact(header.get_mut(n..).unwrap_or_default())).await?,
    }
    Ok(Some(wire::decode_header(header)?))
}

/// Reads the rest of a frame, when there is room for it and the cap allows.
pub(crate) async fn read_fields(
    stream: &mut (impl AsyncRead + Unpin),
    (len, kind): (usize, u8),
    scratch: &mut Vec<u8>,
    budget: &Budget,
    throttle: &Throttle,
    stall: Duration,
) -> Result<Received, StreamError> {
    let room = budget.take(len).await;
    throttle.take(len).await;
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    let fields = scratch.get_mut(..len).unwrap_or_default();
    within(stall, stream.read_exact(fields)).await?;
    let frame = Frame::decode(kind, fields)?;
    if scratch.len() > SCRATCH_BYTES {
        *scratch = Vec::new();
    }
    Ok(Received { frame, bytes: len + FRAME_HEADER_BYTES, room })
}

/// Runs `io`, for `stall` at most.
pub(crate) async fn within<T>(stall: Duration, io: impl Future<Output = io::Result<T>>) -> Result<T, StreamError> {
    match tokio::time::timeout(stall, io).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StreamError::Stalled(stall)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_used_up_a_share_leaves_room_for_others() {
        let all = Budget::new(16 * limits::FRAME_BYTES);
        let (one, other) = (all.share(), all.share());
        let held: Vec<Room> = std::iter::from_fn(|| one.try_take(limits::FRAME_BYTES)).collect();
        assert_eq!(held.len(), 16 / SHARES);
        // Waiting for more of one's own takes nothing of anybody else's.
        let mut waiting = Box::pin(one.take(limits::FRAME_BYTES));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert!(other.try_take(2 * limits::FRAME_BYTES).is_some() && all.try_take(12 * limits::FRAME_BYTES).is_some());
        drop(held);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn room_is_given_back_in_parts() {
        let all = Budget::new(limits::FRAME_BYTES);
        let share = all.share();
        let mut room = share.try_take(limits::FRAME_BYTES).unwrap();
        let part = room.split(1000).unwrap();
        drop(room);
        assert!(share.try_take(limits::FRAME_BYTES).is_none());
        drop(part);
        assert!(share.try_take(limits::FRAME_BYTES).is_some());
    }
}
