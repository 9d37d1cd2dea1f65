//! [`Window`]: the stretch of a contribution that is in memory.
//!
//! Invariant: a window never grows past its capacity, and its block is what was loaded last. Tensors that are small and lie one after
//! another are read together, since a read of a version costs more than its bytes.

use crate::error::{Error, Result};

use super::contribution::Contribution;

pub(super) struct Window<'c> {
    source: &'c dyn Contribution,
    capacity: usize,
    buffer: Vec<u8>,
    /// Where the buffer lies in the source.
    start: u64,
    /// Where the block lies in the buffer.
    at: usize,
    len: usize,
}

impl<'c> Window<'c> {
    pub(super) fn new(source: &'c dyn Contribution, capacity: usize) -> Window<'c> {
        Window { source, capacity, buffer: Vec::new(), start: 0, at: 0, len: 0 }
    }

    pub(super) fn source(&self) -> &'c dyn Contribution {
        self.source
    }

    /// Makes the `len` bytes at `offset` the block. `ahead`: those behind them are likely to be wanted next.
    pub(super) fn load(&mut self, offset: u64, len: usize, ahead: bool) -> Result<()> {
        let inside = |at: usize| at.checked_add(len).is_some_and(|end| end <= self.buffer.len());
        let held = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok()).filter(|at| inside(*at));
        if let Some(at) = held {
            (self.at, self.len) = (at, len);
            return Ok(());
        }
        if len > self.capacity {
            let (found, limit) = (len as u64, self.capacity as u64);
            return Err(Error::Limit { what: "length of a block in bytes", found, limit });
        }
        // Where tensors are not in the order in which they are wanted, what lies behind one would be read in vain.
        let follows = self.start.checked_add((self.at + self.len) as u64) == Some(offset);
        let rest = usize::try_from(self.source.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let take = if ahead && follows { self.capacity.min(rest).max(len) } else { len };
        (self.at, self.len) = (0, 0);
        self.buffer.resize(take, 0);
        if let Err(error) = self.source.read_at(offset, &mut self.buffer) {
            self.buffer.clear();
            return Err(error);
        }
        (self.start, self.len) = (offset, len);
        Ok(())
    }

    pub(super) fn block(&self) -> &[u8] {
        self.buffer.get(self.at..self.at + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Bytes that count up, and the reads that were made of them.
    struct Counting(Mutex<Vec<(u64, usize)>>);

    impl Contribution for Counting {
        fn name(&self) -> &str {
            "counting"
        }

        fn len(&self) -> u64 {
            200
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.0.lock().unwrap().push((offset, buffer.len()));
            (offset..).zip(buffer).for_each(|(at, byte)| *byte = at as u8);
            Ok(())
        }
    }

    #[test]
    fn blocks_that_follow_are_read_together_and_others_alone() {
        let source = Counting(Mutex::default());
        let mut window = Window::new(&source, 64);
        for (offset, len, ahead) in [
            (8, 8, true),
            (16, 8, true),
            (24, 56, true),
            (80, 64, false),
            (144, 8, true),
            (152, 48, true),
            (8, 4, true),
        ] {
            window.load(offset, len, ahead).unwrap();
            assert!(window.block().iter().copied().eq((offset..).take(len).map(|at| at as u8)));
        }
        assert!(window.load(0, 65, false).is_err());
        let reads = source.0.into_inner().unwrap();
        assert_eq!(reads, [(8, 8), (16, 64), (80, 64), (144, 56), (8, 4)]);
    }
}
