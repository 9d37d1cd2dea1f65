//! A manifest from a stranger: refused, or the one encoding of what it says.
#![no_main]

use caskad::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes);
        assert_eq!(manifest.bytes(), manifest.files.iter().map(|file| file.bytes()).sum::<u64>());
        for file in 0..manifest.files.len() {
            let span = caskad::chunk::Span::new(0, manifest.files[file].bytes());
            let covered: u64 = manifest.chunks_overlapping(file, span).map(|(_, covered)| covered.len).sum();
            assert!(covered == span.len || covered == 0);
        }
    }
});
