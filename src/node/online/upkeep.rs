//! What a node does by itself: it ends what has expired, publishes what is not published yet, renews its leases and records, and those of
//! what is pinned here, and compares the placement groups that it holds with their other holders.
//!
//! Everything here may be done twice or by two nodes without harm, and what fails is tried again the next time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::Rng as _;

use crate::chunk::LeaseTerms;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::Key;
use crate::limits;
use crate::monitor::Monitor;
use crate::net::config::NetConfig;
use crate::net::framed::StreamError;
use crate::net::handle::PeerAddresses;
use crate::net::link::unusable;
use crate::net::placement::Group;
use crate::net::push::{Homed, push};
use crate::net::wire::Frame;
use crate::node::maintain::GcOptions;
use crate::node::online::keeper::readable_of;
use crate::node::online::node::{Compared, NodeInner};
use crate::node::online::publish::{Errand, fingerprint, listing_of, lock};
use crate::node::online::tasks::blocking;
use crate::store::KeyRefs;

/// The shortest time between two rounds, whatever wakes them.
const BREATH: Duration = Duration::from_secs(1);

/// The longest wait for a round that has unfinished business to look after.
const RETRY: Duration = Duration::from_secs(30);

/// Answers to what a peer keeps of a group, at most: of a million chunks.
const LIST_ANSWERS: usize = (1 << 20) / limits::HAVE_HASHES;

/// How long a peer that is late is waited for at least. What it has taken by then it need not be sent again.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<NodeInner>) {
    // A node that has just started, or has just met its first peer, has better things to do than to compare what all of them hold.
    let mut state = State { compared: Some(Instant::now()), collected: Some(Instant::now()), ..State::default() };
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
        let until_retry = state.retry.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.mul_f64(rand::rng().random_range(0.75..1.0));
        [until_end, until_retry].into_iter().flatten().fold(wait, Duration::min)
    }
}

/// The time between two rounds where there is nothing special.
fn usual(config: &NetConfig) -> Duration {
    (config.ttl / 3).min(config.refresh_interval)
}

/// What peers lack: for each the chunks, and the leases that they are under here.
type Lacking = HashMap<libp2p::PeerId, (PeerAddresses, Vec<(Homed, Vec<LeaseTerms>)>)>;

/// Chunks that are on too few peers.
#[derive(Debug, Clone, Copy, Default)]
struct Short {
    /// Those that a peer lacks which should have them.
    lacking: u64,
    /// Those of groups for which there are too few peers. Nothing is to be done for them until more come.
    scarce: u64,
    /// Copies that were brought.
    brought: u64,
}

/// What one round leaves for the next.
#[derive(Default)]
struct State {
    unfinished: bool,
    /// When the next version ends.
    next_end: Option<u64>,
    /// Since when each co-holder does not answer.
    away: HashMap<libp2p::PeerId, Instant>,
    renewed: Option<Renewed>,
    /// A renewal has begun that is not done.
    renewing: bool,
    compared: Option<Instant>,
    /// So many comparisons, one after another, found peers that lack chunks, and brought them none.
    vain: u32,
    /// When it is time for the next comparison, where the last one left something lacking.
    retry: Option<Instant>,
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
            node.collect_garbage().await;
            (self.ended, self.collected) = (false, Some(Instant::now()));
        }
        let retries = self.retry.is_some_and(|at| at <= Instant::now());
        if retries {
            // Should there be nobody to compare with now.
            self.retry = Some(Instant::now() + RETRY);
        }
        if node.connected().await.is_ok_and(|peers| peers > 0) {
            let due = self.compared.is_none_or(|at| at.elapsed() >= node.config.refresh_interval / 2);
            let departed = self.away.values().any(|since| since.elapsed() >= node.config.departure);
            if due || departed || retries {
                let compared = node.compare(&mut self.away).await;
                note("comparing replicas", compared.map(|short| self.note_outcome(short, &node.config)));
                self.compared = Some(Instant::now());
            }
            note("noting peers", node.note_peers().await);
        }
        self.unfinished = unfinished || !self.away.is_empty();
    }

    /// Notes what a comparison came to, and so when the next one is due.
    fn note_outcome(&mut self, short: Short, config: &NetConfig) {
        self.vain = match (short.lacking, short.brought) {
            (0, _) => 0,
            (_, 0) => self.vain.saturating_add(1),
            _ => 1,
        };
        // Whoever took nothing may take nothing for long.
        let pause = RETRY * 2_u32.saturating_pow(self.vain.saturating_sub(1).min(16));
        self.retry = (self.vain > 0).then(|| Instant::now() + pause.min(usual(config)));
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

    /// Reclaims what nothing needs any more: others fill this disk, and nobody may be there who would.
    async fn collect_garbage(&self) {
        let store = self.store.clone();
        if let Err(error) = blocking(move || store.gc(GcOptions::default(), &Monitor::none())).await {
            tracing::warn!("garbage is left for later: {error}");
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
        for (key, refs) in own() {
            // One that failed is noted, whatever was published before that.
            if !self.is_published(key, refs)? {
                self.note_unpublished(key, true);
            }
        }
        if self.connected().await? == 0 {
            return Ok(Pending::Waits);
        }
        if all.is_empty() && removed.is_empty() {
            self.release_removed(&all).await;
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
        let (listing, listed) = (listing_of(&all), self.tables.published("")?);
        let state = Hash::of(&listing.encode());
        let listed = if renew || listed.is_none_or(|listed| !listed.complete || listed.refs != state) {
            self.publish_listing(&listing, state, errand).await
        } else {
            Ok(())
        };
        for (key, refs) in all.iter().filter(|(key, _)| key.scope().is_some()) {
            if let Err(error) = self.keep_pinned(key, refs, errand).await {
                first.get_or_insert(error);
            }
        }
        // Now that nobody is told of them any more.
        self.release_removed(&all).await;
        listed?;
        Ok(Pending::Tried(first))
    }

    /// Whether a key is in the network as it is here, on as many peers as it should be.
    fn is_published(&self, key: &Key, refs: &KeyRefs) -> Result<bool> {
        let published = self.tables.published(key.as_str())?;
        Ok(published.is_some_and(|published| published.complete && published.refs == fingerprint(refs)))
    }

    /// Compares the groups that are held here with their other holders, and brings those what they lack, if this node is the first in rank
    /// of those that have it. Notes how many chunks are on too few peers.
    async fn compare(&self, away: &mut HashMap<libp2p::PeerId, Instant>) -> Result<Short> {
        let store = self.store.clone();
        let groups = blocking(move || store.leases()?.groups(NodeInner::now())).await?;
        let groups = groups.into_iter().filter_map(Group::new).collect();
        let holders = self.resolver.holders(&groups).await?;
        let mut missing: Lacking = HashMap::new();
        let mut short = Short::default();
        let mut unreachable = HashSet::new();
        for group in groups {
            let ranked = holders.get(&group).map(Vec::as_slice).unwrap_or_default();
            let found = self.compare_group(group, ranked, &mut missing, &mut unreachable).await?;
            short.lacking += found.lacking;
            short.scarce += found.scarce;
        }
        let mut open: HashMap<Hash, usize> = HashMap::new();
        for ((hash, _), _) in missing.values().flat_map(|(_, chunks)| chunks) {
            *open.entry(*hash).or_default() += 1;
        }
        away.retain(|peer, _| unreachable.contains(peer));
        for peer in &unreachable {
            away.entry(*peer).or_insert_with(Instant::now);
            // Away for so long, it is not counted on any more: others take its place in rank.
            if away.get(peer).is_some_and(|since| since.elapsed() >= self.config.departure) {
                self.resolver.went(peer);
            }
        }
        for (peer, chunks) in missing.into_values() {
            for hash in self.bring_to(&peer, chunks).await {
                short.brought += 1;
                open.entry(hash).and_modify(|left| *left = left.saturating_sub(1));
            }
        }
        short.lacking += open.values().filter(|left| **left > 0).count() as u64;
        *lock(&self.compared) = Some(Compared { at: Instant::now(), under_replicated: short.lacking + short.scarce });
        Ok(short)
    }

    /// Compares one group. Says how many of its chunks are missing somewhere, or on all the peers that there are and too few still.
    async fn compare_group(
        &self,
        group: Group,
        ranked: &[PeerAddresses],
        missing: &mut Lacking,
        unreachable: &mut HashSet<libp2p::PeerId>,
    ) -> Result<Short> {
        let store = self.store.clone();
        let own = blocking(move || readable_of(&store, group.number())).await?;
        // The first R that answer are the holders for now.
        let mut others: Vec<(usize, &PeerAddresses, HashSet<Hash>)> = Vec::new();
        let mut own_rank = None;
        for (rank, peer) in ranked.iter().enumerate() {
            // Asked once in a comparison: one that is silent would hold up all groups.
            if unreachable.contains(&peer.peer) {
                continue;
            }
            if others.len() + usize::from(own_rank.is_some()) >= self.config.replication_factor {
                break;
            }
            if peer.peer == self.handle.own() {
                own_rank = Some(rank);
                continue;
            }
            match self.list(peer, group, &own).await {
                Ok(hashes) => others.push((rank, peer, hashes)),
                Err(error) => {
                    tracing::debug!("{error}");
                    unreachable.insert(peer.peer);
                }
            }
        }
        let is_scarce = others.len() + usize::from(own_rank.is_some()) < self.config.replication_factor;
        let mut short = Short::default();
        for (hash, home) in own {
            let lacking = others.iter().filter(|(.., hashes)| !hashes.contains(&hash));
            let first = others.iter().filter(|(.., hashes)| hashes.contains(&hash)).map(|(rank, ..)| *rank).min();
            // Who is first in rank of those that have it brings it; one that is no holder any more, only if no holder has it.
            let mine = own_rank.map_or(first.is_none(), |own| first.is_none_or(|first| own < first));
            let mut lacks = false;
            for (_, peer, _) in lacking {
                lacks = true;
                if mine {
                    let store = self.store.clone();
                    let terms = blocking(move || store.leases()?.of_chunk(&hash, home, NodeInner::now()));
                    let entry = missing.entry(peer.peer).or_insert_with(|| ((*peer).clone(), Vec::new()));
                    entry.1.push(((hash, home), terms.await?));
                }
            }
            // What this node is to bring is counted when it is known what of it was taken.
            short.lacking += u64::from(lacks && !mine);
            short.scarce += u64::from(is_scarce && !lacks);
        }
        Ok(short)
    }

    /// Which of the leased chunks of a group, those that are `own`, a peer has under leases as well.
    async fn list(&self, peer: &PeerAddresses, group: Group, own: &BTreeMap<Hash, [u8; 4]>) -> Result<HashSet<Hash>> {
        let link = self.links.to(peer).await?;
        let mut all = HashSet::new();
        let mut behind = Hash::default();
        let Some((last_own, _)) = own.last_key_value() else { return Ok(all) };
        for _ in 0..LIST_ANSWERS {
            let answer = link.ask(|request| Frame::List(request, group.number(), behind)).await;
            let answer = answer.map_err(|error| unusable(&peer.peer, &error.to_string()))?;
            let Frame::Group(_, _, hashes) = answer.frame else {
                return Err(unusable(&peer.peer, &StreamError::Unfitting.to_string()));
            };
            let full = hashes.len() == limits::HAVE_HASHES;
            let last = hashes.last().copied();
            all.extend(hashes.into_iter().filter(|hash| own.contains_key(hash)));
            match last {
                // A list that does not go on would never end.
                Some(last) if full && last > behind && last < *last_own => behind = last,
                _ => return Ok(all),
            }
        }
        Err(unusable(&peer.peer, "it lists more chunks of a group than anybody keeps"))
    }

    /// Brings chunks to a peer under the leases that they have here. Says which of them it keeps now.
    async fn bring_to(&self, peer: &PeerAddresses, chunks: Vec<(Homed, Vec<LeaseTerms>)>) -> HashSet<Hash> {
        let mut by_terms: HashMap<(Hash, [u8; 32]), (LeaseTerms, Vec<Homed>)> = HashMap::new();
        for (chunk, leases) in chunks {
            for terms in leases {
                let lease = by_terms.entry((terms.manifest, terms.owner)).or_insert((terms, Vec::new()));
                lease.1.push(chunk);
            }
        }
        let mut kept = HashSet::new();
        for (terms, chunks) in by_terms.into_values() {
            let source = std::sync::Arc::new(self.store.clone());
            let pushed = push(&self.links, peer, source, &chunks, terms, &Monitor::none()).await;
            if let Some(error) = &pushed.failed {
                tracing::info!("a repair is left for later: {error}");
            }
            kept.extend(pushed.kept);
        }
        if !kept.is_empty() {
            tracing::info!("{} chunks were brought to {}, which lacked them", kept.len(), peer.peer);
        }
        kept
    }
}
