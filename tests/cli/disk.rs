//! Disks that are full, and stores that cannot be written to.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bench::{Bench, Ran, noise, set_mode};

/// Runs `script` with a mount namespace of its own, where `mount` works and whose mounts go with it; `None`, with a printed reason,
/// where the system does not allow that.
fn in_own_mounts(bench: &Bench, script: &str) -> Option<Ran> {
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let probe = Command::new("unshare").args([flags, "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]).output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: this user may not mount a file system: {probe:?}");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-euc", script]).current_dir(bench.path("."));
    command.env("CASKAD", env!("CARGO_BIN_EXE_caskad")).env("CASKAD_STORE", bench.store());
    Some(Ran::of(&mut command))
}

#[test]
fn a_full_disk_is_named_and_costs_no_earlier_version() {
    let bench = Bench::new();
    bench.write("small.bin", &noise(1, 1 << 20));
    bench.write("large.bin", &noise(2, 32 << 20));
    fs::create_dir(bench.store()).unwrap();
    let script = r#"
        mount -t tmpfs -o size=8m tmpfs "$CASKAD_STORE"
        "$CASKAD" put small.bin --as m -q
        for n in 1 2 3 4 5 6 7 8; do
            code=0; "$CASKAD" put large.bin --as m --json 2> error$n.json || code=$?
            test $code -eq 2
            "$CASKAD" verify --all -q
        done
        "$CASKAD" get m@1 -o restored.bin -q
        "$CASKAD" log m --json > log.json
        mount -o remount,size=64m "$CASKAD_STORE"
        "$CASKAD" gc --json > gc.json
        "$CASKAD" put large.bin --as m -q
        "$CASKAD" verify --all -q
    "#;
    let Some(ran) = in_own_mounts(&bench, script) else { return };
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for n in 1..=8 {
        let error: serde_json::Value = serde_json::from_slice(&bench.read(&format!("error{n}.json"))).unwrap();
        assert_eq!(error["error"]["kind"], "no_space", "{error}");
        let path = error["error"]["path"].as_str().unwrap();
        assert!(Path::new(path).starts_with(bench.store()), "{path}");
        assert!(error["error"]["message"].as_str().unwrap().contains("earlier versions are intact"), "{error}");
    }
    assert!(bench.read("restored.bin") == noise(1, 1 << 20));
    let log: serde_json::Value = serde_json::from_slice(&bench.read("log.json")).unwrap();
    assert_eq!(log.as_array().unwrap().len(), 1, "{log}");
    let gc: serde_json::Value = serde_json::from_slice(&bench.read("gc.json")).unwrap();
    assert!(gc["reclaimed_bytes"].as_u64().unwrap() > 4 << 20, "what the failed puts left is given back: {gc}");
}

#[test]
fn a_target_disk_that_is_full_is_named() {
    let bench = Bench::new();
    bench.put("m", &noise(3, 8 << 20));
    fs::create_dir(bench.path("out")).unwrap();
    let script = r#"
        mount -t tmpfs -o size=2m tmpfs out
        code=0; "$CASKAD" get m -o out/m.bin --json 2> error.json || code=$?
        test $code -eq 2
        test -z "$(ls -A out)"
    "#;
    let Some(ran) = in_own_mounts(&bench, script) else { return };
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let error: serde_json::Value = serde_json::from_slice(&bench.read("error.json")).unwrap();
    assert_eq!(error["error"]["kind"], "no_space", "{error}");
    assert!(error["error"]["path"].as_str().unwrap().contains("out/"), "{error}");
}

#[test]
fn a_store_on_a_read_only_medium_can_be_read() {
    let bench = Bench::new();
    bench.put("m", &noise(4, 1 << 20));
    let script = r#"
        mount --bind "$CASKAD_STORE" "$CASKAD_STORE"
        mount -o remount,ro,bind "$CASKAD_STORE"
        "$CASKAD" get m -o restored.bin -q
        "$CASKAD" verify --all -q
        "$CASKAD" log m -q > log.txt
        code=0; "$CASKAD" put restored.bin --as n --json 2> put.json || code=$?
        test $code -eq 2
        code=0; "$CASKAD" rm m --json 2> rm.json || code=$?
        test $code -eq 2
    "#;
    let Some(ran) = in_own_mounts(&bench, script) else { return };
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(bench.read("restored.bin") == noise(4, 1 << 20));
    for file in ["put.json", "rm.json"] {
        let error: serde_json::Value = serde_json::from_slice(&bench.read(file)).unwrap();
        assert_eq!(error["error"]["kind"], "read_only", "{error}");
    }
}

#[test]
fn a_store_of_another_user_can_be_read() {
    let bench = Bench::new();
    bench.put("m", &noise(5, 1 << 20));
    let parts = ["", "packs", "tmp"].map(|part| bench.store().join(part));
    for part in &parts {
        for entry in fs::read_dir(part).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            set_mode(&entry, 0o444);
        }
    }
    parts.iter().rev().for_each(|part| set_mode(part, 0o555));
    for args in [&["get", "m", "-o", "-"][..], &["verify", "--all", "-q"], &["ls"], &["show", "m"], &["stat"]] {
        let ran = Ran::of(&mut bench.command_unprivileged(args));
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }
    let ran = Ran::of(&mut bench.command_unprivileged(&["tag", "m", "mine", "--json"]));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.error()["path"].as_str().unwrap().contains("store"), "{ran:?}");
    parts.iter().for_each(|part| set_mode(part, 0o755));
}
