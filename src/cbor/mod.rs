//! Deterministic CBOR (RFC 8949 §4.2.1) as far as the formats of this crate use it, and [`DecodeError`].
//!
//! Invariant: a [`Reader`] takes only what a [`Writer`] writes: shortest heads, definite lengths, map keys in order and
//! once each, nothing after the end. So accepted bytes encode to themselves again, and a hash over them names one value.
//!
//! The reader is pulled along by whoever knows the schema. It never builds a tree of what a stranger sent, so there is no
//! recursion to bound, and a list costs the memory of its values: a general CBOR value takes 32 bytes for every byte of
//! a list of small numbers, 4 GiB for a hostile manifest of the size that [`limits`](crate::limits) allow.

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
    use super::head::f16_value;
    use super::*;
    use ciborium::Value;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.0
    }

    fn reference(value: impl Into<Value>) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(&value.into(), &mut bytes).unwrap();
        bytes
    }

    fn check_float(value: f64) {
        let bytes = written(|w| w.float(value));
        assert_eq!(bytes, reference(value), "{value:?}");
        let back = Reader::new(&bytes, 9).unwrap().float("x").unwrap();
        assert_eq!(back.to_bits(), value.to_bits(), "{value:?}");
    }

    #[test]
    fn every_half_precision_number_takes_three_bytes() {
        for half in 0..=u16::MAX {
            let value = f16_value(half);
            if value.is_finite() {
                check_float(value);
                assert_eq!(written(|w| w.float(value)).len(), 3);
            }
        }
    }

    #[test]
    fn integers_at_the_edges_of_each_width_match_another_encoder() {
        for edge in [0, 23, 24, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, i64::MAX as u64, u64::MAX] {
            let bytes = written(|w| w.uint(edge));
            assert_eq!(bytes, reference(edge));
            assert_eq!(Reader::new(&bytes, 9).unwrap().uint("x"), Ok(edge));
            for value in [edge as i64, (edge as i64).wrapping_neg()] {
                let bytes = written(|w| w.int(value));
                assert_eq!(bytes, reference(value));
                assert_eq!(Reader::new(&bytes, 9).unwrap().int("x"), Ok(value));
            }
        }
        assert!(Reader::new(&reference(u64::MAX), 9).unwrap().int("x").is_err());
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
        fn floats_match_another_encoder(bits in any::<u64>(), single in any::<f32>()) {
            for value in [f64::from_bits(bits), f64::from(single), f64::from((bits % 4096) as u32) / 64.0] {
                if value.is_finite() {
                    check_float(value);
                }
            }
        }
    }
}
