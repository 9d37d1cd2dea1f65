//! libp2p's TLS (<https://github.com/libp2p/specs/blob/master/tls/tls.md>) with AES before ChaCha20.
//!
//! libp2p's own upgrade offers ChaCha20 first and lets nobody choose. Where the processor has instructions for AES, as servers have, AES
//! takes a fraction of the time, and bytes that travel are encrypted once and decrypted once. On the wire this is `/tls/1.0.0` like any
//! other: certificates are made and checked by libp2p, records by rustls.

use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ConnectionCommon, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};

const ALPN: &[u8] = b"libp2p";

/// Encrypted bytes that are handed to the socket at once.
const UNSENT_BYTES: usize = 320 << 10;

/// What this end offers, the fastest here first. The end that dials decides.
fn cipher_suites() -> Vec<SupportedCipherSuite> {
    let aes = [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    let chacha = [cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    if has_aes() { [&aes[..], &chacha].concat() } else { [&chacha[..], &aes].concat() }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// The upgrade of a connection to an encrypted one, of which both ends know the peer at the other.
#[derive(Clone)]
pub(super) struct TlsUpgrade {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Why a connection could not be encrypted.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    #[error("the other end's certificate is not one of a peer: {0}")]
    Certificate(#[from] certificate::ParseError),
    #[error("the other end showed no certificate")]
    Anonymous,
}

impl TlsUpgrade {
    /// The upgrade for the peer that has `key`.
    pub(super) fn new(key: &Keypair) -> Result<TlsUpgrade, rustls::Error> {
        let made = certificate::generate(key).map_err(|error| rustls::Error::General(error.to_string()));
        let (certificate, private) = made?;
        let provider = CryptoProvider { cipher_suites: cipher_suites(), ..aws_lc_rs::default_provider() };
        let signer = provider.key_provider.load_private_key(private)?;
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signer)));
        let (provider, peers) = (Arc::new(provider), Arc::new(PeerCertificates));
        let versions = [&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<PeerCertificates>::clone(&peers))
            .with_client_cert_resolver(Arc::<SingleCertAndKey>::clone(&certified));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(peers)
            .with_cert_resolver(certified);
        client.alpn_protocols = vec![ALPN.to_vec()];
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Connections last; each proves anew who is at its other end.
        client.resumption = Resumption::disabled();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(TlsUpgrade { client: Arc::new(client), server: Arc::new(server) })
    }
}

impl UpgradeInfo for TlsUpgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/tls/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for TlsUpgrade {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_inbound(self, connection: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            let mut stream = TlsAcceptor::from(self.server).accept(connection).await?;
            Ok((bounded_peer(stream.get_mut().1)?, stream.into()))
        })
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for TlsUpgrade {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_outbound(self, connection: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            // An address in place of a name: peers are told by their keys, and the name is not sent.
            let unnamed = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let mut stream = TlsConnector::from(self.client).connect(unnamed, connection).await?;
            Ok((bounded_peer(stream.get_mut().1)?, stream.into()))
        })
    }
}

/// The peer at the other end of a connection after its handshake. What waits to be sent over it is bounded from here on.
fn bounded_peer<D>(connection: &mut ConnectionCommon<D>) -> Result<PeerId, TlsError> {
    connection.set_buffer_limit(Some(UNSENT_BYTES));
    match connection.peer_certificates() {
        Some([certificate]) => Ok(certificate::parse(certificate)?.peer_id()),
        _ => Err(TlsError::Anonymous),
    }
}

/// Takes the certificates that libp2p prescribes: one alone, signed with its own key, which is signed for by a peer's.
#[derive(Debug)]
struct PeerCertificates;

impl PeerCertificates {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("a peer shows exactly one certificate".to_owned()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}

/// What the two traits of rustls ask in the same words of either end.
macro_rules! signatures_of_peers {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("peers speak TLS 1.3 only".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Self::check_signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Self::schemes()
        }
    };
}

impl ServerCertVerifier for PeerCertificates {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    signatures_of_peers!();
}

impl ClientCertVerifier for PeerCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    signatures_of_peers!();
}

#[cfg(test)]
mod tests {
    use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use libp2p::tcp::tokio::TcpStream;
    use rustls::{CipherSuite, NamedGroup};

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialing = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (dialed, accepted) = tokio::join!(dialing, listener.accept());
        (TcpStream(dialed.unwrap()), TcpStream(accepted.unwrap().0))
    }

    /// Both ends as they came out of the handshake between `dialer` and `listener`.
    async fn shake<D, L>(dialer: D, listener: L) -> ((PeerId, TlsStream<TcpStream>), (PeerId, TlsStream<TcpStream>))
    where
        D: OutboundConnectionUpgrade<TcpStream, Info = &'static str, Output = (PeerId, TlsStream<TcpStream>)>,
        L: InboundConnectionUpgrade<TcpStream, Info = &'static str, Output = (PeerId, TlsStream<TcpStream>)>,
        D::Error: std::fmt::Debug,
        L::Error: std::fmt::Debug,
    {
        let (dialed, accepted) = connected().await;
        let (name, offered) = (dialer.protocol_info().into_iter().next(), listener.protocol_info().into_iter().next());
        assert_eq!(name, offered);
        let name = name.unwrap();
        tokio::try_join!(async { Ok::<_, ()>(dialer.upgrade_outbound(dialed, name).await.unwrap()) }, async {
            Ok(listener.upgrade_inbound(accepted, name).await.unwrap())
        })
        .unwrap()
    }

    async fn assert_they_talk(mut one: TlsStream<TcpStream>, mut other: TlsStream<TcpStream>) {
        let said: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let mut heard = vec![0; said.len()];
        let saying = async {
            one.write_all(&said).await.unwrap();
            one.flush().await.unwrap();
        };
        tokio::join!(saying, async { other.read_exact(&mut heard).await.unwrap() });
        assert!(heard == said);
    }

    #[tokio::test]
    async fn two_ends_know_each_other_and_agree_on_the_fastest_cipher() {
        let (ours, theirs) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let upgrades = (TlsUpgrade::new(&ours).unwrap(), TlsUpgrade::new(&theirs).unwrap());
        let ((listener, dialed), (dialer, accepted)) = shake(upgrades.0, upgrades.1).await;
        assert_eq!((dialer, listener), (ours.public().to_peer_id(), theirs.public().to_peer_id()));
        let suite = dialed.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite == CipherSuite::TLS13_AES_128_GCM_SHA256, has_aes());
        let exchange = dialed.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(exchange, NamedGroup::X25519MLKEM768);
        assert_they_talk(dialed, accepted).await;
    }

    #[tokio::test]
    async fn libp2ps_own_tls_is_understood_at_either_end() {
        let (ours, theirs) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (upgrade, stock) = (TlsUpgrade::new(&ours).unwrap(), libp2p::tls::Config::new(&theirs).unwrap());
        let ((listener, dialed), (dialer, accepted)) = shake(upgrade.clone(), stock.clone()).await;
        assert_eq!((dialer, listener), (ours.public().to_peer_id(), theirs.public().to_peer_id()));
        assert_they_talk(accepted, dialed).await;
        let ((listener, dialed), (dialer, accepted)) = shake(stock, upgrade).await;
        assert_eq!((listener, dialer), (ours.public().to_peer_id(), theirs.public().to_peer_id()));
        assert_they_talk(dialed, accepted).await;
    }

    #[test]
    fn a_certificate_is_taken_alone_and_whole() {
        let key = Keypair::generate_ed25519();
        let (certificate, _) = certificate::generate(&key).unwrap();
        PeerCertificates::check(&certificate, &[]).unwrap();
        assert!(PeerCertificates::check(&certificate, std::slice::from_ref(&certificate)).is_err());
        for at in 0..certificate.len() {
            let mut bytes = certificate.to_vec();
            bytes[at] ^= 1;
            let flipped = CertificateDer::from(bytes);
            // A few bytes mean nothing; whatever is changed, nobody else's name comes of it.
            let known = certificate::parse(&flipped).map(|changed| changed.peer_id());
            assert!(known.is_err() || known.is_ok_and(|peer| peer == key.public().to_peer_id()), "byte {at} changed");
        }
        let cut = CertificateDer::from(certificate[..certificate.len() / 2].to_vec());
        assert!(PeerCertificates::check(&cut, &[]).is_err());
    }
}
