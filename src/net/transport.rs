//! How bytes get from one peer to another: TCP or QUIC, encrypted, with many streams in one connection.
//!
//! Both ends of every connection prove that they hold the key of their peer id, so an answer is known to come from whom it was asked of.

use std::time::Duration;

use futures::io::BufReader;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, MemoryTransport, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, dns, quic, tcp};

use crate::error::{Error, Result};
use crate::net::mux::MuxUpgrade;
use crate::net::tls::TlsUpgrade;

/// A transport that a node can be started on. Whatever libp2p can box: see [`tcp_and_quic`] and [`memory`] for two.
pub type Transport = Boxed<(PeerId, StreamMuxerBox)>;

/// Bytes that are read from a connection at once. What is above reads a few thousand at a time.
const READ_BYTES: usize = 128 << 10;

/// How long a connection may take until it is encrypted and has streams.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the other end may leave what was sent without a sign of its arrival, or have no room for more, before the connection is
/// given up.
const SILENCE: Duration = Duration::from_secs(20);

/// Without anything to send, how often the other end is asked for such a sign.
const PROBE: Duration = Duration::from_secs(5);

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
    let quic = quic::tokio::Transport::new(quic::Config::new(key));
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(OrTransport::new(quic, tcp).map(|either, _| either.into_inner()).boxed())
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
