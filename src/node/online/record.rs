//! The record of a name: made of what is here and of what other machines of the scope have published under it, numbered, signed, and put
//! where it belongs. It counts when a majority of those peers has taken it; unless all of them have, it is read once more.

use libp2p::kad;

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::Key;
use crate::limits;
use crate::net::catalogue::{Catalogue, Listing};
use crate::net::record::{Body, CataloguePlace, Record, SignedRecord};
use crate::net::tables::Published;
use crate::node::online::find::Look;
use crate::node::online::merge::{merge_keys, merge_versions};
use crate::node::online::node::NodeInner;
use crate::node::online::place::Placed;
use crate::node::online::publish::{Errand, lock};
use crate::node::online::tasks::blocking;

/// How often a record is put that others who share the scope's key come before.
const TURNS: u32 = 3;

/// What a record tells of.
#[derive(Clone, Copy)]
pub(super) enum Named<'h> {
    Versions(&'h Key, &'h Catalogue),
    Keys(&'h Listing),
}

/// What people call what a record names.
pub(super) fn named(name: &str) -> String {
    if name.is_empty() { "the listing".to_owned() } else { format!("the catalogue of {name}") }
}

impl NodeInner {
    /// The record of a key that has these versions, or none any more. The catalogue is placed, unless it fits in.
    pub(super) async fn record_of(
        &self,
        key: &Key,
        catalogue: &Catalogue,
        errand: Errand<'_>,
    ) -> Result<(Record, Placed)> {
        let encoded = catalogue.encode();
        let nothing = Body { hash: Hash::of(&encoded), len: encoded.len() as u64, pieces: None };
        let newest = catalogue.versions.last_key_value();
        let (version, manifest) = newest.map_or((0, nothing), |(number, newest)| (*number, newest.manifest));
        let ends = catalogue.versions.values().map(|version| version.entry.expires_unix_ms.unwrap_or(u64::MAX));
        let mut record = Record {
            publisher: self.identity.scope(),
            name: key.as_str().to_owned(),
            seq: 0,
            version,
            manifest,
            catalogue: CataloguePlace::Inline(Vec::new()),
            expires_unix_ms: ends.max().unwrap_or(u64::MAX),
            peer: self.owner,
        };
        if encoded.len() <= record.room() {
            record.catalogue = CataloguePlace::Inline(encoded);
            return Ok((record, self.nothing_placed()));
        }
        let (body, placed) = self.place_document(encoded, errand).await?;
        record.catalogue = CataloguePlace::Chunks(body);
        Ok((record, placed))
    }

    /// The record of a listing, which is placed.
    pub(super) async fn record_of_listing(&self, listing: &Listing, errand: Errand<'_>) -> Result<(Record, Placed)> {
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
    pub(super) async fn publish_record(
        &self,
        mut record: Record,
        here: Named<'_>,
        errand: Errand<'_>,
    ) -> Result<Placed> {
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
                    self.check_quorum(&named(&name), &documents)?;
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
            let name = if name.is_empty() { named(&name) } else { format!("{name}@{version}") };
            return Err(Error::TooFewPeers { name, found, needed, short: 1, chunks: 1, peers: asked, full: 0 });
        }
        if found == asked {
            // Each has it, and refuses what is older from now on: there is nothing to be found out by reading it.
            return self.note_seen(key, seq).await;
        }
        match self.find_record(&signed.record.publisher, &name, Look::Newest).await? {
            // A newer one is another machine's, and may not tell of what is here.
            Some(found) if found.bytes() == signed.bytes() => Ok(()),
            _ => Err(Error::Network {
                what: "the record",
                why: format!("the record of {name:?} cannot be read back; the node tries again"),
            }),
        }
    }

    pub(super) fn note_published(&self, name: &str, refs: Hash, complete: bool) -> Result<()> {
        match self.tables.published(name)? {
            Some(published) => self.tables.note_published(name, Published { refs, complete, ..published }),
            None => Ok(()),
        }
    }
}
