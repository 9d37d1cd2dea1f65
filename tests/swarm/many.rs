//! A hundred nodes in one process.

use caskad::{GetOptions, Monitor};

use crate::nodes::{Swarm, quick, random, restored};

#[test]
fn a_hundred_nodes_find_each_other_and_what_they_keep() {
    let mut config = quick();
    config.refresh_interval = std::time::Duration::from_secs(3600);
    config.ttl = std::time::Duration::from_secs(24 * 3600);
    let swarm = Swarm::start(100, config);
    let none = Monitor::none();
    let bytes = random(24 << 20, 1);
    let put = swarm.put(17, "m", bytes.clone());
    let network = put.network.unwrap();
    assert_eq!(network.replicas, 3);
    // Those for the chunks, and those for the record: its place, itself before and after, and the catalogue's.
    assert!(network.lookups <= 100 / 11 + 8 + 4, "{network:?}");
    let out = swarm.dir.path().join("out");
    let name = swarm.name(17, "m");
    let report = swarm.nodes[83].get(&name, &out, &GetOptions::default(), &none).unwrap();
    assert!(restored(&out) == bytes);
    assert!(report.lookups <= 100 / 11 + 8 + 3, "{}", report.lookups);
    let closest = swarm.nodes[5].find_closest(b"anything").unwrap();
    assert_eq!(closest.len(), 20);
}
