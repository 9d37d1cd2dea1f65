//! What versions of one model share: a changed tensor costs its change, and the same tensor costs once wherever it appears.
#![allow(clippy::unwrap_used, reason = "a test may panic outside of its own function too")]

mod formats;

use caskad::{Config, DeltaBase, GcOptions, Monitor, Payload, PutOptions, PutReport, Store, StoreOptions};
use formats::{Tensor, gguf, noise, pt, safetensors};

/// A store in a directory of its own.
struct Place {
    store: Store,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place::with(Config::default())
    }

    fn with(config: Config) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreOptions::new().config(config).open(dir.path().join("store")).unwrap();
        Place { store, dir }
    }

    fn put_with(&self, key: &str, payload: &[u8], base: DeltaBase) -> PutReport {
        let mut options = PutOptions::default();
        options.base = base;
        let report = self.store.put(&key.parse().unwrap(), Payload::bytes("m", payload), &options, &Monitor::none());
        let report = report.unwrap();
        self.assert_restores(&format!("{key}@{}", report.version), payload);
        report
    }

    fn put(&self, key: &str, payload: &[u8]) -> PutReport {
        self.put_with(key, payload, DeltaBase::Auto)
    }

    fn assert_restores(&self, version: &str, payload: &[u8]) {
        let mut restored = Vec::new();
        self.store.get_to(&version.parse().unwrap(), &mut restored, &Default::default(), &Monitor::none()).unwrap();
        assert!(restored == payload, "{version} came back altered");
    }

    /// The bases below the deepest chunk of a version.
    fn bases(&self, version: &str) -> u64 {
        let show = self.store.show(&version.parse().unwrap()).unwrap();
        show.files.iter().map(|file| file.cost.bases).max().unwrap()
    }
}

/// A tensor of floats, `rows` by 512, spread as weights are.
fn weights(name: &str, rows: u64) -> Tensor {
    let elements = rows * 512;
    let random = noise(name, 8 * elements as usize);
    let floats = random.as_chunks::<8>().0.iter().map(|eight| {
        let uniform = |at: usize| f32::from(u16::from_le_bytes([eight[at], eight[at + 1]])) / 65535.0 - 0.5;
        (uniform(0) + uniform(2) + uniform(4) + uniform(6)) * 0.05
    });
    let bytes = floats.flat_map(f32::to_le_bytes).collect();
    Tensor { name: name.to_owned(), dtype: "F32", shape: vec![rows, 512], bytes }
}

/// The same tensor after a step of training: each float moved a little.
fn trained(tensor: &Tensor, step: &str) -> Tensor {
    let random = noise(&format!("{}/{step}", tensor.name), tensor.bytes.len() / 4);
    let floats = tensor.bytes.as_chunks().0.iter().zip(random);
    let moved = floats.map(|(float, byte)| f32::from_le_bytes(*float) + (f32::from(byte) - 127.5) * 1e-7);
    Tensor { bytes: moved.flat_map(f32::to_le_bytes).collect(), ..tensor.clone() }
}

fn model() -> Vec<Tensor> {
    let small = |n: usize| Tensor { shape: vec![512], ..weights(&format!("norm.{n}"), 1) };
    vec![weights("embedding", 700), small(0), weights("layer.0", 512), small(1), small(2), weights("layer.1", 512)]
}

fn after(model: &[Tensor], step: &str) -> Vec<Tensor> {
    model.iter().map(|tensor| trained(tensor, step)).collect()
}

fn share(report: &PutReport) -> f64 {
    report.stored_bytes as f64 / report.bytes as f64
}

#[test]
fn a_trained_model_costs_its_change() {
    let place = Place::new();
    let first = model();
    let alone = share(&place.put("m", &safetensors(&first)));
    assert!(alone > 0.8, "{alone}");
    let second = place.put("m", &safetensors(&after(&first, "1")));
    assert_eq!(second.delta_chunks, second.new_chunks, "the header stays, every tensor changes");
    assert!(share(&second) < 0.65 * alone, "{}", share(&second));
}

#[test]
fn deltas_are_taken_against_what_is_named_and_not_at_all_when_that_is_asked_for() {
    let place = Place::new();
    let first = model();
    place.put("base", &safetensors(&first));
    let tuned = safetensors(&after(&first, "1"));
    assert_eq!(place.put_with("other", &tuned, DeltaBase::None).delta_chunks, 0);
    // Elsewhere: what is stored already is not stored again, so each is put into a store of its own.
    let place = Place::new();
    place.put("base", &safetensors(&first));
    assert_eq!(place.put("alone", &safetensors(&after(&first, "2"))).delta_chunks, 0, "another key is not searched");
    let against = DeltaBase::Version("base@1".parse().unwrap());
    let report = place.put_with("other", &tuned, against.clone());
    assert_eq!(report.delta_chunks, report.new_chunks);
    let manifest = place.store.version(&"base".parse().unwrap()).unwrap().manifest_hash();
    assert_eq!(place.store.version(&"other".parse().unwrap()).unwrap().manifest().base, Some(manifest));

    let missing = DeltaBase::Version("nothing@1".parse().unwrap());
    let mut options = PutOptions::default();
    options.base = missing;
    let refused = place.store.put(&"x".parse().unwrap(), Payload::bytes("m", &tuned), &options, &Monitor::none());
    assert_eq!(refused.unwrap_err().kind(), "not_found");
}

#[test]
fn the_same_tensor_costs_once_wherever_it_appears() {
    let place = Place::new();
    let first = model();
    place.put("m", &safetensors(&first));
    let second = after(&first, "1");
    place.put("m", &safetensors(&second));

    let renamed: Vec<Tensor> =
        second.iter().map(|tensor| Tensor { name: format!("new.{}", tensor.name), ..tensor.clone() }).collect();
    let mut reordered = second.clone();
    reordered.rotate_left(2);
    // Everything but the tensors: headers, directories, and small tensors whose neighbours are others now.
    let around = 60_000;
    for (what, payload) in [
        ("another container", pt(&second)),
        ("a third container", gguf(&second, 32)),
        ("other names", safetensors(&renamed)),
        ("another order", safetensors(&reordered)),
        ("the first version again", safetensors(&first)),
    ] {
        for key in ["m", &what.replace(' ', "-")] {
            let report = place.put(key, &payload);
            assert!(report.stored_bytes < around, "{what}, key {key}: {} bytes", report.stored_bytes);
        }
    }
}

#[test]
fn a_resized_tensor_costs_its_new_rows_and_its_change() {
    let place = Place::new();
    let small = weights("embedding", 700);
    let mut grown = trained(&small, "1");
    let rows = weights("new rows", 10);
    grown.bytes.extend(&rows.bytes);
    grown.shape[0] += 10;
    let first = place.put("m", &safetensors(std::slice::from_ref(&small)));
    let second = place.put("m", &safetensors(&[grown.clone()]));
    assert!(share(&second) < 0.65 * share(&first), "{}", share(&second));
    // And back: its chunks face those of the longer one.
    let third = place.put("m", &safetensors(&[trained(&small, "2")]));
    assert!(share(&third) < 0.65 * share(&first), "{}", share(&third));
    // Rows of another length are another tensor, and so is one of another type.
    let turned = Tensor { shape: vec![350, 1024], ..trained(&small, "3") };
    assert_eq!(place.put("m", &safetensors(&[turned])).delta_chunks, 0);
    let retyped = Tensor { dtype: "I32", ..trained(&small, "4") };
    assert_eq!(place.put("m", &safetensors(&[retyped])).delta_chunks, 0);
}

#[test]
fn each_format_finds_its_own_last_version() {
    let place = Place::new();
    let mut model = model();
    place.put("run", &pt(&model));
    for step in ["1", "2", "3"] {
        model = after(&model, step);
        let torch = place.put("run", &pt(&model));
        // The torch archive's members have names of their own, which only the archive before has too.
        assert!(torch.delta_chunks >= 5, "{torch:?}");
        let twin = place.put("run", &safetensors(&model));
        assert!(share(&twin) < 0.03, "step {step}: {twin:?}");
    }
}

#[test]
fn chains_stay_as_short_as_the_settings_say() {
    for depth in [0, 1, 3] {
        let mut config = Config::default();
        config.delta_depth = depth;
        let place = Place::with(config);
        let mut tensor = weights("w", 300);
        let (mut deepest, mut deltas) = (0, 0);
        for step in 0..8 {
            let report = place.put("m", &safetensors(&[tensor.clone()]));
            deltas += report.delta_chunks;
            deepest = deepest.max(place.bases(&format!("m@{}", report.version)));
            tensor = trained(&tensor, &step.to_string());
        }
        assert_eq!((deepest, deltas > 0), (depth.into(), depth > 0));
    }
}

#[test]
fn an_earlier_version_can_go_and_the_later_ones_stay() {
    let place = Place::new();
    let (first, none) = (model(), Monitor::none());
    let second = after(&first, "1");
    place.put("m", &safetensors(&first));
    place.put("m", &safetensors(&second));
    place.store.remove(&"m@1".parse().unwrap()).unwrap();
    place.store.gc(GcOptions::default(), &none).unwrap();
    place.assert_restores("m@2", &safetensors(&second));
    let third = after(&second, "2");
    assert!(place.put("m", &safetensors(&third)).delta_chunks > 0);
}

/// A document of `lines`, some of which differ from one edition to the next.
fn document(lines: usize, edition: usize) -> Vec<u8> {
    let line = |n: usize| match n % 900 == 7 {
        true => format!("{n}: edited for edition {edition}\n"),
        false => format!("{n}: {}\n", blake3::hash(&(n as u64).to_le_bytes()).to_hex()),
    };
    (0..lines).flat_map(|n| line(n).into_bytes()).collect()
}

#[test]
fn an_edited_document_costs_its_edits() {
    let place = Place::new();
    let first = place.put("doc", &document(40_000, 1));
    assert!(share(&first) > 0.4, "{}", share(&first));
    // Edits all over, so that no chunk of 64 KiB stays; a part at the front gone, so that all have moved.
    let edited = document(40_000, 22)[5000..].to_vec();
    let second = place.put("doc", &edited);
    assert!(second.delta_chunks > second.new_chunks / 2, "{second:?}");
    assert!(share(&second) < 0.15, "{}", share(&second));
    let from_stream = Payload::reader("doc", &edited[1..]);
    let report =
        place.store.put(&"doc".parse().unwrap(), from_stream, &PutOptions::default(), &Monitor::none()).unwrap();
    assert!(share(&report) < 0.05, "{report:?}");
    place.assert_restores("doc@3", &edited[1..]);
}

#[test]
fn a_dump_of_no_known_format_that_changes_in_place_costs_its_change() {
    let place = Place::new();
    let dump = |tensors: &[Tensor]| tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect::<Vec<u8>>();
    let first = [vec![1, 2, 3], dump(&model())].concat();
    let second = [vec![1, 2, 3], dump(&after(&model(), "1"))].concat();
    // As files: of a stream nobody knows its length before it ends.
    let put = |payload: &[u8]| {
        let path = place.dir.path().join("dump");
        std::fs::write(&path, payload).unwrap();
        let report =
            place.store.put(&"dump".parse().unwrap(), Payload::path(&path), &PutOptions::default(), &Monitor::none());
        let report = report.unwrap();
        place.assert_restores(&format!("dump@{}", report.version), payload);
        report
    };
    let alone = share(&put(&first));
    let report = put(&second);
    assert!(share(&report) < 0.75 * alone, "{alone} {report:?}");
    // Where bytes have moved, cuts follow the content again.
    let moved = [vec![0; 70_000], second.clone()].concat();
    put(&moved);
    let mut swapped = second.clone();
    swapped.rotate_left(1_000_003);
    let report = put(&swapped);
    assert!(report.stored_bytes < 900_000, "{report:?}");
}
