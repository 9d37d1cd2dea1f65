//! Leases against a plain model.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use proptest::prelude::*;

fn chunk(n: u8) -> LeasedChunk {
    LeasedChunk { hash: Hash::of(&[n]), home: [n, n << 4, 0, 0], stored_len: 100 + u32::from(n) }
}

fn terms(manifest: u8, owner: u8, expires_unix_ms: u64) -> LeaseTerms {
    LeaseTerms { manifest: Hash::of(&[manifest]), owner: [owner; 32], expires_unix_ms }
}

#[test]
fn leases_that_are_asked_for_at_once_are_all_granted_durably() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    let leases = Leases::open(dir.path()).unwrap();
    let ask = |thread: u8| {
        for chunk_number in 0..10 {
            // Two threads ask for each lease.
            let lease = leases.grant(terms(thread / 2, 1, 10 + u64::from(thread)), &[chunk(chunk_number)]).unwrap();
            assert!(lease.chunks > u64::from(chunk_number) && lease.terms.expires_unix_ms >= 10 + u64::from(thread));
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|thread| drop(scope.spawn(move || ask(thread)))));
    let mut granted = leases.all();
    drop(leases);
    let mut found = Leases::open(dir.path()).unwrap().all();
    let order = |lease: &Lease| lease.number;
    granted.sort_by_key(order);
    found.sort_by_key(order);
    assert_eq!(found, granted);
    let numbers: HashSet<u32> = found.iter().map(|lease| lease.number).collect();
    assert_eq!((numbers.len(), found.len()), (4, 4));
    let bytes = (0..10).map(|n| u64::from(chunk(n).stored_len)).sum();
    assert!(found.iter().all(|lease| (lease.chunks, lease.bytes) == (10, bytes)));
    assert!(found.iter().all(|lease| lease.terms.expires_unix_ms % 2 == 1), "the later end counts");
}

#[test]
fn a_renewal_never_begins_a_lease_that_has_just_ended() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    let leases = Leases::open(dir.path()).unwrap();
    let over = AtomicBool::new(false);
    let time = AtomicU64::new(1);
    let renew = || {
        while !over.load(Ordering::Relaxed) {
            let end = time.fetch_add(1, Ordering::Relaxed);
            let renewed = leases.renew(terms(1, 1, end)).unwrap();
            assert!(renewed.is_none_or(|lease| lease.chunks == 1), "{renewed:?}");
        }
    };
    std::thread::scope(|scope| {
        let renewing: Vec<_> = (0..4).map(|_| scope.spawn(renew)).collect();
        for _ in 0..200 {
            leases.grant(terms(1, 1, 1), &[chunk(1)]).unwrap();
            leases.release(&[1; 32], |manifest| *manifest == Hash::of(&[1])).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        renewing.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(leases.all(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Grants, renewals, releases, expiries and reopenings in any order, against a plain map.
    #[test]
    fn leases_do_what_a_map_does(steps in prop::collection::vec((0_u8..6, 0_u8..3, 0_u8..3, 1_u64..20, prop::collection::vec(0_u8..8, 0..5)), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let mut leases = Leases::open(dir.path()).unwrap();
        let mut model: BTreeMap<(u8, u8), (u64, BTreeMap<u8, ()>)> = BTreeMap::new();
        let mut now = 0;
        for (step, manifest, owner, time, chunks) in steps {
            let terms = terms(manifest, owner, time);
            match step {
                0 | 1 => {
                    let rows: Vec<LeasedChunk> = chunks.iter().map(|&n| chunk(n)).collect();
                    leases.grant(terms, &rows).unwrap();
                    let lease = model.entry((manifest, owner)).or_default();
                    lease.0 = lease.0.max(time);
                    lease.1.extend(chunks.into_iter().map(|n| (n, ())));
                }
                2 => {
                    let there = model.get_mut(&(manifest, owner)).map(|lease| lease.0 = lease.0.max(time)).is_some();
                    prop_assert_eq!(leases.renew(terms).unwrap().is_some(), there);
                }
                3 => {
                    let there = model.remove(&(manifest, owner)).is_some();
                    let released = leases.release(&terms.owner, |manifest| *manifest == terms.manifest);
                    prop_assert_eq!(released.unwrap(), u64::from(there));
                }
                4 => {
                    now = now.max(time);
                    let before = model.len();
                    model.retain(|_, lease| lease.0 > now);
                    prop_assert_eq!(leases.expire(now).unwrap(), (before - model.len()) as u64);
                }
                _ => {
                    drop(leases);
                    leases = Leases::open(dir.path()).unwrap();
                }
            }
            let mut live = std::collections::BTreeSet::new();
            leases.live(now, &mut |hash, _, _| { live.insert(*hash); }).unwrap();
            let expected: std::collections::BTreeSet<Hash> = model.values().filter(|lease| lease.0 > now)
                .flat_map(|lease| lease.1.keys().map(|n| chunk(*n).hash)).collect();
            prop_assert_eq!(&live, &expected);
            for n in 0..8 {
                let in_group = leases.group(u16::from(n) << 4 | u16::from(n), now).unwrap();
                prop_assert_eq!(in_group.contains_key(&chunk(n).hash), expected.contains(&chunk(n).hash));
                let holding = model.values().filter(|lease| lease.0 > now && lease.1.contains_key(&n)).count();
                prop_assert_eq!(leases.of_chunk(&chunk(n).hash, chunk(n).home, &leases.live_numbers(now)).unwrap().len(), holding);
            }
            let owned: u64 = model.iter().filter(|((_, o), _)| *o == owner).map(|(_, lease)| lease.1.len() as u64).sum();
            prop_assert_eq!(leases.owned(&[owner; 32]).chunks, owned);
        }
    }
}

#[test]
fn damage_is_told_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = Leases::path(dir.path());
    std::fs::write(path, vec![7; 10_000]).unwrap();
    let error = Leases::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Damaged { what: "leases", why, .. } if why.contains("delete the file")), "{error}");
}
