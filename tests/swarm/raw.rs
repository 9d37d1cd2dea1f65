//! [`Raw`]: a peer that says just what a test has it say.

use std::time::Duration;

use caskad::net::transport;
use caskad::net::wire::{FRAME_HEADER_BYTES, Frame, VERSION, decode_header};
use futures::StreamExt as _;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm};

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: libp2p_stream::Behaviour,
}

pub(crate) struct Raw {
    runtime: tokio::runtime::Runtime,
    stream: Stream,
    /// Its public key.
    pub(crate) key: [u8; 32],
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Raw {
    /// Connects to the node at `address`, and greets it.
    pub(crate) fn connect(address: &Multiaddr, network: &str) -> Raw {
        Raw::try_connect(address, network).unwrap()
    }

    pub(crate) fn try_connect(address: &Multiaddr, network: &str) -> Option<Raw> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let key = Keypair::generate_ed25519();
        let public = key.public().try_into_ed25519().unwrap().to_bytes();
        let protocol = StreamProtocol::try_from_owned(format!("/caskad/chunk/1/{network}")).unwrap();
        let stream = runtime.block_on(async {
            let streams = libp2p_stream::Behaviour::new();
            let mut control = streams.new_control();
            let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
            let own = PeerId::from(key.public());
            let mut swarm = Swarm::new(transport::memory(&key).unwrap(), Behaviour { streams }, own, config);
            swarm.dial(address.clone()).unwrap();
            let peer = tokio::time::timeout(PATIENCE, async {
                loop {
                    match swarm.select_next_some().await {
                        SwarmEvent::ConnectionEstablished { peer_id, .. } => return Some(peer_id),
                        SwarmEvent::OutgoingConnectionError { .. } => return None,
                        _ => {}
                    }
                }
            });
            let peer = peer.await.unwrap()?;
            tokio::spawn(async move {
                loop {
                    swarm.select_next_some().await;
                }
            });
            let mut stream = control.open_stream(peer, protocol).await.ok()?;
            let mut bytes = Vec::new();
            Frame::Hello { version: VERSION, window: 64 }.encode(&mut bytes);
            stream.write_all(&bytes).await.ok()?;
            stream.flush().await.ok()?;
            Some(stream)
        })?;
        let mut raw = Raw { runtime, stream, key: public };
        matches!(raw.next()?, Frame::Hello { .. }).then_some(raw)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let Raw { runtime, stream, .. } = self;
        runtime.block_on(async {
            stream.write_all(bytes).await.unwrap();
            stream.flush().await.unwrap();
        });
    }

    /// Sends as much as is taken in two seconds.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) {
        let Raw { runtime, stream, .. } = self;
        runtime.block_on(async {
            let _ = tokio::time::timeout(Duration::from_secs(2), stream.write_all(bytes)).await;
        });
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let Raw { runtime, stream, .. } = self;
        runtime.block_on(async {
            let read = async {
                let mut header = [0; FRAME_HEADER_BYTES];
                stream.read_exact(&mut header).await.ok()?;
                let (len, kind) = decode_header(header).unwrap();
                let mut fields = vec![0; len];
                stream.read_exact(&mut fields).await.ok()?;
                Some(Frame::decode(kind, &fields).unwrap())
            };
            tokio::time::timeout(PATIENCE, read).await.unwrap()
        })
    }

    pub(crate) fn ask(&mut self, frame: &Frame) -> Frame {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send(&bytes);
        self.next().unwrap()
    }
}
