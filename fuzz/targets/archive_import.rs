//! Any bytes as an archive: refused, or a version that can be restored.
#![no_main]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use caskad::backend::MemoryBackend;
use caskad::codec::Decoder;
use caskad::store::{ArchiveReader, IndexPlace};
use caskad::{Config, GetOptions, ImportOptions, Monitor, Part, StoreOptions, VersionRef, VersionSpec};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) -> bool {
    let Ok(mut archive) = ArchiveReader::open(bytes, Path::new("archive")) else { return false };
    let mut decoder = Decoder::new();
    let mut proven = 0;
    while let Ok(Some(record)) = archive.next_record() {
        if let Ok(plain) = record.plain(&mut decoder) {
            assert_eq!(plain.len(), record.plain_len as usize);
            proven += 1;
        }
    }
    assert!(archive.bytes_read() <= bytes.len() as u64);
    proven > 0
}

fn import(bytes: &[u8]) {
    let mut config = Config::default();
    config.threads = NonZeroUsize::MIN;
    config.index_cache_bytes = 1 << 20;
    let opened = StoreOptions::new().config(config).open_backend(Arc::new(MemoryBackend::new()), IndexPlace::Memory);
    let store = opened.unwrap_or_else(|error| panic!("an empty store does not open: {error}"));
    let Ok(report) = store.import_from(bytes, "archive", &ImportOptions::default(), &Monitor::none()) else {
        assert!(store.keys("").is_ok_and(|keys| keys.is_empty()), "a refused archive left a version");
        return;
    };
    let wanted = VersionRef { key: report.key, version: VersionSpec::Number(report.version) };
    let version = store.version(&wanted).unwrap_or_else(|error| panic!("what was imported is not there: {error}"));
    for file in &version.manifest().files {
        let mut options = GetOptions::default();
        options.part = Part::File(file.path.clone());
        let mut restored = Vec::new();
        let outcome = store.get_to(&wanted, &mut restored, &options, &Monitor::none());
        if let Some(regular) = file.regular() {
            assert!(outcome.is_ok(), "{}: {outcome:?}", file.path);
            assert_eq!(restored.len() as u64, regular.len);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    for bytes in [bytes, &caskad_fuzz::mend(bytes)] {
        if read(bytes) {
            import(bytes);
        }
    }
});
