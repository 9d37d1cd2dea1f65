//! Damage to a chunk is named by file, tensor and offset.

use std::fs;

use caskad::Monitor;

use crate::fixture::{Fixture, flip};
use crate::stores::at;

#[test]
fn a_damaged_chunk_is_named_by_file_tensor_and_offset() {
    let fixture = Fixture::new();
    let copy = fixture.copy();
    let store = copy.open().unwrap();
    let version = store.version(&at("m", 2)).unwrap();
    let head = version.manifest().segments().map(|(_, segment)| segment.clone()).find(|s| s.name == "head.2").unwrap();
    let (tensor, _) = version.read_tensor("head.2").unwrap();
    assert_eq!(tensor.span, head.span);
    drop((version, store));
    // The only bytes of the store that are the tensor's low mantissa plane as it is: find a stretch of its chunk in the packs.
    let chunk = {
        let store = copy.open().unwrap();
        let version = store.version(&at("m", 2)).unwrap();
        let index = version.manifest().chunks_overlapping(0, head.span).next().unwrap().0;
        version.manifest().chunks[index]
    };
    let needle = chunk.hash.as_bytes();
    let (pack, offset) = copy
        .packs()
        .into_iter()
        .find_map(|pack| {
            let bytes = fs::read(&pack).unwrap();
            let place = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((pack, place as u64))
        })
        .unwrap();
    // The hash lies 16 bytes into the record's header of 56; the payload follows.
    flip(&pack, 8 * (offset - 16 + 56 + 500));
    let store = copy.open().unwrap();
    let report = store.verify(&at("m", 2), &Monitor::none()).unwrap();
    let damage = report.damaged.iter().find(|damage| damage.what == "chunk").expect("the chunk is named");
    assert_eq!(damage.tensors, ["head.2"]);
    assert_eq!(damage.file.as_deref(), Some("payload.bin"));
    let span = damage.offset.unwrap()..damage.offset.unwrap() + damage.len.unwrap();
    assert!(span.start < head.span.end() && head.span.offset < span.end, "{span:?} and {:?}", head.span);
    assert_eq!((damage.chunk, report.damaged.len()), (Some(chunk.hash), 1));
    assert!(store.verify(&at("m", 1), &Monitor::none()).unwrap().ok, "the other version does not have that chunk");
    let all = store.verify_all(&Monitor::none()).unwrap();
    let whats: Vec<&str> = all.damaged.iter().map(|damage| damage.what).collect();
    assert_eq!(whats, ["pack", "chunk"], "verify_all names the pack and the chunk, once each");
}
