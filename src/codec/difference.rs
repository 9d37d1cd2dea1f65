//! Elements as differences to the elements of a base, and back.
//!
//! A float's bits, taken as sign and magnitude, are in the order of its value once the magnitude of a negative number is complemented.
//! Two numbers that are close are then close as integers, whatever their exponents, and so is a number that has crossed a power of
//! two or zero. The difference of the two integers, modulo 2^bits, goes back through the same map: it becomes sign and magnitude
//! again, which is what byte planes are made for (`transpose.rs`).
//!
//! Invariant: [`restore`] undoes [`take`] for every width, order and length, whatever the bytes are (NaN and both zeros are bit
//! patterns like any other). A missing base element counts as zero, whose difference is the element itself.

use multiversion::multiversion;

/// What the bits of an element say about its value. The number is the order byte of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Two's complement.
    Integer = 0,
    /// Sign and magnitude, as floats have it.
    Float = 1,
}

impl Order {
    /// The order of an order byte.
    pub(super) fn from_byte(byte: u8) -> Option<Order> {
        match byte {
            0 => Some(Order::Integer),
            1 => Some(Order::Float),
            _ => None,
        }
    }
}

/// Writes the differences of `plain`, elements of `width` bytes, to `base` into `out`, which is as long as `plain`.
///
/// The bytes after the last whole element of `plain` are copied.
pub(super) fn take(width: usize, order: Order, plain: &[u8], base: &[u8], out: &mut [u8]) {
    let facing = facing(width, plain.len(), base.len());
    let (plain_facing, plain_rest) = plain.split_at(facing);
    let (out_facing, out_rest) = out.split_at_mut(facing);
    let (base, float) = (&base[..facing], order == Order::Float);
    match width {
        2 => take_2(plain_facing, base, out_facing, float),
        4 => take_4(plain_facing, base, out_facing, float),
        8 => take_8(plain_facing, base, out_facing, float),
        _ => take_1(plain_facing, base, out_facing),
    }
    out_rest.copy_from_slice(plain_rest);
    if order == Order::Integer {
        sign_magnitude(width, out_rest);
    }
}

/// Puts the elements in the place of their differences to `base`.
pub(super) fn restore(width: usize, order: Order, base: &[u8], elements: &mut [u8]) {
    let facing = facing(width, elements.len(), base.len());
    let (elements, rest) = elements.split_at_mut(facing);
    let (base, float) = (&base[..facing], order == Order::Float);
    match width {
        2 => restore_2(base, elements, float),
        4 => restore_4(base, elements, float),
        8 => restore_8(base, elements, float),
        _ => restore_1(base, elements),
    }
    if order == Order::Integer {
        sign_magnitude(width, rest);
    }
}

/// Bytes of the whole elements that both sides have.
fn facing(width: usize, plain_len: usize, base_len: usize) -> usize {
    let both = plain_len.min(base_len);
    both - both % width.max(1)
}

/// Turns whole elements from two's complement to sign and magnitude, or back: their difference to zero.
fn sign_magnitude(width: usize, elements: &mut [u8]) {
    match width {
        2 => {
            elements.as_chunks_mut().0.iter_mut().for_each(|e| *e = flip_2(u16::from_le_bytes(*e), true).to_le_bytes())
        }
        4 => {
            elements.as_chunks_mut().0.iter_mut().for_each(|e| *e = flip_4(u32::from_le_bytes(*e), true).to_le_bytes())
        }
        8 => {
            elements.as_chunks_mut().0.iter_mut().for_each(|e| *e = flip_8(u64::from_le_bytes(*e), true).to_le_bytes())
        }
        _ => {}
    }
}

/// The loops of one width.
macro_rules! loops {
    ($unsigned:ty, $signed:ty, $flip:ident, $take:ident, $restore:ident) => {
        /// Sign and magnitude to two's complement, or back, if `on`: complements all but the sign of a negative number.
        #[inline(always)]
        fn $flip(bits: $unsigned, on: bool) -> $unsigned {
            let negative = (bits as $signed >> (<$signed>::BITS - 1)) as $unsigned >> 1;
            if on { bits ^ negative } else { bits }
        }

        #[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
        fn $take(plain: &[u8], base: &[u8], out: &mut [u8], float: bool) {
            let elements = plain.as_chunks().0.iter().zip(base.as_chunks().0);
            for (out, (plain, base)) in out.as_chunks_mut().0.iter_mut().zip(elements) {
                let (plain, base) = (<$unsigned>::from_le_bytes(*plain), <$unsigned>::from_le_bytes(*base));
                *out = $flip($flip(plain, float).wrapping_sub($flip(base, float)), true).to_le_bytes();
            }
        }

        #[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
        fn $restore(base: &[u8], elements: &mut [u8], float: bool) {
            for (element, base) in elements.as_chunks_mut().0.iter_mut().zip(base.as_chunks().0) {
                let (difference, base) = (<$unsigned>::from_le_bytes(*element), <$unsigned>::from_le_bytes(*base));
                *element = $flip($flip(difference, true).wrapping_add($flip(base, float)), float).to_le_bytes();
            }
        }
    };
}

loops!(u16, i16, flip_2, take_2, restore_2);
loops!(u32, i32, flip_4, take_4, restore_4);
loops!(u64, i64, flip_8, take_8, restore_8);

fn take_1(plain: &[u8], base: &[u8], out: &mut [u8]) {
    for (out, (plain, base)) in out.iter_mut().zip(plain.iter().zip(base)) {
        *out = plain.wrapping_sub(*base);
    }
}

fn restore_1(base: &[u8], elements: &mut [u8]) {
    for (element, base) in elements.iter_mut().zip(base) {
        *element = element.wrapping_add(*base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        (0..len as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn restoring_undoes_taking_whatever_the_lengths() {
        for width in [1, 2, 4, 8] {
            for (order, len, base_len) in
                [(Order::Float, 1000, 1000), (Order::Integer, 777, 999), (Order::Float, 999, 500)].into_iter().chain([
                    (Order::Integer, 999, 501),
                    (Order::Float, 40, 0),
                    (Order::Integer, 0, 40),
                    (Order::Integer, 7, 7),
                ])
            {
                let (plain, base) = (noise(len, 1), noise(base_len, 77));
                let mut bytes = vec![0; len];
                take(width, order, &plain, &base, &mut bytes);
                restore(width, order, &base, &mut bytes);
                assert_eq!(bytes, plain, "width {width}, {order:?}, {len} bytes against {base_len}");
            }
        }
    }

    #[test]
    fn close_numbers_have_small_differences_across_zero_and_powers_of_two() {
        let tiny = f32::from_bits(1);
        for (a, b, expected) in [
            (1.0, 1.0, 0),
            (2.0, f32::from_bits(2.0_f32.to_bits() - 1), 1),
            (-2.0, -f32::from_bits(2.0_f32.to_bits() - 1), -1_i32),
            (tiny, 0.0, 1),
            (-0.0, 0.0, -1),
            (-tiny, tiny, -3),
        ] {
            let mut out = [0; 4];
            take(4, Order::Float, &f32::to_le_bytes(a), &f32::to_le_bytes(b), &mut out);
            assert_eq!(flip_4(u32::from_le_bytes(out), true) as i32, expected, "{a:e} - {b:e}");
        }
    }
}
