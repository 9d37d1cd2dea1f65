//! Writes `fuzz/seeds`: where each fuzz target starts from. `just seeds`, or
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.
//!
//! Run it when a format changes. What it writes depends on nothing but the code, except for the times in packs and archives.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caskad::backend::{MemoryBackend, StorageBackend};
use caskad::chunk::{Codec, ElementWidth};
use caskad::codec::{Effort, Encoder};
use caskad::refs::{RefChange, RefRecord};
use caskad::store::IndexPlace;
use caskad::store::pack::{Record, RecordKind, pack_header, pack_name};
use caskad::{Hash, Monitor, Payload, PutOptions, StoreOptions};

#[path = "../tests/formats/mod.rs"]
mod formats;

use formats::{Member, Tensor, noise, npy, safetensors, zip};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

fn write(target: &str, name: &str, bytes: &[u8]) -> Outcome<()> {
    let folder = root().join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

fn tensors() -> Vec<Tensor> {
    vec![Tensor::random("a.weight", "BF16", 300), Tensor::random("b", "F32", 1), Tensor::random("c", "I64", 40)]
}

/// Weights as training leaves them: exponents close together, noise below.
fn weights(count: usize) -> Vec<u8> {
    let noise = noise("weights", 2 * count);
    noise
        .chunks(2)
        .flat_map(|pair| (f32::from(pair[0]) / 256.0 * 0.1 + f32::from(pair[1]) * 1e-5).to_le_bytes())
        .collect()
}

fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let u32s = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let u64s = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = [b"GGUF".to_vec(), u32s(&[3]), u64s(&[2, 4])].concat();
    file.extend([text("general.architecture"), u32s(&[8]), text("bert")].concat());
    file.extend([text("general.alignment"), u32s(&[4, 64])].concat());
    file.extend([text("tokens"), u32s(&[9, 8]), u64s(&[2]), text("one"), text("two")].concat());
    file.extend([text("nested"), u32s(&[9, 9]), u64s(&[1]), u32s(&[4]), u64s(&[2]), u32s(&[1, 2])].concat());
    file.extend([text("a.weight"), u32s(&[2]), u64s(&[8, 4]), u32s(&[0]), u64s(&[0])].concat());
    file.extend([text("b.weight"), u32s(&[1]), u64s(&[32]), u32s(&[8]), u64s(&[128])].concat());
    file.resize(file.len().next_multiple_of(64), 0);
    file.extend(noise("gguf", 128 + 34));
    file
}

/// The pack and the archive of a small store.
fn store(name: &str, payload: &[u8]) -> Outcome<()> {
    let backend = MemoryBackend::new();
    let store = StoreOptions::new().open_backend(Arc::new(backend.clone()), IndexPlace::Memory)?;
    let key = "seed/model@first".parse()?;
    store.put(&key, Payload::bytes("m.bin", payload), &PutOptions::default(), &Monitor::none())?;
    store.put(&key, Payload::bytes("m.bin", b"inline"), &PutOptions::default(), &Monitor::none())?;
    let mut archive = Vec::new();
    store.export_to(&"seed/model@1".parse()?, &mut archive, &Monitor::none())?;
    write("archive_import", name, &archive)?;
    let pack = backend.open(&pack_name(1))?;
    let mut bytes = vec![0; pack.len()? as usize];
    pack.read_at(0, &mut bytes)?;
    write("pack_recovery", name, &bytes)?;
    write("record", name, bytes.get(16..).unwrap_or_default())
}

/// A pack whose only ref has the last number that there is.
fn last_number() -> Outcome<()> {
    let change = RefChange::Label { key: "k".parse()?, label: "l".parse()?, number: 1 };
    let payload = &RefRecord { seq: u64::MAX, change }.encode();
    let (kind, codec, plain_len, hash) = (RecordKind::Ref, Codec::Raw, payload.len() as u32, Hash::of(payload));
    let mut pack = pack_header(1).to_vec();
    Record { kind, codec, depth: 0, base: None, plain_len, hash, payload }.write(&mut pack);
    write("pack_recovery", "last-number", &pack)
}

fn main() -> Outcome<()> {
    let _ = fs::remove_dir_all(root());
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/golden"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cbor") {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let target = if name.starts_with("manifest") { "manifest" } else { "record" };
            write(target, name, &fs::read(&path)?)?;
        }
    }
    for line in fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/network.txt"))?.lines() {
        let (name, hex) = line.split_once(' ').ok_or("a golden line has no name")?;
        let bytes: Result<Vec<u8>, _> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16)).collect();
        write(if name.starts_with("frame-") { "frame" } else { "signed_record" }, name, &bytes?)?;
    }
    write("safetensors", "three", &safetensors(&tensors()))?;
    write("safetensors", "none", &safetensors(&[]))?;
    write("gguf", "two", &gguf())?;
    let array = npy(1, "<f4", false, "(5, 2)", &noise("npy", 40));
    let members = [
        Member::stored("array.npy", &array),
        Member::stored("model/data.pkl", b"pickle"),
        Member::stored("model/data/0", &noise("storage", 100)),
        Member { deflated: true, ..Member::stored("text", b"deflated") },
    ];
    write("zip", "zip32", &zip(&members, false))?;
    write("zip", "zip64", &zip(&members, true))?;

    let (plain, mut stored) = (weights(1000), Vec::new());
    let text = b"a sentence that comes back again and again. ".repeat(40);
    for (name, plain, width) in [("planes", &plain, ElementWidth::Four), ("zstd", &text, ElementWidth::One)] {
        let codec = Encoder::new(Effort::Default).encode(plain, width, &mut stored);
        let [a, b, c, _] = (plain.len() as u32).to_le_bytes();
        write("codec_decode", name, &[&[codec as u8, a, b, c], stored.as_slice()].concat())?;
        write("codec_decode", &format!("encode-{name}"), &[&[7, 0, 0, 0], plain.as_slice()].concat())?;
    }
    let base: Vec<u8> = plain.iter().enumerate().map(|(i, byte)| if i % 4 == 0 { byte ^ 5 } else { *byte }).collect();
    for (name, effort) in [("delta", Effort::Default), ("delta-ctx", Effort::Compact)] {
        let codec = Encoder::new(effort).encode_against(&plain, ElementWidth::Four, &base, &mut stored);
        let ([a, b], [c, d]) = ((base.len() as u16).to_le_bytes(), (plain.len() as u16).to_le_bytes());
        write("delta_decode", name, &[&[codec as u8, a, b, c, d], base.as_slice(), stored.as_slice()].concat())?;
        let how = if effort == Effort::Compact { 0x82 } else { 2 };
        write(
            "delta_decode",
            &format!("encode-{name}"),
            &[&[how, a, b, 0, 0], base.as_slice(), plain.as_slice()].concat(),
        )?;
    }
    let text: Vec<u8> =
        (0..60_u32).flat_map(|n| format!("line {n}: {}\n", Hash::of(&n.to_le_bytes())).into_bytes()).collect();
    let edited: Vec<u8> = [b"put in front of ", text.as_slice()].concat();
    let codec = Encoder::new(Effort::Default).encode_against(&edited, ElementWidth::One, &text, &mut stored);
    let ([a, b], [c, d]) = ((text.len() as u16).to_le_bytes(), (edited.len() as u16).to_le_bytes());
    write("delta_decode", "patch", &[&[codec as u8, a, b, c, d], text.as_slice(), stored.as_slice()].concat())?;
    write("delta_decode", "encode-patch", &[&[0, a, b, 0, 0], text.as_slice(), edited.as_slice()].concat())?;
    write("codec_decode", "raw", &[&[Codec::Raw as u8, 5, 0, 0][..], b"plain"].concat())?;

    store("weights", &safetensors(&[Tensor { bytes: weights(1000), ..Tensor::random("w", "F32", 1000) }]))?;
    store("noise", &noise("payload", 3000))?;
    last_number()
}
