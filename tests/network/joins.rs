//! Joining that comes to nothing, and what the users of both nodes are told of it.

use rustix::process::Signal;

use crate::process::Net;

/// A peer that is nowhere.
const NOBODY: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

/// A node that is started with `flags`, and nothing else.
fn first_with(flags: &[&str]) -> Net {
    let mut net = Net::start(0, &[]);
    let first = net.launch_with(0, flags);
    net.nodes.push(first);
    net
}

#[test]
fn who_is_not_on_the_list_is_told_so_and_so_is_whoever_has_the_list() {
    let mut net = first_with(&["--allow", NOBODY]);
    let second = net.launch(1);
    net.eventually("the first tells of the second", || net.log(0).contains(second.id()));
    net.eventually("the second tells of the first", || {
        let log = net.log(1);
        log.contains(&net.nodes[0].address) && log.contains(second.id()) && log.contains("allow")
    });
    assert!(net.json(0, &["health"])["refused_connections"].as_u64().unwrap() > 0);
    // It tries again, and each says what there is to say once.
    let refused = || net.json(0, &["health"])["refused_connections"].as_u64().unwrap();
    net.eventually("it has tried again", || refused() > 2);
    let told = |index: usize| net.log(index).lines().filter(|line| line.contains(second.id())).count();
    assert_eq!((told(0), told(1)), (1, 1), "{}{}", net.log(0), net.log(1));
    net.nodes.push(second);
}

#[test]
fn who_could_not_be_reached_at_first_is_met_later() {
    let mut net = Net::start(2, &[]);
    net.nodes[1].signal(Signal::STOP);
    let third = net.launch(2);
    net.nodes.push(third);
    net.eventually("the third hears of the second, and does not reach it", || net.missed(2, 1));
    net.nodes[1].signal(Signal::CONT);
    net.settle();
}

#[test]
fn a_node_that_was_set_up_anew_is_not_taken_for_the_one_before_it_in_silence() {
    let net = first_with(&[]);
    let address = &net.nodes[0].address;
    let outdated = address.replace(net.nodes[0].id(), NOBODY);
    let _second = net.launch_with(1, &["--join", &outdated]);
    net.eventually("it is told", || {
        let log = net.log(1);
        [&outdated, NOBODY, net.nodes[0].id()].iter().all(|part| log.contains(part))
    });
}

#[test]
fn a_copy_of_a_node_is_told_that_it_is_one() {
    let net = first_with(&[]);
    net.ok(1, &["put", &net.write("payload", b"payload"), "--as", "m"]);
    std::fs::copy(net.store(0).join("peer.key"), net.store(1).join("peer.key")).unwrap();
    let _copy = net.launch(1);
    net.eventually("it is told", || net.log(1).contains("this node's own id"));
}
