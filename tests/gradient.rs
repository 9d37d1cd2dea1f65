//! Folding gradients: the same as a straight computation in f64, within the rounding of the tensor's type; and what is refused.
#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io;

use caskad::gradient::{Contribution, NonFinite, Rule, aggregate};
use caskad::{Error, Monitor};
use half::{bf16, f16};
use proptest::prelude::*;

/// A safetensors file in memory.
struct File(String, Vec<u8>);

impl Contribution for File {
    fn name(&self) -> String {
        self.0.clone()
    }

    fn len(&self) -> u64 {
        self.1.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = self.1.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn safetensors(name: &str, tensors: &[(&str, &str, Vec<u64>, Vec<u8>)]) -> File {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert((*name).into(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend_from_slice(bytes);
    }
    let json = serde_json::Value::Object(header).to_string().into_bytes();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.extend(data);
    File(name.to_owned(), bytes)
}

fn encode(dtype: &str, values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| match dtype {
            "F16" => f16::from_f64(*value).to_le_bytes().to_vec(),
            "BF16" => bf16::from_f64(*value).to_le_bytes().to_vec(),
            "F32" => (*value as f32).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        })
        .collect()
}

fn decode(dtype: &str, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        "F16" => bytes.chunks_exact(2).map(|two| f16::from_le_bytes(two.try_into().unwrap()).to_f64()).collect(),
        "BF16" => bytes.chunks_exact(2).map(|two| bf16::from_le_bytes(two.try_into().unwrap()).to_f64()).collect(),
        "F32" => bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()).into()).collect(),
        _ => bytes.chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().unwrap())).collect(),
    }
}

fn fold(files: &[File], rule: &Rule) -> Result<Vec<u8>, Error> {
    let contributions: Vec<&dyn Contribution> = files.iter().map(|file| file as &dyn Contribution).collect();
    let mut out = Vec::new();
    aggregate(&contributions, rule, NonFinite::Refuse, &mut out, &Monitor::none())?;
    Ok(out)
}

/// The straight computation.
fn expected(rule: &Rule, column: &[f64]) -> f64 {
    let mut sorted = column.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let n = sorted.len();
    match rule {
        Rule::Mean => column.iter().sum::<f64>() / n as f64,
        Rule::Weighted(weights) => {
            column.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>() / weights.iter().sum::<f64>()
        }
        Rule::TrimmedMean(fraction) => {
            let drop = (fraction * n as f64) as usize;
            let kept = &sorted[drop..n - drop];
            kept.iter().sum::<f64>() / kept.len() as f64
        }
        _ if n % 2 == 1 => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn every_rule_is_the_straight_computation_rounded_once(
        dtype in prop::sample::select(vec!["F16", "BF16", "F32", "F64"]),
        count in 1_usize..18,
        elements in 0_usize..40,
        seed in prop::collection::vec(prop_oneof![-1.0..1.0_f64, -6e4..6e4_f64, Just(0.0), Just(-0.0), Just(1e-7), Just(5e-324)], 17 * 40),
        weights in prop::collection::vec(0.01..9.0_f64, 17),
        trim in 0.0..0.49_f64,
    ) {
        let column = |worker: usize| -> Vec<f64> { seed[worker * 40..worker * 40 + elements].to_vec() };
        let files: Vec<File> = (0..count)
            .map(|worker| {
                let bytes = encode(dtype, &column(worker));
                safetensors(&format!("worker-{worker}"), &[("w", dtype, vec![elements as u64], bytes), ("step", "I64", vec![], 7_i64.to_le_bytes().to_vec())])
            })
            .collect();
        let rounded: Vec<Vec<f64>> = (0..count).map(|worker| decode(dtype, &encode(dtype, &column(worker)))).collect();
        for rule in [Rule::Mean, Rule::Weighted(weights[..count].to_vec()), Rule::TrimmedMean(trim), Rule::Median] {
            let out = fold(&files, &rule).unwrap();
            let header = u64::from_le_bytes(out[..8].try_into().unwrap()) as usize;
            let json: serde_json::Value = serde_json::from_slice(&out[8..8 + header]).unwrap();
            let place = |name: &str| {
                let at = |index: usize| json[name]["data_offsets"][index].as_u64().unwrap() as usize;
                &out[8 + header + at(0)..8 + header + at(1)]
            };
            prop_assert_eq!(place("step"), &7_i64.to_le_bytes());
            let result = decode(dtype, place("w"));
            prop_assert_eq!(result.len(), elements);
            for (at, result) in result.iter().enumerate() {
                let values: Vec<f64> = rounded.iter().map(|values| values[at]).collect();
                let straight = expected(&rule, &values);
                let once = decode(dtype, &encode(dtype, &[straight]))[0];
                // Sums in another order may fall on the other side of a rounding.
                let ulp = match dtype { "F16" => 2f64.powi(-10), "BF16" => 2f64.powi(-7), "F32" => 2f64.powi(-23), _ => 1e-12 };
                prop_assert!((result - once).abs() <= ulp * straight.abs() + 1e-7 * ulp, "{rule:?}: {result} for {once}");
            }
        }
    }
}

fn one(name: &str, values: &[f64]) -> File {
    safetensors(name, &[("w", "F32", vec![values.len() as u64], encode("F32", values))])
}

#[test]
fn a_bad_worker_is_bearable_and_named() {
    let files = [
        one("a", &[1.0, 2.0]),
        one("b", &[1.2, 2.2]),
        one("mallory", &[1e30, -1e30]),
        one("c", &[0.8, 1.8]),
        one("d", &[1.0, 2.0]),
    ];
    for rule in [Rule::Median, Rule::TrimmedMean(0.2)] {
        let out = fold(&files, &rule).unwrap();
        let values = decode("F32", &out[out.len() - 8..]);
        assert!((values[0] - 1.0).abs() < 0.15 && (values[1] - 2.0).abs() < 0.15, "{rule:?}: {values:?}");
    }
    let files = [one("a", &[1.0, 2.0]), one("b", &[1.0, f64::NAN])];
    let error = fold(&files, &Rule::Mean).unwrap_err().to_string();
    assert!(error.contains('b') && error.contains("element 1 of tensor \"w\" is NaN"), "{error}");
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    let a = || one("a", &[1.0]);
    let cases = [
        (vec![a(), one("b", &[1.0, 2.0])], "tensor \"w\" is F32 [2]"),
        (vec![a(), safetensors("b", &[("w", "F64", vec![1], vec![0; 8])])], "tensor \"w\" is F64 [1]"),
        (vec![a(), safetensors("b", &[("v", "F32", vec![1], vec![0; 4])])], "has a tensor \"v\""),
        (vec![a(), safetensors("b", &[])], "lacks tensor \"w\""),
        (vec![a(), File("b".to_owned(), vec![7; 100])], "not a sound safetensors file"),
        (vec![a(), File("b".to_owned(), one("", &[1.0]).1[..60].to_vec())], "not a sound safetensors file"),
    ];
    for (files, why) in cases {
        let error = fold(&files, &Rule::Mean).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let step = |value: u8| safetensors("s", &[("step", "U8", vec![1], vec![value])]);
    assert!(fold(&[step(1), step(2)], &Rule::Mean).unwrap_err().to_string().contains("differs"));
    for rule in [
        Rule::Weighted(vec![1.0]),
        Rule::Weighted(vec![0.0, 0.0]),
        Rule::Weighted(vec![1.0, -1.0]),
        Rule::Weighted(vec![1.0, f64::NAN]),
        Rule::TrimmedMean(0.5),
        Rule::TrimmedMean(f64::NAN),
    ] {
        assert!(matches!(fold(&[a(), a()], &rule), Err(Error::Syntax { .. })), "{rule:?}");
    }
    assert!(matches!(fold(&[], &Rule::Mean), Err(Error::Syntax { .. })));
}
