//! Any bytes as a delta to any base: refused, or exactly as many plain bytes as asked for; and what is encoded comes back.
#![no_main]

use caskad::chunk::{Codec, ElementWidth};
use caskad::codec::{Decoder, Effort, Encoder};
use caskad::limits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[how, a, b, c, d], bytes)) = bytes.split_first_chunk() else { return };
    let (base, bytes) = bytes.split_at(bytes.len().min(usize::from(u16::from_le_bytes([a, b]))));
    let plain_len = usize::from(u16::from_le_bytes([c, d])) * if how & 0x40 == 0 { 1 } else { 32 };
    let mut decoder = Decoder::new();
    // What the buffer held before must not show.
    let mut plain = vec![0xa5; 100];
    if let Some(codec) =
        Codec::from_byte(how & 0x3f).filter(|codec| matches!(codec, Codec::Delta | Codec::DeltaCtx | Codec::Patch))
    {
        let outcome = decoder.decode(codec, bytes, plain_len, Some(base), &mut plain);
        assert!(outcome.is_err() || plain.len() == plain_len);
        assert!(outcome.is_err() || plain_len <= limits::CHUNK_BYTES);
        return;
    }
    let width = ElementWidth::from_bytes(1 << (how % 5));
    let effort = if how & 0x80 == 0 { Effort::Default } else { Effort::Compact };
    let mut stored = Vec::new();
    let codec = Encoder::new(effort).encode_against(bytes, width, base, &mut stored);
    let stored = if codec == Codec::Raw { bytes } else { &stored };
    let outcome = decoder.decode(codec, stored, bytes.len(), Some(base), &mut plain);
    assert!(outcome.is_ok() && plain == bytes, "{codec} {outcome:?}");
});
