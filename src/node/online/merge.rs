//! What several machines publish under one scope: each has its own versions and keys, and carries those of the others on.

use crate::error::{Error, Result};
use crate::key::Key;
use crate::net::catalogue::{Catalogue, CataloguedVersion, ListedKey, Listing};
use crate::node::online::node::NodeInner;

/// The versions of a key that this machine and others that share its scope have published. `theirs` come from the record of `peer`; those that
/// are `own` there are as they are here now.
pub(super) fn merge_versions(
    key: &Key,
    here: &Catalogue,
    theirs: Catalogue,
    peer: [u8; 32],
    own: [u8; 32],
) -> Result<Catalogue> {
    let mut merged = here.clone();
    let now = NodeInner::now();
    for (number, version) in theirs.versions {
        let peer = version.peer.unwrap_or(peer);
        match here.versions.get(&number) {
            _ if peer == own || version.entry.expires_unix_ms.is_some_and(|end| end <= now) => {}
            None => drop(merged.versions.insert(number, CataloguedVersion { peer: Some(peer), ..version })),
            Some(here) if here.manifest == version.manifest => {}
            Some(_) => {
                return Err(Error::Network {
                    what: "the record",
                    why: format!(
                        "{key}@{number} is another version on a machine that shares this scope, so this one stays here and nothing of {key} is published; \
                         put it under another key and remove it here"
                    ),
                });
            }
        }
    }
    Ok(merged)
}

/// As [`merge_versions`], for the keys of the scope. A key that both have is listed as it is here.
pub(super) fn merge_keys(here: &Listing, theirs: Listing, peer: [u8; 32], own: [u8; 32]) -> Listing {
    let mut merged = here.clone();
    for (key, listed) in theirs.keys {
        let peer = listed.peer.unwrap_or(peer);
        if peer != own {
            merged.keys.entry(key).or_insert(ListedKey { peer: Some(peer), ..listed });
        }
    }
    merged
}
