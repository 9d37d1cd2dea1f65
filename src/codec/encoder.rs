//! [`Encoder`]: the smallest encoding of a chunk, without trying all of them.
//!
//! Invariant: what [`Encoder::encode`] leaves decodes to the same bytes under the codec that it returns, and is shorter than the
//! plain bytes by 1/64 at least, or the codec is raw. Samples decide which encodings are tried; equal input, width, effort and
//! history-free contexts make the output a function of the input alone.

use super::delta::{DeltaWriter, Estimate};
use super::delta_ctx_writer::DeltaCtxWriter;
use super::entropy;
use super::frame::FrameWriter;
use super::patch::PatchWriter;
use super::planes::PlanesWriter;
use crate::chunk::{Codec, ElementWidth};
use crate::limits;

/// An encoding must save this part of a chunk: less is not worth its decoding.
const WORTH_PART: usize = 64;

/// A difference to a base must save this part of the stand-alone encoding: less is not worth reading the base.
const DELTA_WORTH_PART: usize = 20;

/// A delta that took less than this part of what the planes of the elements promise is kept without trying them.
const DELTA_CLEAR: f32 = 0.93;

/// Differences that promise more than this part of what the elements do are not tried.
const DELTA_HOPELESS: f32 = 1.0;

/// A delta in context that took less than this part of what planes promise is kept without trying them.
const CONTEXT_CLEAR: f32 = 0.97;

/// Over this share of repeated words the promises mean little: matches may take far less.
const MANY_REPEATS: f32 = 0.05;

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
    delta: DeltaWriter,
    /// Differences hardly ever repeat: matches are not tried on them unless they surely pay, which halves the time.
    delta_planes: PlanesWriter,
    contexts: Option<DeltaCtxWriter>,
    patch: PatchWriter,
    kept: Vec<u8>,
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
            delta: DeltaWriter::new(),
            delta_planes: PlanesWriter::of_delta(effort == Effort::Compact),
            contexts: (effort == Effort::Compact).then(DeltaCtxWriter::new),
            patch: PatchWriter::with_level(level),
            kept: Vec::new(),
        }
    }

    /// Encodes `plain`, elements of `width`, into `out`; what that held is overwritten.
    ///
    /// Returns [`Codec::Raw`] and leaves `out` empty where no encoding saves 1/64 of the chunk: then the plain bytes are what to
    /// store, and nothing is copied. Never fails: an encoding that libzstd refuses is not a candidate, and what is longer than
    /// [`limits::CHUNK_BYTES`] is no chunk and stays raw.
    pub fn encode(&mut self, plain: &[u8], width: ElementWidth, out: &mut Vec<u8>) -> Codec {
        if plain.len() > limits::CHUNK_BYTES {
            out.clear();
            return Codec::Raw;
        }
        let (plan, _) = self.plan(plain, width);
        self.encode_as(plan, plain, out)
    }

    /// Encodes `plain` as [`encode`](Encoder::encode) does, or as differences to `base` where that saves another twentieth.
    ///
    /// The saving is that over the stand-alone encoding, or over what a sample promises of it where the two are far apart: then only one is
    /// made.
    ///
    /// `base` is the plain bytes of another chunk, of any length; a delta decodes only with the same bytes at hand.
    pub fn encode_against(&mut self, plain: &[u8], width: ElementWidth, base: &[u8], out: &mut Vec<u8>) -> Codec {
        if plain.len() > limits::CHUNK_BYTES || base.is_empty() {
            return self.encode(plain, width, out);
        }
        let (plan, bits) = self.plan(plain, width);
        if plan == Plan::Zstd {
            return self.patch(plan, plain, base, out);
        }
        let estimate = self.delta.estimate(plain, width.bytes(), base);
        let alone_bits = bits.unwrap_or(f32::INFINITY).min(estimate.alone_bits);
        let numbers = width.bytes().is_some_and(|width| width > 1) || estimate.bits < DELTA_CLEAR * alone_bits;
        if !numbers && entropy::share(plain, base) > MANY_REPEATS {
            return self.patch(plan, plain, base, out);
        }
        let even = plain.len().abs_diff(base.len()) < plain.len() / 8;
        let clear = even && plain.len() >= SMALL_BYTES;
        if clear && estimate.bits > DELTA_HOPELESS * alone_bits {
            return self.encode_as(plan, plain, out);
        }
        let codec = self.differences(plain, base, &estimate);
        let kept_bits = 8.0 * self.second.len() as f32 / plain.len() as f32;
        // Frequencies are all that a sample tells: where bytes repeat, both are tried.
        let told = clear && plan != Plan::Raw && kept_bits < DELTA_CLEAR * alone_bits;
        if told && !self.delta.regular(estimate.width) && entropy::repeats(plain) < MANY_REPEATS {
            std::mem::swap(out, &mut self.second);
            return codec;
        }
        std::mem::swap(&mut self.kept, &mut self.second);
        let alone = self.encode_as(plan, plain, out);
        let alone_len = if alone == Codec::Raw { plain.len() } else { out.len() };
        if self.kept.len() + alone_len.div_ceil(DELTA_WORTH_PART) > alone_len {
            return alone;
        }
        std::mem::swap(out, &mut self.kept);
        codec
    }

    /// Bits a byte that a sample of the differences to `base` promises, to choose among bases; `None` where they promise little.
    pub fn promise(&mut self, plain: &[u8], width: ElementWidth, base: &[u8]) -> Option<f32> {
        let estimate = self.delta.estimate(plain, width.bytes(), base);
        (estimate.bits < DELTA_CLEAR * estimate.alone_bits).then_some(estimate.bits)
    }

    /// Encodes `plain`, bytes of which some stand in `base`, as planned or as one frame with matches in `base`: where that saves
    /// another twentieth.
    fn patch(&mut self, plan: Plan, plain: &[u8], base: &[u8], out: &mut Vec<u8>) -> Codec {
        let alone = self.encode_as(plan, plain, out);
        let alone_len = if alone == Codec::Raw { plain.len() } else { out.len() };
        let patched = self.patch.write(plain, base, &mut self.second);
        if !patched || self.second.len() + alone_len.div_ceil(DELTA_WORTH_PART) > alone_len {
            return alone;
        }
        std::mem::swap(out, &mut self.second);
        Codec::Patch
    }

    /// Makes `second` the smallest form of the differences.
    fn differences(&mut self, plain: &[u8], base: &[u8], estimate: &Estimate) -> Codec {
        let how = (estimate.width, estimate.order);
        let contexts = self.contexts.as_mut().filter(|_| estimate.width < 8 && estimate.lead == 0);
        let in_context = contexts.map(|contexts| {
            self.kept.clear();
            contexts.append(plain, base, how, &mut self.kept);
            self.kept.len()
        });
        // Where contexts take less than planes promise, planes are not tried.
        let promised = estimate.bits * plain.len() as f32 / 8.0;
        let clear = in_context.is_some_and(|len| plain.len() >= SMALL_BYTES && (len as f32) < CONTEXT_CLEAR * promised);
        if !clear {
            self.delta.write(&mut self.delta_planes, plain, base, estimate, &mut self.second);
        }
        if clear || in_context.is_some_and(|len| len < self.second.len()) {
            std::mem::swap(&mut self.kept, &mut self.second);
            return Codec::DeltaCtx;
        }
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

    /// Encodes `plain` as planned into `out`.
    fn encode_as(&mut self, plan: Plan, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        let codec = match plan {
            Plan::Raw => Codec::Raw,
            Plan::Zstd => self.zstd(plain, out),
            Plan::Planes(width) => {
                self.planes.write(plain, width, 0, out);
                if width > 1 && self.may_match(plain, out.len()) { self.smaller(plain, out) } else { Codec::Planes }
            }
            Plan::Both(width) => {
                self.planes.write(plain, width, 0, out);
                self.smaller(plain, out)
            }
        };
        if codec != Codec::Raw && out.len() + plain.len().div_ceil(WORTH_PART) <= plain.len() {
            return codec;
        }
        out.clear();
        Codec::Raw
    }

    /// Whether matches across planes may beat planes that take `planes_len` bytes.
    ///
    /// Planes that shrink to half are sparse or regular, and such data may hold matches; a few pieces tell whether it does.
    fn may_match(&mut self, plain: &[u8], planes_len: usize) -> bool {
        let planes_bits = 8.0 * planes_len as f32 / plain.len() as f32;
        planes_bits < 4.0 && (entropy::repeats(plain) > MANY_REPEATS || CLOSE * self.try_matches(plain) < planes_bits)
    }

    /// Makes `out` a zstd frame.
    fn zstd(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        out.clear();
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

    /// What to try, and the bits a byte that it promises where a sample told. A known width is taken at its word: on the data that it stands for, zstd on the whole chunk never won.
    fn plan(&mut self, plain: &[u8], width: ElementWidth) -> (Plan, Option<f32>) {
        // Zeros are common, and one constant plane is the shortest encoding there is.
        if entropy::constant(plain).is_some() {
            return (Plan::Planes(1), Some(0.0));
        }
        if let ElementWidth::Two | ElementWidth::Four | ElementWidth::Eight = width
            && let Some(width) = width.bytes()
        {
            let plan = if plain.len() < SMALL_BYTES { Plan::Both(width) } else { Plan::Planes(width) };
            return (plan, None);
        }
        let (width, planes_bits) = match width {
            ElementWidth::Unknown => entropy::probe_width(plain),
            _ => (1, entropy::bits(plain)),
        };
        if plain.len() < SMALL_BYTES {
            return (Plan::Both(width), None);
        }
        let zstd_bits = self.try_matches(plain);
        let bits = planes_bits.min(zstd_bits);
        let plan = if bits > RANDOM_BITS {
            // Copies further apart than a piece is long are all that the trial can have missed.
            if entropy::repeats(plain) > 1.0 / WORTH_PART as f32 { Plan::Zstd } else { Plan::Raw }
        } else if zstd_bits < CLOSE * planes_bits {
            Plan::Zstd
        } else if planes_bits < CLOSE * zstd_bits {
            Plan::Planes(width)
        } else {
            Plan::Both(width)
        };
        (plan, Some(bits))
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
