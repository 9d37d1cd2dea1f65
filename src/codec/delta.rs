//! The payload of [`Codec::Delta`](crate::chunk::Codec::Delta): a chunk's elements as differences to those of its base, in byte planes.
//!
//! Byte map, version 1:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | order in the low four bits: 0 integers, 1 floats (`difference.rs`); *l* in the high four, 0 to 7 |
//! | 1 | *l* | the lead: the bytes before the first whole element, as they are |
//! | 1 + *l* | … | a planes payload (`planes.rs`) of the differences, as long as the plain bytes without the lead; its planes may be of mode 3, rANS (`plane_rans.rs`) |
//!
//! The element width is that of the planes. The bytes after the last whole element are not differenced, and an element that the
//! base has no partner for is differenced to zero. A lead is there for chunks of formats that are not parsed, which may start
//! inside an element.
//!
//! Invariant: a base of any length and content serves to decode, and a wrong one gives wrong bytes and nothing worse: the chunk's
//! hash is for the caller to check. Nothing but the plain length is allocated.

use super::CodecError;
use super::difference::{self, Order};
use super::entropy;
use super::plane::PlaneMode;
use super::planes::{PlanesReader, PlanesWriter};

/// Pieces and bytes of a piece of the sample that tells width, order and worth.
const SAMPLE: (usize, usize) = (8, 512);

/// A width or an order must promise this many bits a byte over the one before: noise favours the wider.
const GAIN_BITS: f32 = 0.03;

/// Differences that promise less than this part of what the elements do are those of whole elements.
const ALIGNED: f32 = 0.6;

/// How a chunk's differences are best taken, and what that and the elements themselves would take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    pub(super) width: usize,
    pub(super) order: Order,
    /// Bytes before the first whole element.
    pub(super) lead: usize,
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
        &Estimate { width, order, lead, .. }: &Estimate,
        out: &mut Vec<u8>,
    ) {
        let (lead, plain) = plain.split_at(lead.min(plain.len()));
        let base = base.get(lead.len()..).unwrap_or_default();
        // Growing only, so that a worker zeroes its buffer once and not for every chunk.
        if self.room.len() < plain.len() {
            self.room.resize(plain.len(), 0);
        }
        let room = &mut self.room[..plain.len()];
        difference::take(width, order, plain, base, room);
        planes.write(room, width, 1 + lead.len(), out);
        out[0] = order as u8 | (lead.len() as u8) << 4;
        out[1..1 + lead.len()].copy_from_slice(lead);
    }

    /// Looks at a sample of `plain`, elements of `width` bytes or of any width if that is `None`, and what it faces in `base`.
    pub(super) fn estimate(&mut self, plain: &[u8], width: Option<usize>, base: &[u8]) -> Estimate {
        let widths = width.as_ref().map_or(&[1, 2, 4, 8][..], std::slice::from_ref);
        let order = Order::Integer;
        let mut best = Estimate { width: widths[0], order, lead: 0, bits: f32::INFINITY, alone_bits: 8.0 };
        self.gather(plain, base, 0);
        for &width in widths {
            let orders = if width == 1 { &[Order::Integer][..] } else { &[Order::Integer, Order::Float] };
            for &order in orders {
                self.look(width, order, 0, &mut best);
            }
        }
        best.alone_bits = entropy::plane_bits(best.width, self.sample_of_plain());
        // Nothing says that elements of an unknown width start where the chunk does.
        if width.is_none() && best.bits > ALIGNED * best.alone_bits {
            for lead in 1..8 {
                self.gather(plain, base, lead);
                for width in [2, 4, 8].into_iter().filter(|width| lead < *width) {
                    self.look(width, Order::Float, lead, &mut best);
                }
            }
            self.gather(plain, base, best.lead);
            best.alone_bits = entropy::plane_bits(best.width, self.sample_of_plain());
        }
        best
    }

    /// Takes a sample of both sides, behind `lead` bytes.
    fn gather(&mut self, plain: &[u8], base: &[u8], lead: usize) {
        let (count, len) = SAMPLE;
        let facing = plain.len().min(base.len());
        self.sample.clear();
        for side in [plain, base] {
            for piece in entropy::pieces(side.get(lead..facing).unwrap_or_default(), count, len) {
                self.sample.extend_from_slice(&piece[..piece.len() / 8 * 8]);
            }
        }
    }

    fn sample_of_plain(&self) -> &[u8] {
        &self.sample[..self.sample.len() / 2]
    }

    /// Makes `best` the differences of the sample in elements of `width`, if they promise less.
    fn look(&mut self, width: usize, order: Order, lead: usize, best: &mut Estimate) {
        let (plain, base) = self.sample.split_at(self.sample.len() / 2);
        if self.room.len() < plain.len() {
            self.room.resize(plain.len(), 0);
        }
        let room = &mut self.room[..plain.len()];
        difference::take(width, order, plain, base, room);
        let bits = entropy::plane_bits(width, room);
        if bits < best.bits - GAIN_BITS {
            *best = Estimate { width, order, lead, bits, ..*best };
        }
    }

    /// Whether the plain bytes of the last [`estimate`](DeltaWriter::estimate) may take far less than it says, by matches.
    pub(super) fn regular(&self, width: usize) -> bool {
        entropy::regular(width, self.sample_of_plain())
    }
}

/// Decodes the payload `stored` against `base` into `out`, which it must fill.
pub(super) fn read(planes: &mut PlanesReader, stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
    let (&how, stored) = stored.split_first().ok_or(CodecError::Truncated)?;
    let order = Order::from_byte(how & 15).ok_or(CodecError::Invalid("unknown order of a delta"))?;
    let lead = usize::from(how >> 4);
    if lead > 7 {
        return Err(CodecError::Invalid("a lead as long as the widest element"));
    }
    let (lead_bytes, stored) = stored.split_at_checked(lead).ok_or(CodecError::Truncated)?;
    let (lead_out, out) =
        out.split_at_mut_checked(lead).ok_or(CodecError::Invalid("a lead that is longer than the chunk"))?;
    lead_out.copy_from_slice(lead_bytes);
    let base = base.get(lead..).unwrap_or_default();
    planes.read_blocks(stored, PlaneMode::of_delta, out, |width, offset, block| {
        difference::restore(width, order, base.get(offset..).unwrap_or_default(), block);
    })
}
