//! [`LookAround`]: when a node looks for its neighbours. Soon after somebody new has come, for others may have come at the same time, and then
//! less and less often. Pure: it is told the time.
//!
//! Kademlia looks once, half a second after it has met a peer. Whoever cannot be reached at that moment, or is not known yet to those that are
//! asked, would be a stranger until the routing table is refreshed.

use std::time::{Duration, Instant};

/// From when somebody has come until the first look.
const FIRST: Duration = Duration::from_secs(2);

/// Of one node.
#[derive(Debug)]
pub(super) struct LookAround {
    pause: Duration,
    longest: Duration,
    next: Instant,
}

impl LookAround {
    /// Two looks are never farther apart than `longest`.
    pub(super) fn new(longest: Duration, now: Instant) -> LookAround {
        let pause = FIRST.min(longest);
        LookAround { pause, longest, next: now + pause }
    }

    /// When it is time for a look.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Somebody new has come. However many come, it is looked for them.
    pub(super) fn came(&mut self, now: Instant) {
        let next = self.next;
        *self = LookAround::new(self.longest, now);
        self.next = self.next.min(next);
    }

    /// The node looks.
    pub(super) fn looked(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(self.longest);
        self.next = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When, in seconds after `start`, a node looks in the next `seconds`.
    fn looks(around: &mut LookAround, start: Instant, seconds: u64) -> Vec<u64> {
        let mut looks = Vec::new();
        while around.next() <= start + Duration::from_secs(seconds) {
            let now = around.next();
            looks.push((now - start).as_secs());
            around.looked(now);
        }
        looks
    }

    #[test]
    fn a_node_looks_less_and_less_often_until_somebody_comes() {
        let start = Instant::now();
        let mut around = LookAround::new(Duration::from_secs(20), start);
        assert_eq!(looks(&mut around, start, 70), [2, 6, 14, 30, 50, 70]);
        let later = start + Duration::from_secs(75);
        around.came(later);
        assert_eq!(looks(&mut around, later, 10), [2, 6]);
        for second in 10..14 {
            around.came(later + Duration::from_secs(second));
        }
        assert_eq!(looks(&mut around, later, 15), [12], "they put it off no further");
    }

    #[test]
    fn a_short_refresh_is_kept() {
        let start = Instant::now();
        let mut around = LookAround::new(Duration::from_secs(1), start);
        assert_eq!(looks(&mut around, start, 3), [1, 2, 3]);
    }
}
