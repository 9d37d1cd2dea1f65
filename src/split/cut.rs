//! Cut points inside one run of bytes: at fixed lengths in tensors, by FastCDC v2020 (normalization level 1, no seed) in everything else.
//!
//! Invariant: where the next cut falls depends only on the bytes after the last cut, on the sizes, and on where the run ends. So a
//! cutter has no memory, and whoever starts at a cut of the serial cutter finds all of its later cuts.

use fastcdc::v2020::{self, MASKS};

use crate::error::{Error, Result};
use crate::limits::CHUNK_BYTES;

/// Smallest, average and largest chunk of a run, and the alignment of the cuts inside it. All in bytes.
///
/// They are part of what makes two versions share chunks: a payload cut with other sizes shares next to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CutSizes {
    min: usize,
    average: usize,
    max: usize,
    align: usize,
}

impl CutSizes {
    /// For tensors of a recognised format: a cut every 256 KiB, and a last chunk of at most 320 KiB.
    ///
    /// Weights change in place, a little in every element. Cuts that follow the content would fall elsewhere after each step of
    /// training; at fixed lengths, each chunk of a tensor faces the same elements in every version, which is what a delta needs, and
    /// one tensor has the same chunks wherever it appears.
    pub const TENSOR: CutSizes = CutSizes { min: 256 << 10, average: 256 << 10, max: 320 << 10, align: 256 << 10 };

    /// For everything else. Cuts are not aligned: one byte inserted would else move every later cut against its content.
    pub const OPAQUE: CutSizes = CutSizes { min: 16 << 10, average: 64 << 10, max: 256 << 10, align: 1 };

    /// A cut every `len` bytes, but none where the run ends within `last` bytes: for tests and measurements. `len` is a multiple of 8,
    /// `last` is between that and [`CHUNK_BYTES`].
    pub fn fixed(len: usize, last: usize) -> Result<CutSizes> {
        if len == 0 || !len.is_multiple_of(8) || last < len || last > CHUNK_BYTES {
            let why = "the length is a multiple of 8, the last one between it and 1 MiB".to_owned();
            return Err(Error::Syntax { what: "cut sizes", input: format!("{len}/{last}"), why });
        }
        Ok(CutSizes { min: len, average: len, max: last, align: len })
    }

    /// Sizes of one's own for content-defined cuts, for tests and measurements.
    ///
    /// `fastcdc` checks its sizes in debug builds only, hence the rules here: 64 ≤ min ≤ average ≤ max ≤ [`CHUNK_BYTES`], average
    /// a power of two of at least 256 (it selects the masks, and no rounding of a logarithm may decide a format), max at
    /// least 1024, align 1, 2, 4 or 8, and min and max even and multiples of it, so that rounding down never leaves
    /// their range.
    pub fn new(min: usize, average: usize, max: usize, align: usize) -> Result<CutSizes> {
        let refuse = |why: &str| {
            let input = format!("{min}/{average}/{max} aligned to {align}");
            Err(Error::Syntax { what: "cut sizes", input, why: why.to_owned() })
        };
        if !matches!(align, 1 | 2 | 4 | 8) {
            return refuse("the alignment is 1, 2, 4 or 8");
        }
        if !(64 <= min && min <= average && average <= max && max <= CHUNK_BYTES) {
            return refuse("64 <= min <= average <= max <= 1 MiB");
        }
        if !average.is_power_of_two() || average < v2020::AVERAGE_MIN || max < v2020::MAXIMUM_MIN {
            return refuse("the average is a power of two from 256, the maximum at least 1024");
        }
        if !min.is_multiple_of(align.max(2)) || !max.is_multiple_of(align.max(2)) {
            return refuse("min and max are even, and multiples of the alignment");
        }
        Ok(CutSizes { min, average, max, align })
    }

    /// Shortest chunk, but for the last one of a run.
    pub const fn min(&self) -> usize {
        self.min
    }

    /// Length that chunks of random content come close to.
    pub const fn average(&self) -> usize {
        self.average
    }

    /// Longest chunk.
    pub const fn max(&self) -> usize {
        self.max
    }

    /// Every cut but a run's end is at a multiple of this from the run's start.
    pub const fn align(&self) -> usize {
        self.align
    }

    /// Whether cuts ignore the content.
    const fn is_fixed(&self) -> bool {
        self.align == self.average
    }

    /// The length of every chunk of constant content, but for the last one of a run.
    pub(super) const fn constant_step(&self) -> usize {
        if self.is_fixed() { self.average } else { self.max }
    }

    /// The length of the chunk that starts at `bytes`, which begin at a cut.
    ///
    /// `reaches_end` says that `bytes` stop where the run does. `None` when there are no bytes, or when more of the run is needed
    /// to decide: [`max`](CutSizes::max) bytes are always enough.
    pub fn next_cut(&self, bytes: &[u8], reaches_end: bool) -> Option<usize> {
        if bytes.is_empty() || (bytes.len() < self.max && !reaches_end) {
            return None;
        }
        if self.is_fixed() {
            return Some(if bytes.len() <= self.max && reaches_end { bytes.len() } else { self.average });
        }
        let bits = self.average.ilog2() as usize;
        let (strict, relaxed) = (MASKS[bits + 1], MASKS[bits - 1]);
        let (_, cut) = v2020::cut(bytes, self.min, self.average, self.max, strict, relaxed, strict << 1, relaxed << 1);
        Some(if cut == bytes.len() { cut } else { cut - cut % self.align })
    }
}

/// The cut points of one run, as ends of its chunks counted from the run's start: what every faster way must reproduce.
pub fn cut_run(bytes: &[u8], sizes: &CutSizes) -> Vec<usize> {
    let mut cuts = Vec::new();
    let mut at = 0;
    while let Some(len) = sizes.next_cut(&bytes[at..], true) {
        at += len;
        cuts.push(at);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"cut").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn sizes_that_fastcdc_would_only_debug_assert_are_refused() {
        assert!(CutSizes::new(64 << 10, 256 << 10, 1 << 20, 8).is_ok());
        assert!(CutSizes::new(16 << 10, 64 << 10, 256 << 10, 1).is_ok_and(|sizes| sizes == CutSizes::OPAQUE));
        for (min, average, max, align) in [
            (0, 256, 1024, 1),
            (62, 256, 1024, 1),
            (64, 128, 1024, 1),
            (64, 300, 1024, 1),
            (64, 256, 512, 1),
            (512, 256, 1024, 1),
            (64, 2048, 1024, 1),
            (64, 256, 2 << 20, 1),
            (65, 256, 1024, 1),
            (66, 256, 1024, 4),
            (64, 256, 1028, 8),
            (64, 256, 1024, 3),
            (64, 256, 1024, 0),
        ] {
            assert!(CutSizes::new(min, average, max, align).is_err(), "{min}/{average}/{max} {align}");
        }
    }

    #[test]
    fn unaligned_cuts_are_those_of_the_crate() {
        let bytes = noise(3 << 20);
        for (min, average, max) in [(64, 256, 1024), (2048, 4096, 65536), (16 << 10, 64 << 10, 256 << 10)] {
            let theirs: Vec<usize> =
                v2020::FastCDC::with_level(&bytes, min, average, max, v2020::Normalization::Level1)
                    .map(|chunk| chunk.offset + chunk.length)
                    .collect();
            let sizes = CutSizes::new(min, average, max, 1).unwrap();
            assert_eq!(cut_run(&bytes, &sizes), theirs);
        }
    }

    #[test]
    fn lengths_stay_in_range_and_cuts_aligned() {
        let bytes = noise((1 << 20) + 13);
        let sizes = CutSizes::new(64, 256, 1024, 8).unwrap();
        let cuts = cut_run(&bytes, &sizes);
        let mut start = 0;
        for &end in &cuts {
            let len = end - start;
            assert!(len <= 1024 && (len >= 64 || end == bytes.len()), "{start}..{end}");
            assert!(end % 8 == 0 || end == bytes.len());
            start = end;
        }
        assert_eq!(start, bytes.len());
    }

    #[test]
    fn tensors_are_cut_at_fixed_lengths_and_their_last_chunk_is_no_crumb() {
        const KIB: usize = 1 << 10;
        let bytes = noise(900 * KIB);
        for (len, cuts) in [
            (0, vec![]),
            (1, vec![1]),
            (320 * KIB, vec![320 * KIB]),
            (320 * KIB + 1, vec![256 * KIB, 320 * KIB + 1]),
            (900 * KIB, vec![256 * KIB, 512 * KIB, 768 * KIB, 900 * KIB]),
            (832 * KIB, vec![256 * KIB, 512 * KIB, 832 * KIB]),
        ] {
            assert_eq!(cut_run(&bytes[..len], &CutSizes::TENSOR), cuts, "{len}");
        }
        assert_eq!(CutSizes::TENSOR.next_cut(&bytes[..320 * KIB - 1], false), None);
        assert_eq!(CutSizes::TENSOR.next_cut(&bytes[..320 * KIB], false), Some(256 * KIB));
    }

    #[test]
    fn a_window_that_is_too_short_is_never_guessed_at() {
        let bytes = noise(4096);
        let sizes = CutSizes::new(64, 256, 1024, 8).unwrap();
        assert_eq!(sizes.next_cut(&[], true), None);
        assert_eq!(sizes.next_cut(&bytes[..1023], false), None);
        let cut = sizes.next_cut(&bytes[..1024], false);
        assert!(cut.is_some());
        assert_eq!(cut, sizes.next_cut(&bytes, false));
        assert_eq!(cut, sizes.next_cut(&bytes, true));
    }
}
