//! A zip archive with any directory: split without a panic, and covered exactly.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    caskad_fuzz::split(&[b"PK\x03\x04", bytes.get(4..).unwrap_or_default()].concat());
});
