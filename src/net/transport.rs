//! How bytes get from one peer to another: TCP or QUIC, or through a third one, encrypted, with many streams in one connection.
//!
//! Both ends of every connection prove that they hold the key of their peer id, so an answer is known to come from whom it was asked of.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::io::BufReader;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, MemoryTransport, OrTransport, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport as _, dns, quic, relay, tcp};

use crate::error::{Error, Result};
use crate::net::circuits::Circuits;
use crate::net::mux::MuxUpgrade;
use crate::net::tls::TlsUpgrade;

/// A transport that a node can be started on. Whatever libp2p can box: see [`tcp_and_quic`] and [`memory`] for two.
pub type Transport = Boxed<(PeerId, StreamMuxerBox)>;

/// Bytes that are read from a connection at once. What is above reads a few thousand at a time.
const READ_BYTES: usize = 128 << 10;

/// How long a connection may take until it is encrypted and has streams.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a QUIC connection may take to be there: a peer that is gone gives no sign of it.
const QUIC_TIMEOUT: Duration = Duration::from_secs(3);

/// How much sooner a peer is dialled by TCP than by QUIC.
const BEFORE_QUIC: Duration = Duration::from_millis(250);

/// How much sooner it is dialled directly than through a relay.
const BEFORE_RELAYS: Duration = Duration::from_millis(500);

/// How long the other end may leave what was sent without a sign of its arrival, or have no room for more, before the connection is
/// given up.
const SILENCE: Duration = Duration::from_secs(10);

/// Without anything to send, how often the other end is asked for such a sign.
const PROBE: Duration = Duration::from_secs(3);

/// TCP with TLS and yamux, and QUIC; names are resolved by the system's DNS servers, where it has any.
pub fn tcp_and_quic(key: &Keypair) -> Result<Transport> {
    match dns::tokio::Transport::system(by_address(key)?) {
        Ok(named) => Ok(named.boxed()),
        Err(error) => {
            tracing::warn!("peers are reached by address only, not by name: {error}");
            by_address(key)
        }
    }
}

fn by_address(key: &Keypair) -> Result<Transport> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(|stream, _| {
            if let Err(error) = notice_silence(&stream.0) {
                tracing::debug!("a connection whose other end falls silent will be noticed late: {error}");
            }
            BufReader::with_capacity(READ_BYTES, stream)
        })
        .upgrade(Version::V1Lazy)
        .authenticate(tls_upgrade(key)?)
        .multiplex(MuxUpgrade)
        .timeout(UPGRADE_TIMEOUT)
        .boxed();
    let mut config = quic::Config::new(key);
    config.handshake_timeout = QUIC_TIMEOUT;
    let quic = quic::tokio::Transport::new(config);
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(OrTransport::new(Later(quic, BEFORE_QUIC), tcp).map(|either, _| either.into_inner()).boxed())
}

/// Reaches peers through relays too, by which `relay` does so; all else is left to `direct`.
pub(crate) fn through_relays(relay: relay::client::Transport, direct: Transport, key: &Keypair) -> Result<Transport> {
    let relay = Circuits::new(relay)
        .upgrade(Version::V1Lazy)
        .authenticate(tls_upgrade(key)?)
        .multiplex(MuxUpgrade)
        .timeout(UPGRADE_TIMEOUT)
        .boxed();
    Ok(OrTransport::new(Later(relay, BEFORE_RELAYS), direct).map(|either, _| either.into_inner()).boxed())
}

/// Dials a little later than the transport that it wraps, for one that is not preferred: a peer is dialled at all of its addresses at
/// once, and the first connection is kept (RFC 8305). TCP moves more bytes a second than QUIC, and tells at once when the other end is gone.
struct Later<T>(T, Duration);

impl<T: libp2p::Transport + Unpin> libp2p::Transport for Later<T>
where
    T::Dial: Send + 'static,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        let (dial, later) = (self.0.dial(address, options)?, self.1);
        Ok(async move {
            tokio::time::sleep(later).await;
            dial.await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Has the system end a connection whose other end is cut off or gone. One that is slow, and reads now and then, gives signs and is kept.
fn notice_silence(stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_tcp_user_timeout(stream, SILENCE.as_millis() as u32)?;
    sockopt::set_tcp_keepidle(stream, PROBE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// Fails where another program listens at `address`. libp2p shares ports, so that peers of two nodes would come to either of them.
pub(crate) fn check_free(address: &Multiaddr) -> Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    let bound = match parts.next() {
        Some(Protocol::Tcp(port @ 1..)) => TcpListener::bind((ip, port)).map(drop),
        Some(Protocol::Udp(port @ 1..)) => UdpSocket::bind((ip, port)).map(drop),
        _ => return Ok(()),
    };
    match bound {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::Network {
            what: "listening",
            why: format!("{address}: {error}; choose another address with --listen"),
        }),
        // Whatever else there is, is told by whoever listens.
        _ => Ok(()),
    }
}

/// Connections inside this process, for many nodes in one test: addresses are `/memory/N`.
pub fn memory(key: &Keypair) -> Result<Transport> {
    let memory = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(tls_upgrade(key)?)
        .multiplex(MuxUpgrade)
        .timeout(UPGRADE_TIMEOUT);
    Ok(memory.boxed())
}

fn tls_upgrade(key: &Keypair) -> Result<TlsUpgrade> {
    TlsUpgrade::new(key).map_err(|error| Error::Network { what: "the node's key", why: error.to_string() })
}
