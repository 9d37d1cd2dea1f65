//! What peers may ask of this store, and how much of it: the store as a [`Keeper`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

/// Chunks and bytes by the peer that brought them.
type Brought = Arc<Mutex<HashMap<PeerId, (u64, u64)>>>;

/// Answers from a store, within quotas.
pub(super) struct StoreKeeper {
    store: Store,
    peer_bytes: u64,
    peer_chunks: u64,
    /// What each peer has brought under the leases of others since the start: repairs, if it is honest.
    brought: Brought,
    /// Which groups belong here.
    resolver: Arc<Resolver>,
}

impl StoreKeeper {
    pub(super) fn new(store: Store, config: &NetConfig, resolver: Arc<Resolver>) -> StoreKeeper {
        let (peer_bytes, peer_chunks) = (config.peer_bytes, config.peer_chunks);
        StoreKeeper { store, peer_bytes, peer_chunks, brought: Arc::default(), resolver }
    }

    fn now() -> u64 {
        NodeInner::now()
    }
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
        let (mut chunks, mut bytes) = self.store.leases()?.owned(&terms.owner);
        let own = peer_key(from) == Some(terms.owner);
        if !own {
            let brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
            let (more_chunks, more_bytes) = brought.get(from).copied().unwrap_or_default();
            (chunks, bytes) = (chunks.max(more_chunks), bytes.max(more_bytes));
        }
        let intake = self.store.intake(bounded(terms))?;
        Ok(Box::new(QuotaIntake {
            intake,
            chunks: AtomicU64::new(chunks),
            bytes: AtomicU64::new(bytes),
            most: (self.peer_chunks, self.peer_bytes),
            brought: (!own).then(|| (*from, Arc::clone(&self.brought))),
            resolver: Arc::clone(&self.resolver),
        }))
    }

    fn renew(&self, terms: LeaseTerms) -> Result<Option<(u64, u64)>> {
        let renewed = self.store.leases()?.renew(bounded(terms))?;
        Ok(renewed.map(|lease| (lease.chunks, lease.bytes)))
    }

    fn release(&self, manifest: &Hash, owner: &[u8; 32]) -> Result<()> {
        self.store.leases()?.release(manifest, owner).map(drop)
    }

    fn group(&self, group: u16, behind: &Hash) -> Result<(Hash, Vec<Hash>)> {
        let held = self.store.leases()?.group(group, Self::now())?;
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
    chunks: AtomicU64,
    bytes: AtomicU64,
    most: (u64, u64),
    brought: Option<(PeerId, Brought)>,
    resolver: Arc<Resolver>,
}

impl Intake for QuotaIntake {
    fn take(&self, parcel: &Parcel) -> Result<Taken> {
        if !self.resolver.is_here(Group::of(parcel.home)) {
            return Ok(Taken::Elsewhere);
        }
        let len = parcel.payload.len() as u64;
        let (chunks, bytes) = (self.chunks.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        if chunks + 1 > self.most.0 {
            return Err(Error::Limit {
                what: "the number of chunks kept for one peer",
                found: chunks + 1,
                limit: self.most.0,
            });
        }
        if bytes + len > self.most.1 {
            return Err(Error::Limit { what: "the bytes kept for one peer", found: bytes + len, limit: self.most.1 });
        }
        let taken = self.intake.take(parcel)?;
        if taken == Taken::Stored {
            self.chunks.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(len, Ordering::Relaxed);
            if let Some((from, brought)) = &self.brought {
                let mut brought = brought.lock().unwrap_or_else(PoisonError::into_inner);
                let (chunks, bytes) = brought.entry(*from).or_default();
                *chunks += 1;
                *bytes += len;
            }
        }
        Ok(taken)
    }

    fn hold(&self, hash: &Hash, home: [u8; 4]) -> Result<bool> {
        self.intake.hold(hash, home)
    }

    fn commit(&self) -> Result<()> {
        self.intake.commit()
    }
}
