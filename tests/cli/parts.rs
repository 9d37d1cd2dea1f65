//! One file, one tensor or some bytes of a version, without the rest.

use crate::bench::{Bench, noise, safetensors};

#[test]
fn a_tensor_comes_as_raw_bytes_or_as_a_file_of_its_own() {
    let bench = Bench::new();
    let (wte, norm) = (noise(1, 400_000), noise(2, 4096));
    let model = safetensors(&[("wte", "F32", &[1000, 100], &wte), ("layers/0.norm", "BF16", &[2048], &norm)]);
    bench.write("model.safetensors", &model);
    bench.ok(&["put", "model.safetensors", "--as", "m"]);

    assert_eq!(bench.ok(&["get", "m", "--tensor", "wte", "-o", "-"]).stdout, wte);
    assert_eq!(bench.json(&["get", "m", "--tensor", "layers/0.norm"])["bytes"], 4096);
    assert_eq!(bench.read("layers_0.norm.bin"), norm);
    bench.ok(&["get", "m", "--tensor", "wte", "--safetensors"]);
    let one = bench.read("wte.safetensors");
    let header = u64::from_le_bytes(one[..8].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&one[8..8 + header]).unwrap();
    assert_eq!(about["wte"]["shape"], serde_json::json!([1000, 100]));
    assert_eq!(one[8 + header..], wte);

    let error = bench.fails(3, "not_found", &["get", "m", "--tensor", "wtf"]);
    assert_eq!((&error["what"], &error["nearest"][0]), (&"tensor".into(), &"wte".into()));
    bench.fails(2, "usage", &["get", "m", "--tensor", "wte", "--range", "0..1"]);
    bench.fails(2, "usage", &["get", "m", "--safetensors"]);
}

#[test]
fn a_range_of_bytes_may_be_open() {
    let bench = Bench::new();
    let bytes = noise(3, 300_000);
    bench.put("m", &bytes);
    for (range, wanted) in [
        ("0..10", &bytes[..10]),
        ("100000..200000", &bytes[100_000..200_000]),
        ("299990..", &bytes[299_990..]),
        ("..5", &bytes[..5]),
        ("7..7", &[]),
    ] {
        assert_eq!(bench.ok(&["get", "m", "--range", range, "-o", "-"]).stdout, wanted, "{range}");
    }
    bench.ok(&["get", "m", "--range", "5..", "-o", "tail.bin"]);
    assert_eq!(bench.read("tail.bin"), bytes[5..]);
    bench.fails(2, "syntax", &["get", "m", "--range", "0..300001", "-o", "-"]);
    bench.fails(2, "usage", &["get", "m", "--range", "0..1"]);
    bench.fails(2, "usage", &["get", "m", "--range", "9..1", "-o", "-"]);
}

#[test]
fn one_file_of_a_directory() {
    let bench = Bench::new();
    bench.write("in/a/tokenizer.json", b"{}");
    bench.write("in/model.bin", &noise(4, 100_000));
    bench.ok(&["put", "in", "--as", "m"]);
    bench.ok(&["get", "m", "--file", "a/tokenizer.json"]);
    assert_eq!(bench.read("tokenizer.json"), b"{}");
    std::fs::create_dir(bench.path("out")).unwrap();
    bench.ok(&["get", "m", "--file", "model.bin", "-o", "out"]);
    assert_eq!(bench.read("out/model.bin"), noise(4, 100_000));
    let range = bench.ok(&["get", "m", "--file", "model.bin", "--range", "1..3", "-o", "-"]);
    assert_eq!(range.stdout, noise(4, 100_000)[1..3]);
    let error = bench.fails(3, "not_found", &["get", "m", "--file", "model.bim"]);
    assert_eq!((&error["what"], &error["nearest"][0]), (&"file".into(), &"model.bin".into()));
    for directory in ["a", "a/"] {
        let error = bench.fails(3, "not_found", &["get", "m", "--file", directory, "-o", "-"]);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("it is a directory") && message.ends_with("did you mean a/tokenizer.json?"),
            "{error}"
        );
    }
    bench.fails(2, "syntax", &["get", "m", "--range", "0..1", "-o", "-"]);
}

#[test]
fn a_payload_on_standard_output_leaves_the_report_to_standard_error() {
    let bench = Bench::new();
    bench.put("m", b"bytes");
    assert_eq!(bench.ok(&["get", "m", "-o", "-"]).stderr, "");
    let ran = bench.ok(&["get", "m", "-o", "-", "--json"]);
    assert_eq!(ran.stdout, b"bytes");
    let report: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(report["bytes"], 5);
}
