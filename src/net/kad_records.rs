//! kad records
use std::borrow::Cow;
use libp2p::kad::store::{MemoryStore, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::PeerId;
pub(crate) struct KadRecords(pub(crate) MemoryStore);
impl RecordStore for KadRecords {
    type RecordsIter<'a> = <MemoryStore as RecordStore>::RecordsIter<'a>;
    type ProvidedIter<'a> = <MemoryStore as RecordStore>::ProvidedIter<'a>;
    fn get(&self, k: &RecordKey) -> Option<Cow<'_, Record>> { self.0.get(k) }
    fn put(&mut self, r: Record) -> Result<()> { self.0.put(r) }
    fn remove(&mut self, k: &RecordKey) { self.0.remove(k) }
    fn records(&self) -> Self::RecordsIter<'_> { self.0.records() }
    fn add_provider(&mut self, r: ProviderRecord) -> Result<()> { self.0.add_provider(r) }
    fn providers(&self, k: &RecordKey) -> Vec<ProviderRecord> { self.0.providers(k) }
    fn provided(&self) -> Self::ProvidedIter<'_> { self.0.provided() }
    fn remove_provider(&mut self, k: &RecordKey, p: &PeerId) { self.0.remove_provider(k, p) }
}
