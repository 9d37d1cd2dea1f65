//! The records that this node keeps for the network. It is where a record is validated: what is forged, replayed, expired, too large or
//! under another's key is refused with an error: the writer gets no answer, and does not count this peer. Its quorum is then an honest
//! one. (libp2p-kad 0.49 ends the writer's stream only when its ten seconds are up.)

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record as KadRecord, RecordKey};
use tokio::sync::broadcast;

use crate::hash::Hash;
use crate::limits;
use crate::net::record::{Refusal, SignedRecord};
use crate::net::tables::NetTables;

/// Keys of records that an [`Arrivals`] may fall behind.
const ARRIVALS: usize = 1024;

/// Tells which records come to be kept here.
pub(crate) type Arrivals = broadcast::Receiver<Hash>;

/// Where records that come are told.
pub(crate) fn arrivals() -> broadcast::Sender<Hash> {
    broadcast::channel(ARRIVALS).0
}

pub(crate) struct KadRecords {
    tables: NetTables,
    records: HashMap<RecordKey, (SignedRecord, KadRecord)>,
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
        clock: fn() -> u64,
        refused: Arc<AtomicU64>,
        arrivals: broadcast::Sender<Hash>,
    ) -> crate::error::Result<KadRecords> {
        let mut records = HashMap::new();
        for (key, bytes) in tables.records()? {
            match SignedRecord::check(&bytes, &key, clock(), None) {
                Ok(signed) => {
                    let key = RecordKey::new(&key);
                    records.insert(key.clone(), (signed.clone(), kad_record(key, &signed, clock())));
                }
                Err(_) => tables.remove_record(&key)?,
            }
        }
        Ok(KadRecords { tables, records, clock, refused, arrivals })
    }

    fn check(&mut self, record: &KadRecord) -> std::result::Result<SignedRecord, Refusal> {
        let now = (self.clock)();
        let known =
            self.records.get(&record.key).map(|(known, _)| known).filter(|known| known.record.expires_unix_ms > now);
        let signed = SignedRecord::check(&record.value, record.key.as_ref(), now, known)?;
        if known.is_none() && self.records.len() >= limits::RECORDS {
            self.records.retain(|_, (signed, _)| signed.record.expires_unix_ms > now);
            if self.records.len() >= limits::RECORDS {
                return Err(Refusal::Full);
            }
        }
        Ok(signed)
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
        let (signed, record) = self.records.get(key)?;
        (signed.record.expires_unix_ms > (self.clock)()).then_some(Cow::Borrowed(record))
    }

    fn put(&mut self, record: KadRecord) -> Result<()> {
        let signed = self.check(&record).map_err(|refusal| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("a record is refused: {refusal}");
            match refusal {
                Refusal::Full => Error::MaxRecords,
                // The Kademlia knows no other word; any error makes the writer count this peer out.
                _ => Error::ValueTooLarge,
            }
        })?;
        if let Ok(key) = <&[u8; 32]>::try_from(record.key.as_ref())
            // Somebody else's transaction may be at its sync: the other tasks of this thread go on meanwhile.
            && let Err(error) = tokio::task::block_in_place(|| self.tables.put_record(key, signed.bytes()))
        {
            tracing::warn!("a record is kept in memory only: {error}");
        }
        let kept = kad_record(record.key.clone(), &signed, (self.clock)());
        let is_new = self.records.get(&record.key).is_none_or(|(known, _)| known.bytes() != signed.bytes());
        if let Some(key) = Hash::from_slice(record.key.as_ref()).filter(|_| is_new) {
            // Nobody may be waiting.
            let _ = self.arrivals.send(key);
        }
        self.records.insert(record.key, (signed, kept));
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.records.remove(key);
        if let Ok(key) = <&[u8; 32]>::try_from(key.as_ref())
            && let Err(error) = tokio::task::block_in_place(|| self.tables.remove_record(key))
        {
            tracing::warn!("a record that is gone may come back with the next start: {error}");
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
    use crate::net::record::{Body, CataloguePlace, Record};

    fn record(of: &Identity, seq: u64) -> KadRecord {
        let body = Body { hash: Hash::of(b"manifest"), len: 1000, pieces: None };
        let (publisher, name) = (of.scope(), "gradient/run/1".to_owned());
        let key = Record::key(&publisher, &name);
        let (manifest, catalogue) = (body, CataloguePlace::Chunks(body));
        let signed =
            Record { publisher, name, seq, version: 1, manifest, catalogue, expires_unix_ms: 5000, peer: [7; 32] }
                .sign(of);
        KadRecord {
            key: RecordKey::new(key.as_bytes()),
            value: signed.bytes().to_vec(),
            publisher: None,
            expires: None,
        }
    }

    #[test]
    fn whoever_waits_is_told_what_came_and_not_what_was_refused() {
        let (worker, sender) = (Identity::generate().unwrap(), arrivals());
        let mut waiting = sender.subscribe();
        let tables = NetTables::open(None).unwrap();
        let mut records = KadRecords::open(tables, || 1000, Arc::default(), sender).unwrap();
        records.put(record(&worker, 2)).unwrap();
        records.put(record(&worker, 2)).unwrap();
        records.put(record(&worker, 1)).unwrap_err();
        assert_eq!(waiting.try_recv().unwrap(), Record::key(&worker.scope(), "gradient/run/1"));
        assert!(waiting.try_recv().is_err());
    }
}
