//! [`NetTables`]: what a node remembers of the network when it starts again: records that it keeps for others, the highest numbers of
//! records that it has seen, peers that it knew, and what it has published. A redb database, `STORE/network.redb`.
//!
//! Records of others are written without a sync, since they come from the event loop and lie on seven other peers: a crash may lose the
//! last of them. What this node itself has promised (`published`, `seen`) is synced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use libp2p::Multiaddr;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::error::{Error, Result};
use crate::hash::Hash;

const RECORDS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("records");
const SEEN: TableDefinition<&[u8; 32], u64> = TableDefinition::new("seen");
const PEERS: TableDefinition<&str, ()> = TableDefinition::new("peers");
const PUBLISHED: TableDefinition<&str, (u64, &[u8; 32], bool)> = TableDefinition::new("published");

/// What was published of a key last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// The number of the record.
    pub(crate) seq: u64,
    /// The state of the key's refs that it tells of.
    pub(crate) refs: Hash,
    /// Everything is where it belongs; otherwise there is more to do.
    pub(crate) complete: bool,
}

/// Rows that survive a restart. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct NetTables {
    path: Arc<PathBuf>,
    database: Arc<Database>,
}

impl NetTables {
    /// The tables in the file `path`, which is created where there is none; in memory without one.
    pub(crate) fn open(path: Option<&Path>) -> Result<NetTables> {
        let place = path.map_or_else(|| PathBuf::from("memory"), Path::to_owned);
        let tables = |builder: &mut redb::Builder| -> Result<Database, redb::Error> {
            builder.set_cache_size(4 << 20);
            let database = match path {
                Some(path) => builder.create(path)?,
                None => builder.create_with_backend(redb::backends::InMemoryBackend::new())?,
            };
            let transaction = database.begin_write()?;
            transaction.open_table(RECORDS)?;
            transaction.open_table(SEEN)?;
            transaction.open_table(PEERS)?;
            transaction.open_table(PUBLISHED)?;
            transaction.commit()?;
            Ok(database)
        };
        let database = tables(&mut Database::builder()).map_err(|error| failed(&place, error))?;
        Ok(NetTables { path: Arc::new(place), database: Arc::new(database) })
    }

    fn read<T>(&self, read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        let done = self.database.begin_read().map_err(redb::Error::from).and_then(|transaction| read(&transaction));
        done.map_err(|error| failed(&self.path, error))
    }

    fn write<T>(
        &self,
        durability: Durability,
        write: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let run = || -> Result<T, redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            let done = write(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|error| failed(&self.path, error))
    }

    /// Shows all records to `look`, in the order of their keys. There may be more than a node keeps: they are not held in memory together.
    pub(crate) fn each_record(&self, mut look: impl FnMut(&[u8; 32], &[u8])) -> Result<()> {
        self.read(|transaction| {
            for row in transaction.open_table(RECORDS)?.iter()? {
                let (key, value) = row?;
                look(key.value(), value.value());
            }
            Ok(())
        })
    }

    /// The record under `key` that is kept here, were its time up or not.
    pub(crate) fn record(&self, key: &Hash) -> Result<Option<Vec<u8>>> {
        self.read(|transaction| {
            Ok(transaction.open_table(RECORDS)?.get(key.as_bytes())?.map(|row| row.value().to_vec()))
        })
    }

    /// Keeps a record, in the place of `gone` where another gives way to it.
    pub(crate) fn put_record(&self, key: &Hash, bytes: &[u8], gone: Option<&Hash>) -> Result<()> {
        self.write(Durability::None, |transaction| {
            let mut rows = transaction.open_table(RECORDS)?;
            if let Some(gone) = gone {
                rows.remove(gone.as_bytes())?;
            }
            rows.insert(key.as_bytes(), bytes)?;
            Ok(())
        })
    }

    /// Removes records, in one transaction.
    pub(crate) fn remove_records(&self, gone: &[Hash]) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.write(Durability::None, |transaction| {
            let mut rows = transaction.open_table(RECORDS)?;
            for key in gone {
                rows.remove(key.as_bytes())?;
            }
            Ok(())
        })
    }

    /// The highest number of a record under `key` that was ever seen here.
    pub(crate) fn seen(&self, key: &Hash) -> Result<Option<u64>> {
        self.read(|transaction| Ok(transaction.open_table(SEEN)?.get(key.as_bytes())?.map(|seq| seq.value())))
    }

    /// Whether the number `seq` of a record is worth to be noted.
    pub(crate) fn is_news(&self, key: &Hash, seq: u64) -> Result<bool> {
        // Nothing comes before the first, so there is nothing that could be replayed in its place.
        Ok(seq > 1 && self.seen(key)?.is_none_or(|seen| seen < seq))
    }

    pub(crate) fn note_seen(&self, key: &Hash, seq: u64) -> Result<()> {
        if !self.is_news(key, seq)? {
            return Ok(());
        }
        self.write(Durability::Immediate, |transaction| {
            transaction.open_table(SEEN)?.insert(key.as_bytes(), seq)?;
            Ok(())
        })
    }

    /// Addresses, with peer ids, of peers that were connected last time.
    pub(crate) fn peers(&self) -> Result<Vec<Multiaddr>> {
        self.read(|transaction| {
            let mut peers = Vec::new();
            for row in transaction.open_table(PEERS)?.iter()? {
                peers.extend(row?.0.value().parse::<Multiaddr>());
            }
            Ok(peers)
        })
    }

    pub(crate) fn set_peers(&self, peers: &[Multiaddr]) -> Result<()> {
        self.write(Durability::Immediate, |transaction| {
            let mut rows = transaction.open_table(PEERS)?;
            rows.retain(|_, ()| false)?;
            for peer in peers {
                rows.insert(peer.to_string().as_str(), ())?;
            }
            Ok(())
        })
    }

    pub(crate) fn published(&self, name: &str) -> Result<Option<Published>> {
        self.read(|transaction| {
            let row = transaction.open_table(PUBLISHED)?.get(name)?;
            Ok(row.map(|row| {
                let (seq, refs, complete) = row.value();
                Published { seq, refs: Hash::from_bytes(*refs), complete }
            }))
        })
    }

    /// What was published of each name.
    pub(crate) fn all_published(&self) -> Result<Vec<(String, Published)>> {
        self.read(|transaction| {
            let table = transaction.open_table(PUBLISHED)?;
            let rows = table.iter()?.map(|row| {
                let (name, row) = row?;
                let (seq, refs, complete) = row.value();
                Ok((name.value().to_owned(), Published { seq, refs: Hash::from_bytes(*refs), complete }))
            });
            rows.collect()
        })
    }

    /// Notes the number of a record that is about to be published, durably: it is given out once.
    pub(crate) fn set_published(&self, name: &str, published: Published) -> Result<()> {
        self.write_published(Durability::Immediate, name, published)
    }

    /// Notes what was published under a number that is noted. After a crash that may be forgotten, and is looked after again.
    pub(crate) fn note_published(&self, name: &str, published: Published) -> Result<()> {
        self.write_published(Durability::None, name, published)
    }

    fn write_published(&self, durability: Durability, name: &str, published: Published) -> Result<()> {
        self.write(durability, |transaction| {
            let row = (published.seq, published.refs.as_bytes(), published.complete);
            transaction.open_table(PUBLISHED)?.insert(name, row)?;
            Ok(())
        })
    }
}

fn failed(path: &Path, error: redb::Error) -> Error {
    match error {
        redb::Error::Io(source) => Error::io("use", path, source),
        redb::Error::PreviousIo => Error::WriteFailed { why: format!("{} could not be written", path.display()) },
        error => Error::Damaged {
            what: "network tables",
            place: path.display().to_string(),
            why: format!("{error}; delete the file to go on: what it held is found again in the network"),
        },
    }
}
