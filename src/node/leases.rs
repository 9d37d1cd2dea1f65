//! [`Leases`]: the chunks that this store keeps for others, or until a version of another scope is no longer of use here.
//!
//! A lease belongs to a manifest and an owner, and has a time at which it ends unless it is renewed. It is granted after the chunks under
//! it are durable, and garbage collection keeps them until it has ended. `STORE/leases.redb` has three tables: `leases` (manifest and owner →
//! number, end, chunks, bytes), `held` (placement group, chunk and number of the lease → home and stored bytes) and `state`. It is a
//! database of its own and no part of the packs' log: it changes with every renewal, and what is lost with it, peers bring again.
//!
//! Invariant: a row of `held` whose lease is not in `leases` means nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::net::placement::Group;
use crate::node::lease_file::{
    HELD, LEASES, STATE, Tables, create, grant_in, guarded, held_key, lease_key, parse_held,
};

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
    pub(super) number: u32,
}

impl Lease {
    pub(super) fn key(&self) -> [u8; 64] {
        lease_key(&self.terms.manifest, &self.terms.owner)
    }
}

/// What the leases of one owner come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owned {
    /// How many they are.
    pub leases: u64,
    /// Chunks under them.
    pub chunks: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
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
    /// What is to be granted by whoever is the next to change rows.
    asked: Mutex<Vec<Arc<Asked>>>,
}

/// A lease that somebody waits for.
#[derive(Debug)]
struct Asked {
    terms: LeaseTerms,
    chunks: Vec<LeasedChunk>,
    /// It is to be extended, and not to begin.
    renews: bool,
    /// What came of it: no lease where there was none to renew.
    granted: OnceLock<Option<Lease>>,
}

impl Leases {
    /// The file in the store's directory.
    pub(super) fn path(directory: &Path) -> PathBuf {
        directory.join("leases.redb")
    }

    /// Opens the leases of the store in `directory`, which get their file where there is none.
    ///
    /// Every page is checked, since redb does not do that when it reads one: an altered row would let go of a replica unnoticed. So redb's
    /// quick repair after a kill would gain nothing, and cost each commit a second sync.
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
        Ok(Leases { path, database, known: Mutex::new(known), asked: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 64], Lease>> {
        // Changed only after the rows were: a panic before leaves both as they were.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `chunks`, which are durable, under the lease of `terms`, durably. A lease that exists is extended, and never shortened.
    ///
    /// Those who come while another's lease is made durable wait, and the first of them has all of theirs made durable at once.
    pub fn grant(&self, terms: LeaseTerms, chunks: &[LeasedChunk]) -> Result<Lease> {
        let granted = self.ask(terms, chunks, false)?;
        granted.ok_or_else(|| Error::WriteFailed { why: "a lease was asked for and not granted".to_owned() })
    }

    /// Extends a lease; `None` if there is none.
    pub fn renew(&self, terms: LeaseTerms) -> Result<Option<Lease>> {
        self.ask(terms, &[], true)
    }

    fn ask(&self, terms: LeaseTerms, chunks: &[LeasedChunk], renews: bool) -> Result<Option<Lease>> {
        if chunks.is_empty() {
            match self.lease(&terms.manifest, &terms.owner) {
                Some(lease) if lease.terms.expires_unix_ms >= terms.expires_unix_ms => return Ok(Some(lease)),
                None if renews => return Ok(None),
                // It may end before the rows change: that counts which is there by then.
                _ => {}
            }
        }
        let asked = Arc::new(Asked { terms, chunks: chunks.to_vec(), renews, granted: OnceLock::new() });
        self.asked().push(Arc::clone(&asked));
        let mut known = self.known();
        if let Some(granted) = asked.granted.get() {
            return Ok(*granted);
        }
        let all = {
            let mut waiting = self.asked();
            match waiting.iter().any(|other| Arc::ptr_eq(other, &asked)) {
                true => std::mem::take(&mut *waiting),
                // Whoever took it failed with all that there were; on its own it may well succeed.
                false => vec![Arc::clone(&asked)],
            }
        };
        let granted = self.grant_all(&known, &all)?;
        for (asker, lease) in all.iter().zip(granted) {
            known.extend(lease.map(|lease| (lease.key(), lease)));
            let _ = asker.granted.set(lease);
        }
        Ok(asked.granted.get().copied().flatten())
    }

    fn asked(&self) -> MutexGuard<'_, Vec<Arc<Asked>>> {
        // Added to and taken whole.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants all of `asked`, in order, in one transaction, but for what would renew a lease that is not there.
    fn grant_all(&self, known: &HashMap<[u8; 64], Lease>, asked: &[Arc<Asked>]) -> Result<Vec<Option<Lease>>> {
        guarded(&self.path, || {
            let transaction = self.database.begin_write()?;
            let mut granted: Vec<Option<Lease>> = Vec::with_capacity(asked.len());
            {
                let mut tables = Tables {
                    leases: transaction.open_table(LEASES)?,
                    held: transaction.open_table(HELD)?,
                    state: transaction.open_table(STATE)?,
                };
                for Asked { terms, chunks, renews, .. } in asked.iter().map(|asked| &**asked) {
                    let key = lease_key(&terms.manifest, &terms.owner);
                    let earlier = granted.iter().rev().flatten().find(|lease| lease.key() == key);
                    let before = earlier.or_else(|| known.get(&key)).copied();
                    let refused = *renews && before.is_none();
                    granted.push(match refused {
                        true => None,
                        false => Some(grant_in(&mut tables, before, *terms, chunks)?),
                    });
                }
            }
            transaction.commit()?;
            Ok(granted)
        })
    }

    /// The lease on `manifest` of `owner`.
    pub fn lease(&self, manifest: &Hash, owner: &[u8; 32]) -> Option<Lease> {
        self.known().get(&lease_key(manifest, owner)).copied()
    }

    /// All leases.
    pub fn all(&self) -> Vec<Lease> {
        self.known().values().copied().collect()
    }

    /// Ends the leases of `owner` on those manifests that are to `go`, and says how many those were. Their chunks go with the next garbage
    /// collection.
    pub fn release(&self, owner: &[u8; 32], go: impl Fn(&Hash) -> bool) -> Result<u64> {
        self.end(|lease| lease.terms.owner == *owner && go(&lease.terms.manifest))
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
            let transaction = self.database.begin_write()?;
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
                    let transaction = self.database.begin_write()?;
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

    /// Calls `visit` for each chunk under a lease that has not ended at `now_unix_ms`, with its home and the lease; once for each lease.
    pub fn live(&self, now_unix_ms: u64, visit: &mut dyn FnMut(&Hash, [u8; 4], LeaseTerms)) -> Result<()> {
        let live = self.live_numbers(now_unix_ms);
        guarded(&self.path, || {
            for row in self.database.begin_read()?.open_table(HELD)?.iter()? {
                let (key, value) = row?;
                let (hash, number) = parse_held(key.value());
                if let Some(terms) = live.get(&number) {
                    visit(&hash, value.value().0.to_be_bytes(), *terms);
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

    /// The leases of a chunk with this home, of those that are `live`, by their numbers.
    pub fn of_chunk(&self, hash: &Hash, home: [u8; 4], live: &HashMap<u32, LeaseTerms>) -> Result<Vec<LeaseTerms>> {
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

    /// The leases that have not ended, by the numbers that `held` knows them by.
    pub(crate) fn live_numbers(&self, now_unix_ms: u64) -> HashMap<u32, LeaseTerms> {
        let known = self.known();
        let live = known.values().filter(|lease| lease.terms.expires_unix_ms > now_unix_ms);
        live.map(|lease| (lease.number, lease.terms)).collect()
    }

    /// What the leases of `owner` come to.
    pub fn owned(&self, owner: &[u8; 32]) -> Owned {
        let known = self.known();
        let owned = known.values().filter(|lease| lease.terms.owner == *owner);
        owned.fold(Owned::default(), |Owned { leases, chunks, bytes }, lease| Owned {
            leases: leases + 1,
            chunks: chunks + lease.chunks,
            bytes: bytes + lease.bytes,
        })
    }
}

#[cfg(test)]
mod tests;
