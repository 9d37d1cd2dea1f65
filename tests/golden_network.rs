//! Golden bytes of what travels: each frame of the exchange, a signed record, a catalogue and a listing. `manifests/network.txt` has a line for
//! each: its name and its bytes in hex. A change of one is a change of the protocol.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use caskad::chunk::{Codec, LeaseTerms, Parcel};
use caskad::net::catalogue::{Catalogue, CataloguedVersion, ListedKey, Listing};
use caskad::net::record::{Body, CataloguePlace, Record, SignedRecord};
use caskad::net::wire::{FRAME_HEADER_BYTES, Frame, PutStatus, Refused, decode_header};
use caskad::refs::{Meta, VersionEntry};
use caskad::{Hash, Identity, ScopeKey};
use proptest::prelude::*;

fn hash(name: &str) -> Hash {
    Hash::of(name.as_bytes())
}

fn frames() -> Vec<(&'static str, Frame)> {
    let terms = LeaseTerms { manifest: hash("manifest"), owner: [7; 32], expires_unix_ms: 1_800_000_000_000 };
    let alone = Parcel {
        hash: hash("alone"),
        home: [1, 2, 3, 4],
        plain_len: 5,
        codec: Codec::Raw,
        base: None,
        payload: b"alone".to_vec(),
    };
    let delta = Parcel {
        hash: hash("delta"),
        codec: Codec::Delta,
        base: Some(hash("alone")),
        payload: vec![9; 3],
        ..alone.clone()
    };
    vec![
        ("hello", Frame::Hello { version: 1, window: 64 }),
        ("refuse", Frame::Refuse(3, Refused::Full, "no room".to_owned())),
        ("have", Frame::Have(1, vec![hash("a"), hash("b")])),
        ("bits", Frame::Bits(1, vec![true, false, true, false, false, false, false, false, true])),
        ("begin", Frame::Begin(2, terms)),
        ("hold", Frame::Hold(3, 2, vec![(hash("a"), [1, 2, 3, 4])])),
        ("put", Frame::Put(4, 2, vec![alone.clone(), delta.clone()])),
        (
            "taken",
            Frame::Taken(4, vec![PutStatus::Stored, PutStatus::NeedsBase, PutStatus::Full, PutStatus::Elsewhere]),
        ),
        ("commit", Frame::Commit(5, 2)),
        ("done", Frame::Done(5)),
        ("get", Frame::Get(6, hash("delta"), vec![hash("alone")])),
        ("data", Frame::Data(6, delta)),
        ("miss", Frame::Miss(7)),
        ("renew", Frame::Renew(8, terms)),
        ("lease", Frame::Lease(8, Some((40, 1 << 33)))),
        ("no-lease", Frame::Lease(8, None)),
        ("release", Frame::Release(9, hash("manifest"), [7; 32])),
        ("list", Frame::List(10, 0xabc, Hash::default())),
        ("group", Frame::Group(10, hash("digest"), vec![hash("a")])),
    ]
}

fn identity() -> Identity {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, format!("caskad secret key 1: keep it to yourself\n{}\n", "5a".repeat(32))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Identity::load(&path).unwrap()
}

fn documents() -> Vec<(&'static str, Vec<u8>)> {
    let body = Body { hash: hash("manifest"), len: 644, pieces: None };
    let long = Body { hash: hash("long"), len: 3 << 20, pieces: Some(hash("pieces")) };
    let record = Record {
        publisher: ScopeKey::from_bytes([0; 32]),
        name: "team/model".to_owned(),
        seq: 12,
        version: 3,
        manifest: long,
        catalogue: CataloguePlace::Chunks(body),
        expires_unix_ms: 1_800_000_000_000,
        peer: [0x77; 32],
    };
    let entry = VersionEntry {
        manifest: body.hash,
        manifest_bytes: body.len,
        bytes: 1 << 33,
        stored_bytes: 1 << 31,
        chunks: 40_000,
        new_chunks: 9000,
        created_unix_ms: 1_767_225_600_000,
        expires_unix_ms: None,
        single: true,
        meta: Meta::default(),
    };
    let version = CataloguedVersion { manifest: body, entry, labels: vec!["best".parse().unwrap()], peer: None };
    let shared = CataloguedVersion { peer: Some([0x78; 32]), ..version.clone() };
    let shared = Catalogue { versions: [(3, version.clone()), (4, shared)].into() }.encode();
    let catalogue = Catalogue { versions: [(3, version)].into() }.encode();
    let whole = Record { manifest: body, catalogue: CataloguePlace::Inline(catalogue.clone()), ..record.clone() };
    let listed = ListedKey { versions: 3, latest: 3, bytes: 1 << 33, created_unix_ms: 1_767_225_600_000, peer: None };
    vec![
        ("record", record.sign(&identity()).bytes().to_vec()),
        ("record-with-catalogue", whole.sign(&identity()).bytes().to_vec()),
        ("catalogue", catalogue),
        ("catalogue-of-two-machines", shared),
        ("listing", Listing { keys: [("team/model".parse().unwrap(), listed.clone())].into() }.encode()),
        ("listing-of-two-machines", {
            let shared = ListedKey { peer: Some([0x78; 32]), ..listed.clone() };
            let keys = [("team/model".parse().unwrap(), listed), ("team/other".parse().unwrap(), shared)];
            Listing { keys: keys.into() }.encode()
        }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn decode(bytes: &[u8]) -> Result<Frame, String> {
    let header = *bytes.first_chunk::<FRAME_HEADER_BYTES>().ok_or("short")?;
    let (len, kind) = decode_header(header).map_err(|error| error.to_string())?;
    let fields = &bytes[FRAME_HEADER_BYTES..];
    if fields.len() != len {
        return Err("another length".to_owned());
    }
    Frame::decode(kind, fields).map_err(|error| error.to_string())
}

#[test]
fn frames_and_documents_have_their_golden_bytes() {
    let mut text = String::new();
    for (name, frame) in frames() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(decode(&bytes), Ok(frame), "{name}");
        writeln!(text, "frame-{name} {}", hex(&bytes)).unwrap();
    }
    for (name, bytes) in documents() {
        writeln!(text, "{name} {}", hex(&bytes)).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/network.txt");
    if std::env::var_os("CASKAD_REGENERATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "the bytes on the wire have changed");
    assert!(SignedRecord::decode(&documents()[0].1).is_ok());
}

#[test]
fn a_frame_that_is_cut_or_goes_on_is_refused() {
    for (name, frame) in frames() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let fields = &bytes[FRAME_HEADER_BYTES..];
        let kind = bytes[4];
        for len in 0..fields.len() {
            if let Ok(other) = Frame::decode(kind, &fields[..len]) {
                let mut again = Vec::new();
                other.encode(&mut again);
                assert_eq!(again[FRAME_HEADER_BYTES..], fields[..len], "{name}: a shorter frame is one of its own");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_refused_or_the_one_encoding_of_a_frame(kind in 0_u8..40, fields in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(frame) = Frame::decode(kind, &fields) {
            let mut again = Vec::new();
            frame.encode(&mut again);
            prop_assert_eq!(&again[FRAME_HEADER_BYTES..], &fields[..]);
        }
    }
}
