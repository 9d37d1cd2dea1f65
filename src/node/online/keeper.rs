//! What peers may ask of this store, and how much of it: the store as a [`Keeper`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::chunk::{ChunkSource, Intake, LeaseTerms, Parcel, Taken};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::net::config::NetConfig;
use crate::net::placement::Group;
use crate::net::resolver::Resolver;
use crate::net::serve::{Keeper, peer_key};
use crate::node::intake::StoreIntake;
use crate::node::online::node::NodeInner;
use crate::node::store::Store;

/// Accounts that are kept before those that have ended are looked for.
const ACCOUNTS: usize = 4096;

/// What a lease costs besides its chunks: an entry in memory, for as long as it lasts.
const LEASE_CHUNKS: u64 = 64;

/// What one in a peer's own name costs besides its chunks.
const OWN_LEASE_CHUNKS: u64 = 8;

/// Chunks and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    chunks: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, chunks: u64, bytes: u64) {
        self.chunks += chunks;
        self.bytes += bytes;
    }
}

/// What a peer has brought that the leases in its own name do not tell of.
#[derive(Debug)]
struct Account {
    since: Instant,
    /// Under the leases of others: repairs, if it is honest.
    for_others: Amount,
    /// Stored, and not committed: garbage, unless it is yet to be.
    loose: Amount,
    /// All that it was ever charged.
    charged: Amount,
}

/// The accounts of peers. One begins anew when what was in it has ended, unless it was renewed.
#[derive(Debug)]
struct Accounts {
    lasts: Duration,
    peers: Mutex<HashMap<PeerId, Account>>,
}

impl Accounts {
    fn with<T>(&self, peer: &PeerId, act: impl FnOnce(&mut Account) -> T) -> T {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= ACCOUNTS && !peers.contains_key(peer) {
            peers.retain(|_, account| account.since.elapsed() < self.lasts);
        }
        let new = || Account {
            since: Instant::now(),
            for_others: Amount::default(),
            loose: Amount::default(),
            charged: Amount::default(),
        };
        let account = peers.entry(*peer).or_insert_with(new);
        if account.since.elapsed() >= self.lasts {
            // What is open goes on to be counted from where it was.
            *account = Account { charged: account.charged, ..new() };
        }
        act(account)
    }
}

/// Answers from a store, within quotas.
pub(super) struct StoreKeeper {
    store: Store,
    peer_bytes: u64,
    peer_chunks: u64,
    accounts: Arc<Accounts>,
    /// Which groups belong here.
    resolver: Arc<Resolver>,
    /// Whether peers have ended leases.
    ended: Arc<AtomicBool>,
}

impl StoreKeeper {
    /// `ended` is set when a peer ends a lease of its own.
    pub(super) fn new(
        store: Store,
        config: &NetConfig,
        resolver: Arc<Resolver>,
        ended: Arc<AtomicBool>,
    ) -> StoreKeeper {
        let (peer_bytes, peer_chunks) = (config.peer_bytes, config.peer_chunks);
        let accounts = Arc::new(Accounts { lasts: config.ttl, peers: Mutex::default() });
        StoreKeeper { store, peer_bytes, peer_chunks, accounts, resolver, ended }
    }

    fn now() -> u64 {
        NodeInner::now()
    }
}

/// The chunks of a group that are under leases here, with their homes; not those that were found damaged.
pub(super) fn readable_of(store: &Store, group: u16) -> Result<BTreeMap<Hash, [u8; 4]>> {
    let leased = store.leases()?.group(group, StoreKeeper::now())?;
    let hashes: Vec<Hash> = leased.keys().copied().collect();
    let readable = store.holds(&hashes)?;
    Ok(leased.into_iter().zip(readable).filter_map(|(chunk, readable)| readable.then_some(chunk)).collect())
}

/// A lease here ends after [`limits::LEASE_TTL`] at the latest, whatever a peer asks for.
fn bounded(terms: LeaseTerms) -> LeaseTerms {
    let latest = StoreKeeper::now().saturating_add(limits::LEASE_TTL.as_millis() as u64);
    LeaseTerms { expires_unix_ms: terms.expires_unix_ms.min(latest), ..terms }
}

impl ChunkSource for StoreKeeper {
    fn holds(&self, hashes: &[Hash]) -> Result<Vec<bool>> {
        self.store.holds(hashes)
    }

    fn parcel(&self, hash: &Hash, bases: &[Hash]) -> Result<Option<Parcel>> {
        self.store.parcel(hash, bases)
    }

    fn take_at_hand(&self, hash: &Hash, bases: &[Hash], take: &mut dyn FnMut(&Parcel<&[u8]>)) -> bool {
        self.store.take_at_hand(hash, bases, take)
    }

    fn base(&self, hash: &Hash) -> Result<Option<Hash>> {
        self.store.base(hash)
    }
}

impl Keeper for StoreKeeper {
    fn open(&self, from: &PeerId, terms: LeaseTerms) -> Result<Box<dyn Intake>> {
        let owned = self.store.leases()?.owned(&terms.owner);
        let owned = Amount { chunks: owned.chunks + owned.leases * OWN_LEASE_CHUNKS, bytes: owned.bytes };
        let own = peer_key(from) == Some(terms.owner);
        let is_new = self.store.leases()?.lease(&terms.manifest, &terms.owner).is_none();
        let intake = self.store.intake(bounded(terms))?;
        let (kept, charged) = self.accounts.with(from, |account| {
            let others = if own { Amount::default() } else { account.for_others };
            let mut kept = Amount { chunks: owned.chunks.max(others.chunks), bytes: owned.bytes.max(others.bytes) };
            kept.add(account.loose.chunks, account.loose.bytes);
            (kept, account.charged)
        });
        Ok(Box::new(QuotaIntake {
            intake,
            kept,
            charged,
            most: Amount { chunks: self.peer_chunks, bytes: self.peer_bytes },
            from: *from,
            own,
            // One that is renewed is counted already.
            begun: AtomicBool::new(own && !is_new),
            loose: Mutex::default(),
            accounts: Arc::clone(&self.accounts),
            resolver: Arc::clone(&self.resolver),
        }))
    }

    fn renew(&self, terms: LeaseTerms) -> Result<Option<(u64, u64)>> {
        let renewed = self.store.leases()?.renew(bounded(terms))?;
        Ok(renewed.map(|lease| (lease.chunks, lease.bytes)))
    }

    fn release(&self, manifest: &Hash, owner: &[u8; 32]) -> Result<()> {
        let ended = self.store.leases()?.release(owner, |leased| leased == manifest)?;
        self.ended.fetch_or(ended > 0, Ordering::Relaxed);
        Ok(())
    }

    fn group(&self, group: u16, behind: &Hash) -> Result<(Hash, Vec<Hash>)> {
        let held = readable_of(&self.store, group)?;
        let mut digest = blake3::Hasher::new();
        for hash in held.keys() {
            digest.update(hash.as_bytes());
        }
        let later = held.into_keys().filter(|hash| hash > behind).take(limits::HAVE_HASHES);
        Ok((digest.finalize().into(), later.collect()))
    }
}

/// An intake that ends where a quota does.
struct QuotaIntake {
    intake: StoreIntake,
    /// What was kept for whoever the lease is of, or for the peer, when it was opened.
    kept: Amount,
    /// What the peer had been charged by then. All that it is charged since counts, by whichever of its intakes.
    charged: Amount,
    most: Amount,
    from: PeerId,
    /// The lease is in the peer's own name.
    own: bool,
    /// Something came under it.
    begun: AtomicBool,
    /// What came and is not committed.
    loose: Mutex<Amount>,
    accounts: Arc<Accounts>,
    resolver: Arc<Resolver>,
}

impl QuotaIntake {
    /// Refuses what there is no room for.
    fn admit(&self, bytes: u64) -> Result<()> {
        let charged = self.accounts.with(&self.from, |account| account.charged);
        let chunks = self.kept.chunks + charged.chunks.saturating_sub(self.charged.chunks);
        let kept_bytes = self.kept.bytes + charged.bytes.saturating_sub(self.charged.bytes);
        for (what, found, limit) in [
            ("the number of chunks kept for one peer", chunks + 1, self.most.chunks),
            ("the bytes kept for one peer", kept_bytes + bytes, self.most.bytes),
        ] {
            if found > limit {
                return Err(Error::Limit { what, found, limit });
            }
        }
        Ok(())
    }

    /// Charges a chunk, of which so many `bytes` are new here.
    fn charge(&self, bytes: u64) {
        let lease = match self.begun.swap(true, Ordering::Relaxed) {
            true => 0,
            false if self.own => OWN_LEASE_CHUNKS,
            false => LEASE_CHUNKS,
        };
        let is_new = bytes > 0;
        if is_new {
            self.loose.lock().unwrap_or_else(PoisonError::into_inner).add(1, bytes);
        }
        self.accounts.with(&self.from, |account| {
            account.charged.add(1 + lease, bytes);
            if !self.own {
                account.for_others.add(1 + lease, bytes);
            }
            if is_new {
                account.loose.add(1, bytes);
            }
        });
    }
}

impl Intake for QuotaIntake {
    fn take(&self, parcel: &Parcel) -> Result<Taken> {
        if !self.resolver.admits(Group::of(parcel.home)) {
            return Ok(Taken::Elsewhere);
        }
        let len = parcel.payload.len() as u64;
        self.admit(len)?;
        let taken = self.intake.take(parcel)?;
        match taken {
            Taken::Stored => self.charge(len),
            Taken::Known => self.charge(0),
            Taken::NeedsBase | Taken::Elsewhere | Taken::Wrong(_) => {}
        }
        Ok(taken)
    }

    /// What does not belong here, or goes beyond the quota, counts as not there.
    fn hold(&self, hash: &Hash, home: [u8; 4]) -> Result<bool> {
        if self.admit(0).is_err() || !self.resolver.admits(Group::of(home)) || !self.intake.hold(hash, home)? {
            return Ok(false);
        }
        self.charge(0);
        Ok(true)
    }

    fn commit(&self) -> Result<()> {
        self.intake.commit()?;
        let loose = std::mem::take(&mut *self.loose.lock().unwrap_or_else(PoisonError::into_inner));
        self.accounts.with(&self.from, |account| {
            account.loose.chunks = account.loose.chunks.saturating_sub(loose.chunks);
            account.loose.bytes = account.loose.bytes.saturating_sub(loose.bytes);
        });
        Ok(())
    }
}
