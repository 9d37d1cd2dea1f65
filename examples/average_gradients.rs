//! Averages the gradients of four workers, one of which sends nonsense: the mean follows it, the median does not.
//!
//! ```text
//! cargo run --example average_gradients
//! ```

use std::error::Error;

use caskad::gradient::{AggregateOptions, Contribution, Rule, VersionContribution, aggregate};
use caskad::{Monitor, Payload, PutOptions, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path().join("store"))?;
    let none = Monitor::none();

    // Each worker puts its gradient of the round under a key of its own.
    let mut contributions = Vec::new();
    for (worker, gradient) in
        [[0.25, -1.0, 4.0], [0.5, -1.5, 5.0], [0.75, -2.0, 6.0], [-9e9, 9e9, 1.0]].iter().enumerate()
    {
        let name = format!("runs/toy/worker-{worker}@round-1");
        let file = safetensors("layer.weight", gradient);
        store.put(&name.parse()?, Payload::bytes("gradient.safetensors", &file), &PutOptions::default(), &none)?;
        // What is read from the store is verified by hash before it is folded.
        contributions.push(VersionContribution::new(store.version(&name.parse()?)?, None)?);
    }
    let contributions: Vec<&dyn Contribution> = contributions.iter().map(|c| c as &dyn Contribution).collect();

    for rule in [Rule::Mean, Rule::TrimmedMean { fraction: 0.25 }, Rule::Median] {
        let mut folded = Vec::new();
        let report = aggregate(&contributions, &rule, &AggregateOptions::default(), &mut folded, &none)?;
        println!("{} of {} workers: {:?}", report.rule, report.contributions, last_values(&folded));
    }

    // A worker whose training has diverged is told by name.
    let diverged = safetensors("layer.weight", &[0.5, f32::NAN, 1.0]);
    let name = "runs/toy/worker-9@round-1";
    store.put(&name.parse()?, Payload::bytes("gradient.safetensors", &diverged), &PutOptions::default(), &none)?;
    let diverged = VersionContribution::new(store.version(&name.parse()?)?, None)?;
    let refused = aggregate(&[&diverged], &Rule::Mean, &AggregateOptions::default(), &mut Vec::new(), &none);
    println!("as expected: {}", refused.err().ok_or("a gradient that is no number was taken")?);
    Ok(())
}

/// A safetensors file of one tensor.
fn safetensors(name: &str, values: &[f32]) -> Vec<u8> {
    let about = serde_json::json!({ "dtype": "F32", "shape": [values.len()], "data_offsets": [0, values.len() * 4] });
    let header = serde_json::json!({ name: about }).to_string();
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// The three numbers at the end of a file.
fn last_values(file: &[u8]) -> Vec<f32> {
    let tail = file.last_chunk::<12>().map_or(&[][..], |tail| tail);
    tail.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
