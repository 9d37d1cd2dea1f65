//! Versions that are differences to one another: compacted, carried away, without their first one, and damaged.

use std::fs;

use crate::bench::{Bench, has_fields, safetensors};

/// A model in its `step`-th step of training: each weight has moved a little since the step before.
fn model(step: u32) -> Vec<u8> {
    let weights: Vec<u8> =
        (0..90_000_u32).flat_map(|n| ((n as f32).sin() + step as f32 * 1e-6).to_le_bytes()).collect();
    safetensors(&[("layer.weight", "F32", &[300, 300], &weights)])
}

/// Three steps as versions of `m`.
fn bench() -> Bench {
    let bench = Bench::new();
    for step in 1..=3 {
        bench.write("model.safetensors", &model(step));
        let put = bench.json(&["put", "model.safetensors", "--as", "m"]);
        assert_eq!(put["delta_chunks"].as_u64().unwrap() > 0, step > 1, "{put}");
    }
    bench
}

fn assert_holds(bench: &Bench, steps: impl IntoIterator<Item = u32>) {
    for step in steps {
        assert!(bench.get(&format!("m@{step}")) == model(step), "step {step}");
    }
}

/// Bases below the deepest chunk of a version.
fn bases(bench: &Bench, version: &str) -> u64 {
    bench.json(&["show", version])["files"][0]["bases"].as_u64().unwrap()
}

#[test]
fn compact_turns_a_key_around() {
    let bench = bench();
    assert_eq!(["m@1", "m@2", "m@3"].map(|version| bases(&bench, version)), [0, 1, 2]);
    let report = bench.json(&["compact", "m"]);
    has_fields(
        &report,
        &[
            "key",
            "versions",
            "chunks",
            "replaced_chunks",
            "bytes_before",
            "bytes_after",
            "reclaimed_bytes",
            "kept_bytes",
            "seconds",
        ],
    );
    assert_eq!((&report["key"], &report["versions"]), (&"m".into(), &3.into()));
    assert_eq!(["m@1", "m@2", "m@3"].map(|version| bases(&bench, version)), [2, 1, 0]);
    assert_holds(&bench, 1..=3);
    bench.ok(&["verify", "--all"]);
    let text = bench.ok(&["compact", "m", "--depth", "1"]);
    assert!(text.text().starts_with("m: ") && text.text().contains(" in 3 versions took "), "{text:?}");
    assert_eq!(bench.ok(&["compact", "m", "--quiet"]).text(), "");
    bench.fails(3, "not_found", &["compact", "n"]);
    bench.fails(2, "syntax", &["compact", "m", "--depth", "9"]);
    bench.fails(2, "usage", &["compact"]);
}

#[test]
fn a_version_outlives_the_one_that_it_is_a_difference_to() {
    let bench = bench();
    bench.ok(&["rm", "m@1"]);
    let dry = bench.json(&["gc", "--dry-run"]);
    let report = bench.json(&["gc"]);
    assert_eq!(
        (&dry["removed_chunks"], &report["reclaimed_bytes"]),
        (&report["removed_chunks"], &dry["reclaimed_bytes"])
    );
    bench.fails(3, "not_found", &["get", "m@1", "-o", "out"]);
    assert_holds(&bench, 2..=3);
    bench.ok(&["verify", "--all"]);
    // Compacted, the rest needs it no more.
    let before = bench.json(&["stat"])["chunks"].as_u64().unwrap();
    bench.ok(&["compact", "m"]);
    assert!(bench.json(&["stat"])["chunks"].as_u64().unwrap() < before);
    assert_holds(&bench, 2..=3);
}

#[test]
fn an_archive_of_a_difference_is_complete_in_itself() {
    let (from, to) = (bench(), Bench::new());
    from.ok(&["export", "m@3", "-o", "m.caskad"]);
    to.write("m.caskad", &from.read("m.caskad"));
    to.ok(&["import", "m.caskad"]);
    assert!(to.get("m") == model(3));
    assert_eq!(bases(&to, "m"), 0);
    to.ok(&["verify", "--all"]);
    // What is imported beside its earlier versions is found there.
    let before = from.json(&["stat"])["chunks"].clone();
    from.ok(&["import", "m.caskad", "--as", "copy"]);
    assert_eq!(from.json(&["stat"])["chunks"], before);
    assert!(from.get("copy") == model(3));
}

#[test]
fn a_damaged_base_is_named_and_hurts_what_needs_it() {
    let bench = bench();
    // The first record of the store is the first chunk of the first version, which has all of the tensor in the second.
    let chunks = bench.json(&["show", "m@1"])["files"][0]["chunks"].as_u64().unwrap();
    let pack = bench.store().join("packs/p-00000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let records: Vec<usize> = (0..bytes.len() - 4).filter(|&at| bytes[at..at + 4] == *b"cREC").collect();
    assert!(chunks >= 2 && records.len() > 6);
    bytes[records[1] + 300] ^= 1;
    let base: String = bytes[records[1] + 16..records[1] + 48].iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&pack, bytes).unwrap();
    for version in ["m@1", "m@2", "m@3"] {
        let ran = bench.run(&["verify", version, "--json"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let damage = ran.json()["damaged"][0].clone();
        assert_eq!(damage["tensors"][0], "layer.weight");
        assert!(
            version == "m@1" || damage["why"].as_str().unwrap().contains(&format!("its base {base} is ")),
            "{damage}"
        );
        bench.fails(1, "damaged", &["get", version, "-o", "out"]);
    }
    // The first version again: it is stored anew, and the others have their base back.
    bench.write("model.safetensors", &model(1));
    bench.ok(&["put", "model.safetensors", "--as", "m"]);
    assert_holds(&bench, 1..=3);
    for version in ["m@1", "m@2", "m@3", "m@4"] {
        bench.ok(&["verify", version]);
    }
}
