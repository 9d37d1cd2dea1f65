//! [`Monitor`]: how a caller follows a long operation and stops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// What an operation tells its caller while it runs. All methods may be called from several threads at once.
pub trait Progress: Send + Sync {
    /// The operation will handle about `bytes` payload bytes in all (0: not known).
    fn begin(&self, _what: &str, _bytes: u64) {}
    /// `bytes` more payload bytes are done.
    fn advance(&self, _bytes: u64) {}
    /// Something that deserves a reader's eye but did not stop the operation.
    fn warn(&self, _message: &str) {}
    /// The operation ended, whatever its outcome.
    fn finish(&self) {}
}

/// Progress and cancellation of an operation. Cheap to clone; every clone speaks of the same operation.
#[derive(Clone, Default)]
pub struct Monitor {
    progress: Option<Arc<dyn Progress>>,
    cancelled: Arc<AtomicBool>,
}

impl Monitor {
    /// A monitor that listens to nothing and never cancels.
    pub fn none() -> Monitor {
        Monitor::default()
    }

    /// A monitor that tells `progress` what happens.
    pub fn new(progress: impl Progress + 'static) -> Monitor {
        Monitor { progress: Some(Arc::new(progress)), cancelled: Arc::default() }
    }

    /// Asks the operation to stop: it returns [`Error::Cancelled`] at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fails with [`Error::Cancelled`] once [`cancel`](Monitor::cancel) was called.
    pub fn check(&self) -> Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// True if both speak of the same operation.
    pub fn is(&self, other: &Monitor) -> bool {
        Arc::ptr_eq(&self.cancelled, &other.cancelled)
    }

    /// See [`Progress::begin`].
    pub fn begin(&self, what: &str, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress.begin(what, bytes);
        }
    }

    /// See [`Progress::advance`].
    pub fn advance(&self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress.advance(bytes);
        }
    }

    /// See [`Progress::warn`]. Without a listener the message goes to the log.
    pub fn warn(&self, message: &str) {
        match &self.progress {
            Some(progress) => progress.warn(message),
            None => tracing::warn!("{message}"),
        }
    }

    /// See [`Progress::finish`].
    pub fn finish(&self) {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}
