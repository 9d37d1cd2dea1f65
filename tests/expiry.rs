//! A version goes when its time is up, and not before.

use std::time::Duration;

use caskad::{GcOptions, Monitor, Payload, PutOptions, Store};

/// Versions that are left after a collection, where each was put with one of `ttls`.
fn left_after_gc(ttls: &[Option<Duration>]) -> Result<Vec<u64>, caskad::Error> {
    let dir = tempfile::tempdir().map_err(|error| panic!("no temporary directory: {error}"))?;
    let (store, none) = (Store::open(dir.path().join("store"))?, Monitor::none());
    for ttl in ttls {
        let mut options = PutOptions::default();
        options.ttl = *ttl;
        store.put(&"key".parse()?, Payload::bytes("bytes", &[7; 5000]), &options, &none)?;
    }
    store.gc(GcOptions::default(), &none)?;
    Ok(store.log(&"key".parse()?)?.iter().map(|version| version.version).collect())
}

#[test]
fn only_what_is_over_goes_however_long_the_time_to_live() -> Result<(), caskad::Error> {
    // 2^64 milliseconds, which wrap around to none at all in a u64.
    let beyond_u64 = Duration::new(18_446_744_073_709_551, 616_000_000);
    assert_eq!(beyond_u64.as_millis(), 1 << 64);
    let ttls = [Some(Duration::ZERO), None, Some(Duration::from_secs(3600)), Some(beyond_u64), Some(Duration::MAX)];
    assert_eq!(left_after_gc(&ttls)?, [2, 3, 4, 5]);
    Ok(())
}
