//! Any bytes as a pack: the store opens, says what is damaged, reads what is sound, and keeps what is put next.
#![no_main]

use std::sync::Arc;

use caskad::backend::{MemoryBackend, StorageBackend};
use caskad::chunk::Codec;
use caskad::manifest::Manifest;
use caskad::refs::{Meta, RefChange, VersionEntry};
use caskad::store::pack::pack_name;
use caskad::store::{ChunkStore, ChunkStoreOptions, EncodedChunk, IndexPlace, RecordKind};
use caskad::{Error, Hash, Key, Monitor};
use libfuzzer_sys::fuzz_target;

/// Most chunks that are read.
const READS: usize = 16;

fn open(backend: &MemoryBackend) -> Result<ChunkStore, Error> {
    let options = ChunkStoreOptions { pack_bytes: 1 << 20, index_cache_bytes: 1 << 20, ..ChunkStoreOptions::default() };
    ChunkStore::open(Arc::new(backend.clone()), IndexPlace::Memory, options)
}

fn read_all(store: &ChunkStore) -> Result<(), Error> {
    store.all_refs("")?;
    store.check_packs(&Monitor::none())?;
    store.disk_usage()?;
    let mut entries = Vec::new();
    store.for_each_entry(|hash, entry| entries.push((hash, entry)))?;
    let mut reader = store.reader();
    for (hash, entry) in entries.into_iter().take(READS) {
        match entry.kind {
            RecordKind::Chunk => {
                let mut plain = vec![0; entry.plain_len as usize];
                if reader.read(&hash, &mut plain).is_ok() {
                    assert_eq!(Hash::of(&plain), hash);
                }
            }
            _ => {
                if let Ok(bytes) = reader.read_manifest(&hash) {
                    assert_eq!(Hash::of(&bytes), hash);
                    let _ = Manifest::decode(&bytes);
                }
            }
        }
    }
    Ok(())
}

/// Puts a chunk and a ref and finds both after the store was opened anew.
fn put_and_reopen(store: ChunkStore, backend: &MemoryBackend) -> Result<(), Error> {
    let plain = b"put after recovery";
    let hash = Hash::of(plain);
    let payload = &plain[..];
    let session = store.begin()?;
    let (plain_len, codec, base) = (payload.len() as u32, Codec::Raw, None);
    session.append(&EncodedChunk { hash, plain_len, codec, base, payload })?;
    let (key, number): (Key, u64) = ("fuzz/key".parse()?, 7);
    let entry = VersionEntry {
        manifest: Hash::of(b"m"),
        manifest_bytes: 1,
        bytes: 18,
        stored_bytes: 18,
        chunks: 1,
        new_chunks: 1,
        created_unix_ms: 1,
        expires_unix_ms: None,
        single: true,
        meta: Meta::default(),
    };
    let change = RefChange::Version { key: key.clone(), number, entry: entry.clone() };
    let manifest = EncodedChunk { hash: Hash::of(b"m"), plain_len: 1, codec, base, payload: b"m" };
    match session.commit(&manifest, |_| Ok(vec![change])) {
        // A forged ref used up the numbers of refs.
        Err(Error::Limit { .. }) => return Ok(()),
        committed => committed?,
    }
    drop((session, store));
    let store = open(backend)?;
    let mut read = [0; 18];
    store.reader().read(&hash, &mut read)?;
    assert_eq!(&read, plain);
    assert_eq!(store.reader().read_manifest(&Hash::of(b"m"))?, b"m");
    assert_eq!(store.refs(&key)?.versions.get(&number), Some(&entry));
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    for bytes in [bytes, &caskad_fuzz::mend(bytes)] {
        let backend = MemoryBackend::new();
        let written = backend.create(&pack_name(1)).and_then(|pack| pack.append(bytes));
        assert!(written.is_ok());
        match open(&backend) {
            Ok(store) => {
                let outcome = read_all(&store).and_then(|()| put_and_reopen(store, &backend));
                assert!(outcome.is_ok(), "{outcome:?}");
            }
            Err(error) => assert!(matches!(error, Error::NewerFormat { .. }), "{error}"),
        }
    }
});
