//! Symbols by their frequencies, to a fraction of a bit: asymmetric numeral systems with ranges (rANS).
//!
//! The coder is that of J. Duda, *Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate
//! of arithmetic coding* (arXiv:1311.2540, 2013), with several states in turn over one stream, as F. Giesen, *Interleaved entropy coders*
//! (arXiv:1402.3392, 2014), describes. Symbol *i* belongs to state *i* mod [`STATES`]. A state is a number of 32 bits, at least 2^16; a symbol of
//! frequency *f* in 2^11, whose range starts at *c*, takes it to ⌊*x* / *f*⌋ · 2^11 + *c* + *x* mod *f*, and before that its low 16 bits
//! leave as a word if it would pass 2^32. Decoding runs the other way, so the writer starts with the last symbol, and ends with the states
//! and the words in the order in which the reader wants them. A reader that consumed all words and finds all states at 2^16 has seen
//! every symbol.
//!
//! Invariant: a table holds every slot, so no stream can lead a reader astray: it gives symbols to the end, and wrong ones at worst.

use super::CodecError;

/// Frequencies of a table add up to 2 to this power: then a table takes 8 KiB, and the hot ones of a chunk stay near.
pub(super) const FREQUENCY_BITS: u32 = 11;

/// Slots of a table.
pub(super) const SLOTS: usize = 1 << FREQUENCY_BITS;

/// States that take turns.
pub(super) const STATES: usize = 4;

/// States are at least this between two symbols.
const LEAST_STATE: u32 = 1 << 16;

/// Most that a weight can be: four weights an octave, from one slot to all.
const MOST_WEIGHT: u8 = 4 * FREQUENCY_BITS as u8 + 1;

/// Bytes of the states at the head of a stream.
const HEAD_BYTES: usize = 4 * STATES;

/// What a weight stands for, in 64ths of a slot: a quarter of an octave more with each.
fn share(weight: u8) -> u32 {
    const QUARTERS: [u32; 4] = [64, 76, 91, 108];
    match weight.checked_sub(1) {
        None => 0,
        Some(step) => QUARTERS[usize::from(step % 4)] << (step / 4),
    }
}

/// The weights that say best how often each symbol occurs: one byte a symbol, 0 for what never does.
pub(super) fn weigh(counts: &[u32], weights: &mut Vec<u8>) {
    let total = counts.iter().map(|&count| u64::from(count)).sum::<u64>().max(1);
    for &count in counts {
        let exact = (u64::from(count) << (FREQUENCY_BITS + 6)) / total;
        let nearest = (1..MOST_WEIGHT).find(|&weight| u64::from(share(weight) + share(weight + 1)) / 2 > exact);
        weights.push(if count == 0 { 0 } else { nearest.unwrap_or(MOST_WEIGHT) });
    }
}

/// The frequencies that `weights` stand for: they add up to [`SLOTS`], and what has a weight has a slot.
///
/// Shares are rounded down, and the most frequent symbol (the first of several) gives or takes the difference.
pub(super) fn frequencies(weights: &[u8], frequencies: &mut Vec<u16>) -> Result<(), CodecError> {
    frequencies.clear();
    if weights.iter().any(|weight| *weight > MOST_WEIGHT) {
        return Err(CodecError::Invalid("a weight is too large"));
    }
    let total: u32 = weights.iter().map(|weight| share(*weight)).sum();
    if total == 0 || weights.len() > SLOTS / 4 {
        return Err(CodecError::Invalid("a table without symbols, or with too many"));
    }
    let scaled = |weight: &u8| match share(*weight) {
        0 => 0,
        share => (u64::from(share) * SLOTS as u64 / u64::from(total)).max(1) as u16,
    };
    frequencies.extend(weights.iter().map(scaled));
    let mut sum: usize = frequencies.iter().map(|frequency| usize::from(*frequency)).sum();
    while sum != SLOTS {
        let Some(most) = frequencies.iter_mut().rev().max_by_key(|frequency| **frequency) else { break };
        let next = if sum < SLOTS {
            usize::from(*most) + (SLOTS - sum)
        } else {
            usize::from(*most).saturating_sub(sum - SLOTS).max(1)
        };
        sum = sum - usize::from(*most) + next;
        *most = next as u16;
    }
    Ok(())
}

/// Fills a reader's table. A slot holds the symbol (8 bits), its frequency (12) and the slot's distance from the symbol's first (12).
pub(super) fn fill(frequencies: &[u16], table: &mut [u32; SLOTS]) {
    let mut slots = table.iter_mut();
    for (symbol, &frequency) in frequencies.iter().enumerate() {
        for (distance, slot) in slots.by_ref().take(usize::from(frequency)).enumerate() {
            *slot = symbol as u32 | u32::from(frequency) << 8 | (distance as u32) << 20;
        }
    }
}

/// Writes a stream, from its last symbol to its first.
pub(super) struct SymbolWriter {
    states: [u32; STATES],
    /// The words as bytes, last first.
    reversed: Vec<u8>,
}

impl SymbolWriter {
    pub(super) fn new() -> SymbolWriter {
        SymbolWriter { states: [LEAST_STATE; STATES], reversed: Vec::new() }
    }

    /// Puts symbol number `i`, whose range starts at slot `start`, before those that were put already.
    #[inline(always)]
    pub(super) fn put(&mut self, i: usize, frequency: u32, start: u32) {
        let state = &mut self.states[i % STATES];
        if u64::from(*state) >= u64::from(frequency) << (32 - FREQUENCY_BITS) {
            let [low, high] = (*state as u16).to_le_bytes();
            self.reversed.extend_from_slice(&[high, low]);
            *state >>= 16;
        }
        *state = (*state / frequency << FREQUENCY_BITS) + *state % frequency + start;
    }

    /// Appends the stream to `out`, and is as new.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend(self.states.iter().flat_map(|state| state.to_le_bytes()));
        out.extend(self.reversed.iter().rev());
        self.states = [LEAST_STATE; STATES];
        self.reversed.clear();
    }
}

/// Reads a stream.
pub(super) struct SymbolReader<'a> {
    states: [u32; STATES],
    words: &'a [[u8; 2]],
    next: usize,
}

impl<'a> SymbolReader<'a> {
    pub(super) fn new(stream: &'a [u8]) -> Result<SymbolReader<'a>, CodecError> {
        let (head, words) =
            stream.split_first_chunk::<HEAD_BYTES>().ok_or(CodecError::Invalid("symbols without states"))?;
        let (words, []) = words.as_chunks() else { return Err(CodecError::Invalid("half a word of symbols")) };
        let mut states = [0; STATES];
        for (state, bytes) in states.iter_mut().zip(head.as_chunks().0) {
            *state = u32::from_le_bytes(*bytes);
        }
        Ok(SymbolReader { states, words, next: 0 })
    }

    /// The next symbol of the state `lane`, by its table.
    #[inline(always)]
    pub(super) fn next(&mut self, lane: usize, table: &[u32; SLOTS]) -> u8 {
        let state = self.states[lane];
        let slot = table[state as usize % SLOTS];
        let (frequency, distance) = (slot >> 8 & 0xfff, slot >> 20);
        let state = frequency.wrapping_mul(state >> FREQUENCY_BITS).wrapping_add(distance);
        // Looked up in any case, so that nothing hangs on a branch that takes either way at random.
        let word = u32::from(self.words.get(self.next).map_or(0, |word| u16::from_le_bytes(*word)));
        let short = state < LEAST_STATE;
        self.states[lane] = if short { state << 16 | word } else { state };
        self.next += usize::from(short);
        slot as u8
    }

    /// Checks that the stream held what was read of it, and nothing more.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        if self.next != self.words.len() || self.states != [LEAST_STATE; STATES] {
            return Err(CodecError::Invalid("the symbols do not end with their chunk"));
        }
        Ok(())
    }
}
