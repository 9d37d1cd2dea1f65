//! What is refused: with which words, which kind and which exit code.

use std::fs;
use std::process::{Command, Stdio};

use caskad::Store;

use crate::bench::{Bench, Ran, noise, set_mode, wait_until};

#[test]
fn names_follow_their_syntax() {
    let bench = Bench::new();
    bench.write("a", b"x");
    for (args, why) in [
        (&["put", "a", "--as", "a b"][..], "' ' is not allowed"),
        (&["put", "a", "--as", "m@3"], "given by the store"),
        (&["put", "a", "--as", "@team/m"], "without a scope"),
        (&["get", "a//b"], "segment is empty"),
        (&["get", "m@b3-xyz"], "6 to 64"),
        (&["log", "m@1"], "'@' is not allowed"),
        (&["tag", "m", "b3-x"], "manifest hash"),
        (&["show", "../m"], "`..` is not allowed"),
    ] {
        let error = bench.fails(2, "syntax", args);
        assert!(error["message"].as_str().unwrap().contains(why), "{args:?}: {error}");
        assert!(!error["message"].as_str().unwrap().contains('\n'), "{error}");
    }
    for args in [
        &["put", "a"][..],
        &["put", "--as", "m"],
        &["put", "a", "--as", "m", "--meta", "novalue"],
        &["put", "a", "--as", "m", "--meta", "k=1", "--meta", "k=2"],
        &["frobnicate"],
        &["ls", "--threads", "0"],
        &["put", "a", "--as", "m", "--compact", "--fast"],
        &["put", "a", "--as", "m", "--base", "m", "--no-delta"],
    ] {
        bench.fails(2, "usage", args);
    }
    bench.fails(2, "syntax", &["put", "a", "--as", "m", "--threads", "100000"]);
    bench.fails(2, "syntax", &["put", "a", "--as", "m", "--meta", "=1"]);
    for media_type in
        ["", "html", "/html", "text/html\n", "text/ht ml", "te\u{1b}xt/html", "text/\u{e4}", "text/html; a=\u{7}"]
    {
        let error = bench.fails(2, "syntax", &["put", "a", "--as", "m", "--media-type", media_type]);
        assert!(error["message"].as_str().unwrap().contains("--media-type"), "{media_type:?}: {error}");
    }
    bench.fails(2, "limit", &["put", "a", "--as", "m", "--meta", &format!("k={}", "v".repeat(5000))]);
}

#[test]
fn what_is_not_there_is_named_with_what_is_close() {
    let bench = Bench::new();
    bench.put("runs/llama@best", b"x");
    for (args, what, nearest) in [
        (&["get", "runs/lama"][..], "key", "runs/llama"),
        (&["show", "runs/llama@4"], "version", "1"),
        (&["get", "runs/llama@bast"], "label", "best"),
    ] {
        let error = bench.fails(3, "not_found", args);
        assert_eq!((&error["what"], &error["nearest"][0]), (&what.into(), &nearest.into()), "{args:?}");
        assert!(error["message"].as_str().unwrap().contains(&format!("did you mean {nearest}?")), "{error}");
    }
    for args in [
        &["verify", "x"][..],
        &["log", "x"],
        &["diff", "x", "runs/llama"],
        &["rm", "x"],
        &["pin", "x"],
        &["unpin", "x"],
        &["tag", "x", "l"],
        &["export", "x"],
        &["get", "runs/llama@b3-000000"],
    ] {
        bench.fails(3, "not_found", args);
    }
}

#[test]
fn no_store_is_made_by_looking_for_one() {
    let bench = Bench::new();
    for args in [&["ls"][..], &["get", "m"], &["gc"], &["stat"], &["verify", "--all"], &["tag", "m", "x"]] {
        let error = bench.fails(2, "not_a_store", args);
        assert!(error["message"].as_str().unwrap().contains("--store DIR"), "{error}");
        assert!(!bench.store().exists());
    }
    bench.write("strange/file", b"x");
    bench.write("a", b"x");
    bench.fails(2, "not_a_store", &["put", "a", "--as", "m", "--store", "strange"]);
    bench.fails(2, "not_a_store", &["put", "a", "--as", "m", "--store", "a"]);
}

#[test]
fn the_store_is_found_by_option_variable_and_home() {
    let bench = Bench::new();
    bench.write("a", b"x");
    bench.ok(&["put", "a", "--as", "m", "--store", "elsewhere"]);
    assert!(bench.path("elsewhere/packs").is_dir() && !bench.store().exists());
    let home = |variable: &str, value: &str| {
        let mut command = bench.command(["put", "a", "--as", "m"]);
        command.env("CASKAD_STORE", "").env(variable, value);
        assert_eq!(Ran::of(&mut command).code, Some(0));
    };
    home("HOME", bench.path("home").to_str().unwrap());
    assert!(bench.path("home/.local/share/caskad/packs").is_dir());
    home("XDG_DATA_HOME", bench.path("xdg").to_str().unwrap());
    assert!(bench.path("xdg/caskad/packs").is_dir());
}

#[test]
fn inputs_that_cannot_be_stored_are_named() {
    let bench = Bench::new();
    bench.write("file", b"x");
    fs::create_dir_all(bench.path("dir/empty")).unwrap();
    assert!(Command::new("mkfifo").arg(bench.path("dir/pipe")).status().unwrap().success());
    for (path, why) in [
        ("missing", "no such file"),
        ("dir", "it is a pipe"),
        ("dir/pipe", "standard input"),
        ("dir/empty", "empty directory"),
        ("/dev/null", "it is a device"),
    ] {
        let error = bench.fails(2, "input", &["put", path, "--as", "m"]);
        assert!(error["message"].as_str().unwrap().contains(why), "{path}: {error}");
        assert!(error["path"].as_str().unwrap().contains(path), "{path}: {error}");
    }
    bench.fails(2, "io", &["put", "file/below", "--as", "m"]);
    bench.fails(2, "input", &["put", "store", "--as", "m"]);
    bench.fails(2, "input", &["import", "dir"]);
    bench.fails(2, "io", &["import", "missing"]);
    bench.fails(1, "damaged", &["import", "file"]);
    assert_eq!(bench.json(&["ls"]), serde_json::json!([]), "nothing of it was stored");

    bench.ok(&["put", "file", "--as", "m"]);
    bench.fails(2, "input", &["export", "m", "-o", "nowhere/"]);
}

#[test]
fn a_file_that_must_not_be_read_is_refused() {
    let bench = Bench::new();
    set_mode(&bench.write("secret", &noise(1, 2000)), 0o000);
    fs::create_dir(bench.path("open")).unwrap();
    set_mode(&bench.path("open"), 0o777);
    let store = bench.path("open/store");
    let mut command =
        bench.command_unprivileged(&["put", "secret", "--as", "m", "--json", "--store", store.to_str().unwrap()]);
    let ran = Ran::of(&mut command);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let error = ran.error();
    assert!(error["message"].as_str().unwrap().contains("ermission denied"), "{error}");
    assert!(error["path"].as_str().unwrap().ends_with("secret"), "{error}");
}

#[test]
fn a_store_that_must_not_be_read_is_not_taken_for_none() {
    let bench = Bench::new();
    bench.put("m", b"x");
    set_mode(&bench.path("payload.bin"), 0o644);
    // As root, the store is another user's.
    set_mode(&bench.store(), if rustix::process::geteuid().is_root() { 0o700 } else { 0o000 });
    for args in [&["ls", "--json"][..], &["gc", "--json"], &["put", "payload.bin", "--as", "m", "--json"]] {
        let ran = Ran::of(&mut bench.command_unprivileged(args));
        let error = ran.error();
        assert_eq!((ran.code, &error["kind"]), (Some(2), &"io".into()), "{args:?}: {error}");
        assert!(error["message"].as_str().unwrap().contains("ermission denied"), "{args:?}: {error}");
        assert!(error["path"].as_str().unwrap().starts_with(bench.store().to_str().unwrap()), "{args:?}: {error}");
    }
    set_mode(&bench.store(), 0o700);
    bench.ok(&["ls"]);
}

#[test]
fn a_store_in_use_names_its_holder() {
    let bench = Bench::new();
    bench.put("m", b"x");
    let held = Store::open(bench.store()).unwrap();
    for args in [&["ls"][..], &["put", "payload.bin", "--as", "m"], &["gc"], &["get", "m", "-o", "-"]] {
        let error = bench.fails(5, "locked", args);
        let pid = std::process::id();
        assert_eq!(error["pid"], pid);
        assert!(error["message"].as_str().unwrap().contains(&format!("process {pid}")), "{error}");
    }
    drop(held);
    // A child of another test that has not begun its own program yet still has the lock.
    wait_until("the store is free", || bench.run(&["ls"]).code == Some(0));
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let bench = Bench::new();
    bench.put("m", b"x");
    bench.write("store/format", b"caskad 99\n");
    for args in [&["ls"][..], &["put", "payload.bin", "--as", "m"], &["gc"]] {
        let error = bench.fails(2, "newer_format", args);
        assert_eq!((&error["found"], &error["supported"]), (&99.into(), &3.into()));
        assert!(error["message"].as_str().unwrap().contains("newer caskad"), "{error}");
    }
    bench.write("store/format", b"caskad 1\n");
    assert_eq!(bench.get("m"), b"x");
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let bench = Bench::new();
    bench.put("m", b"x");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = bench.command(["ls"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let ran = Ran::end(child);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("standard output"), "{ran:?}");
}
