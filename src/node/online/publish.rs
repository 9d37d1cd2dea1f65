//! Publishing a key: its versions' chunks go where they belong, with them its catalogue where the record has no room for that, and last the
//! signed record.
//!
//! Chunks come first, so whoever reads the record finds what it names. The record counts when a majority of the peers that it belongs to
//! has taken it; unless all of them have, it is read once more. What could not be done is noted, and the upkeep does it when peers come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::kad;

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, PutName};
use crate::limits;
use crate::manifest::Manifest;
use crate::monitor::Monitor;
use crate::net::catalogue::{Catalogue, CataloguedVersion, ListedKey, Listing};
use crate::net::record::{Body, CataloguePlace, Record, SignedRecord};
use crate::net::tables::Published;
use crate::node::list::labels_of;
use crate::node::online::body::Document;
use crate::node::online::find::{Look, persist};
use crate::node::online::merge::{merge_keys, merge_versions};
use crate::node::online::node::{Node, NodeInner};
use crate::node::online::place::Placed;
use crate::node::online::tasks::blocking;
use crate::node::payload::Payload;
use crate::node::put::PutOptions;
use crate::node::report::{NetPut, PutReport};
use crate::refs::VersionEntry;
use crate::store::KeyRefs;

/// How often a record is put that others who share the scope's key come before.
const TURNS: u32 = 3;

/// What a record tells of.
#[derive(Clone, Copy)]
enum Named<'h> {
    Versions(&'h Key, &'h Catalogue),
    Keys(&'h Listing),
}

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

/// A version that is described and has to be seen to be where it belongs: the chunks of its manifest, and those that it names.
struct Unplaced {
    document: Document,
    terms: LeaseTerms,
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
        let placed = placed?;
        report.network = Some(NetPut {
            replicas: placed.fewest as u64,
            lookups: self.inner.handle.lookups() - lookups,
            sent_bytes: placed.sent_bytes,
        });
        report.seconds += started.elapsed().as_secs_f64();
        Ok(report)
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
        if placed.as_ref().map_or(true, |placed| placed.incomplete > 0) {
            self.wake();
        }
        placed
    }
}

impl NodeInner {
    /// Publishes `key` as it is now.
    pub(super) async fn publish_key(&self, key: &Key, errand: Errand<'_>) -> Result<Placed> {
        let _turn = self.turn(key.as_str()).await;
        self.note_unpublished(key, true);
        let (store, own) = (self.store.clone(), key.clone());
        let refs = blocking(move || store.refs_of(&own)).await?;
        let mut placed = self.nothing_placed();
        let mut catalogue = Catalogue::default();
        // The last one is placed together with the catalogue, where that has to be placed.
        let mut unplaced: Option<Unplaced> = None;
        for (number, entry) in &published(&refs) {
            if let Some(version) = unplaced.take() {
                placed.add(self.place_version(version, errand).await?);
            }
            let manifest;
            (manifest, unplaced) = self.describe_version(entry, errand).await?;
            let late = unplaced.is_none() && self.placed_at(entry).is_some_and(|placed| !placed.complete);
            placed.incomplete += usize::from(late);
            let labels = labels_of(&refs, *number);
            catalogue
                .versions
                .insert(*number, CataloguedVersion { manifest, entry: entry.clone(), labels, peer: None });
        }
        let Some((latest, _)) = catalogue.versions.last_key_value() else {
            // Nothing is left: the record ends with its time, and the listing does not name the key any more.
            self.note_unpublished(key, false);
            return Ok(placed);
        };
        let latest = *latest;
        let version = async {
            match unplaced {
                Some(version) => self.place_version(version, errand).await,
                None => Ok(self.nothing_placed()),
            }
        };
        let (version, (record, listed)) = futures::try_join!(version, self.record_of(key, &catalogue, errand))?;
        placed.add(version);
        if placed.short > 0 {
            // A record names only what is kept.
            return Err(Error::TooFewPeers {
                name: format!("{key}@{latest}"),
                found: placed.fewest,
                needed: self.config.quorum(),
                short: placed.short,
                chunks: placed.chunks,
                peers: placed.peers.max(1),
            });
        }
        placed.add(self.publish_record(record, Named::Versions(key, &catalogue), errand).await?);
        placed.add(listed);
        self.note_published(key.as_str(), fingerprint(&refs), placed.incomplete == 0)?;
        self.note_unpublished(key, placed.incomplete > 0);
        Ok(placed)
    }

    /// Notes whether a key waits to be published.
    pub(super) fn note_unpublished(&self, key: &Key, waits: bool) {
        let mut unpublished = lock(&self.unpublished);
        match waits {
            true => unpublished.insert(key.as_str().to_owned()),
            false => unpublished.remove(key.as_str()),
        };
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

    /// The record of a key that has these versions. The catalogue is placed, unless it fits in.
    async fn record_of(&self, key: &Key, catalogue: &Catalogue, errand: Errand<'_>) -> Result<(Record, Placed)> {
        let newest = catalogue.versions.last_key_value();
        let (version, newest) =
            newest.ok_or_else(|| Error::Network { what: "the record", why: format!("{key} has no versions") })?;
        let ends = catalogue.versions.values().map(|version| version.entry.expires_unix_ms.unwrap_or(u64::MAX));
        let mut record = Record {
            publisher: self.identity.scope(),
            name: key.as_str().to_owned(),
            seq: 0,
            version: *version,
            manifest: newest.manifest,
            catalogue: CataloguePlace::Inline(Vec::new()),
            expires_unix_ms: ends.max().unwrap_or(u64::MAX),
            peer: self.owner,
        };
        let catalogue = catalogue.encode();
        if catalogue.len() <= record.room() {
            record.catalogue = CataloguePlace::Inline(catalogue);
            return Ok((record, self.nothing_placed()));
        }
        let (body, placed) = self.place_document(catalogue, errand).await?;
        record.catalogue = CataloguePlace::Chunks(body);
        Ok((record, placed))
    }

    fn nothing_placed(&self) -> Placed {
        Placed { fewest: self.config.replication_factor, ..Placed::default() }
    }

    /// What a catalogue says of a version; and what there is to place of it, unless it was seen not long ago to be where it belongs.
    async fn describe_version(&self, entry: &VersionEntry, errand: Errand<'_>) -> Result<(Body, Option<Unplaced>)> {
        let hash = entry.manifest;
        let fresh = self.placed_at(entry).is_some_and(|placed| placed.complete || !errand.thorough);
        let short = entry.manifest_bytes <= limits::CHUNK_BYTES as u64;
        if fresh && short {
            return Ok((Body { hash, len: entry.manifest_bytes, pieces: None }, None));
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
        if fresh {
            persist(document.intake).await?;
            return Ok((document.body, None));
        }
        let homed = manifest.chunks.iter().enumerate();
        document.chunks.extend(homed.filter_map(|(index, chunk)| Some((chunk.hash, manifest.home(index)?))));
        Ok((document.body, Some(Unplaced { document, terms, expires_unix_ms: entry.expires_unix_ms })))
    }

    /// How a version was placed, if that was not long ago, and for as long as it is to be kept now.
    fn placed_at(&self, entry: &VersionEntry) -> Option<PlacedAt> {
        let placed = lock(&self.placed).get(&entry.manifest).copied()?;
        let end = |expires_unix_ms: Option<u64>| expires_unix_ms.unwrap_or(u64::MAX);
        let lasts = end(placed.expires_unix_ms) >= end(entry.expires_unix_ms);
        (lasts && placed.at.elapsed() < self.config.ttl / 3).then_some(placed)
    }

    /// Sees that a version is where it belongs.
    async fn place_version(&self, version: Unplaced, errand: Errand<'_>) -> Result<Placed> {
        let Unplaced { document, terms, expires_unix_ms } = version;
        let placed = self.place(&document.chunks, terms, &document.intake, errand).await?;
        if placed.short == 0 {
            let at = PlacedAt { at: Instant::now(), expires_unix_ms, complete: placed.incomplete == 0 };
            lock(&self.placed).insert(terms.manifest, at);
        }
        Ok(placed)
    }

    /// Places a catalogue or listing.
    async fn place_document(&self, bytes: Vec<u8>, errand: Errand<'_>) -> Result<(Body, Placed)> {
        let store = self.store.clone();
        let terms = LeaseTerms { manifest: Hash::of(&bytes), owner: self.owner, expires_unix_ms: self.lease_end() };
        let document = blocking(move || store.store_document(&bytes, terms)).await?;
        let placed = self.place(&document.chunks, terms, &document.intake, errand).await?;
        Ok((document.body, placed))
    }

    /// Puts a record of what is `here`, for which its number is yet to be found, and which ends with a lease at the latest. What it points at
    /// is placed. Where another machine that shares the scope's key has published under the name, it becomes one of what both have; what of
    /// that had to be placed is the answer.
    async fn publish_record(&self, mut record: Record, here: Named<'_>, errand: Errand<'_>) -> Result<Placed> {
        let (publisher, name) = (record.publisher, record.name.clone());
        let published = self.tables.published(&name)?;
        let known = published.map_or(0, |published| published.seq);
        let seen = self.tables.seen(&Record::key(&publisher, &name))?.unwrap_or(0);
        // What others have published is in the last record, which may be this node's: unless it is known that there is none, that is read.
        let alone = known == 0 || lock(&self.alone).contains(&name);
        // A number that was given out and is not known to have been taken may be that of another's record.
        let unsure = seen > known || published.is_some_and(|published| published.refs == Hash::default());
        let mut found = match unsure || !alone {
            true => self.find_record(&publisher, &name, Look::Newest).await?,
            false => None,
        };
        let mut placed = self.nothing_placed();
        for turn in 1.. {
            let mut before = known.max(seen);
            let mut alone = true;
            if let Some(found) = &found {
                before = before.max(found.record.seq);
                if let Some((merged, documents)) = self.with_others(here, found, errand).await? {
                    (record, alone) = (merged, false);
                    placed.add(documents);
                }
            }
            record.seq = before.checked_add(1).ok_or(Error::Limit {
                what: "the number of a record",
                found: before,
                limit: u64::MAX,
            })?;
            record.expires_unix_ms = record.expires_unix_ms.min(self.lease_end());
            let Err(error) = self.put_record(record.clone()).await else {
                match alone {
                    true => lock(&self.alone).insert(name),
                    false => lock(&self.alone).remove(&name),
                };
                break;
            };
            // Too few peers took it; or another has published meanwhile, and this comes after that.
            found = self.find_record(&publisher, &name, Look::Newest).await?;
            let behind = found.as_ref().is_some_and(|found| {
                let newest = (found.record.seq, found.record.peer != self.owner);
                newest > (record.seq, false)
            });
            if turn == TURNS || !behind {
                return Err(error);
            }
        }
        Ok(placed)
    }

    /// The record of what is `here` and of what others have published in the record that was found, if they have; and what of it had to be
    /// placed.
    async fn with_others(
        &self,
        here: Named<'_>,
        found: &SignedRecord,
        errand: Errand<'_>,
    ) -> Result<Option<(Record, Placed)>> {
        let peer = found.record.peer;
        match here {
            Named::Versions(key, catalogue) => {
                let theirs = self.catalogue_in(found, key, errand.monitor).await?;
                let merged = merge_versions(key, catalogue, theirs, peer, self.owner)?;
                if merged.versions.len() == catalogue.versions.len() {
                    return Ok(None);
                }
                self.record_of(key, &merged, errand).await.map(Some)
            }
            Named::Keys(listing) => {
                let theirs = self.listing_in(found, errand.monitor).await?;
                let merged = merge_keys(listing, theirs, peer, self.owner);
                if merged.keys.len() == listing.keys.len() {
                    return Ok(None);
                }
                self.record_of_listing(&merged, errand).await.map(Some)
            }
        }
    }

    /// Signs a record, and puts it where it belongs.
    async fn put_record(&self, record: Record) -> Result<()> {
        let key = Record::key(&record.publisher, &record.name);
        let (name, version, seq) = (record.name.clone(), record.version, record.seq);
        let signed = record.sign(&self.identity);
        let (tables, noted) = (self.tables.clone(), name.clone());
        let number = Published { seq, refs: Hash::default(), complete: false };
        blocking(move || tables.set_published(&noted, number)).await?;
        let peers = self.handle.closest(key.as_bytes().to_vec()).await?.peers;
        let peers: Vec<_> = peers.into_iter().map(|peer| peer.peer).take(limits::RECORD_REPLICAS.get()).collect();
        // This node is one of them.
        let asked = peers.len() + 1;
        let needed = asked / 2 + 1;
        let place = kad::RecordKey::new(key.as_bytes());
        let kept = kad::Record { key: place, value: signed.bytes().to_vec(), publisher: None, expires: None };
        let (here, there) = self.handle.put_record(kept, peers).await?;
        let found = usize::from(here) + there.len();
        if found < needed {
            let name = if name.is_empty() { "the listing".to_owned() } else { format!("{name}@{version}") };
            return Err(Error::TooFewPeers { name, found, needed, short: 1, chunks: 1, peers: asked });
        }
        if found == asked {
            // Each has it, and refuses what is older from now on: there is nothing to be found out by reading it.
            return self.note_seen(key, seq).await;
        }
        match self.find_record(&signed.record.publisher, &name, Look::Newest).await? {
            Some(found) if found.record.seq > seq || found.bytes() == signed.bytes() => Ok(()),
            _ => Err(Error::Network {
                what: "the record",
                why: format!("the record of {name:?} cannot be read back; the node tries again"),
            }),
        }
    }

    fn note_published(&self, name: &str, refs: Hash, complete: bool) -> Result<()> {
        match self.tables.published(name)? {
            Some(published) => self.tables.note_published(name, Published { refs, complete, ..published }),
            None => Ok(()),
        }
    }

    /// Publishes the list of this scope's keys.
    pub(super) async fn publish_listing(&self, all: &BTreeMap<Key, KeyRefs>, errand: Errand<'_>) -> Result<()> {
        let _turn = self.turn("").await;
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
        let fingerprint = Hash::of(&listing.encode());
        let (record, mut placed) = self.record_of_listing(&listing, errand).await?;
        placed.add(self.publish_record(record, Named::Keys(&listing), errand).await?);
        self.note_published("", fingerprint, placed.incomplete == 0)
    }

    /// The record of a listing, which is placed.
    async fn record_of_listing(&self, listing: &Listing, errand: Errand<'_>) -> Result<(Record, Placed)> {
        let (listing, placed) = self.place_document(listing.encode(), errand).await?;
        let record = Record {
            publisher: self.identity.scope(),
            name: String::new(),
            seq: 0,
            version: 0,
            manifest: listing,
            catalogue: CataloguePlace::Chunks(listing),
            expires_unix_ms: u64::MAX,
            peer: self.owner,
        };
        Ok((record, placed))
    }
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
    fn add(&mut self, other: Placed) {
        self.chunks += other.chunks;
        self.short += other.short;
        self.incomplete += other.incomplete;
        self.fewest = self.fewest.min(other.fewest);
        self.peers = self.peers.max(other.peers);
        self.sent_bytes += other.sent_bytes;
    }
}

pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Rows are added and removed whole.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
