//! Taking back what the network still says of a key whose last version was removed here: a record without this machine's versions, and in
//! the end without any, takes the place of the one that names them. Otherwise that would hold until its time is up.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::PeerId;

use crate::error::Result;
use crate::hash::Hash;
use crate::key::Key;
use crate::net::catalogue::Catalogue;
use crate::net::handle::PeerAddresses;
use crate::net::link::unusable;
use crate::net::record::{Record, SignedRecord};
use crate::net::wire::Frame;
use crate::node::online::node::NodeInner;
use crate::node::online::place::Placed;
use crate::node::online::publish::{Errand, fingerprint, lock};
use crate::node::online::record::Named;
use crate::node::online::tasks::blocking;
use crate::store::KeyRefs;

/// Peers that are told at the same time, and how long those that are slow to hear it are waited for.
const TOLD_AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);

impl NodeInner {
    /// The keys of this scope that were published and of which nothing is left but what the network says; `here` are those that have
    /// versions.
    pub(super) async fn removed_keys(&self, here: BTreeSet<&Key>) -> Result<Vec<Key>> {
        let tables = self.tables.clone();
        let published = blocking(move || tables.all_published()).await?;
        let nothing = fingerprint(&KeyRefs::default());
        let stands = published.into_iter().filter(|(_, published)| published.refs != nothing || !published.complete);
        let keys = stands.filter_map(|(name, _)| name.parse::<Key>().ok());
        Ok(keys.filter(|key| !here.contains(key)).collect())
    }

    /// Publishes that nothing is left of `key` on this machine, while there is a record that says otherwise. Versions that others who share
    /// the scope have published stay.
    pub(super) async fn withdraw(&self, key: &Key, errand: Errand<'_>) -> Result<Placed> {
        let nothing = Catalogue::default();
        let mut placed = self.nothing_placed();
        // What is published is kept here too, so nobody need be asked whether its time is up.
        let record = Record::key(&self.identity.scope(), key.name());
        let last = self.tables.record(&record)?;
        if last.is_some_and(|bytes| SignedRecord::check(&bytes, record.as_bytes(), NodeInner::now(), None).is_ok()) {
            let (record, _) = self.record_of(key, &nothing, errand).await?;
            placed.add(self.publish_record(record, Named::Versions(key, &nothing), errand).await?);
        }
        self.note_published(key.as_str(), fingerprint(&KeyRefs::default()), true)?;
        Ok(placed)
    }

    /// Tells those who keep versions for this node that are not here any more that they need not. Who does not hear it keeps them until the
    /// lease ends.
    pub(super) async fn release_removed(&self) -> Result<()> {
        // In this order: a version is here before it is kept by anybody, so one that is kept and not found to be here was removed.
        let mut gone: HashSet<Hash> = lock(&self.kept_by).keys().copied().collect();
        for manifest in self.manifests_here().await?.values().flatten() {
            gone.remove(manifest);
        }
        if gone.is_empty() {
            return Ok(());
        }
        let mut untold: HashSet<(Hash, PeerId)> = HashSet::new();
        for manifest in &gone {
            // Should it come back, it is to be placed again.
            lock(&self.placed).remove(manifest);
            let peers = lock(&self.kept_by).remove(manifest).unwrap_or_default();
            untold.extend(peers.into_iter().map(|peer| (*manifest, peer)));
        }
        let telling: Vec<_> = untold.iter().map(|(manifest, peer)| self.release_on(*peer, *manifest)).collect();
        let mut telling = futures::stream::iter(telling).buffer_unordered(TOLD_AT_ONCE);
        let until = tokio::time::Instant::now() + PATIENCE;
        while let Ok(Some(told)) = tokio::time::timeout_at(until, telling.next()).await {
            untold.remove(&told);
        }
        // The others hear it in the next round.
        for (manifest, peer) in untold {
            lock(&self.kept_by).entry(manifest).or_default().insert(peer);
        }
        // What came back meanwhile may have been placed before its peers were told.
        for (key, _) in self.manifests_here().await?.iter().filter(|(_, here)| !here.is_disjoint(&gone)) {
            lock(&self.placed).retain(|manifest, _| !gone.contains(manifest));
            self.note_unpublished(key, true);
        }
        Ok(())
    }

    /// The manifests of the versions that are here, by their keys.
    async fn manifests_here(&self) -> Result<BTreeMap<Key, HashSet<Hash>>> {
        let store = self.store.clone();
        let all = blocking(move || store.inner.chunks.all_refs("")).await?;
        let manifests = |refs: KeyRefs| refs.versions.values().map(|entry| entry.manifest).collect();
        Ok(all.into_iter().map(|(key, refs)| (key, manifests(refs))).collect())
    }

    /// Tells one peer, and says which and what of when that is done or cannot be.
    async fn release_on(&self, peer: PeerId, manifest: Hash) -> (Hash, PeerId) {
        let owner = self.owner;
        let told = async {
            let link = self.links.to(&PeerAddresses { peer, addresses: Vec::new() }).await?;
            let answer = link.ask(|request| Frame::Release(request, manifest, owner)).await;
            answer.map_err(|error| unusable(&peer, &error.to_string()))
        };
        if let Err(error) = told.await {
            tracing::debug!("{peer} keeps what was removed until the lease ends: {error}");
        }
        (manifest, peer)
    }
}
