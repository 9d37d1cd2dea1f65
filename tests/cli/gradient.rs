//! Gradients of several workers, from files and from the store.

use crate::bench::{Bench, has_fields, safetensors};

/// A gradient with one tensor of two numbers, and a counter.
fn gradient(values: [f32; 2], step: u64) -> Vec<u8> {
    let values = values.map(f32::to_le_bytes).concat();
    safetensors(&[("step", "I64", &[], &step.to_le_bytes()), ("w", "F32", &[2], &values)])
}

/// The last two numbers of a file.
fn result(bytes: &[u8]) -> [f32; 2] {
    let tail = bytes.last_chunk::<8>().unwrap();
    [&tail[..4], &tail[4..]].map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
}

/// A bench with five gradients, `0.safetensors` and on, the last of them far off.
fn workers() -> Bench {
    let bench = Bench::new();
    for (worker, values) in [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0], [1e6, -1e6]].into_iter().enumerate() {
        bench.write(&format!("{worker}.safetensors"), &gradient(values, 7));
    }
    bench
}

const FIVE: [&str; 5] = ["0.safetensors", "1.safetensors", "2.safetensors", "3.safetensors", "4.safetensors"];

#[test]
fn files_are_folded_by_every_rule() {
    let bench = workers();
    for (rule, wanted) in [
        (&["--median"][..], [3.0, 20.0]),
        (&["--trimmed-mean", "0.2"], [3.0, 20.0]),
        (&["--weights", "0,1,0,3,0"], [3.5, 35.0]),
        (&["--mean"], [200_002.0, -199_980.0]),
        (&[], [200_002.0, -199_980.0]),
    ] {
        let args = [&["gradient", "aggregate", "-o", "out.safetensors", "--force"][..], &FIVE, rule].concat();
        let report = bench.json(&args);
        let fields = ["rule", "contributions", "tensors", "elements", "trimmed", "dropped", "bytes", "seconds"];
        has_fields(&report, &fields);
        assert_eq!(
            (&report["contributions"], &report["tensors"], &report["elements"]),
            (&5.into(), &2.into(), &3.into())
        );
        let out = bench.read("out.safetensors");
        assert_eq!(report["bytes"], out.len());
        assert_eq!(result(&out), wanted, "{rule:?}");
    }
    let text = bench.ok(&["gradient", "aggregate", "0.safetensors", "1.safetensors", "-o", "two.safetensors"]);
    assert!(text.text().contains("mean of 2 gradients as two.safetensors"), "{text:?}");
    let stdout = bench.ok(&["gradient", "aggregate", "0.safetensors", "1.safetensors", "-o", "-"]).stdout;
    assert_eq!(stdout, bench.read("two.safetensors"));
}

#[test]
fn a_trimmed_mean_that_leaves_nobody_out_says_so() {
    let bench = workers();
    let fold = |rule: &[&str]| {
        let args = [&["gradient", "aggregate", "-o", "out.safetensors", "--force"][..], &FIVE, rule].concat();
        (bench.ok(&args), bench.json(&args)["trimmed"].clone())
    };
    let (ran, trimmed) = fold(&["--trimmed-mean", "0.1"]);
    assert!(ran.stderr.contains("warning: the trimmed mean 0.1 of 5 contributions leaves nobody out"), "{ran:?}");
    assert!(ran.text().contains("0 of 5 values on each side") && trimmed == 0, "{ran:?}");
    let (ran, trimmed) = fold(&["--trimmed-mean", "0.4"]);
    assert!(ran.stderr.is_empty() && ran.text().contains("2 of 5 values on each side") && trimmed == 2, "{ran:?}");
    let (ran, trimmed) = fold(&["--trimmed-mean", "0"]);
    assert!(ran.stderr.is_empty() && trimmed == 0, "{ran:?}");
    let (ran, trimmed) = fold(&["--median"]);
    assert!(!ran.text().contains("each side") && trimmed.is_null(), "{ran:?}");
}

#[test]
fn versions_of_the_store_come_after_the_files() {
    let bench = workers();
    for worker in ["1", "2"] {
        bench.ok(&["put", &format!("{worker}.safetensors"), "--as", &format!("grads/w{worker}@r7")]);
    }
    let from = ["--from", "grads/w1@r7", "--from", "grads/w2"];
    bench.ok(&[&["gradient", "aggregate", "-o", "out.safetensors"][..], &from].concat());
    assert_eq!(result(&bench.read("out.safetensors")), [2.5, 25.0]);
    let mixed = ["gradient", "aggregate", "3.safetensors", "--weights", "2,1,1", "-o", "mixed.safetensors"];
    bench.ok(&[&mixed[..], &from].concat());
    assert_eq!(result(&bench.read("mixed.safetensors")), [3.25, 32.5]);
    bench.fails(3, "not_found", &["gradient", "aggregate", "--from", "grads/w9", "-o", "none"]);
}

#[test]
fn what_cannot_be_folded_is_named_and_leaves_nothing_behind() {
    let bench = workers();
    bench.write("nan.safetensors", &gradient([1.0, f32::NAN], 7));
    bench.write("late.safetensors", &gradient([1.0, 2.0], 8));
    bench.write("other.safetensors", &safetensors(&[("w", "F32", &[2], &[0; 8])]));
    bench.write("text.safetensors", b"not a gradient");
    let before = std::fs::read_dir(bench.path("")).unwrap().count();
    for (file, why) in [
        ("nan.safetensors", "tensor \"w\" has the value NaN at index 1"),
        ("late.safetensors", "tensor \"step\""),
        ("other.safetensors", "no tensor \"step\""),
        ("text.safetensors", "not a safetensors file"),
    ] {
        let error = bench.fails(2, "input", &["gradient", "aggregate", "0.safetensors", file, "-o", "out"]);
        assert_eq!(error["path"], file);
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    assert_eq!(std::fs::read_dir(bench.path("")).unwrap().count(), before);
    let dropped = ["gradient", "aggregate", "0.safetensors", "nan.safetensors", "--allow-non-finite", "-o", "out"];
    assert_eq!(bench.json(&dropped)["dropped"], 1);
    assert_eq!(result(&bench.read("out")), [1.0, 10.0]);

    let two = ["gradient", "aggregate", "0.safetensors", "1.safetensors", "-o", "new"];
    bench.fails(2, "syntax", &[&two[..], &["--trimmed-mean", "0.5"]].concat());
    bench.fails(2, "syntax", &[&two[..], &["--weights", "1"]].concat());
    bench.fails(2, "syntax", &[&two[..], &["--weights", "1,-1"]].concat());
    bench.fails(2, "usage", &[&two[..], &["--weights", "1,x"]].concat());
    bench.fails(2, "usage", &[&two[..], &["--median", "--mean"]].concat());
    bench.fails(2, "usage", &["gradient", "aggregate", "-o", "new"]);
    bench.fails(2, "io", &["gradient", "aggregate", "missing", "-o", "new"]);
    bench.fails(2, "input", &["gradient", "aggregate", "0.safetensors", "-o", "out"]);
}
