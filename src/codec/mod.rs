//! How a chunk's bytes are kept: [`Encoder`] picks the smallest encoding that pays, [`Decoder`] undoes it.
//!
//! | codec | payload | for |
//! |---|---|---|
//! | raw | the plain bytes | what nothing shortens by 1/64 |
//! | zstd | one standard zstd frame | text, code, whatever repeats |
//! | planes | byte planes of the elements (byte map in `planes.rs`) | weights and gradients, whose exponents repeat and whose mantissas are noise |
//! | delta | differences to a base chunk's elements, in planes (byte map in `delta.rs`) | the same tensor of an earlier version |
//! | delta-ctx | the same differences, each coded in the context of its base (byte map in `delta_ctx.rs`, model in `context.rs`) | the same, in archives |
//! | patch | one zstd frame with a base chunk as its dictionary (`patch.rs`) | an earlier version of text, code, archives |
//!
//! **Why planes.** A trained weight's exponent takes a few of its 256 values most of the time, its mantissa all values alike. Side by
//! side the two hide each other from a byte-wise coder; apart, the exponents shrink to a third and the mantissas are copied.
//! **Why no matches.** On exponent planes, Huffman codes alone are both smaller and faster than LZ77: chance matches of noise cost more than
//! they save. libzstd does that too when asked (`frame.rs`), so every coded plane is a standard zstd frame.
//!
//! **Why differences as integers.** A step of training moves every float a little, so no bytes repeat. As integers in the order of their values
//! two close floats differ by a small number, across powers of two and zero as well, where the bytes of a difference by XOR do not.
//!
//! The layer is pure: values in, values out, no clock, no I/O, no threads. A chunk is at most
//! [`CHUNK_BYTES`](crate::limits::CHUNK_BYTES) long, and stored bytes are hostile until the chunk's hash says otherwise.

mod bits;
mod context;
mod decoder;
mod delta;
mod delta_ctx;
mod delta_ctx_writer;
mod difference;
mod encoder;
mod entropy;
mod frame;
mod numbers;
mod patch;
mod plane;
mod plane_rans;
mod planes;
mod rans;
mod transpose;

pub use decoder::Decoder;
pub use encoder::{Effort, Encoder};

use crate::chunk::Codec;
use crate::limits;

/// Why stored bytes do not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The stored bytes end before the chunk is complete.
    #[error("the encoded chunk ends too early")]
    Truncated,

    /// The stored bytes are not what this codec writes, or hold another number of plain bytes.
    #[error("the encoded chunk is not valid: {0}")]
    Invalid(&'static str),

    /// A delta without the chunk that it was taken against.
    #[error("a chunk encoded as {0} cannot be decoded without its base")]
    BaseMissing(Codec),

    /// The plain length is over the limit, so nothing was allocated for it.
    #[error("a chunk of {plain_len} bytes is over the limit of {}", limits::CHUNK_BYTES)]
    TooLong {
        /// Plain bytes.
        plain_len: usize,
    },
}
