//! The records that this node keeps for the network. It is where a record is validated: what is forged, replayed, expired, too large or
//! under another's key is refused with an error: the writer gets no answer, and does not count this peer. Its quorum is then an honest
//! one. (libp2p-kad 0.49 ends the writer's stream only when its ten seconds are up.)
//!
//! Keys cost nothing, so anybody can make as many records as there is room for. What has ended goes first; then, where there is no room, the
//! record farthest from this node's place gives way to a nearer one: a node keeps what readers look for near it, and whoever would crowd
//! that out has to find keys that lie nearer. The records of this node's own scope always have room. A row of the table goes with the record.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record as KadRecord, RecordKey};
use tokio::sync::broadcast;

use crate::hash::Hash;
use crate::identity::ScopeKey;
use crate::limits;
use crate::net::placement::Position;
use crate::net::record::{Record, Refusal, SignedRecord};
use crate::net::tables::NetTables;

/// Keys of records that an [`Arrivals`] may fall behind.
const ARRIVALS: usize = 1024;

/// Tells which records come to be kept here.
pub(crate) type Arrivals = broadcast::Receiver<Hash>;

/// Where records that come are told.
pub(crate) fn arrivals() -> broadcast::Sender<Hash> {
    broadcast::channel(ARRIVALS).0
}

/// Whose records have room, and near which place those of others lie that stay.
pub(crate) struct Own {
    scope: ScopeKey,
    place: Position,
}

impl Own {
    /// Of the node that is `peer` and publishes under `scope`.
    pub(crate) fn new(peer: &PeerId, scope: ScopeKey) -> Own {
        Own { scope, place: Position::of(&peer.to_bytes()) }
    }
}

pub(crate) struct KadRecords {
    tables: NetTables,
    own: Own,
    records: HashMap<Hash, (SignedRecord, KadRecord)>,
    /// The records of other scopes, by how far they are from this node's place.
    by_distance: BTreeMap<[u8; 32], Hash>,
    /// All records, by when they end.
    by_end: BTreeSet<(u64, Hash)>,
    /// Most records of other scopes.
    most: usize,
    clock: fn() -> u64,
    refused: Arc<AtomicU64>,
    /// The keys of records that come, for whoever waits for one.
    arrivals: broadcast::Sender<Hash>,
}

impl KadRecords {
    /// The records of `tables` that still hold. `clock` gives milliseconds since 1970, `refused` counts what was not taken, and `arrivals`
    /// is told what was.
    pub(crate) fn open(
        tables: NetTables,
        own: Own,
        clock: fn() -> u64,
        refused: Arc<AtomicU64>,
        arrivals: broadcast::Sender<Hash>,
    ) -> crate::error::Result<KadRecords> {
        let records = KadRecords {
            tables,
            own,
            records: HashMap::new(),
            by_distance: BTreeMap::new(),
            by_end: BTreeSet::new(),
            most: limits::RECORDS,
            clock,
            refused,
            arrivals,
        };
        records.load()
    }

    /// Takes in the rows of the table. Those that do not hold any more, or that there is no room for, are removed.
    fn load(mut self) -> crate::error::Result<KadRecords> {
        let (tables, now) = (self.tables.clone(), (self.clock)());
        let mut gone = Vec::new();
        tables.each_record(|key, bytes| {
            let signed = SignedRecord::check(bytes, key, now, None);
            let key = Hash::from_bytes(*key);
            match signed.and_then(|signed| Ok((self.room_for(&key, &signed)?, signed))) {
                Ok((farthest, signed)) => {
                    gone.extend(farthest);
                    self.insert(key, signed, now);
                }
                Err(_) => gone.push(key),
            }
        })?;
        tables.remove_records(&gone)?;
        Ok(self)
    }

    /// Whether what a peer answers to a question for `key` is a record that lies there and holds.
    pub(crate) fn vet(&self, key: &RecordKey, bytes: &[u8]) -> std::result::Result<(), Refusal> {
        SignedRecord::check(bytes, key.as_ref(), (self.clock)(), None).map(drop)
    }

    fn get_signed(&self, key: &RecordKey) -> Option<&(SignedRecord, KadRecord)> {
        self.records.get(&Hash::from_slice(key.as_ref())?)
    }

    fn distance(&self, key: &Hash) -> [u8; 32] {
        self.own.place.distance(&Position::of(key.as_bytes()))
    }

    /// Makes room for `signed`; the record that has given way to it, if one had to.
    fn room_for(&mut self, key: &Hash, signed: &SignedRecord) -> std::result::Result<Option<Hash>, Refusal> {
        let is_own = signed.record.publisher == self.own.scope;
        if is_own || self.records.contains_key(key) || self.by_distance.len() < self.most {
            return Ok(None);
        }
        let distance = self.distance(key);
        let farthest = self.by_distance.last_key_value().filter(|(farthest, _)| distance < **farthest);
        let farthest = farthest.map(|(_, farthest)| *farthest).ok_or(Refusal::Full)?;
        self.forget(&farthest);
        Ok(Some(farthest))
    }

    fn insert(&mut self, key: Hash, signed: SignedRecord, now: u64) {
        self.forget(&key);
        if signed.record.publisher != self.own.scope {
            self.by_distance.insert(self.distance(&key), key);
        }
        self.by_end.insert((signed.record.expires_unix_ms, key));
        let kept = kad_record(RecordKey::new(key.as_bytes()), &signed, now);
        self.records.insert(key, (signed, kept));
    }

    /// Drops a record from memory.
    fn forget(&mut self, key: &Hash) {
        if let Some((signed, _)) = self.records.remove(key) {
            self.by_distance.remove(&self.distance(key));
            self.by_end.remove(&(signed.record.expires_unix_ms, *key));
        }
    }

    /// Drops what has ended, from the table as well.
    fn purge(&mut self, now: u64) {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now).map(|(_, key)| *key);
        let ended: Vec<Hash> = ended.collect();
        ended.iter().for_each(|key| self.forget(key));
        self.remove_rows(&ended);
    }

    fn remove_rows(&self, gone: &[Hash]) {
        // Somebody else's transaction may be at its sync: the other tasks of this thread go on meanwhile.
        if !gone.is_empty()
            && let Err(error) = tokio::task::block_in_place(|| self.tables.remove_records(gone))
        {
            tracing::warn!("records that are gone may come back with the next start: {error}");
        }
    }

    /// Checks a record, and makes room for it: its key, itself, and what has given way to it.
    fn admit(
        &mut self,
        record: &KadRecord,
        now: u64,
    ) -> std::result::Result<(Hash, SignedRecord, Option<Hash>), Refusal> {
        let known = self.get_signed(&record.key).map(|(known, _)| known);
        let signed = SignedRecord::check(&record.value, record.key.as_ref(), now, known)?;
        let key = Record::key(&signed.record.publisher, &signed.record.name);
        let gone = self.room_for(&key, &signed)?;
        Ok((key, signed, gone))
    }
}

/// The record as the Kademlia wants it. Its time is the signed one, and who sent it counts for nothing.
fn kad_record(key: RecordKey, signed: &SignedRecord, now: u64) -> KadRecord {
    let left = Duration::from_millis(signed.record.expires_unix_ms.saturating_sub(now));
    KadRecord { key, value: signed.bytes().to_vec(), publisher: None, expires: Instant::now().checked_add(left) }
}

impl RecordStore for KadRecords {
    type RecordsIter<'a> = std::vec::IntoIter<Cow<'a, KadRecord>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, KadRecord>> {
        let (signed, record) = self.get_signed(key)?;
        (signed.record.expires_unix_ms > (self.clock)()).then_some(Cow::Borrowed(record))
    }

    fn put(&mut self, record: KadRecord) -> Result<()> {
        let now = (self.clock)();
        self.purge(now);
        let (key, signed, gone) = self.admit(&record, now).map_err(|refusal| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("a record is refused: {refusal}");
            match refusal {
                Refusal::Full => Error::MaxRecords,
                // The Kademlia knows no other word; any error makes the writer count this peer out.
                _ => Error::ValueTooLarge,
            }
        })?;
        // Somebody else's transaction may be at its sync: the other tasks of this thread go on meanwhile.
        let kept = tokio::task::block_in_place(|| self.tables.put_record(&key, signed.bytes(), gone.as_ref()));
        if let Err(error) = kept {
            tracing::warn!("a record is kept in memory only: {error}");
        }
        let is_new = self.records.get(&key).is_none_or(|(known, _)| known.bytes() != signed.bytes());
        self.insert(key, signed, now);
        if is_new {
            // Nobody may be waiting.
            let _ = self.arrivals.send(key);
        }
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(key) = Hash::from_slice(key.as_ref()) {
            self.forget(&key);
            self.remove_rows(&[key]);
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        let now = (self.clock)();
        let live = self.records.values().filter(|(signed, _)| signed.record.expires_unix_ms > now);
        live.map(|(_, record)| Cow::Borrowed(record)).collect::<Vec<_>>().into_iter()
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<()> {
        // Placement says who has what; nobody is asked to keep such.
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::net::record::{Body, CataloguePlace};

    fn named(of: &Identity, name: &str, seq: u64, expires_unix_ms: u64) -> KadRecord {
        let body = Body { hash: Hash::of(b"manifest"), len: 1000, pieces: None };
        let (publisher, name) = (of.scope(), name.to_owned());
        let key = Record::key(&publisher, &name);
        let (manifest, catalogue) = (body, CataloguePlace::Chunks(body));
        let signed =
            Record { publisher, name, seq, version: 1, manifest, catalogue, expires_unix_ms, peer: [7; 32] }.sign(of);
        KadRecord {
            key: RecordKey::new(key.as_bytes()),
            value: signed.bytes().to_vec(),
            publisher: None,
            expires: None,
        }
    }

    fn record(of: &Identity, seq: u64) -> KadRecord {
        named(of, "gradient/run/1", seq, 5000)
    }

    /// Records of the node that is `peer` and publishes under `scope`, at most `most` of others'.
    fn open(tables: &NetTables, peer: PeerId, scope: ScopeKey, most: usize, clock: fn() -> u64) -> KadRecords {
        let records =
            KadRecords::open(NetTables::open(None).unwrap(), Own::new(&peer, scope), clock, Arc::default(), arrivals());
        KadRecords { tables: tables.clone(), most, ..records.unwrap() }.load().unwrap()
    }

    fn rows(tables: &NetTables) -> Vec<Hash> {
        let mut keys = Vec::new();
        tables.each_record(|key, _| keys.push(Hash::from_bytes(*key))).unwrap();
        keys
    }

    /// The keys that are kept, in memory and in the table.
    fn kept(records: &KadRecords) -> Vec<Hash> {
        let mut keys: Vec<Hash> = records.records.keys().copied().collect();
        keys.sort_unstable();
        assert_eq!(keys, rows(&records.tables));
        assert_eq!(records.by_end.len(), keys.len());
        keys
    }

    #[test]
    fn where_there_is_no_room_the_nearest_stay_and_so_does_what_is_ones_own() {
        let (own, stranger) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (peer, tables) = (PeerId::random(), NetTables::open(None).unwrap());
        let mut records = open(&tables, peer, own.scope(), 8, || 1000);
        let all: Vec<KadRecord> = (0..32).map(|n| named(&stranger, &format!("k/{n}"), 1, 5000)).collect();
        let refused = all.iter().filter(|record| records.put((*record).clone()).is_err()).count();
        let place = Position::of(&peer.to_bytes());
        let mut near: Vec<Hash> = all.iter().map(|record| Hash::from_slice(record.key.as_ref()).unwrap()).collect();
        near.sort_by_key(|key| place.distance(&Position::of(key.as_bytes())));
        near.truncate(8);
        near.sort_unstable();
        assert_eq!(kept(&records), near);
        assert_eq!(records.refused.load(Ordering::Relaxed), refused as u64);
        // One that is there takes nobody's place.
        let again = all.iter().find(|record| near[0].as_bytes() == record.key.as_ref()).unwrap();
        records.put(again.clone()).unwrap();
        for n in 0..4 {
            records.put(named(&own, &format!("k/{n}"), 1, 5000)).unwrap();
        }
        assert_eq!(kept(&records).len(), 12);
        assert!(near.iter().all(|key| records.records.contains_key(key)));
        // With less room at the next start, the farthest of others' go.
        let records = open(&tables, peer, own.scope(), 3, || 1000);
        assert_eq!(kept(&records).len(), 7);
        assert_eq!(records.records.values().filter(|(signed, _)| signed.record.publisher == own.scope()).count(), 4);
    }

    #[test]
    fn what_has_ended_is_gone_from_the_table_too() {
        let (own, stranger) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (peer, tables) = (PeerId::random(), NetTables::open(None).unwrap());
        let mut records = open(&tables, peer, own.scope(), 4, || 1000);
        for n in 0..4 {
            records.put(named(&stranger, &format!("short/{n}"), 1, 2000)).unwrap();
        }
        records.put(named(&own, "short", 1, 2000)).unwrap();
        records.clock = || 2000;
        let long = named(&stranger, "long", 1, 5000);
        records.put(long.clone()).unwrap();
        assert_eq!(kept(&records), [Hash::from_slice(long.key.as_ref()).unwrap()]);
        // One that is renewed holds for as long as it says last.
        records.put(named(&stranger, "long", 2, 9000)).unwrap();
        records.clock = || 6000;
        records.put(named(&stranger, "short/0", 2, 7000)).unwrap();
        assert_eq!(kept(&records).len(), 2);
        // Rows that ended while the node was away do not count for the room that there is.
        let records = open(&tables, peer, own.scope(), 1, || 8000);
        assert_eq!(kept(&records), [Hash::from_slice(long.key.as_ref()).unwrap()]);
    }

    #[test]
    fn whoever_waits_is_told_what_came_and_not_what_was_refused() {
        let (worker, sender) = (Identity::generate().unwrap(), arrivals());
        let mut waiting = sender.subscribe();
        let own = Own::new(&PeerId::random(), worker.scope());
        let tables = NetTables::open(None).unwrap();
        let mut records = KadRecords::open(tables, own, || 1000, Arc::default(), sender).unwrap();
        records.put(record(&worker, 2)).unwrap();
        records.put(record(&worker, 2)).unwrap();
        records.put(record(&worker, 1)).unwrap_err();
        assert_eq!(waiting.try_recv().unwrap(), Record::key(&worker.scope(), "gradient/run/1"));
        assert!(waiting.try_recv().is_err());
    }
}
