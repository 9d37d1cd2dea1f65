//! Loads one tensor of a stored model: only the chunks that it touches are read, and each is verified by hash.
//!
//! ```text
//! cargo run --example load_one_tensor
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use caskad::{Monitor, Payload, PutOptions, Store, VersionRef};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("model.safetensors");
    let ramp = |len: u32, step: f32| -> Vec<f32> { (0..len).map(|i| i as f32 * step).collect() };
    let (embedding, norm) = (ramp(2_000_000, 0.001), ramp(512, 0.5));
    write_safetensors(&file, &[("embedding.weight", &embedding), ("final_norm.weight", &norm)])?;

    let store = Store::open(dir.path().join("store"))?;
    let put = store.put(&"models/toy".parse()?, Payload::path(&file), &PutOptions::default(), &Monitor::none())?;
    println!("stored {}@{}: {} bytes in {} chunks", put.key, put.version, put.bytes, put.chunks);

    // A version stays open for as many reads as you like; its manifest is read and checked once.
    let wanted: VersionRef = "models/toy".parse()?;
    let version = store.version(&wanted)?;
    for (_, tensor) in version.manifest().segments() {
        println!("  {} {} {:?}", tensor.name, tensor.dtype, tensor.shape);
    }

    let (tensor, bytes) = version.read_tensor("final_norm.weight")?;
    let values: Vec<f32> = bytes.chunks_exact(4).filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect();
    println!("{}: {} values from {} of {} bytes", tensor.name, values.len(), bytes.len(), version.bytes());
    assert_eq!(values, norm);

    // Part of a tensor: rows 1000..1010 of a matrix are a range of bytes of the file.
    let (_, embedding_entry) =
        version.manifest().segments().find(|(_, t)| t.name == "embedding.weight").ok_or("no embedding")?;
    let row = |number: u64| embedding_entry.span.offset + number * 4;
    let rows = version.read_range(None, row(1000)..row(1010))?;
    let first = rows.first_chunk().copied().map(f32::from_le_bytes);
    println!("embedding[1000] = {first:?}");
    assert_eq!(first, Some(embedding[1000]));

    // A name that is not there comes back with those that are close to it.
    if let Err(error) = version.read_tensor("final_norm.wieght") {
        println!("as expected: {error}");
    }
    Ok(())
}

/// Eight bytes of header length, the header as JSON, then the tensors one after another.
fn write_safetensors(path: &Path, tensors: &[(&str, &[f32])]) -> std::io::Result<()> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, values) in tensors {
        let start = data.len();
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        let offsets = [start, data.len()];
        let tensor = serde_json::json!({ "dtype": "F32", "shape": [values.len()], "data_offsets": offsets });
        header.insert((*name).to_owned(), tensor);
    }
    let header = serde_json::Value::Object(header).to_string();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat())
}
