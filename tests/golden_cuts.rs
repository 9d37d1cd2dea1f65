//! Cut points are part of the format: `manifests/cutpoints.json` holds those of some payloads, and a change to any of them fails here.
//!
//! A payload is made of BLAKE3's extendable output over a label, so that any implementation can make it again. After a change on purpose:
//! `CASKAD_REGENERATE=1 cargo test --test golden_cuts`, a new format version, and a line in the changelog.
#![allow(clippy::unwrap_used, reason = "a test may panic outside of its own function too")]

mod formats;

use std::fs;
use std::path::Path;

use caskad::split::{cut_all, recognise};
use formats::{Tensor, gguf, noise, pt, safetensors};
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/cutpoints.json");

fn tensors() -> Vec<Tensor> {
    let small = |n: u64| Tensor::random(&format!("golden/bias/{n}"), "F32", 384 + n);
    let mut tensors = vec![Tensor::random("golden/embedding", "BF16", 1_000_003), small(0), small(1)];
    tensors.push(Tensor::random("golden/weight", "F32", 400_000));
    tensors.extend((2..40).map(small));
    tensors
}

fn payloads() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let tensors = tensors();
    let letters =
        noise("golden/text", 1 << 20).iter().map(|byte| b"etaoin shrdlu.,\n"[usize::from(byte % 16)]).collect();
    vec![
        ("noise", "3 MiB and 5 bytes of the label golden/noise", noise("golden/noise", (3 << 20) + 5)),
        ("text", "1 MiB of the label golden/text, each byte modulo 16 an index into \"etaoin shrdlu.,\\n\"", letters),
        ("zeros", "600000 zero bytes", vec![0; 600_000]),
        ("safetensors", "the tensors of tests/golden_cuts.rs, each of its own name as label", safetensors(&tensors)),
        ("gguf", "the same tensors at alignment 32", gguf(&tensors, 32)),
        ("pt", "the same tensors as storages of a torch archive", pt(&tensors)),
    ]
}

fn case((name, made_of, payload): (&str, &str, Vec<u8>)) -> Value {
    let len = payload.len() as u64;
    let layout = recognise(len, &mut |offset, buffer| {
        buffer.copy_from_slice(&payload[offset as usize..][..buffer.len()]);
        Ok(())
    })
    .unwrap();
    let runs = layout.runs(len);
    let cuts: Vec<String> = cut_all(&runs, &payload).iter().map(|(span, _)| span.end().to_string()).collect();
    let starts: Vec<String> = runs.iter().map(|run| run.span.offset.to_string()).collect();
    json!({
        "name": name,
        "payload": made_of,
        "bytes": len,
        "blake3": blake3::hash(&payload).to_hex().as_str(),
        "format": layout.format.name(),
        "segments": layout.segments.len(),
        "runs": starts.join(" "),
        "cuts": cuts.join(" "),
    })
}

#[test]
fn cut_points_are_those_of_the_golden_file() {
    let cases: Vec<Value> = payloads().into_iter().map(case).collect();
    let fresh = json!({
        "about": "Cut points of caskad's splitting. Payloads are BLAKE3 extendable output of a label; runs are offsets where cutting starts anew, cuts are ends of chunks, in bytes.",
        "cases": cases,
    });
    if std::env::var_os("CASKAD_REGENERATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(Path::new(GOLDEN).parent().unwrap()).unwrap();
        fs::write(GOLDEN, format!("{fresh:#}\n")).unwrap();
    }
    let golden: Value = serde_json::from_str(&fs::read_to_string(GOLDEN).unwrap()).unwrap();
    assert!(golden == fresh, "cut points differ from {GOLDEN}, or the file is stale; see the head of this test");
}
