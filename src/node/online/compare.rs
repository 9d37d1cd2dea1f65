//! Comparing what is kept here with its other holders, and bringing those what they lack: how departures and damage are healed.
//!
//! It has a task of its own. However slow a peer takes what it lacks, leases and records are renewed meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::PeerId;
use rand::Rng as _;

use crate::chunk::LeaseTerms;
use crate::error::Result;
use crate::hash::Hash;
use crate::limits;
use crate::monitor::Monitor;
use crate::net::config::NetConfig;
use crate::net::framed::StreamError;
use crate::net::handle::PeerAddresses;
use crate::net::link::unusable;
use crate::net::placement::Group;
use crate::net::push::{Homed, Pushed, push};
use crate::net::wire::Frame;
use crate::node::online::keeper::readable_of;
use crate::node::online::node::{Compared, NodeInner};
use crate::node::online::publish::lock;
use crate::node::online::tasks::blocking;
use crate::node::online::upkeep::{BREATH, RETRY, usual};

/// Answers to what a peer keeps of a group, at most: of a million chunks.
const LIST_ANSWERS: usize = (1 << 20) / limits::HAVE_HASHES;

/// Peers that are brought something at the same time.
const BROUGHT_AT_ONCE: usize = 4;

/// How long one peer is brought something in one comparison. What it has taken by then it is not sent again in the next.
const BRINGING: Duration = Duration::from_secs(600);

/// How soon the end of the node is noticed.
const LOOK_UP: Duration = Duration::from_millis(500);

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<NodeInner>) {
    // A node that has just started, or has just met its first peer, has better things to do than to compare what all of them hold.
    let mut state = State { compared: Instant::now(), away: HashMap::new(), vain: 0, retry: None };
    loop {
        let Some(there) = node.upgrade() else { return };
        let next = state.next(&there.config);
        drop(there);
        while Instant::now() < next {
            if node.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(next.saturating_duration_since(Instant::now()).min(LOOK_UP)).await;
        }
        let Some(there) = node.upgrade() else { return };
        state.compare(&there).await;
        drop(there);
        tokio::time::sleep(BREATH).await;
    }
}

/// What one comparison leaves for the next.
struct State {
    compared: Instant,
    /// Since when each co-holder does not answer.
    away: HashMap<PeerId, Instant>,
    /// So many comparisons, one after another, found peers that lack chunks, and brought them none.
    vain: u32,
    /// When it is time for the next comparison, where the last one left something lacking, or did not come about.
    retry: Option<Instant>,
}

impl State {
    /// When the next comparison is due: twice in `refresh_interval`, with some jitter so that nodes do not move in step; and when somebody
    /// has been away for so long that others take his place.
    fn next(&self, config: &NetConfig) -> Instant {
        let due = self.compared + (config.refresh_interval / 2).mul_f64(rand::rng().random_range(0.9..1.1));
        // Who is away for longer than that is looked for again and again.
        let again = self.compared + RETRY.min(usual(config));
        let departed = self.away.values().map(|since| (*since + config.departure).max(again)).min();
        [self.retry, departed].into_iter().flatten().fold(due, Instant::min)
    }

    async fn compare(&mut self, node: &NodeInner) {
        self.compared = Instant::now();
        self.retry = Some(Instant::now() + RETRY.min(usual(&node.config)));
        if node.connected().await.is_ok_and(|peers| peers > 0) {
            match node.compare(&mut self.away).await {
                Ok(short) => self.note_outcome(short, &node.config),
                Err(error) => tracing::debug!("comparing replicas is left for later: {error}"),
            }
        }
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

/// What peers lack: for each the chunks, and the leases that they are under here.
type Lacking = HashMap<PeerId, (PeerAddresses, Vec<(Homed, Vec<LeaseTerms>)>)>;

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

impl NodeInner {
    /// Compares the groups that are held here with their other holders, and brings those what they lack, if this node is the first in rank
    /// of those that have it. Notes how many chunks are on too few peers.
    async fn compare(&self, away: &mut HashMap<PeerId, Instant>) -> Result<Short> {
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
        let bringing = missing.into_values().map(|(peer, chunks)| self.bring_to(peer, chunks));
        let mut bringing = futures::stream::iter(bringing).buffer_unordered(BROUGHT_AT_ONCE);
        while let Some(brought) = bringing.next().await {
            for hash in brought {
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
        unreachable: &mut HashSet<PeerId>,
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
        let mut to_bring: Vec<(&PeerAddresses, Homed)> = Vec::new();
        for (hash, home) in own {
            let lacking = others.iter().filter(|(.., hashes)| !hashes.contains(&hash));
            let first = others.iter().filter(|(.., hashes)| hashes.contains(&hash)).map(|(rank, ..)| *rank).min();
            // Who is first in rank of those that have it brings it; one that is no holder any more, only if no holder has it.
            let mine = own_rank.map_or(first.is_none(), |own| first.is_none_or(|first| own < first));
            let mut lacks = false;
            for (_, peer, _) in lacking {
                lacks = true;
                if mine {
                    to_bring.push((peer, (hash, home)));
                }
            }
            // What this node is to bring is counted when it is known what of it was taken.
            short.lacking += u64::from(lacks && !mine);
            short.scarce += u64::from(is_scarce && !lacks);
        }
        for ((peer, chunk), terms) in to_bring.iter().zip(self.terms_of(&to_bring).await?) {
            let entry = missing.entry(peer.peer).or_insert_with(|| ((*peer).clone(), Vec::new()));
            entry.1.push((*chunk, terms));
        }
        Ok(short)
    }

    /// The leases here that each chunk is under.
    async fn terms_of(&self, chunks: &[(&PeerAddresses, Homed)]) -> Result<Vec<Vec<LeaseTerms>>> {
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let (store, chunks) = (self.store.clone(), chunks.iter().map(|(_, chunk)| *chunk).collect::<Vec<Homed>>());
        blocking(move || {
            let leases = store.leases()?;
            let live = leases.live_numbers(NodeInner::now());
            chunks.iter().map(|(hash, home)| leases.of_chunk(hash, *home, &live)).collect()
        })
        .await
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
    async fn bring_to(&self, peer: PeerAddresses, chunks: Vec<(Homed, Vec<LeaseTerms>)>) -> HashSet<Hash> {
        let mut by_terms: HashMap<(Hash, [u8; 32]), (LeaseTerms, Vec<Homed>)> = HashMap::new();
        for (chunk, leases) in chunks {
            for terms in leases {
                let lease = by_terms.entry((terms.manifest, terms.owner)).or_insert((terms, Vec::new()));
                lease.1.push(chunk);
            }
        }
        let (mut pushed, none) = (Pushed::default(), Monitor::none());
        let bringing = async {
            for (terms, chunks) in by_terms.into_values() {
                let source = Arc::new(self.store.clone());
                push(&mut pushed, &self.links, &peer, source, &chunks, terms, &none).await;
                if let Some(error) = pushed.failed.take() {
                    tracing::info!("a repair is left for later: {error}");
                }
            }
        };
        if tokio::time::timeout(BRINGING, bringing).await.is_err() {
            tracing::info!("{} is slow to take what it lacks; the rest is left for later", peer.peer);
        }
        let kept: HashSet<Hash> = pushed.kept.into_iter().collect();
        if !kept.is_empty() {
            tracing::info!("{} chunks were brought to {}, which lacked them", kept.len(), peer.peer);
        }
        kept
    }
}
