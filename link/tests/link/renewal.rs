//! Certificates that are replaced while everything runs.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carillon_link::Peer;
use carillon_link::quic::{Connector, Listener, Options, connect, listen};
use carillon_link::tls::{ALPN, Identity, Role, TlsError};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::Authority;
use crate::quic::LOOPBACK;
use crate::support::{Process, Shard, eventually, send};

fn copy(from: &Authority, to: &Path, files: &[&str]) {
    for file in files {
        fs::copy(from.directory().join(file), to.join(file)).unwrap();
    }
}

/// Both authorities are trusted, as while one takes the other's place.
fn trust_both(one: &Authority, other: &Authority, directory: &Path) {
    let read = |authority: &Authority| fs::read_to_string(authority.directory().join("ca.pem")).unwrap();
    fs::write(directory.join("ca.pem"), format!("{}{}", read(one), read(other))).unwrap();
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&fs::read(path).unwrap()).unwrap()
}

/// A router that listens, with a directory of certificates of its own.
struct Router {
    process: Process,
    directory: tempfile::TempDir,
    identity: Identity,
    shard: Shard,
    listener: Listener,
}

impl Router {
    fn start(authority: &Authority) -> Router {
        let (process, directory, shard) = (Process::start(), tempfile::tempdir().unwrap(), Shard::new());
        copy(authority, directory.path(), &["ca.pem", "router.pem", "router.key"]);
        let identity = Identity::load(directory.path(), Role::Router).unwrap();
        let mailbox = shard.mailbox.clone();
        let listener = listen(&process.handle, LOOPBACK, &identity, mailbox, Options::default()).unwrap();
        Router { process, directory, identity, shard, listener }
    }

    fn connect(&self, identity: &Identity, shard: &Shard) -> Connector {
        connect(
            &self.process.handle,
            Peer(0),
            self.listener.local_addr().to_string(),
            identity,
            vec![shard.mailbox.clone()],
            Options::default(),
        )
        .unwrap()
    }

    /// The certificate that somebody sees who connects now, and trusts these.
    fn shown_to(&self, authorities: &[&Authority]) -> Option<CertificateDer<'static>> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in authorities {
            roots.add(certificate(&authority.directory().join("ca.pem"))).unwrap();
        }
        let directory = authorities[0].directory();
        let key = PrivateKeyDer::from_pem_slice(&fs::read(directory.join("gateway.key")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&directory.join("gateway.pem"))], key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        self.process.handle.block_on(async {
            let endpoint = quinn::Endpoint::client(SocketAddr::new(LOOPBACK.ip(), 0)).unwrap();
            let (address, name) = (self.listener.local_addr(), Role::Router.certificate_name());
            let connection = endpoint.connect_with(config, address, name).unwrap().await.ok()?;
            let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
            shown.first().cloned()
        })
    }
}

/// One authority takes the place of another, a directory at a time: whoever connects is met with what lies there now, at
/// both ends, and the connection that is there carries frames all the while.
#[test]
fn new_certificates_are_for_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let router = Router::start(&old);
    let (first, second) = (Shard::new(), Shard::new());
    let gateway_directory = tempfile::tempdir().unwrap();
    copy(&old, gateway_directory.path(), &["ca.pem", "gateway.pem", "gateway.key"]);
    let gateway = Identity::load(gateway_directory.path(), Role::Gateway).unwrap();
    let connector = router.connect(&gateway, &first);
    let mut up = first.lane();
    send(&mut up, 0..1, 8);
    let mut down = router.shard.lane();
    assert!(!router.identity.refresh().unwrap(), "nothing is new");
    assert_eq!(router.shown_to(&[&old]), Some(certificate(&old.directory().join("router.pem"))));

    trust_both(&old, &new, router.directory.path());
    copy(&new, router.directory.path(), &["router.pem", "router.key"]);
    assert!(router.identity.refresh().unwrap());
    let renewed = certificate(&new.directory().join("router.pem"));
    eventually("the new certificate", || router.shown_to(&[&old, &new]).as_ref() == Some(&renewed));

    // This gateway does not trust the new authority yet.
    let other = router.connect(&gateway, &second);
    let counters = other.counters();
    eventually("several attempts", || counters.read().reconnects >= 3);
    assert_eq!(counters.read().connections, 0);
    trust_both(&old, &new, gateway_directory.path());
    copy(&new, gateway_directory.path(), &["gateway.pem", "gateway.key"]);
    assert!(gateway.refresh().unwrap());
    let mut lane = second.lane();
    send(&mut lane, 0..1, 8);
    let mut arrival = router.shard.arrival();
    assert_eq!(arrival.from, Role::Gateway);
    router.shard.expect(&mut arrival.lane, 0..1);

    router.shard.expect(&mut down, 0..1);
    send(&mut down, 1..2, 8);
    first.expect(&mut up, 1..2);
    assert_eq!(connector.counters().read().connections, 1);
}

/// What cannot be used changes nothing, and is tried once: not a certificate, another role's, a key that belongs to
/// another certificate, nothing at all. What comes after it is used.
#[test]
fn broken_certificates_change_nothing() {
    let authority = Authority::new();
    let router = Router::start(&authority);
    let (directory, old) = (router.directory.path(), certificate(&authority.directory().join("router.pem")));
    let is_kept = || assert_eq!(router.shown_to(&[&authority]).as_ref(), Some(&old));

    fs::write(directory.join("router.pem"), "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
    assert!(matches!(router.identity.refresh(), Err(TlsError::Content { .. })));
    assert!(!router.identity.refresh().unwrap(), "it is tried once");
    is_kept();
    fs::copy(authority.directory().join("gateway.pem"), directory.join("router.pem")).unwrap();
    assert!(matches!(router.identity.refresh(), Err(TlsError::Role { .. })));
    is_kept();
    // The certificate has come, and its key has not yet.
    authority.renew(Role::Router);
    copy(&authority, directory, &["router.pem"]);
    assert!(matches!(router.identity.refresh(), Err(TlsError::Configuration(_))));
    is_kept();
    fs::remove_file(directory.join("ca.pem")).unwrap();
    for _each_time in 0..2 {
        assert!(matches!(router.identity.refresh(), Err(TlsError::File { .. })));
    }
    is_kept();

    copy(&authority, directory, &["ca.pem", "router.key"]);
    assert!(router.identity.refresh().unwrap());
    let renewed = certificate(&authority.directory().join("router.pem"));
    assert_ne!(renewed, old);
    eventually("the new certificate", || router.shown_to(&[&authority]).as_ref() == Some(&renewed));
}

/// Nobody has to say that there are new certificates: the files are looked at, again and again, whatever was there in
/// between.
#[test]
fn new_certificates_are_found() {
    let authority = Authority::new();
    let router = Router::start(&authority);
    router.identity.keep_fresh(&router.process.handle, Duration::from_millis(5));
    for _twice in 0..2 {
        fs::write(router.directory.path().join("router.key"), "no key").unwrap();
        authority.renew(Role::Router);
        copy(&authority, router.directory.path(), &["router.pem", "router.key"]);
        let renewed = certificate(&authority.directory().join("router.pem"));
        eventually("the new certificate", || router.shown_to(&[&authority]).as_ref() == Some(&renewed));
    }
}
