//! Who is not let in (guarantees, "Security: QUIC"), and what is not a frame.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carillon_link::quic::{Options, connect, listen};
use carillon_link::tls::{ALPN, Identity, Role, TlsError};
use carillon_link::{Peer, local};
use carillon_protocol::frame::{LinkFrame, Open};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::Authority;
use crate::quic::{Certificates, LOOPBACK};
use crate::support::{PATIENCE, Process, Shard, frame};

/// Long enough for several attempts.
const A_WHILE: Duration = Duration::from_millis(500);

/// Checks as what somebody who connects as `connecting` arrives at a listener, if at all.
fn check(listening: &Identity, connecting: &Identity, arrives: Option<Role>, what: &str) {
    let process = Process::start();
    let (router, gateway) = (Shard::new(), Shard::new());
    let options = Options::default();
    let listener =
        listen(&process.handle, LOOPBACK, listening, router.mailbox.clone(), options.clone()).unwrap();
    let connector = connect(
        &process.handle,
        Peer(0),
        listener.local_addr().to_string(),
        connecting,
        vec![gateway.mailbox.clone()],
        options,
    )
    .unwrap();
    // Who is refused may be given a lane for a moment: in TLS 1.3 they are through before the router has judged them.
    let patience = if arrives.is_some() { PATIENCE } else { A_WHILE };
    let spoken_on = gateway.within(patience, || gateway.arrival_if_any()).map(|mut arrival| {
        assert_eq!(arrival.from, Role::Router);
        // What somebody says is not what they are: this is how a router greets.
        let _ = arrival.lane.send(&Open { incarnation: 1, shard: 0 }.to_frame());
        arrival.lane.flush();
        arrival.lane
    });
    let arrived = router.within(patience, || router.arrival_if_any());
    drop((connector, spoken_on));
    assert_eq!(arrived.map(|arrival| arrival.from), arrives, "{what}");
}

/// What somebody is, is what their certificate names. A gateway cannot pose as a router, at either end: not by the
/// greeting that it sends, and not by the common name in its certificate. Routers connect to routers.
#[test]
fn a_peer_is_what_its_certificate_names() {
    let parted_by_name_alone = Authority::new();
    parted_by_name_alone.certify(
        "gateway",
        Role::Router.certificate_name(),
        &[Role::Gateway.certificate_name()],
    );
    let named = |role| parted_by_name_alone.identity(role);
    let made = Certificates::new();
    let made = |role| made.identity(role);
    let identity: [&dyn Fn(Role) -> Identity; 2] = [&named, &made];
    for of in identity {
        check(&of(Role::Router), &of(Role::Gateway), Some(Role::Gateway), "a gateway");
        check(&of(Role::Router), &of(Role::Router), Some(Role::Router), "a router at a router");
        check(&of(Role::Gateway), &of(Role::Gateway), None, "a gateway posed as a router");
        check(&of(Role::Gateway), &of(Role::Router), None, "a gateway posed as one, for a router");
    }
}

/// In one process nobody has to show anything: the ends are what they are.
#[test]
fn the_ends_of_a_local_lane_are_a_gateway_and_a_router() {
    let (gateway, router) = (Shard::new(), Shard::new());
    assert!(local::connect(0, &gateway.mailbox, &router.mailbox, Peer(3)));
    let (at_gateway, at_router) = (gateway.arrival(), router.arrival());
    assert_eq!((at_gateway.from, at_gateway.peer), (Role::Router, Peer(3)));
    assert_eq!((at_router.from, at_router.peer), (Role::Gateway, Peer(0)));
}

/// The right roles of another authority are strangers, at both ends.
#[test]
fn a_foreign_authority_is_refused() {
    let (ours, foreign) = (Certificates::new(), Certificates::new());
    for role in [Role::Gateway, Role::Router] {
        check(&ours.identity(Role::Router), &foreign.identity(role), None, "a foreigner connects");
        check(&foreign.identity(Role::Router), &ours.identity(role), None, "a foreigner listens");
    }
}

const BOTH: &[&str] = &[Role::Router.certificate_name(), Role::Gateway.certificate_name()];
const NEITHER: &[&str] = &["somebody.carillon.internal"];

/// A certificate that names no role, or both, is nobody's: its owner is not let in, not gone on with, and told so when
/// it starts.
#[test]
fn a_certificate_without_one_role_is_refused() {
    let client = Client::new();
    client.authority.certify("both", "somebody", BOTH);
    client.authority.certify("neither", Role::Router.certificate_name(), NEITHER);
    client.authority.certify("any", "somebody", &["*.carillon.internal"]);
    for (stem, is_let_in) in
        [("gateway", true), ("router", true), ("both", false), ("neither", false), ("any", false)]
    {
        let hello = frame(1, 8);
        let said = client.connect(&[ALPN], Some(stem), &hello);
        let lives = client.process.handle.block_on(said).is_some();
        assert_eq!((lives, client.router.lane_if_any().is_some()), (is_let_in, is_let_in), "{stem}");
        let goes_on = client.process.handle.block_on(client.is_gone_on_with(stem));
        assert_eq!(goes_on, stem == "router", "{stem} listens");
    }
    for (role, names) in [(Role::Router, BOTH), (Role::Gateway, BOTH), (Role::Router, NEITHER)] {
        let authority = Authority::new();
        authority.certify(role.certificate_file().trim_end_matches(".pem"), "somebody", names);
        let told = Identity::load(authority.directory(), role).err().unwrap();
        assert!(matches!(told, TlsError::Role { .. }), "{told}");
    }
}

/// Somebody of the tests' own, with any certificate or none, and any application protocol.
struct Client {
    process: Process,
    router: Shard,
    listener: carillon_link::quic::Listener,
    authority: Authority,
}

impl Client {
    fn new() -> Client {
        let (authority, process, router) = (Authority::new(), Process::start(), Shard::new());
        let identity = authority.identity(Role::Router);
        let listener =
            listen(&process.handle, LOOPBACK, &identity, router.mailbox.clone(), Options::default()).unwrap();
        Client { process, router, listener, authority }
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.authority.directory().join(file)).unwrap()
    }

    fn certified(&self, stem: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = vec![CertificateDer::from_pem_slice(&self.read(&format!("{stem}.pem"))).unwrap()];
        (chain, PrivateKeyDer::from_pem_slice(&self.read(&format!("{stem}.key"))).unwrap())
    }

    /// Connects, and says something on a stream; the connection that lived through that.
    async fn connect(
        &self,
        protocols: &[&[u8]],
        certificate: Option<&str>,
        say: &[u8],
    ) -> Option<(quinn::Connection, quinn::SendStream, quinn::RecvStream)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.read("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            Some(stem) => {
                let (chain, key) = self.certified(stem);
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
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

    /// Listens itself with this certificate: whether a gateway that connects goes on with it.
    async fn is_gone_on_with(&self, stem: &str) -> bool {
        let (chain, key) = self.certified(stem);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
        let endpoint = quinn::Endpoint::server(config, LOOPBACK).unwrap();
        let gateway = Shard::new();
        let _connector = connect(
            &self.process.handle,
            Peer(0),
            endpoint.local_addr().unwrap().to_string(),
            &self.authority.identity(Role::Gateway),
            vec![gateway.mailbox.clone()],
            Options::default(),
        )
        .unwrap();
        match endpoint.accept().await.unwrap().await {
            Ok(connection) => tokio::time::timeout(A_WHILE, connection.closed()).await.is_err(),
            Err(_) => false,
        }
    }
}

/// Exactly our application protocol, and a certificate: nothing less opens a lane.
#[test]
fn another_protocol_or_no_certificate_is_refused() {
    let client = Client::new();
    let hello = frame(1, 8);
    let connects = |protocols: &[&[u8]], certificate: bool| {
        let certificate = certificate.then_some("gateway");
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
            client.process.handle.block_on(client.connect(&[ALPN], Some("gateway"), say)).unwrap();
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
        client.process.handle.block_on(client.connect(&[ALPN], Some("gateway"), &all[..3])).unwrap();
    client.process.handle.block_on(async {
        for piece in all[3..].chunks(7) {
            send.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut lane = client.router.lane();
    client.router.expect(&mut lane, 1..20);
}
