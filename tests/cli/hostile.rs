//! Containers that are cut short or lie about themselves are stored like any other bytes, and names cannot drive a terminal.

use crate::bench::{Bench, noise, safetensors};

fn safetensors_with(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &noise(1, data)].concat()
}

fn with_length(length: u64) -> Vec<u8> {
    let mut bytes = safetensors(&[("w", "F32", &[25_000], &noise(2, 100_000))]);
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn gguf(tensors: u64, pairs: u64) -> Vec<u8> {
    [&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes(), &noise(3, 50_000)].concat()
}

/// A zip whose end record claims `entries` at `offset`.
fn zip(entries: u16, size: u32, offset: u32) -> Vec<u8> {
    let mut bytes = [&b"PK\x03\x04"[..], &noise(4, 60_000)].concat();
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn liars() -> Vec<(&'static str, Vec<u8>)> {
    let whole = safetensors(&[("w", "F32", &[25_000], &noise(2, 100_000))]);
    let table = |shape: &str, offsets: &str| {
        safetensors_with(&format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), 100_000)
    };
    vec![
        ("truncated data", whole[..50_000].to_vec()),
        ("length of the file", with_length(whole.len() as u64)),
        ("length of everything", with_length(u64::MAX)),
        ("length of nothing", with_length(0)),
        ("length inside the header", with_length(20)),
        ("not json", safetensors_with("{not json at all}", 10_000)),
        ("deep json", safetensors_with(&"{\"a\":".repeat(5000), 10_000)),
        ("past the end", table("[25000]", "[0,4000000]")),
        ("backwards", table("[25000]", "[100000,0]")),
        ("overflow", table("[9223372036854775807,4]", "[0,18446744073709551615]")),
        ("negative", table("[-1]", "[-4,0]")),
        ("overlap", {
            let one = r#"{"dtype":"U8","shape":[80000],"data_offsets":[0,80000]}"#;
            let two = r#"{"dtype":"U8","shape":[80000],"data_offsets":[20000,100000]}"#;
            safetensors_with(&format!(r#"{{"a":{one},"b":{two}}}"#), 100_000)
        }),
        ("gguf of many tensors", gguf(u64::MAX, 0)),
        ("gguf of many pairs", gguf(1, u64::MAX)),
        ("gguf magic alone", [b"GGUF".to_vec(), noise(5, 2000)].concat()),
        ("zip of many", zip(u16::MAX, u32::MAX, 0)),
        ("zip that points at itself", zip(1, 46, 60_004)),
        ("zip past the end", zip(3, 100, u32::MAX - 1)),
        ("zip magic alone", [b"PK\x03\x04".to_vec(), noise(6, 2000)].concat()),
    ]
}

#[test]
fn a_header_that_lies_costs_nothing_but_its_tensors() {
    let bench = Bench::new();
    for (number, (what, bytes)) in liars().into_iter().enumerate() {
        let key = format!("liar/{number}");
        bench.put(&key, &bytes);
        assert!(bench.get(&key) == bytes, "{what}");
    }
    assert_eq!(bench.json(&["verify", "--all"])["ok"], true);
}

#[test]
fn a_container_from_standard_input_may_lie_too() {
    use std::io::Write;
    let bench = Bench::new();
    for (number, (what, bytes)) in liars().into_iter().enumerate() {
        let key = format!("liar/{number}");
        let mut command = bench.command(["put", "-", "--as", &key, "--quiet"]);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert_eq!(crate::bench::Ran::end(child).code, Some(0), "{what}");
        assert!(bench.get(&key) == bytes, "{what}");
    }
}

#[test]
fn names_do_not_drive_the_terminal() {
    let bench = Bench::new();
    let name = "w\u{1b}[2J\r";
    bench.write("m.safetensors", &safetensors(&[(name, "F32", &[1000], &noise(7, 4000))]));
    bench.ok(&["put", "m.safetensors", "--as", "m", "--meta", "note=\u{1b}]0;title\u{7}"]);
    for args in [&["show", "m"][..], &["log", "m"]] {
        let ran = bench.ok(args);
        assert!(!ran.text().contains('\u{1b}') && ran.text().contains("\\u{1b}"), "{ran:?}");
    }
    assert_eq!(bench.json(&["show", "m"])["files"][0]["segments"][0]["name"], name);
    let ran = bench.run(&["get", "m", "--tensor", "w\u{1b}[2J"]);
    assert!(ran.code == Some(3) && !ran.stderr.contains('\u{1b}'), "{ran:?}");
}
