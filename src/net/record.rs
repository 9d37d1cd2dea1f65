//! [`Record`]: the signed pointer under which a version, and the versions of a key, are found in the network.
//!
//! A record is deterministic CBOR with an ed25519 signature in front, at most [`limits::RECORD_BYTES`] of both. Its place in the Kademlia is
//! the BLAKE3 of publisher and name, so nobody can put it in another's place, and only the holder of the publisher's key can make it.
//! `manifests/network.cddl` is the norm. [`SignedRecord::check`] is what every peer that stores a record, and every reader, asks.

use crate::cbor::{DecodeError, Major, Reader, Writer};
use crate::hash::Hash;
use crate::identity::{Identity, ScopeKey};
use crate::limits;

/// What is refused of what another scope has published: an error that says so is its publisher's, and not this machine's.
pub(crate) const PUBLISHED: &str = "what was published";

/// The version of the record format.
const RECORD_VERSION: u64 = 1;

/// What is signed besides the record, so that no signature over something else is one over a record.
const SIGNATURE_CONTEXT: &[u8] = b"caskad record 1\0";

/// The context of the hash that is a record's key.
const KEY_CONTEXT: &str = "caskad 2026-11-27 record key 1";

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

/// A document that is kept as chunks: a manifest, a listing, or a catalogue that no record has room for. One of up to a chunk's length is one chunk. A longer one is cut
/// into pieces of that length, and one more chunk lists their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// BLAKE3 of the document.
    pub hash: Hash,
    /// Its bytes.
    pub len: u64,
    /// The chunk that lists the pieces of a long one.
    pub pieces: Option<Hash>,
}

/// Where the catalogue of a key's versions is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CataloguePlace {
    /// In the record itself, which has room for it: nobody has to place and to fetch it.
    Inline(Vec<u8>),
    /// In chunks.
    Chunks(Body),
}

/// What a publisher says about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose name it is.
    pub publisher: ScopeKey,
    /// The name of the key; empty for the listing of all of the publisher's keys.
    pub name: String,
    /// Which of several records holds: the one with the highest number.
    pub seq: u64,
    /// The number of the newest version.
    pub version: u64,
    /// The newest version's manifest; for a listing the listing.
    pub manifest: Body,
    /// The catalogue of the key's versions; for a listing the listing again.
    pub catalogue: CataloguePlace,
    /// When the record ends, in milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// The peer that published it, by its ed25519 key: whoever has what the record points at if nobody else does.
    pub peer: [u8; 32],
}

/// A record whose signature was checked, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    /// What it says.
    pub record: Record,
    bytes: Vec<u8>,
}

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is longer than records are.
    #[error("it has {0} bytes, the most is {max}", max = limits::RECORD_BYTES)]
    TooLarge(usize),
    /// It is no record.
    #[error("it is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// Its signature is not its publisher's.
    #[error("its signature is not its publisher's")]
    Forged,
    /// It lies under the key of another.
    #[error("it lies under a key that is not its own")]
    Foreign,
    /// Its time is up.
    #[error("its time is up")]
    Expired,
    /// It claims to hold for longer than any record does.
    #[error("it is to hold for longer than records do")]
    TooLong,
    /// There is a newer one, or another with the same number.
    #[error("a record with number {0} is known")]
    Replayed(u64),
    /// There is no room for more.
    #[error("there is no room for more records")]
    Full,
}

impl Record {
    /// Where the record of `name` by `publisher` lies in the Kademlia.
    pub fn key(publisher: &ScopeKey, name: &str) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(publisher.as_bytes());
        hasher.update(name.as_bytes());
        hasher.finalize().into()
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::<Vec<u8>>::default();
        writer.map(9);
        writer.uint(0);
        writer.uint(RECORD_VERSION);
        writer.uint(1);
        writer.bytes(self.publisher.as_bytes());
        writer.uint(2);
        writer.text(&self.name);
        for (field, value) in [(3, self.seq), (4, self.version)] {
            writer.uint(field);
            writer.uint(value);
        }
        writer.uint(5);
        encode_body(&mut writer, &self.manifest);
        writer.uint(6);
        match &self.catalogue {
            CataloguePlace::Inline(bytes) => writer.bytes(bytes),
            CataloguePlace::Chunks(body) => encode_body(&mut writer, body),
        }
        writer.uint(7);
        writer.uint(self.expires_unix_ms);
        writer.uint(8);
        writer.bytes(&self.peer);
        writer.0
    }

    fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        let mut reader = Reader::new(bytes, limits::RECORD_BYTES)?;
        let reader = &mut reader;
        let mut fields = reader.fields("record")?;
        fields.version(reader, RECORD_VERSION)?;
        let (mut publisher, mut name, mut manifest, mut catalogue, mut peer) = (None, None, None, None, None);
        let mut numbers = [None; 3];
        while let Some(field) = fields.next(reader)? {
            match field {
                1 => publisher = Some(ScopeKey::from_bytes(reader.byte_array("publisher")?)),
                2 => name = Some(decode_name(reader)?),
                3 => numbers[0] = Some(reader.uint("sequence number")?),
                4 => numbers[1] = Some(reader.uint("version number")?),
                5 => manifest = Some(decode_body(reader)?),
                6 => catalogue = Some(decode_catalogue_place(reader)?),
                7 => numbers[2] = Some(reader.uint("expiry")?),
                8 => peer = Some(reader.byte_array("peer")?),
                other => return fields.unknown(reader, other),
            }
        }
        reader.finish("record")?;
        Ok(Record {
            publisher: fields.required(reader, publisher, "publisher")?,
            name: fields.required(reader, name, "name")?,
            seq: fields.required(reader, numbers[0], "sequence number")?,
            version: fields.required(reader, numbers[1], "version number")?,
            manifest: fields.required(reader, manifest, "manifest")?,
            catalogue: fields.required(reader, catalogue, "catalogue")?,
            expires_unix_ms: fields.required(reader, numbers[2], "expiry")?,
            peer: fields.required(reader, peer, "peer")?,
        })
    }

    /// Bytes of a catalogue that the record has room for, whatever its number and its end will be.
    pub fn room(&self) -> usize {
        let catalogue = CataloguePlace::Inline(Vec::new());
        let longest = Record { seq: u64::MAX, expires_unix_ms: u64::MAX, catalogue, ..self.clone() };
        // How long the catalogue is takes up to two bytes more than of an empty one.
        limits::RECORD_BYTES.saturating_sub(SIGNATURE_BYTES + longest.encode().len() + 2)
    }

    /// Signs the record, with the key of its publisher.
    pub fn sign(self, identity: &Identity) -> SignedRecord {
        let record = Record { publisher: identity.scope(), ..self };
        let encoded = record.encode();
        let signature = identity.sign(&[SIGNATURE_CONTEXT, &encoded].concat());
        SignedRecord { record, bytes: [&signature[..], &encoded].concat() }
    }
}

/// A key's name without a scope, or nothing.
fn decode_name(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let name = reader.text("name", limits::KEY_BYTES)?;
    let sound = name.is_empty() || (!name.starts_with('@') && name.parse::<crate::key::Key>().is_ok());
    if sound { Ok(name.to_owned()) } else { Err(reader.malformed("name", "it is no name of a key")) }
}

fn decode_catalogue_place(reader: &mut Reader<'_>) -> Result<CataloguePlace, DecodeError> {
    Ok(match reader.peek("catalogue")? {
        Major::Bytes => CataloguePlace::Inline(reader.bytes("catalogue", limits::RECORD_BYTES)?.to_vec()),
        _ => CataloguePlace::Chunks(decode_body(reader)?),
    })
}

pub(super) fn encode_body(writer: &mut Writer<Vec<u8>>, body: &Body) {
    writer.array(2 + usize::from(body.pieces.is_some()));
    writer.bytes(body.hash.as_bytes());
    writer.uint(body.len);
    if let Some(pieces) = body.pieces {
        writer.bytes(pieces.as_bytes());
    }
}

pub(super) fn decode_body(reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
    let items = reader.array("body", 3)?;
    if items < 2 {
        return Err(reader.malformed("body", "it is not [hash, length, pieces]"));
    }
    let (hash, len) = (reader.hash("body hash")?, reader.uint("body length")?);
    let pieces = if items == 3 { Some(reader.hash("pieces")?) } else { None };
    if len > limits::MANIFEST_BYTES as u64 || pieces.is_some() != (len > limits::CHUNK_BYTES as u64) {
        return Err(reader.malformed("body", "its length and its pieces do not go together"));
    }
    Ok(Body { hash, len, pieces })
}

impl SignedRecord {
    /// The bytes that travel.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads a record and checks its signature.
    pub fn decode(bytes: &[u8]) -> Result<SignedRecord, Refusal> {
        if bytes.len() > limits::RECORD_BYTES {
            return Err(Refusal::TooLarge(bytes.len()));
        }
        let what = "record signature";
        let (signature, encoded) =
            bytes.split_first_chunk::<SIGNATURE_BYTES>().ok_or(DecodeError::Incomplete { what, len: bytes.len() })?;
        let record = Record::decode(encoded)?;
        match record.publisher.verify(&[SIGNATURE_CONTEXT, encoded].concat(), signature) {
            true => Ok(SignedRecord { record, bytes: bytes.to_vec() }),
            false => Err(Refusal::Forged),
        }
    }

    /// Whether a record may take the place of `known` under `key` at `now_unix_ms`. The same bytes again may.
    pub fn check(
        bytes: &[u8],
        key: &[u8],
        now_unix_ms: u64,
        known: Option<&SignedRecord>,
    ) -> Result<SignedRecord, Refusal> {
        let signed = SignedRecord::decode(bytes)?;
        let record = &signed.record;
        if Record::key(&record.publisher, &record.name).as_bytes() != key {
            return Err(Refusal::Foreign);
        }
        if record.expires_unix_ms <= now_unix_ms {
            return Err(Refusal::Expired);
        }
        // Its writer's clock may be ahead.
        let longest = limits::LEASE_TTL + limits::CLOCK_SKEW;
        if record.expires_unix_ms - now_unix_ms > longest.as_millis() as u64 {
            return Err(Refusal::TooLong);
        }
        match known {
            Some(known) if known.record.seq > record.seq => Err(Refusal::Replayed(known.record.seq)),
            Some(known) if known.record.seq == record.seq && known.bytes != signed.bytes => {
                Err(Refusal::Replayed(known.record.seq))
            }
            _ => Ok(signed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::generate().unwrap()
    }

    fn record(seq: u64) -> Record {
        let body = Body { hash: Hash::of(b"manifest"), len: 1000, pieces: None };
        let publisher = ScopeKey::from_bytes([0; 32]);
        Record {
            publisher,
            name: "team/model".into(),
            seq,
            version: 3,
            manifest: body,
            catalogue: CataloguePlace::Chunks(body),
            expires_unix_ms: 5000,
            peer: [7; 32],
        }
    }

    fn check(bytes: &[u8], of: &Identity, known: Option<&SignedRecord>) -> Result<SignedRecord, Refusal> {
        SignedRecord::check(bytes, Record::key(&of.scope(), "team/model").as_bytes(), 1000, known)
    }

    #[test]
    fn only_its_publisher_moves_a_name_and_only_forwards() {
        let (alice, mallory) = (identity(), identity());
        let first = record(1).sign(&alice);
        let second = record(2).sign(&alice);
        assert_eq!(check(first.bytes(), &alice, None), Ok(first.clone()));
        assert_eq!(check(first.bytes(), &alice, Some(&first)), Ok(first.clone()), "the same again is a refresh");
        assert_eq!(check(second.bytes(), &alice, Some(&first)), Ok(second.clone()));
        assert_eq!(check(first.bytes(), &alice, Some(&second)), Err(Refusal::Replayed(2)));
        let other = Record { version: 4, ..record(2) }.sign(&alice);
        assert_eq!(check(other.bytes(), &alice, Some(&second)), Err(Refusal::Replayed(2)));
        let own = record(9).sign(&mallory);
        assert_eq!(check(own.bytes(), &alice, None), Err(Refusal::Foreign));
        // Mallory's signature under Alice's name.
        let mut forged = own.bytes()[..64].to_vec();
        forged.extend(Record { publisher: alice.scope(), ..record(9) }.encode());
        assert_eq!(check(&forged, &alice, None), Err(Refusal::Forged));
        assert_eq!(check(&vec![0; 2000], &alice, None), Err(Refusal::TooLarge(2000)));
        assert!(matches!(check(&[0; 20], &alice, None), Err(Refusal::Malformed(_))));
        let old = Record { expires_unix_ms: 1000, ..record(1) }.sign(&alice);
        assert_eq!(check(old.bytes(), &alice, None), Err(Refusal::Expired));
        let longest = 1000 + (limits::LEASE_TTL + Duration::from_secs(3600)).as_millis() as u64;
        let from_ahead = Record { expires_unix_ms: longest, ..record(1) }.sign(&alice);
        assert_eq!(check(from_ahead.bytes(), &alice, None), Ok(from_ahead.clone()), "by a clock an hour ahead");
        let too_long = Record { expires_unix_ms: longest + 1, ..record(1) }.sign(&alice);
        assert_eq!(check(too_long.bytes(), &alice, None), Err(Refusal::TooLong));
        let eternal = Record { expires_unix_ms: u64::MAX, ..record(1) }.sign(&alice);
        assert_eq!(check(eternal.bytes(), &alice, None), Err(Refusal::TooLong));
    }

    #[test]
    fn the_longest_record_fits() {
        let body = Body { hash: Hash::of(b"x"), len: limits::MANIFEST_BYTES as u64, pieces: Some(Hash::of(b"y")) };
        let name = "n".repeat(limits::KEY_BYTES);
        let (seq, version, expires_unix_ms) = (u64::MAX, u64::MAX, u64::MAX);
        let (publisher, peer) = (ScopeKey::from_bytes([0; 32]), [0; 32]);
        let catalogue = CataloguePlace::Chunks(body);
        let longest = Record { publisher, name, seq, version, manifest: body, catalogue, expires_unix_ms, peer };
        let signed = longest.sign(&identity());
        assert!(signed.bytes().len() <= limits::RECORD_BYTES, "{}", signed.bytes().len());
        assert_eq!(SignedRecord::decode(signed.bytes()), Ok(signed));
    }

    #[test]
    fn a_catalogue_is_in_the_record_where_that_has_room() {
        let with = |bytes: usize| Record { catalogue: CataloguePlace::Inline(vec![7; bytes]), ..record(1) };
        let most = record(1).room();
        assert!((700..900).contains(&most), "{most}");
        let longest = Record { seq: u64::MAX, expires_unix_ms: u64::MAX, ..with(most) }.sign(&identity());
        assert_eq!(longest.bytes().len(), limits::RECORD_BYTES);
        assert_eq!(SignedRecord::decode(longest.bytes()), Ok(longest));
        let beyond = with(limits::RECORD_BYTES).sign(&identity());
        assert!(matches!(SignedRecord::decode(beyond.bytes()), Err(Refusal::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_never_accepted(at in 0_usize..300, flip in 1_u8..=255) {
            let signed = record(1).sign(&identity());
            let mut bytes = signed.bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(SignedRecord::decode(&bytes).is_err());
        }

        #[test]
        fn whatever_comes_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            prop_assert!(SignedRecord::decode(&bytes).is_err());
        }
    }
}
