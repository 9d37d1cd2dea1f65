//! Writes payloads of deltas in context: the byte map is in `delta_ctx.rs`.
//!
//! Invariant: what is written decodes to the same bytes, whatever plain bytes and base are. Everything that is estimated here (lifts,
//! scales, bounds, weights) is told to the reader, so an estimate may change at any time and costs bytes at worst.

use super::bits::BitWriter;
use super::context::{self, ALL_ZERO, BLOCK, Expectations};
use super::delta_ctx::{HEAD_BYTES, PLANES_AT, SYMBOLS_AT};
use super::difference::{self, Order};
use super::numbers;
use super::plane::PlaneWriter;
use super::rans::{self, SymbolWriter};

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
    magnitudes: Vec<u32>,
    signs: Vec<u8>,
    coded: Vec<u8>,
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
            magnitudes: Vec::new(),
            signs: Vec::new(),
            coded: Vec::new(),
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
        numbers::highest_bytes(width, base, &mut self.highest);
        self.numbers.resize(count, 0);
        numbers::numbers(width, &self.differences, &mut self.numbers);

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
            let entry = head + PLANES_AT + 5 * i;
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
        out[head + SYMBOLS_AT..head + HEAD_BYTES].copy_from_slice(lens.as_flattened());
        out.extend_from_slice(tail);
    }

    /// Makes the numbers magnitudes, their signs apart, where matches in the signs save more than the signs of zeros cost.
    ///
    /// Rows that move as one, such as the embeddings of tokens that a step did not see, have the same signs again and again.
    fn split_signs(&mut self) -> bool {
        let zeros = self.numbers.iter().filter(|number| **number == 0).count();
        if zeros * ZERO_PART > self.numbers.len() {
            return false;
        }
        self.magnitudes.clone_from(&self.numbers);
        numbers::split_signs(&mut self.magnitudes, &mut self.signs);
        self.coded.clear();
        self.plane.append(&self.signs, &mut self.coded);
        if self.coded.len() * 8 >= (self.numbers.len() - zeros) / 100 * 99 {
            return false;
        }
        std::mem::swap(&mut self.numbers, &mut self.magnitudes);
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
