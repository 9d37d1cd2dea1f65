//! [`Liar`]: a peer that speaks the protocol and means harm. It joins the network like any other, promises to keep what it is sent, and
//! answers as its [`Lie`] says.

use std::time::Duration;

use caskad::Hash;
use caskad::chunk::{Codec, Parcel};
use caskad::net::transport;
use caskad::net::wire::{FRAME_HEADER_BYTES, Frame, PutStatus, VERSION, decode_header};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures::{AsyncRead, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::kad;
use libp2p::kad::store::{MemoryStore, RecordStore as _};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, identify};

/// What it does to who asks it for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// As many bytes as there should be, and others.
    WrongBytes,
    /// A few bytes that come to many.
    Bomb,
    /// Nothing, for ever.
    Silence,
    /// A frame that announces more than any has.
    EndlessFrame,
    /// Bytes that are no frame.
    Garbage,
    /// The end of the stream.
    Hangup,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

pub(crate) struct Liar {
    pub(crate) peer: PeerId,
    _runtime: tokio::runtime::Runtime,
}

impl Liar {
    /// Joins the network of whoever listens at `join`.
    pub(crate) fn start(lie: Lie, listen: &Multiaddr, join: &Multiaddr) -> Liar {
        Liar::with_records(lie, &[], listen, join)
    }

    /// Has garbage for each of the records `made_up`, whatever it is brought.
    pub(crate) fn with_records(lie: Lie, made_up: &[Hash], listen: &Multiaddr, join: &Multiaddr) -> Liar {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let key = Keypair::generate_ed25519();
        let peer = PeerId::from(key.public());
        let _inside = runtime.enter();
        let mut config = kad::Config::new(StreamProtocol::new("/caskad/kad/1/caskad"));
        let mut records = MemoryStore::new(peer);
        for key in made_up {
            config.set_record_filtering(kad::StoreInserts::FilterBoth);
            let key = kad::RecordKey::new(key.as_bytes());
            records.put(kad::Record::new(key, b"garbage".to_vec())).unwrap();
        }
        let mut kad = kad::Behaviour::with_config(peer, records, config);
        kad.set_mode(Some(kad::Mode::Server));
        let identify = identify::Behaviour::new(identify::Config::new("/caskad/id/1/caskad".to_owned(), key.public()));
        let streams = libp2p_stream::Behaviour::new();
        let mut incoming = streams.new_control().accept(StreamProtocol::new("/caskad/chunk/1/caskad")).unwrap();
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(600));
        let mut swarm =
            Swarm::new(transport::memory(&key).unwrap(), Behaviour { kad, identify, streams }, peer, config);
        swarm.listen_on(listen.clone()).unwrap();
        swarm.dial(join.clone()).unwrap();
        runtime.spawn(async move {
            loop {
                if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id,
                    info,
                    ..
                })) = swarm.select_next_some().await
                {
                    for address in info.listen_addrs {
                        swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                }
            }
        });
        runtime.spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                tokio::spawn(serve(lie, stream));
            }
        });
        Liar { peer, _runtime: runtime }
    }
}

#[derive(NetworkBehaviour)]
struct Nothing {
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A peer that others note as one of Kademlia's, and that answers none of its questions.
pub(crate) struct Mute {
    pub(crate) peer: PeerId,
    _runtime: tokio::runtime::Runtime,
}

impl Mute {
    /// Connects to whoever listens at `join`.
    pub(crate) fn start(listen: &Multiaddr, join: &Multiaddr) -> Mute {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let key = Keypair::generate_ed25519();
        let peer = PeerId::from(key.public());
        let _inside = runtime.enter();
        let identify = identify::Behaviour::new(identify::Config::new("/caskad/id/1/caskad".to_owned(), key.public()));
        let streams = libp2p_stream::Behaviour::new();
        let mut incoming = streams.new_control().accept(StreamProtocol::new("/caskad/kad/1/caskad")).unwrap();
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(600));
        let mut swarm = Swarm::new(transport::memory(&key).unwrap(), Nothing { identify, streams }, peer, config);
        swarm.listen_on(listen.clone()).unwrap();
        swarm.dial(join.clone()).unwrap();
        runtime.spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        runtime.spawn(async move {
            let mut open = Vec::new();
            while let Some((_, stream)) = incoming.next().await {
                open.push(stream);
            }
        });
        Mute { peer, _runtime: runtime }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let (len, kind) = decode_header(header).ok()?;
    let mut fields = vec![0; len];
    stream.read_exact(&mut fields).await.ok()?;
    Frame::decode(kind, &fields).ok()
}

async fn serve(lie: Lie, mut stream: Stream) -> Option<()> {
    let mut bytes = Vec::new();
    Frame::Hello { version: VERSION, window: 64 }.encode(&mut bytes);
    stream.write_all(&bytes).await.ok()?;
    stream.flush().await.ok()?;
    while let Some(frame) = read(&mut stream).await {
        let answer = match frame {
            Frame::Hello { .. } => continue,
            Frame::Have(request, hashes) => Frame::Bits(request, vec![true; hashes.len()]),
            Frame::Hold(request, _, chunks) => Frame::Bits(request, vec![true; chunks.len()]),
            Frame::Put(request, _, parcels) => Frame::Taken(request, vec![PutStatus::Stored; parcels.len()]),
            Frame::Begin(request, _) | Frame::Commit(request, _) => Frame::Done(request),
            Frame::Get(request, hash, _) => {
                let home = *hash.as_bytes().first_chunk().unwrap();
                let parcel = |codec, plain_len, payload| Parcel { hash, home, plain_len, codec, base: None, payload };
                match lie {
                    Lie::WrongBytes => Frame::Data(request, parcel(Codec::Raw, 65_536, vec![7; 65_536])),
                    Lie::Bomb => {
                        let mut frame = zstd_safe::CCtx::create();
                        let mut payload = vec![0; 4096];
                        let plain = vec![0; 1 << 20];
                        let len = frame.compress(payload.as_mut_slice(), &plain, 3).unwrap();
                        payload.truncate(len);
                        Frame::Data(request, parcel(Codec::Zstd, 1 << 20, payload))
                    }
                    Lie::Silence => {
                        tokio::time::sleep(Duration::from_secs(600)).await;
                        return None;
                    }
                    Lie::EndlessFrame => {
                        stream.write_all(&[0xff, 0xff, 0xff, 0x7f, 25]).await.ok()?;
                        stream.write_all(&vec![0; 1 << 20]).await.ok()?;
                        return None;
                    }
                    Lie::Garbage => {
                        stream.write_all(&[5, 0, 0, 0, 200, 1, 2, 3, 4]).await.ok()?;
                        return None;
                    }
                    Lie::Hangup => return None,
                }
            }
            other => Frame::Miss(other.request()),
        };
        let mut bytes = Vec::new();
        answer.encode(&mut bytes);
        stream.write_all(&bytes).await.ok()?;
        stream.flush().await.ok()?;
    }
    Some(())
}
