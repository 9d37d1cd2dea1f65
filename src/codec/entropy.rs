//! What a stretch of bytes would take, told from a sample and before anything is coded.
//!
//! Invariant: estimates steer a choice between correct encodings, so a bad one costs bytes or time and nothing else.

use std::f32::consts::LN_2;

use super::transpose;

/// Pieces of a sample, spread evenly.
const PIECES: usize = 16;

/// Bytes of a piece. 8 KiB in all place the entropy of 256 symbols within a few hundredths of a bit.
const PIECE_BYTES: usize = 512;

/// How often each byte value occurs.
pub(super) struct Histogram {
    counts: [u32; 256],
}

impl Histogram {
    /// Counts the bytes of `pieces`.
    ///
    /// Equal neighbours would make each count wait for the one before; with four tables they rarely meet.
    pub(super) fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Histogram {
        let mut tables = [[0u32; 256]; 4];
        for piece in pieces {
            let (quads, rest) = piece.as_chunks::<4>();
            for quad in quads {
                for (table, byte) in tables.iter_mut().zip(quad) {
                    table[usize::from(*byte)] += 1;
                }
            }
            for byte in rest {
                tables[0][usize::from(*byte)] += 1;
            }
        }
        let [mut counts, b, c, d] = tables;
        for (i, count) in counts.iter_mut().enumerate() {
            *count += b[i] + c[i] + d[i];
        }
        Histogram { counts }
    }

    /// The count of each byte value.
    pub(super) fn counts(&self) -> &[u32; 256] {
        &self.counts
    }

    /// How often two independent bytes are equal.
    pub(super) fn collisions(&self) -> f32 {
        let total: u32 = self.counts.iter().sum();
        self.counts.iter().map(|&count| (count as f32 / total.max(1) as f32).powi(2)).sum()
    }

    /// Entropy in bits a byte, with the correction of Miller and Madow (1955) for what a small sample has not seen.
    pub(super) fn bits(&self) -> f32 {
        let (mut total, mut distinct, mut sum) = (0, 0, 0.0);
        for count in self.counts.into_iter().filter(|count| *count > 0) {
            total += count;
            distinct += 1;
            sum += count as f32 * (count as f32).log2();
        }
        if total == 0 {
            return 0.0;
        }
        let total = total as f32;
        let correction = (distinct - 1) as f32 / (2.0 * LN_2 * total);
        (total.log2() - sum / total + correction).min(8.0)
    }
}

/// `count` pieces of `bytes`, each `len` long, starting at a multiple of eight and spread evenly; all of `bytes` in one piece if
/// it is no longer than they are.
pub(super) fn pieces(bytes: &[u8], count: usize, len: usize) -> impl Iterator<Item = &[u8]> {
    let whole = bytes.len() <= count * len;
    let (count, len) = if whole { (1, bytes.len()) } else { (count, len) };
    let stride = (bytes.len() - len) / (count - 1).max(1) / 8 * 8;
    (0..count).filter_map(move |i| bytes.get(i * stride..i * stride + len))
}

/// The byte that all of `bytes` equal, if there is one.
pub(super) fn constant(bytes: &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    // Each byte equals its successor: one comparison of two slices, which stops at the first difference.
    (*rest == bytes[..rest.len()]).then_some(*first)
}

/// Sampled entropy of `bytes` in bits a byte.
pub(super) fn bits(bytes: &[u8]) -> f32 {
    Histogram::of(pieces(bytes, PIECES, PIECE_BYTES)).bits()
}

/// Bytes from one word that [`repeats`] looks at to the next.
pub(super) const REPEAT_STRIDE: usize = 16;

/// How much of `bytes` is there twice: the share of sampled words of eight bytes that were seen before.
///
/// Words are sampled by value (one in sixteen of all values), so that copies are found at any distance; a copy whose distance
/// is not a multiple of [`REPEAT_STRIDE`] is not seen. Looking at every second word halves the cost, 3 % of an encoding.
pub(super) fn repeats(bytes: &[u8]) -> f32 {
    const SLOTS: usize = 1024;
    let mut seen = [0; SLOTS];
    let (mut sampled, mut repeated) = (0_u32, 0_u32);
    for stride in bytes.as_chunks::<REPEAT_STRIDE>().0 {
        let [a, b, c, d, e, f, g, h, ..] = *stride;
        let word = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        // Fibonacci hashing: the top bits of the product depend on all of the word.
        let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if hash >> 60 == 0 {
            let slot = &mut seen[(hash >> 50) as usize % SLOTS];
            sampled += 1;
            repeated += u32::from(*slot == word);
            *slot = word;
        }
    }
    repeated as f32 / sampled.max(1) as f32
}

/// Bits a byte that the planes of all of `elements`, `width` bytes each, would take by frequency alone.
pub(super) fn plane_bits(width: usize, elements: &[u8]) -> f32 {
    let mut bits = 0.0;
    for_planes(width, elements, |plane| bits += Histogram::of([plane]).bits());
    bits / width.max(1) as f32
}

/// Whether any plane of `elements`, `width` bytes each, is so regular that matches may pay: its neighbours are equal more often than by
/// chance.
pub(super) fn regular(width: usize, elements: &[u8]) -> bool {
    const MORE_THAN_CHANCE: f32 = 0.05;
    let mut regular = false;
    for_planes(width, elements, |plane| {
        let equal: u32 = plane.iter().zip(plane.get(1..).unwrap_or_default()).map(|(a, b)| u32::from(a == b)).sum();
        regular |= equal as f32 > plane.len() as f32 * (Histogram::of([plane]).collisions() + MORE_THAN_CHANCE);
    });
    regular
}

/// How often a byte differs from the one before.
pub(super) fn changes(bytes: &[u8]) -> f32 {
    let differ = |(a, b): (&[u8], &[u8])| a.iter().zip(b).map(|(a, b)| u8::from(a != b)).sum::<u8>();
    let next = bytes.get(1..).unwrap_or_default();
    // In parts that a byte can count, which are looked at 32 bytes at a time.
    let count: u32 = bytes.chunks(128).zip(next.chunks(128)).map(|pair| u32::from(differ(pair))).sum();
    count as f32 / next.len().max(1) as f32
}

fn for_planes(width: usize, elements: &[u8], look: impl FnMut(&[u8])) {
    let mut planes = vec![0; elements.len()];
    transpose::split(width, elements, &mut planes);
    planes.chunks((elements.len() / width.max(1)).max(1)).for_each(look);
}

/// How much of `bytes` stands in `other` too, wherever: the share of sampled words of eight bytes.
///
/// Words are sampled by value (one in 64 of all values), so that both sides take the same ones at any distance.
pub(super) fn share(bytes: &[u8], other: &[u8]) -> f32 {
    const SLOTS: usize = 1 << 14;
    let mut there = vec![0; SLOTS];
    let sampled = |bytes: &[u8], visit: &mut dyn FnMut(usize, u64)| {
        for word in bytes.windows(8) {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if hash >> 58 == 0 {
                visit((hash >> 44) as usize % SLOTS, word);
            }
        }
    };
    sampled(other, &mut |slot, word| there[slot] = word);
    let (mut count, mut found) = (0_u32, 0_u32);
    sampled(bytes, &mut |slot, word| {
        count += 1;
        found += u32::from(there[slot] == word);
    });
    found as f32 / count.max(1) as f32
}

/// The element width that byte planes serve best, and the bits a byte that its planes would take.
///
/// The eight residues of a sample's positions are counted apart; merged as a width would merge them they give the entropy of
/// its planes. A width over one is taken only for a clear gain, since noise in the estimate favours it.
pub(super) fn probe_width(bytes: &[u8]) -> (usize, f32) {
    const GAIN_BITS: f32 = 0.06;
    let mut counts = [[0_u32; 256]; 8];
    for piece in pieces(bytes, 8, 1024) {
        for octet in piece.as_chunks::<8>().0 {
            for (counts, byte) in counts.iter_mut().zip(octet) {
                counts[usize::from(*byte)] += 1;
            }
        }
    }
    let bits_with = |width: usize| {
        let planes = (0..width).map(|plane| {
            let mut merged = [0; 256];
            for residue in counts.iter().skip(plane).step_by(width) {
                for (sum, count) in merged.iter_mut().zip(residue) {
                    *sum += count;
                }
            }
            Histogram { counts: merged }.bits()
        });
        planes.sum::<f32>() / width as f32
    };
    let mut best = (1, bits_with(1));
    let floor = best.1 - GAIN_BITS;
    for width in [2, 4, 8] {
        let bits = bits_with(width);
        if bits < floor && bits < best.1 - GAIN_BITS / 4.0 {
            best = (width, bits);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn entropy_of_known_distributions() {
        assert_eq!(bits(&[]), 0.0);
        assert_eq!(bits(&[7; 1000]), 0.0);
        assert!((bits(&[0, 1, 2, 3].repeat(5000)) - 2.0).abs() < 0.01);
        assert!(bits(&noise(1 << 16)) > 7.95);
    }

    #[test]
    fn constant_means_every_byte() {
        assert_eq!(constant(&[]), None);
        assert_eq!(constant(&[3]), Some(3));
        assert_eq!(constant(&[3; 999]), Some(3));
        assert_eq!(constant(&[&[3; 999][..], &[4]].concat()), None);
    }

    #[test]
    fn copies_are_seen_at_any_distance_and_noise_has_none() {
        let row = noise(24 << 10);
        assert!(repeats(&row) < 0.01);
        assert!(repeats(&row.repeat(3)) > 0.5);
        assert_eq!(repeats(&[0; 4096]), 1.0);
        assert_eq!(repeats(&[1; 7]), 0.0);
    }

    #[test]
    fn changes_are_those_between_neighbours() {
        assert_eq!(changes(&[]), 0.0);
        assert_eq!(changes(&[3; 1000]), 0.0);
        assert_eq!(changes(&[1, 2].repeat(5000)), 1.0);
        assert_eq!(changes(&[1, 1, 2, 2, 3]), 0.5);
    }

    #[test]
    fn what_stands_elsewhere_is_seen_at_any_distance() {
        let (old, new) = (noise(60_000), noise(90_000)[60_000..].to_vec());
        assert!(share(&new, &old) < 0.02);
        let edited = [&new[..1001], &old[777..40_000], &new[1001..3000]].concat();
        assert!(share(&edited, &old) > 0.8);
        assert_eq!((share(&[], &old), share(&old, &[])), (0.0, 0.0));
    }

    #[test]
    fn the_width_of_counters_is_found_and_noise_and_text_have_none() {
        let counters = |width: usize| -> Vec<u8> {
            noise(40_000).chunks(2).flat_map(|pair| [pair, &[0; 6][..]].concat()[..width].to_vec()).collect()
        };
        assert_eq!(probe_width(&counters(4)).0, 4);
        assert_eq!(probe_width(&counters(8)).0, 8);
        assert_eq!(probe_width(&noise(1 << 18)).0, 1);
        assert_eq!(probe_width("The quick brown fox jumps over the lazy dog. ".repeat(999).as_bytes()).0, 1);
        assert_eq!(probe_width(&[]).0, 1);
    }

    #[test]
    fn pieces_stay_inside_and_are_spread() {
        for len in [0, 1, 7, 8191, 8192, 8193, 100_000] {
            let bytes = vec![0; len];
            let taken: usize = pieces(&bytes, PIECES, PIECE_BYTES).map(<[u8]>::len).sum();
            assert_eq!(taken, len.min(PIECES * PIECE_BYTES));
        }
    }
}
