//! [`Doubts`]: groups that a peer has brought here and that belong to others as far as this node knows. One of the two sees the network as it
//! was, so they are looked into. Pure: it is told the time.
//!
//! Anybody can bring anything: a group that was looked into rests, and there are only as many as there are groups.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::net::placement::Group;

/// How long a group is left alone that was looked into.
const REST: Duration = Duration::from_secs(20);

/// Of one node.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: BTreeSet<Group>,
    /// The one that was looked into last: those behind it are next, and nobody keeps others waiting for ever.
    last: Option<Group>,
    looked: HashMap<Group, Instant>,
}

impl Doubts {
    /// Somebody thinks that `group` belongs here. Says whether that is to be looked into.
    pub(super) fn raise(&mut self, group: Group, now: Instant) -> bool {
        let rests = self.looked.get(&group).is_some_and(|at| now.saturating_duration_since(*at) < REST);
        !rests && self.open.insert(group)
    }

    /// The next group to look into.
    pub(super) fn next(&mut self, now: Instant) -> Option<Group> {
        let behind = self.open.iter().find(|group| self.last.is_none_or(|last| **group > last));
        let group = *behind.or_else(|| self.open.first())?;
        self.open.remove(&group);
        self.last = Some(group);
        self.looked.insert(group, now);
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
        assert!(!doubts.raise(group(7), start + REST / 2));
        assert!(doubts.raise(group(3), start + REST) && doubts.raise(group(9), start + REST));
        assert_eq!(doubts.next(start + REST), Some(group(9)), "whoever comes behind the last has its turn");
    }
}
