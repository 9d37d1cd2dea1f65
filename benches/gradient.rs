//! Throughput of aggregation, in bytes of all contributions, on generated gradients of 3 MB in memory.

use std::hint::black_box;
use std::io;

use caskad::Monitor;
use caskad::gradient::{AggregateOptions, BytesContribution, Contribution, Rule, aggregate};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of tensors in one contribution.
const BYTES: usize = 3 << 20;

/// Tensors of a contribution: as in a small transformer, a few large ones and many small ones between them.
const LENS: [usize; 4] = [BYTES / 2, BYTES / 4, 2048, 512];

/// Numbers around zero whose sizes differ, as gradients have them.
fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = |bits: u64| (bits & 0xffff) as f32 / 65536.0 - 0.5;
        0.01 * unit(state >> 48) * unit(state >> 32)
    }
}

fn gradient(worker: usize, dtype: &str) -> BytesContribution {
    let mut next = numbers(worker as u64);
    let (mut header, mut data) = (Vec::new(), Vec::with_capacity(BYTES));
    while data.len() < BYTES {
        let number = header.len();
        let start = data.len();
        let len = LENS[number.min(2) + number % 2].min(BYTES - start);
        while data.len() < start + len {
            let value = next();
            match dtype {
                "F32" => data.extend(value.to_le_bytes()),
                "BF16" => data.extend(((value.to_bits() >> 16) as u16).to_le_bytes()),
                // Sign and fraction of the value, under one exponent.
                _ => {
                    let bits = value.to_bits();
                    data.extend(((bits >> 16 & 0x8000 | 0x2000 | bits >> 13 & 0x03ff) as u16).to_le_bytes());
                }
            }
        }
        let elements = len / if dtype == "F32" { 4 } else { 2 };
        let (end, name) = (data.len(), format!("\"layer.{number}\""));
        header
            .push(format!("{name}:{{\"dtype\":\"{dtype}\",\"shape\":[{elements}],\"data_offsets\":[{start},{end}]}}"));
    }
    let header = format!("{{{}}}", header.join(","));
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    BytesContribution::new(format!("worker {worker}"), file)
}

fn gradients(criterion: &mut Criterion) {
    let rules =
        [("mean", Rule::Mean), ("trimmed mean", Rule::TrimmedMean { fraction: 0.25 }), ("median", Rule::Median)];
    for dtype in ["F32", "BF16", "F16"] {
        for workers in [4, 16] {
            let gradients: Vec<BytesContribution> = (0..workers).map(|worker| gradient(worker, dtype)).collect();
            let gradients: Vec<&dyn Contribution> = gradients.iter().map(|gradient| gradient as _).collect();
            let mut group = criterion.benchmark_group(format!("gradient/{dtype} of {workers}"));
            group.throughput(Throughput::Bytes(gradients.iter().map(|gradient| gradient.len()).sum()));
            for (name, rule) in &rules {
                let (options, monitor) = (AggregateOptions::default(), Monitor::none());
                group.bench_function(*name, |bench| {
                    bench.iter(|| aggregate(black_box(&gradients), rule, &options, &mut io::sink(), &monitor));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, gradients);
criterion_main!(benches);
