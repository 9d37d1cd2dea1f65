//! A ref, a removal, or a record of a pack: refused, or the one encoding of what it says.
#![no_main]

use caskad::refs::RefRecord;
use caskad::store::pack::{Record, parse_record, split_base};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = RefRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
        let _ = record.entity();
    }
    for bytes in [bytes, &caskad_fuzz::mend(bytes)] {
        let Ok((header, payload)) = parse_record(bytes) else { continue };
        let Some((base, at)) = split_base(&header, payload) else { panic!("a sound header announces its base") };
        let (kind, codec, depth) = (header.kind, header.codec, header.depth);
        let (plain_len, hash, payload) = (header.plain_len, header.hash, &payload[at..]);
        let mut again = Vec::new();
        let written = Record { kind, codec, depth, base, plain_len, hash, payload }.write(&mut again);
        assert_eq!((written, again.as_slice()), (header, &bytes[..header.record_len() as usize]));
    }
});
