//! Symbols by their frequencies, to a fraction of a bit: asymmetric numeral systems with ranges (rANS).
//!
//! The coder is that of J. Duda, *Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate
//! of arithmetic coding* (arXiv:1311.2540, 2013), with several states in turn over one stream, as F. Giesen, *Interleaved entropy coders*
//! (arXiv:1402.3392, 2014), describes. Symbol *i* belongs to state *i* mod [`STATES`]. A state is a number of 32 bits, at least 2^16; a symbol of
//! frequency *f* in 2^10, whose range starts at *c*, takes it to ⌊*x* / *f*⌋ · 2^10 + *c* + *x* mod *f*, and before that its low 16 bits
//! leave as a word if it would pass 2^32. Decoding runs the other way, so the writer starts with the last symbol, and ends with the states
//! and the words in the order in which the reader wants them. A reader that consumed all words and finds all states at 2^16 has seen
//! every symbol.
//!
//! Invariant: a table holds every slot, so no stream can lead a reader astray: it gives symbols to the end, and wrong ones at worst.

use super::CodecError;

/// Frequencies of a table add up to 2 to this power: then a table takes 4 KiB, and the hot ones of a chunk stay near; 2^11 saves nothing.
pub(super) const FREQUENCY_BITS: u32 = 10;

/// Slots of a table.
pub(super) const SLOTS: usize = 1 << FREQUENCY_BITS;

/// Most tables of a stream.
pub(super) const TABLES: usize = 32;

/// States that take turns.
pub(super) const STATES: usize = 8;

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
        *state = ((*state / frequency) << FREQUENCY_BITS) + *state % frequency + start;
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

    /// Reads the next symbols, each by the table of its context; the first of them is one of the first state.
    #[inline(always)]
    pub(super) fn read(&mut self, contexts: &[u8], tables: &[[u32; SLOTS]; TABLES], symbols: &mut [u8]) {
        let mut states = self.states;
        let (turns, rest) = contexts.as_chunks::<STATES>();
        let (symbols, symbols_of_rest) = symbols.split_at_mut(turns.len() * STATES);
        for (contexts, symbols) in turns.iter().zip(symbols.as_chunks_mut::<STATES>().0) {
            // As many words as a turn can use, so that the end is looked for once a turn. Behind the end are zeros.
            let rest = self.words.get(self.next..).unwrap_or_default();
            let words = match rest.first_chunk() {
                Some(words) => *words,
                None => last_words(rest),
            };
            let mut used = 0;
            for lane in 0..STATES {
                let table = &tables[usize::from(contexts[lane]) % TABLES];
                let short;
                (symbols[lane], states[lane], short) = step(states[lane], table, words[used % STATES]);
                used += usize::from(short);
            }
            self.next += used;
        }
        for (lane, (context, symbol)) in rest.iter().zip(symbols_of_rest).enumerate() {
            let word = self.words.get(self.next).copied().unwrap_or_default();
            let state = &mut states[lane % STATES];
            let short;
            (*symbol, *state, short) = step(*state, &tables[usize::from(*context) % TABLES], word);
            self.next += usize::from(short);
        }
        self.states = states;
    }

    /// Checks that the stream held what was read of it, and nothing more.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        if self.next != self.words.len() || self.states != [LEAST_STATE; STATES] {
            return Err(CodecError::Invalid("the symbols do not end with their chunk"));
        }
        Ok(())
    }
}

/// One symbol: it, the state after it, and whether that took `word`.
///
/// The word is mixed in without a branch, which would go either way at random.
#[inline(always)]
fn step(state: u32, table: &[u32; SLOTS], word: [u8; 2]) -> (u8, u32, bool) {
    let slot = table[state as usize % SLOTS];
    let (frequency, distance) = (slot >> 8 & 0xfff, slot >> 20);
    let state = frequency.wrapping_mul(state >> FREQUENCY_BITS).wrapping_add(distance);
    let longer = state << 16 | u32::from(u16::from_le_bytes(word));
    let short = state < LEAST_STATE;
    (slot as u8, if short { longer } else { state }, short)
}

/// The last words of a stream, and zeros.
#[cold]
fn last_words(rest: &[[u8; 2]]) -> [[u8; 2]; STATES] {
    let mut words = [[0; 2]; STATES];
    words.iter_mut().zip(rest).for_each(|(word, last)| *word = *last);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symbols that are the rarer the larger, with contexts in turn.
    fn symbols(count: usize) -> Vec<(u8, u8)> {
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 7;
        (0..count).map(|i| ((i % 3) as u8, (noise(i).trailing_zeros() % 12) as u8)).collect()
    }

    fn code(symbols: &[(u8, u8)]) -> (Vec<u8>, Vec<[u32; SLOTS]>) {
        let (mut writer, mut stream) = (SymbolWriter::new(), Vec::new());
        let mut tables = vec![[0; SLOTS]; TABLES];
        let mut all = Vec::new();
        for (context, table) in tables.iter_mut().enumerate() {
            let mut counts = [0; 12];
            symbols.iter().filter(|s| usize::from(s.0) == context).for_each(|s| counts[usize::from(s.1)] += 1);
            counts[0] += 1;
            let (mut weights, mut found) = (Vec::new(), Vec::new());
            weigh(&counts, &mut weights);
            frequencies(&weights, &mut found).unwrap();
            fill(&found, table);
            all.push(found);
        }
        for (i, (context, symbol)) in symbols.iter().enumerate().rev() {
            let (of_context, symbol) = (&all[usize::from(*context)], usize::from(*symbol));
            writer.put(i, of_context[symbol].into(), of_context[..symbol].iter().sum::<u16>().into());
        }
        writer.finish(&mut stream);
        (stream, tables)
    }

    #[test]
    fn symbols_come_back_whatever_their_number_and_take_about_their_entropy() {
        for count in (0..40).chain([1000, 100_001]) {
            let symbols = symbols(count);
            let (stream, tables) = code(&symbols);
            let contexts: Vec<u8> = symbols.iter().map(|symbol| symbol.0).collect();
            let (mut reader, mut found) = (SymbolReader::new(&stream).unwrap(), vec![99; count]);
            reader.read(&contexts, tables.first_chunk().unwrap(), &mut found);
            assert!(found.iter().zip(&symbols).all(|(found, symbol)| *found == symbol.1), "{count} symbols");
            assert_eq!(reader.finish(), Ok(()));
            // Halving frequencies: two bits a symbol.
            assert!(stream.len() * 8 < count * 41 / 20 + 8 * HEAD_BYTES + 200, "{} bytes for {count}", stream.len());
        }
    }

    #[test]
    fn a_stream_that_is_too_short_or_too_long_is_told() {
        let symbols = symbols(500);
        let (stream, tables) = code(&symbols);
        let contexts: Vec<u8> = symbols.iter().map(|symbol| symbol.0).collect();
        for stream in [&stream[..stream.len() - 2], &[&stream[..], &[0, 0]].concat(), &[0; HEAD_BYTES]] {
            let mut reader = SymbolReader::new(stream).unwrap();
            reader.read(&contexts, tables.first_chunk().unwrap(), &mut [0; 500]);
            assert!(reader.finish().is_err());
        }
        assert!(SymbolReader::new(&stream[..HEAD_BYTES - 1]).is_err());
        assert!(SymbolReader::new(&stream[..HEAD_BYTES + 1]).is_err());
    }

    #[test]
    fn frequencies_fill_a_table_whatever_the_weights() {
        let mut found = Vec::new();
        let edge = [vec![1], vec![41], vec![1; 64], vec![41; 64], [&[41][..], &[1; 63]].concat(), vec![0, 0, 3]];
        for weights in edge.into_iter().chain((1..=41).map(|weight| vec![weight, 0, 1, 20, weight / 2])) {
            frequencies(&weights, &mut found).unwrap();
            assert_eq!(found.iter().map(|frequency| usize::from(*frequency)).sum::<usize>(), SLOTS, "{weights:?}");
            assert!(weights.iter().zip(&found).all(|(weight, frequency)| (*weight == 0) == (*frequency == 0)));
        }
        for weights in [&[][..], &[0; 5], &[42, 1], &[255]] {
            assert!(frequencies(weights, &mut found).is_err(), "{weights:?}");
        }
    }
}
