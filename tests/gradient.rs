//! Aggregation against a straight computation in `f64`, and against contributions that do not fit, lie, or end early.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod formats;

use std::io;
use std::sync::Mutex;

use caskad::gradient::{
    AggregateOptions, AggregateReport, BytesContribution, Contribution, FileContribution, NonFinite, Rule,
    VersionContribution, aggregate, aggregate_file,
};
use caskad::split::{Format, Layout, recognise};
use caskad::{Error, Monitor, Payload, PutOptions, Store};
use formats::{Tensor, safetensors, safetensors_raw};
use proptest::prelude::*;

// What a straight computation says.

fn width(dtype: &str) -> usize {
    match dtype {
        "F64" => 8,
        "F32" => 4,
        _ => 2,
    }
}

/// The value of the number with these bits.
fn value(dtype: &str, bits: u64) -> f64 {
    match dtype {
        "F64" => f64::from_bits(bits),
        "F32" => f32::from_bits(bits as u32).into(),
        "BF16" => f32::from_bits((bits as u32) << 16).into(),
        _ => {
            let (sign, exponent, fraction) = (bits >> 15 & 1, bits >> 10 & 31, (bits & 1023) as f64);
            let magnitude = match exponent {
                0 => fraction * 2.0_f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent as i32 - 15),
            };
            if sign == 1 { -magnitude } else { magnitude }
        }
    }
}

fn bits_of(dtype: &str, bytes: &[u8]) -> Vec<u64> {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    bytes.chunks(width(dtype)).map(number).collect()
}

/// Whether the number with these bits is as close to `wanted` as any of its type.
fn is_nearest(dtype: &str, bits: u64, wanted: f64) -> bool {
    let found = value(dtype, bits);
    if dtype == "F64" || found == wanted {
        return found == wanted;
    }
    let sign = 1 << (8 * width(dtype) - 1);
    let distance = (found - wanted).abs();
    let magnitude = bits & !sign;
    // Of opposite sign, zero has the least number as its neighbour.
    let neighbours = [Some(bits + 1), if magnitude == 0 { Some((bits ^ sign) + 1) } else { Some(bits - 1) }];
    neighbours
        .into_iter()
        .flatten()
        .map(|bits| value(dtype, bits))
        .filter(|other| other.is_finite())
        .all(|other| distance <= (other - wanted).abs())
        && found.is_finite()
}

/// The rule over the values of one coordinate, with no thought of speed.
fn straight(rule: &Rule, values: &[f64]) -> f64 {
    let (mut values, n) = (values.to_vec(), values.len());
    let mut weights = vec![1.0; n];
    let kept = match rule {
        Rule::Weighted(given) => {
            weights.clone_from(given);
            0..n
        }
        Rule::TrimmedMean { fraction } => {
            let trimmed = (fraction * n as f64).floor() as usize;
            trimmed..n - trimmed
        }
        Rule::Median => (n - 1) / 2..n / 2 + 1,
        _ => 0..n,
    };
    if kept.len() < n {
        values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    }
    let counted: Vec<(f64, f64)> = values[kept].iter().copied().zip(weights).collect();
    let total: f64 = counted.iter().map(|(_, weight)| weight).sum();
    let mean = |scale: f64| counted.iter().map(|(value, weight)| value * scale * weight).sum::<f64>() / total;
    // Only `F64` can overflow here; then no digit is lost by scaling.
    let scale = 2.0_f64.powi(-400);
    let mean = if mean(1.0).is_finite() { mean(1.0) } else { mean(scale) / scale };
    let bounds = counted.iter().filter(|(_, weight)| *weight > 0.0).map(|(value, _)| *value);
    mean.clamp(bounds.clone().fold(f64::INFINITY, f64::min), bounds.fold(f64::NEG_INFINITY, f64::max))
}

// Contributions.

/// Finite numbers of all kinds, as bytes.
fn numbers(dtype: &str, count: usize, mut seed: u64) -> Vec<u8> {
    let wide = width(dtype);
    let fraction_bits = match dtype {
        "F64" => 52,
        "F32" => 23,
        "F16" => 10,
        _ => 7,
    };
    let sign = 1_u64 << (8 * wide - 1);
    let infinity = sign - (1 << fraction_bits);
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed ^ seed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let mut bytes = Vec::with_capacity(count * wide);
    for _ in 0..count {
        let random = next();
        let magnitude = match next() >> 61 {
            0 => random & ((1 << fraction_bits) - 1),
            1 => 0,
            2 => infinity - 1 - (random & 3),
            3 => random % infinity,
            // Numbers of one size, which is what gradients are.
            _ => infinity / 2 - (3 << fraction_bits) + random % (2 << fraction_bits),
        };
        let negative = if next() >> 63 == 1 { sign } else { 0 };
        bytes.extend_from_slice(&(magnitude | negative).to_le_bytes()[..wide]);
    }
    bytes
}

fn tensor(name: &str, dtype: &'static str, shape: &[u64], bytes: &[u8]) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes: bytes.to_vec() }
}

fn f32s(name: &str, values: &[f32]) -> Tensor {
    tensor(name, "F32", &[values.len() as u64], &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// Contributions called `w0`, `w1`…
fn contributions(files: impl IntoIterator<Item = Vec<u8>>) -> Vec<BytesContribution> {
    let named = |(number, bytes)| BytesContribution::new(format!("w{number}"), bytes);
    files.into_iter().enumerate().map(named).collect()
}

fn run<C: Contribution>(
    contributions: &[C],
    rule: &Rule,
    options: &AggregateOptions,
) -> Result<(Vec<u8>, AggregateReport), Error> {
    let contributions: Vec<&dyn Contribution> = contributions.iter().map(|c| c as &dyn Contribution).collect();
    let mut out = Vec::new();
    let report = aggregate(&contributions, rule, options, &mut out, &Monitor::none())?;
    assert_eq!(report.bytes, out.len() as u64);
    Ok((out, report))
}

fn mean(files: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<u8>, Error> {
    run(&contributions(files), &Rule::Mean, &AggregateOptions::default()).map(|(out, _)| out)
}

fn options(non_finite: NonFinite, block_bytes: usize) -> AggregateOptions {
    let mut options = AggregateOptions::default();
    (options.non_finite, options.block_bytes) = (non_finite, block_bytes);
    options
}

fn layout(file: &[u8]) -> Layout {
    let read = &mut |offset: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&file[offset as usize..][..buffer.len()]);
        Ok(())
    };
    let layout = recognise(file.len() as u64, read).unwrap();
    assert_eq!(layout.format, Format::Safetensors);
    layout
}

/// The bytes of a tensor of a file.
fn bytes_of<'f>(file: &'f [u8], name: &str) -> &'f [u8] {
    let layout = layout(file);
    let span = layout.segments.iter().find(|segment| segment.name == name).unwrap().span;
    &file[span.offset as usize..span.end() as usize]
}

fn message(outcome: Result<Vec<u8>, Error>) -> String {
    outcome.unwrap_err().to_string()
}

// Numbers.

fn rules() -> impl Strategy<Value = Rule> {
    prop_oneof![
        Just(Rule::Mean),
        Just(Rule::Median),
        (0.0..0.5).prop_map(|fraction| Rule::TrimmedMean { fraction }),
        // As many as there are contributions at most.
        prop::collection::vec(prop_oneof![Just(0.0), 0.01..1000.0], 17).prop_map(Rule::Weighted),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn results_are_those_of_a_straight_computation(
        dtype in prop::sample::select(vec!["F64", "F32", "F16", "BF16"]),
        lens in prop::collection::vec(0_usize..6000, 1..4),
        workers in 1_usize..=17,
        rule in rules(),
        seed in any::<u64>(),
        block_bytes in prop::sample::select(vec![0, 100_000, 16 << 20]),
    ) {
        let rule = match rule {
            Rule::Weighted(mut weights) => {
                weights.truncate(workers);
                weights[0] += 1.0;
                Rule::Weighted(weights)
            }
            rule => rule,
        };
        let seed_of = |worker: usize, number: usize| seed ^ (worker * 31 + number) as u64;
        let file = |worker: usize| {
            let tensors = lens.iter().enumerate().map(|(number, &len)| {
                tensor(&format!("t{number}"), dtype, &[len as u64], &numbers(dtype, len, seed_of(worker, number)))
            });
            safetensors(&tensors.collect::<Vec<_>>())
        };
        let files: Vec<Vec<u8>> = (0..workers).map(file).collect();
        let (out, report) = run(&contributions(files.clone()), &rule, &options(NonFinite::Refuse, block_bytes)).unwrap();
        prop_assert_eq!(report.elements, lens.iter().sum::<usize>() as u64);
        for number in 0..lens.len() {
            let name = format!("t{number}");
            let columns: Vec<Vec<u64>> = files.iter().map(|file| bits_of(dtype, bytes_of(file, &name))).collect();
            for (index, bits) in bits_of(dtype, bytes_of(&out, &name)).into_iter().enumerate() {
                let values: Vec<f64> = columns.iter().map(|column| value(dtype, column[index])).collect();
                let wanted = straight(&rule, &values);
                prop_assert!(is_nearest(dtype, bits, wanted), "{name}[{index}]: {:e} for {wanted:e} of {values:?}", value(dtype, bits));
            }
        }
    }

    #[test]
    fn robust_rules_do_not_care_for_the_order_of_the_workers(workers in 1_usize..=17, seed in any::<u64>(), median: bool) {
        let file = |worker: usize| safetensors(&[tensor("t", "BF16", &[500], &numbers("BF16", 500, seed ^ worker as u64))]);
        let rule = if median { Rule::Median } else { Rule::TrimmedMean { fraction: 0.3 } };
        // With one or two workers nothing is trimmed, and a sum of two has no order.
        prop_assume!(median || workers >= 4 || workers <= 2);
        let mut values = (0..2).map(|reversed| {
            let files = (0..workers).map(|worker| file(if reversed == 1 { workers - 1 - worker } else { worker }));
            let (out, _) = run(&contributions(files), &rule, &AggregateOptions::default()).unwrap();
            bits_of("BF16", bytes_of(&out, "t")).into_iter().map(|bits| value("BF16", bits)).collect::<Vec<_>>()
        });
        // Compared as numbers: zeros of either sign are equal, and may stand in either order.
        prop_assert_eq!(values.next(), values.next());
    }

    #[test]
    fn one_contribution_is_its_own_aggregate(seed in any::<u64>(), rule in rules()) {
        let rule = if let Rule::Weighted(_) = rule { Rule::Weighted(vec![0.25]) } else { rule };
        for dtype in ["F64", "F32", "F16", "BF16"] {
            let bytes = numbers(dtype, 3000, seed);
            let file = safetensors(&[tensor("t", dtype, &[30, 100], &bytes)]);
            let (out, report) = run(&contributions([file]), &rule, &AggregateOptions::default()).unwrap();
            prop_assert_eq!(report.contributions, 1);
            // To the bit: the sign of zero too, and the least numbers, of which there is no quarter.
            prop_assert!(bytes_of(&out, "t") == bytes);
        }
    }
}

#[test]
fn no_mean_of_finite_numbers_overflows() {
    for (dtype, max) in [("F64", 0x7fef_ffff_ffff_ffff_u64), ("F32", 0x7f7f_ffff), ("F16", 0x7bff), ("BF16", 0x7f7f)] {
        let bytes = |bits: u64| bits.to_le_bytes()[..width(dtype)].to_vec();
        let low = max | 1 << (8 * width(dtype) - 1);
        for workers in 1..=17 {
            let weights = Rule::Weighted((1..=workers).map(|weight| weight as f64 * 1e305).collect());
            for rule in [Rule::Mean, Rule::Median, Rule::TrimmedMean { fraction: 0.2 }, weights] {
                let file = safetensors(&[tensor("t", dtype, &[2], &[bytes(max), bytes(low)].concat())]);
                let files = contributions(vec![file; workers]);
                let (out, _) = run(&files, &rule, &AggregateOptions::default()).unwrap();
                let found = bits_of(dtype, bytes_of(&out, "t"));
                assert_eq!(found, [max, low], "{rule} of {workers} {dtype}");
            }
        }
    }
}

#[test]
fn zeros_keep_their_sign_where_all_agree() {
    for rule in
        [Rule::Mean, Rule::Median, Rule::TrimmedMean { fraction: 0.3 }, Rule::Weighted(vec![1.0, 0.0, 2.0, 3.0])]
    {
        let files = contributions(vec![safetensors(&[f32s("t", &[-0.0, 0.0])]); 4]);
        let (out, _) = run(&files, &rule, &AggregateOptions::default()).unwrap();
        assert_eq!(bits_of("F32", bytes_of(&out, "t")), [0x8000_0000, 0], "{rule}");
    }
}

#[test]
fn a_value_that_is_not_finite_is_named_or_left_out() {
    let clean = vec![1.0; 200_000];
    for (bad, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut spoilt = clean.clone();
        spoilt[150_001] = bad;
        let files = [&clean, &spoilt, &clean].map(|values| safetensors(&[f32s("a", &[0.0]), f32s("layer.w", values)]));
        for rule in [Rule::Mean, Rule::Median, Rule::TrimmedMean { fraction: 0.4 }, Rule::Weighted(vec![1.0, 0.0, 1.0])]
        {
            let refused = run(&contributions(files.clone()), &rule, &AggregateOptions::default()).unwrap_err();
            let wanted = format!("w1: tensor \"layer.w\" has the value {said} at index 150001");
            assert!(refused.to_string().contains(&wanted), "{rule}: {refused}");
            let drop = options(NonFinite::Drop, 16 << 20);
            let (out, report) = run(&contributions(files.clone()), &rule, &drop).unwrap();
            assert_eq!((report.dropped, bytes_of(&out, "layer.w")), (1, bytes_of(&files[0], "layer.w")), "{rule}");
        }
    }
    let nothing = [f32::NAN, f32::INFINITY].map(|value| safetensors(&[f32s("t", &[1.0, value])]));
    let refused = run(&contributions(nothing), &Rule::Mean, &options(NonFinite::Drop, 0)).unwrap_err();
    assert!(refused.to_string().contains("no finite value left at index 1"), "{refused}");
}

// Files.

#[test]
fn what_differs_is_named() {
    let [a, b] = [f32s("a", &[1.0, 2.0]), f32s("b", &[3.0])];
    let first = safetensors(&[a.clone(), b.clone()]);
    let reshaped = tensor("a", "F32", &[2, 1], &a.bytes);
    let retyped = tensor("a", "I32", &[2], &a.bytes);
    let longer = f32s("a", &[1.0, 2.0, 3.0]);
    for (tensors, why) in [
        (vec![a.clone()], "w1: it does not match w0: it has no tensor \"b\""),
        (vec![a.clone(), b.clone(), f32s("c", &[])], "it has a tensor \"c\" more"),
        (vec![reshaped, b.clone()], "tensor \"a\" has shape [2, 1] and not [2]"),
        (vec![longer, b.clone()], "tensor \"a\" has shape [3] and not [2]"),
        (vec![retyped, b.clone()], "tensor \"a\" is of I32 and not of F32"),
    ] {
        let said = message(mean([first.clone(), safetensors(&tensors)]));
        assert!(said.contains(why), "{said}");
    }
    assert!(mean([first.clone(), safetensors(&[b, a])]).unwrap() == mean([first.clone(), first]).unwrap());
    assert!(message(mean([])).contains("at least one"));
}

#[test]
fn tensors_without_a_mean_are_copied_and_must_agree() {
    let steps = formats::noise("steps", 40_000);
    let file = |steps: &[u8]| safetensors(&[tensor("step", "I64", &[5000], steps), f32s("w", &[1.0])]);
    assert_eq!(bytes_of(&mean(vec![file(&steps); 3]).unwrap(), "step"), steps);
    let mut other = steps.clone();
    other[39_998] ^= 1;
    let said = message(mean([file(&steps), file(&steps), file(&other)]));
    assert!(said.contains("w2: tensor \"step\" of I64 differs from that of w0 at byte 39998"), "{said}");
}

#[test]
fn the_result_is_a_safetensors_file_in_the_order_of_the_first() {
    let tensors = [
        f32s("z \\\" ü\\n", &[1.0]),
        f32s("a", &[]),
        tensor("scalar", "F64", &[], &2.5_f64.to_le_bytes()),
        tensor("m", "BF16", &[0, 3], &[]),
        f32s("last", &[7.0, 8.0]),
    ];
    let first = safetensors(&tensors);
    let mut backwards = tensors.to_vec();
    backwards.reverse();
    let out = mean([first.clone(), safetensors(&backwards)]).unwrap();
    let names = |file: &[u8]| layout(file).segments.into_iter().map(|s| (s.name, s.dtype, s.shape)).collect::<Vec<_>>();
    assert_eq!(names(&out), names(&first));
    let header_len = u64::from_le_bytes(out[..8].try_into().unwrap());
    assert!(header_len.is_multiple_of(8));
    let header = std::str::from_utf8(&out[8..8 + header_len as usize]).unwrap();
    let place = |name: &str| header.find(&format!("\"{name}\":")).unwrap();
    assert!(place("a") < place("scalar") && place("scalar") < place("m") && place("m") < place("last"), "{header}");
    let header: serde_json::Value = serde_json::from_str(header).unwrap();
    let metadata = serde_json::json!({ "caskad.rule": "mean", "caskad.contributions": "2" });
    assert_eq!(header["__metadata__"], metadata);
    assert_eq!(bytes_of(&out, "scalar"), 2.5_f64.to_le_bytes());
    // Folded again, it is the same.
    assert_eq!(mean([out.clone(), out.clone()]).unwrap(), out);
    let empty = safetensors(&[]);
    assert!(layout(&mean([empty.clone(), empty]).unwrap()).segments.is_empty());
}

#[test]
fn files_that_are_cut_short_or_lie_are_refused() {
    let good = safetensors(&[f32s("a", &[1.0; 100]), f32s("b", &[2.0; 7])]);
    for len in 0..good.len() {
        let said = message(mean([good.clone(), good[..len].to_vec()]));
        assert!(said.contains("w1: it is not a safetensors file, or it is cut short"), "{len}: {said}");
    }
    let lie = |header: &str| safetensors_raw(header, &[0; 64]);
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    for bad in [
        huge,
        lie("{"),
        lie("[]"),
        lie(r#"{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,64]}}"#),
        lie(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,64]}}"#),
        lie(r#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}}"#),
        lie(r#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[1,65]}}"#),
        lie(r#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[18446744073709551600,18446744073709551664]}}"#),
        lie(
            r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"b":{"dtype":"F32","shape":[8],"data_offsets":[16,48]}}"#,
        ),
        lie(
            r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"a":{"dtype":"F32","shape":[8],"data_offsets":[32,64]}}"#,
        ),
    ] {
        assert!(message(mean([bad])).contains("w0: it is not a safetensors file"));
    }
    assert!(message(mean([formats::gguf(&[f32s("a", &[1.0])], 32)])).contains("a gguf file"));
}

#[test]
fn files_and_versions_are_read_as_bytes_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let file = |worker: u64| {
        let big = numbers("F16", 300_000, worker);
        let small = (0..50).map(|n| tensor(&format!("s{n}"), "F32", &[20], &numbers("F32", 20, worker + n)));
        safetensors(&small.chain([tensor("big", "F16", &[300, 1000], &big)]).collect::<Vec<_>>())
    };
    let (mut files, mut versions, mut paths) = (Vec::new(), Vec::new(), Vec::new());
    for worker in 0..3 {
        let path = dir.path().join(format!("w{worker}"));
        std::fs::write(&path, file(worker)).unwrap();
        files.push(file(worker));
        let name = format!("grads/w{worker}").parse().unwrap();
        store.put(&name, Payload::path(&path), &PutOptions::default(), &Monitor::none()).unwrap();
        let version = store.version(&format!("grads/w{worker}").parse().unwrap()).unwrap();
        versions.push(VersionContribution::new(version, None).unwrap());
        paths.push(FileContribution::open(&path).unwrap());
    }
    let wanted = run(&contributions(files), &Rule::Median, &AggregateOptions::default()).unwrap().0;
    for block_bytes in [0, 16 << 20] {
        let options = options(NonFinite::Refuse, block_bytes);
        assert!(run(&versions, &Rule::Median, &options).unwrap().0 == wanted);
        assert!(run(&paths, &Rule::Median, &options).unwrap().0 == wanted);
    }
    assert_eq!((versions[0].name(), versions[0].is_empty()), ("grads/w0@1", false));

    // Of several files, one is to be named.
    let both = [dir.path().join("w0"), dir.path().join("w1")];
    let put = PutOptions::default();
    store.put(&"grads/both".parse().unwrap(), Payload::paths(both), &put, &Monitor::none()).unwrap();
    let version = store.version(&"grads/both".parse().unwrap()).unwrap();
    assert!(VersionContribution::new(version.clone(), None).is_err());
    assert!(VersionContribution::new(version.clone(), Some("w9")).is_err());
    let one = VersionContribution::new(version, Some("w1")).unwrap();
    assert_eq!(run(&[one], &Rule::Mean, &AggregateOptions::default()).unwrap().1.elements, 301_000);

    // The result may take the place of a contribution.
    let contributions: Vec<&dyn Contribution> = paths.iter().map(|path| path as &dyn Contribution).collect();
    let target = dir.path().join("w2");
    aggregate_file(&contributions, &Rule::Median, &AggregateOptions::default(), &target, &Monitor::none()).unwrap();
    assert!(std::fs::read(target).unwrap() == wanted);
    assert!(FileContribution::open(dir.path()).is_err() && FileContribution::open(dir.path().join("none")).is_err());
}

/// Bytes, and how they were read.
struct Watched {
    bytes: BytesContribution,
    reads: Mutex<Vec<(u64, usize)>>,
    fails_at: u64,
}

impl Contribution for Watched {
    fn name(&self) -> &str {
        self.bytes.name()
    }

    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.reads.lock().unwrap().push((offset, buffer.len()));
        if offset >= self.fails_at {
            return Err(Error::Cancelled);
        }
        self.bytes.read_at(offset, buffer)
    }
}

fn watched(workers: usize, fails_at: u64) -> Vec<Watched> {
    let small: Vec<Tensor> = (0..100).map(|n| Tensor::random(&format!("s{n}"), "I32", 10)).collect();
    let big = f32s("big", &vec![1.0; 100_000]);
    let file = safetensors(&[small, vec![big]].concat());
    let watch = |bytes| Watched { bytes, reads: Mutex::default(), fails_at };
    contributions(vec![file; workers]).into_iter().map(watch).collect()
}

#[test]
fn blocks_share_their_memory_and_are_read_once() {
    for (workers, most) in [(1, 64 << 10), (4, 16 << 10), (5, 8 << 10), (17, 4 << 10)] {
        let contributions = watched(workers, u64::MAX);
        run(&contributions, &Rule::Median, &options(NonFinite::Refuse, 64 << 10)).unwrap();
        for contribution in contributions {
            let reads = contribution.reads.into_inner().unwrap();
            // What comes behind the read of the whole header.
            let header = reads.iter().position(|(offset, len)| *offset == 8 && *len > 1).unwrap();
            let blocks = &reads[header + 1..];
            assert!(blocks.iter().all(|(_, len)| *len <= most), "{workers}: {blocks:?}");
            let total: usize = blocks.iter().map(|(_, len)| len).sum();
            assert!(total <= 404_000 + 2 * most, "{workers}: {total} bytes");
            let small = blocks.iter().filter(|(offset, _)| *offset < blocks[0].0 + 4000).count();
            assert!(small < 10, "{workers}: {small} reads of 100 small tensors");
        }
    }
}

#[test]
fn errors_of_either_end_come_through_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    for fails_at in [0, 9, 100_000] {
        let contributions = watched(2, fails_at);
        let contributions: Vec<&dyn Contribution> = contributions.iter().map(|c| c as &dyn Contribution).collect();
        let target = dir.path().join("out");
        let options = AggregateOptions::default();
        let failed = aggregate_file(&contributions, &Rule::Mean, &options, &target, &Monitor::none());
        assert!(matches!(failed, Err(Error::Cancelled)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let good = BytesContribution::new("good", safetensors(&[f32s("a", &[1.0])]));
    let options = AggregateOptions::default();
    let failed = aggregate(&[&good], &Rule::Mean, &options, &mut Full, &Monitor::none());
    assert!(matches!(failed, Err(Error::NoSpace { .. })));
    let monitor = Monitor::none();
    monitor.cancel();
    let stopped = aggregate(&[&good], &Rule::Mean, &options, &mut io::sink(), &monitor);
    assert!(matches!(stopped, Err(Error::Cancelled)));
}
