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

/// Over this share of repeated words, matches may pay whatever the entropy: rows that are there twice, ascending indices.
const MATCH_REPEATS: f32 = 0.03;

/// The same where time counts for more than the last points: only what repeats so much that matches are sure to pay.
const FAST_MATCH_REPEATS: f32 = 0.3;

/// Planes up to this length are cheaper to code both ways than to judge: too few of their words are sampled.
const SMALL_BYTES: usize = 8 << 10;

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
    thorough: bool,
    coded: Vec<u8>,
}

impl PlaneWriter {
    /// A writer that tries matches wherever they may pay if `thorough`, else only where they surely do.
    pub(super) fn new(thorough: bool) -> PlaneWriter {
        let (literals, matches) = (FrameWriter::literals_only(), FrameWriter::with_level(1));
        PlaneWriter { literals, matches, thorough, coded: Vec::new() }
    }

    /// Appends `plane` in its smallest form to `out`.
    pub(super) fn append(&mut self, plane: &[u8], out: &mut Vec<u8>) -> PlaneMode {
        let (mode, coded) = self.code(plane);
        out.extend_from_slice(coded.unwrap_or(plane));
        mode
    }

    /// Finds the smallest form of `plane`: how it is kept, and the bytes of that, or `None` where they are the plane's own.
    pub(super) fn code(&mut self, plane: &[u8]) -> (PlaneMode, Option<&[u8]>) {
        self.coded.clear();
        if let Some(byte) = entropy::constant(plane) {
            self.coded.push(byte);
            return (PlaneMode::Constant, Some(&self.coded));
        }
        let bits = entropy::bits(plane);
        let least_repeats = if self.thorough { MATCH_REPEATS } else { FAST_MATCH_REPEATS };
        let repeats = self.thorough && plane.len() <= SMALL_BYTES
            || entropy::repeats(plane) > least_repeats + chance_of_repeats(plane.len(), bits);
        let (literals, matches) = ((MATCH_BITS..RAW_BITS).contains(&bits), bits < MATCH_BITS || repeats);
        let mut shortest = None;
        for (tried, frames) in [(literals, &mut self.literals), (matches, &mut self.matches)] {
            if tried {
                shortest = append_if_shorter(frames, plane, 0, &mut self.coded);
            }
        }
        match shortest.is_some_and(|len| len < plane.len()) {
            true => (PlaneMode::Zstd, Some(&self.coded)),
            false => (PlaneMode::Raw, None),
        }
    }
}

/// The share of repeated words to expect in `len` independent bytes of `bits` entropy, somewhat over.
///
/// Words of eight bytes collide by Rényi's entropy, about a fifth below Shannon's on exponents: 6.5 times `bits` rather than 8.
fn chance_of_repeats(len: usize, bits: f32) -> f32 {
    (len / entropy::REPEAT_STRIDE) as f32 * (-6.5 * bits).exp2()
}

/// Makes what follows `start` in `out` the frame of `plane`, unless a shorter frame is there already. Returns the length there.
fn append_if_shorter(frames: &mut FrameWriter, plane: &[u8], start: usize, out: &mut Vec<u8>) -> Option<usize> {
    let end = out.len();
    let len = frames.append(plane, out);
    match (end - start, len) {
        (0, len) => len,
        (first, Some(len)) if len < first => {
            out.drain(start..end);
            Some(len)
        }
        (first, _) => {
            out.truncate(end);
            Some(first)
        }
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
