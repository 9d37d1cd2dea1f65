//! Publishing a key: its versions' chunks go where they belong, with them its catalogue where the record has no room for that, and last the
//! signed record.
//!
//! Chunks come first, so whoever reads the record finds what it names. What could not be done is noted, and the upkeep does it when peers
//! come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, PutName};
use crate::limits;
use crate::manifest::Manifest;
use crate::monitor::Monitor;
use crate::net::catalogue::{Catalogue, CataloguedVersion, ListedKey, Listing};
use crate::net::record::Body;
use crate::node::list::labels_of;
use crate::node::online::body::Document;
use crate::node::online::find::persist;
use crate::node::online::node::{Node, NodeInner};
use crate::node::online::place::Placed;
use crate::node::online::record::{Named, named};
use crate::node::online::tasks::blocking;
use crate::node::payload::Payload;
use crate::node::put::PutOptions;
use crate::node::report::{NetPut, PutReport};
use crate::refs::VersionEntry;
use crate::store::KeyRefs;

/// How long those who are late are waited for at least, once a majority keeps what somebody waits for.
const GRACE: Duration = Duration::from_secs(3);

/// For whom something is published.
#[derive(Clone, Copy)]
pub(super) struct Errand<'m> {
    pub(super) monitor: &'m Monitor,
    /// How long those who are late are waited for at least, once a majority keeps what is placed.
    pub(super) grace: Duration,
    /// Those who were late with earlier versions get what they lack of them as well.
    pub(super) thorough: bool,
}

/// How a version was placed.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedAt {
    at: Instant,
    /// The end that it had then.
    expires_unix_ms: Option<u64>,
    /// On as many peers as it should be, and not just on a majority.
    complete: bool,
}

/// What there is to do for a version.
enum Standing {
    /// Nothing: it was seen not long ago to be where it belongs, on as many peers as it should be if that is `complete`.
    Placed { complete: bool },
    /// It has to be placed.
    Unplaced(Box<Unplaced>),
}

/// A version that is described and has to be seen to be where it belongs: the chunks of its manifest, and those that it names.
struct Unplaced {
    document: Document,
    terms: LeaseTerms,
    number: u64,
    expires_unix_ms: Option<u64>,
}

impl Node {
    /// Stores `payload` as the next version of `name`'s key, places its chunks on the peers that they belong to, and publishes the key.
    ///
    /// Fails with [`Error::TooFewPeers`] where fewer peers keep it than the quorum asks for; it is stored here all the same, and the node
    /// finishes the job when peers come.
    pub fn put(
        &self,
        name: &PutName,
        payload: Payload<'_>,
        options: &PutOptions,
        monitor: &Monitor,
    ) -> Result<PutReport> {
        let mut report = self.inner.store.put(name, payload, options, monitor)?;
        let started = Instant::now();
        let lookups = self.inner.handle.lookups();
        monitor.begin("publish", 0);
        let placed = self.publish_now(&name.key, monitor);
        monitor.finish();
        if let Err(Error::Cancelled) = placed {
            monitor
                .warn(&format!("{}@{} is stored here, and the node goes on to publish it", name.key, report.version));
        }
        let placed = placed?;
        report.network = Some(NetPut {
            replicas: placed.fewest as u64,
            lookups: self.inner.handle.lookups() - lookups,
            sent_bytes: placed.sent_bytes,
        });
        report.seconds += started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Removes the versions of those keys that are to `go`, but for those that are pinned, and has peers told and their room reclaimed. Says
    /// how many versions those were.
    pub(crate) fn remove_all(&self, go: impl Fn(&Key) -> bool) -> Result<u64> {
        let gone = self.inner.store.remove_all(|key, _| go(key))?;
        if gone > 0 {
            self.inner.ended.store(true, Ordering::Relaxed);
            self.wake();
        }
        Ok(gone)
    }

    /// Publishes what changed of `key`: for a label, a removal, or a version that was put without the network.
    pub fn publish(&self, key: &Key, monitor: &Monitor) -> Result<()> {
        self.publish_now(key, monitor).map(drop)
    }

    fn publish_now(&self, key: &Key, monitor: &Monitor) -> Result<Placed> {
        let (key, monitor) = (key.clone(), monitor.clone());
        let placed = self.run(|node| async move {
            // Whoever is late gets what it lacks from the upkeep.
            node.publish_key(&key, Errand { monitor: &monitor, grace: GRACE, thorough: false }).await
        });
        // For those who are late, and to be listed.
        self.wake();
        placed
    }
}

impl NodeInner {
    /// Publishes `key` as it is now. Why it could not be is noted.
    pub(super) async fn publish_key(&self, key: &Key, errand: Errand<'_>) -> Result<Placed> {
        let published = self.publish_versions(key, errand).await;
        if let Err(error) = &published {
            // Whoever did not want to wait for it is no reason that it could not be.
            let why = (!matches!(error, Error::Cancelled)).then(|| error.to_string());
            lock(&self.unpublished).insert(key.as_str().to_owned(), why);
        }
        published
    }

    async fn publish_versions(&self, key: &Key, errand: Errand<'_>) -> Result<Placed> {
        let _turn = self.turn(key.as_str()).await;
        self.note_unpublished(key, true);
        let (store, own) = (self.store.clone(), key.clone());
        let refs = blocking(move || store.refs_of(&own)).await?;
        let mut placed = self.nothing_placed();
        let mut catalogue = Catalogue::default();
        // The last one is placed together with the catalogue, where that has to be placed.
        let mut unplaced: Option<Unplaced> = None;
        let mut versions = Vec::new();
        for (number, entry) in &published(&refs) {
            if let Some(version) = unplaced.take() {
                versions.push(self.place_version(version, errand).await?);
            }
            let (manifest, standing) = self.describe_version(*number, entry, errand).await?;
            match standing {
                Standing::Placed { complete } => placed.incomplete += usize::from(!complete),
                Standing::Unplaced(version) => unplaced = Some(*version),
            }
            let labels = labels_of(&refs, *number);
            catalogue
                .versions
                .insert(*number, CataloguedVersion { manifest, entry: entry.clone(), labels, peer: None });
        }
        if catalogue.versions.is_empty() {
            if refs.versions.is_empty() {
                placed.add(self.withdraw(key, errand).await?);
            }
            // What has expired, the record has expired with.
            self.note_unpublished(key, false);
            return Ok(placed);
        }
        let version = async {
            match unplaced {
                Some(version) => self.place_version(version, errand).await.map(Some),
                None => Ok(None),
            }
        };
        let (version, (record, listed)) = futures::try_join!(version, self.record_of(key, &catalogue, errand))?;
        versions.extend(version);
        // A record names only what is kept.
        for (number, placed) in versions.iter().rev() {
            self.check_quorum(&format!("{key}@{number}"), placed)?;
        }
        self.check_quorum(&named(key.as_str()), &listed)?;
        versions.into_iter().for_each(|(_, version)| placed.add(version));
        placed.add(self.publish_record(record, Named::Versions(key, &catalogue), errand).await?);
        placed.add(listed);
        self.note_published(key.as_str(), fingerprint(&refs), placed.incomplete == 0)?;
        self.note_unpublished(key, placed.incomplete > 0);
        Ok(placed)
    }

    /// Sees that those versions of somebody else's key that are pinned here are where they belong, whether or not their publisher still does.
    /// They keep the leases of this node, beside the publisher's.
    /// One that fails does not keep the others from it.
    pub(super) async fn keep_pinned(&self, key: &Key, refs: &KeyRefs, errand: Errand<'_>) -> Result<()> {
        let mut kept = Ok(());
        for (number, entry) in published(refs).iter().filter(|(number, _)| refs.pins.contains_key(number)) {
            if self.placed_at(entry).is_none_or(|placed| !placed.complete) {
                kept = kept.and(self.keep_version(key, *number, entry, errand).await);
            }
        }
        kept
    }

    async fn keep_version(&self, key: &Key, number: u64, entry: &VersionEntry, errand: Errand<'_>) -> Result<()> {
        let (_, standing) = self.describe_version(number, entry, errand).await?;
        let Standing::Unplaced(version) = standing else { return Ok(()) };
        let (_, placed) = self.place_version(*version, errand).await?;
        self.check_quorum(&format!("{key}@{number}"), &placed)
    }

    /// Fails where too few peers keep what has that name.
    pub(super) fn check_quorum(&self, name: &str, placed: &Placed) -> Result<()> {
        match placed.short {
            0 => Ok(()),
            short => Err(Error::TooFewPeers {
                name: name.to_owned(),
                found: placed.fewest,
                needed: self.config.quorum(),
                short,
                chunks: placed.chunks,
                peers: placed.peers.max(1),
                full: placed.full.len(),
            }),
        }
    }

    /// Notes whether a key waits to be published.
    pub(super) fn note_unpublished(&self, key: &Key, waits: bool) {
        let mut unpublished = lock(&self.unpublished);
        match waits {
            true => drop(unpublished.entry(key.as_str().to_owned()).or_default()),
            false => drop(unpublished.remove(key.as_str())),
        }
    }

    /// Waits until nobody else publishes under `name`.
    async fn turn(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.publishing);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    pub(super) fn nothing_placed(&self) -> Placed {
        Placed { fewest: self.config.replication_factor, ..Placed::default() }
    }

    /// What a catalogue says of version `number`, and what there is to do for it.
    async fn describe_version(
        &self,
        number: u64,
        entry: &VersionEntry,
        errand: Errand<'_>,
    ) -> Result<(Body, Standing)> {
        let hash = entry.manifest;
        let placed = self.placed_at(entry).filter(|placed| placed.complete || !errand.thorough);
        if let Some(PlacedAt { complete, .. }) = placed
            && entry.manifest_bytes <= limits::CHUNK_BYTES as u64
        {
            return Ok((Body { hash, len: entry.manifest_bytes, pieces: None }, Standing::Placed { complete }));
        }
        let store = self.store.clone();
        let end = self.lease_end().min(entry.expires_unix_ms.unwrap_or(u64::MAX));
        let terms = LeaseTerms { manifest: hash, owner: self.owner, expires_unix_ms: end };
        let read = blocking(move || {
            let bytes = store.manifest_bytes(&hash)?;
            let manifest = Manifest::decode(&bytes).map_err(|why| Error::Damaged {
                what: "manifest",
                place: hash.short(),
                why: why.to_string(),
            })?;
            Ok::<_, Error>((store.store_document(&bytes, terms)?, manifest))
        });
        let (mut document, manifest) = read.await?;
        if let Some(placed) = placed {
            persist(document.intake).await?;
            return Ok((document.body, Standing::Placed { complete: placed.complete }));
        }
        let homed = manifest.chunks.iter().enumerate();
        document.chunks.extend(homed.filter_map(|(index, chunk)| Some((chunk.hash, manifest.home(index)?))));
        let unplaced = Unplaced { document, terms, number, expires_unix_ms: entry.expires_unix_ms };
        Ok((unplaced.document.body, Standing::Unplaced(Box::new(unplaced))))
    }

    /// How a version was placed, if that was not long ago, and for as long as it is to be kept now.
    fn placed_at(&self, entry: &VersionEntry) -> Option<PlacedAt> {
        let placed = lock(&self.placed).get(&entry.manifest).copied()?;
        let end = |expires_unix_ms: Option<u64>| expires_unix_ms.unwrap_or(u64::MAX);
        let lasts = end(placed.expires_unix_ms) >= end(entry.expires_unix_ms);
        (lasts && placed.at.elapsed() < self.config.ttl / 3).then_some(placed)
    }

    /// Sees that a version is where it belongs. Says which one it is, and how it was placed.
    async fn place_version(&self, version: Unplaced, errand: Errand<'_>) -> Result<(u64, Placed)> {
        let Unplaced { document, terms, number, expires_unix_ms } = version;
        let placed = self.place(&document.chunks, terms, &document.intake, errand).await?;
        lock(&self.kept_by).entry(terms.manifest).or_default().extend(&placed.keepers);
        if placed.short == 0 {
            let at = PlacedAt { at: Instant::now(), expires_unix_ms, complete: placed.incomplete == 0 };
            lock(&self.placed).insert(terms.manifest, at);
        }
        Ok((number, placed))
    }

    /// Publishes the list of this scope's keys, whose hash is `state`.
    pub(super) async fn publish_listing(&self, listing: &Listing, state: Hash, errand: Errand<'_>) -> Result<()> {
        let _turn = self.turn("").await;
        let (record, mut placed) = self.record_of_listing(listing, errand).await?;
        self.check_quorum(&named(""), &placed)?;
        placed.add(self.publish_record(record, Named::Keys(listing), errand).await?);
        self.note_published("", state, placed.incomplete == 0)
    }
}

/// The list of the keys that are this scope's own.
pub(super) fn listing_of(all: &BTreeMap<Key, KeyRefs>) -> Listing {
    let mut listing = Listing::default();
    for (key, refs) in all.iter().filter(|(key, _)| key.scope().is_none()) {
        let published = published(refs);
        if let Some((latest, entry)) = published.last_key_value() {
            let (versions, bytes) = (published.len() as u64, entry.bytes);
            let created_unix_ms = entry.created_unix_ms;
            let listed = ListedKey { versions, latest: *latest, bytes, created_unix_ms, peer: None };
            listing.keys.insert(key.clone(), listed);
        }
    }
    listing
}

/// The versions of a key whose time is not up. Those that are pinned have no end.
fn published(refs: &KeyRefs) -> BTreeMap<u64, VersionEntry> {
    let now = NodeInner::now();
    let mut versions = without_pinned_ends(refs);
    versions.retain(|_, entry| entry.expires_unix_ms.is_none_or(|end| end > now));
    versions
}

fn without_pinned_ends(refs: &KeyRefs) -> BTreeMap<u64, VersionEntry> {
    let mut versions = refs.versions.clone();
    for (_, entry) in versions.iter_mut().filter(|(number, _)| refs.pins.contains_key(number)) {
        entry.expires_unix_ms = None;
    }
    versions
}

/// What tells one state of a key's refs from another.
pub(super) fn fingerprint(refs: &KeyRefs) -> Hash {
    let mut catalogue = Catalogue::default();
    for (number, entry) in &without_pinned_ends(refs) {
        let manifest = Body { hash: entry.manifest, len: entry.manifest_bytes, pieces: None };
        let labels = labels_of(refs, *number);
        catalogue.versions.insert(*number, CataloguedVersion { manifest, entry: entry.clone(), labels, peer: None });
    }
    Hash::of(&catalogue.encode())
}

impl Placed {
    pub(super) fn add(&mut self, other: Placed) {
        self.chunks += other.chunks;
        self.short += other.short;
        self.incomplete += other.incomplete;
        self.fewest = self.fewest.min(other.fewest);
        self.peers = self.peers.max(other.peers);
        self.sent_bytes += other.sent_bytes;
        self.keepers.extend(other.keepers);
        self.full.extend(other.full);
    }
}

pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Rows are added and removed whole.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
