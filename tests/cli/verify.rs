//! Damage is found, named by place, and told by exit code 1.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::bench::{Bench, has_fields, noise, safetensors, set_mode};

/// Flips a bit in the middle of the store's first pack.
fn damage_pack(bench: &Bench) {
    let pack = fs::read_dir(bench.store().join("packs")).unwrap().next().unwrap().unwrap().path();
    let file = OpenOptions::new().read(true).write(true).open(pack).unwrap();
    let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

#[test]
fn a_sound_store_verifies() {
    let bench = Bench::new();
    bench.put("m", &noise(1, 1 << 20));
    for args in [&["verify", "m"][..], &["verify", "--all"]] {
        let report = bench.json(args);
        has_fields(&report, &["ok", "versions", "chunks", "bytes", "seconds", "damaged"]);
        assert_eq!(
            (&report["ok"], &report["bytes"], &report["damaged"]),
            (&true.into(), &(1 << 20).into(), &serde_json::json!([]))
        );
        assert!(bench.ok(args).text().starts_with("ok: 1 version, "));
    }
    bench.fails(2, "usage", &["verify"]);
    bench.fails(2, "usage", &["verify", "m", "--all"]);
    bench.fails(2, "usage", &["verify", "--all", "--against", "x"]);
    bench.fails(3, "not_found", &["verify", "n"]);
}

#[test]
fn damage_is_named_by_file_tensor_and_offset() {
    let bench = Bench::new();
    let tensor = noise(2, 2 << 20);
    bench.write("w.safetensors", &safetensors(&[("layer.weight", "F32", &[1 << 19], &tensor)]));
    bench.ok(&["put", "w.safetensors", "--as", "m"]);
    bench.put("whole", &noise(3, 100_000));
    damage_pack(&bench);

    for args in [&["verify", "m"][..], &["verify", "--all"]] {
        let ran = bench.run(&[args, &["--json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""), "{ran:?}");
        let report = ran.json();
        assert_eq!(report["ok"], false);
        let damaged = report["damaged"].as_array().unwrap();
        let chunk = damaged.iter().find(|damage| damage["what"] == "chunk").unwrap();
        has_fields(chunk, &["key", "version", "file", "tensors", "offset", "len", "chunk", "why"]);
        assert_eq!((&chunk["key"], &chunk["version"]), (&"m".into(), &1.into()));
        assert_eq!((&chunk["file"], &chunk["tensors"][0]), (&"w.safetensors".into(), &"layer.weight".into()));
        let text = bench.run(args);
        assert_eq!(text.code, Some(1));
        assert!(text.text().contains("damaged chunk of m@1, file w.safetensors, bytes "), "{text:?}");
        assert!(text.text().contains("DAMAGED in "), "{text:?}");
    }
    let error = bench.fails(1, "damaged", &["get", "m", "-o", "out"]);
    assert!(error["message"].as_str().unwrap().contains("verify --all"), "{error}");
    assert!(!bench.path("out").exists());
    assert_eq!(bench.get("whole"), noise(3, 100_000), "what is sound is still there");
    assert_eq!(bench.run(&["verify", "m", "--quiet"]).code, Some(1));
}

#[test]
fn a_copy_is_compared_with_what_is_stored() {
    let bench = Bench::new();
    let bytes = noise(4, 1 << 20);
    bench.put("m", &bytes);
    let copy = bench.write("copy.bin", &bytes);
    assert_eq!(bench.json(&["verify", "m", "--against", "copy.bin"])["ok"], true);
    let file = OpenOptions::new().write(true).open(&copy).unwrap();
    file.write_all_at(&[!bytes[700_000]], 700_000).unwrap();
    let ran = bench.run(&["verify", "m", "--against", "copy.bin", "--json"]);
    assert_eq!(ran.code, Some(1));
    let damage = &ran.json()["damaged"][0];
    let (offset, len) = (damage["offset"].as_u64().unwrap(), damage["len"].as_u64().unwrap());
    assert!(offset <= 700_000 && 700_000 < offset + len, "{damage}");
    file.set_len(1000).unwrap();
    assert_eq!(bench.run(&["verify", "m", "--against", "copy.bin"]).code, Some(1));
    bench.fails(2, "io", &["verify", "m", "--against", "nothing.bin"]);
}

#[test]
fn a_directory_is_compared_entry_by_entry() {
    let bench = Bench::new();
    bench.write("in/a.txt", b"a");
    bench.write("in/b.txt", &noise(5, 5000));
    std::os::unix::fs::symlink("a.txt", bench.path("in/link")).unwrap();
    bench.ok(&["put", "in", "--as", "m"]);
    bench.ok(&["verify", "m", "--against", "in"]);
    bench.write("in/stranger", b"x");
    fs::remove_file(bench.path("in/a.txt")).unwrap();
    fs::remove_file(bench.path("in/link")).unwrap();
    std::os::unix::fs::symlink("b.txt", bench.path("in/link")).unwrap();
    let ran = bench.run(&["verify", "m", "--against", "in", "--json"]);
    let report = ran.json();
    let mut files: Vec<&str> =
        report["damaged"].as_array().unwrap().iter().map(|d| d["file"].as_str().unwrap()).collect();
    files.sort_unstable();
    assert_eq!((ran.code, files), (Some(1), vec!["a.txt", "link", "stranger"]));
}

#[test]
fn whatever_stands_in_for_a_file_is_a_difference() {
    let bench = Bench::new();
    for name in ["a", "d/b", "e/f", "pipe", "run"] {
        bench.write(&format!("in/{name}"), name.as_bytes());
    }
    bench.ok(&["put", "in", "--as", "m"]);
    set_mode(&bench.path("in/run"), 0o755);
    fs::rename(bench.path("in/a"), bench.path("a")).unwrap();
    std::os::unix::fs::symlink("../a", bench.path("in/a")).unwrap();
    fs::remove_dir_all(bench.path("in/d")).unwrap();
    bench.write("in/d", b"no directory");
    fs::remove_dir_all(bench.path("in/e")).unwrap();
    std::os::unix::fs::symlink("e", bench.path("in/e")).unwrap();
    fs::remove_file(bench.path("in/pipe")).unwrap();
    for pipe in ["in/pipe", "in/stranger"] {
        assert!(std::process::Command::new("mkfifo").arg(bench.path(pipe)).status().unwrap().success());
    }
    let ran = bench.run(&["verify", "m", "--against", "in", "--json"]);
    let report = ran.json();
    let damaged = report["damaged"].as_array().unwrap();
    let mut found: Vec<(&str, &str)> =
        damaged.iter().map(|d| (d["file"].as_str().unwrap(), d["why"].as_str().unwrap())).collect();
    found.sort_unstable();
    let (missing, stranger) = ("it is missing there: what should be its directory is", "it is not in the version");
    let expected = [
        ("a", "it is a link there".to_owned()),
        ("d", stranger.to_owned()),
        ("d/b", format!("{missing} none")),
        ("e", stranger.to_owned()),
        ("e/f", format!("{missing} a link to itself")),
        ("pipe", "it is not a regular file there".to_owned()),
        ("run", "it is executable there".to_owned()),
        ("stranger", stranger.to_owned()),
    ];
    assert_eq!((ran.code, found), (Some(1), expected.iter().map(|(file, why)| (*file, why.as_str())).collect()));

    // A single file may be reached through a link, but a pipe is none.
    bench.put("one", b"a");
    bench.ok(&["verify", "one", "--against", "in/a"]);
    assert_eq!(bench.run(&["verify", "one", "--against", "in/pipe"]).code, Some(1));
    bench.fails(2, "input", &["verify", "m", "--against", "a"]);
    bench.fails(2, "io", &["verify", "m", "--against", "nothing"]);
}
