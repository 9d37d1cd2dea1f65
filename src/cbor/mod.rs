//! Deterministic CBOR (RFC 8949 §4.2.1) as far as the formats of this crate use it, and [`DecodeError`].
//!
//! Invariant: a [`Reader`] takes only what a [`Writer`] writes: shortest heads, definite lengths, map keys in order and
//! once each, nothing after the end. So accepted bytes encode to themselves again, and a hash over them names one value.
//!
//! Heads are coded by `ciborium-ll`, the low-level half of ciborium. It reads a head in every form that CBOR allows and writes
//! it in the shortest, so a head was in its one deterministic form if it was as long as what comes back.
//!
//! The rest of ciborium is not used. The reader is pulled along by whoever knows the schema. It never builds a tree of what a
//! stranger sent, so there is no recursion to bound, and a list costs the memory of its values: a general CBOR value takes 32
//! bytes for every byte of a list of small numbers, 4 GiB for a hostile manifest of the size that
//! [`limits`](crate::limits) allow.

mod error;
mod head;
mod reader;
mod writer;

pub use error::{DecodeError, RuleError};
pub(crate) use head::Major;
pub(crate) use reader::{Fields, Reader};
pub(crate) use writer::{Length, Sink, Writer};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.0
    }

    fn check_float(value: f64, bytes: &[u8]) {
        assert_eq!(written(|w| w.float(value)), bytes, "{value:?}");
        let back = Reader::new(bytes, 9).unwrap().float("x").unwrap();
        assert_eq!(back.to_bits(), value.to_bits(), "{value:?}");
    }

    /// RFC 8949, section 3.3 and appendix D: the value of a half-precision float.
    fn half_value(half: u16) -> f64 {
        let (exponent, significand) = (i32::from(half >> 10 & 0x1f), f64::from(half & 0x3ff));
        let magnitude = match exponent {
            0 => significand * 2f64.powi(-24),
            0x1f => f64::INFINITY,
            _ => (significand + 1024.0) * 2f64.powi(exponent - 25),
        };
        if half & 0x8000 == 0 { magnitude } else { -magnitude }
    }

    /// The number of a head of type `major`, in its shortest form, straight from RFC 8949, section 3.
    fn shortest(major: u8, number: u64) -> Vec<u8> {
        let be = number.to_be_bytes();
        let (info, count) = match number {
            0..=23 => return vec![major << 5 | number as u8],
            24..=0xff => (24, 1),
            0x100..=0xffff => (25, 2),
            0x1_0000..=0xffff_ffff => (26, 4),
            _ => (27, 8),
        };
        [&[major << 5 | info], &be[8 - count..]].concat()
    }

    #[test]
    fn every_half_precision_number_takes_three_bytes() {
        for half in 0..=u16::MAX {
            let value = half_value(half);
            if value.is_finite() {
                check_float(value, &[&[0xf9][..], &half.to_be_bytes()].concat());
            }
        }
    }

    #[test]
    fn integers_at_the_edges_of_each_width_take_the_shortest_head() {
        for edge in [0, 23, 24, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, i64::MAX as u64, u64::MAX] {
            let bytes = written(|w| w.uint(edge));
            assert_eq!(bytes, shortest(0, edge));
            assert_eq!(Reader::new(&bytes, 9).unwrap().uint("x"), Ok(edge));
            for value in [edge as i64, (edge as i64).wrapping_neg()] {
                let bytes = written(|w| w.int(value));
                assert_eq!(bytes, shortest(u8::from(value < 0), if value < 0 { !value } else { value } as u64));
                assert_eq!(Reader::new(&bytes, 9).unwrap().int("x"), Ok(value));
            }
        }
        assert!(Reader::new(&shortest(0, u64::MAX), 9).unwrap().int("x").is_err());
    }

    /// The same number behind every head that is too long for it.
    #[test]
    fn longer_heads_are_refused_for_every_type() {
        let too_long = |bytes: &[u8], outcome: Result<(), DecodeError>| {
            let refused = outcome.is_err_and(|error| error.to_string().ends_with("is not in its shortest form"));
            assert!(refused, "{bytes:02x?}");
        };
        for number in [0_u64, 3, 23, 24, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff] {
            for (info, count) in [(24, 1), (25, 2), (26, 4), (27, 8)] {
                for major in 0..6 {
                    let bytes = [&[major << 5 | info], &number.to_be_bytes()[8 - count..]].concat();
                    let fits = count == 8 || number >> (8 * count) == 0;
                    if !fits || bytes.len() == shortest(major, number).len() {
                        continue;
                    }
                    let mut reader = Reader::new(&bytes, 9).unwrap();
                    too_long(
                        &bytes,
                        match major {
                            0 => reader.uint("x").map(drop),
                            1 => reader.int("x").map(drop),
                            2 => reader.bytes("x", usize::MAX).map(drop),
                            3 => reader.text("x", usize::MAX).map(drop),
                            4 => reader.array("x", usize::MAX).map(drop),
                            _ => reader.map("x", usize::MAX).map(drop),
                        },
                    );
                }
            }
        }
        for bytes in [&[0xf8, 20][..], &[0xf8, 21]] {
            too_long(bytes, Reader::new(bytes, 9).unwrap().boolean("x").map(drop));
        }
        for bytes in [&[0xfa, 0x3f, 0x80, 0, 0][..], &[0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0]] {
            too_long(bytes, Reader::new(bytes, 9).unwrap().float("x").map(drop));
        }
    }

    #[test]
    fn an_end_that_comes_too_early_is_incomplete_and_not_invalid() {
        let bytes = written(|w| w.text("a text that is longer than its first bytes"));
        for len in 0..bytes.len() {
            let error = Reader::new(&bytes[..len], 99).unwrap().text("x", 99).unwrap_err();
            assert_eq!(error, DecodeError::Incomplete { what: "x", len });
        }
        let claim = [0x9a, 0x00, 0x0f, 0xff, 0xff];
        assert!(matches!(Reader::new(&claim, 9).unwrap().array("x", 1 << 20), Err(DecodeError::Incomplete { .. })));
    }

    proptest! {
        #[test]
        fn floats_take_the_narrowest_width_that_keeps_them(bits in any::<u64>(), single in any::<f32>()) {
            for value in [f64::from_bits(bits), f64::from(single), f64::from((bits % 4096) as u32) / 64.0] {
                let half = (0..=u16::MAX).find(|&half| half_value(half).to_bits() == value.to_bits());
                let single = value as f32;
                let bytes = match half {
                    _ if !value.is_finite() => continue,
                    Some(half) => [&[0xf9][..], &half.to_be_bytes()].concat(),
                    None if f64::from(single).to_bits() == value.to_bits() => {
                        [&[0xfa][..], &single.to_bits().to_be_bytes()].concat()
                    }
                    None => [&[0xfb][..], &value.to_bits().to_be_bytes()].concat(),
                };
                check_float(value, &bytes);
            }
        }
    }
}
