//! Any bytes as any codec's payload: refused, or exactly as many plain bytes as asked for; and what is encoded comes back.
#![no_main]

use caskad::chunk::{Codec, ElementWidth};
use caskad::codec::{Decoder, Effort, Encoder};
use caskad::limits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[codec, a, b, c], bytes)) = bytes.split_first_chunk() else { return };
    let plain_len = u32::from_le_bytes([a, b, c, 0]) as usize;
    let mut decoder = Decoder::new();
    // What the buffer held before must not show.
    let mut plain = vec![0xa5; 100];
    if let Some(codec) = Codec::from_byte(codec) {
        let outcome = decoder.decode(codec, bytes, plain_len, None, &mut plain);
        assert!(outcome.is_err() || plain.len() == plain_len);
        assert!(outcome.is_err() || plain_len <= limits::CHUNK_BYTES);
        if let Ok(document) = decoder.decode_frame(bytes, plain_len) {
            assert_eq!(document.len(), plain_len);
        }
        return;
    }
    let width = ElementWidth::from_bytes(1 << (codec % 5));
    let effort = if codec & 0x80 == 0 { Effort::Default } else { Effort::Fast };
    let mut stored = Vec::new();
    let codec = Encoder::new(effort).encode(bytes, width, &mut stored);
    let stored = if codec == Codec::Raw { bytes } else { &stored };
    let outcome = decoder.decode(codec, stored, bytes.len(), None, &mut plain);
    assert!(outcome.is_ok() && plain == bytes, "{codec} {outcome:?}");
});
