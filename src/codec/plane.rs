//! One plane of bytes coded on its own: the part that every codec of planes shares.
//!
//! Invariant: a coded plane is never longer than the plane (one byte for a constant one), and its plain length is known from
//! outside. To a reader a plane is constant, raw, one zstd frame or, in a delta, rANS; which serves best is the writer's guess.

use super::CodecError;
use super::entropy::{self, Histogram};
use super::frame::{FrameReader, FrameWriter};
use super::plane_rans::{RansReader, RansWriter};

/// Over this many bits a byte, Huffman codes save less than the time that they take.
const RAW_BITS: f32 = 7.85;

/// Under this many bits a byte, a code of at least one bit a byte is far off, and runs are likely: matches pay.
const MATCH_BITS: f32 = 1.5;

/// Over this share of repeated words, matches may pay whatever the entropy: rows that are there twice, ascending indices.
const MATCH_REPEATS: f32 = 0.03;

/// The same where time counts for more than the last points: only what repeats so much that matches are sure to pay.
const FAST_MATCH_REPEATS: f32 = 0.3;

/// Differences from this many bits a byte on are coded by rANS: of fewer, long matches are read faster and take hardly more.
const LEAST_RANS_BITS: f32 = 0.3;

/// Differences under this many bits a byte are coded by rANS: of more, it saves a tenth over Huffman codes and takes twice their time.
const RANS_BITS: f32 = 1.5;

/// Neighbours that differ less often than this part of what chance says come in runs: matches may take less than frequencies.
const RUNS: f32 = 0.85;

/// The same where matches take less for certain.
const LONG_RUNS: f32 = 0.2;

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
    /// By frequencies (`plane_rans.rs`): only the planes of a delta.
    Rans = 3,
}

impl PlaneMode {
    /// The mode of a mode byte of any codec.
    pub(super) fn from_byte(byte: u8) -> Option<PlaneMode> {
        match byte {
            0 => Some(PlaneMode::Constant),
            1 => Some(PlaneMode::Raw),
            2 => Some(PlaneMode::Zstd),
            _ => None,
        }
    }

    /// The mode of a mode byte of a delta.
    pub(super) fn of_delta(byte: u8) -> Option<PlaneMode> {
        if byte == PlaneMode::Rans as u8 { Some(PlaneMode::Rans) } else { PlaneMode::from_byte(byte) }
    }
}

/// Codes planes.
pub(super) struct PlaneWriter {
    literals: FrameWriter,
    matches: FrameWriter,
    rans: Option<RansWriter>,
    thorough: bool,
    coded: Vec<u8>,
}

/// The codings worth trying on a plane.
#[derive(Clone, Copy)]
struct Tries {
    literals: bool,
    matches: bool,
    rans: bool,
}

impl PlaneWriter {
    /// A writer that tries matches wherever they may pay if `thorough`, else only where they surely do.
    pub(super) fn new(thorough: bool) -> PlaneWriter {
        let (literals, matches) = (FrameWriter::literals_only(), FrameWriter::with_level(1));
        PlaneWriter { literals, matches, rans: None, thorough, coded: Vec::new() }
    }

    /// The same for the planes of a delta, which may be [`PlaneMode::Rans`] too.
    pub(super) fn of_delta(thorough: bool) -> PlaneWriter {
        PlaneWriter { rans: Some(RansWriter::new()), ..PlaneWriter::new(thorough) }
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
        let histogram =
            (self.rans.is_some() && (LEAST_RANS_BITS..RANS_BITS).contains(&bits)).then(|| Histogram::of([plane]));
        let tries = match &histogram {
            Some(histogram) => tries_of_few_bits(plane, histogram),
            None => self.tries(plane, bits),
        };
        let mut best = (PlaneMode::Raw, plane.len());
        for (tried, frames) in [(tries.literals, &mut self.literals), (tries.matches, &mut self.matches)] {
            let start = self.coded.len();
            let len = if tried { frames.append(plane, &mut self.coded) } else { None };
            keep_shorter((PlaneMode::Zstd, len), start, &mut best, &mut self.coded);
        }
        if let (Some(rans), Some(histogram), true) = (&mut self.rans, &histogram, tries.rans) {
            let start = self.coded.len();
            let len = rans.append(plane, histogram, &mut self.coded);
            keep_shorter((PlaneMode::Rans, len), start, &mut best, &mut self.coded);
        }
        match best {
            (PlaneMode::Raw, _) => (PlaneMode::Raw, None),
            (mode, _) => (mode, Some(&self.coded)),
        }
    }

    /// What to try without rANS.
    fn tries(&self, plane: &[u8], bits: f32) -> Tries {
        let least_repeats = if self.thorough { MATCH_REPEATS } else { FAST_MATCH_REPEATS };
        let repeats = self.thorough && plane.len() <= SMALL_BYTES
            || entropy::repeats(plane) > least_repeats + chance_of_repeats(plane.len(), bits);
        let (literals, matches) = ((MATCH_BITS..RAW_BITS).contains(&bits), bits < MATCH_BITS || repeats);
        Tries { literals, matches, rans: false }
    }
}

/// What to try on differences of few bits a byte.
///
/// Under two bits any words of eight bytes repeat by chance, so runs tell where matches may pay: zeros of rows that did not move.
fn tries_of_few_bits(plane: &[u8], histogram: &Histogram) -> Tries {
    if plane.len() <= SMALL_BYTES {
        return Tries { literals: false, matches: true, rans: true };
    }
    let changes = entropy::changes(plane) / (1.0 - histogram.collisions()).max(f32::MIN_POSITIVE);
    Tries { literals: false, matches: changes < RUNS, rans: changes >= LONG_RUNS }
}

/// Makes `coded`, of which a try wrote what follows `start`, the shorter of it and what was the best before.
fn keep_shorter(
    (mode, len): (PlaneMode, Option<usize>),
    start: usize,
    best: &mut (PlaneMode, usize),
    coded: &mut Vec<u8>,
) {
    match len {
        Some(len) if len < best.1 => {
            coded.drain(..start);
            *best = (mode, len);
        }
        _ => coded.truncate(start),
    }
}

/// The share of repeated words to expect in `len` independent bytes of `bits` entropy, somewhat over.
///
/// Words of eight bytes collide by Rényi's entropy, about a fifth below Shannon's on exponents: 6.5 times `bits` rather than 8.
fn chance_of_repeats(len: usize, bits: f32) -> f32 {
    (len / entropy::REPEAT_STRIDE) as f32 * (-6.5 * bits).exp2()
}

/// Decodes planes.
pub(super) struct PlaneReader {
    frames: FrameReader,
    rans: Option<RansReader>,
}

impl PlaneReader {
    pub(super) fn new() -> PlaneReader {
        PlaneReader { frames: FrameReader::new(), rans: None }
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
            (PlaneMode::Rans, coded) => self.rans.get_or_insert_with(RansReader::new).read(coded, room)?,
            _ => return Err(CodecError::Invalid("the length of a plane does not fit its mode")),
        }
        Ok(room)
    }
}
