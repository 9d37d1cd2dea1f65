//! The file of the leases: its tables and their keys, how it is made, and what its errors mean. [`Leases`](super::leases::Leases) says what
//! the rows are for.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, ReadableTable as _, Table, TableDefinition};

use crate::backend::sync_directory;
use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::net::placement::Group;
use crate::node::leases::{Lease, LeasedChunk};

pub(super) type LeaseRow = (u32, u64, u64, u64);

pub(super) const LEASES: TableDefinition<&[u8; 64], LeaseRow> = TableDefinition::new("leases");
pub(super) const HELD: TableDefinition<&[u8; 38], (u32, u32)> = TableDefinition::new("held");
pub(super) const STATE: TableDefinition<&str, u32> = TableDefinition::new("state");

pub(super) fn lease_key(manifest: &Hash, owner: &[u8; 32]) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(manifest.as_bytes());
    key[32..].copy_from_slice(owner);
    key
}

pub(super) fn held_key(group: u16, hash: &Hash, number: u32) -> [u8; 38] {
    let mut key = [0; 38];
    key[..2].copy_from_slice(&group.to_be_bytes());
    key[2..34].copy_from_slice(hash.as_bytes());
    key[34..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn parse_held(key: &[u8; 38]) -> (Hash, u32) {
    let mut hash = [0; 32];
    hash.copy_from_slice(&key[2..34]);
    (Hash::from_bytes(hash), u32::from_be_bytes([key[34], key[35], key[36], key[37]]))
}

/// The tables, in a transaction.
pub(super) struct Tables<'t> {
    pub(super) leases: Table<'t, &'static [u8; 64], LeaseRow>,
    pub(super) held: Table<'t, &'static [u8; 38], (u32, u32)>,
    pub(super) state: Table<'t, &'static str, u32>,
}

/// Puts `chunks` under the lease of `terms`, which was `before`.
pub(super) fn grant_in(
    tables: &mut Tables<'_>,
    before: Option<Lease>,
    terms: LeaseTerms,
    chunks: &[LeasedChunk],
) -> Result<Lease, redb::Error> {
    let mut lease = match before {
        Some(before) => before,
        None => {
            let number = tables.state.get("next")?.map_or(0, |next| next.value());
            tables.state.insert("next", number.wrapping_add(1))?;
            Lease { terms, chunks: 0, bytes: 0, number }
        }
    };
    lease.terms.expires_unix_ms = lease.terms.expires_unix_ms.max(terms.expires_unix_ms);
    for chunk in chunks {
        let row = held_key(Group::of(chunk.home).number(), &chunk.hash, lease.number);
        if tables.held.insert(&row, (u32::from_be_bytes(chunk.home), chunk.stored_len))?.is_none() {
            lease.chunks += 1;
            lease.bytes += u64::from(chunk.stored_len);
        }
    }
    tables.leases.insert(&lease.key(), (lease.number, lease.terms.expires_unix_ms, lease.chunks, lease.bytes))?;
    Ok(lease)
}

/// Makes the file with its tables under another name first: one that is there without them is damage, and no store that has no leases.
pub(super) fn create(directory: &Path, path: &Path) -> Result<()> {
    let temporary = directory.join("tmp").join("leases.redb");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("replace", temporary, error)),
        _ => {}
    }
    guarded(&temporary, || {
        let database = Database::builder().create(&temporary)?;
        let transaction = database.begin_write()?;
        transaction.open_table(LEASES)?;
        transaction.open_table(HELD)?;
        transaction.open_table(STATE)?;
        transaction.commit()?;
        Ok(())
    })?;
    // The name is durable before the first lease is.
    let named = std::fs::rename(&temporary, path).and_then(|()| sync_directory(directory));
    named.map_err(|error| Error::io("create", path, error))
}

/// Runs `act` on the database. redb may panic on pages that were altered: that is damage, and no end of the process.
///
/// Only what is damage is called so, since the remedy is to delete the file, and every lease with it.
pub(super) fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    let damaged = |why: String| Error::Damaged {
        what: "leases",
        place: path.display().to_string(),
        why: format!("{why}; delete the file to go on: peers then bring what belongs here again"),
    };
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(redb::Error::Io(error))) => match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Err(damaged(error.to_string())),
            _ => Err(Error::io("use", path, error)),
        },
        Ok(Err(redb::Error::PreviousIo)) => {
            Err(Error::WriteFailed { why: format!("{} could not be written", path.display()) })
        }
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(Error::Locked { path: path.to_owned(), pid: None }),
        Ok(Err(
            error @ (redb::Error::Corrupted(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::UpgradeRequired(_)),
        )) => Err(damaged(error.to_string())),
        Ok(Err(error)) => Err(Error::io("use", path, std::io::Error::other(error))),
        Err(_) => Err(damaged("a page was altered".to_owned())),
    }
}
