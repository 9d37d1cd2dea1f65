//! Whole operations on a store in a temporary directory: put, re-put, get and verify of 64 MiB of bf16 and f32 tensors, and of a second
//! version in which every float has moved a little.

#![allow(clippy::unwrap_used)] // A bench that cannot set up its payload has nothing to say.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use caskad::{GetOptions, Monitor, Payload, PutOptions, Store};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PAYLOAD_BYTES: usize = 64 << 20;

/// A safetensors file of `tensors` tensors of normally distributed floats, the upper half of each for bf16.
fn model(dtype: &str, width: usize) -> Vec<u8> {
    let (tensors, bytes) = (8, PAYLOAD_BYTES / 8);
    let entries: Vec<String> = (0..tensors)
        .map(|n| {
            let (start, end, len) = (n * bytes, (n + 1) * bytes, bytes / width);
            format!(r#""layer.{n}.weight":{{"dtype":"{dtype}","shape":[{len}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while file.len() < 8 + header.len() + tensors * bytes {
        let uniform: f32 = (0..12).map(|_| next(&mut state)).sum::<f32>() - 6.0;
        let bits = (uniform * 0.02).to_bits().to_le_bytes();
        file.extend_from_slice(&bits[4 - width..]);
    }
    file
}

fn next(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 40) as f32 / (1u64 << 24) as f32
}

/// The same model after a step of training: some of the lowest bits of each float are others.
fn trained(model: &[u8], width: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut moved = model.to_vec();
    let start = moved.len() - PAYLOAD_BYTES;
    for float in moved[start..].chunks_exact_mut(width) {
        next(&mut state);
        float[0] ^= (state >> 40) as u8 & if width == 2 { 1 } else { 0xff };
    }
    moved
}

fn put(store: &Store, source: &Path) {
    let name = "bench".parse().unwrap();
    black_box(store.put(&name, Payload::path(source), &PutOptions::default(), &Monitor::none()).unwrap());
}

fn pipeline(criterion: &mut Criterion) {
    for (dtype, width) in [("BF16", 2), ("F32", 4)] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model.safetensors");
        let first = model(dtype, width);
        fs::write(&source, &first).unwrap();
        let later = dir.path().join("later.safetensors");
        fs::write(&later, trained(&first, width)).unwrap();
        let mut group = criterion.benchmark_group(format!("pipeline/{}", dtype.to_lowercase()));
        group.throughput(Throughput::Bytes(PAYLOAD_BYTES as u64)).sample_size(10);
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            (Store::open(dir.path().join("store")).unwrap(), dir)
        };
        group.bench_function("put", |bencher| {
            bencher.iter_batched(fresh, |(store, dir)| (put(&store, &source), store, dir), BatchSize::PerIteration);
        });
        group.bench_function("put a version", |bencher| {
            let with_first = || {
                let (store, dir) = fresh();
                put(&store, &source);
                (store, dir)
            };
            bencher.iter_batched(with_first, |(store, dir)| (put(&store, &later), store, dir), BatchSize::PerIteration);
        });
        let store = Store::open(dir.path().join("store")).unwrap();
        put(&store, &source);
        group.bench_function("put again", |bencher| bencher.iter(|| put(&store, &source)));
        let (wanted, out) = ("bench".parse().unwrap(), dir.path().join("out"));
        group.bench_function("get", |bencher| {
            bencher.iter(|| {
                store.get(&wanted, &out, &GetOptions::default(), &Monitor::none()).unwrap();
            });
        });
        group.bench_function("verify", |bencher| {
            bencher.iter(|| assert!(store.verify(&wanted, &Monitor::none()).unwrap().ok));
        });
        put(&store, &later);
        group.bench_function("get a difference", |bencher| {
            bencher.iter(|| {
                store.get(&wanted, &out, &GetOptions::default(), &Monitor::none()).unwrap();
            });
        });
        group.finish();
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
