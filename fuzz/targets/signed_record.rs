//! A signed record, a catalogue or a listing: refused, or the one encoding of what it says.
#![no_main]

use caskad::net::catalogue::{Catalogue, Listing};
use caskad::net::record::SignedRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = SignedRecord::decode(bytes) {
        assert_eq!(signed.bytes(), bytes);
    }
    if let Ok(catalogue) = Catalogue::decode(bytes) {
        assert_eq!(catalogue.encode(), bytes);
    }
    if let Ok(listing) = Listing::decode(bytes) {
        assert_eq!(listing.encode(), bytes);
    }
});
