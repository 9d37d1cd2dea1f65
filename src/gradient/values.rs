//! Elements as numbers: floats of two, four or eight bytes, little-endian, to `f64` and back, rounding to nearest even.

use half::{bf16, f16};

/// An element type that can be averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl Float {
    /// The type that safetensors calls so.
    pub(super) fn of(dtype: &str) -> Option<Float> {
        Some(match dtype {
            "F16" => Float::F16,
            "BF16" => Float::Bf16,
            "F32" => Float::F32,
            "F64" => Float::F64,
            _ => return None,
        })
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Float::F16 | Float::Bf16 => 2,
            Float::F32 => 4,
            Float::F64 => 8,
        }
    }

    /// Reads as many elements as `values` has room for.
    pub(super) fn read(self, bytes: &[u8], values: &mut [f64]) {
        match self {
            Float::F16 => read(bytes, values, |two| f16::from_le_bytes(two).to_f64()),
            Float::Bf16 => read(bytes, values, |two| bf16::from_le_bytes(two).to_f64()),
            Float::F32 => read(bytes, values, |four| f32::from_le_bytes(four).into()),
            Float::F64 => read(bytes, values, f64::from_le_bytes),
        }
    }

    /// Appends `values`.
    pub(super) fn write(self, values: &[f64], out: &mut Vec<u8>) {
        match self {
            Float::F16 => values.iter().for_each(|value| out.extend_from_slice(&f16::from_f64(*value).to_le_bytes())),
            Float::Bf16 => values.iter().for_each(|value| out.extend_from_slice(&bf16::from_f64(*value).to_le_bytes())),
            Float::F32 => values.iter().for_each(|value| out.extend_from_slice(&(*value as f32).to_le_bytes())),
            Float::F64 => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
        }
    }
}

fn read<const N: usize>(bytes: &[u8], values: &mut [f64], from: impl Fn([u8; N]) -> f64) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, element) in values.iter_mut().zip(elements) {
        *value = from(*element);
    }
}
