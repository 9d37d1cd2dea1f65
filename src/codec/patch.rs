//! The payload of [`Codec::Patch`](crate::chunk::Codec::Patch): one zstd frame that takes matches from the base chunk too.
//!
//! For bytes that move, such as text, code and archives: what an edit left stands in the base, at another place. The base serves as a
//! dictionary of raw content (RFC 8878, section 5), so any zstd that is given it reads the frame. A base that is itself a zstd dictionary is
//! used as one, by both sides: libzstd tells by its first bytes.
//!
//! Invariant: as for a delta. Decoding needs no room but the plain length.

use zstd_safe::CCtx;

use super::CodecError;
use super::frame::{LazyContext, check_frame, explain};

/// Writes payloads.
pub(super) struct PatchWriter {
    context: CCtx<'static>,
    level: i32,
}

impl PatchWriter {
    /// A writer at a compression level.
    pub(super) fn with_level(level: i32) -> PatchWriter {
        PatchWriter { context: CCtx::create(), level }
    }

    /// Makes `out` the frame of `plain` with `base` as its dictionary; false with an empty `out` if libzstd fails.
    pub(super) fn write(&mut self, plain: &[u8], base: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        let written = self.context.compress_using_dict(out, plain, base, self.level).is_ok();
        if !written {
            out.clear();
        }
        written
    }
}

/// Reads payloads.
pub(super) struct PatchReader {
    context: LazyContext,
}

impl PatchReader {
    pub(super) fn new() -> PatchReader {
        PatchReader { context: LazyContext::default() }
    }

    /// Decodes `stored`, one frame, into `out`, which it must fill.
    pub(super) fn read(&mut self, stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        check_frame(stored)?;
        let written = self.context.get().decompress_using_dict(out, stored, base).map_err(explain)?;
        if written != out.len() {
            return Err(CodecError::Invalid("the zstd frame is shorter than its chunk"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_text_takes_little_and_comes_back_with_its_base_alone() {
        let base: Vec<u8> = (0..4000).flat_map(|n| format!("line {n} of {}\n", n * n % 977).into_bytes()).collect();
        let mut plain = base.clone();
        plain.splice(1000..1010, *b"something else");
        let mut stored = Vec::new();
        assert!(PatchWriter::with_level(3).write(&plain, &base, &mut stored));
        assert!(stored.len() < 300, "{}", stored.len());
        let mut out = vec![0; plain.len()];
        let mut reader = PatchReader::new();
        reader.read(&stored, &base, &mut out).unwrap();
        assert!(out == plain);
        for other in [&[][..], b"other", &base[..1000]] {
            let mut out = vec![0; plain.len()];
            assert!(reader.read(&stored, other, &mut out).is_err() || out != plain);
        }
        for cut in 0..stored.len() {
            assert!(reader.read(&stored[..cut], &base, &mut out).is_err());
        }
        assert!(reader.read(&stored, &base, &mut out[..100]).is_err());
        assert!(reader.read(&stored, &base, &mut vec![0; plain.len() + 1]).is_err());
    }

    #[test]
    fn a_base_that_looks_like_a_trained_dictionary_does_no_harm() {
        let base = [&0xec30_a437_u32.to_le_bytes()[..], &[7; 2000]].concat();
        let plain = [&base[4..], b"and more"].concat();
        let mut stored = Vec::new();
        if PatchWriter::with_level(3).write(&plain, &base, &mut stored) {
            let mut out = vec![0; plain.len()];
            PatchReader::new().read(&stored, &base, &mut out).unwrap();
            assert!(out == plain);
        }
    }
}
