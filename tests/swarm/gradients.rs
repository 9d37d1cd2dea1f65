//! A round of training: every worker publishes, every worker collects.

use std::time::{Duration, Instant};

use caskad::gradient::{
    AggregateOptions, BytesContribution, Contribution, Rule, VersionContribution, aggregate, collect, publish, unfit,
};
use caskad::{Error, Monitor, Payload};

use crate::nodes::{Swarm, eventually, quick};

fn contribution(value: f32) -> Vec<u8> {
    let data: Vec<u8> = (0..50_000).flat_map(|n| (value + n as f32 * 1e-3).to_le_bytes()).collect();
    let json = format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[50000],\"data_offsets\":[0,{}]}}}}", data.len());
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat()
}

#[test]
fn every_worker_collects_the_round_and_knows_who_is_missing() {
    let swarm = Swarm::start(4, quick());
    let none = Monitor::none();
    for (worker, node) in swarm.nodes.iter().enumerate().take(3) {
        let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(worker as f32)));
        publish(node, "run", 7, payload, Duration::from_secs(60), &none).unwrap();
    }
    let workers: Vec<_> = swarm.nodes.iter().map(|node| node.scope()).collect();
    for node in &swarm.nodes {
        let started = Instant::now();
        let round = collect(node, "run", 7, &workers, Duration::from_secs(3), &none).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(round.missing, [workers[3]]);
        let contributions =
            round.contributions.into_iter().map(|one| VersionContribution::new(one.version, None).unwrap());
        let contributions: Vec<VersionContribution> = contributions.collect();
        let contributions: Vec<&dyn Contribution> = contributions.iter().map(|one| one as &dyn Contribution).collect();
        assert_eq!(contributions.len(), 3);
        let mut out = Vec::new();
        aggregate(&contributions, &Rule::Mean, &AggregateOptions::default(), &mut out, &none).unwrap();
        let last = f32::from_le_bytes(out[out.len() - 4..].try_into().unwrap());
        assert!((last - (1.0 + 49_999.0 * 1e-3)).abs() < 1e-4, "{last}");
    }
    // A late one is waited for.
    let late = swarm.nodes[3].clone();
    let publishing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(3.0)));
        publish(&late, "run", 7, payload, Duration::from_secs(60), &Monitor::none()).unwrap();
    });
    let round = collect(&swarm.nodes[0], "run", 7, &workers, Duration::from_secs(30), &none).unwrap();
    assert_eq!((round.contributions.len(), round.missing.len()), (4, 0));
    publishing.join().unwrap();
}

#[test]
fn a_contribution_ends_with_its_time_and_counts_once() {
    let swarm = Swarm::start(5, quick());
    let none = Monitor::none();
    let publisher = &swarm.nodes[0];
    let payload = Payload::reader("grads.safetensors", std::io::Cursor::new(contribution(1.0)));
    let ttl = Duration::from_secs(10);
    publish(publisher, "run", 1, payload, ttl, &none).unwrap();
    let worker = publisher.scope();
    let ask = |node: usize| collect(&swarm.nodes[node], "run", 1, &[worker], Duration::from_millis(50), &none).unwrap();
    let round = collect(&swarm.nodes[1], "run", 1, &[worker], Duration::from_secs(30), &none).unwrap();
    assert_eq!((round.contributions.len(), round.missing.len()), (1, 0));
    // Long before the leases of this network would.
    eventually("nobody has it any more", || ask(2).missing == [worker]);
    assert!(ask(3).contributions.is_empty());
    let twice = collect(&swarm.nodes[1], "run", 2, &[worker, worker], Duration::from_millis(50), &none);
    assert!(matches!(twice, Err(Error::Syntax { what: "worker", .. })));
}

#[test]
fn who_does_not_fit_is_told_from_the_rest() {
    let named = |name: &str, bytes: Vec<u8>| BytesContribution::new(name, bytes);
    let mut renamed = contribution(4.0);
    let at = renamed.windows(3).position(|bytes| bytes == b"\"w\"").unwrap();
    renamed[at + 1] = b'v';
    let all = [
        named("renamed", renamed),
        named("first", contribution(1.0)),
        named("junk", b"junk".to_vec()),
        named("second", contribution(2.0)),
    ];
    let all: Vec<&dyn Contribution> = all.iter().map(|one| one as &dyn Contribution).collect();
    let unfit = unfit(&all);
    assert_eq!(unfit.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2]);
    assert!(unfit[0].1.to_string().contains("it has no tensor \"w\""), "{}", unfit[0].1);
}
