//! A GGUF file with any header: split without a panic, and covered exactly.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    caskad_fuzz::split(&[b"GGUF", bytes.get(4..).unwrap_or_default()].concat());
});
