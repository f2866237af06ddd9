//! Clients and servers that speak TLS to each other, if they are asked to: everything else about a test is the same.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::server::PATIENCE;

/// The variable that has servers and clients of the tests speak TLS: `1.2` or `1.3`.
pub const VARIABLE: &str = "CARILLON_TEST_TLS";

/// What both ends need. The directory lives as long as the process of the tests.
struct Pair {
    directory: TempDir,
    clients: Arc<ClientConfig>,
}

static PAIR: LazyLock<Option<Pair>> = LazyLock::new(|| {
    let version = match std::env::var_os(VARIABLE)?.to_str() {
        Some("1.2") => &TLS12,
        Some("1.3") => &TLS13,
        _ => panic!("{VARIABLE} is 1.2 or 1.3"),
    };
    let names = vec!["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("public.pem"), made.cert.pem()).expect("written");
    std::fs::write(directory.path().join("public.key"), made.signing_key.serialize_pem()).expect("written");
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("a certificate");
    roots.add(certificate).expect("it can be trusted");
    let mut clients = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("the provider knows it")
        .with_root_certificates(roots)
        .with_no_client_auth();
    clients.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Pair { directory, clients: Arc::new(clients) })
});

/// The settings of a server that is to speak TLS; none, if it is not asked to.
pub(crate) fn settings() -> Vec<String> {
    let Some(pair) = &*PAIR else { return Vec::new() };
    let file = |name: &str| -> PathBuf { pair.directory.path().join(name) };
    vec![
        format!("tls.cert={}", file("public.pem").display()),
        format!("tls.key={}", file("public.key").display()),
    ]
}

/// A connection to a server's public port.
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// In TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects as the tests are asked to; `read` is how long a read waits.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn connect(address: SocketAddr, read: Duration) -> Stream {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
        stream.set_read_timeout(Some(read)).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        let Some(pair) = &*PAIR else { return Stream::Plain(stream) };
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::clone(&pair.clients), name).expect("a connection");
        Stream::Tls(Box::new(StreamOwned::new(connection, stream)))
    }

    /// The socket itself.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
