//! The payload of [`Codec::Delta`](crate::chunk::Codec::Delta): a chunk's elements as differences to those of its base, in byte planes.
//!
//! Byte map, version 1:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | order: 0 integers, 1 floats (`difference.rs`) |
//! | 1 | … | a planes payload (`planes.rs`) of the differences, as long as the plain bytes |
//!
//! The element width is that of the planes. The bytes after the last whole element are not differenced, and an element that the
//! base has no partner for is differenced to zero.
//!
//! Invariant: a base of any length and content serves to decode, and a wrong one gives wrong bytes and nothing worse: the chunk's
//! hash is for the caller to check. Nothing but the plain length is allocated.

use super::CodecError;
use super::difference::{self, Order};
use super::entropy;
use super::planes::{PlanesReader, PlanesWriter};

/// Pieces and bytes of a piece of the sample that tells width, order and worth.
const SAMPLE: (usize, usize) = (8, 512);

/// A width or an order must promise this many bits a byte over the one before: noise favours the wider.
const GAIN_BITS: f32 = 0.03;

/// How a chunk's differences are best taken, and what that and the elements themselves would take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    pub(super) width: usize,
    pub(super) order: Order,
    /// Bits a byte of the differences in planes.
    pub(super) bits: f32,
    /// Bits a byte of the plain bytes in planes of the same width.
    pub(super) alone_bits: f32,
}

/// Writes payloads.
pub(super) struct DeltaWriter {
    room: Vec<u8>,
    sample: Vec<u8>,
}

impl DeltaWriter {
    pub(super) fn new() -> DeltaWriter {
        DeltaWriter { room: Vec::new(), sample: Vec::new() }
    }

    /// Makes `out` the payload of `plain` against `base`; what it held is overwritten.
    pub(super) fn write(
        &mut self,
        planes: &mut PlanesWriter,
        plain: &[u8],
        base: &[u8],
        (width, order): (usize, Order),
        out: &mut Vec<u8>,
    ) {
        // Growing only, so that a worker zeroes its buffer once and not for every chunk.
        if self.room.len() < plain.len() {
            self.room.resize(plain.len(), 0);
        }
        let room = &mut self.room[..plain.len()];
        difference::take(width, order, plain, base, room);
        planes.write(room, width, 1, out);
        out[0] = order as u8;
    }

    /// Looks at a sample of `plain`, elements of `width` bytes or of any width if that is `None`, and what it faces in `base`.
    pub(super) fn estimate(&mut self, plain: &[u8], width: Option<usize>, base: &[u8]) -> Estimate {
        let (count, len) = SAMPLE;
        let facing = plain.len().min(base.len());
        self.sample.clear();
        for side in [plain, base] {
            entropy::pieces(&side[..facing], count, len)
                .for_each(|piece| self.sample.extend_from_slice(&piece[..piece.len() / 8 * 8]));
        }
        let (plain, base) = self.sample.split_at(self.sample.len() / 2);
        let widths = width.as_ref().map_or(&[1, 2, 4, 8][..], std::slice::from_ref);
        let mut best = Estimate { width: widths[0], order: Order::Integer, bits: f32::INFINITY, alone_bits: 8.0 };
        for &width in widths {
            let orders = if width == 1 { &[Order::Integer][..] } else { &[Order::Integer, Order::Float] };
            for &order in orders {
                self.room.resize(self.room.len().max(plain.len()), 0);
                let room = &mut self.room[..plain.len()];
                difference::take(width, order, plain, base, room);
                let bits = entropy::plane_bits(width, room);
                if bits < best.bits - GAIN_BITS {
                    best = Estimate { width, order, bits, ..best };
                }
            }
        }
        best.alone_bits = entropy::plane_bits(best.width, plain);
        best
    }

    /// Whether the plain bytes of the last [`estimate`](DeltaWriter::estimate) may take far less than it says, by matches.
    pub(super) fn regular(&self, width: usize) -> bool {
        entropy::regular(width, &self.sample[..self.sample.len() / 2])
    }
}

/// Decodes the payload `stored` against `base` into `out`, which it must fill.
pub(super) fn read(planes: &mut PlanesReader, stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
    let (order, stored) = stored.split_first().ok_or(CodecError::Truncated)?;
    let order = Order::from_byte(*order).ok_or(CodecError::Invalid("unknown order of a delta"))?;
    planes.read_blocks(stored, out, |width, offset, block| {
        difference::restore(width, order, base.get(offset..).unwrap_or_default(), block);
    })
}
