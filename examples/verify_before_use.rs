//! Proves a checkpoint before it is used: the copy on a working disk against the stored version, and the store itself. Damage is named
//! by tensor and offset, and restoring the version mends the copy.
//!
//! ```text
//! cargo run --example verify_before_use
//! ```

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use caskad::{GetOptions, Monitor, Payload, PutOptions, Store, VersionRef};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let model = dir.path().join("model.safetensors");
    let weights = |len: u32| -> Vec<f32> { (0..len).map(|i| (i as f32).sqrt()).collect() };
    write_safetensors(&model, &[("attention.weight", &weights(400_000)), ("mlp.weight", &weights(400_000))])?;

    let store = Store::open(dir.path().join("store"))?;
    let released: VersionRef = "models/release@1".parse()?;
    store.put(&"models/release".parse()?, Payload::path(&model), &PutOptions::default(), &Monitor::none())?;

    // One bit of the working copy flips, as a worn disk or a torn copy would have it.
    let file = OpenOptions::new().read(true).write(true).open(&model)?;
    let (place, mut byte) = (2_000_000, [0]);
    file.read_exact_at(&mut byte, place)?;
    file.write_all_at(&[byte[0] ^ 0b100], place)?;
    drop(file);

    // Hashes find it, without the store's own copy being read.
    let report = store.verify_against(&released, &model, &Monitor::none())?;
    for damage in &report.damaged {
        println!("{:?} at {:?}: {}", damage.tensors, damage.offset, damage.why);
    }
    assert!(!report.ok && report.damaged.iter().all(|damage| damage.tensors == ["mlp.weight"]));

    // The store's copy is proven in turn: every chunk is read from the disk, decoded and hashed.
    let report = store.verify(&released, &Monitor::none())?;
    println!("the store: ok = {}, {} chunks, {} bytes", report.ok, report.chunks, report.bytes);
    assert!(report.ok);

    // So it can mend the working copy, which is replaced only once the new one is whole.
    store.get(&released, &model, &GetOptions::default(), &Monitor::none())?;
    let report = store.verify_against(&released, &model, &Monitor::none())?;
    println!("the working copy: ok = {}", report.ok);
    assert!(report.ok);
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
