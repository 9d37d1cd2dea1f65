//! `ls`, `log`, `show`, `diff` and `stat`, as tables and as JSON.

use crate::bench::{Bench, has_fields, noise, safetensors};

/// Two versions of a model: `a` stays, `b` changes, `c` goes and `d` comes.
fn two_versions() -> Bench {
    let bench = Bench::new();
    let (a, b, c, d) = (noise(1, 500_000), noise(2, 500_000), noise(3, 100_000), noise(4, 100_000));
    let changed = noise(5, 500_000);
    let shape = &[500, 500][..];
    let first = safetensors(&[("a", "F16", shape, &a), ("b", "F16", shape, &b), ("c", "U8", &[100_000], &c)]);
    let second = safetensors(&[("a", "F16", shape, &a), ("b", "F16", shape, &changed), ("d", "U8", &[100_000], &d)]);
    bench.write("model.safetensors", &first);
    bench.ok(&["put", "model.safetensors", "--as", "runs/m@first", "--meta", "epoch=1", "--meta", "loss=0.5"]);
    bench.write("model.safetensors", &second);
    bench.ok(&["put", "model.safetensors", "--as", "runs/m", "--meta", "note=x y"]);
    bench
}

#[test]
fn keys_are_listed_by_prefix() {
    let bench = two_versions();
    bench.put("other", b"x");
    let all = bench.json(&["ls"]);
    assert_eq!(all.as_array().unwrap().len(), 2);
    let keys = bench.json(&["ls", "runs/"]);
    has_fields(&keys[0], &["key", "versions", "latest", "bytes", "created"]);
    assert_eq!((&keys[0]["key"], keys.as_array().unwrap().len()), (&"runs/m".into(), 1));
    assert_eq!(bench.json(&["ls", "none"]), serde_json::json!([]));
    let text = bench.ok(&["ls"]);
    let lines: Vec<&str> = text.text().lines().collect();
    assert!(
        lines[0].starts_with("KEY     VERSIONS  LATEST") && lines[2].starts_with("runs/m         2       2  1.0 MiB")
    );
}

#[test]
fn a_log_tells_size_and_notes_of_each_version() {
    let bench = two_versions();
    let log = bench.json(&["log", "runs/m"]);
    for version in log.as_array().unwrap() {
        has_fields(
            version,
            &["version", "label", "manifest", "bytes", "stored_bytes", "created", "meta", "expires", "pinned"],
        );
    }
    assert_eq!(log[0]["meta"], serde_json::json!({ "epoch": 1, "loss": 0.5 }));
    assert_eq!((&log[0]["label"], &log[1]["label"]), (&"first".into(), &serde_json::Value::Null));
    let added = log[1]["stored_bytes"].as_u64().unwrap();
    assert!((600_000..700_000).contains(&added), "only what changed is stored: {log}");
    let text = bench.ok(&["log", "runs/m"]);
    assert!(text.text().contains("epoch=1, loss=0.5") && text.text().contains("note=x y"), "{text:?}");
}

#[test]
fn a_version_is_shown_with_its_tensors_and_what_it_shares() {
    let bench = two_versions();
    let show = bench.json(&["show", "runs/m"]);
    has_fields(&show, &["key", "version", "manifest", "previous", "files", "manifest_bytes", "meta", "new_chunks"]);
    let segments = &show["files"][0]["segments"];
    has_fields(
        &segments[0],
        &["name", "dtype", "shape", "offset", "bytes", "stored_bytes", "shared_bytes", "codecs", "chunks"],
    );
    assert_eq!((&segments[0]["name"], &segments[0]["shared_bytes"]), (&"a".into(), &500_000.into()));
    assert_eq!((&segments[1]["name"], &segments[1]["shared_bytes"]), (&"b".into(), &0.into()));
    let text = bench.ok(&["show", "runs/m"]);
    assert!(text.text().starts_with("runs/m@2\n"), "{text:?}");
    let a = text.text().lines().find(|line| line.trim_start().starts_with("a ")).unwrap();
    assert!(a.contains("F16") && a.contains("[500, 500]") && a.contains("488.3 KiB") && a.contains("100.0 %"), "{a}");
    let hash = blake3::hash(&bench.read("model.safetensors")).to_string();
    assert!(text.text().contains(&hash), "the blob hash is what b3sum prints");
}

#[test]
fn a_diff_names_what_came_went_and_changed() {
    let bench = two_versions();
    let diff = bench.json(&["diff", "runs/m@first", "runs/m@2"]);
    has_fields(&diff, &["a", "b", "bytes_a", "bytes_b", "shared_bytes", "unchanged"]);
    for (change, tensor) in [("added", "d"), ("removed", "c"), ("changed", "b")] {
        assert_eq!((&diff[change][0]["tensor"], diff[change].as_array().unwrap().len()), (&tensor.into(), 1));
    }
    let text = bench.ok(&["diff", "runs/m@first", "runs/m@2"]);
    assert!(text.text().contains("1 added, 1 removed, 1 changed, 1 unchanged"), "{text:?}");
    assert!(bench.ok(&["diff", "runs/m", "runs/m"]).text().contains("0 changed"));
}

#[test]
fn stat_adds_up() {
    let bench = two_versions();
    let stat = bench.json(&["stat"]);
    has_fields(&stat, &["keys", "versions", "logical_bytes", "stored_bytes", "ratio", "chunks", "packs", "codecs"]);
    assert_eq!((&stat["keys"], &stat["versions"]), (&1.into(), &2.into()));
    let codecs = stat["codecs"].as_object().unwrap();
    let chunks: u64 = codecs.values().map(|codec| codec["chunks"].as_u64().unwrap()).sum();
    assert_eq!(stat["chunks"], chunks);
    codecs.values().for_each(|codec| has_fields(codec, &["chunks", "raw_bytes", "stored_bytes"]));
    let on_disk = |dir: &str| -> u64 {
        let entries = std::fs::read_dir(bench.store().join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    };
    assert_eq!(stat["pack_bytes"], on_disk("packs"));
    let text = bench.ok(&["stat"]);
    assert!(text.text().contains("versions  2 of 1 key") && text.text().contains("ENCODING"), "{text:?}");
}
