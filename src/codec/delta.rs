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
use super::entropy::{self, Histogram};
use super::planes::{PlanesReader, PlanesWriter};

/// Pieces and bytes of a piece of the sample that tells width and order.
const SAMPLE: (usize, usize) = (8, 1 << 10);

/// A width that is not known must promise this many bits a byte over a narrower one, and floats over integers: noise favours them.
const GAIN_BITS: f32 = 0.03;

/// Appends the payload of `plain` against `base` to `out`; `width` is 0 where it is not known.
pub(super) fn append(
    planes: &mut PlanesWriter,
    plain: &[u8],
    width: usize,
    base: &[u8],
    room: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let (width, order) = judge(plain, width, base, room);
    room.resize(plain.len(), 0);
    difference::take(width, order, plain, base, room);
    out.push(order as u8);
    planes.append(room, width, out);
}

/// Decodes the payload `stored` against `base` into `out`, which it must fill.
pub(super) fn read(planes: &mut PlanesReader, stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
    let (order, stored) = stored.split_first().ok_or(CodecError::Truncated)?;
    let order = Order::from_byte(*order).ok_or(CodecError::Invalid("unknown order of a delta"))?;
    let width = planes.read(stored, out)?;
    let whole = out.len() - out.len() % width;
    difference::restore(width, order, base, &mut out[..whole]);
    Ok(())
}

/// The width and the order whose differences promise the smallest planes, from a sample.
fn judge(plain: &[u8], width: usize, base: &[u8], room: &mut Vec<u8>) -> (usize, Order) {
    let facing = &plain[..plain.len().min(base.len())];
    let widths: &[usize] = match width {
        2 => &[2],
        4 => &[4],
        8 => &[8],
        1 => return (1, Order::Integer),
        _ => &[1, 2, 4, 8],
    };
    let mut best = (widths[0], Order::Integer, f32::INFINITY);
    for &width in widths {
        for order in [Order::Integer, Order::Float] {
            if width == 1 && order == Order::Float {
                continue;
            }
            let bits = bits(facing, base, width, order, room);
            if bits < best.2 - GAIN_BITS {
                best = (width, order, bits);
            }
        }
    }
    (best.0, best.1)
}

/// Bits a byte that the planes of the differences would take.
fn bits(plain: &[u8], base: &[u8], width: usize, order: Order, room: &mut Vec<u8>) -> f32 {
    let (count, len) = SAMPLE;
    let (plain, base) = (entropy::pieces(plain, count, len), entropy::pieces(&base[..plain.len()], count, len));
    room.clear();
    for (plain, base) in plain.zip(base) {
        let whole = plain.len() - plain.len() % width;
        let start = room.len();
        room.resize(start + whole, 0);
        difference::take(width, order, &plain[..whole], &base[..whole], &mut room[start..]);
    }
    let mut planes = vec![0; room.len()];
    super::transpose::split(width, room, &mut planes);
    let plane = (planes.len() / width).max(1);
    planes.chunks(plane).map(|plane| Histogram::of([plane]).bits()).sum::<f32>() / width as f32
}
