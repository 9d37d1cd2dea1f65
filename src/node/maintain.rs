//! Refs after a put: labels, pins, removal, expiry, and the garbage collection that follows.

use std::collections::HashSet;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{Key, Label, VersionRef};
use crate::monitor::Monitor;
use crate::node::list::labels_of;
use crate::node::report::{GcReport, RefReport, Timestamp};
use crate::node::store::Store;
use crate::refs::{Entity, PinEntry, RefChange, VersionEntry};
use crate::store::{KeyRefs, LiveSet, Sweep, SweepReport};

/// How garbage is collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcOptions {
    /// Only say what would happen.
    pub dry_run: bool,
    /// Only remove versions whose time is up; leave the packs as they are.
    pub expired_only: bool,
}

impl Store {
    /// Makes `label` name the version `wanted`, and no other of its key. That must be this store's own.
    pub fn tag(&self, wanted: &VersionRef, label: &Label) -> Result<RefReport> {
        self.refuse_foreign_label(&wanted.key)?;
        self.change_version(wanted, |key, number, _| {
            Ok(vec![RefChange::Label { key: key.clone(), label: label.clone(), number }])
        })
    }

    /// Takes `label` away from `key`, which must be this store's own.
    pub fn untag(&self, key: &Key, label: &Label) -> Result<RefReport> {
        self.refuse_foreign_label(key)?;
        let wanted = VersionRef { key: key.clone(), version: crate::key::VersionSpec::Label(label.clone()) };
        self.change_version(&wanted, |key, _, _| {
            Ok(vec![RefChange::Removal(Entity::Label { key: key.clone(), label: label.clone() })])
        })
    }

    /// Fails for another scope's key: its labels are those that its publisher gives, and the next get would bring them back.
    fn refuse_foreign_label(&self, key: &Key) -> Result<()> {
        match self.canonical(key)?.scope() {
            None => Ok(()),
            Some(_) => Err(Error::Syntax {
                what: "key",
                input: key.to_string(),
                why: "only whoever has its scope's key labels its versions; `caskad pin` keeps one that is here"
                    .to_owned(),
            }),
        }
    }

    /// Protects a version from [`remove`](Store::remove) and from its own expiry.
    pub fn pin(&self, wanted: &VersionRef) -> Result<RefReport> {
        let pin = PinEntry { created_unix_ms: Timestamp::now().0, expires_unix_ms: None };
        self.change_version(wanted, |key, number, _| Ok(vec![RefChange::Pin { key: key.clone(), number, pin }]))
    }

    /// Ends the protection of a version. One that was not pinned stays as it is.
    pub fn unpin(&self, wanted: &VersionRef) -> Result<RefReport> {
        self.change_version(wanted, |key, number, refs| {
            let pinned = refs.pins.contains_key(&number);
            let removal = || RefChange::Removal(Entity::Pin { key: key.clone(), number });
            Ok(pinned.then(removal).into_iter().collect())
        })
    }

    /// Removes a version and its labels. Its bytes are reclaimed by the next [`gc`](Store::gc), but for those that another version is a
    /// difference to: they stay until [`compact`](Store::compact) makes that one do without. A pinned version is refused,
    /// with [`Error::Pinned`].
    pub fn remove(&self, wanted: &VersionRef) -> Result<RefReport> {
        let (mut labels, mut manifest) = (Vec::new(), None);
        let report = self.change_version(wanted, |key, number, refs| {
            if refs.pins.contains_key(&number) {
                return Err(Error::Pinned { name: format!("{key}@{number}") });
            }
            labels = labels_of(refs, number);
            manifest = refs.versions.get(&number).map(|entry| entry.manifest);
            Ok(removals(key, refs, number))
        })?;
        self.let_go(manifest.into_iter().collect());
        Ok(RefReport { labels, ..report })
    }

    /// Removes the versions that are to `go`, but for those that are pinned; says how many those were.
    pub(crate) fn remove_all(&self, go: impl Fn(&Key, &VersionEntry) -> bool) -> Result<u64> {
        if self.unpinned(&go)?.is_empty() {
            return Ok(0);
        }
        let mut gone = Vec::new();
        self.inner.chunks.commit_refs(|| {
            // Again, now that nobody else can pin one of them.
            gone = self.unpinned(&go)?;
            let mut changes = Vec::new();
            for (key, number, _) in &gone {
                changes.extend(removals(key, &self.inner.chunks.refs(key)?, *number));
            }
            Ok(changes)
        })?;
        let count = gone.len() as u64;
        self.let_go(gone.into_iter().map(|(_, _, manifest)| manifest).collect());
        Ok(count)
    }

    /// The versions that are to `go` and are not pinned, with their manifests.
    fn unpinned(&self, go: impl Fn(&Key, &VersionEntry) -> bool) -> Result<Vec<(Key, u64, Hash)>> {
        let mut found = Vec::new();
        for (key, refs) in self.inner.chunks.all_refs("")? {
            let going =
                refs.versions.iter().filter(|(number, entry)| go(&key, entry) && !refs.pins.contains_key(number));
            found.extend(going.map(|(number, entry)| (key.clone(), *number, entry.manifest)));
        }
        Ok(found)
    }

    /// Ends the leases of this store's node on those of `manifests` that no version has any more: they kept for it what it has removed.
    fn let_go(&self, manifests: HashSet<Hash>) {
        let end = |mut manifests: HashSet<Hash>| {
            let Some(leases) = self.existing_leases()? else { return Ok(()) };
            let versions = self.inner.chunks.all_refs("")?;
            versions.values().flat_map(|refs| refs.versions.values()).for_each(|entry| {
                manifests.remove(&entry.manifest);
            });
            let owner = self.peer_identity()?.scope();
            leases.release(owner.as_bytes(), |manifest| manifests.contains(manifest)).map(drop)
        };
        if let Err(error) = end(manifests) {
            // They are removed all the same.
            let error: Error = error;
            tracing::warn!("the bytes of what was removed are kept until their leases end: {error}");
        }
    }

    /// Commits what `changes` makes of the key (under the name that refs have), the number of the version `wanted` and the refs of its key,
    /// while no other commit can change them.
    fn change_version(
        &self,
        wanted: &VersionRef,
        changes: impl FnOnce(&Key, u64, &KeyRefs) -> Result<Vec<RefChange>>,
    ) -> Result<RefReport> {
        let wanted = &self.canonical_version(wanted)?;
        let mut number = 0;
        self.inner.chunks.commit_refs(|| {
            number = self.resolve(wanted)?.0;
            changes(&wanted.key, number, &self.inner.chunks.refs(&wanted.key)?)
        })?;
        self.ref_report(&wanted.key, number)
    }

    fn ref_report(&self, key: &Key, number: u64) -> Result<RefReport> {
        let refs = self.inner.chunks.refs(key)?;
        let pinned = refs.pins.contains_key(&number);
        Ok(RefReport { key: key.clone(), version: number, labels: labels_of(&refs, number), pinned })
    }

    /// Removes the versions whose time is up, then reclaims what no version reaches. Puts and gets may go on meanwhile.
    pub fn gc(&self, options: GcOptions, monitor: &Monitor) -> Result<GcReport> {
        let started = Instant::now();
        if options.expired_only && !options.dry_run {
            self.end_leases()?;
        }
        let ended = |_: &Key, entry: &VersionEntry| entry.expires_unix_ms.is_some_and(|at| at <= Timestamp::now().0);
        let expired = if options.dry_run { self.unpinned(ended)? } else { Vec::new() };
        let expired_versions = if options.dry_run { expired.len() as u64 } else { self.remove_all(ended)? };
        let sweep = match options.expired_only {
            true => Default::default(),
            false => {
                // Else they are gone, and one that has come back meanwhile stays.
                let stays = |key: &Key, number| !expired.iter().any(|(gone, n, _)| gone == key && *n == number);
                let sweep = if options.dry_run { Sweep::DryRun } else { Sweep::Usual };
                self.collect(sweep, &stays, monitor)?
            }
        };
        let kept_bytes =
            if options.expired_only { self.inner.chunks.disk_usage()?.pack_bytes } else { sweep.kept_bytes };
        Ok(GcReport {
            dry_run: options.dry_run,
            expired_versions,
            removed_chunks: sweep.removed_chunks,
            reclaimed_bytes: sweep.reclaimed_bytes,
            kept_bytes,
            left_packs: sweep.left_packs,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// When the next of the versions that are not pinned ends, in milliseconds since 1970.
    #[cfg(feature = "net")]
    pub(super) fn next_end(&self) -> Result<Option<u64>> {
        let all = self.inner.chunks.all_refs("")?;
        let unpinned = all.values().flat_map(|refs| {
            let versions = refs.versions.iter().filter(|(number, _)| !refs.pins.contains_key(number));
            versions.filter_map(|(_, entry)| entry.expires_unix_ms)
        });
        Ok(unpinned.min())
    }

    /// Ends the leases whose time is up.
    fn end_leases(&self) -> Result<()> {
        match self.existing_leases()? {
            Some(leases) => leases.expire(Timestamp::now().0).map(drop),
            None => Ok(()),
        }
    }

    /// Reclaims what is neither reached by a version for which `stays` holds nor under a lease.
    ///
    /// A lease counts until it is ended, and not only until its time is up: in between it may be renewed, and whoever does so is told
    /// that its chunks are here.
    pub(super) fn collect(
        &self,
        sweep: Sweep,
        stays: &dyn Fn(&Key, u64) -> bool,
        monitor: &Monitor,
    ) -> Result<SweepReport> {
        let over = if sweep == Sweep::DryRun { Timestamp::now().0 } else { 0 };
        if sweep != Sweep::DryRun {
            self.end_leases()?;
        }
        let mark = |live: &mut LiveSet| {
            if let Some(leases) = self.existing_leases()? {
                leases.live(over, &mut |hash, _, _| {
                    live.insert(hash);
                })?;
            }
            self.mark(live, stays, monitor)
        };
        self.inner.chunks.collect(sweep, mark, monitor)
    }

    /// Lists all that the versions reach for which `stays` holds. One whose manifest is damaged stops the collection: what it reaches is
    /// not known.
    pub(super) fn mark(&self, live: &mut LiveSet, stays: &dyn Fn(&Key, u64) -> bool, monitor: &Monitor) -> Result<()> {
        for (key, refs) in self.inner.chunks.all_refs("")? {
            for (number, entry) in &refs.versions {
                monitor.check()?;
                if !stays(&key, *number) {
                    continue;
                }
                let manifest = self
                    .manifest(&entry.manifest)
                    .map_err(|error| unmarkable(&key, *number, &entry.manifest, error))?;
                live.insert(&entry.manifest);
                manifest.chunks.iter().for_each(|chunk| {
                    live.insert(&chunk.hash);
                });
            }
        }
        Ok(())
    }
}

fn unmarkable(key: &Key, number: u64, manifest: &Hash, error: Error) -> Error {
    match error {
        Error::Damaged { place, why, .. } => Error::Damaged {
            what: "manifest",
            place,
            why: format!(
                "{why}; so what {key}@{number} (manifest {}) reaches is not known and nothing was collected: \
                 remove that version with `caskad rm {key}@{number}`, or restore the pack from a copy",
                manifest.short()
            ),
        },
        error => error,
    }
}

/// What removes version `number` and all that names it. The version comes first: without it the rest means nothing, so a crash
/// that parts them leaves nothing half removed.
fn removals(key: &Key, refs: &KeyRefs, number: u64) -> Vec<RefChange> {
    let version = Entity::Version { key: key.clone(), number };
    let labels = labels_of(refs, number).into_iter().map(|label| Entity::Label { key: key.clone(), label });
    let pin = refs.pins.contains_key(&number).then(|| Entity::Pin { key: key.clone(), number });
    std::iter::once(version).chain(labels).chain(pin).map(RefChange::Removal).collect()
}
