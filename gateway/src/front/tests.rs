//! What stands before a service, with rustls at the clients' ends and a service that repeats what it hears.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;

use carillon_node::prng::Prng;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::channel::RECORD_BYTES_MAX;
use super::*;
use crate::turn::Handed;

/// Where clients are, and a proxy.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Repeats whatever it hears. Hands off who asks for it by its first byte, and closes who says goodbye.
#[derive(Default)]
struct Echo {
    said: BTreeMap<ConnectionId, VecDeque<Bytes>>,
    addresses: BTreeMap<ConnectionId, IpAddr>,
    closed: Vec<ConnectionId>,
    outputs: VecDeque<Output>,
}

impl Service for Echo {
    fn handle(&mut self, _: Time, _: WallMs, input: Input<'_>) {
        match input {
            Input::Accepted { connection, address } | Input::Named { connection, address } => {
                self.addresses.insert(connection, address);
            }
            Input::Received { connection, bytes: b"hand off" } => {
                let handed = Handed { received: b"hand off".to_vec(), address: CLIENT, channel: None };
                self.outputs.push_back(Output::HandOff { connection, handed: Box::new(handed) });
            }
            Input::Received { connection, bytes: b"goodbye" } => {
                self.outputs.push_back(Output::Close { connection });
            }
            Input::Received { connection, bytes } => {
                self.said.entry(connection).or_default().push_back(Bytes::copy_from_slice(bytes));
                self.outputs.push_back(Output::Flush { connection });
            }
            Input::Sent { connection, mut bytes } => {
                let said = self.said.get_mut(&connection).expect("something was said");
                while let Some(first) = said.front_mut().filter(|_| bytes > 0) {
                    let out = bytes.min(first.len());
                    first.advance(out);
                    bytes -= out;
                    if first.is_empty() {
                        said.pop_front();
                    }
                }
                assert_eq!(bytes, 0, "no more is sent than was said");
            }
            Input::Closed { connection } => self.closed.push(connection),
            _ => {}
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }

    fn pending(&self, connection: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        self.said.get(&connection).into_iter().flatten()
    }

    fn keep_frame(&mut self, _: AlignedVec) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A certificate, and clients that trust it.
struct Trust {
    server: Arc<ServerConfig>,
    roots: RootCertStore,
}

impl Trust {
    fn new() -> Trust {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let mut server =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&TLS13, &TLS12])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Trust { server: Arc::new(server), roots }
    }

    fn client(&self, version: &'static SupportedProtocolVersion, protocols: &[&[u8]]) -> ClientConnection {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    fn front(&self) -> Front<Echo> {
        Front::new(Echo::default(), Plan { tls: Some(Arc::clone(&self.server)), balancers: None })
    }
}

fn balancers() -> Option<Proxies> {
    Some(Proxies::try_from(vec!["10.0.0.0/8".to_owned()]).unwrap())
}

fn id(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 0 }
}

impl Front<Echo> {
    fn hear(&mut self, input: Input<'_>) {
        self.handle(Time(1), WallMs(1), input);
    }

    fn accept(&mut self, slot: u32, address: IpAddr) -> ConnectionId {
        self.hear(Input::Accepted { connection: id(slot), address });
        id(slot)
    }

    fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.hear(Input::Received { connection, bytes });
    }

    /// One turn of a driver whose kernel takes `take` bytes at a time: what it sent, and what else it was told to do.
    fn turn(&mut self, take: usize) -> (BTreeMap<ConnectionId, Vec<u8>>, Vec<Output>) {
        self.hear(Input::Tick);
        let (mut sent, mut told): (BTreeMap<_, Vec<u8>>, Vec<_>) = (BTreeMap::new(), Vec::new());
        while let Some(output) = self.poll_output() {
            if let Output::Flush { connection } | Output::Close { connection } = output {
                loop {
                    let pending: Vec<u8> = self.pending(connection).flatten().copied().collect();
                    assert!(pending.len() <= RECORD_BYTES_MAX, "{} bytes wait", pending.len());
                    let bytes = pending.len().min(take);
                    if bytes == 0 {
                        break;
                    }
                    sent.entry(connection).or_default().extend_from_slice(&pending[..bytes]);
                    self.hear(Input::Sent { connection, bytes });
                }
            }
            if !matches!(output, Output::Flush { .. }) {
                told.push(output);
            }
        }
        (sent, told)
    }

    /// The same for one connection that is alone.
    fn answer(&mut self, take: usize) -> Vec<u8> {
        let (mut sent, _) = self.turn(take);
        assert!(sent.len() <= 1);
        sent.pop_first().map(|(_, bytes)| bytes).unwrap_or_default()
    }
}

/// What a client has to send.
fn outgoing(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Gives a client what came, and returns what it read.
fn incoming(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        // The rest is there when nothing more is.
        let _ = client.reader().read_to_end(&mut read);
    }
    read
}

/// Carries bytes both ways until nobody has more to say; what the client read.
fn converse(
    front: &mut Front<Echo>,
    connection: ConnectionId,
    client: &mut ClientConnection,
    take: usize,
) -> Vec<u8> {
    let mut read = Vec::new();
    for _ in 0..10_000 {
        let up = outgoing(client);
        for piece in up.chunks(take) {
            front.receive(connection, piece);
        }
        let down = front.answer(take);
        for piece in down.chunks(take) {
            read.extend(incoming(client, piece));
        }
        if up.is_empty() && down.is_empty() {
            return read;
        }
    }
    panic!("they never come to an end");
}

/// Security, handshake: either version, in pieces of any size and down to one byte; what is said comes whole and in order,
/// in as many records as it takes; nothing but the keys is kept then.
#[test]
fn what_is_said_comes_through_whole() {
    let trust = Trust::new();
    for version in [&TLS12, &TLS13] {
        for take in [1, 7, 1_000, 70_000] {
            let mut front = trust.front();
            let connection = front.accept(3, CLIENT);
            let mut client = trust.client(version, &[b"http/1.1"]);
            let mut prng = Prng::new(take as u64);
            assert_eq!(converse(&mut front, connection, &mut client, take), b"");
            assert!(!client.is_handshaking(), "{version:?} by {take}");
            client.set_buffer_limit(None);
            let records: &[usize] = if take < 100 { &[1, 100, 3_000] } else { &[1, 16_384, 16_385, 70_000] };
            for &said_bytes in records {
                let said: Vec<u8> = (0..said_bytes).map(|_| prng.below(256) as u8).collect();
                client.writer().write_all(&said).unwrap();
                let mut heard = Vec::new();
                while heard.len() < said.len() {
                    heard.extend(converse(&mut front, connection, &mut client, take));
                }
                assert!(heard == said, "{said_bytes} bytes, {version:?} by {take}");
            }
            assert_eq!(front.counters().secured, [1, 0, 0, 0]);
            assert_eq!((front.handshakes_count, front.begun.len(), front.waiting.len()), (0, 0, 0));
            let Some(Stage::Tls(channel)) = front.visitor(connection).map(|visitor| &visitor.stage) else {
                panic!("it speaks TLS");
            };
            assert!(channel.is_idle(), "G13: an idle channel owns no buffer");
        }
    }
}

/// Who closes is told so within TLS, and who is closed as well: neither end is cut without a word.
#[test]
fn both_ends_say_goodbye() {
    let trust = Trust::new();
    for version in [&TLS12, &TLS13] {
        let mut front = trust.front();
        let connection = front.accept(0, CLIENT);
        let mut client = trust.client(version, &[]);
        converse(&mut front, connection, &mut client, 70_000);
        client.writer().write_all(b"goodbye").unwrap();
        front.receive(connection, &outgoing(&mut client));
        let (sent, told) = front.turn(70_000);
        assert!(matches!(told[..], [Output::Close { .. }]), "{told:?}");
        let mut bytes = &sent[&connection][..];
        client.read_tls(&mut bytes).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());

        let connection = front.accept(1, CLIENT);
        let mut client = trust.client(version, &[]);
        converse(&mut front, connection, &mut client, 70_000);
        client.writer().write_all(b"last words").unwrap();
        client.send_close_notify();
        front.receive(connection, &outgoing(&mut client));
        let (sent, told) = front.turn(70_000);
        assert!(matches!(told[..], [Output::Close { .. }]), "{told:?}");
        assert_eq!(incoming(&mut client, &sent[&connection]), b"last words", "answered before it goes");
    }
}

/// F19: a crowd's handshakes are spread over turns, so that nobody else waits long; those in line are not read from; all get
/// through, and those who give up leave nothing behind.
#[test]
fn f19_a_turn_takes_few_steps_of_handshakes() {
    const CROWD: u32 = 300;
    let trust = Trust::new();
    let mut front = trust.front();
    let mut clients: Vec<_> = (0..CROWD).map(|_| trust.client(&TLS13, &[])).collect();
    for (slot, client) in (0..).zip(&mut clients) {
        let connection = front.accept(slot, CLIENT);
        front.receive(connection, &outgoing(client));
    }
    // One in three does not wait for it.
    let has_gone = |slot: u32| slot.is_multiple_of(3) && slot >= STEPS_PER_TURN_MAX;
    for slot in (0..CROWD).filter(|slot| has_gone(*slot)) {
        front.hear(Input::Closed { connection: id(slot) });
    }
    let (mut turns, mut in_line) = (0, 0_i64);
    while clients.iter().enumerate().any(|(slot, client)| client.is_handshaking() && !has_gone(slot as u32)) {
        turns += 1;
        assert!(turns < CROWD, "the line ends");
        let (sent, told) = front.turn(70_000);
        for output in told {
            match output {
                Output::Pause { .. } => in_line += 1,
                Output::Resume { .. } => in_line -= 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(
            sent.len() <= 2 * STEPS_PER_TURN_MAX as usize,
            "{} answers: what came in a turn, and who was in line",
            sent.len()
        );
        for (connection, bytes) in sent {
            let client = &mut clients[connection.slot as usize];
            incoming(client, &bytes);
            let up = outgoing(client);
            if !up.is_empty() {
                front.receive(connection, &up);
            }
        }
        let has_line = !front.begun.is_empty() || !front.waiting.is_empty();
        assert_eq!(front.poll_timeout().is_some(), has_line, "the driver does not sleep over a line");
    }
    assert!(turns >= CROWD / 2 / (2 * STEPS_PER_TURN_MAX), "{turns} turns");
    front.turn(70_000);
    assert_eq!((front.handshakes_count, front.begun.len(), front.waiting.len()), (0, 0, 0));
    assert_eq!(in_line, 0, "whoever is in line is read from again");
}

/// G13: only so many handshakes are under way; more wait without costing anything, and come in as others are through or gone.
#[test]
fn g13_handshakes_under_way_are_bounded() {
    let trust = Trust::new();
    let mut front = trust.front();
    let hello = outgoing(&mut trust.client(&TLS13, &[]));
    let crowd = u32::try_from(HANDSHAKES_MAX).unwrap() + 20;
    for slot in 0..crowd {
        let connection = front.accept(slot, CLIENT);
        front.receive(connection, &hello);
        front.turn(70_000);
    }
    assert_eq!((front.handshakes_count, front.waiting.len()), (HANDSHAKES_MAX, 20));
    assert_eq!(front.poll_timeout(), None, "nothing can be done for those who wait");
    for slot in 0..30 {
        front.hear(Input::Closed { connection: id(slot) });
    }
    for _ in 0..4 {
        front.turn(70_000);
    }
    assert_eq!((front.handshakes_count, front.waiting.len()), (HANDSHAKES_MAX - 10, 0));
    for slot in 30..crowd {
        front.hear(Input::Closed { connection: id(slot) });
    }
    assert_eq!(front.handshakes_count, 0);
}

/// What is not TLS is told so in the words it was spoken to in; what is wrong TLS gets an alert; both end, the service
/// hears the end and nothing else, and the neighbour goes on.
#[test]
fn what_is_no_tls_ends_alone() {
    let trust = Trust::new();
    let mut front = trust.front();
    let neighbour = front.accept(9, CLIENT);
    let mut client = trust.client(&TLS13, &[]);
    converse(&mut front, neighbour, &mut client, 70_000);

    let wrong_protocol = outgoing(&mut trust.client(&TLS13, &[b"h2"]));
    let alert = |bytes: &[u8]| bytes.first() == Some(&21) && bytes.len() == 7;
    for (slot, bytes) in [
        (0, b"GET /v1/ws HTTP/1.1\r\n\r\n".to_vec()),
        (1, vec![HANDSHAKE_RECORD, 3, 1, 0, 4, 1, 0, 0, 0]),
        (2, vec![HANDSHAKE_RECORD, 9, 9, 0xff, 0xff, 0]),
        (3, wrong_protocol),
        // A hello that never ends.
        (4, [&[HANDSHAKE_RECORD, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 0x3ffc]].concat()),
    ] {
        let connection = front.accept(slot, CLIENT);
        let mut sent = Vec::new();
        let mut is_closed = false;
        for _ in 0..5 {
            front.receive(connection, &bytes);
            let (mut out, told) = front.turn(70_000);
            sent.extend(out.remove(&connection).unwrap_or_default());
            is_closed |= told.iter().any(|output| matches!(output, Output::Close { .. }));
        }
        assert!(is_closed, "{slot}");
        if slot == 0 {
            let text = String::from_utf8(sent).unwrap();
            assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("wss://"), "{text}");
        } else if slot < 3 {
            assert!(alert(&sent), "{slot}: {sent:?}");
        } else if slot == 3 {
            assert!(sent.len() > 7, "its alert is encrypted already: {sent:?}");
        }
        assert_eq!(front.service.closed, [connection], "{slot}: once");
        assert!(!front.service.said.contains_key(&connection));
        front.service.closed.clear();
        front.hear(Input::Closed { connection });
        front.service.closed.clear();
    }
    assert_eq!((front.counters().secured, front.handshakes_count), ([1, 4, 1, 0], 0));
    client.writer().write_all(b"still there").unwrap();
    assert_eq!(converse(&mut front, neighbour, &mut client, 70_000), b"still there");
}

/// Any byte of a record that is changed on the way ends the connection before the service hears of it.
#[test]
fn what_was_changed_on_the_way_is_not_heard() {
    let trust = Trust::new();
    for version in [&TLS12, &TLS13] {
        for at in [0, 1, 4, 5, 20, 30] {
            let mut front = trust.front();
            let connection = front.accept(0, CLIENT);
            let mut client = trust.client(version, &[]);
            converse(&mut front, connection, &mut client, 70_000);
            client.writer().write_all(&[7; 40]).unwrap();
            let mut record = outgoing(&mut client);
            record[at] ^= 0x10;
            // A length that was made longer waits for the rest.
            record.extend([0; 5_000]);
            front.receive(connection, &record);
            front.turn(70_000);
            assert!(front.service.said.is_empty(), "{version:?}, byte {at}");
            assert_eq!(front.service.closed, [connection], "{version:?}, byte {at}");
        }
    }
}

/// A connection that is handed off takes its channel along, with what was being sent and what comes meanwhile, and the front
/// forgets it.
#[test]
fn what_is_handed_off_goes_whole() {
    let trust = Trust::new();
    for version in [&TLS12, &TLS13] {
        let mut front = trust.front();
        let connection = front.accept(0, CLIENT);
        let mut client = trust.client(version, &[]);
        front.receive(connection, &outgoing(&mut client));
        let down = front.answer(70_000);
        incoming(&mut client, &down);
        // TLS 1.2: the client's last and its request in one piece, before the server's last has left.
        let mut up = outgoing(&mut client);
        if client.is_handshaking() {
            front.receive(connection, &up);
            let down = front.answer(70_000);
            incoming(&mut client, &down);
            up = outgoing(&mut client);
        }
        client.writer().write_all(b"hand off").unwrap();
        up.extend(outgoing(&mut client));
        front.receive(connection, &up);
        front.hear(Input::Tick);
        let handed = loop {
            match front.poll_output().expect("it is handed off") {
                Output::HandOff { handed, .. } => break handed,
                other => assert!(matches!(other, Output::Flush { .. }), "{other:?}"),
            }
        };
        assert!(front.poll_output().is_none() && front.visitor(connection).is_none());
        let mut handed = handed;
        client.writer().write_all(b" and more").unwrap();
        handed.receive(&outgoing(&mut client));
        let mut channel = handed.channel.unwrap();
        let mut scratch = Scratch::default();
        assert!(channel.receive(&[], &mut scratch).is_none());
        assert_eq!([&handed.received[..], &scratch.plain].concat(), b"hand off and more");
        let mut down = Vec::new();
        let mut said = false;
        while !channel.pending().is_empty() || !said {
            if channel.pending().is_empty() {
                assert_eq!(channel.seal(b"answer"), 6);
                said = true;
            }
            down.extend_from_slice(channel.pending());
            channel.sent(channel.pending().len());
        }
        assert_eq!(incoming(&mut client, &down), b"answer");
    }
}

fn header(address: [u8; 4]) -> Vec<u8> {
    let mut header = proxy::SIGNATURE.to_vec();
    header.extend([0x21, 0x11, 0, 12]);
    header.extend(address);
    header.extend([10, 0, 0, 1, 0x1f, 0x90, 0, 80]);
    header
}

/// Security, floods: a trusted proxy's connection is whose its header says, from the first byte on, wherever the header is
/// cut; with and without TLS behind it.
#[test]
fn a_proxy_says_whose_its_connection_is() {
    let trust = Trust::new();
    let plain = Plan { tls: None, balancers: balancers() };
    let header = header([198, 51, 100, 7]);
    for cut in 0..=header.len() {
        let mut front = Front::new(Echo::default(), plain.clone());
        let connection = front.accept(0, PROXY);
        let bytes = [&header[..], b"hello"].concat();
        front.receive(connection, &bytes[..cut]);
        front.receive(connection, &bytes[cut..]);
        assert_eq!(front.answer(70_000), b"hello", "cut at {cut}");
        assert_eq!(front.service.addresses[&connection], IpAddr::from([198, 51, 100, 7]));
        assert!(front.visitor(connection).is_none(), "it has passed");
    }
    let mut front =
        Front::new(Echo::default(), Plan { tls: Some(Arc::clone(&trust.server)), balancers: balancers() });
    let connection = front.accept(0, PROXY);
    let mut client = trust.client(&TLS13, &[]);
    front.receive(connection, &[&header[..], &outgoing(&mut client)].concat());
    let down = front.answer(70_000);
    incoming(&mut client, &down);
    client.writer().write_all(b"secret").unwrap();
    assert_eq!(converse(&mut front, connection, &mut client, 70_000), b"secret");
    assert_eq!(front.service.addresses[&connection], IpAddr::from([198, 51, 100, 7]));
}

/// Security, floods: nobody else says whose a connection is, and a proxy says it in the way that is agreed on.
#[test]
fn only_a_trusted_proxy_says_whose_a_connection_is() {
    let mut front = Front::new(Echo::default(), Plan { tls: None, balancers: balancers() });
    let stranger = front.accept(0, CLIENT);
    front.receive(stranger, &header([198, 51, 100, 7]));
    assert_eq!(front.service.addresses[&stranger], CLIENT);
    assert_eq!(front.answer(70_000), header([198, 51, 100, 7]), "its own bytes, as any");

    for (slot, bytes) in [(1, &b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"[..]), (2, b"GET / HTTP/1.1\r\n\r\n")] {
        let connection = front.accept(slot, PROXY);
        front.receive(connection, bytes);
        let (sent, told) = front.turn(70_000);
        assert!(sent.is_empty() && matches!(told[..], [Output::Close { .. }]), "{told:?}");
        assert_eq!(front.service.closed, [connection]);
        front.service.closed.clear();
    }
    assert_eq!(front.counters().secured, [0, 0, 0, 2]);

    let local = front.accept(3, PROXY);
    front.receive(local, &[&proxy::SIGNATURE[..], &[0x20, 0, 0, 0], b"well?"].concat());
    assert_eq!((front.answer(70_000), front.service.addresses[&local]), (b"well?".to_vec(), PROXY));
}
