//! The payload of [`Codec::DeltaCtx`](crate::chunk::Codec::DeltaCtx): differences to a base, each class coded in the context that the base gives.
//!
//! Byte map, version 1, numbers little-endian; *w* is the element width, *n* the number of whole elements, *b* = ⌈*n* / 128⌉ blocks:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | *w*: 1, 2 or 4 |
//! | 1 | 1 | order, as in a delta |
//! | 2 | 1 | signs: 0 inside the numbers, 1 apart |
//! | 3 | 1 | *k*: contexts, 1 to 32 |
//! | 4 | 1 | *s*: classes, 1 to 64 |
//! | 5 + 5*i* | 5 | mode and stored length of plane *i*, for *i* in 0..4, as in planes |
//! | 25 | 4 | bytes of the symbols |
//! | 29 | 4 | bytes of the bits |
//! | 33 | *k* − 1 | bounds: the least sum of lift and scale that is in the second context, in the third, and so on |
//! | … | … | planes: 256 lifts; *k* · *s* weights, a context after the other; *b* scales; signs, ⌈*n* / 8⌉ bytes if apart, else none |
//! | … | … | the symbols (`rans.rs`), then the bits (`bits.rs`) |
//! | … | plain length mod *w* | the bytes after the last whole element, as they are |
//!
//! The difference of an element, in sign and magnitude, is a number: rotated left by one bit (a byte: zigzag), so that the sign is the
//! lowest bit; or, with signs apart, the magnitude, with the sign as bit *i* mod 8 of byte ⌊*i* / 8⌋ of the signs. A number's class (`context.rs`) is a
//! symbol, in the context of the sum of its block's scale and the lift of its base's highest byte; its open bits go to the bits. The
//! elements of a block whose scale is 255 are zero, and neither symbols nor bits.
//!
//! Invariant: as for a delta.

use super::CodecError;
use super::bits::{BitReader, BitWriter};
use super::context::{self, ALL_ZERO, BLOCK, Expectations, MOST_CLASSES, MOST_CONTEXTS, MOST_EXPECTED};
use super::difference::{self, Order};
use super::plane::{PlaneMode, PlaneReader, PlaneWriter};
use super::rans::{self, SLOTS, STATES, SymbolReader, SymbolWriter};

/// Bytes before the bounds.
const HEAD_BYTES: usize = 33;

/// Signs are tried apart where fewer than one element in so many is zero: a zero's sign is a bit in vain.
const ZERO_PART: usize = 8;

/// Writes payloads.
pub(super) struct DeltaCtxWriter {
    plane: PlaneWriter,
    symbols: SymbolWriter,
    bits: BitWriter,
    expectations: Expectations,
    differences: Vec<u8>,
    numbers: Vec<u32>,
    classes: Vec<u8>,
    highest: Vec<u8>,
    signs: Vec<u8>,
    weights: Vec<u8>,
}

impl DeltaCtxWriter {
    pub(super) fn new() -> DeltaCtxWriter {
        DeltaCtxWriter {
            plane: PlaneWriter::new(true),
            symbols: SymbolWriter::new(),
            bits: BitWriter::default(),
            expectations: Expectations::default(),
            differences: Vec::new(),
            numbers: Vec::new(),
            classes: Vec::new(),
            highest: Vec::new(),
            signs: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Appends the payload of `plain` against `base`, elements of 1, 2 or 4 bytes, to `out`.
    pub(super) fn append(&mut self, plain: &[u8], base: &[u8], (width, order): (usize, Order), out: &mut Vec<u8>) {
        let count = plain.len() / width;
        let (elements, tail) = plain.split_at(count * width);
        self.differences.resize(elements.len(), 0);
        difference::take(width, order, elements, base, &mut self.differences);
        self.highest.resize(count, 0);
        highest_bytes(width, base, &mut self.highest);
        self.numbers.resize(count, 0);
        numbers(width, &self.differences, &mut self.numbers);

        let signs_apart = self.split_signs();
        self.classes.clear();
        self.classes.extend(self.numbers.iter().map(|number| context::class(*number).0));
        self.expectations.fit(&self.classes, &self.highest);

        let head = out.len();
        let contexts = self.expectations.bounds.len() + 1;
        let classes = self.classes.iter().max().map_or(1, |most| usize::from(*most) + 1);
        out.extend_from_slice(&[width as u8, order as u8, signs_apart.into(), contexts as u8, classes as u8]);
        out.resize(head + HEAD_BYTES, 0);
        out.extend_from_slice(&self.expectations.bounds);
        let ranges = self.count(contexts, classes);
        if !signs_apart {
            self.signs.clear();
        }
        let planes = [&self.expectations.lifts, &self.weights, &self.expectations.scales, &self.signs];
        for (i, plane) in planes.into_iter().enumerate() {
            let start = out.len();
            let mode = self.plane.append(plane, out);
            let entry = head + 5 + 5 * i;
            out[entry] = mode as u8;
            let len = ((out.len() - start) as u32).to_le_bytes();
            out[entry + 1..entry + 5].copy_from_slice(&len);
        }
        self.code(&ranges, classes);
        let start = out.len();
        self.symbols.finish(out);
        let symbols = out.len();
        self.bits.finish(out);
        let lens = [symbols - start, out.len() - symbols].map(|len| (len as u32).to_le_bytes());
        out[head + 25..head + HEAD_BYTES].copy_from_slice(lens.as_flattened());
        out.extend_from_slice(tail);
    }

    /// Makes the numbers magnitudes, with their signs in `signs`, where matches in the signs save more than the signs of zeros cost.
    ///
    /// Rows that move as one, such as the embeddings of tokens that a step did not see, have the same signs again and again.
    fn split_signs(&mut self) -> bool {
        let zeros = self.numbers.iter().filter(|number| **number == 0).count();
        if zeros * ZERO_PART > self.numbers.len() {
            return false;
        }
        self.signs.clear();
        self.signs.extend(
            self.numbers.chunks(8).map(|numbers| {
                numbers.iter().enumerate().fold(0, |byte, (i, number)| byte | ((number & 1) as u8) << i)
            }),
        );
        let mut coded = Vec::new();
        self.plane.append(&self.signs, &mut coded);
        if coded.len() * 8 >= (self.numbers.len() - zeros) / 100 * 99 {
            return false;
        }
        // -1 is 1, 1 is 2, -2 is 3: halved upwards they are the magnitude.
        self.numbers.iter_mut().for_each(|number| *number = (*number >> 1) + (*number & 1));
        true
    }

    /// Counts the classes in each context and weighs them. Returns frequency and first slot of each class of each context.
    fn count(&mut self, contexts: usize, classes: usize) -> Vec<(u16, u16)> {
        let mut counts = vec![0_u32; contexts * classes];
        let of_sum = self.expectations.contexts();
        let blocks = self.classes.chunks(BLOCK).zip(self.highest.chunks(BLOCK)).zip(&self.expectations.scales);
        for ((classes_of, highest), scale) in blocks.filter(|(_, scale)| **scale != ALL_ZERO) {
            for (class, highest) in classes_of.iter().zip(highest) {
                let context = of_sum[usize::from(self.expectations.lifts[usize::from(*highest)] + scale)];
                counts[usize::from(context) * classes + usize::from(*class)] += 1;
            }
        }
        self.weights.clear();
        let (mut ranges, mut frequencies) = (Vec::with_capacity(counts.len()), Vec::new());
        for counts in counts.chunks_mut(classes) {
            // A table needs a symbol, and a context that nothing is in a table.
            if counts.iter().all(|count| *count == 0) {
                counts[0] = 1;
            }
            let start = self.weights.len();
            rans::weigh(counts, &mut self.weights);
            // Weights of counts that are not all zero always make a table.
            let _ = rans::frequencies(&self.weights[start..], &mut frequencies);
            let mut first = 0;
            for &frequency in &frequencies {
                ranges.push((frequency, first));
                first += frequency;
            }
        }
        ranges
    }

    /// Codes the classes and their open bits.
    fn code(&mut self, ranges: &[(u16, u16)], classes: usize) {
        let of_sum = self.expectations.contexts();
        let mut last = self.numbers.len();
        for (numbers, scale) in self.numbers.chunks(BLOCK).zip(&self.expectations.scales) {
            for number in numbers.iter().filter(|_| *scale != ALL_ZERO) {
                let (_, open) = context::class(*number);
                self.bits.put(number & ((1 << open) - 1), open);
            }
        }
        let blocks = self.classes.chunks(BLOCK).zip(self.highest.chunks(BLOCK)).zip(&self.expectations.scales);
        for ((classes_of, highest), scale) in blocks.rev() {
            let start = last - classes_of.len();
            if *scale != ALL_ZERO {
                for (i, (class, highest)) in classes_of.iter().zip(highest).enumerate().rev() {
                    let context = of_sum[usize::from(self.expectations.lifts[usize::from(*highest)] + scale)];
                    let (frequency, first) = ranges[usize::from(context) * classes + usize::from(*class)];
                    self.symbols.put(start + i, frequency.into(), first.into());
                }
            }
            last = start;
        }
    }
}

/// The highest byte of each element of the base, rotated as in planes; zero where the base has none.
fn highest_bytes(width: usize, base: &[u8], highest: &mut [u8]) {
    let mut missing = 0;
    match width {
        2 => {
            for (highest, base) in highest.iter_mut().zip(base.as_chunks().0) {
                *highest = (u16::from_le_bytes(*base) >> 7) as u8;
                missing += 1;
            }
        }
        4 => {
            for (highest, base) in highest.iter_mut().zip(base.as_chunks().0) {
                *highest = (u32::from_le_bytes(*base) >> 23) as u8;
                missing += 1;
            }
        }
        _ => {
            missing = highest.len().min(base.len());
            highest[..missing].copy_from_slice(&base[..missing]);
        }
    }
    highest[missing..].fill(0);
}

/// The number of each difference, sign lowest.
fn numbers(width: usize, differences: &[u8], numbers: &mut [u32]) {
    match width {
        2 => {
            for (number, difference) in numbers.iter_mut().zip(differences.as_chunks().0) {
                *number = u16::from_le_bytes(*difference).rotate_left(1).into();
            }
        }
        4 => {
            for (number, difference) in numbers.iter_mut().zip(differences.as_chunks().0) {
                *number = u32::from_le_bytes(*difference).rotate_left(1);
            }
        }
        _ => {
            for (number, difference) in numbers.iter_mut().zip(differences) {
                *number = (difference << 1 ^ (*difference as i8 >> 7) as u8).into();
            }
        }
    }
}

/// Puts numbers back as differences: what [`numbers`] undoes.
fn differences(width: usize, numbers: &[u32], differences: &mut [u8]) {
    match width {
        2 => {
            for (number, difference) in numbers.iter().zip(differences.as_chunks_mut().0) {
                *difference = (*number as u16).rotate_right(1).to_le_bytes();
            }
        }
        4 => {
            for (number, difference) in numbers.iter().zip(differences.as_chunks_mut().0) {
                *difference = number.rotate_right(1).to_le_bytes();
            }
        }
        _ => {
            for (number, difference) in numbers.iter().zip(differences) {
                *difference = (*number >> 1 ^ (number & 1).wrapping_neg()) as u8;
            }
        }
    }
}

/// Reads payloads.
pub(super) struct DeltaCtxReader {
    plane: PlaneReader,
    tables: Vec<[u32; SLOTS]>,
    frequencies: Vec<u16>,
    room: [Vec<u8>; 4],
}

/// What the blocks of a payload need.
struct Model<'a> {
    lifts: &'a [u8; 256],
    contexts: [u8; 256],
    tables: &'a [[u32; SLOTS]; MOST_CONTEXTS],
}

impl DeltaCtxReader {
    pub(super) fn new() -> DeltaCtxReader {
        DeltaCtxReader {
            plane: PlaneReader::new(),
            tables: Vec::new(),
            frequencies: Vec::new(),
            room: Default::default(),
        }
    }

    /// Decodes the payload `stored` against `base` into `out`, which it must fill.
    pub(super) fn read(&mut self, stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        let (head, mut body) = stored.split_first_chunk::<HEAD_BYTES>().ok_or(CodecError::Truncated)?;
        let [width, order, apart, contexts, classes, entries @ ..] = *head;
        let (width, contexts, classes) = (usize::from(width), usize::from(contexts), usize::from(classes));
        let order = Order::from_byte(order).ok_or(CodecError::Invalid("unknown order of a delta"))?;
        if !matches!(width, 1 | 2 | 4)
            || apart > 1
            || !(1..=MOST_CONTEXTS).contains(&contexts)
            || !(1..=MOST_CLASSES).contains(&classes)
        {
            return Err(CodecError::Invalid("the head of a delta in context is out of bounds"));
        }
        let count = out.len() / width;
        let mut take = |len: usize| {
            let (part, rest) = body.split_at_checked(len).ok_or(CodecError::Truncated)?;
            body = rest;
            Ok(part)
        };
        let bounds = take(contexts - 1)?;
        let (entries, lens) = entries.split_at(20);
        let plane_lens =
            [256, contexts * classes, count.div_ceil(BLOCK), if apart == 1 { count.div_ceil(8) } else { 0 }];
        let mut planes = [&[][..]; 4];
        let mut coded = [(PlaneMode::Raw, &[][..]); 4];
        for (coded, entry) in coded.iter_mut().zip(entries.as_chunks::<5>().0) {
            let [mode, len @ ..] = *entry;
            let mode = PlaneMode::from_byte(mode).ok_or(CodecError::Invalid("unknown mode of a plane"))?;
            *coded = (mode, take(u32::from_le_bytes(len) as usize)?);
        }
        let [symbols_len, bits_len] =
            [0, 4].map(|at| lens.get(at..).and_then(|len| len.first_chunk()).map_or(0, |len| u32::from_le_bytes(*len)));
        let (symbols, bits) = (take(symbols_len as usize)?, take(bits_len as usize)?);
        let (elements, tail) = out.split_at_mut(count * width);
        if body.len() < tail.len() {
            return Err(CodecError::Truncated);
        }
        if body.len() > tail.len() {
            return Err(CodecError::Invalid("bytes follow the last element"));
        }
        tail.copy_from_slice(body);
        for (((plane, (mode, coded)), room), len) in planes.iter_mut().zip(coded).zip(&mut self.room).zip(plane_lens) {
            room.resize(len, 0);
            *plane = self.plane.read(mode, coded, room)?;
        }
        let [lifts, weights, scales, signs] = planes;
        let lifts = lifts.first_chunk().ok_or(CodecError::Invalid("lifts are missing"))?;
        if lifts.iter().any(|lift| *lift > MOST_EXPECTED)
            || scales.iter().any(|scale| *scale > MOST_EXPECTED && *scale != ALL_ZERO)
        {
            return Err(CodecError::Invalid("a lift or a scale is too large"));
        }
        self.tables.resize(MOST_CONTEXTS, [0; SLOTS]);
        for (weights, table) in weights.chunks(classes).zip(&mut self.tables) {
            rans::frequencies(weights, &mut self.frequencies)?;
            rans::fill(&self.frequencies, table);
        }
        let expectations = Expectations { bounds: bounds.to_vec(), ..Expectations::default() };
        let tables = self.tables.first_chunk().ok_or(CodecError::Invalid("tables are missing"))?;
        let model = Model { lifts, contexts: expectations.contexts(), tables };
        let (mut symbols, mut bits) = (SymbolReader::new(symbols)?, BitReader::new(bits));
        let block_bytes = BLOCK * width;
        for (i, (block, scale)) in elements.chunks_mut(block_bytes).zip(scales).enumerate() {
            let mut numbers_of = [0; BLOCK];
            let base = base.get(i * block_bytes..).unwrap_or_default();
            if *scale != ALL_ZERO {
                let mut highest = [0; BLOCK];
                let len = block.len() / width;
                highest_bytes(width, base, &mut highest[..len]);
                read_block(&model, *scale, &highest[..len], &mut symbols, &mut bits, &mut numbers_of);
                if apart == 1 {
                    let signs = signs.get(i * BLOCK / 8..).unwrap_or_default();
                    for (i, number) in numbers_of.iter_mut().enumerate() {
                        let sign = signs.get(i / 8).map_or(0, |byte| byte >> (i % 8) & 1);
                        *number = (*number << 1).wrapping_sub(sign.into());
                    }
                }
            }
            differences(width, &numbers_of, block);
            difference::restore(width, order, base, block);
        }
        symbols.finish()?;
        bits.finish()
    }
}

/// Reads the numbers of one block.
#[inline(always)]
fn read_block(
    model: &Model<'_>,
    scale: u8,
    highest: &[u8],
    symbols: &mut SymbolReader<'_>,
    bits: &mut BitReader<'_>,
    numbers: &mut [u32; BLOCK],
) {
    let mut read = |lane: usize, highest: u8| {
        let context = model.contexts[usize::from(model.lifts[usize::from(highest)].wrapping_add(scale))];
        let (least, open) = context::number(symbols.next(lane, &model.tables[usize::from(context) % MOST_CONTEXTS]));
        least.wrapping_add(bits.take(open))
    };
    let (turns, rest) = highest.as_chunks::<STATES>();
    let (numbers_of_turns, numbers_of_rest) = numbers.split_at_mut(turns.len() * STATES);
    for (highest, numbers) in turns.iter().zip(numbers_of_turns.as_chunks_mut::<STATES>().0) {
        for lane in 0..STATES {
            numbers[lane] = read(lane, highest[lane]);
        }
    }
    for (lane, (highest, number)) in rest.iter().zip(numbers_of_rest).enumerate() {
        *number = read(lane % STATES, *highest);
    }
}
