//! What TLS takes of an idle connection, beside what it takes without.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use carillon_gateway::counters::Counters;
use carillon_gateway::front::{Front, Plan};
use carillon_gateway::turn::{ConnectionId, Input, Output, Service};
use carillon_protocol::time::{Time, WallMs};
use rkyv::util::AlignedVec;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::counting::taken;

/// Connections of the smaller of two fronts; the other one has twice as many, so that what a front takes anyway cancels out.
const CONNECTIONS_COUNT: u32 = 200;
/// G13: bytes that TLS takes of an idle connection, all included: the state of rustls, the keys, and the places in our tables.
/// `cargo test -p carillon-gateway --test memory tls -- --nocapture` says how many it is.
const TLS_BYTES_MAX: i64 = 4_096;

/// Says and hears nothing, and takes nothing.
struct Silent;

impl Service for Silent {
    fn handle(&mut self, _: Time, _: WallMs, _: Input<'_>) {}

    fn poll_output(&mut self) -> Option<Output> {
        None
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }

    fn pending(&self, _: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        std::iter::empty()
    }

    fn keep_frame(&mut self, _: AlignedVec) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// What a front holds with so many connections whose handshakes are over, and which have said something.
fn held_bytes(connections_count: u32, version: &'static SupportedProtocolVersion) -> i64 {
    let (server, client) = configs(version);
    let mut front = Front::new(Silent, Plan { tls: Some(server), balancers: None });
    let hear = |front: &mut Front<Silent>, input: Input<'_>| front.handle(Time(1), WallMs(1), input);
    for slot in 0..connections_count {
        let connection = ConnectionId { slot, generation: 0 };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        hear(&mut front, Input::Accepted { connection, address });
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&client), name).unwrap();
        let mut has_said = false;
        while client.wants_write() || !has_said {
            if !client.is_handshaking() && !has_said {
                std::io::Write::write_all(&mut client.writer(), &[7; 1_000]).unwrap();
                has_said = true;
            }
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            hear(&mut front, Input::Received { connection, bytes: &bytes });
            hear(&mut front, Input::Tick);
            while front.poll_output().is_some() {}
            let down: Vec<u8> = front.pending(connection).flatten().copied().collect();
            hear(&mut front, Input::Sent { connection, bytes: down.len() });
            let mut down = &down[..];
            while !down.is_empty() {
                client.read_tls(&mut down).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }
    let done = front.counters().secured[0];
    assert_eq!(done, u64::from(connections_count));
    -taken(|| drop(front)).1.bytes
}

/// G13: a written number of bytes.
#[test]
fn g13_an_idle_tls_connection_takes_few_bytes() {
    for version in [&TLS12, &TLS13] {
        let bytes = held_bytes(2 * CONNECTIONS_COUNT, version) - held_bytes(CONNECTIONS_COUNT, version);
        let each = bytes / i64::from(CONNECTIONS_COUNT);
        println!("{version:?}: {each} bytes");
        assert!(each <= TLS_BYTES_MAX, "{version:?}: {each} bytes");
    }
}
