//! What a node does by itself: it ends what has expired, publishes what is not published yet, and renews its leases and records, and those
//! of what is pinned here.
//!
//! Everything here may be done twice or by two nodes without harm, and what fails is tried again the next time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::Rng as _;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::Key;
use crate::monitor::Monitor;
use crate::net::config::NetConfig;
use crate::node::maintain::GcOptions;
use crate::node::online::node::NodeInner;
use crate::node::online::publish::{Errand, fingerprint, listing_of, lock};
use crate::node::online::tasks::blocking;
use crate::store::KeyRefs;

/// The shortest time between two rounds, whatever wakes them.
pub(super) const BREATH: Duration = Duration::from_secs(1);

/// The longest wait for a round that has unfinished business to look after.
pub(super) const RETRY: Duration = Duration::from_secs(30);

/// How long a peer that is late is waited for at least. What it has taken by then it need not be sent again.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<NodeInner>) {
    // What peers brought and never committed before the last stop is garbage as well.
    let mut state = State { collected: Some(Instant::now()), ended: true, ..State::default() };
    loop {
        let Some(there) = node.upgrade() else { return };
        let wait = there.wait(&state);
        drop(there);
        if !pause(&node, wait).await {
            return;
        }
        let Some(there) = node.upgrade() else { return };
        state.round(&there).await;
        drop(there);
        tokio::time::sleep(BREATH).await;
    }
}

/// Waits for a while, or until the node wants attention; false if it is gone.
async fn pause(node: &Weak<NodeInner>, wait: Duration) -> bool {
    // Looked at now and then whether the node is still there, without keeping it.
    let until = Instant::now() + wait;
    while Instant::now() < until {
        let Some(there) = node.upgrade() else { return false };
        let step = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(500));
        let woken = tokio::time::timeout(step, there.upkeep.notified()).await.is_ok();
        drop(there);
        if woken {
            return true;
        }
    }
    true
}

impl NodeInner {
    /// How long until the next round: a third of what leases last, with some jitter so that nodes do not move in step; and not beyond the end
    /// of a version, which is listed until then.
    fn wait(&self, state: &State) -> Duration {
        let usual = usual(&self.config);
        let wait = if state.unfinished { usual.min(RETRY) } else { usual };
        let until_end = state.next_end.map(|end| Duration::from_millis(end.saturating_sub(NodeInner::now())));
        let wait = wait.mul_f64(rand::rng().random_range(0.75..1.0));
        until_end.map_or(wait, |until_end| until_end.min(wait))
    }
}

/// The time between two rounds where there is nothing special.
pub(super) fn usual(config: &NetConfig) -> Duration {
    (config.ttl / 3).min(config.refresh_interval)
}

/// What one round leaves for the next.
#[derive(Default)]
struct State {
    unfinished: bool,
    /// When the next version ends.
    next_end: Option<u64>,
    renewed: Option<Renewed>,
    /// A renewal has begun that is not done.
    renewing: bool,
    /// Something has ended since garbage was collected last.
    ended: bool,
    collected: Option<Instant>,
}

/// What came of publishing.
enum Pending {
    /// Nobody is connected.
    Waits,
    /// All was tried that there was, and the first failure was this one.
    Tried(Option<Error>),
}

/// When leases and records were renewed last. They end by the clock, which goes on while the machine is suspended.
struct Renewed {
    at: Instant,
    unix_ms: u64,
}

impl Renewed {
    fn now() -> Renewed {
        Renewed { at: Instant::now(), unix_ms: NodeInner::now() }
    }

    fn is_older_than(&self, age: Duration) -> bool {
        let by_clock = Duration::from_millis(NodeInner::now().saturating_sub(self.unix_ms));
        self.at.elapsed().max(by_clock) >= age
    }
}

impl State {
    async fn round(&mut self, node: &NodeInner) {
        let mut unfinished = false;
        let mut note = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                tracing::debug!("{what} is left for later: {error}");
                unfinished = true;
            }
        };
        let expired = node.expire().await.map(|(ended, next_end)| {
            self.ended |= ended;
            next_end
        });
        self.next_end = expired.as_ref().ok().copied().flatten();
        note("ending leases", expired.map(drop));
        // The shortest wait for a round: it is due in every one that comes by itself.
        if !self.renewing && self.renewed.as_ref().is_none_or(|renewed| renewed.is_older_than(node.config.ttl / 4)) {
            self.renewing = true;
            node.forget_placed();
        }
        let published = node.publish_pending(self.renewing).await.map(|outcome| match outcome {
            Pending::Waits => Ok(()),
            Pending::Tried(failed) => {
                // A key that failed is tried again by itself.
                if std::mem::take(&mut self.renewing) {
                    self.renewed = Some(Renewed::now());
                }
                failed.map_or(Ok(()), Err)
            }
        });
        note("publishing", published.flatten());
        self.ended |= node.ended.swap(false, Ordering::Relaxed);
        if self.ended && self.collected.is_none_or(|at| at.elapsed() >= node.config.refresh_interval) {
            (self.ended, self.collected) = (!node.collect_garbage().await, Some(Instant::now()));
        }
        if node.connected().await.is_ok_and(|peers| peers > 0) {
            note("noting peers", node.note_peers().await);
        }
        self.unfinished = unfinished;
    }
}

impl NodeInner {
    /// Ends leases and versions whose time is up; whether there were any, and when the next version ends.
    async fn expire(&self) -> Result<(bool, Option<u64>)> {
        let store = self.store.clone();
        blocking(move || {
            let leases = store.leases()?.expire(NodeInner::now())?;
            // What has expired is not renewed, nor listed.
            let expired = GcOptions { expired_only: true, ..GcOptions::default() };
            let versions = store.gc(expired, &Monitor::none())?.expired_versions;
            Ok((leases + versions > 0, store.next_end()?))
        })
        .await
    }

    /// Reclaims what nothing needs any more: others fill this disk, and nobody may be there who would. False where some is left for later.
    async fn collect_garbage(&self) -> bool {
        let store = self.store.clone();
        match blocking(move || store.gc(GcOptions::default(), &Monitor::none())).await {
            Ok(report) => report.left_packs == 0,
            Err(error) => {
                tracing::warn!("garbage is left for later: {error}");
                false
            }
        }
    }

    /// Has all be seen again to be where it belongs.
    fn forget_placed(&self) {
        lock(&self.placed).clear();
        lock(&self.alone).clear();
    }

    /// Publishes the keys whose refs are not what was published last, or all of them, to `renew` them.
    async fn publish_pending(&self, renew: bool) -> Result<Pending> {
        let store = self.store.clone();
        let all: BTreeMap<Key, KeyRefs> = blocking(move || store.inner.chunks.all_refs("")).await?;
        let own = || all.iter().filter(|(key, _)| key.scope().is_none());
        let removed = self.removed_keys(own().map(|(key, _)| key).collect()).await?;
        removed.iter().for_each(|key| self.note_unpublished(key, true));
        // What was removed before it was ever published waits for nothing.
        let names: HashSet<&str> = own().map(|(key, _)| key).chain(&removed).map(Key::as_str).collect();
        lock(&self.unpublished).retain(|name, _| names.contains(name.as_str()));
        for (key, refs) in own() {
            // One that failed is noted, whatever was published before that.
            if !self.is_published(key, refs)? {
                self.note_unpublished(key, true);
            }
        }
        if self.connected().await? == 0 {
            return Ok(Pending::Waits);
        }
        let (listing, listed) = (listing_of(&all), self.tables.published("")?);
        let state = Hash::of(&listing.encode());
        let unlisted = listed.is_none_or(|listed| !listed.complete || listed.refs != state);
        // Whoever has never published anything has nothing to take back either.
        if all.is_empty() && removed.is_empty() && (listed.is_none() || !unlisted) {
            self.release_removed().await?;
            return Ok(Pending::Tried(None));
        }
        let none = Monitor::none();
        let errand = Errand { monitor: &none, grace: GRACE, thorough: true };
        let mut first = None;
        for key in own().map(|(key, _)| key).chain(&removed) {
            if !renew && !lock(&self.unpublished).contains_key(key.as_str()) {
                continue;
            }
            if let Err(error) = self.publish_key(key, errand).await {
                first.get_or_insert(error);
            }
        }
        let listed = match renew || unlisted {
            true => self.publish_listing(&listing, state, errand).await,
            false => Ok(()),
        };
        for (key, refs) in all.iter().filter(|(key, _)| key.scope().is_some()) {
            if let Err(error) = self.keep_pinned(key, refs, errand).await {
                first.get_or_insert(error);
            }
        }
        // Now that nobody is told of them any more.
        self.release_removed().await?;
        listed?;
        Ok(Pending::Tried(first))
    }

    /// Whether a key is in the network as it is here, on as many peers as it should be.
    fn is_published(&self, key: &Key, refs: &KeyRefs) -> Result<bool> {
        let published = self.tables.published(key.as_str())?;
        Ok(published.is_some_and(|published| published.complete && published.refs == fingerprint(refs)))
    }
}
