//! A plane of difference bytes by their frequencies: static rANS of order 0, with one table for all of the plane.
//!
//! Differences of close versions are mostly zero, so a byte takes far less than the one bit that is the least of a Huffman code, and what
//! repeats in them repeats by chance: matches take nearly twice the entropy, and most of the time of reading. `rans.rs` says what
//! rANS is. Here nothing depends on a context, so states are wide enough (64 bits, at least 2^31) for two bytes between two words of 32 bits:
//! two steps of frequencies *f* and *g* in 2^12 are one of frequency *f* · *g* in 2^24, for 2^24 divides 2^31.
//!
//! Byte map, numbers little-endian; *n* is the length of the plane, a turn is eight bytes:
//!
//! | bytes | what |
//! |---|---|
//! | … | frequencies of byte values 0, 1, 2, … until they add up to 4096: 1 to 127 as one byte; from 128 as two, 128 + ⌊*f* / 256⌋ and *f* mod 256; 0 as a zero and the number of values without one that follow |
//! | 32 | the four states |
//! | … | the words, 4 bytes each |
//! | *n* mod 8 | the bytes after the last whole turn, as they are |
//!
//! In a turn state *j* gives bytes 2*j* and 2*j* + 1, and then takes a word if it is below 2^31, the lower states first. A reader that consumed
//! all words finds all states at 2^31.
//!
//! Invariant: a table holds every slot, so no stream can lead a reader astray, and reading allocates nothing that depends on the
//! stored bytes.

use multiversion::multiversion;

use super::CodecError;
use super::entropy::Histogram;

/// Frequencies add up to 2 to this power: a table of 16 KiB stays in the first-level cache.
const SLOT_BITS: u32 = 12;

/// Slots of a table.
const SLOTS: usize = 1 << SLOT_BITS;

/// States that take turns: more do not fit into registers, and take twice the time.
const STATES: usize = 4;

/// Bytes of a turn.
const TURN_BYTES: usize = 2 * STATES;

/// States are at least this between two turns.
const LEAST_STATE: u64 = 1 << 31;

/// A state passes its 63 bits with two bytes from the product of their frequencies, shifted by this, upwards.
const PASSES_SHIFT: u32 = 63 - 2 * SLOT_BITS;

/// Bytes of the states.
const STATE_BYTES: usize = 8 * STATES;

/// A frequency from here on takes two bytes.
const LONG: u16 = 128;

/// What a writer knows of a byte value.
#[derive(Clone, Copy, Default)]
struct Symbol {
    /// ⌈2^(63 + ⌈log2 *f*⌉) / *f*⌉: a division by the frequency *f* is a product with it (R. Alverson, *Integer division using reciprocals*, 1991).
    reciprocal: u64,
    /// What the shift of that product is over 64.
    shift: u32,
    frequency: u32,
    /// The first slot, less what the reciprocal of 1 lacks.
    bias: u32,
}

impl Symbol {
    fn new(frequency: u16, first: u32) -> Symbol {
        let wide = u64::from(frequency);
        match frequency {
            0 => Symbol::default(),
            // 2^64 has no room: 2^64 - 1 gives a quotient that is one less.
            1 => Symbol { reciprocal: u64::MAX, shift: 0, frequency: 1, bias: first + SLOTS as u32 - 1 },
            _ => {
                let shift = u16::BITS - (frequency - 1).leading_zeros();
                let reciprocal = (1_u128 << (shift + 63)).div_ceil(u128::from(wide)) as u64;
                Symbol { reciprocal, shift: shift - 1, frequency: frequency.into(), bias: first }
            }
        }
    }

    /// The state after this symbol, which is ⌊*x* / *f*⌋ · 2^12 + first + *x* mod *f*. States are below 2^63.
    #[inline(always)]
    fn put(&self, state: u64) -> u64 {
        let quotient = ((u128::from(state) * u128::from(self.reciprocal)) >> 64) as u64 >> self.shift;
        state + u64::from(self.bias) + quotient * (SLOTS as u64 - u64::from(self.frequency))
    }
}

/// Writes planes.
pub(super) struct RansWriter {
    symbols: [Symbol; 256],
    /// Last first.
    words: Vec<u32>,
}

impl RansWriter {
    pub(super) fn new() -> RansWriter {
        RansWriter { symbols: [Symbol::default(); 256], words: Vec::new() }
    }

    /// Appends `plane`, whose bytes `histogram` counts, to `out` and returns how long it became there; `None` for a constant plane, which has no table.
    pub(super) fn append(&mut self, plane: &[u8], histogram: &Histogram, out: &mut Vec<u8>) -> Option<usize> {
        let frequencies = frequencies(histogram.counts())?;
        let start = out.len();
        append_table(&frequencies, out);
        let mut first = 0;
        for (symbol, frequency) in self.symbols.iter_mut().zip(frequencies) {
            *symbol = Symbol::new(frequency, first);
            first += u32::from(frequency);
        }
        let (turns, rest) = plane.as_chunks();
        // Growing only: what is there is overwritten.
        if self.words.len() < turns.len() * STATES {
            self.words.resize(turns.len() * STATES, 0);
        }
        let mut states = [LEAST_STATE; STATES];
        let used = put_turns(&self.symbols, turns, &mut states, &mut self.words);
        out.extend(states.iter().flat_map(|state| state.to_le_bytes()));
        out.extend(self.words[..used].iter().rev().flat_map(|word| word.to_le_bytes()));
        out.extend_from_slice(rest);
        Some(out.len() - start)
    }
}

/// Codes `turns`, from the last to the first. Returns how many words that left.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn put_turns(
    symbols: &[Symbol; 256],
    turns: &[[u8; TURN_BYTES]],
    states: &mut [u64; STATES],
    words: &mut [u32],
) -> usize {
    let (mut at, mut next) = (*states, 0);
    for turn in turns.iter().rev() {
        for (state, pair) in at.iter_mut().zip(turn.as_chunks::<2>().0).rev() {
            let [a, b] = pair.map(|byte| &symbols[usize::from(byte)]);
            let passes = *state >= u64::from(a.frequency * b.frequency) << PASSES_SHIFT;
            // Written in any case and kept if it counts: a branch would go either way at random.
            words[next] = *state as u32;
            next += usize::from(passes);
            let shorter = *state >> 32;
            *state = a.put(b.put(if passes { shorter } else { *state }));
        }
    }
    *states = at;
    next
}

/// Frequencies in proportion to `counts`, at least one slot for what occurs; `None` if that is not two values at least.
fn frequencies(counts: &[u32; 256]) -> Option<[u16; 256]> {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    if counts.iter().filter(|count| **count > 0).count() < 2 {
        return None;
    }
    let mut frequencies = counts.map(|count| match count {
        0 => 0,
        _ => ((u64::from(count) * SLOTS as u64 + total / 2) / total).max(1) as u16,
    });
    let mut sum: usize = frequencies.iter().map(|frequency| usize::from(*frequency)).sum();
    // What rounding gave too much or too little, to the most frequent; never more than half of it, which all that follow can bear.
    while sum != SLOTS {
        let most = frequencies.iter_mut().max()?;
        let next = match SLOTS.checked_sub(sum) {
            Some(missing) => *most + missing as u16,
            None => *most - ((sum - SLOTS) as u16).min(*most / 2),
        };
        sum = sum - usize::from(*most) + usize::from(next);
        *most = next;
    }
    Some(frequencies)
}

/// Appends the frequencies, up to the last that is not 0.
fn append_table(frequencies: &[u16; 256], out: &mut Vec<u8>) {
    let mut left = &frequencies[..];
    let mut sum = 0;
    while let Some((frequency, rest)) = left.split_first()
        && sum < SLOTS
    {
        left = rest;
        sum += usize::from(*frequency);
        match *frequency {
            0 => {
                let more = rest.iter().take_while(|frequency| **frequency == 0).count();
                out.extend_from_slice(&[0, more as u8]);
                left = &rest[more..];
            }
            1..LONG => out.push(*frequency as u8),
            LONG.. => out.extend_from_slice(&[0x80 | (frequency >> 8) as u8, *frequency as u8]),
        }
    }
}

/// Reads planes.
pub(super) struct RansReader {
    /// A slot holds the byte value (8 bits), the slot's distance from the value's first (12) and the value's frequency (12), highest since
    /// the product with it is waited for.
    table: Box<[u32; SLOTS]>,
}

impl RansReader {
    pub(super) fn new() -> RansReader {
        RansReader { table: Box::new([0; SLOTS]) }
    }

    /// Decodes the plane that `stored` holds into `plane`, which it must fill.
    pub(super) fn read(&mut self, stored: &[u8], plane: &mut [u8]) -> Result<(), CodecError> {
        let stored = self.fill(stored)?;
        let (head, stored) = stored.split_first_chunk::<STATE_BYTES>().ok_or(CodecError::Truncated)?;
        let (turns, rest) = plane.as_chunks_mut();
        let words = stored.len().checked_sub(rest.len()).ok_or(CodecError::Truncated)?;
        let (words, last) = stored.split_at(words);
        let (words, []) = words.as_chunks() else {
            return Err(CodecError::Invalid("a part of a word in a plane"));
        };
        let mut states = [0; STATES];
        for (state, bytes) in states.iter_mut().zip(head.as_chunks().0) {
            *state = u64::from_le_bytes(*bytes);
        }
        let used = read_turns(&self.table, words, &mut states, turns);
        if used != words.len() || states != [LEAST_STATE; STATES] {
            return Err(CodecError::Invalid("the words of a plane do not end with it"));
        }
        rest.copy_from_slice(last);
        Ok(())
    }

    /// Fills the table by the frequencies that `stored` begins with. Returns what follows them.
    fn fill<'a>(&mut self, mut stored: &'a [u8]) -> Result<&'a [u8], CodecError> {
        let (mut value, mut at) = (0_usize, 0_usize);
        while at < SLOTS {
            let (&first, rest) = stored.split_first().ok_or(CodecError::Truncated)?;
            stored = rest;
            if u16::from(first) < LONG && first != 0 {
                at = self.fill_value(value, first.into(), at)?;
                value += 1;
                continue;
            }
            let (&second, rest) = stored.split_first().ok_or(CodecError::Truncated)?;
            stored = rest;
            if first == 0 {
                value += 1 + usize::from(second);
                continue;
            }
            let frequency = usize::from(first & 0x7f) << 8 | usize::from(second);
            if frequency < usize::from(LONG) {
                return Err(CodecError::Invalid("a frequency that is longer than it need be"));
            }
            at = self.fill_value(value, frequency, at)?;
            value += 1;
        }
        Ok(stored)
    }

    /// Fills the slots of `value`, from slot `at` on. Returns the slot behind them.
    fn fill_value(&mut self, value: usize, frequency: usize, at: usize) -> Result<usize, CodecError> {
        let end = at + frequency;
        // A value with all slots is a constant plane, and 4096 does not fit into a slot.
        let slots = if frequency < SLOTS { self.table.get_mut(at..end) } else { None };
        let (Some(slots), 0..256) = (slots, value) else {
            return Err(CodecError::Invalid("the frequencies of a plane do not add up"));
        };
        for (distance, slot) in slots.iter_mut().enumerate() {
            *slot = (value | distance << 8 | frequency << 20) as u32;
        }
        Ok(end)
    }
}

/// Reads all turns. Returns how many words that took; behind the last word are zeros.
// Without AVX2: four states in one register cost more to take apart than the arithmetic saves.
#[multiversion(targets("x86_64+bmi1+bmi2"))]
fn read_turns(
    table: &[u32; SLOTS],
    words: &[[u8; 4]],
    states: &mut [u64; STATES],
    turns: &mut [[u8; TURN_BYTES]],
) -> usize {
    let (mut at, mut next) = (*states, 0);
    for turn in turns {
        // As many words as a turn can use, so that the end is looked for once a turn.
        let rest = words.get(next..).unwrap_or_default();
        let mut last = [[0; 4]; STATES];
        let ahead = match rest.first_chunk() {
            Some(ahead) => ahead,
            None => {
                last.iter_mut().zip(rest).for_each(|(last, word)| *last = *word);
                &last
            }
        };
        let mut used = 0;
        for (state, pair) in at.iter_mut().zip(turn.as_chunks_mut::<2>().0) {
            for byte in pair {
                let slot = table[*state as usize % SLOTS];
                *byte = slot as u8;
                // At most 4095 · (2^52 - 1) + 4095: there is room for that.
                *state = u64::from(slot >> 20) * (*state >> SLOT_BITS) + u64::from(slot >> 8 & 0xfff);
            }
            // Mixed in without a branch, which would go either way at random.
            let longer = *state << 32 | u64::from(u32::from_le_bytes(ahead[used % STATES]));
            let short = *state < LEAST_STATE;
            *state = if short { longer } else { *state };
            used += usize::from(short);
        }
        next += used;
    }
    *states = at;
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are the rarer the larger: half of them 0, a quarter 1, and so on, or `skew` times as rare.
    fn plane(len: usize, skew: u32) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 32) as u32).trailing_zeros() / skew
        };
        (0..len).map(|_| next() as u8).collect()
    }

    fn coded(plane: &[u8]) -> Vec<u8> {
        let mut out = vec![0xee; 3];
        let len = RansWriter::new().append(plane, &Histogram::of([plane]), &mut out).unwrap();
        assert_eq!(len, out.len() - 3);
        out.split_off(3)
    }

    fn decoded(stored: &[u8], len: usize) -> Result<Vec<u8>, CodecError> {
        let mut out = vec![0xdd; len];
        RansReader::new().read(stored, &mut out).map(|()| out)
    }

    #[test]
    fn planes_come_back_whatever_their_length_and_take_about_their_entropy() {
        for (skew, bits) in [(1, 2.0), (2, 1.082), (5, 0.207)] {
            for len in (64..110).chain([1000, 100_001]) {
                let mut plane = plane(len, skew);
                plane[0] = 200;
                let stored = coded(&plane);
                assert!(decoded(&stored, len).unwrap() == plane, "{len} bytes");
                let most = len as f32 * bits * 1.03 / 8.0 + 140.0;
                assert!((stored.len() as f32) < most, "{} bytes for {len} of {bits} bits", stored.len());
            }
        }
    }

    #[test]
    fn planes_of_any_values_come_back() {
        let all: Vec<u8> = (0..5000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        let ramp: Vec<u8> = (0..=255).collect();
        let sparse: Vec<u8> = (0..70_000_u32).map(|i| if i % 9973 == 9 { 255 } else { 17 }).collect();
        for plane in [&all[..], &ramp, &sparse, &[0, 255], &[255, 0, 0], &[[1; 40], [2; 40]].concat()] {
            assert!(decoded(&coded(plane), plane.len()).unwrap() == plane);
        }
        for constant in [&[][..], &[5], &[5; 100]] {
            assert_eq!(RansWriter::new().append(constant, &Histogram::of([constant]), &mut Vec::new()), None);
        }
    }

    #[test]
    fn a_division_by_a_product_is_exact() {
        for frequency in 1..SLOTS as u16 {
            let symbol = Symbol::new(frequency, 5);
            let f = u64::from(frequency);
            for state in
                [0, 1, 2, 7, f, 2 * f, 1 << 31, (1 << 62) / f * f, (1 << 62) + 12_345, (1 << 63) / f * f, 1 << 63]
                    .map(|state: u64| state.max(1))
                    .into_iter()
                    .flat_map(|state| [state - 1, state])
                    // No state is zero, or so large that it would not fit with the symbol.
                    .filter(|state| (1..f << (63 - SLOT_BITS)).contains(state))
            {
                assert_eq!(symbol.put(state), ((state / f) << SLOT_BITS) + 5 + state % f, "{state} by {f}");
            }
        }
    }

    #[test]
    fn frequencies_add_up_whatever_the_counts() {
        let edge = [
            [1; 256],
            std::array::from_fn(|i| u32::from(i < 2)),
            std::array::from_fn(|i| if i == 9 { 1 << 24 } else { 1 }),
        ];
        for counts in edge.into_iter().chain((1..30).map(|k| std::array::from_fn(|i| (i as u32 * 7 % k) << (i % 20)))) {
            let Some(found) = frequencies(&counts) else {
                assert!(counts.iter().filter(|count| **count > 0).count() < 2);
                continue;
            };
            assert_eq!(found.iter().map(|frequency| usize::from(*frequency)).sum::<usize>(), SLOTS);
            assert!(counts.iter().zip(&found).all(|(count, frequency)| (*count == 0) == (*frequency == 0)));
        }
    }

    #[test]
    fn what_is_not_such_a_plane_is_refused() {
        let plane = plane(5003, 2);
        let stored = coded(&plane);
        for cut in 0..stored.len() {
            assert!(decoded(&stored[..cut], plane.len()).is_err(), "cut to {cut}");
        }
        for len in (0..5100).filter(|len| *len != plane.len()) {
            assert!(decoded(&stored, len).is_err(), "as {len} bytes");
        }
        assert!(decoded(&[&stored[..], &[0; 4]].concat(), plane.len()).is_err());
        let rest = [0; 100];
        // All slots for one value, too many slots, none to the last value, values past the last, a long form of 5.
        for table in [
            &[0x90, 0][..],
            &[0x8f, 0xff, 2],
            &[0, 255, 1],
            &[1, 0, 254, 1],
            &[0x80, 5],
            &[0, 200, 0, 200, 9],
            &[0xff, 0xff],
        ] {
            assert!(matches!(decoded(&[table, &rest].concat(), 20), Err(CodecError::Invalid(_))), "{table:?}");
        }
    }
}
