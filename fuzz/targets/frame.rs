//! A frame of the exchange: refused, or the one encoding of what it says.
#![no_main]

use caskad::net::wire::{FRAME_HEADER_BYTES, Frame, decode_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((header, fields)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else { return };
    let Ok((len, kind)) = decode_header(*header) else { return };
    let fields = &fields[..len.min(fields.len())];
    if let Ok(frame) = Frame::decode(kind, fields) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!((&again[4..5], &again[FRAME_HEADER_BYTES..]), (&[kind][..], fields), "{frame:?}");
    }
});
