//! One plane of bytes coded on its own: the part that every codec of planes shares.
//!
//! Invariant: a coded plane is never longer than the plane (one byte for a constant one), and its plain length is known from
//! outside. To a reader a plane is constant, raw or one zstd frame; which frame serves best is the writer's guess.

use super::CodecError;
use super::entropy;
use super::frame::{FrameReader, FrameWriter};

/// Over this many bits a byte, Huffman codes save less than the time that they take.
const RAW_BITS: f32 = 7.85;

/// Under this many bits a byte, a code of at least one bit a byte is far off, and runs are likely: matches pay.
const MATCH_BITS: f32 = 1.5;

/// Over this share of repeated words, matches pay whatever the entropy: rows that are there twice, ascending indices.
const MATCH_REPEATS: f32 = 0.3;

/// How a plane is kept. The number is its mode byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum PlaneMode {
    /// One byte that every byte of the plane equals.
    Constant = 0,
    /// The plane itself.
    Raw = 1,
    /// One zstd frame.
    Zstd = 2,
}

impl PlaneMode {
    /// The mode of a mode byte.
    pub(super) fn from_byte(byte: u8) -> Option<PlaneMode> {
        match byte {
            0 => Some(PlaneMode::Constant),
            1 => Some(PlaneMode::Raw),
            2 => Some(PlaneMode::Zstd),
            _ => None,
        }
    }
}

/// Codes planes.
pub(super) struct PlaneWriter {
    literals: FrameWriter,
    matches: FrameWriter,
}

impl PlaneWriter {
    pub(super) fn new() -> PlaneWriter {
        PlaneWriter { literals: FrameWriter::literals_only(), matches: FrameWriter::with_level(1) }
    }

    /// Appends `plane` in its smallest form to `out`.
    pub(super) fn append(&mut self, plane: &[u8], out: &mut Vec<u8>) -> PlaneMode {
        if let [first, rest @ ..] = plane
            && *rest == plane[..rest.len()]
        {
            out.push(*first);
            return PlaneMode::Constant;
        }
        let bits = entropy::bits(plane);
        let matches = bits < MATCH_BITS || entropy::repeats(plane) > MATCH_REPEATS;
        let start = out.len();
        if matches || bits < RAW_BITS {
            let frames = if matches { &mut self.matches } else { &mut self.literals };
            if frames.append(plane, out).is_some_and(|len| len < plane.len()) {
                return PlaneMode::Zstd;
            }
        }
        out.truncate(start);
        out.extend_from_slice(plane);
        PlaneMode::Raw
    }
}

/// Decodes planes.
pub(super) struct PlaneReader {
    frames: FrameReader,
}

impl PlaneReader {
    pub(super) fn new() -> PlaneReader {
        PlaneReader { frames: FrameReader::new() }
    }

    /// The plane that `stored` holds, as long as `room`: `stored` itself where it is raw, else decoded into `room`.
    pub(super) fn read<'a>(
        &mut self,
        mode: PlaneMode,
        stored: &'a [u8],
        room: &'a mut [u8],
    ) -> Result<&'a [u8], CodecError> {
        match (mode, stored) {
            (PlaneMode::Constant, [byte]) => room.fill(*byte),
            (PlaneMode::Raw, plane) if plane.len() == room.len() => return Ok(plane),
            (PlaneMode::Zstd, frame) => self.frames.read(frame, room)?,
            _ => return Err(CodecError::Invalid("the length of a plane does not fit its mode")),
        }
        Ok(room)
    }
}
