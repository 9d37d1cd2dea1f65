//! [`Streams`]: which reads of an object follow each other, and what to fetch before it is asked for.

/// Reads of one object that are told apart: a version and its base, by two threads each.
const STREAMS: usize = 4;

/// How far behind the furthest read of a stream another may be, and how far in front: threads overtake each other.
const BEHIND_BYTES: u64 = 8 << 20;
const BEFORE_BYTES: u64 = 2 << 20;

/// How far ahead is fetched.
pub(super) const AHEAD_BYTES: u64 = 8 << 20;

/// Blocks that have to follow each other before anything is fetched ahead.
const STREAK: u32 = 2;

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where the furthest block ends that was read.
    furthest: u64,
    /// How often that went on.
    streak: u32,
    /// Where what was fetched ahead ends.
    fetched: u64,
    /// When it was last read.
    tick: u64,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: [Stream; STREAMS],
    tick: u64,
}

impl Streams {
    /// Notes that the block from `start` to `end` is read. If reads go on one behind the other, and little is there that was fetched
    /// ahead: where to fetch from. `reach` says how far one request gets from there.
    pub(super) fn note(&mut self, start: u64, end: u64, reach: impl FnOnce(u64) -> u64) -> Option<u64> {
        self.tick += 1;
        let near =
            |stream: &&mut Stream| start <= stream.furthest + BEFORE_BYTES && stream.furthest <= end + BEHIND_BYTES;
        let Some(stream) = self.streams.iter_mut().filter(|stream| stream.tick > 0).find(near) else {
            if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.tick) {
                *oldest = Stream { furthest: end, streak: 0, fetched: end, tick: self.tick };
            }
            return None;
        };
        stream.tick = self.tick;
        if end > stream.furthest {
            stream.furthest = end;
            stream.streak += 1;
        }
        if stream.streak < STREAK || stream.fetched >= stream.furthest + AHEAD_BYTES {
            return None;
        }
        let from = stream.fetched.max(stream.furthest);
        stream.fetched = reach(from);
        (stream.fetched > from).then_some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 1 << 20;

    #[test]
    fn reads_that_follow_each_other_are_fetched_ahead_and_others_are_not() {
        let mut streams = Streams::default();
        let mut note = |block: u64| streams.note(block * BLOCK, (block + 1) * BLOCK, |from| from + AHEAD_BYTES);
        assert_eq!([note(5), note(6)], [None, None]);
        assert_eq!(note(7), Some(8 * BLOCK));
        assert_eq!([note(7), note(6)], [None, None], "once is enough, and those who come late do no harm");
        assert_eq!(note(8), Some(16 * BLOCK), "there are always a few megabytes at hand");
        assert_eq!([note(100), note(40), note(300), note(77)], [None; 4]);
        let mut streams = Streams::default();
        let mut note =
            |block: u64| streams.note(block * BLOCK, (block + 1) * BLOCK, |from| from + AHEAD_BYTES).is_some();
        let found: Vec<bool> = [0, 1000, 1, 1001, 2, 1002].map(&mut note).to_vec();
        assert_eq!(found, [false, false, false, false, true, true], "two at a time");
    }
}
