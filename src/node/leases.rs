//! [`Leases`]: the chunks that this store keeps for others, or until a version of another scope is no longer of use here.
//!
//! A lease belongs to a manifest and an owner, and has a time at which it ends unless it is renewed. It is granted after the chunks under
//! it are durable, and garbage collection keeps them until it has ended. `STORE/leases.redb` has three tables: `leases` (manifest and owner →
//! number, end, chunks, bytes), `held` (placement group, chunk and number of the lease → home and stored bytes) and `state`. It is a
//! database of its own and no part of the packs' log: it changes with every renewal, and what is lost with it, peers bring again.
//!
//! Invariant: a row of `held` whose lease is not in `leases` means nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};

use crate::backend::sync_directory;
use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::net::placement::Group;

type LeaseRow = (u32, u64, u64, u64);

const LEASES: TableDefinition<&[u8; 64], LeaseRow> = TableDefinition::new("leases");
const HELD: TableDefinition<&[u8; 38], (u32, u32)> = TableDefinition::new("held");
const STATE: TableDefinition<&str, u32> = TableDefinition::new("state");

/// Rows of `held` that one transaction removes.
const SWEEP_ROWS: usize = 4096;

/// What is known of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is, and until when.
    pub terms: LeaseTerms,
    /// Chunks under it.
    pub chunks: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
    number: u32,
}

/// A chunk to be put under a lease.
#[derive(Debug, Clone, Copy)]
pub struct LeasedChunk {
    /// The chunk.
    pub hash: Hash,
    /// Its home.
    pub home: [u8; 4],
    /// Its bytes as they are stored.
    pub stored_len: u32,
}

/// The leases of a store.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
    database: Database,
    /// All leases, by manifest and owner. Held while rows change, so that numbers are given once.
    known: Mutex<HashMap<[u8; 64], Lease>>,
}

fn lease_key(manifest: &Hash, owner: &[u8; 32]) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(manifest.as_bytes());
    key[32..].copy_from_slice(owner);
    key
}

fn held_key(group: u16, hash: &Hash, number: u32) -> [u8; 38] {
    let mut key = [0; 38];
    key[..2].copy_from_slice(&group.to_be_bytes());
    key[2..34].copy_from_slice(hash.as_bytes());
    key[34..].copy_from_slice(&number.to_be_bytes());
    key
}

fn parse_held(key: &[u8; 38]) -> (Hash, u32) {
    let mut hash = [0; 32];
    hash.copy_from_slice(&key[2..34]);
    (Hash::from_bytes(hash), u32::from_be_bytes([key[34], key[35], key[36], key[37]]))
}

impl Leases {
    /// The file in the store's directory.
    pub(super) fn path(directory: &Path) -> PathBuf {
        directory.join("leases.redb")
    }

    /// Opens the leases of the store in `directory`, which get their file where there is none.
    ///
    /// Every page is checked, since redb does not do that when it reads one: an altered row would let go of a replica unnoticed.
    pub(super) fn open(directory: &Path) -> Result<Leases> {
        let path = Leases::path(directory);
        if !path.try_exists().map_err(|error| Error::io("open", &path, error))? {
            create(directory, &path)?;
        }
        let opened = guarded(&path, || {
            let mut builder = Database::builder();
            builder.set_cache_size(8 << 20).set_check_integrity_on_open(true);
            let database = builder.open(&path)?;
            let mut known = HashMap::new();
            for row in database.begin_read()?.open_table(LEASES)?.iter()? {
                let (key, value) = row?;
                let (number, expires_unix_ms, chunks, bytes) = value.value();
                let key = *key.value();
                let (mut manifest, mut owner) = ([0; 32], [0; 32]);
                manifest.copy_from_slice(&key[..32]);
                owner.copy_from_slice(&key[32..]);
                let terms = LeaseTerms { manifest: Hash::from_bytes(manifest), owner, expires_unix_ms };
                known.insert(key, Lease { terms, chunks, bytes, number });
            }
            Ok((database, known))
        });
        let (database, known) = opened?;
        Ok(Leases { path, database, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 64], Lease>> {
        // Changed only after the rows were: a panic before leaves both as they were.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `chunks`, which are durable, under the lease of `terms`, durably. A lease that exists is extended, and never shortened.
    pub fn grant(&self, terms: LeaseTerms, chunks: &[LeasedChunk]) -> Result<Lease> {
        let mut known = self.known();
        let key = lease_key(&terms.manifest, &terms.owner);
        let before = known.get(&key).copied();
        if let Some(before) = before.filter(|before| before.terms.expires_unix_ms >= terms.expires_unix_ms)
            && chunks.is_empty()
        {
            return Ok(before);
        }
        let lease = guarded(&self.path, || {
            let transaction = begin_write(&self.database)?;
            let lease = {
                let mut state = transaction.open_table(STATE)?;
                let number = match before {
                    Some(before) => before.number,
                    None => {
                        let next = state.get("next")?.map_or(0, |next| next.value());
                        state.insert("next", next.wrapping_add(1))?;
                        next
                    }
                };
                let expires = before.map_or(0, |before| before.terms.expires_unix_ms).max(terms.expires_unix_ms);
                let (mut count, mut bytes) = before.map_or((0, 0), |before| (before.chunks, before.bytes));
                let mut held = transaction.open_table(HELD)?;
                for chunk in chunks {
                    let row = held_key(Group::of(chunk.home).number(), &chunk.hash, number);
                    if held.insert(&row, (u32::from_be_bytes(chunk.home), chunk.stored_len))?.is_none() {
                        count += 1;
                        bytes += u64::from(chunk.stored_len);
                    }
                }
                transaction.open_table(LEASES)?.insert(&key, (number, expires, count, bytes))?;
                let terms = LeaseTerms { expires_unix_ms: expires, ..terms };
                Lease { terms, chunks: count, bytes, number }
            };
            transaction.commit()?;
            Ok(lease)
        })?;
        known.insert(key, lease);
        Ok(lease)
    }

    /// Extends a lease; `None` if there is none.
    pub fn renew(&self, terms: LeaseTerms) -> Result<Option<Lease>> {
        if self.lease(&terms.manifest, &terms.owner).is_none() {
            return Ok(None);
        }
        self.grant(terms, &[]).map(Some)
    }

    /// The lease on `manifest` of `owner`.
    pub fn lease(&self, manifest: &Hash, owner: &[u8; 32]) -> Option<Lease> {
        self.known().get(&lease_key(manifest, owner)).copied()
    }

    /// All leases.
    pub fn all(&self) -> Vec<Lease> {
        self.known().values().copied().collect()
    }

    /// Ends a lease; false if there is none. Its chunks go with the next garbage collection.
    pub fn release(&self, manifest: &Hash, owner: &[u8; 32]) -> Result<bool> {
        self.end(|lease| lease.terms.manifest == *manifest && lease.terms.owner == *owner).map(|ended| ended > 0)
    }

    /// Ends all leases whose time is up, and says how many those were.
    pub fn expire(&self, now_unix_ms: u64) -> Result<u64> {
        self.end(|lease| lease.terms.expires_unix_ms <= now_unix_ms)
    }

    fn end(&self, ends: impl Fn(&Lease) -> bool) -> Result<u64> {
        let mut known = self.known();
        let ended: Vec<([u8; 64], u32)> =
            known.iter().filter(|(_, lease)| ends(lease)).map(|(key, lease)| (*key, lease.number)).collect();
        if ended.is_empty() {
            return Ok(0);
        }
        guarded(&self.path, || {
            let transaction = begin_write(&self.database)?;
            {
                let mut leases = transaction.open_table(LEASES)?;
                for (key, _) in &ended {
                    leases.remove(key)?;
                }
            }
            transaction.commit()?;
            Ok(())
        })?;
        for (key, _) in &ended {
            known.remove(key);
        }
        drop(known);
        self.sweep()?;
        Ok(ended.len() as u64)
    }

    /// Removes the rows whose lease is gone, some at a time. No lease is granted between the look at those that there are and the
    /// removal of rows: those of one that is not among them yet would go with the rest.
    fn sweep(&self) -> Result<()> {
        let mut from = held_key(0, &Hash::default(), 0);
        loop {
            let known = self.known();
            let live: HashSet<u32> = known.values().map(|lease| lease.number).collect();
            let next = guarded(&self.path, || {
                let mut dead = Vec::new();
                let mut last = None;
                {
                    let transaction = self.database.begin_read()?;
                    for row in transaction.open_table(HELD)?.range::<&[u8; 38]>(&from..)?.take(SWEEP_ROWS) {
                        let key = *row?.0.value();
                        if !live.contains(&parse_held(&key).1) {
                            dead.push(key);
                        }
                        last = Some(key);
                    }
                }
                if !dead.is_empty() {
                    let transaction = begin_write(&self.database)?;
                    {
                        let mut held = transaction.open_table(HELD)?;
                        for key in &dead {
                            held.remove(key)?;
                        }
                    }
                    transaction.commit()?;
                }
                Ok(last)
            })?;
            match next {
                // The row just behind the last that was seen.
                Some(last) if last != from => from = last,
                _ => return Ok(()),
            }
        }
    }

    /// Calls `visit` for each chunk under a lease that has not ended at `now_unix_ms`.
    pub fn live(&self, now_unix_ms: u64, visit: &mut dyn FnMut(&Hash)) -> Result<()> {
        let live = self.live_numbers(now_unix_ms);
        guarded(&self.path, || {
            for row in self.database.begin_read()?.open_table(HELD)?.iter()? {
                let (hash, number) = parse_held(row?.0.value());
                if live.contains_key(&number) {
                    visit(&hash);
                }
            }
            Ok(())
        })
    }

    /// The leased chunks of a placement group with their homes, in order, each once.
    pub fn group(&self, group: u16, now_unix_ms: u64) -> Result<BTreeMap<Hash, [u8; 4]>> {
        let live = self.live_numbers(now_unix_ms);
        guarded(&self.path, || {
            let mut found = BTreeMap::new();
            let (first, last) =
                (held_key(group, &Hash::default(), 0), held_key(group, &Hash::from_bytes([255; 32]), u32::MAX));
            for row in self.database.begin_read()?.open_table(HELD)?.range::<&[u8; 38]>(&first..=&last)? {
                let (key, value) = row?;
                let (hash, number) = parse_held(key.value());
                if live.contains_key(&number) {
                    found.insert(hash, value.value().0.to_be_bytes());
                }
            }
            Ok(found)
        })
    }

    /// The placement groups that have leased chunks.
    pub fn groups(&self, now_unix_ms: u64) -> Result<Vec<u16>> {
        let live = self.live_numbers(now_unix_ms);
        guarded(&self.path, || {
            let mut groups = Vec::new();
            for row in self.database.begin_read()?.open_table(HELD)?.iter()? {
                let key = *row?.0.value();
                let group = u16::from_be_bytes([key[0], key[1]]);
                if groups.last() != Some(&group) && live.contains_key(&parse_held(&key).1) {
                    groups.push(group);
                }
            }
            Ok(groups)
        })
    }

    /// The leases of a chunk with this home that have not ended.
    pub fn of_chunk(&self, hash: &Hash, home: [u8; 4], now_unix_ms: u64) -> Result<Vec<LeaseTerms>> {
        let live = self.live_numbers(now_unix_ms);
        let group = Group::of(home).number();
        guarded(&self.path, || {
            let mut found = Vec::new();
            let (first, last) = (held_key(group, hash, 0), held_key(group, hash, u32::MAX));
            for row in self.database.begin_read()?.open_table(HELD)?.range::<&[u8; 38]>(&first..=&last)? {
                let (_, number) = parse_held(row?.0.value());
                found.extend(live.get(&number).copied());
            }
            Ok(found)
        })
    }

    fn live_numbers(&self, now_unix_ms: u64) -> HashMap<u32, LeaseTerms> {
        let known = self.known();
        let live = known.values().filter(|lease| lease.terms.expires_unix_ms > now_unix_ms);
        live.map(|lease| (lease.number, lease.terms)).collect()
    }

    /// Chunks and bytes under the leases of `owner`.
    pub fn owned(&self, owner: &[u8; 32]) -> (u64, u64) {
        let known = self.known();
        let owned = known.values().filter(|lease| lease.terms.owner == *owner);
        owned.fold((0, 0), |(chunks, bytes), lease| (chunks + lease.chunks, bytes + lease.bytes))
    }
}

/// Makes the file with its tables under another name first: one that is there without them is damage, and no store that has no leases.
fn create(directory: &Path, path: &Path) -> Result<()> {
    let temporary = directory.join("tmp").join("leases.redb");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("replace", temporary, error)),
        _ => {}
    }
    guarded(&temporary, || {
        let database = Database::builder().create(&temporary)?;
        let transaction = begin_write(&database)?;
        transaction.open_table(LEASES)?;
        transaction.open_table(HELD)?;
        transaction.open_table(STATE)?;
        transaction.commit()?;
        Ok(())
    })?;
    // The name is durable before the first lease is.
    let named = std::fs::rename(&temporary, path).and_then(|()| sync_directory(directory));
    named.map_err(|error| Error::io("create", path, error))
}

/// Quick repair: after a kill the file is open again at once, however many rows it has.
fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Runs `act` on the database. redb may panic on pages that were altered: that is damage, and no end of the process.
///
/// Only what is damage is called so, since the remedy is to delete the file, and every lease with it.
fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    let damaged = |why: String| Error::Damaged {
        what: "leases",
        place: path.display().to_string(),
        why: format!("{why}; delete the file to go on: peers then bring what belongs here again"),
    };
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(redb::Error::Io(error))) => match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Err(damaged(error.to_string())),
            _ => Err(Error::io("use", path, error)),
        },
        Ok(Err(redb::Error::PreviousIo)) => {
            Err(Error::WriteFailed { why: format!("{} could not be written", path.display()) })
        }
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(Error::Locked { path: path.to_owned(), pid: None }),
        Ok(Err(
            error @ (redb::Error::Corrupted(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::UpgradeRequired(_)),
        )) => Err(damaged(error.to_string())),
        Ok(Err(error)) => Err(Error::io("use", path, std::io::Error::other(error))),
        Err(_) => Err(damaged("a page was altered".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(n: u8) -> LeasedChunk {
        LeasedChunk { hash: Hash::of(&[n]), home: [n, n << 4, 0, 0], stored_len: 100 + u32::from(n) }
    }

    fn terms(manifest: u8, owner: u8, expires_unix_ms: u64) -> LeaseTerms {
        LeaseTerms { manifest: Hash::of(&[manifest]), owner: [owner; 32], expires_unix_ms }
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
                        prop_assert_eq!(leases.release(&terms.manifest, &terms.owner).unwrap(), there);
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
                leases.live(now, &mut |hash| { live.insert(*hash); }).unwrap();
                let expected: std::collections::BTreeSet<Hash> = model.values().filter(|lease| lease.0 > now)
                    .flat_map(|lease| lease.1.keys().map(|n| chunk(*n).hash)).collect();
                prop_assert_eq!(&live, &expected);
                for n in 0..8 {
                    let in_group = leases.group(u16::from(n) << 4 | u16::from(n), now).unwrap();
                    prop_assert_eq!(in_group.contains_key(&chunk(n).hash), expected.contains(&chunk(n).hash));
                    let holding = model.values().filter(|lease| lease.0 > now && lease.1.contains_key(&n)).count();
                    prop_assert_eq!(leases.of_chunk(&chunk(n).hash, chunk(n).home, now).unwrap().len(), holding);
                }
                let owned: u64 = model.iter().filter(|((_, o), _)| *o == owner).map(|(_, lease)| lease.1.len() as u64).sum();
                prop_assert_eq!(leases.owned(&[owner; 32]).0, owned);
            }
        }
    }

    #[test]
    fn damage_is_told_and_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = Leases::path(dir.path());
        std::fs::write(path, vec![7; 10_000]).unwrap();
        let error = Leases::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, Error::Damaged { what: "leases", why, .. } if why.contains("delete the file")),
            "{error}"
        );
    }
}
