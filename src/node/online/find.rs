//! From a name to a manifest: record → catalogue → manifest, each proved by the one before. The record is proved by its signature; the
//! catalogue may be in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use libp2p::{PeerId, kad};

use crate::chunk::{ChunkRef, Intake as _, LeaseTerms};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::identity::ScopeKey;
use crate::key::{Key, Scope, VersionRef};
use crate::limits;
use crate::monitor::Monitor;
use crate::net::catalogue::{Catalogue, CataloguedVersion, ListedKey, Listing};
use crate::net::fetch::{Fetched, Wanted, fetch};
use crate::net::handle::PeerAddresses;
use crate::net::kad_records::Arrivals;
use crate::net::peer_list::PeerList;
use crate::net::placement::Group;
use crate::net::record::{Body, CataloguePlace, PUBLISHED, Record, SignedRecord};
use crate::net::serve::peer_of;
use crate::node::home::home_of;
use crate::node::intake::StoreIntake;
use crate::node::online::node::{Node, NodeInner};
use crate::node::online::tasks::{blocking, over};
use crate::node::store::{find_version, nearest, unknown_version};
use crate::store::KeyRefs;

/// How long peers whose connections have ended are given to be connected again.
const RECONNECTED: Duration = Duration::from_millis(500);

/// What chunks belong to that are not to be had.
const VERSION: &str = "a version";
pub(super) const DOCUMENT: &str = "what a record points at";

/// Which record of a key will do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look {
    /// The newest of what several peers have.
    Newest,
    /// The first that is found, here or elsewhere: for what is published once.
    First,
}

impl Look {
    /// Answers that are asked for.
    fn answers(self) -> usize {
        match self {
            Look::Newest => 3,
            Look::First => 1,
        }
    }
}

/// A chunk to have here: its home, and what it may be a difference to.
#[derive(Debug, Clone)]
pub(super) struct Missing {
    pub(super) hash: Hash,
    /// Its plain bytes, as the manifest says; `None` where no manifest is at hand.
    pub(super) len: Option<u32>,
    pub(super) home: [u8; 4],
    pub(super) bases: Vec<Hash>,
}

impl Missing {
    /// To be brought as it stands alone.
    pub(super) fn alone(chunk: ChunkRef, home: [u8; 4]) -> Missing {
        Missing { hash: chunk.hash, len: Some(chunk.len), home, bases: Vec::new() }
    }
}

/// A version that was found in the network.
pub(super) struct FoundVersion {
    pub(super) number: u64,
    pub(super) version: CataloguedVersion,
    /// The peer that published it.
    pub(super) publisher: Option<PeerId>,
}

/// Somebody who waits for the record of a key.
pub(crate) struct Watch {
    arrivals: Arrivals,
    record: Hash,
}

impl Node {
    /// Begins to watch for the record of `key`, which is in a scope.
    pub(crate) fn watch(&self, key: &Key) -> Result<Watch> {
        let record = Record::key(&NodeInner::foreign(key)?, key.name());
        Ok(Watch { arrivals: self.inner.arrivals.subscribe(), record })
    }

    /// Waits until the record comes to this node, which is among those that keep it in a network of a few peers, or until it is time to
    /// look elsewhere. One that came since the watch began, or the last wait ended, is not missed.
    pub(crate) fn wait(&self, watch: &mut Watch, at_most: Duration) -> Result<()> {
        self.block_on(async {
            let came = async { while watch.arrivals.recv().await.is_ok_and(|record| record != watch.record) {} };
            // In vain or not, whoever waited looks now.
            let _ = tokio::time::timeout(at_most, came).await;
            Ok(())
        })
    }
}

impl NodeInner {
    /// The newest valid record of `name` that is found; `None` if no peer has one.
    pub(super) async fn find_record(
        &self,
        publisher: &ScopeKey,
        name: &str,
        look: Look,
    ) -> Result<Option<SignedRecord>> {
        let key = Record::key(publisher, name);
        let place = kad::RecordKey::new(key.as_bytes());
        let mut found = self.handle.get_record(place.clone(), look.answers()).await?;
        if found.records.is_empty() && !found.complete && matches!(look, Look::Newest) {
            // Connections that have ended are noticed when they are used: some of those that did not answer do so on a new one.
            tokio::time::sleep(RECONNECTED).await;
            found = self.handle.get_record(place, look.answers()).await?;
        }
        let found = found.records;
        let seen = self.tables.seen(&key)?.unwrap_or(0);
        let valid = found.iter().filter_map(|bytes| {
            let checked = SignedRecord::check(bytes, key.as_bytes(), NodeInner::now(), None);
            checked.inspect_err(|refusal| tracing::warn!("a record of {name:?} is passed over: {refusal}")).ok()
        });
        // What is older than what was seen here before is a replay.
        // Of two with the same number, the one that may not be known here: another machine of the scope has put it.
        let newest = valid
            .filter(|signed| signed.record.seq >= seen)
            .max_by_key(|signed| (signed.record.seq, signed.record.peer != self.owner));
        if newest.is_none() && !found.is_empty() && matches!(look, Look::First) {
            return Box::pin(self.find_record(publisher, name, Look::Newest)).await;
        }
        if let Some(signed) = &newest {
            self.note_seen(key, signed.record.seq).await?;
        }
        Ok(newest)
    }

    /// As [`find_record`](NodeInner::find_record), for somebody who is told that there is none: not while there is nobody to be asked.
    async fn ask_for_record(&self, publisher: &ScopeKey, name: &str, look: Look) -> Result<Option<SignedRecord>> {
        let found = self.find_record(publisher, name, look).await?;
        if found.is_none() && self.connected().await? == 0 {
            let wanted =
                if name.is_empty() { format!("the keys of @{publisher}") } else { format!("@{publisher}/{name}") };
            return Err(Error::NoPeers { wanted });
        }
        Ok(found)
    }

    /// Notes that a record has the number `seq`: older ones are replays from then on.
    pub(super) async fn note_seen(&self, key: Hash, seq: u64) -> Result<()> {
        if !self.tables.is_news(&key, seq)? {
            return Ok(());
        }
        let tables = self.tables.clone();
        blocking(move || tables.note_seen(&key, seq)).await
    }

    /// The scope and name of a key of somebody else's.
    pub(super) fn foreign(key: &Key) -> Result<ScopeKey> {
        match key.scope() {
            Some(Scope::Key(scope)) => Ok(scope),
            _ => Err(Error::NotFound {
                what: "key",
                name: key.to_string(),
                place: "the store".to_owned(),
                nearest: Vec::new(),
            }),
        }
    }

    /// What the network knows of the versions of `key`, and the peer that published the newest.
    pub(super) async fn find_catalogue(
        &self,
        key: &Key,
        look: Look,
        monitor: &Monitor,
    ) -> Result<(Catalogue, [u8; 32])> {
        let scope = Self::foreign(key)?;
        let Some(signed) = self.ask_for_record(&scope, key.name(), look).await? else {
            return Err(self.unknown_key(key, &scope, look, monitor).await);
        };
        let mut catalogue = self.catalogue_in(&signed, key, monitor).await?;
        // A record may hold a while longer than some of the versions that it names.
        let now = NodeInner::now();
        catalogue.versions.retain(|_, version| version.entry.expires_unix_ms.is_none_or(|end| end > now));
        match catalogue.versions.is_empty() {
            true => Err(self.unknown_key(key, &scope, look, monitor).await),
            false => Ok((catalogue, signed.record.peer)),
        }
    }

    /// The catalogue that a record of `key` contains or points at.
    pub(super) async fn catalogue_in(&self, signed: &SignedRecord, key: &Key, monitor: &Monitor) -> Result<Catalogue> {
        let there;
        let bytes = match &signed.record.catalogue {
            CataloguePlace::Inline(bytes) => bytes,
            CataloguePlace::Chunks(body) => {
                there = self.document(*body, peer_of(&signed.record.peer), monitor).await?;
                &there
            }
        };
        over(bytes, Catalogue::decode).map_err(|why| malformed("catalogue", key, &why.to_string()))
    }

    async fn unknown_key(&self, key: &Key, scope: &ScopeKey, look: Look, monitor: &Monitor) -> Error {
        let listed = match look {
            Look::Newest => self.find_listing(scope, monitor).await.unwrap_or_default(),
            // Whoever looks for what is published once looks again, and can do without names like it.
            Look::First => BTreeMap::new(),
        };
        // A listing may name for a moment what has expired.
        let others = listed.keys().map(Key::as_str).filter(|listed| *listed != key.name());
        let nearest = nearest(key.name(), others);
        Error::NotFound { what: "key", name: key.name().to_owned(), place: format!("scope @{scope}"), nearest }
    }

    /// The keys that `scope` has published.
    pub(super) async fn find_listing(&self, scope: &ScopeKey, monitor: &Monitor) -> Result<BTreeMap<Key, ListedKey>> {
        let Some(signed) = self.ask_for_record(scope, "", Look::Newest).await? else { return Ok(BTreeMap::new()) };
        Ok(self.listing_in(&signed, monitor).await?.keys)
    }

    /// The listing that a record points at.
    pub(super) async fn listing_in(&self, signed: &SignedRecord, monitor: &Monitor) -> Result<Listing> {
        let bytes = self.document(signed.record.manifest, peer_of(&signed.record.peer), monitor).await?;
        let of = &signed.record.publisher;
        over(&bytes, Listing::decode).map_err(|why| malformed("listing", of, &why.to_string()))
    }

    /// The version of somebody else's key that `wanted` names.
    pub(super) async fn find_foreign(
        &self,
        wanted: &VersionRef,
        look: Look,
        monitor: &Monitor,
    ) -> Result<FoundVersion> {
        let (catalogue, peer) = self.find_catalogue(&wanted.key, look, monitor).await?;
        let refs = refs_of(&catalogue);
        let found =
            find_version(&refs, wanted).and_then(|(number, _)| Some((number, catalogue.versions.get(&number)?)));
        let found = found.map(|(number, version)| (number, version.clone()));
        let Some((number, version)) = found else {
            // What is known here of the key may be old.
            return Err(match self.connected().await? {
                0 => Error::NoPeers { wanted: wanted.to_string() },
                _ => unknown_version(wanted, &refs, format!("key {}", wanted.key)),
            });
        };
        let publisher = peer_of(&version.peer.unwrap_or(peer));
        Ok(FoundVersion { number, version, publisher })
    }

    /// A document by its body: from here, else from its holders, or from whoever published it; verified.
    pub(super) async fn document(&self, body: Body, publisher: Option<PeerId>, monitor: &Monitor) -> Result<Vec<u8>> {
        let terms = LeaseTerms { manifest: body.hash, owner: self.owner, expires_unix_ms: self.lease_end() };
        let pieces = match body.pieces {
            None => vec![ChunkRef { hash: body.hash, len: body.len as u32 }],
            Some(list) => {
                let count = body.len.div_ceil(limits::CHUNK_BYTES as u64);
                let list = ChunkRef { hash: list, len: (count * Hash::LEN as u64) as u32 };
                let list = self.plain(&[list], terms, publisher, monitor).await?;
                let hashes = list.chunks_exact(Hash::LEN).filter_map(Hash::from_slice).enumerate();
                let len = |index: usize| {
                    (body.len - index as u64 * limits::CHUNK_BYTES as u64).min(limits::CHUNK_BYTES as u64) as u32
                };
                hashes.map(|(index, hash)| ChunkRef { hash, len: len(index) }).collect()
            }
        };
        let bytes = self.plain(&pieces, terms, publisher, monitor).await?;
        if body.pieces.is_none() {
            // A chunk of that hash, and verified as such.
            return Ok(bytes);
        }
        match over(&bytes, Hash::of) == body.hash {
            true => Ok(bytes),
            false => Err(malformed("document", &body.hash, "its pieces do not come to its hash")),
        }
    }

    /// The plain bytes of chunks one after another. They are read and done with: to keep them would cost a sync and bring nobody anything.
    async fn plain(
        &self,
        chunks: &[ChunkRef],
        terms: LeaseTerms,
        publisher: Option<PeerId>,
        monitor: &Monitor,
    ) -> Result<Vec<u8>> {
        let (store, list) = (self.store.clone(), chunks.to_vec());
        let read = move || store.read_document(&list);
        // In a small network most of what is named is here.
        if let Some(bytes) = blocking(read.clone()).await? {
            return Ok(bytes);
        }
        let missing: Vec<Missing> = chunks.iter().map(|chunk| Missing::alone(*chunk, home_of(&chunk.hash))).collect();
        let store = self.store.clone();
        let intake = blocking(move || Ok(Arc::new(store.intake(terms)?))).await?;
        let brought = self.bring(missing, publisher, Arc::clone(&intake), monitor).await;
        brought.map_err(|error| match error {
            Error::Unavailable { out_of_reach, chunks, first, .. } => {
                Error::Unavailable { what: DOCUMENT, out_of_reach, chunks, first }
            }
            error => error,
        })?;
        let bytes = blocking(read).await?;
        drop(intake);
        bytes.ok_or_else(|| Error::Network { what: "fetching", why: "what came is not to be found".to_owned() })
    }

    /// Has chunks brought that are not here, from the peers that hold them, or where those fail from `publisher`; all of them, or an error.
    /// What came is the caller's to [`persist`], even then.
    pub(super) async fn bring(
        &self,
        wanted: Vec<Missing>,
        publisher: Option<PeerId>,
        intake: Arc<StoreIntake>,
        monitor: &Monitor,
    ) -> Result<Fetched> {
        let held = Arc::clone(&intake);
        let missing = blocking(move || not_here(&held, wanted)).await?;
        self.bring_missing(missing, publisher, intake, monitor).await
    }

    /// As [`bring`](NodeInner::bring), for chunks of which it is known that they are [`not_here`].
    pub(super) async fn bring_missing(
        &self,
        mut missing: Vec<Missing>,
        publisher: Option<PeerId>,
        intake: Arc<StoreIntake>,
        monitor: &Monitor,
    ) -> Result<Fetched> {
        let mut total = Fetched::default();
        for attempt in 0..2 {
            if missing.is_empty() {
                break;
            }
            if attempt > 0 {
                // Nobody of those who should have them gave them: who should may have changed; or what came was a difference to a base that
                // cannot be read here.
                self.resolver.clear();
                missing.iter_mut().for_each(|missing| missing.bases.clear());
            }
            let (peers, list) = self.holders_of(&missing, publisher).await?;
            let fetched =
                fetch(&self.links, peers, list, self.config.replication_factor, intake.clone(), monitor).await?;
            total.chunks += fetched.chunks;
            total.deltas += fetched.deltas;
            total.out_of_reach = fetched.out_of_reach;
            for liar in fetched.liars {
                monitor.warn(&format!("peer {liar} sent wrong chunks and was dropped; others are asked in its place"));
            }
            let lost: HashSet<u32> = fetched.lost.into_iter().collect();
            let mut place = 0;
            missing.retain(|_| {
                place += 1;
                lost.contains(&(place - 1))
            });
        }
        match missing.first() {
            None => Ok(total),
            Some(first) => Err(Error::Unavailable {
                what: VERSION,
                out_of_reach: total.out_of_reach,
                chunks: missing.len(),
                first: first.hash.short(),
            }),
        }
    }

    async fn holders_of(
        &self,
        missing: &[Missing],
        publisher: Option<PeerId>,
    ) -> Result<(Vec<PeerAddresses>, Vec<Wanted>)> {
        let groups: BTreeSet<Group> = missing.iter().map(|missing| Group::of(missing.home)).collect();
        let holders: HashMap<Group, _> = self.resolver.holders(&groups).await?;
        let mut peers = PeerList::default();
        let own = self.handle.own();
        // Where it is, is looked up when it is needed.
        let publisher = publisher.filter(|publisher| *publisher != own);
        let publisher = publisher.map(|peer| PeerAddresses { peer, addresses: Vec::new() });
        let list = missing.iter().map(|missing| {
            let ranked = holders.get(&Group::of(missing.home)).map(Vec::as_slice).unwrap_or_default();
            let others = ranked.iter().filter(|peer| peer.peer != own);
            let mut holders: Vec<u32> = others.map(|peer| peers.place(peer)).collect();
            if let Some(publisher) = &publisher {
                // Sooner than those who would only have a chunk if one of the first had gone.
                let place = peers.place(publisher);
                if !holders.iter().take(self.config.replication_factor).any(|holder| *holder == place) {
                    holders.retain(|holder| *holder != place);
                    holders.insert(holders.len().min(self.config.replication_factor), place);
                }
            }
            let bases = missing.bases.iter().copied().take(limits::GET_BASES).collect();
            Wanted { hash: missing.hash, len: missing.len, bases, holders }
        });
        let list = list.collect();
        Ok((peers.peers, list))
    }
}

/// Has `intake` hold those of `wanted` that are here; answers with the others, each once. Fails where a chunk has another length here than
/// is wanted: lengths are what the publisher has said, and nothing proves them.
pub(super) fn not_here(intake: &StoreIntake, wanted: Vec<Missing>) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    let mut seen = HashSet::new();
    for wanted in wanted.into_iter().filter(|wanted| seen.insert(wanted.hash)) {
        match intake.held(&wanted.hash, wanted.home)? {
            None => missing.push(wanted),
            Some(found) if wanted.len.is_none_or(|len| found == len) => {}
            Some(_) => {
                let why = format!("a manifest gives chunk {} another length than it has", wanted.hash.short());
                return Err(Error::Network { what: PUBLISHED, why });
            }
        }
    }
    Ok(missing)
}

/// Makes durable what `intake` has taken, and its lease.
pub(super) async fn persist(intake: Arc<StoreIntake>) -> Result<()> {
    blocking(move || intake.commit()).await
}

/// As [`persist`], after a [`bring`](NodeInner::bring) whose own error counts first.
pub(super) async fn keep(brought: Result<Fetched>, intake: Arc<StoreIntake>) -> Result<Fetched> {
    let kept = persist(intake).await;
    let brought = brought?;
    kept.map(|()| brought)
}

/// A catalogue in the form in which the store keeps refs.
pub(super) fn refs_of(catalogue: &Catalogue) -> KeyRefs {
    let mut refs = KeyRefs::default();
    for (number, version) in &catalogue.versions {
        refs.versions.insert(*number, version.entry.clone());
        refs.labels.extend(version.labels.iter().map(|label| (label.clone(), *number)));
    }
    refs
}

fn malformed(what: &'static str, of: &dyn std::fmt::Display, why: &str) -> Error {
    Error::Network { what: "what a record points at", why: format!("the {what} of {of} is malformed: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, PutOptions, Store};

    #[test]
    fn what_is_here_under_another_length_is_refused_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (name, wanted) = ("m".parse().unwrap(), "m".parse().unwrap());
        let payload = Payload::bytes("payload.bin", &[7; 5000]);
        store.put(&name, payload, &PutOptions::default(), &Monitor::none()).unwrap();
        let chunk = store.version(&wanted).unwrap().manifest().chunks[0];
        let terms = LeaseTerms { manifest: Hash::default(), owner: [1; 32], expires_unix_ms: 0 };
        let intake = store.intake(terms).unwrap();
        let look = |len| not_here(&intake, vec![Missing::alone(ChunkRef { len, ..chunk }, [0; 4])]);
        assert!(look(chunk.len).unwrap().is_empty());
        assert!(matches!(look(chunk.len + 1), Err(Error::Network { what: PUBLISHED, .. })));
        assert!(store.verify(&wanted, &Monitor::none()).unwrap().ok);
    }
}
