//! Healing: chunks and manifests that were found damaged are fetched again from the peers that hold them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, VersionRef, VersionSpec};
use crate::monitor::Monitor;
use crate::net::fetch::Fetched;
use crate::net::record::PUBLISHED;
use crate::node::get::{GetOptions, Part};
use crate::node::online::find::{Look, Missing, keep};
use crate::node::online::node::{Node, NodeInner};
use crate::node::online::pull::wanted_chunks;
use crate::node::online::tasks::cancellable;
use crate::node::report::{GetReport, VerifyReport};
use crate::node::version::Version;

impl Node {
    /// Fetches the chunks and manifests that `report` names as damaged. Says how many came; what peers do not have either stays damaged,
    /// with a warning.
    ///
    /// Which chunks a version has, and whether those are damaged too, can be told only once its manifest has come.
    pub fn heal(&self, report: &VerifyReport, monitor: &Monitor) -> Result<u64> {
        let mut versions: HashMap<(Key, u64), Vec<_>> = HashMap::new();
        let mut healed = 0;
        for damage in &report.damaged {
            let (Some(key), Some(number)) = (&damage.key, damage.version) else { continue };
            match damage.chunk {
                Some(chunk) => versions.entry((key.clone(), number)).or_default().push(chunk),
                None if damage.what == "manifest" => {
                    let wanted = VersionRef { key: key.clone(), version: VersionSpec::Number(number) };
                    match self.heal_manifest(&wanted, monitor) {
                        Ok(()) => healed += 1,
                        Err(error) => monitor.warn(&format!("{wanted} is not whole again: {error}")),
                    }
                }
                None => {}
            }
        }
        for ((key, number), damaged) in versions {
            let wanted = VersionRef { key, version: VersionSpec::Number(number) };
            let version = match self.inner.store.version(&wanted) {
                Ok(version) => version,
                Err(error) => {
                    monitor.warn(&format!("{wanted} is not whole again: {error}"));
                    continue;
                }
            };
            let places = version.manifest.chunks.iter().enumerate();
            let missing: Vec<Missing> = places
                .filter(|(_, chunk)| damaged.contains(&chunk.hash))
                .filter_map(|(index, chunk)| Some(Missing::alone(*chunk, version.manifest.home(index)?)))
                .collect();
            match self.bring_again(self.own_terms(version.entry.manifest), missing, monitor) {
                Ok(fetched) => healed += fetched.chunks,
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => monitor.warn(&format!("{wanted} is not whole again: {error}")),
            }
        }
        Ok(healed)
    }

    /// Fetches what is kept here for others, or was until it was found damaged. Says how many chunks came; the rest is told of in warnings.
    pub fn heal_kept(&self, monitor: &Monitor) -> Result<u64> {
        let mut healed = 0;
        for (terms, lost) in self.lost_of_leases()? {
            match self.bring_again(terms, lost, monitor) {
                Ok(fetched) => healed += fetched.chunks,
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => monitor.warn(&format!("what is kept here for others is not whole again: {error}")),
            }
        }
        Ok(healed)
    }

    /// What is under leases here and not stored, each chunk once.
    fn lost_of_leases(&self) -> Result<Vec<(LeaseTerms, Vec<Missing>)>> {
        let (store, mut seen, mut lost) = (&self.inner.store, HashSet::new(), HashMap::new());
        let mut looked = Ok(());
        store.leases()?.live(NodeInner::now(), &mut |hash, home, terms| {
            let is_here = store.inner.chunks.has_chain(hash);
            if let Ok(false) = is_here
                && seen.insert(*hash)
            {
                let missing = Missing { hash: *hash, len: None, home, bases: Vec::new() };
                let lease = lost.entry((terms.manifest, terms.owner)).or_insert_with(|| (terms, Vec::new()));
                lease.1.push(missing);
            }
            if let Err(error) = is_here {
                looked = Err(error);
            }
        })?;
        looked.map(|()| lost.into_values().collect())
    }

    /// Reads a part of a version, by what `restore` does, and once more where that finds damage here and peers have what is damaged.
    pub(super) fn mending<T>(
        &self,
        version: &Version,
        part: &Part,
        monitor: &Monitor,
        restore: impl Fn() -> Result<T>,
    ) -> Result<T> {
        match restore() {
            Err(damage @ Error::Damaged { .. }) => match self.mend(version, part, monitor) {
                Ok(()) => restore(),
                Err(Error::Cancelled) => Err(Error::Cancelled),
                Err(why) => {
                    monitor.warn(&format!("it is not whole again: {why}"));
                    Err(damage)
                }
            },
            restored => restored,
        }
    }

    /// Writes a part of a version to `out`, [mending](Node::mending) what is damaged here.
    pub(super) fn restore_to(
        &self,
        version: &Version,
        out: &mut dyn Write,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        let out = RefCell::new(Onward { out, written: 0 });
        self.mending(version, &options.part, monitor, || {
            let mut out = out.borrow_mut();
            let done = out.written;
            version.clone().restore_to(&mut Rest { out: &mut out, done }, options, monitor)
        })
    }

    /// Fetches again what is damaged here of a part of a version.
    fn mend(&self, version: &Version, part: &Part, monitor: &Monitor) -> Result<()> {
        let name = format!("{}@{}", version.key(), version.number());
        monitor.warn(&format!("a chunk of {name} is damaged; what peers have of it is fetched again"));
        let places = wanted_chunks(version, part)?;
        let manifest = &version.manifest;
        let chunks = places.into_iter().filter_map(|place| Some((*manifest.chunks.get(place)?, manifest.home(place)?)));
        let chunks: Vec<_> = chunks.collect();
        monitor.begin("verify", chunks.iter().map(|(chunk, _)| u64::from(chunk.len)).sum());
        let mut damaged = Vec::new();
        for (chunk, home) in chunks {
            monitor.check()?;
            if self.inner.store.read_document(&[chunk])?.is_none() {
                damaged.push(Missing::alone(chunk, home));
            }
            monitor.advance(chunk.len.into());
        }
        monitor.finish();
        self.bring_again(self.own_terms(version.entry.manifest), damaged, monitor).map(drop)
    }

    fn own_terms(&self, manifest: Hash) -> LeaseTerms {
        LeaseTerms { manifest, owner: self.inner.owner, expires_unix_ms: self.inner.lease_end() }
    }

    /// Fetches chunks anew, to be kept under a lease of `terms`.
    fn bring_again(&self, terms: LeaseTerms, damaged: Vec<Missing>, monitor: &Monitor) -> Result<Fetched> {
        let intake = Arc::new(self.inner.store.intake(terms)?);
        self.block_on(async {
            let brought = cancellable(monitor, self.inner.bring(damaged, None, Arc::clone(&intake), monitor)).await;
            keep(brought, intake).await
        })
    }

    /// The version of that name which is here. Its manifest is fetched again where it is damaged.
    pub(super) fn version_here(&self, wanted: &VersionRef, monitor: &Monitor) -> Result<Version> {
        let store = &self.inner.store;
        store.version(wanted).or_else(|error| match error {
            Error::Damaged { .. } => {
                monitor.warn(&format!("the manifest of {wanted} is damaged; it is fetched again from peers"));
                match self.heal_manifest(wanted, monitor) {
                    Ok(()) => store.version(wanted),
                    Err(why) => {
                        monitor.warn(&format!("it did not come: {why}"));
                        Err(error)
                    }
                }
            }
            error => Err(error),
        })
    }

    /// Fetches the manifest of a version whose own is damaged.
    fn heal_manifest(&self, wanted: &VersionRef, monitor: &Monitor) -> Result<()> {
        let (number, entry) = self.inner.store.resolve(wanted)?;
        let published =
            self.in_own_scope(&VersionRef { key: wanted.key.clone(), version: VersionSpec::Number(number) });
        let bytes = self.block_on(async {
            let found = self.inner.find_foreign(&published, Look::Newest, monitor).await?;
            if found.version.manifest.hash != entry.manifest {
                let why = format!("{published} is published with another manifest than it has here");
                return Err(Error::Network { what: PUBLISHED, why });
            }
            self.inner.document(found.version.manifest, found.publisher, monitor).await
        })?;
        // A document is verified against the hash that it was asked by.
        self.inner.store.restore_manifest(entry.manifest, &bytes)
    }
}

/// An output, and what has been written to it.
struct Onward<'o> {
    out: &'o mut dyn Write,
    written: u64,
}

/// The same bytes once more: of those, what comes behind the first `done`, which are written already, goes to the output.
struct Rest<'r, 'o> {
    out: &'r mut Onward<'o>,
    done: u64,
}

impl Write for Rest<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = bytes.len().min(usize::try_from(self.done).unwrap_or(usize::MAX));
        if skipped > 0 {
            self.done -= skipped as u64;
            return Ok(skipped);
        }
        let written = self.out.out.write(bytes)?;
        self.out.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again_goes_on_where_it_ended() {
        let mut written = Vec::new();
        let mut onward = Onward { out: &mut written, written: 0 };
        let mut write = |pieces: &[&[u8]]| {
            let done = onward.written;
            let mut rest = Rest { out: &mut onward, done };
            pieces.iter().for_each(|piece| rest.write_all(piece).unwrap());
        };
        write(&[b"hel", b"lo "]);
        write(&[b"h"]);
        write(&[b"hello wor", b"ld"]);
        assert_eq!(written, b"hello world");
    }
}
