//! Records that somebody else brings: what is replayed, forged, foreign, expired, too large or garbage is refused by every node that it is
//! brought to, is counted there, and changes nothing that anybody reads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use caskad::net::record::{Body, CataloguePlace, Record};
use caskad::net::transport;
use caskad::{Error, GetOptions, Hash, Identity, Monitor, Node, PutOptions, limits};
use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::kad::{self, QueryId, QueryResult, Quorum, store::MemoryStore};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm as Libp2pSwarm, identify};
use tokio::runtime::Runtime;

use crate::liar::{Liar, Lie};
use crate::nodes::{Swarm, damage, eventually, payload, quick, random, restored};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

/// A peer that reads and writes records, and does nothing else.
pub(crate) struct Scribe {
    runtime: Runtime,
    swarm: Libp2pSwarm<Behaviour>,
    peers: Vec<PeerId>,
}

impl Scribe {
    /// Connects to the nodes at `addresses`.
    pub(crate) fn join(addresses: &[Multiaddr]) -> Scribe {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let key = Keypair::generate_ed25519();
        let own = PeerId::from(key.public());
        let mut config = kad::Config::new(StreamProtocol::new("/caskad/kad/1/caskad"));
        // libp2p-kad 0.49 means to end the stream of a record that is refused, and does so only when its time is up.
        config.set_substreams_timeout(Duration::from_secs(1));
        let mut kad = kad::Behaviour::with_config(own, MemoryStore::new(own), config);
        kad.set_mode(Some(kad::Mode::Client));
        let identify = identify::Behaviour::new(identify::Config::new("/caskad/id/1/caskad".to_owned(), key.public()));
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
        let _inside = runtime.enter();
        let mut swarm = Libp2pSwarm::new(transport::memory(&key).unwrap(), Behaviour { kad, identify }, own, config);
        addresses.iter().for_each(|address| swarm.dial(address.clone()).unwrap());
        let mut peers = Vec::new();
        runtime.block_on(async {
            while peers.len() < addresses.len() {
                let event = tokio::time::timeout(PATIENCE, swarm.select_next_some()).await.unwrap();
                if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id,
                    info,
                    ..
                })) = event
                {
                    info.listen_addrs.into_iter().for_each(|address| {
                        swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    });
                    peers.push(peer_id);
                }
            }
        });
        drop(_inside);
        Scribe { runtime, swarm, peers }
    }

    /// The result that ends `query`; for a lookup the first record that is found.
    fn result(&mut self, query: QueryId) -> QueryResult {
        let Scribe { runtime, swarm, .. } = self;
        runtime.block_on(async {
            loop {
                let event = tokio::time::timeout(PATIENCE, swarm.select_next_some()).await.unwrap();
                if let SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                    id,
                    result,
                    ..
                })) = event
                    && id == query
                {
                    return result;
                }
            }
        })
    }

    fn read(&mut self, key: &Hash) -> Vec<u8> {
        let query = self.swarm.behaviour_mut().kad.get_record(kad::RecordKey::new(key.as_bytes()));
        match self.result(query) {
            QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) => found.record.value,
            other => panic!("{other:?}"),
        }
    }

    /// Brings a record to every node. How many take it.
    pub(crate) fn write(&mut self, key: &Hash, value: &[u8]) -> usize {
        let record = kad::Record::new(kad::RecordKey::new(key.as_bytes()), value.to_vec());
        let peers = self.peers.clone();
        let query = self.swarm.behaviour_mut().kad.put_record_to(record, peers.into_iter(), Quorum::All);
        match self.result(query) {
            QueryResult::PutRecord(Ok(_)) => self.peers.len(),
            QueryResult::PutRecord(Err(kad::PutRecordError::QuorumFailed { success, .. })) => success.len(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nobody_changes_a_record_of_anothers() {
    let swarm = Swarm::start(4, quick());
    let (publisher, none) = (&swarm.nodes[0], Monitor::none());
    let put = |seed| {
        let bytes = payload(random(100_000, seed));
        publisher.put(&"m".parse().unwrap(), bytes, &PutOptions::default(), &none).unwrap();
    };
    let addresses: Vec<Multiaddr> = (0..4).map(|index| swarm.address(index)).collect();
    let mut scribe = Scribe::join(&addresses);
    let key = Record::key(&publisher.scope(), "m");
    put(1);
    let old = scribe.read(&key);
    put(2);
    eventually("the new record is out", || scribe_read(&addresses, &key) != old);
    let new = scribe_read(&addresses, &key);

    let stranger = Identity::generate().unwrap();
    let body = Body { hash: Hash::of(b"manifest"), len: 8, pieces: None };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let own = |name: &str, expires_unix_ms| {
        let name = name.to_owned();
        let record = Record {
            publisher: stranger.scope(),
            name,
            seq: u64::MAX,
            version: 9,
            manifest: body,
            catalogue: CataloguePlace::Chunks(body),
            expires_unix_ms,
            peer: [0; 32],
        };
        record.sign(&stranger).bytes().to_vec()
    };
    let mut forged = new.clone();
    *forged.last_mut().unwrap() ^= 1;
    let own_key = Record::key(&stranger.scope(), "m");
    let refused: [(&str, &Hash, Vec<u8>); 7] = [
        ("replayed", &key, old),
        ("forged", &key, forged),
        ("another's, in the place of this one", &key, own("m", now + 600_000)),
        ("this one, in another's place", &own_key, new),
        ("expired", &own_key, own("m", now - 1)),
        ("too large", &own_key, vec![7; limits::RECORD_BYTES + 1]),
        ("garbage", &own_key, b"garbage".to_vec()),
    ];
    let counted = || swarm.nodes.iter().map(|node| node.health().unwrap().refused_records).collect::<Vec<u64>>();
    for (what, key, value) in &refused {
        let before = counted();
        assert_eq!(scribe.write(key, value), 0, "{what}");
        eventually("each node has counted it", || counted().iter().zip(&before).all(|(now, before)| now > before));
    }
    // What is refused was what was wrong with them: a record of one's own is taken.
    let taken = own("m", now + 600_000);
    assert!((0..5).any(|_| scribe.write(&own_key, &taken) == 4));
    let scoped = format!("@{}/m", publisher.scope()).parse().unwrap();
    for node in &swarm.nodes[1..] {
        assert_eq!(node.log(&scoped, &none).unwrap().last().unwrap().version, 2);
    }
}

/// What a peer that has just come reads.
fn scribe_read(addresses: &[Multiaddr], key: &Hash) -> Vec<u8> {
    Scribe::join(addresses).read(key)
}

#[test]
fn a_record_is_found_whatever_others_make_up() {
    let mut config = quick();
    // What is published stays where it is, and so the reader has none of it.
    config.refresh_interval = Duration::from_secs(600);
    let mut swarm = Swarm::start(2, config);
    let keys = ["a", "b", "c", "d", "e", "f"];
    keys.iter().for_each(|key| drop(swarm.put(0, key, random(100_000, 1))));
    let records: Vec<Hash> = keys.iter().map(|key| Record::key(&swarm.nodes[0].scope(), key)).collect();
    let start = |_| Liar::with_records(Lie::Hangup, &records, &swarm.free_address(), &swarm.address(0));
    let liars: Vec<Liar> = (0..12).map(start).collect();
    let reader = swarm.add();
    let known = || -> Vec<String> { reader.peers().unwrap().into_iter().map(|peer| peer.peer_id).collect() };
    eventually("the reader knows the liars", || {
        let known = known();
        liars.iter().all(|liar| known.contains(&liar.peer.to_string()))
    });
    for key in keys {
        let found = |_| reader.log(&swarm.name(0, key).key, &Monitor::none()).is_ok_and(|log| log.len() == 1);
        assert!((0..3).any(found), "{key}");
    }
}

#[test]
fn machines_that_share_a_scope_publish_side_by_side() {
    let mut config = quick();
    config.ttl = Duration::from_secs(40);
    let mut swarm = Swarm::start(4, config.clone());
    let none = Monitor::none();
    let second = swarm.add_sharing(0);
    let first = swarm.nodes[0].clone();
    let scope = first.scope();
    assert_eq!(second.scope(), scope);
    let put = |node: &Node, key: &str, seed| {
        node.put(&key.parse().unwrap(), payload(random(300_000, seed)), &PutOptions::default(), &none)
    };
    put(&first, "k/a", 1).unwrap();
    put(&first, "k/f", 2).unwrap();
    put(&second, "k/b", 3).unwrap();
    // The same number would be another version.
    assert!(put(&second, "k/f", 4).unwrap_err().to_string().contains("shares this scope"));
    assert!(second.health().unwrap().unpublished_why.unwrap().contains("k/f@1 is another version"));
    put(&first, "k/a", 5).unwrap();
    // One after another of the same machine.
    put(&second, "k/b", 6).unwrap();
    put(&second, "k/b", 3).unwrap();
    let names = |node: &Node| -> Vec<String> {
        node.keys_of(&scope, &none).unwrap_or_default().iter().map(|key| key.key.name().to_owned()).collect()
    };
    for node in &swarm.nodes {
        eventually("the keys of both are listed", || names(node) == ["k/a", "k/b", "k/f"]);
    }
    let out = swarm.dir.path().join("out");
    let get = |node: &Node, key: &str, seed| {
        node.get(&key.parse().unwrap(), &out, &GetOptions::default(), &none).unwrap();
        assert!(restored(&out) == random(300_000, seed));
        std::fs::remove_file(&out).unwrap();
    };
    get(&swarm.nodes[2], &format!("@{scope}/k/f"), 2);
    get(&swarm.nodes[2], &format!("@{scope}/k/b"), 3);
    get(&second, "k/a@2", 5);
    get(&first, "k/b", 3);
    // The copy here goes by its whole name, and is healed like any other.
    let copy = format!("@{scope}/k/b").parse().unwrap();
    assert!(first.store().verify(&copy, &none).unwrap().ok && first.store().pin(&copy).is_ok());
    let pack = swarm.store(0).join("packs").join("p-00000001.pack");
    let len = std::fs::metadata(&pack).unwrap().len() as usize;
    damage(&pack, (200_000..len).step_by(500));
    let found = first.store().verify_all(&none).unwrap();
    assert!(found.damaged.iter().any(|damage| damage.key.as_ref().is_some_and(|key| key.scope().is_some())));
    // The manifest first, and then what it names.
    let heal = || first.heal(&first.store().verify_all(&none).unwrap(), &none).unwrap();
    eventually("it is whole again", || heal() == 0 || first.store().verify(&copy, &none).unwrap().ok);
    assert!(first.store().verify(&copy, &none).unwrap().ok);
    // What one has removed itself it does not get back.
    put(&first, "k/z", 8).unwrap();
    first.store().remove(&"k/z@1".parse().unwrap()).unwrap();
    let gone = first.get(&"k/z".parse().unwrap(), &out, &GetOptions::default(), &none);
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    assert_eq!(second.version(&"k/f".parse().unwrap(), &none).unwrap().bytes(), 300_000);
    // Renewals take turns, and neither forgets what the other has.
    let renewed = std::time::Instant::now() + config.ttl / 3;
    while std::time::Instant::now() < renewed {
        let names = names(&swarm.nodes[1]);
        assert!(names.is_empty() || names == ["k/a", "k/b", "k/f"], "{names:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    eventually("the keys of both are still listed", || names(&swarm.nodes[1]) == ["k/a", "k/b", "k/f"]);
}

#[test]
fn each_new_key_is_listed_soon() {
    let mut config = quick();
    // Long before what is published is renewed.
    (config.ttl, config.refresh_interval) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let swarm = Swarm::start(3, config);
    let scope = swarm.nodes[0].scope();
    for (number, key) in ["one", "two", "three"].into_iter().enumerate() {
        swarm.put(0, key, random(100_000, number as u64));
        let listed = || swarm.nodes[1].keys_of(&scope, &Monitor::none()).unwrap_or_default().len();
        eventually("the key is listed", || listed() == number + 1);
    }
}

#[test]
fn what_is_removed_is_named_no_more_and_what_others_of_the_scope_have_stays() {
    let mut swarm = Swarm::start(4, quick());
    let second = swarm.add_sharing(0);
    let (first, reader, none) = (swarm.nodes[0].clone(), swarm.nodes[2].clone(), Monitor::none());
    let versions = |key: &str| -> Vec<u64> {
        let log = reader.log(&swarm.name(0, key).key, &none).unwrap_or_default();
        log.iter().map(|version| version.version).collect()
    };
    let remove = |version: &str| first.store().remove(&version.parse().unwrap()).unwrap();
    swarm.put(0, "alone", random(100_000, 1));
    swarm.put(0, "both", random(100_000, 2));
    swarm.put(0, "both", random(100_000, 3));
    remove("both@1");
    first.publish(&"both".parse().unwrap(), &none).unwrap();
    second.put(&"both".parse().unwrap(), payload(random(100_000, 4)), &PutOptions::default(), &none).unwrap();
    assert_eq!((versions("alone"), versions("both")), (vec![1], vec![1, 2]));
    remove("alone@1");
    remove("both@2");
    first.wake();
    eventually("what is left is named", || versions("alone").is_empty() && versions("both") == [1]);
    let names = || -> Vec<String> {
        let keys = reader.keys_of(&first.scope(), &none).unwrap_or_default();
        keys.iter().map(|key| key.key.name().to_owned()).collect()
    };
    eventually("and listed", || names() == ["both"]);
    assert_eq!(swarm.put(0, "alone", random(100_000, 5)).version, 2);
    assert_eq!(versions("alone"), [2], "what comes later is named again");
}
