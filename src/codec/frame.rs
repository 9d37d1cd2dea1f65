//! One zstd frame, written and read in one shot through contexts that live as long as their worker.
//!
//! Invariant: what [`FrameWriter`] writes is a standard frame (no dictionary, no checksum, no content size: the length and
//! the hash of the plain bytes are known from outside), and [`FrameReader`] accepts exactly one frame that fills its output
//! exactly. One-shot decoding needs no window buffer, so a frame cannot make the reader allocate.

use std::io::Cursor;

use zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd_safe::{CCtx, CParameter, DCtx, ParamSwitch};

use super::CodecError;

/// The first bytes of every zstd frame; skippable frames start otherwise.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Writes frames with one set of parameters.
pub(super) struct FrameWriter {
    context: CCtx<'static>,
}

impl FrameWriter {
    /// A writer of frames at a compression level.
    pub(super) fn with_level(level: i32) -> FrameWriter {
        FrameWriter::with(&[CParameter::CompressionLevel(level)])
    }

    /// A writer that codes bytes by their frequency alone.
    ///
    /// The lowest level skips ahead so fast that it looks for practically no matches, and with literal compression forced on
    /// all that is left is libzstd's Huffman coder. On the exponents of weights, matches cost more than they save.
    pub(super) fn literals_only() -> FrameWriter {
        FrameWriter::with(&[
            CParameter::CompressionLevel(zstd_safe::min_c_level()),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ])
    }

    fn with(parameters: &[CParameter]) -> FrameWriter {
        let mut context = CCtx::create();
        let frame =
            [CParameter::ContentSizeFlag(false), CParameter::ChecksumFlag(false), CParameter::DictIdFlag(false)];
        for parameter in parameters.iter().chain(&frame) {
            // A refused parameter would cost bytes, never correctness: every frame is a frame.
            let _ = context.set_parameter(*parameter);
        }
        FrameWriter { context }
    }

    /// Appends the frame of `plain` to `out` and returns its length, or `None` with `out` as it was if libzstd fails.
    pub(super) fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        let mut end = Cursor::new(&mut *out);
        end.set_position(start as u64);
        let written = self.context.compress2(&mut end, plain).ok();
        if written.is_none() {
            out.truncate(start);
        }
        written
    }
}

/// Reads frames.
pub(super) struct FrameReader {
    context: LazyContext,
}

/// A context of libzstd's, made when it is first used: it takes longer than many a read does that needs none.
#[derive(Default)]
pub(super) struct LazyContext(Option<DCtx<'static>>);

impl LazyContext {
    pub(super) fn get(&mut self) -> &mut DCtx<'static> {
        self.0.get_or_insert_with(DCtx::create)
    }
}

impl FrameReader {
    pub(super) fn new() -> FrameReader {
        FrameReader { context: LazyContext::default() }
    }

    /// Decodes `stored`, one frame, into `out`, which it must fill.
    pub(super) fn read(&mut self, stored: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        check_frame(stored)?;
        let written = self.context.get().decompress(out, stored).map_err(explain)?;
        if written != out.len() {
            return Err(CodecError::Invalid("the zstd frame is shorter than its chunk"));
        }
        Ok(())
    }
}

/// Checks that `stored` is exactly one frame, by its headers.
pub(super) fn check_frame(stored: &[u8]) -> Result<(), CodecError> {
    let magic = stored.get(..MAGIC.len()).ok_or(CodecError::Truncated)?;
    if magic != MAGIC {
        return Err(CodecError::Invalid("not a zstd frame"));
    }
    match zstd_safe::find_frame_compressed_size(stored).map_err(explain)? == stored.len() {
        true => Ok(()),
        false => Err(CodecError::Invalid("bytes follow the zstd frame")),
    }
}

/// What an error of libzstd means for a chunk.
pub(super) fn explain(code: zstd_safe::ErrorCode) -> CodecError {
    let is = |kind| zstd_safe::is_error_kind(code, kind);
    if is(ZSTD_ErrorCode::ZSTD_error_srcSize_wrong) {
        CodecError::Truncated
    } else if is(ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) {
        CodecError::Invalid("the zstd frame is longer than its chunk")
    } else {
        CodecError::Invalid(zstd_safe::get_error_name(code))
    }
}
