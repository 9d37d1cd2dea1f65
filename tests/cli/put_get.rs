//! Payloads of every shape go in and come back byte for byte.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use crate::bench::{Bench, Ran, has_fields, noise, safetensors, set_mode};

#[test]
fn a_file_goes_in_once_and_comes_back_under_its_own_name() {
    let bench = Bench::new();
    let bytes = noise(1, 3 << 20);
    bench.write("in/model.bin", &bytes);
    let put = bench.json(&["put", "in/model.bin", "--as", "runs/demo@first", "--meta", "epoch=1", "--ttl", "7d"]);
    has_fields(
        &put,
        &["key", "version", "label", "manifest", "files", "bytes", "chunks", "new_chunks", "stored_bytes", "seconds"],
    );
    assert_eq!((put["version"].as_u64(), put["bytes"].as_u64()), (Some(1), Some(3 << 20)));
    assert_eq!((&put["key"], &put["label"]), (&"runs/demo".into(), &"first".into()));

    let again = bench.json(&["put", "in/model.bin", "--as", "runs/demo"]);
    assert_eq!((again["version"].as_u64(), again["new_chunks"].as_u64()), (Some(2), Some(0)));
    assert!(again["stored_bytes"].as_u64().unwrap() < 10_000, "{again}");

    let got = bench.json(&["get", "runs/demo@first"]);
    has_fields(&got, &["key", "version", "manifest", "bytes", "seconds", "from_cache", "from_store", "resumed"]);
    assert_eq!(got["manifest"], put["manifest"]);
    assert_eq!(bench.read("model.bin"), bytes);
}

#[test]
fn human_answers_tell_what_a_version_added() {
    let bench = Bench::new();
    bench.write("model.bin", &noise(2, 1 << 20));
    let put = bench.ok(&["put", "model.bin", "--as", "m@best"]);
    assert!(put.text().starts_with("stored m@1 (best)\n"), "{put:?}");
    assert!(put.text().contains("1.0 MiB in 1 file") && put.text().contains("of the payload"), "{put:?}");
    let got = bench.ok(&["get", "m", "-o", "out.bin"]);
    assert!(got.text().starts_with("restored m@1 as out.bin\n"), "{got:?}");
    assert!(put.stderr.is_empty() && got.stderr.is_empty(), "no bar where there is no terminal: {put:?} {got:?}");
    assert_eq!(bench.ok(&["put", "model.bin", "--as", "m", "--quiet"]).stdout, b"");
}

#[test]
fn a_directory_keeps_links_empty_directories_and_modes() {
    let bench = Bench::new();
    bench.write("in/weights/a.bin", &noise(3, 200_000));
    bench.write("in/weights/b.bin", b"small");
    bench.write("in/empty.txt", b"");
    set_mode(&bench.write("in/run.sh", b"#!/bin/sh\n"), 0o755);
    fs::create_dir(bench.path("in/nothing")).unwrap();
    symlink("weights/a.bin", bench.path("in/latest")).unwrap();
    symlink("/does/not/exist", bench.path("in/dangling")).unwrap();

    let put = bench.json(&["put", "in", "--as", "runs/tree"]);
    assert_eq!(put["files"], 7);
    let got = bench.ok(&["get", "runs/tree"]);
    assert!(got.text().starts_with("restored runs/tree@1 as tree\n"), "{got:?}");
    assert_eq!(bench.read("tree/weights/a.bin"), noise(3, 200_000));
    assert_eq!(bench.read("tree/weights/b.bin"), b"small");
    assert_eq!(bench.read("tree/empty.txt"), b"");
    assert!(bench.path("tree/nothing").is_dir());
    assert_eq!(fs::metadata(bench.path("tree/run.sh")).unwrap().permissions().mode() & 0o111, 0o111);
    assert_eq!(fs::read_link(bench.path("tree/latest")).unwrap().to_str(), Some("weights/a.bin"));
    assert_eq!(fs::read_link(bench.path("tree/dangling")).unwrap().to_str(), Some("/does/not/exist"));

    fs::create_dir(bench.path("target")).unwrap();
    bench.ok(&["get", "runs/tree", "-o", "target"]);
    bench.fails(2, "input", &["get", "runs/tree", "-o", "target"]);
    let error = bench.fails(2, "input", &["get", "runs/tree", "-o", "-"]);
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("runs/tree@1: it is a directory") && message.contains("--file"), "{error}");
    bench.ok(&["verify", "runs/tree", "--against", "target"]);
}

#[test]
fn what_is_restored_has_the_modes_that_the_umask_leaves() {
    let bench = Bench::new();
    bench.write("in/w.safetensors", &safetensors(&[("t", "U8", &[10_000], &noise(9, 10_000))]));
    set_mode(&bench.write("in/run.sh", b"#!/bin/sh\n"), 0o700);
    bench.ok(&["put", "in", "--as", "d"]);
    for (umask, file, executable) in [("002", 0o664, 0o775), ("077", 0o600, 0o700)] {
        let mode = |name: &str, args: &str| {
            let script = format!("umask {umask}; exec {} get d {args} -o {name}", env!("CARGO_BIN_EXE_caskad"));
            let mut command = Command::new("sh");
            command.args(["-c", &script]).current_dir(bench.path(".")).env("CASKAD_STORE", bench.store());
            let ran = Ran::of(&mut command);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            fs::metadata(bench.path(name)).unwrap().mode() & 0o777
        };
        let name = |what: &str| format!("{what}-{umask}");
        assert_eq!(mode(&name("tensor"), "--tensor t --safetensors"), file);
        assert_eq!(mode(&name("file"), "--file w.safetensors --sync"), file);
        assert_eq!(mode(&name("run"), "--file run.sh"), executable);
        assert_eq!(mode(&name("d"), "--sync"), executable);
        let inside = |name: &str| fs::metadata(bench.path(&format!("d-{umask}/{name}"))).unwrap().mode() & 0o777;
        assert_eq!((inside("w.safetensors"), inside("run.sh")), (file, executable));
    }
}

#[test]
fn several_paths_make_one_version() {
    let bench = Bench::new();
    bench.write("a.bin", &noise(4, 100_000));
    bench.write("d/b.txt", b"text");
    let put = bench.json(&["put", "a.bin", "d", "--as", "m", "--fast", "--media-type", "application/octet-stream"]);
    assert_eq!(put["files"], 2);
    bench.ok(&["get", "m", "-o", "out"]);
    assert_eq!((bench.read("out/a.bin"), bench.read("out/d/b.txt")), (noise(4, 100_000), b"text".to_vec()));
    assert_eq!(bench.json(&["show", "m"])["files"][0]["media_type"], "application/octet-stream");

    bench.write("other/a.bin", b"x");
    let error = bench.fails(2, "input", &["put", "a.bin", "other/a.bin", "--as", "m"]);
    assert!(error["message"].as_str().unwrap().contains("another path is called"), "{error}");
}

#[test]
fn standard_input_is_a_file_of_its_own() {
    let bench = Bench::new();
    let put = |args: &[&str], bytes: &[u8]| {
        let mut child = bench.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        Ran::end(child)
    };
    let bytes = noise(5, 2_000_000);
    assert_eq!(put(&["put", "-", "--as", "runs/pipe"], &bytes).code, Some(0));
    assert_eq!(put(&["put", "-", "--as", "runs/pipe", "--name", "w.bin"], b"short").code, Some(0));
    assert_eq!(put(&["put", "-", "--as", "runs/pipe"], b"").code, Some(0));
    assert_eq!(bench.json(&["show", "runs/pipe@1"])["files"][0]["path"], "pipe");
    assert_eq!(bench.json(&["show", "runs/pipe@2"])["files"][0]["path"], "w.bin");
    assert_eq!(
        (bench.get("runs/pipe@1"), bench.get("runs/pipe@2"), bench.get("runs/pipe@3")),
        (bytes, b"short".to_vec(), vec![])
    );
    bench.fails(2, "usage", &["put", "-", "a.bin", "--as", "m"]);
    bench.write("a.bin", b"x");
    bench.fails(2, "usage", &["put", "a.bin", "--as", "m", "--name", "b"]);
}

#[test]
fn a_file_that_exists_is_replaced_only_with_force() {
    let bench = Bench::new();
    bench.put("m", b"stored");
    bench.write("out.bin", b"mine");
    let error = bench.fails(2, "input", &["get", "m", "-o", "out.bin"]);
    assert!(error["message"].as_str().unwrap().contains("--force"), "{error}");
    assert_eq!(bench.read("out.bin"), b"mine");
    bench.ok(&["get", "m", "-o", "out.bin", "--force", "--sync"]);
    assert_eq!(bench.read("out.bin"), b"stored");
    bench.fails(2, "input", &["get", "m", "-o", "missing/"]);
    bench.fails(2, "io", &["get", "m", "-o", "missing/out.bin"]);
    assert_eq!(bench.json(&["get", "m", "-o", "/dev/null"])["bytes"], 6, "a device is written to");
    assert!(fs::metadata("/dev/null").unwrap().permissions().mode() & 0o170000 != 0o100000);
}

#[test]
fn an_archive_carries_a_version_to_another_store() {
    let (bench, other) = (Bench::new(), Bench::new());
    let bytes = noise(6, 1 << 20);
    bench.put("m@best", &bytes);
    let exported = bench.json(&["export", "m@best"]);
    has_fields(&exported, &["key", "version", "manifest", "bytes", "chunks", "archive_bytes", "seconds"]);
    bench.fails(2, "input", &["export", "m@best"]);
    let archive = bench.read("m-1.caskad");
    assert_eq!(bench.ok(&["export", "m@best", "-o", "-"]).stdout, archive);

    other.write("m.caskad", &archive);
    let imported = other.json(&["import", "m.caskad"]);
    assert_eq!((&imported["key"], &imported["manifest"]), (&"m".into(), &exported["manifest"]));
    assert!(other.ok(&["import", "m.caskad", "--as", "copies/m@theirs"]).text().contains("imported copies/m@1"));
    assert_eq!((other.get("m"), other.get("copies/m@theirs")), (bytes.clone(), bytes));
    let mut child = other.command(["import", "-", "--as", "piped"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert_eq!(Ran::end(child).code, Some(0));

    let mut damaged = archive.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    other.write("damaged.caskad", &damaged);
    other.write("short.caskad", &archive[..middle]);
    for bad in ["damaged.caskad", "short.caskad"] {
        other.fails(1, "damaged", &["import", bad, "--as", "bad"]);
    }
    other.fails(3, "not_found", &["log", "bad"]);
    other.ok(&["verify", "--all"]);
}
