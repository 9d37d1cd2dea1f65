//! Placement: lookups that it takes to find the holders of all groups in networks of up to 100 000 peers, and what the computation costs.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and its macros make public functions")]

use std::collections::VecDeque;
use std::hint::black_box;

use caskad::net::placement::{CANDIDATES, Candidate, GROUPS, Group, Position, ranked};
use caskad::net::region::{ANSWERS, Regions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[derive(Debug, Clone)]
struct Peer(Vec<u8>, Position);

impl Candidate for Peer {
    fn id(&self) -> &[u8] {
        &self.0
    }

    fn position(&self) -> Position {
        self.1
    }
}

/// Peers in the order of their places.
fn network(count: u64) -> Vec<Peer> {
    let peer = |n: u64| Peer(n.to_le_bytes().to_vec(), Position::of(&n.to_le_bytes()));
    let mut peers: Vec<Peer> = (0..count).map(peer).collect();
    peers.sort_by_key(|peer| peer.1);
    peers
}

/// What Kademlia answers: the closest peers, found in the smallest subtree around the place that has enough of them.
fn lookup(peers: &[Peer], place: Position) -> Vec<Peer> {
    let mut bits = 256;
    let range = loop {
        let start = peers.partition_point(|peer| peer.1 < place && peer.1.common_bits(&place) < bits);
        let end = start + peers[start..].partition_point(|peer| peer.1.common_bits(&place) >= bits);
        if end - start >= ANSWERS || bits == 0 {
            break start..end;
        }
        bits -= 1;
    };
    let mut near = peers[range].to_vec();
    near.sort_by_key(|peer| place.distance(&peer.1));
    near.truncate(ANSWERS);
    near
}

fn resolve(peers: &[Peer], groups: &[Group]) -> (Regions<Peer>, usize) {
    let mut regions = Regions::default();
    let places = groups.iter().map(|group| Position::of(group.key("bench").as_bytes()));
    let mut resolution = regions.resolve(places, 0);
    let (mut under_way, mut lookups) = (VecDeque::new(), 0);
    while !resolution.is_done() {
        while let Some(place) = resolution.next_place() {
            under_way.push_back(place);
            lookups += 1;
        }
        let place = under_way.pop_front().unwrap();
        regions.learn(place, lookup(peers, place), true, 1);
        resolution.answered(place, true, &regions, 0);
    }
    (regions, lookups)
}

fn placement(c: &mut Criterion) {
    let all: Vec<Group> = (0..GROUPS).filter_map(Group::new).collect();
    println!("peers   groups  lookups  bound");
    for count in [20_u64, 200, 1000, 10_000, 100_000] {
        let peers = network(count);
        for step in [1, 64] {
            let some: Vec<Group> = all.iter().copied().step_by(step).collect();
            let bound = (count / 11 + 8).min(4096).min(some.len() as u64);
            println!("{count:<7} {:<7} {:<8} {bound}", some.len(), resolve(&peers, &some).1);
        }
    }
    let peers = network(200);
    let mut group = c.benchmark_group("placement");
    group.sample_size(10);
    group.throughput(Throughput::Elements(20_000));
    // 20 000 chunks are in all groups but a few.
    group.bench_function("holders of 20 000 chunks over 200 peers, lookups in memory", |b| {
        b.iter(|| {
            let (regions, _) = resolve(&peers, &all);
            let holders = all.iter().map(|group| {
                let key = group.key("bench");
                ranked(&key, regions.near(&Position::of(key.as_bytes()), 0).unwrap()).len()
            });
            assert_eq!(holders.sum::<usize>(), all.len() * CANDIDATES);
        });
    });
    group.bench_function("rank 200 peers for a group", |b| {
        let key = all[7].key("bench");
        b.iter(|| black_box(ranked(&key, &peers).len()));
    });
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
