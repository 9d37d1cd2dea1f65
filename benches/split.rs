//! How fast payloads are cut: by one thread, and in stripes by two.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and its macros make public functions")]

use std::hint::black_box;
use std::thread;

use caskad::chunk::{ElementWidth, Span};
use caskad::split::{Format, Layout, Run, Segment, Speculation, Window, cut_all};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const PAYLOAD_BYTES: u64 = 64 << 20;
const TENSOR_BYTES: u64 = 9 << 20;
const STRIPE_BYTES: u64 = 8 << 20;

fn payload() -> Vec<u8> {
    let mut bytes = vec![0; PAYLOAD_BYTES as usize];
    blake3::Hasher::new().update(b"bench").finalize_xof().fill(&mut bytes);
    bytes
}

fn tensors() -> Layout {
    let spans = (0..PAYLOAD_BYTES / TENSOR_BYTES).map(|n| Span::new(n * TENSOR_BYTES, TENSOR_BYTES));
    let segment = |span: Span| {
        let (name, dtype) = (span.offset.to_string(), "BF16".to_owned());
        Segment { name, dtype, shape: vec![TENSOR_BYTES / 2], span, tensor: true }
    };
    Layout { format: Format::Safetensors, segments: spans.map(segment).collect() }
}

fn stripes(bytes: &[u8]) -> Vec<(Span, Window<'_>)> {
    let stripe = |n| Span::new(n * STRIPE_BYTES, STRIPE_BYTES);
    let window = |stripe: Span| {
        let needed = Window::needed(stripe, PAYLOAD_BYTES);
        Window::new(stripe.offset, &bytes[needed.offset as usize..needed.end() as usize])
    };
    (0..PAYLOAD_BYTES / STRIPE_BYTES).map(stripe).map(|stripe| (stripe, window(stripe))).collect()
}

fn speculate(runs: &[Run], stripes: &[(Span, Window<'_>)]) -> Vec<Speculation> {
    stripes.iter().map(|&(stripe, window)| Speculation::cut(runs, window, stripe)).collect()
}

fn settle(runs: &[Run], stripes: &[(Span, Window<'_>)], guesses: &[Speculation]) -> Vec<(Span, ElementWidth)> {
    let (mut chunks, mut entry) = (Vec::new(), 0);
    for (guess, &(_, window)) in guesses.iter().zip(stripes) {
        let settled = guess.settle(entry, runs, window);
        chunks.extend(settled.chunks);
        entry = settled.exit;
    }
    chunks
}

fn bench(criterion: &mut Criterion) {
    let bytes = payload();
    let stripes = stripes(&bytes);
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Bytes(PAYLOAD_BYTES)).sample_size(20);
    for (name, layout) in [("tensors", tensors()), ("opaque", Layout::default())] {
        let runs = layout.runs(PAYLOAD_BYTES);
        let guesses = speculate(&runs, &stripes);
        assert_eq!(settle(&runs, &stripes, &guesses), cut_all(&runs, &bytes));
        group.bench_function(BenchmarkId::new("serial", name), |b| b.iter(|| cut_all(&runs, black_box(&bytes))));
        group.bench_function(BenchmarkId::new("settle", name), |b| {
            b.iter(|| settle(&runs, black_box(&stripes), &guesses));
        });
        group.bench_function(BenchmarkId::new("two threads", name), |b| {
            b.iter(|| {
                let (first, second) = stripes.split_at(stripes.len() / 2);
                let guesses = thread::scope(|scope| {
                    let other = scope.spawn(|| speculate(&runs, black_box(second)));
                    let mut guesses = speculate(&runs, black_box(first));
                    guesses.extend(other.join().unwrap());
                    guesses
                });
                settle(&runs, &stripes, &guesses)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
