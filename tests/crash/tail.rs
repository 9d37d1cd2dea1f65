//! A tail of the log so long that recovery takes it into the index in several pieces.

use std::sync::Arc;

use caskad::Hash;
use caskad::backend::testing::{FaultDisk, Operation, Survivors};
use caskad::chunk::Codec;
use caskad::store::{ChunkStore, ChunkStoreOptions, EncodedChunk, IndexPlace};

/// At so many a checkpoint is due.
const CHUNKS: u32 = 16 << 10;

fn open(disk: &FaultDisk) -> caskad::Result<ChunkStore> {
    ChunkStore::open(Arc::new(disk.clone()), IndexPlace::FaultDisk(disk.clone()), ChunkStoreOptions::default())
}

fn put(disk: &FaultDisk) -> caskad::Result<()> {
    let session = open(disk)?.begin()?;
    (0..CHUNKS).map(u32::to_le_bytes).try_for_each(|plain| {
        let (hash, payload) = (Hash::of(&plain), &plain[..]);
        session.append(&EncodedChunk { hash, plain_len: 4, codec: Codec::Raw, base: None, payload })
    })
}

/// The process is killed right before its first sync, and then the power fails anywhere in the next open.
#[test]
fn the_index_never_relies_on_a_tail_that_is_not_durable() {
    let whole = FaultDisk::new();
    put(&whole).unwrap();
    let synced = whole.operations().iter().rposition(|&operation| operation == Operation::Create).unwrap();
    let behind = whole.operations()[synced..].iter().position(|&operation| operation == Operation::Sync).unwrap();
    let disk = FaultDisk::new();
    disk.fail_after((synced + behind) as u64);
    put(&disk).unwrap_err();
    for stop in 0.. {
        let opened = disk.crash(Survivors::Written);
        opened.fail_after(stop);
        let outcome = open(&opened).map(drop);
        let done = (opened.operations().len() as u64) < stop;
        let store = open(&opened.crash(Survivors::Synced)).unwrap();
        let mut listed = 0;
        store.for_each_entry(|_, _| listed += 1).unwrap();
        let mut reader = store.reader();
        for plain in (0..CHUNKS).step_by(101).map(u32::to_le_bytes) {
            if store.has_chain(&Hash::of(&plain)).unwrap() {
                let read = reader.read(&Hash::of(&plain), &mut [0; 4]);
                read.unwrap_or_else(|error| panic!("stop {stop}, {listed} are said to be stored: {error}"));
            }
        }
        if done {
            outcome.unwrap();
            assert_eq!(listed, CHUNKS);
            eprintln!("crash at each of {stop} operations of an open with a long tail");
            break;
        }
    }
}
