//! Commands that are interrupted: by a closed pipe, by a signal, by `kill -9`, by a file that changes under them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::{Bench, Ran, noise, set_mode, wait_until};

const LARGE: usize = 64 << 20;

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A store with one version of a large file that does not compress.
fn large() -> (Bench, Vec<u8>, String) {
    let bench = Bench::new();
    let bytes = noise(1, LARGE);
    let put = bench.put("m", &bytes);
    let manifest = put["manifest"].as_str().unwrap().to_owned();
    (bench, bytes, manifest)
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (bench, bytes, _) = large();
    for args in [&["get", "m", "-o", "-"][..], &["export", "m", "-o", "-", "--json"]] {
        let mut child = bench.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let ran = Ran::end(child);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    let mut child = bench.command(["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(Ran::end(child).code, Some(0));
    assert!(bench.get("m") == bytes);
}

#[test]
fn a_get_goes_on_where_an_interrupted_one_stopped() {
    let (bench, bytes, manifest) = large();
    let partial = format!(".out.bin.caskad-{}", &manifest[..12]);
    set_mode(&bench.write(&partial, &bytes[..LARGE / 2]), 0o600);
    let got = bench.json(&["get", "m", "-o", "out.bin"]);
    let (resumed, read) = (got["resumed"].as_u64().unwrap(), got["from_store"].as_u64().unwrap());
    assert!(resumed > 0 && read > 0, "{got}");
    assert!(resumed.abs_diff(read) <= 2 + (resumed + read) / 4, "about half of the chunks were there: {got}");
    assert!(bench.read("out.bin") == bytes && !bench.path(&partial).exists());

    // What lies there is verified: wrong bytes are not taken for right ones.
    let mut wrong = bytes.clone();
    wrong[LARGE / 4] ^= 1;
    set_mode(&bench.write(&partial, &wrong), 0o600);
    let got = bench.json(&["get", "m", "-o", "out.bin", "--force"]);
    assert_eq!(got["from_store"], 1, "{got}");
    assert!(bench.read("out.bin") == bytes);
}

#[test]
fn what_others_put_where_a_get_would_go_on_is_left_alone() {
    let bench = Bench::new();
    bench.write("in/w.bin", &noise(4, 100_000));
    let name = |put: Value| format!(".out.caskad-{}", &put["manifest"].as_str().unwrap()[..12]);
    let file = name(bench.json(&["put", "in/w.bin", "--as", "m"]));
    let directory = name(bench.json(&["put", "in", "--as", "d"]));
    let refused = |key: &str, partial: &str| {
        let error = bench.fails(2, "input", &["get", key, "-o", "out"]);
        assert!(error["path"].as_str().unwrap().ends_with(partial), "{error}");
        assert!(error["message"].as_str().unwrap().contains("remove it, or choose another output"), "{error}");
    };
    // Writable by others; with a second name; a link; a pipe.
    let path = bench.write(&file, b"theirs");
    set_mode(&path, 0o666);
    refused("m", &file);
    set_mode(&path, 0o644);
    fs::hard_link(&path, bench.path("theirs")).unwrap();
    refused("m", &file);
    fs::remove_file(&path).unwrap();
    symlink("theirs", &path).unwrap();
    refused("m", &file);
    refused("d", &{
        symlink("in", bench.path(&directory)).unwrap();
        directory.clone()
    });
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    refused("m", &file);
    assert_eq!(bench.read("theirs"), b"theirs");
    fs::remove_file(&path).unwrap();
    fs::remove_file(bench.path(&directory)).unwrap();
    bench.write(&format!("{directory}/kept"), b"theirs");
    set_mode(&bench.path(&directory), 0o777);
    refused("d", &directory);
    assert_eq!(bench.read(&format!("{directory}/kept")), b"theirs");
    if rustix::process::geteuid().is_root() {
        set_mode(&bench.path(&directory), 0o755);
        std::os::unix::fs::chown(bench.path(&directory), Some(65534), None).unwrap();
        refused("d", &directory);
        std::os::unix::fs::chown(bench.write(&file, b"theirs"), Some(65534), None).unwrap();
        refused("m", &file);
        fs::remove_file(&path).unwrap();
    }
    fs::remove_dir_all(bench.path(&directory)).unwrap();
    assert!(!bench.path("out").exists());
    bench.ok(&["get", "m", "-o", "out"]);
    bench.ok(&["get", "d", "-o", "new/out"]);
    assert!(bench.read("out") == noise(4, 100_000) && bench.read("new/out/w.bin") == bench.read("out"));
}

#[test]
fn a_killed_get_leaves_no_target_and_can_be_repeated() {
    let (bench, bytes, manifest) = large();
    let partial = bench.path(&format!(".out.bin.caskad-{}", &manifest[..12]));
    let mut struck = 0;
    for _ in 0..20 {
        let mut child = bench.command(["get", "m", "-o", "out.bin"]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("the partial file", || partial.exists() || child.try_wait().unwrap().is_some());
        signal(&child, Signal::KILL);
        if Ran::end(child).code.is_none() {
            struck += 1;
        }
        if bench.path("out.bin").exists() {
            assert!(bench.read("out.bin") == bytes, "the target appears only when it is whole");
            fs::remove_file(bench.path("out.bin")).unwrap();
        }
    }
    assert!(struck > 0, "not one kill struck");
    bench.ok(&["get", "m", "-o", "out.bin"]);
    assert!(bench.read("out.bin") == bytes && !partial.exists());
}

#[test]
fn an_interrupt_ends_a_get_in_good_order() {
    let (bench, _, _) = large();
    for kind in [Signal::INT, Signal::TERM] {
        let mut command = bench.command(["get", "m", "-o", "-", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut buffer = vec![0; 1 << 16];
        out.read_exact(&mut buffer[..1]).unwrap();
        // The pipe is full, so the get waits for us, and does not end before it saw the signal.
        signal(&child, kind);
        let mut read = 0;
        loop {
            match out.read(&mut buffer).unwrap() {
                0 => break,
                n => read += n,
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let ran = Ran::end(child);
        assert!(ran.code == Some(130) && read < LARGE, "{ran:?} after {read} bytes");
        assert_eq!(ran.error()["kind"], "cancelled");
    }
}

#[test]
fn an_interrupted_put_stores_nothing() {
    let bench = Bench::new();
    bench.put("before", b"x");
    let mut command = bench.command(["put", "-", "--as", "m", "--json"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let block = noise(2, 1 << 20);
    // More than a pipe holds: once it is taken, the put is under way.
    (0..4).for_each(|_| stdin.write_all(&block).unwrap());
    signal(&child, Signal::INT);
    let feeder = std::thread::spawn(move || while stdin.write_all(&block).is_ok() {});
    let ran = Ran::end(child);
    feeder.join().unwrap();
    assert_eq!((ran.code, ran.error()["kind"].as_str()), (Some(130), Some("cancelled")), "{ran:?}");
    bench.fails(3, "not_found", &["log", "m"]);
    bench.ok(&["verify", "--all"]);
    assert!(bench.json(&["gc"])["reclaimed_bytes"].is_u64());
    assert_eq!(bench.get("before"), b"x");
}

#[test]
fn a_second_interrupt_ends_a_put_that_waits_for_input() {
    let bench = Bench::new();
    bench.put("before", b"x");
    let mut child = bench.command(["put", "-", "--as", "m"]).stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take().unwrap();
    wait_until("the lock", || {
        fs::read_to_string(bench.store().join("LOCK")).is_ok_and(|pid| pid.trim() == child.id().to_string())
    });
    let started = Instant::now();
    signal(&child, Signal::INT);
    wait_until("the second interrupt", || {
        if child.try_wait().unwrap().is_none() {
            signal(&child, Signal::INT);
        }
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(Ran::end(child).code, Some(130));
    assert!(started.elapsed() < Duration::from_secs(4), "it does not wait for its input");
    bench.fails(3, "not_found", &["log", "m"]);
    bench.ok(&["verify", "--all"]);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let bench = Bench::new();
    let path = bench.write("growing.bin", &noise(3, 16 << 20));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 0u64;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                file.write_all_at(&round.to_le_bytes(), (round * 4096) % (16 << 20)).unwrap();
            }
        });
        let mut refused = None;
        for _ in 0..50 {
            let ran = bench.run(&["put", "growing.bin", "--as", "m", "--json"]);
            if ran.code != Some(0) {
                refused = Some(ran);
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        let refused = refused.expect("one of 50 puts of a file under constant change must see it");
        assert_eq!((refused.code, refused.error()["kind"].as_str()), (Some(2), Some("input_changed")), "{refused:?}");
        assert!(refused.error()["path"].as_str().unwrap().ends_with("growing.bin"));
    });
    bench.ok(&["put", "growing.bin", "--as", "still"]);
    assert!(bench.get("still") == bench.read("growing.bin"));
}
