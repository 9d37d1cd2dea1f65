//! Every encoding gives back what it took, and hostile payloads are refused.
//!
//! Golden payloads are in `tests/golden/codec`. `CASKAD_REGENERATE=1` rewrites them: only after a change of the encoder on
//! purpose, and never where the old file no longer decodes.

use std::path::PathBuf;

use caskad::chunk::{Codec, ElementWidth};
use caskad::codec::{CodecError, Decoder, Effort, Encoder};
use caskad::limits;
use proptest::prelude::*;

const WIDTHS: [ElementWidth; 5] =
    [ElementWidth::Unknown, ElementWidth::One, ElementWidth::Two, ElementWidth::Four, ElementWidth::Eight];

/// A generator without state outside, so that golden plain bytes never change.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }

    /// Bell-shaped around zero, by plain additions that every machine rounds alike.
    fn normal(&mut self) -> f32 {
        let sum: u32 = (0..4).map(|_| self.next() >> 10).sum();
        (sum as f32 - 8_388_608.0) / 67_108_864.0
    }

    fn f32s(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| self.normal().to_le_bytes()).collect()
    }

    fn bf16s(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| ((self.normal().to_bits() >> 16) as u16).to_le_bytes()).collect()
    }

    fn f64s(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| f64::from(self.normal()).to_le_bytes()).collect()
    }
}

fn text(len: usize) -> Vec<u8> {
    (0..)
        .flat_map(|i: u32| format!("line {i}: the weights of layer {} moved\n", i % 12).into_bytes())
        .take(len)
        .collect()
}

/// Named plain bytes of every kind that the codecs tell apart.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = Noise(1);
    let specials =
        [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45, -1e-45, f32::MIN_POSITIVE, f32::MAX];
    let row = noise.bf16s(4096);
    let mut sparse = vec![0; 200_000];
    for _ in 0..400 {
        let at = noise.next() as usize % sparse.len();
        sparse[at] = noise.next() as u8;
    }
    vec![
        ("bf16", noise.bf16s(120_001)),
        ("f32", noise.f32s(65_536)),
        ("f64", noise.f64s(20_000)),
        ("odd f32", [noise.f32s(20_000), vec![1, 2, 3]].concat()),
        ("special f32", specials.iter().cycle().take(30_000).flat_map(|value| value.to_le_bytes()).collect()),
        ("gradients", (0..50_000).flat_map(|_| (noise.normal() * noise.normal() * 1e-9).to_le_bytes()).collect()),
        ("ascending", (0..40_000_u32).flat_map(|i| (i * 13).to_le_bytes()).collect()),
        ("repeated rows", row.repeat(9)),
        ("sparse", sparse),
        ("constant", vec![0x5a; 100_000]),
        ("random", noise.bytes(262_144)),
        ("small alphabet", noise.bytes(100_000).iter().map(|byte| byte.count_ones() as u8).collect()),
        ("text", text(150_000)),
        ("longest", noise.f32s(limits::CHUNK_BYTES / 4)),
    ]
}

/// Encodes, checks what every encoding promises, and returns codec and stored length.
fn check(encoder: &mut Encoder, decoder: &mut Decoder, plain: &[u8], width: ElementWidth) -> (Codec, usize) {
    let mut stored = vec![0xee; 10];
    let codec = encoder.encode(plain, width, &mut stored);
    if codec == Codec::Raw {
        assert!(stored.is_empty());
        stored.extend_from_slice(plain);
    } else {
        assert!(stored.len() + plain.len().div_ceil(64) <= plain.len(), "{codec}: {} of {}", stored.len(), plain.len());
    }
    let mut back = vec![0xdd; 3];
    assert_eq!(decoder.decode(codec, &stored, plain.len(), None, &mut back), Ok(()));
    assert!(back == plain, "{codec} at width {width:?} does not give back its {} bytes", plain.len());
    (codec, stored.len())
}

#[test]
fn every_kind_of_data_round_trips_at_every_width_and_effort() {
    let mut decoder = Decoder::new();
    for effort in [Effort::Fast, Effort::Default, Effort::Compact] {
        let mut encoder = Encoder::new(effort);
        for (_, plain) in samples() {
            for width in WIDTHS {
                check(&mut encoder, &mut decoder, &plain, width);
            }
        }
    }
}

#[test]
fn every_tiny_length_round_trips() {
    let (mut encoder, mut decoder) = (Encoder::new(Effort::Default), Decoder::new());
    for len in 0..=64 {
        for width in WIDTHS {
            for plain in [vec![7; len], text(len), Noise(len as u64).bytes(len)] {
                check(&mut encoder, &mut decoder, &plain, width);
            }
        }
    }
}

#[test]
fn each_kind_of_data_gets_its_codec_and_shrinks_as_it_should() {
    let (mut encoder, mut decoder) = (Encoder::new(Effort::Default), Decoder::new());
    // Name in `samples`, width, codec, and the longest that it may be kept, in percent.
    let expected = [
        ("bf16", ElementWidth::Two, Codec::Planes, 69),
        ("bf16", ElementWidth::Unknown, Codec::Planes, 69),
        ("f32", ElementWidth::Four, Codec::Planes, 86),
        ("f32", ElementWidth::Unknown, Codec::Planes, 86),
        ("ascending", ElementWidth::Four, Codec::Planes, 40),
        ("repeated rows", ElementWidth::Two, Codec::Planes, 30),
        ("constant", ElementWidth::Four, Codec::Planes, 1),
        ("constant", ElementWidth::Unknown, Codec::Planes, 1),
        ("random", ElementWidth::Unknown, Codec::Raw, 100),
        ("random", ElementWidth::Four, Codec::Raw, 100),
        ("text", ElementWidth::Unknown, Codec::Zstd, 20),
        ("text", ElementWidth::One, Codec::Zstd, 20),
        ("small alphabet", ElementWidth::One, Codec::Planes, 35),
    ];
    let samples = samples();
    for (name, width, codec, percent) in expected {
        let (_, plain) = samples.iter().find(|(sample, _)| *sample == name).unwrap();
        let (got, len) = check(&mut encoder, &mut decoder, plain, width);
        assert_eq!(got, codec, "{name} at width {width:?}: {len} of {}", plain.len());
        assert!(100 * len <= percent * plain.len(), "{name} at width {width:?}: {len} of {}", plain.len());
    }
}

#[test]
fn an_encoding_does_not_depend_on_what_was_encoded_before() {
    let mut used = Encoder::new(Effort::Default);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (name, plain) in samples() {
        for width in WIDTHS {
            let fresh = Encoder::new(Effort::Default).encode(&plain, width, &mut first);
            assert_eq!(used.encode(&plain, width, &mut second), fresh, "{name}");
            assert!(first == second, "{name} at width {width:?}");
        }
    }
}

/// File name, codec, width and plain bytes of each golden payload.
fn golden() -> Vec<(&'static str, Codec, ElementWidth, Vec<u8>)> {
    let mut noise = Noise(42);
    vec![
        ("zstd-text", Codec::Zstd, ElementWidth::One, text(4000)),
        ("planes-1-constant", Codec::Planes, ElementWidth::One, vec![9; 777]),
        ("planes-2-bf16-odd", Codec::Planes, ElementWidth::Two, [noise.bf16s(2000), vec![0xff]].concat()),
        ("planes-4-f32", Codec::Planes, ElementWidth::Four, [noise.f32s(1000), vec![1, 2, 3]].concat()),
        ("planes-4-ascending", Codec::Planes, ElementWidth::Four, (0..3000_u32).flat_map(u32::to_le_bytes).collect()),
        ("planes-8-f64", Codec::Planes, ElementWidth::Eight, noise.f64s(500)),
    ]
}

#[test]
fn golden_payloads_are_written_and_read_unchanged() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/codec");
    let regenerate = std::env::var_os("CASKAD_REGENERATE").is_some_and(|value| value == "1");
    for (name, codec, width, plain) in golden() {
        let mut stored = Vec::new();
        assert_eq!(Encoder::new(Effort::Default).encode(&plain, width, &mut stored), codec, "{name}");
        let path = directory.join(name).with_extension("bin");
        if regenerate {
            std::fs::write(&path, &stored).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        let mut back = Vec::new();
        Decoder::new().decode(codec, &kept, plain.len(), None, &mut back).unwrap();
        assert!(back == plain, "{name} no longer decodes to its plain bytes: the format broke");
        assert!(stored == kept, "{name}: the encoder writes other bytes; if on purpose, CASKAD_REGENERATE=1");
    }
}

fn decode(codec: Codec, stored: &[u8], plain_len: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    Decoder::new().decode(codec, stored, plain_len, None, &mut out)?;
    assert_eq!(out.len(), plain_len);
    Ok(out)
}

#[test]
fn a_payload_that_ends_early_is_truncated_and_a_longer_one_invalid() {
    let raw = ("raw", Codec::Raw, ElementWidth::One, vec![3; 50]);
    for (name, codec, width, plain) in golden().into_iter().chain([raw]) {
        let mut stored = Vec::new();
        if Encoder::new(Effort::Default).encode(&plain, width, &mut stored) != codec {
            stored.clone_from(&plain);
        }
        for len in 0..stored.len() {
            assert_eq!(decode(codec, &stored[..len], plain.len()), Err(CodecError::Truncated), "{name} cut to {len}");
        }
        stored.push(0);
        assert!(matches!(decode(codec, &stored, plain.len()), Err(CodecError::Invalid(_))), "{name} with a byte more");
    }
}

#[test]
fn a_payload_of_another_length_is_refused() {
    for (name, codec, width, plain) in golden() {
        let mut stored = Vec::new();
        Encoder::new(Effort::Default).encode(&plain, width, &mut stored);
        for len in [0, 1, plain.len() / 2, plain.len() - 1, plain.len() + 1, limits::CHUNK_BYTES] {
            // A constant plane fits any length: only the hash of the chunk can tell.
            if name != "planes-1-constant" {
                assert!(decode(codec, &stored, len).is_err(), "{name} as {len} bytes");
            }
        }
    }
}

/// A planes payload from its parts.
fn planes(width: u8, planes: &[(u8, u32)], body: &[u8]) -> Vec<u8> {
    let entries = planes.iter().flat_map(|(mode, len)| [&[*mode][..], &len.to_le_bytes()].concat());
    [width].into_iter().chain(entries).chain(body.iter().copied()).collect()
}

#[test]
fn hand_made_planes_decode_as_the_byte_map_says() {
    // Elements 0x0102 and 0x8304, a tail of one byte: rotated left they are 0x0204 and 0x0609.
    let stored = planes(2, &[(1, 2), (1, 2)], &[0x04, 0x09, 0x02, 0x06, 0x77]);
    assert_eq!(decode(Codec::Planes, &stored, 5), Ok(vec![0x02, 0x01, 0x04, 0x83, 0x77]));
    assert_eq!(decode(Codec::Planes, &planes(1, &[(0, 1)], &[9]), 4), Ok(vec![9; 4]));
    assert_eq!(decode(Codec::Planes, &planes(1, &[(1, 0)], &[]), 0), Ok(vec![]));
}

#[test]
fn hostile_planes_are_refused() {
    let invalid = [
        ("width 0", planes(0, &[], &[]), 0),
        ("width 3", planes(3, &[(1, 1); 3], &[0; 3]), 3),
        ("width 255", planes(255, &[(1, 1); 3], &[0; 3]), 3),
        ("unknown mode", planes(1, &[(3, 4)], &[0; 4]), 4),
        ("short raw plane", planes(2, &[(1, 1), (1, 2)], &[0; 3]), 4),
        ("long raw plane", planes(2, &[(1, 3), (1, 2)], &[0; 5]), 4),
        ("constant of two bytes", planes(1, &[(0, 2)], &[1, 1]), 4),
        ("constant of no byte", planes(1, &[(0, 0)], &[]), 4),
        ("not a frame", planes(1, &[(2, 8)], &[0; 8]), 4),
        ("trailing byte", planes(1, &[(1, 4)], &[0; 5]), 4),
    ];
    for (what, stored, len) in invalid {
        assert!(matches!(decode(Codec::Planes, &stored, len), Err(CodecError::Invalid(_))), "{what}");
    }
    let truncated = [
        ("nothing", vec![], 4),
        ("no entries", vec![4], 4),
        ("length over the payload", planes(1, &[(1, u32::MAX)], &[0; 4]), 4),
        ("lengths that overflow together", planes(2, &[(1, u32::MAX), (1, u32::MAX)], &[0; 4]), 4),
        ("no tail", planes(2, &[(1, 1), (1, 1)], &[0; 2]), 3),
        ("empty frame", planes(1, &[(2, 0)], &[]), 4),
    ];
    for (what, stored, len) in truncated {
        assert_eq!(decode(Codec::Planes, &stored, len), Err(CodecError::Truncated), "{what}");
    }
}

#[test]
fn hostile_frames_are_refused() {
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    // One raw block of 4 bytes, last of its frame; the descriptor says: single segment, content size in 8 bytes.
    let block = [0x21, 0, 0, 1, 2, 3, 4];
    let claims = |size: u64| [&magic[..], &[0xe0], &size.to_le_bytes(), &block].concat();
    assert_eq!(decode(Codec::Zstd, &claims(4), 4), Ok(vec![1, 2, 3, 4]));
    // All ones would say "unknown" to libzstd, and the frame would be as good as any.
    for size in [0, 3, 5, 1 << 40, u64::MAX - 1] {
        assert!(matches!(decode(Codec::Zstd, &claims(size), 4), Err(CodecError::Invalid(_))), "content size {size}");
    }
    let frame = claims(4);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], &[0; 4]].concat();
    for (what, stored, len) in [
        ("two frames", [&frame[..], &frame].concat(), 8),
        ("a skippable frame first", [&skippable[..], &frame].concat(), 4),
        ("a skippable frame last", [&frame[..], &skippable].concat(), 4),
        ("a skippable frame alone", skippable, 0),
        // The widest window that a descriptor can ask for: nothing may be allocated for it.
        ("a huge window, and a shorter chunk", [&magic[..], &[0x00, 0xff], &block].concat(), 3),
        ("a dictionary", [&magic[..], &[0x21, 0x07, 4], &block].concat(), 4),
    ] {
        assert!(matches!(decode(Codec::Zstd, &stored, len), Err(CodecError::Invalid(_))), "{what}");
    }
}

#[test]
fn deltas_without_a_base_and_oversized_chunks_are_named() {
    for codec in [Codec::Delta, Codec::DeltaCtx] {
        assert_eq!(decode(codec, &[0; 100], 100), Err(CodecError::BaseMissing(codec)));
        assert!(CodecError::BaseMissing(codec).to_string().contains(codec.name()));
    }
    let mut out = Vec::new();
    for plain_len in [limits::CHUNK_BYTES + 1, usize::MAX] {
        let answer = Decoder::new().decode(Codec::Planes, &[1, 0, 1, 0, 0, 0, 9], plain_len, None, &mut out);
        assert_eq!(answer, Err(CodecError::TooLong { plain_len }));
        assert_eq!(out.capacity(), 0, "nothing may be allocated for it");
    }
    let long = vec![0; limits::CHUNK_BYTES + 1];
    assert_eq!(Encoder::new(Effort::Default).encode(&long, ElementWidth::Four, &mut out), Codec::Raw);
}

fn width() -> impl Strategy<Value = ElementWidth> {
    prop::sample::select(&WIDTHS[..])
}

/// Bytes with structure: a short pattern of chosen alphabet and period, repeated and disturbed.
fn structured() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(any::<u8>(), 1..300), 1..200_usize, any::<u8>(), any::<u64>()).prop_map(
        |(pattern, times, mask, seed)| {
            let mut noise = Noise(seed);
            let disturbed = |byte: u8| byte ^ (noise.next() >> 24) as u8 & mask;
            pattern.repeat(times).into_iter().map(disturbed).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_round_trip(plain in prop_oneof![structured(), prop::collection::vec(any::<u8>(), 0..5000)], width in width()) {
        check(&mut Encoder::new(Effort::Default), &mut Decoder::new(), &plain, width);
    }

    #[test]
    fn any_bytes_decode_or_fail_without_panic(stored in prop::collection::vec(any::<u8>(), 0..300), len in 0..600_usize, codec in 0..5_u8) {
        let _ = decode(Codec::from_byte(codec).unwrap(), &stored, len);
    }

    #[test]
    fn damaged_payloads_decode_or_fail_without_panic(
        plain in structured(),
        width in width(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        len in any::<prop::sample::Index>(),
    ) {
        let mut stored = Vec::new();
        let codec = Encoder::new(Effort::Fast).encode(&plain, width, &mut stored);
        prop_assume!(codec != Codec::Raw);
        for (at, byte) in damage {
            let at = at.index(stored.len());
            // Half of the damage goes where the lengths and modes are.
            let at = if byte % 2 == 0 { at } else { at % stored.len().min(48) };
            stored[at] = byte;
        }
        let _ = decode(codec, &stored, plain.len());
        let _ = decode(codec, &stored[..len.index(stored.len())], plain.len());
        let _ = decode(codec, &stored, len.index(2 * plain.len()));
    }
}
