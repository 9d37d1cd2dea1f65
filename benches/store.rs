//! The chunk store alone: opening with a million chunks in the index, look-ups, appends and reads.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and its macros make public functions")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caskad::Hash;
use caskad::backend::FileBackend;
use caskad::chunk::Codec;
use caskad::store::{ChunkStore, ChunkStoreOptions, EncodedChunk, IndexPlace, RecordKind, index_path};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const MILLION: u64 = 1_000_000;
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_READ: u64 = 256;

fn open(directory: &Path) -> ChunkStore {
    let packs = directory.join("packs");
    std::fs::create_dir_all(&packs).unwrap();
    let place = IndexPlace::File(index_path(directory));
    ChunkStore::open(Arc::new(FileBackend::new(packs)), place, ChunkStoreOptions::default()).unwrap()
}

fn append(store: &ChunkStore, payloads: impl Iterator<Item = (Hash, Vec<u8>)>) {
    let session = store.begin().unwrap();
    for (hash, payload) in payloads {
        let plain_len = payload.len() as u32;
        session.append(&EncodedChunk { hash, plain_len, codec: Codec::Raw, base: None, payload: &payload }).unwrap();
    }
    store.checkpoint().unwrap();
}

fn tiny(number: u64) -> (Hash, Vec<u8>) {
    let payload = number.to_le_bytes().to_vec();
    (Hash::of(&payload), payload)
}

fn large(number: u64) -> (Hash, Vec<u8>) {
    let mut payload = vec![0; CHUNK_BYTES];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut payload);
    (Hash::of(&payload), payload)
}

/// A store with a million chunks, built once and kept beside the compiler's output.
fn million() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("million-chunks");
    if !directory.join("done").exists() {
        let _ = std::fs::remove_dir_all(&directory);
        append(&open(&directory), (0..MILLION).map(tiny));
        std::fs::write(directory.join("done"), "").unwrap();
    }
    directory
}

fn a_million_chunks(c: &mut Criterion) {
    let directory = million();
    let mut group = c.benchmark_group("a million chunks");
    group.sample_size(20);
    group.bench_function("open and close", |b| b.iter(|| drop(open(&directory))));
    let store = open(&directory);
    let look_up = |first: u64| {
        let hashes: Vec<Hash> = (0..1000).map(|n| tiny(first + n * 997).0).collect();
        let store = store.clone();
        move || hashes.iter().filter(|hash| store.locate(hash, RecordKind::Chunk).unwrap().is_some()).count()
    };
    group.throughput(Throughput::Elements(1000));
    let (hit, miss) = (look_up(0), look_up(MILLION));
    assert_eq!((hit(), miss()), (1000, 0));
    group.bench_function("find a stored chunk", |b| b.iter(|| black_box(hit())));
    group.bench_function("miss a chunk", |b| b.iter(|| black_box(miss())));
    group.finish();
    store.check_index().unwrap();
}

fn throughput(c: &mut Criterion) {
    let chunks: Vec<(Hash, Vec<u8>)> = (0..CHUNKS_READ).map(large).collect();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut group = c.benchmark_group("chunks of 256 KiB");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(CHUNKS_READ * CHUNK_BYTES as u64));
    group.bench_function("append 64 MiB and commit", |b| {
        b.iter_batched(
            || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            |directory| {
                append(&open(directory.path()), chunks.iter().cloned());
                directory
            },
            criterion::BatchSize::PerIteration,
        );
    });
    let store = open(directory.path());
    append(&store, chunks.iter().cloned());
    group.bench_function("read 64 MiB", |b| {
        let (mut reader, mut plain) = (store.reader(), vec![0; CHUNK_BYTES]);
        b.iter(|| chunks.iter().for_each(|(hash, _)| reader.read(hash, &mut plain).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, a_million_chunks, throughput);
criterion_main!(benches);
