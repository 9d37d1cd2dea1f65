//! First bytes of CBOR items, and half-precision floats: what [`Reader`](super::Reader) and [`Writer`](super::Writer) share.

use std::fmt;

/// The major types of CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Major {
    Unsigned = 0,
    Negative = 1,
    Bytes = 2,
    Text = 3,
    Array = 4,
    Map = 5,
    Tag = 6,
    Simple = 7,
}

impl Major {
    pub(super) const fn of(initial: u8) -> Major {
        match initial >> 5 {
            0 => Major::Unsigned,
            1 => Major::Negative,
            2 => Major::Bytes,
            3 => Major::Text,
            4 => Major::Array,
            5 => Major::Map,
            6 => Major::Tag,
            _ => Major::Simple,
        }
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Major::Unsigned => "an unsigned integer",
            Major::Negative => "a negative integer",
            Major::Bytes => "a byte string",
            Major::Text => "a text",
            Major::Array => "an array",
            Major::Map => "a map",
            Major::Tag => "a tag",
            Major::Simple => "a float or simple value",
        })
    }
}

pub(super) const FALSE: u8 = 0xf4;
pub(super) const TRUE: u8 = 0xf5;
pub(super) const F16: u8 = 0xf9;
pub(super) const F32: u8 = 0xfa;
pub(super) const F64: u8 = 0xfb;

/// The half-precision number that equals `value`, if there is one.
pub(super) fn f16_bits(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let significand = bits & 0x007f_ffff;
    let magnitude = match (bits >> 23 & 0xff) as i32 - 127 {
        -127 => 0,
        exponent @ -24..=-15 => (significand | 0x0080_0000) >> (-1 - exponent),
        exponent @ -14..=15 => ((exponent + 15) as u32) << 10 | significand >> 13,
        _ => return None,
    };
    let half = sign | magnitude as u16;
    (f16_value(half).to_bits() == f64::from(value).to_bits()).then_some(half)
}

pub(super) fn f16_value(half: u16) -> f64 {
    let significand = f64::from(half & 0x3ff);
    let magnitude = match i32::from(half >> 10 & 0x1f) {
        0 => significand * 2f64.powi(-24),
        0x1f if significand == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        exponent => (significand + 1024.0) * 2f64.powi(exponent - 25),
    };
    if half & 0x8000 == 0 { magnitude } else { -magnitude }
}
