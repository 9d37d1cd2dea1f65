//! The files under `manifests/`: compared with what they should be, or written on request.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Compares the folder `manifests/{folder}` with `expected`, name by name and byte by byte.
pub(crate) fn check(folder: &str, expected: &BTreeMap<String, Vec<u8>>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("manifests").join(folder);
    if std::env::var_os("CASKAD_REGENERATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(&folder).unwrap();
        fs::read_dir(&folder).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        expected.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    }
    let found: BTreeMap<String, Vec<u8>> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected), "missing or stray files in {}", folder.display());
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{} is stale: did the format change?", folder.join(name).display());
    }
}
