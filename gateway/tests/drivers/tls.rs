//! Clients that speak TLS, on every driver: what they get is what they get without.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::rig::{Client, House, Said, on_each_driver, ping};

/// A certificate and its key in two files.
struct Pair {
    directory: TempDir,
}

impl Pair {
    fn new() -> Pair {
        let pair = Pair { directory: tempfile::tempdir().unwrap() };
        pair.renew();
        pair
    }

    /// Others in their place.
    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(self.cert(), made.cert.pem()).unwrap();
        std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
    }

    fn cert(&self) -> PathBuf {
        self.directory.path().join("public.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("public.key")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cert()).unwrap()).unwrap();
        roots
    }

    fn on_each_driver(&self, assignments: &[&str], test: impl Fn(House)) {
        let (cert, key) =
            (format!("tls.cert={}", self.cert().display()), format!("tls.key={}", self.key().display()));
        on_each_driver(&[assignments, &[&cert, &key]].concat(), test);
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn config(
    roots: RootCertStore,
    version: &'static SupportedProtocolVersion,
    protocols: &[&str],
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Stream {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(connection, Client::connect(address).stream)
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Security, handshake: WebSockets over TLS 1.2 and 1.3, with a client of somebody else's making: small frames, a frame of
/// several records, an orderly end of both layers.
#[test]
fn websockets_are_the_same_over_tls() {
    let pair = Pair::new();
    pair.on_each_driver(&[], |house| {
        for version in VERSIONS {
            let stream = connect(house.address, &config(pair.roots(), version, &["http/1.1"]));
            let (mut socket, response) =
                tungstenite::client(format!("wss://localhost:{}/v1/ws", house.address.port()), stream)
                    .unwrap();
            assert_eq!(response.status(), 101);
            assert_eq!(socket.get_ref().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            let hello = socket.read().unwrap().into_text().unwrap();
            assert!(hello.contains("\"hello\""), "{hello}");
            for pad_bytes in [0, 16_384, 60_000] {
                let pad = "x".repeat(pad_bytes);
                let frame = format!(r#"{{"type":"no such type","id":{pad_bytes},"pad":"{pad}"}}"#);
                socket.send(tungstenite::Message::text(frame)).unwrap();
                let error = socket.read().unwrap().into_text().unwrap();
                assert!(error.contains(&format!("\"id\":{pad_bytes}")), "{error}");
            }
            socket.close(None).unwrap();
            while socket.read().is_ok() {}
            assert!(matches!(socket.get_mut().read(&mut [0; 9]), Ok(0)), "TLS ended as it should");
        }
        let counts = house.drain();
        assert_eq!(counts.of("gateway_tls_handshakes_total{outcome=\"done\"}"), 2);
        assert_eq!(counts.of("gateway_connections"), 0);
    });
}

/// F14: who reads late gets everything in order over TLS as well, in sends that are cut anywhere.
#[test]
fn who_reads_late_over_tls_gets_everything() {
    const PINGS: u32 = 20_000;
    let pair = Pair::new();
    pair.on_each_driver(&[], |house| {
        let payload = |number: u32| [&number.to_be_bytes()[..], &[b'x'; 100]].concat();
        for version in VERSIONS {
            let mut client =
                Client::over(connect(house.address, &config(pair.roots(), version, &[]))).ask().enter();
            // Sealed before anything is sent, so that another thread can send it.
            client.stream.conn.set_buffer_limit(None);
            let mut sealed = Vec::new();
            for number in 0..PINGS {
                client.stream.conn.writer().write_all(&ping(&payload(number))).unwrap();
            }
            while client.stream.conn.wants_write() {
                client.stream.conn.write_tls(&mut sealed).unwrap();
            }
            let mut writer = client.stream.sock.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&sealed).unwrap());
            for number in 0..PINGS {
                client.assert_pong(&payload(number));
            }
            writing.join().unwrap();
        }
        house.drain();
    });
}

/// Over HTTPS the HTTP server is the same: documents of several records, bodies that come in pieces or with their head,
/// several requests on a connection.
#[test]
fn requests_are_the_same_over_tls() {
    let pair = Pair::new();
    pair.on_each_driver(&[], |mut house| {
        let _http = house.serve_http();
        let body = "b".repeat(50_000);
        let post = format!(
            "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let get = "GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for version in VERSIONS {
            let config = config(pair.roots(), version, &["h2", "http/1.1"]);
            for pieces_bytes in [1_000_000, 20_000, 999] {
                let mut client = Client::over(connect(house.address, &config));
                for _ in 0..2 {
                    for piece in post.as_bytes().chunks(pieces_bytes) {
                        client.send(piece);
                        client.stream.flush().unwrap();
                    }
                    assert!(client.answer().starts_with("HTTP/1.1 401 "));
                    client.send(get.as_bytes());
                    let document = client.answer();
                    let (_, document) = document.split_once("\r\n\r\n").unwrap();
                    assert!(document.len() > 2 * 16_384, "of several records");
                    let document: serde_json::Value = serde_json::from_str(document).unwrap();
                    assert_eq!(document["openapi"], "3.1.0");
                }
                // Each byte in a record of its own.
                let mut client = Client::over(connect(house.address, &config));
                for byte in get.as_bytes().chunks(1) {
                    client.send(byte);
                }
                assert!(client.answer().starts_with("HTTP/1.1 200 "));
            }
        }
        house.drain();
    });
}

/// The same with the client that everybody has.
#[test]
fn curl_gets_a_document() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("not tested: there is no curl here");
        return;
    }
    let pair = Pair::new();
    pair.on_each_driver(&[], |mut house| {
        let _http = house.serve_http();
        let url = format!("https://localhost:{}/v1/openapi.json", house.address.port());
        for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--fail", "--http2", "--max-time", "60", "--cacert"])
                .arg(pair.cert())
                .args(version)
                .args(["--resolve", &format!("localhost:{}:127.0.0.1", house.address.port()), &url])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(document["openapi"], "3.1.0");
        }
        house.drain();
    });
}

/// Who does not speak TLS is told so; who speaks another protocol in it gets an alert; neither stays.
#[test]
fn whoever_speaks_something_else_is_told_so() {
    let pair = Pair::new();
    pair.on_each_driver(&[], |house| {
        let mut plain = Client::knock(house.address);
        let head = plain.head();
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(plain.rest().contains("https://"));

        let mut other = connect(house.address, &config(pair.roots(), &TLS13, &["h2"]));
        let refused = other.read(&mut [0; 9]).unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");

        let empty = [22, 3, 1, 0, 4, 1, 0, 0, 0];
        let mut broken = Client::connect(house.address);
        broken.send(&empty);
        assert!(broken.fill() && !broken.fill(), "an alert, and the end");
        let counts = house.drain();
        assert_eq!(counts.of("gateway_tls_handshakes_total{outcome=\"plain\"}"), 1);
        assert_eq!(counts.of("gateway_tls_handshakes_total{outcome=\"failed\"}"), 2);
    });
}

/// Security, handshake: a client has as long for its handshake and its request together as for a request alone.
#[test]
fn who_does_not_finish_is_let_go() {
    let pair = Pair::new();
    pair.on_each_driver(&["gateway.handshake_timeout_ms=300"], |house| {
        let hello = {
            let config = config(pair.roots(), &TLS13, &[]);
            let mut client =
                ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            hello
        };
        // Nothing, a part of a hello, a hello and no more, a handshake and no more.
        for bytes in [&[][..], &hello[..40], &hello] {
            let mut client = Client::connect(house.address);
            client.send(bytes);
            while client.fill() {}
        }
        let mut client = connect(house.address, &config(pair.roots(), &TLS13, &[]));
        client.flush().unwrap();
        assert!(matches!(client.read(&mut [0; 9]), Ok(0)), "said within TLS");
        assert_eq!(house.drain().of("gateway_connections"), 0);
    });
}

/// F18: over TLS everybody hears that it ends, in both layers.
#[test]
fn a_drain_tells_everybody_over_tls() {
    let pair = Pair::new();
    pair.on_each_driver(&["gateway.connections_max=80"], |house| {
        let config = config(pair.roots(), &TLS13, &[]);
        let mut clients: Vec<_> =
            (0..30).map(|_| Client::over(connect(house.address, &config)).ask().enter()).collect();
        let draining = std::thread::spawn(move || house.drain());
        for client in &mut clients {
            let Some(Said::Text(reconnect)) = client.said() else { panic!("nothing said") };
            assert!(reconnect.contains("\"reconnect\""), "{reconnect}");
            assert_eq!(client.said(), Some(Said::Close(1_012)));
            assert!(matches!(client.stream.read(&mut [0; 9]), Ok(0)));
        }
        drop(clients);
        assert_eq!(draining.join().unwrap().of("gateway_connections"), 0);
    });
}

/// A certificate that is replaced is shown to whoever comes next; who is there stays. One that cannot be used is refused
/// with a sentence, and the one before it stays.
#[test]
fn a_certificate_is_replaced_while_it_runs() {
    let pair = Pair::new();
    pair.on_each_driver(&[], |house| {
        let enter = |roots: RootCertStore| {
            // Nothing is remembered from one to the next: each sees a certificate.
            let mut stream = connect(house.address, &config(roots, &TLS13, &[]));
            stream.flush().map(|()| Client::over(stream).ask().enter())
        };
        let before = pair.roots();
        let mut early = enter(before.clone()).unwrap();
        assert!(!house.certificate().refresh().unwrap(), "nothing has changed");

        pair.renew();
        assert!(house.certificate().refresh().unwrap());
        assert!(enter(before).is_err(), "it is not shown any more");
        let after = pair.roots();
        drop(enter(after.clone()).unwrap());

        let refused = |text: &str| {
            let error = house.certificate().refresh().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(!house.certificate().refresh().unwrap(), "told once");
            drop(enter(after.clone()).unwrap());
        };
        let (cert, key) = (std::fs::read(pair.cert()).unwrap(), std::fs::read(pair.key()).unwrap());
        let other = Pair::new();
        std::fs::copy(other.key(), pair.key()).unwrap();
        refused("tls.cert and tls.key");
        std::fs::write(pair.key(), b"").unwrap();
        refused("tls.key");
        std::fs::write(pair.key(), &key).unwrap();
        std::fs::write(pair.cert(), &cert[..cert.len() / 2]).unwrap();
        refused("tls.cert");
        std::fs::write(pair.cert(), b"nothing").unwrap();
        refused("no certificate");
        std::fs::remove_file(pair.cert()).unwrap();
        assert!(house.certificate().refresh().unwrap_err().to_string().contains("tls.cert"));
        std::fs::write(pair.cert(), &cert).unwrap();
        assert!(house.certificate().refresh().unwrap());

        early.ping(b"still there");
        early.assert_pong(b"still there");
        drop(early);
        house.drain();
    });
}

/// A pair that cannot be used is refused at start, with what to do.
#[test]
fn a_pair_that_cannot_be_used_is_refused_at_start() {
    use carillon_gateway::io::certificates::Certificate;
    let (pair, other) = (Pair::new(), Pair::new());
    let refused = |cert: &Path, key: &Path| {
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let dir = String::new();
        let fatal = Certificate::of(&carillon_gateway::settings::Tls { dir, cert, key }).err().unwrap();
        fatal.sentence
    };
    let none = Path::new("");
    assert!(refused(&pair.cert(), none).contains("go together"));
    assert!(refused(none, &pair.key()).contains("go together"));
    assert!(refused(&pair.cert(), &other.key()).starts_with("tls.cert and tls.key"));
    assert!(refused(&pair.key(), &pair.key()).contains("no certificate"));
    assert!(refused(&pair.cert(), &pair.cert()).starts_with("tls.key"));
    assert!(refused(Path::new("/nowhere.pem"), &pair.key()).starts_with("tls.cert /nowhere.pem"));
}
