//! [`Element`]: the numbers of a tensor, from their bytes and back.
//!
//! Invariant: decoding is exact; encoding rounds once, from `f64` to the nearest number of the type, ties to even, and past the greatest
//! finite one to that one. None of it branches, so that loops over elements are compiled to vectors.

/// A type of floating-point number that a tensor holds.
pub(super) trait Element {
    /// An element in little-endian order.
    type Bytes: Copy;
    /// The narrowest type that holds its values, in which they are compared.
    type Lane: Lane;
    /// Whether it has all the digits of the sums: nothing is rounded off at the end that would hide how those were rounded.
    const AS_WIDE_AS_SUMS: bool;

    /// The elements in `bytes`.
    fn elements(bytes: &[u8]) -> &[Self::Bytes];
    /// The elements in `bytes`, to be written.
    fn elements_mut(bytes: &mut [u8]) -> &mut [Self::Bytes];
    /// The value of an element.
    fn decode(bytes: Self::Bytes) -> Self::Lane;
    /// The element that is closest to a finite `value`.
    fn encode(value: f64) -> Self::Bytes;
}

/// A number that the machine computes with.
pub(super) trait Lane: Copy + Default + PartialOrd {
    /// The same number.
    fn wide(self) -> f64;
    /// Whether it is neither infinite nor no number.
    fn finite(self) -> bool;
}

impl Lane for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.into()
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Lane for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// The slices of [`Element`], which are the same for every width.
macro_rules! slices {
    () => {
        #[inline(always)]
        fn elements(bytes: &[u8]) -> &[Self::Bytes] {
            bytes.as_chunks().0
        }

        #[inline(always)]
        fn elements_mut(bytes: &mut [u8]) -> &mut [Self::Bytes] {
            bytes.as_chunks_mut().0
        }
    };
}

/// `F64`.
pub(super) struct F64;

impl Element for F64 {
    type Bytes = [u8; 8];
    type Lane = f64;
    const AS_WIDE_AS_SUMS: bool = true;
    slices!();

    #[inline(always)]
    fn decode(bytes: [u8; 8]) -> f64 {
        f64::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn encode(value: f64) -> [u8; 8] {
        value.to_le_bytes()
    }
}

/// `F32`.
pub(super) struct F32;

impl Element for F32 {
    type Bytes = [u8; 4];
    type Lane = f32;
    const AS_WIDE_AS_SUMS: bool = false;
    slices!();

    #[inline(always)]
    fn decode(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn encode(value: f64) -> [u8; 4] {
        const MAX: f64 = f32::MAX as f64;
        (value.clamp(-MAX, MAX) as f32).to_le_bytes()
    }
}

/// `BF16`: the upper half of an `f32`.
pub(super) struct Bf16;

impl Element for Bf16 {
    type Bytes = [u8; 2];
    type Lane = f32;
    const AS_WIDE_AS_SUMS: bool = false;
    slices!();

    #[inline(always)]
    fn decode(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }

    #[inline(always)]
    fn encode(value: f64) -> [u8; 2] {
        const MAX: f64 = f32::from_bits(0x7f7f_0000) as f64;
        // An `f32` holds it exactly, and the lower half of that is zero.
        let rounded = round::<8, -126>(value.abs().min(MAX)).copysign(value) as f32;
        ((rounded.to_bits() >> 16) as u16).to_le_bytes()
    }
}

/// `F16`: IEEE 754's binary16, five bits of exponent and ten of fraction.
pub(super) struct F16;

impl Element for F16 {
    type Bytes = [u8; 2];
    type Lane = f32;
    const AS_WIDE_AS_SUMS: bool = false;
    slices!();

    #[inline(always)]
    fn decode(bytes: [u8; 2]) -> f32 {
        let bits = u32::from(u16::from_le_bytes(bytes));
        let (sign, exponent, fraction) = ((bits & 0x8000) << 16, bits & 0x7c00, bits & 0x03ff);
        let normal = ((bits & 0x7fff) << 13) + ((127 - 15) << 23);
        let subnormal = (fraction as f32 * TWO_TO_MINUS_24).to_bits();
        let special = 0x7f80_0000 | fraction << 13;
        let magnitude = if exponent == 0 { subnormal } else { normal };
        f32::from_bits(sign | if exponent == 0x7c00 { special } else { magnitude })
    }

    #[inline(always)]
    fn encode(value: f64) -> [u8; 2] {
        const MAX: f64 = 65504.0;
        const LEAST_NORMAL: f64 = 1.0 / 16384.0;
        let rounded = round::<11, -14>(value.abs().min(MAX));
        let normal = (rounded.to_bits() >> 42).wrapping_sub((1023 - 15) << 10) as u16;
        // A whole number of the least steps, in the low bits of a number that has steps of one.
        let subnormal = (rounded * TWO_TO_24 + TWO_TO_52).to_bits() as u16 & 0x03ff;
        let sign = (value.to_bits() >> 48) as u16 & 0x8000;
        (sign | if rounded < LEAST_NORMAL { subnormal } else { normal }).to_le_bytes()
    }
}

const TWO_TO_24: f64 = (1_u64 << 24) as f64;
const TWO_TO_52: f64 = (1_u64 << 52) as f64;
const TWO_TO_MINUS_24: f32 = 1.0 / (1_u32 << 24) as f32;

/// A number that is not negative, rounded to `DIGITS` binary digits, or to fewer below 2 to the power of `LEAST_EXPONENT`.
///
/// A power of two is added whose last digit is worth what the last digit of the result is worth: the machine rounds to it, to nearest
/// and ties to even, and what is left when the power is taken away is the result.
#[inline(always)]
fn round<const DIGITS: u64, const LEAST_EXPONENT: i64>(magnitude: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    let least = f64::from_bits(((1023 + LEAST_EXPONENT) as u64) << 52);
    let exponent = magnitude.max(least).to_bits() & EXPONENT;
    let power = f64::from_bits(exponent + ((53 - DIGITS) << 52));
    (magnitude + power) - power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The finite numbers of a type of two bytes that are not negative, by their bits, which are in order.
    fn magnitudes<E: Element<Bytes = [u8; 2]>>() -> Vec<f64> {
        let values = (0..0x8000_u16).map(|bits| E::decode(bits.to_le_bytes()).wide());
        values.take_while(|value| value.is_finite()).collect()
    }

    /// The bits of the closest of `all`, by looking at both neighbours.
    fn nearest(all: &[f64], value: f64) -> u16 {
        let above = all.partition_point(|&other| other < value);
        let Some(&high) = all.get(above) else { return all.len() as u16 - 1 };
        let Some(below) = above.checked_sub(1) else { return above as u16 };
        // Exact: both are within a factor of two of the value, or far coarser than the last digit of an `f64`.
        let (up, down) = (high - value, value - all[below]);
        let tie_goes_down = below.is_multiple_of(2);
        (if down < up || (down == up && tie_goes_down) { below } else { above }) as u16
    }

    fn check_rounding<E: Element<Bytes = [u8; 2]>>() {
        let all = magnitudes::<E>();
        let encoded = |value: f64| u16::from_le_bytes(E::encode(value));
        let mut cases = vec![f64::MIN_POSITIVE, 5e-324, f64::MAX, 65504.0, 65519.9, 65520.0, 1e300, 3.39e38, 3.4e38];
        for pair in all.windows(2) {
            let middle = pair[0].midpoint(pair[1]);
            cases.extend([pair[0], middle, middle.next_up(), middle.next_down(), pair[0].next_up()]);
        }
        for value in cases {
            let wanted = nearest(&all, value);
            assert_eq!(encoded(value), wanted, "{value:e}");
            assert_eq!(encoded(-value), wanted | 0x8000, "-{value:e}");
        }
    }

    #[test]
    fn halves_are_rounded_once_to_the_nearest_and_ties_to_even() {
        check_rounding::<F16>();
        check_rounding::<Bf16>();
    }

    #[test]
    fn halves_have_the_values_that_the_formats_say() {
        let f16 = |bits: u16| F16::decode(bits.to_le_bytes());
        assert_eq!([f16(0x3c00), f16(0xc000), f16(0x7bff), f16(1)], [1.0, -2.0, 65504.0, 2.0_f32.powi(-24)]);
        assert_eq!([f16(0x0400), f16(0x03ff)], [2.0_f32.powi(-14), 1023.0 * 2.0_f32.powi(-24)]);
        assert!(f16(0x7c00) == f32::INFINITY && f16(0xfc00) == f32::NEG_INFINITY && f16(0x7c01).is_nan());
        assert!(f16(0x8000) == 0.0 && f16(0x8000).is_sign_negative());
        let bf16 = |bits: u16| Bf16::decode(bits.to_le_bytes());
        assert_eq!([bf16(0x3f80), bf16(0xc000), bf16(1)], [1.0, -2.0, 2.0_f32.powi(-133)]);
        assert!(bf16(0x7f80) == f32::INFINITY && bf16(0x7fc0).is_nan());
        // Every number comes back as it was.
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
            assert_eq!(F16::encode(f16(bits).wide()), bits.to_le_bytes());
        }
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7f80 != 0x7f80) {
            assert_eq!(Bf16::encode(bf16(bits).wide()), bits.to_le_bytes());
        }
    }

    #[test]
    fn what_is_past_the_greatest_number_becomes_it() {
        assert_eq!(F32::encode(f64::from(f32::MAX) * 1.5), f32::MAX.to_le_bytes());
        assert_eq!(F32::encode(-1e300), f32::MIN.to_le_bytes());
        assert_eq!(F16::encode(1e6), 0x7bff_u16.to_le_bytes());
        assert_eq!(Bf16::encode(-1e300), 0xff7f_u16.to_le_bytes());
    }
}
