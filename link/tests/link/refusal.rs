//! Who is not let in (guarantees, "Security: QUIC"), and what is not a frame.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carillon_link::Peer;
use carillon_link::quic::{Options, connect, listen};
use carillon_link::tls::{ALPN, Identity, Role};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::quic::{Certificates, LOOPBACK};
use crate::support::{PATIENCE, Process, Shard, frame};

/// Long enough for several attempts.
const A_WHILE: Duration = Duration::from_millis(500);

/// Checks whether a frame goes from a gateway with one identity to a router with the other.
fn check(router_identity: &Identity, gateway_identity: &Identity, passes: bool, what: &str) {
    let patience = if passes { PATIENCE } else { A_WHILE };
    let process = Process::start();
    let (router, gateway) = (Shard::new(), Shard::new());
    let options = Options::default();
    let listener =
        listen(&process.handle, LOOPBACK, router_identity, router.mailbox.clone(), options.clone()).unwrap();
    let connector = connect(
        &process.handle,
        Peer(0),
        listener.local_addr().to_string(),
        gateway_identity,
        vec![gateway.mailbox.clone()],
        options,
    )
    .unwrap();
    let mut lanes = Vec::new();
    let passed = router.within(patience, || {
        // A refused gateway may be given a lane for a moment: in TLS 1.3 it is through before the router has
        // judged it.
        if let Some(mut lane) = gateway.within(patience / 2, || gateway.lane_if_any()) {
            let _ = lane.send(&frame(1, 8));
            lane.flush();
            lanes.push(lane);
        }
        router.lane_if_any()
    });
    drop(connector);
    assert_eq!(passed.is_some(), passes, "{what}");
}

/// A directory with an authority whose certificates may be used at both ends as far as their key usage goes:
/// only the names part the roles.
fn certificates_parted_by_name_alone() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    fs::write(directory.path().join("ca.pem"), pem).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    for role in [Role::Router, Role::Gateway] {
        let mut params = CertificateParams::new(vec![role.certificate_name().to_string()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        fs::write(directory.path().join(role.certificate_file()), pem).unwrap();
        fs::write(directory.path().join(role.key_file()), key.serialize_pem()).unwrap();
    }
    directory
}

/// A gateway cannot pose as a router, nor a router as a gateway, by name and not only by key usage.
#[test]
fn roles_are_not_exchangeable() {
    let directory = certificates_parted_by_name_alone();
    let named = |role| Identity::load(directory.path(), role).unwrap();
    let made = Certificates::new();
    let made = |role| made.identity(role);
    let identity: [&dyn Fn(Role) -> Identity; 2] = [&named, &made];
    for of in identity {
        check(&of(Role::Router), &of(Role::Gateway), true, "each in its role");
        check(&of(Role::Gateway), &of(Role::Gateway), false, "a gateway posed as a router");
        check(&of(Role::Router), &of(Role::Router), false, "a router posed as a gateway");
    }
}

/// The right roles of another authority are strangers, at both ends.
#[test]
fn a_foreign_authority_is_refused() {
    let (ours, foreign) = (Certificates::new(), Certificates::new());
    check(&ours.identity(Role::Router), &foreign.identity(Role::Gateway), false, "a foreign gateway");
    check(&foreign.identity(Role::Router), &ours.identity(Role::Gateway), false, "a foreign router");
}

/// A client of the tests' own, with the gateway's certificate or none, and any application protocol.
struct Client {
    process: Process,
    router: Shard,
    listener: carillon_link::quic::Listener,
    certificates: Certificates,
}

impl Client {
    fn new() -> Client {
        let (certificates, process, router) = (Certificates::new(), Process::start(), Shard::new());
        let identity = certificates.identity(Role::Router);
        let listener =
            listen(&process.handle, LOOPBACK, &identity, router.mailbox.clone(), Options::default()).unwrap();
        Client { process, router, listener, certificates }
    }

    /// Connects, and says something on a stream; the connection that lived through that.
    async fn connect(
        &self,
        protocols: &[&[u8]],
        certificate: bool,
        say: &[u8],
    ) -> Option<(quinn::Connection, quinn::SendStream, quinn::RecvStream)> {
        let read = |file: &str| fs::read(self.certificates.directory().join(file)).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if certificate {
            let chain = vec![CertificateDer::from_pem_slice(&read("gateway.pem")).unwrap()];
            config
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&read("gateway.key")).unwrap())
                .unwrap()
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let endpoint = quinn::Endpoint::client(SocketAddr::new(LOOPBACK.ip(), 0)).unwrap();
        let address = self.listener.local_addr();
        let connecting = endpoint.connect_with(config, address, Role::Router.certificate_name()).unwrap();
        let connection = connecting.await.ok()?;
        let (mut send, receive) = connection.open_bi().await.ok()?;
        send.write_all(say).await.ok()?;
        match tokio::time::timeout(A_WHILE, connection.closed()).await {
            Ok(_refused) => None,
            Err(_lives) => Some((connection, send, receive)),
        }
    }
}

/// Exactly our application protocol, and a certificate: nothing less opens a lane.
#[test]
fn another_protocol_or_no_certificate_is_refused() {
    let client = Client::new();
    let hello = frame(1, 8);
    let connects = |protocols: &[&[u8]], certificate| {
        let lives = client.process.handle.block_on(client.connect(protocols, certificate, &hello)).is_some();
        assert_eq!(client.router.lane_if_any().is_some(), lives);
        lives
    };
    assert!(connects(&[ALPN], true));
    assert!(connects(&[b"h3", ALPN], true));
    assert!(!connects(&[], true), "no protocol");
    for protocol in ["carillon-link/2", "carillon-link", "h3"] {
        assert!(!connects(&[protocol.as_bytes()], true), "{protocol}");
    }
    assert!(!connects(&[ALPN], false), "no certificate");
}

/// Bytes that are no frames, or a length above the cap, close their lane and nothing else.
#[test]
fn what_is_not_a_frame_closes_the_lane() {
    let client = Client::new();
    let too_long = [1, 0, 7, 1, 1, 0, 4, 0];
    for (say, frames) in
        [(&b"GET / HTTP/1.1\r\n\r\n"[..], 0), (&too_long[..], 0), (&[frame(1, 8), vec![9; 8]].concat(), 1)]
    {
        let (connection, _send, mut receive) =
            client.process.handle.block_on(client.connect(&[ALPN], true, say)).unwrap();
        let mut lane = client.router.lane();
        client.router.expect(&mut lane, 1..1 + frames);
        client.router.expect_closed(&mut lane);
        let end = client.process.handle.block_on(receive.read(&mut [0; 8]));
        assert!(matches!(end, Err(quinn::ReadError::Reset(_))), "{end:?}");
        // Another stream of the same connection is a lane all the same.
        client.process.handle.block_on(async {
            connection.open_bi().await.unwrap().0.write_all(&frame(5, 8)).await.unwrap();
        });
        let mut lane = client.router.lane();
        client.router.expect(&mut lane, 5..6);
    }
}

/// Frames that come in the smallest pieces are put together.
#[test]
fn frames_in_pieces_are_put_together() {
    let client = Client::new();
    let all: Vec<u8> =
        (1..20).flat_map(|number| frame(number, 40 * usize::try_from(number).unwrap())).collect();
    let (_connection, mut send, _receive) =
        client.process.handle.block_on(client.connect(&[ALPN], true, &all[..3])).unwrap();
    client.process.handle.block_on(async {
        for piece in all[3..].chunks(7) {
            send.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut lane = client.router.lane();
    client.router.expect(&mut lane, 1..20);
}
