//! Get from the network: what of a version is not here is fetched, as differences where an earlier version is here; then the store
//! restores it like any other. A whole version is kept, under the scope of its publisher, until its lease here ends or it is pinned.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::chunk::{Intake as _, LeaseTerms};
use crate::error::{Error, Result};
use crate::key::{Key, Scope, VersionRef};
use crate::manifest::{Content, Manifest};
use crate::monitor::Monitor;
use crate::net::fetch::Fetched;
use crate::net::record::PUBLISHED;
use crate::node::get::{GetOptions, Part};
use crate::node::lineage::faced_chunks;
use crate::node::list::summaries;
use crate::node::online::find::{DOCUMENT, FoundVersion, Look, Missing, not_here, persist, refs_of};
use crate::node::online::node::{Node, NodeInner};
use crate::node::online::tasks::{blocking, cancellable, cancelled, over};
use crate::node::report::{GetReport, KeySummary, Timestamp, VersionSummary};
use crate::node::store::find_version;
use crate::node::version::Version;
use crate::store::KeyRefs;

/// How often what has come so far is made durable.
const PERSIST: Duration = Duration::from_secs(2);

/// How long it is waited, each time, before a version is pulled again of which somebody who was needed could not be reached, or was lost. Who is
/// connected through a relay, say, is back a few seconds after the relay.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// What of a version is wanted, and how hard it is looked for.
#[derive(Clone, Copy)]
struct Quest<'q> {
    part: &'q Part,
    look: Look,
    /// How long it is waited, each time, for those who are out of reach.
    pauses: &'q [Duration],
}

impl<'q> Quest<'q> {
    /// For somebody who does not try again.
    fn patient(part: &'q Part) -> Quest<'q> {
        Quest { part, look: Look::Newest, pauses: &PATIENCE }
    }
}

/// What a pull brought.
struct Pulled {
    version: Version,
    fetched: Fetched,
    lookups: u64,
    received_bytes: u64,
    /// How long it took.
    took: Duration,
}

impl Node {
    /// As [`Store::get`](crate::Store::get); what is not here comes from peers.
    pub fn get(
        &self,
        wanted: &VersionRef,
        target: impl AsRef<Path>,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        let pulled = self.pull(wanted, Quest::patient(&options.part), monitor)?;
        let version = &pulled.version;
        let restored =
            self.mending(version, &options.part, monitor, || version.clone().restore(&target, options, monitor))?;
        Ok(pulled.report(restored))
    }

    /// As [`Store::get_to`](crate::Store::get_to); what is not here comes from peers.
    pub fn get_to(
        &self,
        wanted: &VersionRef,
        out: &mut dyn std::io::Write,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        let pulled = self.pull(wanted, Quest::patient(&options.part), monitor)?;
        let restored = self.restore_to(&pulled.version, out, options, monitor)?;
        Ok(pulled.report(restored))
    }

    /// Writes a part of a version that is open already to `out`; see [`get_to`](Node::get_to).
    #[cfg(feature = "http")]
    pub(crate) fn send(
        &self,
        version: &Version,
        out: &mut dyn std::io::Write,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        if version.key().scope().is_none() {
            return self.restore_to(version, out, options, monitor);
        }
        let wanted = VersionRef { key: version.key().clone(), version: crate::VersionSpec::Number(version.number()) };
        self.get_to(&wanted, out, options, monitor)
    }

    /// Has a version here, whole, fetching what is not; and opens it.
    pub fn fetch(&self, wanted: &VersionRef, monitor: &Monitor) -> Result<Version> {
        self.pull(wanted, Quest::patient(&Part::Whole), monitor).map(|pulled| pulled.version)
    }

    /// As [`fetch`](Node::fetch), by the record that `look` says, and for somebody who tries again.
    pub(crate) fn fetch_as(&self, wanted: &VersionRef, look: Look, monitor: &Monitor) -> Result<Version> {
        let quest = Quest { part: &Part::Whole, look, pauses: &[] };
        self.pull(wanted, quest, monitor).map(|pulled| pulled.version)
    }

    /// Opens a version, of this store or of another scope, without fetching its chunks.
    pub fn version(&self, wanted: &VersionRef, monitor: &Monitor) -> Result<Version> {
        let wanted = self.inner.store.canonical_version(wanted)?;
        let alone = || self.block_on(self.inner.connected()).is_ok_and(|peers| peers == 0);
        if self.is_here(&wanted)? || (wanted.key.scope().is_none() && alone()) {
            return self.version_here(&wanted, monitor);
        }
        let theirs = self.in_own_scope(&wanted);
        let opened = self.patiently(&PATIENCE, monitor, || {
            self.block_on(async { Ok(self.inner.open(&theirs, Look::Newest, monitor).await?.0) })
        });
        opened.or_else(|error| self.copy_here(&wanted, error, monitor))
    }

    /// The copy here of a version that the network failed to give: with that `error`, which is the answer where there is no copy.
    fn copy_here(&self, wanted: &VersionRef, error: Error, monitor: &Monitor) -> Result<Version> {
        match error {
            // The store says what it has that is like it.
            Error::NotFound { .. } | Error::NoPeers { .. } if wanted.key.scope().is_none() => {
                self.inner.store.version(wanted)
            }
            // What the publisher says now is known: an earlier copy must not be taken for it.
            Error::Network { what: PUBLISHED, .. } => Err(error),
            Error::Network { .. }
            | Error::NoPeers { .. }
            | Error::Unavailable { what: DOCUMENT, .. }
            | Error::NotFound { what: "key", .. } => {
                // The publisher is out of reach; a copy that is here is better than none. Nobody is told of names like it.
                if self.inner.store.refs_of(&wanted.key).is_ok_and(|refs| refs.versions.is_empty()) {
                    return Err(error);
                }
                let here = self.inner.store.version(wanted).map_err(|_| error)?;
                monitor.warn(&format!("{wanted} is taken from the copy here: its publisher's record is out of reach"));
                Ok(here)
            }
            error => Err(error),
        }
    }

    /// The versions of a key of any scope.
    pub fn log(&self, key: &Key, monitor: &Monitor) -> Result<Vec<VersionSummary>> {
        let key = self.inner.store.canonical(key)?;
        if key.scope().is_none() {
            return self.inner.store.log(&key);
        }
        match self.block_on(self.inner.find_catalogue(&key, Look::Newest, monitor)) {
            Ok((catalogue, _)) => {
                let (mut refs, here) = (refs_of(&catalogue), self.inner.store.refs_of(&key)?);
                // Its publisher knows nothing of pins here, and may have another version under the number by now.
                let same = |number| {
                    let manifest = |refs: &KeyRefs| refs.versions.get(number).map(|entry| entry.manifest);
                    manifest(&refs) == manifest(&here)
                };
                let pins = here.pins.iter().filter(|(number, _)| same(*number));
                refs.pins = pins.map(|(number, pin)| (*number, *pin)).collect();
                Ok(summaries(&refs))
            }
            Err(error) => {
                // Copies that are here are better than nothing, and not all that there is.
                let here = self.inner.store.log(&key);
                if here.is_ok() {
                    monitor.warn(&format!("only the copies here are listed: {error}"));
                }
                here.map_err(|_| error)
            }
        }
    }

    /// The keys that a scope has published.
    pub fn keys_of(&self, scope: &crate::ScopeKey, monitor: &Monitor) -> Result<Vec<KeySummary>> {
        let listing = match self.block_on(self.inner.find_listing(scope, monitor)) {
            Err(error @ (Error::NoPeers { .. } | Error::Unavailable { .. })) => {
                let here = self.keys_here(scope)?;
                if here.is_empty() {
                    return Err(error);
                }
                monitor.warn(&format!("only the copies here are listed: {error}"));
                return Ok(here);
            }
            listing => listing?,
        };
        let summary = |(key, listed): (Key, crate::net::catalogue::ListedKey)| KeySummary {
            key: key.in_scope(scope),
            versions: listed.versions,
            latest: listed.latest,
            bytes: listed.bytes,
            created: Timestamp(listed.created_unix_ms),
        };
        Ok(listing.into_iter().map(summary).collect())
    }

    /// The keys of a scope that are here.
    fn keys_here(&self, scope: &crate::ScopeKey) -> Result<Vec<KeySummary>> {
        if *scope != self.scope() {
            return self.inner.store.keys(&format!("@{scope}/"));
        }
        let own = self.inner.store.keys("")?.into_iter().filter(|key| key.key.scope().is_none());
        Ok(own.map(|key| KeySummary { key: key.key.in_scope(scope), ..key }).collect())
    }

    fn is_here(&self, wanted: &VersionRef) -> Result<bool> {
        match wanted.key.scope() {
            None => Ok(find_version(&self.inner.store.refs_of(&wanted.key)?, wanted).is_some()),
            Some(_) => Ok(match &wanted.version {
                // Only the publisher knows which is the latest, and labels move.
                crate::VersionSpec::Number(_) | crate::VersionSpec::Manifest(_) => {
                    // Looked at first: of what is not here, the store would look for names like it.
                    let refs = self.inner.store.refs_of(&wanted.key);
                    refs.is_ok_and(|refs| find_version(&refs, wanted).is_some())
                        && self.inner.store.version(wanted).is_ok()
                }
                _ => false,
            }),
        }
    }

    /// The name by which a machine that shares this scope's key may have published a version that is not here.
    pub(super) fn in_own_scope(&self, wanted: &VersionRef) -> VersionRef {
        match wanted.key.scope() {
            None => VersionRef { key: wanted.key.in_scope(&self.scope()), version: wanted.version.clone() },
            Some(_) => wanted.clone(),
        }
    }

    /// Has the node's threads [pull](NodeInner::pull_foreign) a version of another scope here; again after each pause while somebody who is
    /// needed is out of reach.
    fn pull_here(&self, wanted: &VersionRef, quest: Quest<'_>, monitor: &Monitor) -> Result<(Version, Fetched)> {
        self.patiently(quest.pauses, monitor, || {
            let (wanted, part, look, stop) = (wanted.clone(), quest.part.clone(), quest.look, monitor.clone());
            self.run(|node| async move { node.pull_foreign(&wanted, &part, look, &stop).await })
        })
    }

    /// Does `ask`, and again after each of the `pauses` while somebody who is needed is out of reach.
    fn patiently<T>(&self, pauses: &[Duration], monitor: &Monitor, ask: impl Fn() -> Result<T>) -> Result<T> {
        let mut pauses = pauses.iter();
        loop {
            let asked = ask();
            let (Err(Error::Unavailable { out_of_reach: true, .. }), Some(pause)) = (&asked, pauses.next()) else {
                return asked;
            };
            self.block_on(cancellable(monitor, async {
                tokio::time::sleep(*pause).await;
                Ok(())
            }))?;
        }
    }

    fn pull(&self, wanted: &VersionRef, quest: Quest<'_>, monitor: &Monitor) -> Result<Pulled> {
        let wanted = self.inner.store.canonical_version(wanted)?;
        let started = Instant::now();
        let lookups = self.inner.handle.lookups();
        let received = self.inner.links.received_bytes.load(Ordering::Relaxed);
        let (version, fetched) = match self.is_here(&wanted)? {
            // Its chunks may be damaged or gone; those that are here are not fetched.
            true => (self.version_here(&wanted, monitor)?, Fetched::default()),
            false => match self.pull_here(&self.in_own_scope(&wanted), quest, monitor) {
                Ok(pulled) => pulled,
                Err(error) => (self.copy_here(&wanted, error, monitor)?, Fetched::default()),
            },
        };
        Ok(Pulled {
            version,
            fetched,
            lookups: self.inner.handle.lookups() - lookups,
            received_bytes: self.inner.links.received_bytes.load(Ordering::Relaxed) - received,
            took: started.elapsed(),
        })
    }
}

impl Pulled {
    fn report(self, report: GetReport) -> GetReport {
        let from_peers = self.fetched.chunks;
        GetReport {
            // What came from peers was read from the store afterwards.
            from_store: report.from_store.saturating_sub(from_peers),
            from_peers,
            peer_deltas: self.fetched.deltas,
            lookups: self.lookups,
            received_bytes: self.received_bytes,
            seconds: report.seconds + self.took.as_secs_f64(),
            fetch_seconds: self.took.as_secs_f64(),
            ..report
        }
    }
}

impl NodeInner {
    /// Finds a version of another scope, and reads its manifest.
    async fn open(
        &self,
        wanted: &VersionRef,
        look: Look,
        monitor: &Monitor,
    ) -> Result<(Version, FoundVersion, Vec<u8>)> {
        // What comes until there is a manifest is read, and not kept.
        let (found, bytes) = cancellable(monitor, async {
            let found = self.find_foreign(wanted, look, monitor).await?;
            self.refuse_removed(wanted, &found)?;
            let bytes = self.document(found.version.manifest, found.publisher, monitor).await?;
            Ok((found, bytes))
        })
        .await?;
        let manifest = over(&bytes, Manifest::decode).map_err(|why| Error::Network {
            what: "what a record points at",
            why: format!("the manifest of {wanted} is malformed: {why}"),
        })?;
        let (number, entry) = (found.number, found.version.entry.clone());
        Ok((Version { store: self.store.clone(), key: wanted.key.clone(), number, entry, manifest }, found, bytes))
    }

    /// Fails for a version that this node has published and has no more: it was removed, and is named until the upkeep has said so.
    fn refuse_removed(&self, wanted: &VersionRef, found: &FoundVersion) -> Result<()> {
        let own = wanted.key.scope() == Some(Scope::Key(self.identity.scope()));
        let is_own = own && found.publisher == Some(self.handle.own());
        match is_own && self.tables.published(wanted.key.name())?.is_some() {
            false => Ok(()),
            true => Err(Error::NotFound {
                what: "version",
                name: found.number.to_string(),
                place: format!("key {}, from which it was removed", wanted.key.name()),
                nearest: Vec::new(),
            }),
        }
    }

    async fn pull_foreign(
        &self,
        wanted: &VersionRef,
        part: &Part,
        look: Look,
        monitor: &Monitor,
    ) -> Result<(Version, Fetched)> {
        let (version, found, bytes) = self.open(wanted, look, monitor).await?;
        let indexes = wanted_chunks(&version, part)?;
        let whole = indexes.len() == version.manifest.chunks.len();
        let bytes_wanted = indexes.iter().filter_map(|index| version.manifest.chunks.get(*index));
        monitor.begin("fetch", bytes_wanted.map(|chunk| u64::from(chunk.len)).sum());
        let expires = self.lease_end().min(version.entry.expires_unix_ms.unwrap_or(u64::MAX));
        let terms = LeaseTerms { manifest: version.entry.manifest, owner: self.owner, expires_unix_ms: expires };
        let (store, key, manifest) = (self.store.clone(), wanted.key.clone(), version.manifest.clone());
        let (intake, missing) = blocking(move || {
            let intake = Arc::new(store.intake(terms)?);
            let faced = faced_chunks(&store, &key, &manifest)?;
            let wanted = indexes.into_iter().filter_map(|index| {
                let chunk = *manifest.chunks.get(index)?;
                let home = manifest.home(index)?;
                let bases =
                    faced.get(index).copied().flatten().map(|base| base.hash).filter(|base| *base != chunk.hash);
                Some(Missing { bases: bases.into_iter().collect(), ..Missing::alone(chunk, home) })
            });
            let missing = not_here(&intake, wanted.collect())?;
            Ok((intake, missing))
        })
        .await?;
        let persisting = async {
            loop {
                tokio::time::sleep(PERSIST).await;
                if let Err(error) = persist(Arc::clone(&intake)).await {
                    return error;
                }
            }
        };
        let fetched = tokio::select! {
            fetched = self.bring_missing(missing, found.publisher, Arc::clone(&intake), monitor) => fetched,
            error = persisting => return Err(error),
            // What came is settled even so.
            error = cancelled(monitor) => Err(error),
        };
        let adopts = whole && fetched.is_ok();
        let (store, key) = (self.store.clone(), wanted.key.clone());
        let (number, labels) = (found.number, found.version.labels);
        let settled = blocking(move || {
            // Makes durable what came as well, and the lease on it needs no sync of the packs of its own.
            let adopted = if adopts { store.adopt(&key, number, &bytes, &labels, Some(expires)) } else { Ok(()) };
            intake.commit().and(adopted)
        })
        .await;
        let fetched = fetched?;
        settled.map(|()| (version, fetched))
    }
}

/// The chunks of the part that is wanted, by their place in the manifest.
pub(super) fn wanted_chunks(version: &Version, part: &Part) -> Result<Vec<usize>> {
    let (file, span) = match part {
        Part::Whole => return Ok((0..version.manifest.chunks.len()).collect()),
        Part::File(path) => {
            let file = version.file_index(Some(path))?;
            (file, crate::chunk::Span::new(0, version.regular(file)?.len))
        }
        Part::Tensor { name, file, .. } => {
            let (file, segment) = version.find_tensor(file.as_deref(), name)?;
            (file, segment.span)
        }
        Part::Range { file, range: (start, end) } => {
            let file = version.file_index(file.as_deref())?;
            let end = end.map_or_else(|| version.regular(file).map(|file| file.len), Ok)?;
            (file, version.checked_range(file, &(*start..end))?)
        }
    };
    if matches!(version.regular(file)?.content, Content::Inline(_)) {
        return Ok(Vec::new());
    }
    Ok(version.manifest.chunks_overlapping(file, span).map(|(index, _)| index).collect())
}
