//! Differences to a base give back what they took, whatever the base, and hostile ones are refused.
//!
//! Golden payloads are in `tests/golden/codec`, beside those of the other codecs. `CASKAD_REGENERATE=1` rewrites them: only after a change of
//! the encoder on purpose, and never where the old file no longer decodes.

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

    /// Bell-shaped around zero, by plain additions that every machine rounds alike.
    fn normal(&mut self) -> f32 {
        let sum: u32 = (0..4).map(|_| self.next() >> 10).sum();
        (sum as f32 - 8_388_608.0) / 67_108_864.0
    }

    /// Weights, and the same after a step of training: every one moved by a thousandth of what weights are, or so.
    fn step(&mut self, count: usize) -> (Vec<f32>, Vec<f32>) {
        let before: Vec<f32> = (0..count).map(|_| self.normal()).collect();
        let after = before.iter().map(|weight| weight + self.normal() / 1024.0).collect();
        (before, after)
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bf16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
}

fn f64s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect()
}

/// A name, the base and the plain bytes of every kind that the codecs tell apart.
fn samples() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let mut noise = Noise(1);
    let (before, after) = noise.step(60_000);
    let mut rows = before.clone();
    rows.iter_mut().zip(&after).skip(20_000).take(700).for_each(|(row, after)| *row = *after);
    let specials =
        [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45, -1e-45, f32::MAX, f32::MIN];
    let special =
        |step: usize| -> Vec<f32> { (0..9000).map(|i| specials[(i * step + i / 7) % specials.len()]).collect() };
    let quantised = |values: &[f32]| -> Vec<u8> { values.iter().map(|value| (value * 800.0) as i8 as u8).collect() };
    let counters = |by: i32| -> Vec<u8> { (-9000..9000).flat_map(|i: i32| (i * 3 + by).to_le_bytes()).collect() };
    vec![
        ("f32", f32s(&before), f32s(&after)),
        ("bf16", bf16s(&before), bf16s(&after)),
        ("f64", f64s(&before[..20_000]), f64s(&after[..20_000])),
        ("frozen rows", bf16s(&before), bf16s(&rows)),
        ("odd", [f32s(&before[..9000]), vec![1]].concat(), [f32s(&after[..9000]), vec![1, 2, 3]].concat()),
        ("special", f32s(&special(1)), f32s(&special(3))),
        ("quantised", quantised(&before), quantised(&after)),
        ("integers", counters(0), counters(700)),
        ("same", bf16s(&before), bf16s(&before)),
        ("unrelated", f32s(&before), f32s(&after.iter().rev().copied().collect::<Vec<_>>())),
        ("small", bf16s(&before[..300]), bf16s(&after[..300])),
        ("empty", f32s(&before[..10]), Vec::new()),
        ("longest", vec![0x11; limits::CHUNK_BYTES], vec![0x12; limits::CHUNK_BYTES]),
    ]
}

/// Encodes, checks what every encoding promises, and returns codec and stored length.
fn check(encoder: &mut Encoder, plain: &[u8], width: ElementWidth, base: &[u8]) -> (Codec, usize) {
    let mut stored = vec![0xee; 10];
    let codec = encoder.encode_against(plain, width, base, &mut stored);
    if codec == Codec::Raw {
        assert!(stored.is_empty());
        stored.extend_from_slice(plain);
    } else {
        assert!(stored.len() + plain.len().div_ceil(64) <= plain.len(), "{codec}: {} of {}", stored.len(), plain.len());
    }
    let mut back = vec![0xdd; 3];
    assert_eq!(decode_into(codec, &stored, plain.len(), base, &mut back), Ok(()));
    assert!(back == plain, "{codec} at width {width:?} does not give back its {} bytes", plain.len());
    (codec, stored.len())
}

fn decode_into(codec: Codec, stored: &[u8], len: usize, base: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    Decoder::new().decode(codec, stored, len, Some(base), out)
}

fn decode(codec: Codec, stored: &[u8], len: usize, base: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    decode_into(codec, stored, len, base, &mut out)?;
    assert_eq!(out.len(), len);
    Ok(out)
}

#[test]
fn every_kind_of_data_round_trips_against_every_kind_of_base() {
    for effort in [Effort::Fast, Effort::Default, Effort::Compact] {
        let mut encoder = Encoder::new(effort);
        for (_, base, plain) in samples() {
            for width in WIDTHS {
                let longer = [&base[..], &plain].concat();
                for base in [&base[..], &base[..base.len() / 3], &base[base.len().min(1)..], &longer, &[], &[5; 1000]] {
                    check(&mut encoder, &plain, width, base);
                }
            }
        }
    }
}

#[test]
fn a_small_step_costs_little_and_a_base_that_does_not_help_nothing() {
    // Name in `samples`, width, and the longest that a delta and a delta in context may be, in percent.
    let expected = [
        ("f32", ElementWidth::Four, 66, 63),
        ("bf16", ElementWidth::Two, 38, 34),
        ("f64", ElementWidth::Eight, 83, 83),
        ("frozen rows", ElementWidth::Two, 3, 2),
        ("quantised", ElementWidth::One, 20, 15),
        ("integers", ElementWidth::Four, 1, 2),
        ("same", ElementWidth::Two, 1, 1),
    ];
    let samples = samples();
    for (name, width, percent, percent_in_context) in expected {
        let (_, base, plain) = samples.iter().find(|(sample, ..)| *sample == name).unwrap();
        for (effort, percent) in [(Effort::Default, percent), (Effort::Compact, percent_in_context)] {
            let (codec, len) = check(&mut Encoder::new(effort), plain, width, base);
            assert!(matches!(codec, Codec::Delta | Codec::DeltaCtx), "{name}: {codec}");
            assert!(100 * len <= percent * plain.len(), "{name} as {codec}: {len} of {}", plain.len());
        }
    }
    let (_, base, plain) = samples.iter().find(|(name, ..)| *name == "unrelated").unwrap();
    let (mut alone, codec) = (Vec::new(), check(&mut Encoder::new(Effort::Compact), plain, ElementWidth::Four, base));
    assert_eq!(codec.0, Encoder::new(Effort::Compact).encode(plain, ElementWidth::Four, &mut alone));
    assert_eq!(codec.1, alone.len());
}

#[test]
fn an_encoding_does_not_depend_on_what_was_encoded_before() {
    for effort in [Effort::Default, Effort::Compact] {
        let mut used = Encoder::new(effort);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (name, base, plain) in samples() {
            let fresh = Encoder::new(effort).encode_against(&plain, ElementWidth::Two, &base, &mut first);
            assert_eq!(used.encode_against(&plain, ElementWidth::Two, &base, &mut second), fresh, "{name}");
            assert!(first == second, "{name}");
        }
    }
}

/// A golden payload: its file, codec and width, the plain bytes and the base.
struct Golden {
    name: &'static str,
    codec: Codec,
    width: ElementWidth,
    plain: Vec<u8>,
    base: Vec<u8>,
}

impl Golden {
    fn encode(&self) -> Vec<u8> {
        let effort = if self.codec == Codec::DeltaCtx { Effort::Compact } else { Effort::Default };
        let mut stored = Vec::new();
        let codec = Encoder::new(effort).encode_against(&self.plain, self.width, &self.base, &mut stored);
        assert_eq!(codec, self.codec, "{}", self.name);
        stored
    }
}

fn golden() -> Vec<Golden> {
    let mut noise = Noise(42);
    let (before, after) = noise.step(6000);
    // Every eighth row did not move, and the first rows have no partner.
    let rows: Vec<f32> = (0..6000).map(|i| if i / 128 % 8 == 3 { before[i] } else { after[i] }).collect();
    // A step so small that most differences are zero.
    let slow: Vec<f32> = before.iter().zip(&after).map(|(before, after)| before + (after - before) / 4.0).collect();
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().map(|value| (value * 300.0) as i8 as u8).collect() };
    let golden = |name, codec, width, plain, base| Golden { name, codec, width, plain, base };
    vec![
        golden(
            "delta-2-bf16-odd",
            Codec::Delta,
            ElementWidth::Two,
            [bf16s(&after[..3000]), vec![7]].concat(),
            bf16s(&before),
        ),
        golden("delta-2-bf16-rans", Codec::Delta, ElementWidth::Two, bf16s(&slow[..6000]), bf16s(&before)),
        golden("delta-4-f32-resized", Codec::Delta, ElementWidth::Four, f32s(&after[..1000]), f32s(&before[..900])),
        golden("delta-8-f64", Codec::Delta, ElementWidth::Eight, f64s(&after[..500]), f64s(&before[..500])),
        golden("delta-1-bytes", Codec::Delta, ElementWidth::One, bytes(&after), bytes(&before)),
        golden(
            "delta-ctx-2-bf16-rows",
            Codec::DeltaCtx,
            ElementWidth::Two,
            [bf16s(&rows), vec![7]].concat(),
            bf16s(&before),
        ),
        golden("delta-ctx-4-f32-resized", Codec::DeltaCtx, ElementWidth::Four, f32s(&after), f32s(&before[..5900])),
    ]
}

#[test]
fn golden_payloads_are_written_and_read_unchanged() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/codec");
    let regenerate = std::env::var_os("CASKAD_REGENERATE").is_some_and(|value| value == "1");
    for golden in golden() {
        let stored = golden.encode();
        let path = directory.join(golden.name).with_extension("bin");
        if regenerate {
            std::fs::write(&path, &stored).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        let back = decode(golden.codec, &kept, golden.plain.len(), &golden.base).unwrap();
        assert!(back == golden.plain, "{} no longer decodes to its plain bytes: the format broke", golden.name);
        assert!(stored == kept, "{}: the encoder writes other bytes; if on purpose, CASKAD_REGENERATE=1", golden.name);
    }
}

#[test]
fn a_payload_that_ends_early_is_truncated_and_a_longer_one_invalid() {
    for golden in golden() {
        let (mut stored, len) = (golden.encode(), golden.plain.len());
        for cut in 0..stored.len() {
            let outcome = decode(golden.codec, &stored[..cut], len, &golden.base);
            assert_eq!(outcome, Err(CodecError::Truncated), "{} cut to {cut}", golden.name);
        }
        for other in [0, 1, len / 2, len - 1, len + 1, limits::CHUNK_BYTES] {
            assert!(decode(golden.codec, &stored, other, &golden.base).is_err(), "{} as {other} bytes", golden.name);
        }
        stored.push(0);
        let outcome = decode(golden.codec, &stored, len, &golden.base);
        assert!(matches!(outcome, Err(CodecError::Invalid(_))), "{} with a byte more", golden.name);
    }
}

#[test]
fn a_wrong_base_gives_wrong_bytes_and_nothing_worse() {
    for golden in golden() {
        let (stored, len) = (golden.encode(), golden.plain.len());
        for base in [&[][..], &golden.base[1..], &golden.base[..9], &vec![0xff; limits::CHUNK_BYTES]] {
            let outcome = decode(golden.codec, &stored, len, base);
            assert!(!outcome.is_ok_and(|plain| plain == golden.plain), "{}", golden.name);
        }
        // What lies behind the last facing element does not matter.
        let longer = [&golden.base[..], &[1]].concat();
        assert!(
            decode(golden.codec, &stored, len, &longer).is_ok_and(|plain| plain == golden.plain),
            "{}",
            golden.name
        );
    }
}

#[test]
fn a_hand_made_delta_decodes_as_the_byte_map_says() {
    // Floats, width 2, both planes raw; two elements and a tail. The differences are +3 and -3 in the order of floats.
    let stored = [1, 2, 1, 2, 0, 0, 0, 1, 2, 0, 0, 0, 6, 5, 0, 0, 0x77];
    // 0x3f80 is 1; 0x8001 is the largest number below zero but one, three below 0x0001.
    let plain = decode(Codec::Delta, &stored, 5, &[0x80, 0x3f, 0x01, 0x00]).unwrap();
    assert_eq!(plain, [0x83, 0x3f, 0x01, 0x80, 0x77]);
    // The same as integers, and without a base.
    let integers = [&[0][..], &stored[1..]].concat();
    assert_eq!(decode(Codec::Delta, &integers, 5, &[0x80, 0x3f, 0x01, 0x00]).unwrap(), [0x83, 0x3f, 0xfe, 0xff, 0x77]);
    assert_eq!(decode(Codec::Delta, &integers, 5, &[]).unwrap(), [0x03, 0x00, 0xfd, 0xff, 0x77]);
    assert!(matches!(decode(Codec::Delta, &[&[2][..], &stored[1..]].concat(), 5, &[]), Err(CodecError::Invalid(_))));
}

#[test]
fn planes_by_frequency_are_read_in_deltas_alone() {
    let golden = golden().into_iter().find(|golden| golden.name == "delta-2-bf16-rans").unwrap();
    let (stored, len) = (golden.encode(), golden.plain.len());
    assert!(stored[2] == 3 || stored[7] == 3, "modes {} and {}", stored[2], stored[7]);
    // What follows the order is a planes payload, but for that mode.
    let outcome = Decoder::new().decode(Codec::Planes, &stored[1..], len, None, &mut Vec::new());
    assert_eq!(outcome, Err(CodecError::Invalid("unknown mode of a plane")));
    // Frequencies, states, words: nothing in a coded plane may be otherwise.
    let coded =
        12 + if stored[2] == 3 { 0 } else { u32::from_le_bytes([stored[3], stored[4], stored[5], stored[6]]) as usize };
    for at in (coded..coded + 40).chain((coded + 40..stored.len()).step_by(17)) {
        let mut hostile = stored.clone();
        hostile[at] ^= 0x55;
        let outcome = decode(golden.codec, &hostile, len, &golden.base);
        assert!(outcome.is_err() || outcome.is_ok_and(|plain| plain != golden.plain), "byte {at}");
    }
}

#[test]
fn hostile_deltas_in_context_are_refused() {
    let golden = golden().pop().unwrap();
    let (stored, len) = (golden.encode(), golden.plain.len());
    let with = |at: usize, byte: u8| {
        let mut hostile = stored.clone();
        hostile[at] = byte;
        decode(Codec::DeltaCtx, &hostile, len, &golden.base)
    };
    // Width, order, signs, contexts, classes, and the mode of the first plane.
    for (at, bytes) in
        [(0, &[0, 3, 8, 255][..]), (1, &[2]), (2, &[2]), (3, &[0, 33, 255]), (4, &[0, 65, 255]), (5, &[3])]
    {
        for byte in bytes {
            assert!(matches!(with(at, *byte), Err(CodecError::Invalid(_))), "byte {at} as {byte}");
        }
    }
    // A length over the payload, of each part.
    for part in [6, 11, 16, 21, 25, 29] {
        assert_eq!(with(part + 3, 0xff), Err(CodecError::Truncated), "length at {part}");
    }
    // The last byte is one of the bits, and the last bits are filled up with zeros: no reader looks at them.
    assert!(with(stored.len() - 12, stored[stored.len() - 12] ^ 0x5a).is_ok_and(|plain| plain != golden.plain));
}

fn width() -> impl Strategy<Value = ElementWidth> {
    prop::sample::select(&WIDTHS[..])
}

/// A base, and plain bytes that are much like it.
fn related() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (
        prop::collection::vec(any::<u8>(), 1..300),
        1..150_usize,
        any::<[u8; 8]>(),
        any::<u64>(),
        0..2000_usize,
        any::<bool>(),
    )
        .prop_map(|(pattern, times, mask, seed, cut, shorter)| {
            let mut noise = Noise(seed);
            let mut disturbed = |(i, byte): (usize, &u8)| byte ^ (noise.next() >> 24) as u8 & mask[i % 8] >> 1;
            let mut base: Vec<u8> = pattern.repeat(times).iter().enumerate().map(&mut disturbed).collect();
            let mut plain: Vec<u8> = base.iter().enumerate().map(&mut disturbed).collect();
            let side = if shorter { &mut base } else { &mut plain };
            side.truncate(side.len().saturating_sub(cut));
            (base, plain)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_round_trip((base, plain) in related(), width in width(), compact in any::<bool>()) {
        check(&mut Encoder::new(if compact { Effort::Compact } else { Effort::Default }), &plain, width, &base);
    }

    #[test]
    fn any_bytes_decode_or_fail_without_panic(
        stored in prop::collection::vec(any::<u8>(), 0..300),
        base in prop::collection::vec(any::<u8>(), 0..300),
        len in 0..600_usize,
        compact in any::<bool>(),
    ) {
        let _ = decode(if compact { Codec::DeltaCtx } else { Codec::Delta }, &stored, len, &base);
    }

    #[test]
    fn damaged_payloads_decode_or_fail_without_panic(
        which in 0..7_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        base_len in any::<prop::sample::Index>(),
        len in any::<prop::sample::Index>(),
    ) {
        let golden = &golden()[which];
        let mut stored = golden.encode();
        for (at, byte) in damage {
            let at = at.index(stored.len());
            // Half of the damage goes where the lengths, modes and weights are.
            let at = if byte % 2 == 0 { at } else { at % stored.len().min(400) };
            stored[at] = byte;
        }
        let base = &golden.base[..base_len.index(golden.base.len())];
        let _ = decode(golden.codec, &stored, golden.plain.len(), base);
        let _ = decode(golden.codec, &stored[..len.index(stored.len())], golden.plain.len(), base);
        let _ = decode(golden.codec, &stored, len.index(2 * golden.plain.len()), base);
    }
}
