//! [`Queries`]: what is being asked of Kademlia, and who waits for the answers.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use libp2p::kad::GetRecordOk::FoundRecord;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, QueryResult};
use tokio::sync::oneshot;

use crate::net::address::noted;
use crate::net::handle::{Closest, Counts, FoundRecords, PeerAddresses};
use crate::net::kad_records::KadRecords;
use crate::net::region::ANSWERS;

/// Kademlia, as it is here.
type Kad = kad::Behaviour<KadRecords>;

/// A query under way, and who waits for it.
enum Query {
    Closest(Closest, oneshot::Sender<Closest>),
    Put(oneshot::Sender<(bool, Vec<PeerId>)>, Vec<PeerId>),
    Get { key: kad::RecordKey, found: FoundRecords, enough: usize, answer: oneshot::Sender<FoundRecords> },
}

/// All of them.
pub(super) struct Queries {
    under_way: HashMap<QueryId, Query>,
    counts: Arc<Counts>,
}

impl Queries {
    /// Those that asked somebody are counted in `counts`.
    pub(super) fn new(counts: Arc<Counts>) -> Queries {
        Queries { under_way: HashMap::new(), counts }
    }

    /// Looks for the peers closest to `key`.
    pub(super) fn closest(&mut self, kad: &mut Kad, key: Vec<u8>, answer: oneshot::Sender<Closest>) {
        self.under_way.insert(kad.get_closest_peers(key), Query::Closest(Closest::default(), answer));
    }

    /// Stores a record here and on `peers`.
    pub(super) fn put(
        &mut self,
        kad: &mut Kad,
        record: kad::Record,
        peers: Vec<PeerId>,
        answer: oneshot::Sender<(bool, Vec<PeerId>)>,
    ) {
        let all = NonZeroUsize::new(peers.len()).unwrap_or(NonZeroUsize::MIN);
        // This node is one of those that have it: a network may have no other yet.
        let kept = kad.store_mut().put(record.clone()).is_ok();
        if peers.is_empty() || !kept {
            let _ = answer.send((kept, Vec::new()));
            return;
        }
        let query = kad.put_record_to(record, peers.clone().into_iter(), kad::Quorum::N(all));
        self.under_way.insert(query, Query::Put(answer, peers));
    }

    /// Looks for the records under `key`, until `enough` peers have given one.
    pub(super) fn get(
        &mut self,
        kad: &mut Kad,
        key: kad::RecordKey,
        enough: usize,
        answer: oneshot::Sender<FoundRecords>,
    ) {
        let query = kad.get_record(key.clone());
        self.under_way.insert(query, Query::Get { key, found: FoundRecords::default(), enough, answer });
    }

    /// A query has come to something.
    pub(super) fn progressed(
        &mut self,
        kad: &mut Kad,
        id: QueryId,
        result: QueryResult,
        stats: &kad::QueryStats,
        last: bool,
    ) {
        let asked = stats.num_requests() > 0;
        // By all that were asked.
        let answered = stats.num_failures() == 0 && stats.num_pending() == 0;
        let Some(query) = self.under_way.get_mut(&id) else { return };
        match (query, result) {
            (Query::Closest(closest, _), QueryResult::GetClosestPeers(outcome)) => {
                let timed_out = outcome.is_err();
                let peers = match outcome {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let found = peers.into_iter();
                let found = found.map(|found| PeerAddresses { peer: found.peer_id, addresses: noted(&found.addrs) });
                closest.peers.extend(found);
                closest.asked = asked;
                closest.complete = !timed_out && (answered || is_small(kad));
            }
            (Query::Get { key, found, enough, .. }, QueryResult::GetRecord(Ok(FoundRecord(there)))) => {
                // Whatever a peer makes up must not end the search.
                match kad.store_mut().vet(key, &there.record.value) {
                    Ok(()) => found.records.push(there.record.value),
                    Err(refusal) => {
                        found.refused = true;
                        tracing::debug!("the answer of {:?} is passed over: {refusal}", there.peer);
                    }
                }
                if found.records.len() >= *enough
                    && let Some(mut query) = kad.query_mut(&id)
                {
                    query.finish();
                }
            }
            (Query::Get { found, .. }, QueryResult::GetRecord(outcome)) => {
                let timed_out = matches!(outcome, Err(kad::GetRecordError::Timeout { .. }));
                // One that does not answer may be the one that has it, were the network as small as it may be.
                found.complete = answered && !timed_out && !found.refused;
            }
            (Query::Put(_, took), QueryResult::PutRecord(Err(error))) => {
                let (kad::PutRecordError::QuorumFailed { success, .. } | kad::PutRecordError::Timeout { success, .. }) =
                    error;
                let success: HashSet<PeerId> = success.into_iter().collect();
                took.retain(|peer| success.contains(peer));
            }
            _ => {}
        }
        if last {
            self.ended(id, asked);
        }
    }

    /// Tells whoever waits for a query what came of it.
    fn ended(&mut self, id: QueryId, asked: bool) {
        let query = self.under_way.remove(&id);
        let is_lookup = asked && matches!(query, Some(Query::Closest(..) | Query::Get { .. }));
        self.counts.lookups.fetch_add(u64::from(is_lookup), Ordering::Relaxed);
        match query {
            Some(Query::Closest(closest, answer)) => drop(answer.send(closest)),
            Some(Query::Put(answer, took)) => drop(answer.send((true, took))),
            Some(Query::Get { found, answer, .. }) => drop(answer.send(found)),
            None => {}
        }
    }
}

/// Whether the network has fewer peers than a lookup answers with, as far as this node knows. Then a lookup asks them all, and those that
/// do not answer hide nobody.
fn is_small(kad: &mut Kad) -> bool {
    kad.kbuckets().map(|bucket| bucket.num_entries()).sum::<usize>() < ANSWERS
}
