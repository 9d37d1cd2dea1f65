//! A safetensors file with any header: split without a panic, and covered exactly.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    caskad_fuzz::split(bytes);
    // Once more with a length that fits: the header ends at the last brace.
    if let Some(end) = bytes.iter().rposition(|&byte| byte == b'}').filter(|&end| end >= 8) {
        let len = (end as u64 - 7).to_le_bytes();
        caskad_fuzz::split(&[&len, &bytes[8..]].concat());
    }
});
