//! Refs as the index keeps them: versions, labels and pins, each the latest record of its entity in the log.
//!
//! A label or pin counts only while its version exists. So the record that removes a version removes all that names it, in one
//! piece, whatever a crash leaves of those that follow; and since version numbers are never given out twice, nothing comes back.

use std::collections::BTreeMap;

use crate::chunk::Codec;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, Label};
use crate::refs::{Entity, PinEntry, RefChange, RefRecord, VersionEntry};
use crate::store::chunk_store::{ChunkStore, lock};
use crate::store::entry::RefEntry;
use crate::store::index::{Index, IndexChange};
use crate::store::pack::{RECORD_HEADER_BYTES, Record, RecordKind, pack_name, parse_record};
use crate::store::salvage::is_unreadable;

const VERSION: u8 = b'v';
const LABEL: u8 = b'l';
const PIN: u8 = b'p';

/// The index key of an entity: its kind, the key, a zero byte, then the number (big-endian, so that versions sort) or label.
pub(super) fn entity_key(entity: &Entity) -> Vec<u8> {
    match entity {
        Entity::Version { key, number } => [&key_prefix(VERSION, key)[..], &number.to_be_bytes()].concat(),
        Entity::Label { key, label } => [&key_prefix(LABEL, key)[..], label.as_str().as_bytes()].concat(),
        Entity::Pin { key, number } => [&key_prefix(PIN, key)[..], &number.to_be_bytes()].concat(),
    }
}

fn key_prefix(kind: u8, key: &Key) -> Vec<u8> {
    [&[kind], key.as_str().as_bytes(), &[0]].concat()
}

pub(super) fn decode_ref(index: &Index, entry: &RefEntry) -> Result<RefRecord> {
    RefRecord::decode(&entry.record).map_err(|why| Error::Damaged {
        what: "index",
        place: index.describe(),
        why: format!("a ref cannot be read: {why}"),
    })
}

/// All that is known of one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyRefs {
    /// Versions by number.
    pub versions: BTreeMap<u64, VersionEntry>,
    /// Labels, and the version that each names.
    pub labels: BTreeMap<Label, u64>,
    /// Pins by version.
    pub pins: BTreeMap<u64, PinEntry>,
    /// The highest version number that was ever given out, removed versions included.
    pub last_number: u64,
}

impl ChunkStore {
    /// The refs of `key`; empty if there are none.
    pub fn refs(&self, key: &Key) -> Result<KeyRefs> {
        let mut refs = KeyRefs::default();
        for kind in [VERSION, LABEL, PIN] {
            self.visit_refs(&key_prefix(kind, key), |record| refs.take(record.change))?;
        }
        refs.settle();
        Ok(refs)
    }

    /// The refs of every key whose name starts with `prefix`, in order of name. Keys without versions are left out.
    pub fn all_refs(&self, prefix: &str) -> Result<BTreeMap<Key, KeyRefs>> {
        let mut keys: BTreeMap<Key, KeyRefs> = BTreeMap::new();
        for kind in [VERSION, LABEL, PIN] {
            self.visit_refs(&[&[kind], prefix.as_bytes()].concat(), |record| {
                let key = record.entity().key().clone();
                keys.entry(key).or_default().take(record.change);
            })?;
        }
        keys.values_mut().for_each(KeyRefs::settle);
        keys.retain(|_, refs| !refs.versions.is_empty());
        Ok(keys)
    }

    /// Writes the refs anew whose record in the packs is damaged or gone, from what the index knows of them. Answers with those.
    pub fn mend_refs(&self) -> Result<Vec<Entity>> {
        // No collection moves them meanwhile.
        let _collecting = lock(&self.inner.collecting);
        self.checkpoint()?;
        let mut change = IndexChange::default();
        let mut mended = Vec::new();
        for (key, entry) in self.inner.index.refs(&[])? {
            if !self.holds_ref(&entry)? {
                mended.push(decode_ref(&self.inner.index, &entry)?.entity());
                self.copy_ref(key, entry, &mut change)?;
            }
        }
        self.checkpoint_with(change)?;
        Ok(mended)
    }

    /// True if the record of `entry` lies where the index says.
    fn holds_ref(&self, entry: &RefEntry) -> Result<bool> {
        let (name, mut found) = (pack_name(entry.position.pack), vec![0; RECORD_HEADER_BYTES + entry.record.len()]);
        let read =
            self.pack(entry.position.pack).and_then(|pack| pack.read_at(entry.position.offset.into(), &mut found));
        match read {
            Ok(n) => Ok(n == found.len() && parse_record(&found).is_ok_and(|(_, payload)| payload == entry.record)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound || is_unreadable(&error) => Ok(false),
            Err(error) => Err(Error::io("read", self.inner.backend.describe(&name), error)),
        }
    }

    /// Appends the record of a ref again, unless it was replaced meanwhile: a copy of that would outlive what replaced it.
    pub(super) fn copy_ref(&self, key: Vec<u8>, entry: RefEntry, change: &mut IndexChange) -> Result<()> {
        let mut log = lock(&self.inner.log);
        let replaced = log.pending_refs.iter().any(|(there, _)| *there == key);
        let latest = self.inner.index.refs(&key)?.into_iter().find(|(there, _)| *there == key);
        if replaced || latest.is_none_or(|(_, latest)| latest.position != entry.position) {
            return Ok(());
        }
        let position = log.writer.append_small(&Record {
            kind: if entry.live { RecordKind::Ref } else { RecordKind::Removal },
            codec: Codec::Raw,
            depth: 0,
            base: None,
            plain_len: entry.record.len() as u32,
            hash: Hash::of(&entry.record),
            payload: &entry.record,
        })?;
        change.refs.push((key, RefEntry { position, ..entry }));
        Ok(())
    }

    fn visit_refs(&self, prefix: &[u8], mut visit: impl FnMut(RefRecord)) -> Result<()> {
        let records = self.with_sound_index(|index| {
            index.refs(prefix)?.iter().map(|(_, entry)| decode_ref(index, entry)).collect::<Result<Vec<_>>>()
        })?;
        records.into_iter().for_each(&mut visit);
        Ok(())
    }
}

impl KeyRefs {
    /// Drops what names a version that does not exist.
    fn settle(&mut self) {
        self.labels.retain(|_, number| self.versions.contains_key(number));
        self.pins.retain(|number, _| self.versions.contains_key(number));
    }

    fn take(&mut self, change: RefChange) {
        match change {
            RefChange::Version { number, entry, .. } => {
                self.last_number = self.last_number.max(number);
                self.versions.insert(number, entry);
            }
            RefChange::Label { label, number, .. } => {
                self.labels.insert(label, number);
            }
            RefChange::Pin { number, pin, .. } => {
                self.pins.insert(number, pin);
            }
            RefChange::Removal(Entity::Version { number, .. }) => self.last_number = self.last_number.max(number),
            RefChange::Removal(_) => {}
        }
    }
}
