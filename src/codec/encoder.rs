//! [`Encoder`]: the smallest encoding of a chunk, without trying all of them.
//!
//! Invariant: what [`Encoder::encode`] leaves decodes to the same bytes under the codec that it returns, and is shorter than the
//! plain bytes by 1/64 at least, or the codec is raw. Samples decide which encodings are tried; equal input, width, effort and
//! history-free contexts make the output a function of the input alone.

use super::delta;
use super::entropy;
use super::frame::FrameWriter;
use super::planes::PlanesWriter;
use crate::chunk::{Codec, ElementWidth};
use crate::limits;

/// An encoding must save this part of a chunk: less is not worth its decoding.
const WORTH_PART: usize = 64;

/// A difference to a base must save this part of the stand-alone encoding: less is not worth reading the base.
const DELTA_WORTH_PART: usize = 20;

/// Chunks up to this length are cheaper to encode both ways than to sample.
const SMALL_BYTES: usize = 16 << 10;

/// Pieces and bytes of a piece on which matches are tried before the whole chunk is.
const TRIAL: (usize, usize) = (4, 4 << 10);

/// Over this many bits a byte in every sample, nothing is tried.
const RANDOM_BITS: f32 = 7.85;

/// Two estimates closer than this factor are too close to call: both encodings are tried.
const CLOSE: f32 = 0.9;

/// How much time an encoding may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// zstd at level 1, and no second try on planes that may hold matches: gradients take two thirds of the time and up to a sixth
    /// more bytes, dense weights the same of both.
    Fast,
    /// zstd at level 3, and every encoding that may pay.
    #[default]
    Default,
    /// As the default, and differences to a base in the form that takes most time: for archives.
    Compact,
}

/// Encodes chunks. One per worker: contexts and buffers are kept from chunk to chunk, and new ones cost 15–45 % of the speed.
pub struct Encoder {
    planes: PlanesWriter,
    frames: FrameWriter,
    trial: FrameWriter,
    second: Vec<u8>,
    difference: Vec<u8>,
}

/// The encodings worth trying on a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Raw,
    Zstd,
    Planes(usize),
    Both(usize),
}

impl Encoder {
    /// An encoder that takes the time that `effort` allows.
    pub fn new(effort: Effort) -> Encoder {
        let level = match effort {
            Effort::Fast => 1,
            Effort::Default | Effort::Compact => 3,
        };
        Encoder {
            planes: PlanesWriter::new(effort != Effort::Fast),
            frames: FrameWriter::with_level(level),
            trial: FrameWriter::with_level(1),
            second: Vec::new(),
            difference: Vec::new(),
        }
    }

    /// Encodes `plain`, elements of `width`, into `out`, which is cleared first.
    ///
    /// Returns [`Codec::Raw`] and leaves `out` empty where no encoding saves 1/64 of the chunk: then the plain bytes are what to
    /// store, and nothing is copied. Never fails: an encoding that libzstd refuses is not a candidate, and what is longer than
    /// [`limits::CHUNK_BYTES`] is no chunk and stays raw.
    pub fn encode(&mut self, plain: &[u8], width: ElementWidth, out: &mut Vec<u8>) -> Codec {
        out.clear();
        if plain.len() > limits::CHUNK_BYTES {
            return Codec::Raw;
        }
        let codec = match self.plan(plain, width) {
            Plan::Raw => Codec::Raw,
            Plan::Zstd => self.zstd(plain, out),
            Plan::Planes(width) => {
                self.planes.append(plain, width, out);
                // Planes that shrink this much are sparse or regular, and such data may hold matches across planes.
                if width > 1 && out.len() < plain.len() / 2 { self.smaller(plain, out) } else { Codec::Planes }
            }
            Plan::Both(width) => {
                self.planes.append(plain, width, out);
                self.smaller(plain, out)
            }
        };
        if codec != Codec::Raw && out.len() + plain.len().div_ceil(WORTH_PART) <= plain.len() {
            return codec;
        }
        out.clear();
        Codec::Raw
    }

    /// Encodes `plain` as [`encode`](Encoder::encode) does, or as differences to `base` where that saves another twentieth.
    ///
    /// `base` is the plain bytes of another chunk, of any length; a delta decodes only with the same bytes at hand.
    pub fn encode_against(&mut self, plain: &[u8], width: ElementWidth, base: &[u8], out: &mut Vec<u8>) -> Codec {
        let alone = self.encode(plain, width, out);
        if plain.len() > limits::CHUNK_BYTES || base.is_empty() {
            return alone;
        }
        let alone_len = if alone == Codec::Raw { plain.len() } else { out.len() };
        self.second.clear();
        let width = width.bytes().unwrap_or(0);
        delta::append(&mut self.planes, plain, width, base, &mut self.difference, &mut self.second);
        if self.second.len() + alone_len.div_ceil(DELTA_WORTH_PART) > alone_len {
            return alone;
        }
        std::mem::swap(out, &mut self.second);
        Codec::Delta
    }

    /// Encodes `plain`, a document of any length such as a manifest, as one zstd frame in `out`; [`Codec::Raw`] and an empty `out`
    /// where that is not smaller.
    pub fn encode_frame(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        out.clear();
        match self.frames.append(plain, out) {
            Some(len) if len < plain.len() => Codec::Zstd,
            _ => {
                out.clear();
                Codec::Raw
            }
        }
    }

    /// Makes `out` a zstd frame.
    fn zstd(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        self.frames.append(plain, out).map_or(Codec::Raw, |_| Codec::Zstd)
    }

    /// Puts a zstd frame in the place of the planes in `out`, if it is smaller.
    fn smaller(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        self.second.clear();
        match self.frames.append(plain, &mut self.second) {
            Some(len) if len < out.len() => {
                std::mem::swap(out, &mut self.second);
                Codec::Zstd
            }
            _ => Codec::Planes,
        }
    }

    /// What to try. A known width is taken at its word: on the data that it stands for, zstd on the whole chunk never won.
    fn plan(&mut self, plain: &[u8], width: ElementWidth) -> Plan {
        // Zeros are common, and one constant plane is the shortest encoding there is.
        if entropy::constant(plain).is_some() {
            return Plan::Planes(1);
        }
        if let ElementWidth::Two | ElementWidth::Four | ElementWidth::Eight = width
            && let Some(width) = width.bytes()
        {
            return if plain.len() < SMALL_BYTES { Plan::Both(width) } else { Plan::Planes(width) };
        }
        let (width, planes_bits) = match width {
            ElementWidth::Unknown => entropy::probe_width(plain),
            _ => (1, entropy::bits(plain)),
        };
        if plain.len() < SMALL_BYTES {
            return Plan::Both(width);
        }
        let zstd_bits = self.try_matches(plain);
        if planes_bits.min(zstd_bits) > RANDOM_BITS {
            // Copies further apart than a piece is long are all that the trial can have missed.
            return if entropy::repeats(plain) > 1.0 / WORTH_PART as f32 { Plan::Zstd } else { Plan::Raw };
        }
        if zstd_bits < CLOSE * planes_bits {
            Plan::Zstd
        } else if planes_bits < CLOSE * zstd_bits {
            Plan::Planes(width)
        } else {
            Plan::Both(width)
        }
    }

    /// Bits a byte that a few pieces of `plain` take with matches.
    fn try_matches(&mut self, plain: &[u8]) -> f32 {
        let (count, len) = TRIAL;
        let (mut taken, mut coded) = (0, 0);
        for piece in entropy::pieces(plain, count, len) {
            self.second.clear();
            taken += piece.len();
            coded += self.trial.append(piece, &mut self.second).unwrap_or(piece.len());
        }
        8.0 * coded as f32 / taken.max(1) as f32
    }
}
