//! [`Decoder`]: a chunk's plain bytes from its encoding.
//!
//! Invariant: on success the output has exactly the expected length, on failure its content is unspecified; whatever the
//! stored bytes are, nothing panics and no more than the plain length is allocated. That the bytes are the right ones is for
//! the caller to check, by the chunk's hash.

use super::CodecError;
use super::delta;
use super::delta_ctx::DeltaCtxReader;
use super::frame::FrameReader;
use super::patch::PatchReader;
use super::planes::PlanesReader;
use crate::chunk::Codec;
use crate::limits;

/// Decodes chunks. One per worker: contexts and buffers are kept from chunk to chunk.
pub struct Decoder {
    planes: PlanesReader,
    frames: FrameReader,
    contexts: DeltaCtxReader,
    patch: PatchReader,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder of every codec in [`Codec::ALL`].
    pub fn new() -> Decoder {
        let (planes, frames) = (PlanesReader::new(), FrameReader::new());
        Decoder { planes, frames, contexts: DeltaCtxReader::new(), patch: PatchReader::new() }
    }

    /// Decodes `stored` into `out`, which becomes `plain_len` bytes long; what it held before is lost.
    ///
    /// `base` are the plain bytes of the chunk that a delta was taken against; other codecs ignore it.
    pub fn decode(
        &mut self,
        codec: Codec,
        stored: &[u8],
        plain_len: usize,
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        check_len(plain_len)?;
        // Not cleared first: only growth needs zeroes, the rest is overwritten.
        out.resize(plain_len, 0);
        self.decode_into(codec, stored, base, out)
    }

    /// Decodes `stored` into `out`, which it must fill exactly.
    pub fn decode_into(
        &mut self,
        codec: Codec,
        stored: &[u8],
        base: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        check_len(out.len())?;
        match codec {
            Codec::Raw if stored.len() == out.len() => {
                out.copy_from_slice(stored);
                Ok(())
            }
            Codec::Raw if stored.len() < out.len() => Err(CodecError::Truncated),
            Codec::Raw => Err(CodecError::Invalid("more raw bytes than the chunk has")),
            Codec::Zstd => self.frames.read(stored, out),
            Codec::Planes => self.planes.read(stored, out),
            Codec::Delta => {
                let base = base.ok_or(CodecError::BaseMissing(codec))?;
                delta::read(&mut self.planes, stored, base, out)
            }
            Codec::DeltaCtx => {
                let base = base.ok_or(CodecError::BaseMissing(codec))?;
                self.contexts.read(stored, base, out)
            }
            Codec::Patch => {
                let base = base.ok_or(CodecError::BaseMissing(codec))?;
                self.patch.read(stored, base, out)
            }
        }
    }

    /// Decodes the zstd frame of a document of `plain_len` bytes, at most [`limits::MANIFEST_BYTES`].
    pub fn decode_frame(&mut self, stored: &[u8], plain_len: usize) -> Result<Vec<u8>, CodecError> {
        if plain_len > limits::MANIFEST_BYTES {
            return Err(CodecError::TooLong { plain_len });
        }
        let mut out = vec![0; plain_len];
        self.frames.read(stored, &mut out)?;
        Ok(out)
    }
}

fn check_len(plain_len: usize) -> Result<(), CodecError> {
    if plain_len > limits::CHUNK_BYTES {
        return Err(CodecError::TooLong { plain_len });
    }
    Ok(())
}
