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
//! Invariant: as for a delta; the tables that a reader builds take 128 KiB, whatever the payload is.

use multiversion::multiversion;

use super::CodecError;
use super::bits::BitReader;
use super::context::{self, ALL_ZERO, BLOCK, Expectations, MOST_CLASSES, MOST_CONTEXTS, MOST_EXPECTED};
use super::difference::{self, Order};
use super::numbers;
use super::plane::{PlaneMode, PlaneReader};
use super::rans::{self, SLOTS, SymbolReader};

/// Where the entries of the planes start, and where the length of the symbols stands.
pub(super) const PLANES_AT: usize = 5;
pub(super) const SYMBOLS_AT: usize = PLANES_AT + 5 * PLANES;

/// Bytes before the bounds.
pub(super) const HEAD_BYTES: usize = SYMBOLS_AT + 8;

/// Lifts, weights, scales, signs.
const PLANES: usize = 4;

/// The least class that leaves bits open.
const FIRST_OPEN: u8 = 4;

/// The first bytes of a payload.
#[derive(Clone, Copy)]
struct Head {
    width: usize,
    order: Order,
    signs_apart: bool,
    contexts: usize,
    classes: usize,
}

/// The parts of a payload, as they are stored.
struct Parts<'a> {
    bounds: &'a [u8],
    planes: [(PlaneMode, &'a [u8]); PLANES],
    symbols: &'a [u8],
    bits: &'a [u8],
    tail: &'a [u8],
}

impl Head {
    fn parse(stored: &[u8]) -> Result<Head, CodecError> {
        let &[width, order, signs, contexts, classes] = stored.first_chunk().ok_or(CodecError::Truncated)?;
        let (width, contexts, classes) = (usize::from(width), usize::from(contexts), usize::from(classes));
        let order = Order::from_byte(order).ok_or(CodecError::Invalid("unknown order of a delta"))?;
        let counted = (1..=MOST_CONTEXTS).contains(&contexts) && (1..=MOST_CLASSES).contains(&classes);
        if !matches!(width, 1 | 2 | 4) || signs > 1 || !counted {
            return Err(CodecError::Invalid("the head of a delta in context is out of bounds"));
        }
        Ok(Head { width, order, signs_apart: signs == 1, contexts, classes })
    }

    /// The lengths of the planes of `count` elements.
    fn plane_lens(&self, count: usize) -> [usize; PLANES] {
        let signs = if self.signs_apart { count.div_ceil(8) } else { 0 };
        [256, self.contexts * self.classes, count.div_ceil(BLOCK), signs]
    }
}

impl<'a> Parts<'a> {
    fn parse(head: &Head, stored: &'a [u8]) -> Result<Parts<'a>, CodecError> {
        let (fixed, mut body) = stored.split_first_chunk::<HEAD_BYTES>().ok_or(CodecError::Truncated)?;
        let mut take = |len: usize| {
            let (part, rest) = body.split_at_checked(len).ok_or(CodecError::Truncated)?;
            body = rest;
            Ok(part)
        };
        let number = |at: usize| {
            let bytes = fixed.get(at..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
        };
        let bounds = take(head.contexts - 1)?;
        let mut planes = [(PlaneMode::Raw, &[][..]); PLANES];
        for (i, plane) in planes.iter_mut().enumerate() {
            let entry = PLANES_AT + 5 * i;
            let mode = PlaneMode::from_byte(fixed[entry]).ok_or(CodecError::Invalid("unknown mode of a plane"))?;
            *plane = (mode, take(number(entry + 1))?);
        }
        let symbols = take(number(SYMBOLS_AT))?;
        let bits = take(number(SYMBOLS_AT + 4))?;
        Ok(Parts { bounds, planes, symbols, bits, tail: body })
    }
}

/// Reads payloads.
pub(super) struct DeltaCtxReader {
    plane: PlaneReader,
    tables: Vec<[u32; SLOTS]>,
    frequencies: Vec<u16>,
    room: [Vec<u8>; PLANES],
}

/// What is the same for all blocks of a payload.
struct Model<'a> {
    lifts: &'a [u8; 256],
    contexts: [u8; 256],
    tables: &'a [[u32; SLOTS]; MOST_CONTEXTS],
}

impl DeltaCtxReader {
    pub(super) fn new() -> DeltaCtxReader {
        let (tables, frequencies) = (Vec::new(), Vec::new());
        DeltaCtxReader { plane: PlaneReader::new(), tables, frequencies, room: Default::default() }
    }

    /// Decodes the payload `stored` against `base` into `out`, which it must fill.
    pub(super) fn read(&mut self, stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        let head = Head::parse(stored)?;
        let parts = Parts::parse(&head, stored)?;
        let count = out.len() / head.width;
        let (elements, tail) = out.split_at_mut(count * head.width);
        if parts.tail.len() < tail.len() {
            return Err(CodecError::Truncated);
        }
        if parts.tail.len() > tail.len() {
            return Err(CodecError::Invalid("bytes follow the last element"));
        }
        tail.copy_from_slice(parts.tail);

        let mut planes = [&[][..]; PLANES];
        let lens = head.plane_lens(count);
        for (((plane, (mode, coded)), room), len) in planes.iter_mut().zip(parts.planes).zip(&mut self.room).zip(lens) {
            room.resize(len, 0);
            *plane = self.plane.read(mode, coded, room)?;
        }
        let [lifts, weights, scales, signs] = planes;
        let lifts = lifts.first_chunk().ok_or(CodecError::Invalid("lifts are missing"))?;
        let in_range = |scale: &u8| *scale <= MOST_EXPECTED || *scale == ALL_ZERO;
        if lifts.iter().any(|lift| *lift > MOST_EXPECTED) || !scales.iter().all(in_range) {
            return Err(CodecError::Invalid("a lift or a scale is too large"));
        }
        self.tables.resize(MOST_CONTEXTS, [0; SLOTS]);
        for (weights, table) in weights.chunks(head.classes).zip(&mut self.tables) {
            rans::frequencies(weights, &mut self.frequencies)?;
            rans::fill(&self.frequencies, table);
        }
        let tables = self.tables.first_chunk().ok_or(CodecError::Invalid("tables are missing"))?;
        let contexts = Expectations { bounds: parts.bounds.to_vec(), ..Expectations::default() }.contexts();
        let model = Model { lifts, contexts, tables };
        let (mut symbols, mut bits) = (SymbolReader::new(parts.symbols)?, BitReader::new(parts.bits));
        read_elements(&head, &model, (scales, signs), (&mut symbols, &mut bits), base, elements);
        symbols.finish()?;
        bits.finish()
    }
}

/// Reads all blocks into `elements`.
fn read_elements(
    head: &Head,
    model: &Model<'_>,
    (scales, signs): (&[u8], &[u8]),
    (symbols, bits): (&mut SymbolReader<'_>, &mut BitReader<'_>),
    base: &[u8],
    elements: &mut [u8],
) {
    let block_bytes = BLOCK * head.width;
    for (i, (block, scale)) in elements.chunks_mut(block_bytes).zip(scales).enumerate() {
        let base = base.get(i * block_bytes..).unwrap_or_default();
        let mut numbers = [0; BLOCK];
        if *scale != ALL_ZERO {
            let mut highest = [0; BLOCK];
            let highest = &mut highest[..block.len() / head.width];
            numbers::highest_bytes(head.width, base, highest);
            read_block(model, *scale, highest, symbols, bits, &mut numbers);
            if head.signs_apart {
                numbers::join_signs(&mut numbers, signs.get(i * BLOCK / 8..).unwrap_or_default());
            }
        }
        numbers::differences(head.width, &numbers, block);
        difference::restore(head.width, head.order, base, block);
    }
}

/// Reads the numbers of one block.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn read_block(
    model: &Model<'_>,
    scale: u8,
    highest: &[u8],
    symbols: &mut SymbolReader<'_>,
    bits: &mut BitReader<'_>,
    numbers: &mut [u32; BLOCK],
) {
    let (mut contexts, mut classes) = ([0; BLOCK], [0; BLOCK]);
    for (context, highest) in contexts.iter_mut().zip(highest) {
        *context = model.contexts[usize::from(model.lifts[usize::from(*highest)].wrapping_add(scale))];
    }
    symbols.read(&contexts[..highest.len().min(BLOCK)], model.tables, &mut classes);
    // Where all differences are small there is nothing but classes.
    if classes.iter().all(|class| *class < FIRST_OPEN) {
        for (number, class) in numbers.iter_mut().zip(classes) {
            *number = class.into();
        }
        return;
    }
    let mut open_bits = [0; BLOCK];
    for ((number, open), class) in numbers.iter_mut().zip(&mut open_bits).zip(classes) {
        (*number, *open) = context::number(class);
    }
    bits.add_to(numbers, &open_bits);
}
