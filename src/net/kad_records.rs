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

use crate::limits;
use crate::net::record::{Refusal, SignedRecord};
use crate::net::tables::NetTables;

pub(crate) struct KadRecords {
    tables: NetTables,
    records: HashMap<RecordKey, (SignedRecord, KadRecord)>,
    clock: fn() -> u64,
    refused: Arc<AtomicU64>,
}

impl KadRecords {
    /// The records of `tables` that still hold. `clock` gives milliseconds since 1970, `refused` counts what was not taken.
    pub(crate) fn open(
        tables: NetTables,
        clock: fn() -> u64,
        refused: Arc<AtomicU64>,
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
        Ok(KadRecords { tables, records, clock, refused })
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
            && let Err(error) = self.tables.put_record(key, signed.bytes())
        {
            tracing::warn!("a record is kept in memory only: {error}");
        }
        let kept = kad_record(record.key.clone(), &signed, (self.clock)());
        self.records.insert(record.key, (signed, kept));
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.records.remove(key);
        if let Ok(key) = <&[u8; 32]>::try_from(key.as_ref())
            && let Err(error) = self.tables.remove_record(key)
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
