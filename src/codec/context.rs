//! The model of [`Codec::DeltaCtx`](crate::chunk::Codec::DeltaCtx): how large the difference of an element will be, told from its base.
//!
//! One optimiser step moves weights by about the same amount, whatever their value. Counted in steps of the last place that is much for a
//! small number and nothing for a large one, so the exponent of the base element says how large a difference to expect. What a layer,
//! a row or a token's embedding has learnt since is much alike for neighbours, so a scale for every [`BLOCK`] elements says the rest.
//!
//! - A number's **class** is its magnitude to half an octave: 0, 1, 2, 3, 4–5, 6–7, 8–11, 12–15, …; the bits under it are noise.
//! - A **lift** for each value of the base's highest byte (rotated as in `transpose.rs`: the exponent of f32 and bf16) and a **scale** for each
//!   block, both in half classes, add up to the expected class.
//! - Expectations fall into **contexts** at bounds that the writer picks so that all are about equally frequent, each with its own
//!   table of class frequencies.
//!
//! Lifts and scales are means, which the reader is told: nothing adapts while it decodes, so nothing waits for the symbol before.
//!
//! Invariant: any lifts, scales and bounds give a context that has a table.

/// Elements that share a scale.
pub(super) const BLOCK: usize = 128;

/// Most contexts, each with a table in the second-level cache.
pub(super) const MOST_CONTEXTS: usize = 32;

/// Classes of numbers of 32 bits.
pub(super) const MOST_CLASSES: usize = 64;

/// The scale of a block whose differences are all zero: none of them is coded.
pub(super) const ALL_ZERO: u8 = 255;

/// Most that a lift and any other scale can be; both together stay below 255.
pub(super) const MOST_EXPECTED: u8 = 127;

/// The scale of a block that is as its lifts say.
const NEUTRAL_SCALE: i32 = 64;

/// Elements that are worth a context of their own.
const CONTEXT_ELEMENTS: usize = 2048;

/// The class of a number, and how many of its lowest bits the class leaves open.
#[inline(always)]
pub(super) fn class(number: u32) -> (u8, u32) {
    let open = (31 - (number | 2).leading_zeros()) - 1;
    ((2 * open + (number >> open)) as u8, open)
}

/// The smallest number of a class, and how many bits it leaves open: what [`class`] takes apart.
#[inline(always)]
pub(super) fn number(class: u8) -> (u32, u32) {
    let open = (u32::from(class >> 1).max(1) - 1) & 31;
    (u32::from(class).wrapping_sub(2 * open) << open, open)
}

/// What is expected of a chunk's elements.
#[derive(Default)]
pub(super) struct Expectations {
    /// By the highest byte of the base.
    pub(super) lifts: Vec<u8>,
    /// By block.
    pub(super) scales: Vec<u8>,
    /// Where the second and later contexts start.
    pub(super) bounds: Vec<u8>,
}

impl Expectations {
    /// Fits everything to classes and highest bytes, one of each for every element.
    pub(super) fn fit(&mut self, classes: &[u8], highest: &[u8]) {
        self.lifts.resize(256, 0);
        let mut means = [0_i32; 256];
        self.scales.clear();
        self.scales.resize(classes.len().div_ceil(BLOCK), 0);
        // Two rounds: the first lifts do not know the scales.
        for round in 0..2 {
            let (mut sums, mut counts) = ([0_i64; 256], [0_i64; 256]);
            for ((classes, highest), scale) in classes.chunks(BLOCK).zip(highest.chunks(BLOCK)).zip(&self.scales) {
                if *scale == ALL_ZERO || round == 0 && classes.iter().all(|class| *class == 0) {
                    continue;
                }
                let scale = if round == 0 { 0 } else { i64::from(*scale) - i64::from(NEUTRAL_SCALE) };
                for (class, highest) in classes.iter().zip(highest) {
                    sums[usize::from(*highest)] += 2 * i64::from(*class) - scale;
                    counts[usize::from(*highest)] += 1;
                }
            }
            let mut last = 0;
            for (i, mean) in means.iter_mut().enumerate() {
                if counts[i] > 0 {
                    last = ((2 * sums[i] + counts[i]).div_euclid(2 * counts[i])) as i32;
                }
                *mean = last;
            }
            let least = means.iter().copied().min().unwrap_or(0).min(0);
            for (lift, mean) in self.lifts.iter_mut().zip(means) {
                *lift = (mean - least).clamp(0, i32::from(MOST_EXPECTED)) as u8;
            }
            self.scale_blocks(classes, highest);
        }
        self.bound(highest);
    }

    /// The mean of each block over its lifts.
    fn scale_blocks(&mut self, classes: &[u8], highest: &[u8]) {
        for ((classes, highest), scale) in classes.chunks(BLOCK).zip(highest.chunks(BLOCK)).zip(&mut self.scales) {
            if classes.iter().all(|class| *class == 0) {
                *scale = ALL_ZERO;
                continue;
            }
            let over =
                |(class, highest): (&u8, &u8)| 2 * i32::from(*class) - i32::from(self.lifts[usize::from(*highest)]);
            let sum: i32 = classes.iter().zip(highest).map(over).sum();
            let len = classes.len() as i32;
            let mean = (2 * sum + len).div_euclid(2 * len);
            *scale = (mean + NEUTRAL_SCALE).clamp(0, i32::from(MOST_EXPECTED)) as u8;
        }
    }

    /// Puts bounds between the expectations that occur.
    fn bound(&mut self, highest: &[u8]) {
        let mut counts = [0_usize; 256];
        for (highest, scale) in highest.chunks(BLOCK).zip(&self.scales).filter(|(_, scale)| **scale != ALL_ZERO) {
            for highest in highest {
                counts[usize::from(self.lifts[usize::from(*highest)] + scale)] += 1;
            }
        }
        let total: usize = counts.iter().sum();
        let contexts = (total / CONTEXT_ELEMENTS).clamp(1, MOST_CONTEXTS);
        self.bounds.clear();
        let mut before = 0;
        for (expected, count) in counts.iter().enumerate() {
            // A bound where the middle of what is expected equally passes the next equal part.
            let due = (before + count / 2) * contexts / total.max(1);
            if due > self.bounds.len() && before > 0 {
                self.bounds.push(expected as u8);
            }
            before += count;
        }
        self.bounds.truncate(MOST_CONTEXTS - 1);
    }

    /// The context of each sum of a lift and a scale.
    pub(super) fn contexts(&self) -> [u8; 256] {
        let mut contexts = [0; 256];
        for (expected, context) in contexts.iter_mut().enumerate() {
            *context = self.bounds.iter().filter(|bound| usize::from(**bound) <= expected).count() as u8;
        }
        contexts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_class_and_the_bits_that_it_leaves_open() {
        let samples =
            (0..70_000).chain((0..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])).chain([u32::MAX]);
        for sample in samples {
            let (class, open) = class(sample);
            assert!(usize::from(class) < MOST_CLASSES);
            let (least, bits) = number(class);
            assert_eq!((bits, least + (sample & ((1 << open) - 1))), (open, sample));
        }
    }

    #[test]
    fn any_class_byte_is_a_number() {
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8].map(|class| number(class).0), [0, 1, 2, 3, 4, 6, 8, 12, 16]);
        for class in 0..=255 {
            assert!(number(class).1 <= 31);
        }
    }

    #[test]
    fn expectations_follow_exponent_and_block_and_leave_out_what_is_all_zero() {
        let highest: Vec<u8> = (0..1280).map(|i| 120 + (i % 4) as u8).collect();
        let classes: Vec<u8> = (0..1280)
            .map(|i| if i / BLOCK == 3 { 0 } else { 20 - 2 * (i % 4) as u8 + if i / BLOCK == 5 { 6 } else { 0 } })
            .collect();
        let mut expectations = Expectations::default();
        expectations.fit(&classes, &highest);
        assert_eq!(expectations.scales[3], ALL_ZERO);
        assert_eq!(expectations.scales[5], expectations.scales[4] + 12);
        assert_eq!(expectations.lifts[120], expectations.lifts[122] + 8);
    }
}
