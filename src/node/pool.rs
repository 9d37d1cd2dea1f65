//! What is expensive to make, and kept for its next use.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::codec::{Effort, Encoder};
use crate::node::store::Store;

/// Things that wait for their next use, up to `N` of them.
pub(super) struct Pool<T, const N: usize>(Mutex<Vec<T>>);

impl<T, const N: usize> Default for Pool<T, N> {
    fn default() -> Self {
        Pool(Mutex::default())
    }
}

impl<T, const N: usize> std::fmt::Debug for Pool<T, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} of {N})", self.kept().len())
    }
}

impl<T, const N: usize> Pool<T, N> {
    fn kept(&self) -> MutexGuard<'_, Vec<T>> {
        // Added to and taken from whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that waits, or else a new one.
    fn take(&self, make: impl FnOnce() -> T) -> T {
        let waiting = self.kept().pop();
        waiting.unwrap_or_else(make)
    }

    /// Keeps `thing` for its next use, if there is room.
    fn give(&self, thing: T) {
        let mut kept = self.kept();
        if kept.len() < N {
            kept.push(thing);
        }
    }

    /// Runs `act` with one that waits, or else a new one.
    pub(super) fn with<R>(&self, make: impl FnOnce() -> T, act: impl FnOnce(&mut T) -> R) -> R {
        let mut thing = self.take(make);
        let done = act(&mut thing);
        self.give(thing);
        done
    }
}

impl Store {
    /// Runs `act` with an encoder for `effort`. Those of the default effort are kept: the others are for long work.
    pub(super) fn with_encoder<R>(&self, effort: Effort, act: impl FnOnce(&mut Encoder) -> R) -> R {
        match effort {
            Effort::Default => self.inner.encoders.with(|| Encoder::new(effort), act),
            Effort::Fast | Effort::Compact => act(&mut Encoder::new(effort)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;

    #[test]
    fn what_was_given_is_taken_again_and_no_more_is_kept_than_fits() {
        let pool: Pool<u8, 2> = Pool::default();
        assert_eq!(pool.take(|| 7), 7);
        for thing in 0..5 {
            pool.give(thing);
        }
        assert_eq!((pool.take(|| 9), pool.take(|| 9), pool.take(|| 9)), (1, 0, 9));
        assert_eq!(pool.with(|| 3, |thing| *thing + 1), 4);
        assert_eq!(pool.take(|| 9), 3);
    }
}
