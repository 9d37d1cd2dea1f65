//! [`Catalogue`], the versions of a key, and [`Listing`], the keys of a scope: what a record points at besides the newest manifest.
//!
//! Both are deterministic CBOR, found through a signed record and proved by its hash. What they hold is what `log` and `ls` tell.

use std::collections::BTreeMap;

use crate::cbor::{DecodeError, Reader, Writer};
use crate::key::{Key, Label};
use crate::limits;
use crate::net::record::{Body, decode_body, encode_body};
use crate::refs::{VersionEntry, decode_version, encode_version};

const VERSION: u64 = 1;

/// A version of a key, as its publisher has it.
#[derive(Debug, Clone, PartialEq)]
pub struct CataloguedVersion {
    /// Where its manifest is.
    pub manifest: Body,
    /// What `log` tells of it.
    pub entry: VersionEntry,
    /// Its labels, sorted.
    pub labels: Vec<Label>,
    /// The peer that published it, by its ed25519 key, where that is another than the record's.
    pub peer: Option<[u8; 32]>,
}

/// The versions of a key by number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    /// Each with its number.
    pub versions: BTreeMap<u64, CataloguedVersion>,
}

/// A key of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    /// How many versions it has.
    pub versions: u64,
    /// The number of the newest.
    pub latest: u64,
    /// Payload bytes of that.
    pub bytes: u64,
    /// When that was stored, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The peer that published it, by its ed25519 key, where that is another than the record's.
    pub peer: Option<[u8; 32]>,
}

/// The keys of a scope by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Each with its name.
    pub keys: BTreeMap<Key, ListedKey>,
}

impl Catalogue {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::<Vec<u8>>::default();
        writer.map(2);
        writer.uint(0);
        writer.uint(VERSION);
        writer.uint(1);
        writer.array(self.versions.len());
        for (number, version) in &self.versions {
            writer.array(4 + usize::from(version.peer.is_some()));
            writer.uint(*number);
            encode_body(&mut writer, &version.manifest);
            encode_version(&mut writer, &version.entry);
            writer.array(version.labels.len());
            version.labels.iter().for_each(|label| writer.text(label.as_str()));
            version.peer.iter().for_each(|peer| writer.bytes(peer));
        }
        writer.0
    }

    /// Reads what [`encode`](Catalogue::encode) wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Catalogue, DecodeError> {
        let mut reader = Reader::new(bytes, limits::CATALOGUE_BYTES)?;
        let reader = &mut reader;
        let mut versions = BTreeMap::new();
        let count = open(reader, "catalogue")?;
        for _ in 0..count {
            let items = reader.array("catalogued version", 5)?;
            if items < 4 {
                return Err(reader.malformed("catalogued version", "it is not [number, body, entry, labels, peer]"));
            }
            let number = reader.uint("version number")?;
            let manifest = decode_body(reader)?;
            let entry = decode_version(reader)?;
            if entry.manifest != manifest.hash || entry.manifest_bytes != manifest.len {
                return Err(reader.malformed("catalogued version", "its entry names another manifest"));
            }
            let mut labels: Vec<Label> = Vec::new();
            for _ in 0..reader.array("labels", limits::CATALOGUE_BYTES)? {
                let label = reader.parsed("label", limits::LABEL_BYTES)?;
                if labels.last().is_some_and(|last| *last >= label) {
                    return Err(reader.malformed("labels", "they are not sorted, each once"));
                }
                labels.push(label);
            }
            let peer = if items == 5 { Some(reader.byte_array("peer")?) } else { None };
            if versions.last_key_value().is_some_and(|(last, _)| *last >= number) {
                return Err(reader.malformed("catalogue", "its versions are not in order, each once"));
            }
            versions.insert(number, CataloguedVersion { manifest, entry, labels, peer });
        }
        reader.finish("catalogue")?;
        Ok(Catalogue { versions })
    }
}

impl Listing {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::<Vec<u8>>::default();
        writer.map(2);
        writer.uint(0);
        writer.uint(VERSION);
        writer.uint(1);
        writer.array(self.keys.len());
        for (key, listed) in &self.keys {
            writer.array(5 + usize::from(listed.peer.is_some()));
            writer.text(key.as_str());
            for number in [listed.versions, listed.latest, listed.bytes, listed.created_unix_ms] {
                writer.uint(number);
            }
            listed.peer.iter().for_each(|peer| writer.bytes(peer));
        }
        writer.0
    }

    /// Reads what [`encode`](Listing::encode) wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Listing, DecodeError> {
        let mut reader = Reader::new(bytes, limits::CATALOGUE_BYTES)?;
        let reader = &mut reader;
        let mut keys: BTreeMap<Key, ListedKey> = BTreeMap::new();
        let count = open(reader, "listing")?;
        for _ in 0..count {
            let items = reader.array("listed key", 6)?;
            if items < 5 {
                return Err(reader.malformed("listed key", "it is not [name, versions, latest, bytes, time, peer]"));
            }
            let key: Key = reader.parsed("key", limits::KEY_BYTES)?;
            let listed = ListedKey {
                versions: reader.uint("versions")?,
                latest: reader.uint("latest version")?,
                bytes: reader.uint("payload length")?,
                created_unix_ms: reader.uint("creation time")?,
                peer: if items == 6 { Some(reader.byte_array("peer")?) } else { None },
            };
            if key.scope().is_some() || keys.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(reader.malformed("listing", "its keys are not plain names in order, each once"));
            }
            keys.insert(key, listed);
        }
        reader.finish("listing")?;
        Ok(Listing { keys })
    }
}

/// Reads up to the items of a document, and says how many there are. Each takes a byte at least, so their number is bounded by the bytes.
fn open(reader: &mut Reader<'_>, what: &'static str) -> Result<usize, DecodeError> {
    let head = [reader.map(what, 2)? as u64, reader.uint(what)?, reader.uint("format version")?, reader.uint(what)?];
    if head != [2, 0, VERSION, 1] {
        return Err(reader.malformed(what, "it is not a format version that this caskad reads, and the items"));
    }
    reader.array(what, limits::CATALOGUE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::refs::Meta;

    fn version(number: u64) -> CataloguedVersion {
        let manifest = Body { hash: Hash::of(&number.to_le_bytes()), len: 644, pieces: None };
        let entry = VersionEntry {
            manifest: manifest.hash,
            manifest_bytes: 644,
            bytes: 1 << 33,
            stored_bytes: 5,
            chunks: 6,
            new_chunks: 7,
            created_unix_ms: 8,
            expires_unix_ms: Some(9),
            single: true,
            meta: Meta::default(),
        };
        CataloguedVersion {
            manifest,
            entry,
            labels: vec!["best".parse().unwrap(), "last".parse().unwrap()],
            peer: None,
        }
    }

    #[test]
    fn both_round_trip_and_take_no_other_order() {
        let anothers = CataloguedVersion { peer: Some([5; 32]), ..version(7) };
        let catalogue = Catalogue { versions: [(1, version(1)), (7, anothers)].into() };
        assert_eq!(Catalogue::decode(&catalogue.encode()), Ok(catalogue.clone()));
        let listed = ListedKey { versions: 2, latest: 7, bytes: 3, created_unix_ms: 4, peer: None };
        let anothers = ListedKey { peer: Some([5; 32]), ..listed.clone() };
        let listing = Listing { keys: [("a".parse().unwrap(), listed), ("b/c".parse().unwrap(), anothers)].into() };
        assert_eq!(Listing::decode(&listing.encode()), Ok(listing.clone()));
        for len in 0..catalogue.encode().len() {
            assert!(Catalogue::decode(&catalogue.encode()[..len]).is_err());
        }
        let swapped: Vec<u8> = listing.encode().iter().map(|byte| if *byte == b'a' { b'z' } else { *byte }).collect();
        assert!(Listing::decode(&swapped).is_err());
        // A map that announces more fields than there are.
        let mut announced = listing.encode();
        announced[0] = 0xa5;
        assert!(Listing::decode(&announced).is_err());
        assert_eq!(Listing::decode(&Listing::default().encode()), Ok(Listing::default()));
    }
}
