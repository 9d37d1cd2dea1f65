//! Keeps the checkpoints of a training run: every epoch as a version of one key, with its loss noted, the best one labelled and
//! pinned, and the others left to expire.
//!
//! ```text
//! cargo run --example keep_checkpoints
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use caskad::refs::{Meta, MetaValue};
use caskad::{GcOptions, Key, Monitor, Payload, PutName, PutOptions, Store, VersionRef, VersionSpec};

/// A model that is trained: a frozen embedding, and a head that every epoch changes.
struct Model {
    embedding: Vec<f32>,
    head: Vec<f32>,
}

impl Model {
    fn new() -> Model {
        let wave = |i: u32| (f64::from(i) * 0.37).sin() as f32;
        Model { embedding: (0..500_000).map(wave).collect(), head: (0..50_000).map(wave).collect() }
    }

    /// Trains for one epoch and answers the loss.
    fn train(&mut self, epoch: u32) -> f64 {
        for weight in &mut self.head {
            *weight += 0.01 * (f64::from(*weight) * f64::from(epoch)).cos() as f32;
        }
        // It gets better, and then it overfits.
        (f64::from(epoch) - 3.0).powi(2) * 0.05 + 0.4
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let checkpoint = dir.path().join("model.safetensors");
    let store = Store::open(dir.path().join("store"))?;
    let key: Key = "runs/toy".parse()?;

    let (mut model, mut best) = (Model::new(), f64::INFINITY);
    for epoch in 1..=5 {
        let loss = model.train(epoch);
        write_safetensors(&checkpoint, &[("embedding", &model.embedding), ("head", &model.head)])?;

        // Numbers stay numbers, so that scripts can sort by them.
        let mut meta = Meta::default();
        meta.insert("epoch", MetaValue::Integer(epoch.into()))?;
        meta.insert("loss", MetaValue::Float(loss))?;
        let mut options = PutOptions::default();
        options.meta = meta;
        options.ttl = Some(Duration::from_secs(7 * 24 * 3600));

        let name: PutName = format!("{key}@epoch-{epoch}").parse()?;
        let put = store.put(&name, Payload::path(&checkpoint), &options, &Monitor::none())?;
        println!("epoch {epoch}: loss {loss:.2}, {} bytes, {} of them new on disk", put.bytes, put.stored_bytes);

        // The label moves to the version that deserves it.
        if loss < best {
            best = loss;
            let version = VersionRef { key: key.clone(), version: VersionSpec::Number(put.version) };
            store.tag(&version, &"best".parse()?)?;
        }
    }

    // A pinned version outlives its week.
    let pinned = store.pin(&"runs/toy@best".parse()?)?;
    println!("kept for good: {}@{}", pinned.key, pinned.version);
    assert_eq!(pinned.version, 3);

    for version in store.log(&key)? {
        let loss = match version.meta.get("loss") {
            Some(MetaValue::Float(loss)) => *loss,
            _ => f64::NAN,
        };
        let expires = version.expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
        println!("version {}: loss {loss:.2}, expires {expires}, pinned {}", version.version, version.pinned);
    }

    // Run now and then: removes what has expired, and gives its space back.
    let gc = store.gc(GcOptions::default(), &Monitor::none())?;
    println!("{} versions expired, {} bytes reclaimed", gc.expired_versions, gc.reclaimed_bytes);
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
