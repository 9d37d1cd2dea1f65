//! [`ChunkCache`]: decoded hot chunks, least recently used out first, bounded by bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::hash::Hash;

/// Verified plain chunks in memory. Shared by all who read a store.
#[derive(Debug)]
pub struct ChunkCache {
    chunks: Mutex<Chunks>,
    capacity_bytes: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct Chunks {
    by_hash: LruCache<Hash, Arc<[u8]>>,
    bytes: u64,
}

/// What a cache holds and how often it helped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheStats {
    /// Chunks found.
    pub hits: u64,
    /// Chunks not found.
    pub misses: u64,
    /// Plain bytes held now.
    pub bytes: u64,
    /// Most plain bytes that are held.
    pub capacity_bytes: u64,
}

impl ChunkCache {
    /// A cache of at most `capacity_bytes` plain bytes; 0 keeps nothing.
    pub fn new(capacity_bytes: u64) -> ChunkCache {
        let chunks = Chunks { by_hash: LruCache::unbounded(), bytes: 0 };
        ChunkCache { chunks: Mutex::new(chunks), capacity_bytes, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The chunk `hash`, if it is held.
    pub fn get(&self, hash: &Hash) -> Option<Arc<[u8]>> {
        let found = self.lock().by_hash.get(hash).cloned();
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// True if a chunk of `len` bytes could be held at all.
    pub fn admits(&self, len: usize) -> bool {
        len as u64 <= self.capacity_bytes
    }

    /// Holds a chunk whose bytes have been verified, in place of the least recently used ones.
    pub fn put(&self, hash: Hash, plain: Arc<[u8]>) {
        if !self.admits(plain.len()) {
            return;
        }
        let mut chunks = self.lock();
        chunks.bytes += plain.len() as u64;
        if let Some(replaced) = chunks.by_hash.put(hash, plain) {
            chunks.bytes -= replaced.len() as u64;
        }
        while chunks.bytes > self.capacity_bytes
            && let Some((_, dropped)) = chunks.by_hash.pop_lru()
        {
            chunks.bytes -= dropped.len() as u64;
        }
    }

    /// Hits, misses and size.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.lock().bytes,
            capacity_bytes: self.capacity_bytes,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_chunks_leave_first_and_bytes_stay_bounded() {
        let cache = ChunkCache::new(10);
        let chunk = |byte: u8| (Hash::of(&[byte]), Arc::<[u8]>::from(vec![byte; 4]));
        for byte in [1, 2] {
            let (hash, plain) = chunk(byte);
            cache.put(hash, plain);
        }
        assert!(cache.get(&chunk(1).0).is_some());
        cache.put(chunk(3).0, chunk(3).1);
        assert!(cache.get(&chunk(2).0).is_none(), "2 was used longest ago");
        assert!(cache.get(&chunk(1).0).is_some() && cache.get(&chunk(3).0).is_some());
        cache.put(Hash::of(b"large"), vec![0; 11].into());
        cache.put(chunk(3).0, chunk(3).1);
        assert_eq!(cache.stats(), CacheStats { hits: 3, misses: 1, bytes: 8, capacity_bytes: 10 });
    }
}
