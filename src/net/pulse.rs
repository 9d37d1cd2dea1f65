//! [`Pulse`]: since when a peer has said nothing though it could have. Pure: it is told the time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Of one link.
#[derive(Debug)]
pub(crate) struct Pulse(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When it last said something, or had a reason not to.
    last: Instant,
    /// Reasons why its silence says nothing: chunks that it stores, a frame of which this node puts the rest off.
    excuses: u32,
}

impl Pulse {
    pub(crate) fn new(now: Instant) -> Pulse {
        Pulse(Mutex::new(State { last: now, excuses: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a reason for it to be silent, until [`resume`](Pulse::resume).
    pub(crate) fn excuse(&self) {
        self.lock().excuses += 1;
    }

    /// A reason is gone.
    pub(crate) fn resume(&self, now: Instant) {
        let mut state = self.lock();
        state.excuses = state.excuses.saturating_sub(1);
        state.last = now;
    }

    /// Since when it has been silent without a reason: now, if it has one.
    pub(crate) fn silent_since(&self, now: Instant) -> Instant {
        let state = self.lock();
        if state.excuses > 0 { now } else { state.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn silence_counts_from_the_end_of_the_last_reason() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pulse = Pulse::new(start);
        assert_eq!(pulse.silent_since(at(5)), start);
        pulse.excuse();
        pulse.excuse();
        pulse.resume(at(6));
        assert_eq!(pulse.silent_since(at(30)), at(30), "one reason is left");
        pulse.resume(at(31));
        assert_eq!(pulse.silent_since(at(40)), at(31));
    }
}
