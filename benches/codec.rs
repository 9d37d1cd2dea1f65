//! Throughput of encoding and decoding, in plain bytes, on generated chunks of the kinds that a store sees.

use std::hint::black_box;

use caskad::chunk::{Codec, ElementWidth};
use caskad::codec::{Decoder, Effort, Encoder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The average chunk of a tensor.
const CHUNK_BYTES: usize = 256 << 10;

fn noise() -> impl FnMut() -> u32 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    }
}

/// Normal numbers as trained weights have them, by Box and Muller.
fn normals(count: usize) -> impl Iterator<Item = f32> {
    let mut next = noise();
    let mut unit = move || (f64::from(next()) + 0.5) / f64::from(u32::MAX);
    (0..count).map(move |_| (0.02 * (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()) as f32)
}

fn chunks() -> Vec<(&'static str, ElementWidth, Vec<u8>)> {
    let mut next = noise();
    let words = ["the", "weights", "of", "layer", "moved", "under", "a", "gradient", "descent", "step", "\n"];
    let text = (0..).flat_map(|_| [words[next() as usize % words.len()], " "].concat().into_bytes()).take(CHUNK_BYTES);
    let mut next = noise();
    vec![
        ("f32", ElementWidth::Four, normals(CHUNK_BYTES / 4).flat_map(f32::to_le_bytes).collect()),
        (
            "bf16",
            ElementWidth::Two,
            normals(CHUNK_BYTES / 2).flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        ),
        ("text", ElementWidth::One, text.collect()),
        ("random", ElementWidth::Unknown, (0..CHUNK_BYTES).map(|_| (next() >> 24) as u8).collect()),
    ]
}

fn codec(criterion: &mut Criterion) {
    for (name, width, plain) in chunks() {
        let mut group = criterion.benchmark_group(format!("codec/{name}"));
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let mut stored = Vec::new();
        for (effort, label) in [(Effort::Fast, "encode fast"), (Effort::Default, "encode")] {
            let mut encoder = Encoder::new(effort);
            group.bench_function(label, |bench| bench.iter(|| encoder.encode(black_box(&plain), width, &mut stored)));
        }
        let codec = Encoder::new(Effort::Default).encode(&plain, width, &mut stored);
        if codec == Codec::Raw {
            stored.clone_from(&plain);
        }
        let mut decoder = Decoder::new();
        let mut out = vec![0; plain.len()];
        group.bench_function(format!("decode {codec}"), |bench| {
            bench.iter(|| decoder.decode_into(codec, black_box(&stored), None, &mut out));
        });
        group.finish();
    }
}

/// The same weights after a step of training, as differences to those before it.
fn delta(criterion: &mut Criterion) {
    for (name, width, base) in chunks().into_iter().take(2) {
        let mut next = noise();
        // Every element moves by up to 32 steps of the last place.
        let step = |low: u8| low.wrapping_add((next() >> 26) as u8).wrapping_sub(32);
        let lows = base.iter().step_by(width.bytes().unwrap_or(1)).copied().map(step);
        let mut plain = base.clone();
        plain.iter_mut().step_by(width.bytes().unwrap_or(1)).zip(lows).for_each(|(byte, low)| *byte = low);
        let mut group = criterion.benchmark_group(format!("delta/{name}"));
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let (mut stored, mut out, mut decoder) = (Vec::new(), vec![0; plain.len()], Decoder::new());
        for effort in [Effort::Default, Effort::Compact] {
            let mut encoder = Encoder::new(effort);
            let codec = encoder.encode_against(&plain, width, &base, &mut stored);
            group.bench_function(format!("encode {codec}"), |bench| {
                bench.iter(|| encoder.encode_against(black_box(&plain), width, &base, &mut stored));
            });
            group.bench_function(format!("decode {codec}"), |bench| {
                bench.iter(|| decoder.decode_into(codec, black_box(&stored), Some(&base), &mut out));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, codec, delta);
criterion_main!(benches);
