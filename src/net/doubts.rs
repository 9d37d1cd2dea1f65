//! [`Doubts`]: groups that a peer has brought here and that belong to others as far as this node knows. One of the two sees the network as it
//! was, so they are looked into. Pure: it is told the time.
//!
//! Anybody can bring anything: a group that was looked into rests, longer each time that it is brought again soon, and there are only as many as
//! there are groups.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::net::placement::Group;

/// How long a group is left alone that was looked into: at first, and at most. By then what is known of it has to be looked up again anyway.
const REST: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(300));

/// Of one node.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: BTreeSet<Group>,
    /// The one that was looked into last: those behind it are next, and nobody keeps others waiting for ever.
    last: Option<Group>,
    /// When each was looked into, and how long it rests.
    looked: HashMap<Group, (Instant, Duration)>,
}

impl Doubts {
    /// Somebody thinks that `group` belongs here. Says whether that is to be looked into.
    pub(super) fn raise(&mut self, group: Group, now: Instant) -> bool {
        let rests = |(at, rest): &(Instant, Duration)| now.saturating_duration_since(*at) < *rest;
        !self.looked.get(&group).is_some_and(rests) && self.open.insert(group)
    }

    /// The next group to look into.
    pub(super) fn next(&mut self, now: Instant) -> Option<Group> {
        let behind = self.open.iter().find(|group| self.last.is_none_or(|last| **group > last));
        let group = *behind.or_else(|| self.open.first())?;
        self.open.remove(&group);
        self.last = Some(group);
        let (first, longest) = REST;
        let rest = match self.looked.get(&group) {
            Some((at, rest)) if now.saturating_duration_since(*at) < 2 * *rest => (2 * *rest).min(longest),
            _ => first,
        };
        self.looked.insert(group, (now, rest));
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_looked_into_once_in_a_while() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let group = |number| Group::new(number).unwrap();
        assert!(doubts.raise(group(7), start) && !doubts.raise(group(7), start) && doubts.raise(group(3), start));
        assert_eq!(
            (doubts.next(start), doubts.next(start), doubts.next(start)),
            (Some(group(3)), Some(group(7)), None)
        );
        let (rest, longest) = REST;
        assert!(!doubts.raise(group(7), start + rest / 2));
        assert!(doubts.raise(group(3), start + rest) && doubts.raise(group(9), start + rest));
        assert_eq!(doubts.next(start + rest), Some(group(9)), "whoever comes behind the last has its turn");
        while doubts.next(start + rest).is_some() {}
        let (mut now, mut looks) = (start, Vec::new());
        while looks.len() < 8 {
            if doubts.raise(group(5), now) {
                doubts.next(now);
                looks.push((now - start).as_secs());
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(looks, [0, 20, 60, 140, 300, 600, 900, 1200], "less and less often");
        now += 2 * longest;
        assert!(doubts.raise(group(5), now));
        doubts.next(now);
        assert!(doubts.raise(group(5), now + rest), "what was long ago is no reason");
    }
}
