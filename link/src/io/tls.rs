//! Who may speak on a link: certificates of a private authority, each naming the one role of its process.
//!
//! # Invariants
//! - Both sides show a certificate, and both are verified: signed by the authority in `ca.pem` and by nobody
//!   else, and carrying the name of the role that belongs at that end. A router listens, a gateway connects;
//!   neither certificate serves for the other end.
//! - TLS 1.3 only, the application protocol is exactly [`ALPN`], no early data (it could be replayed), no
//!   resumption (so each connection verifies certificates), and the cryptography is *ring*'s, passed
//!   explicitly.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

mod development;

pub use development::ensure_development;

/// The only application protocol of a link. Its number rises when two versions cannot speak to each other.
pub const ALPN: &[u8] = b"carillon-link/1";

/// The file of the authority's certificate, in the directory of certificates.
const AUTHORITY_FILE: &str = "ca.pem";

/// What a process is, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Listens.
    Router,
    /// Connects.
    Gateway,
}

impl Role {
    /// The DNS name in the certificate (a subject alternative name). It is not looked up anywhere.
    #[must_use]
    pub const fn certificate_name(self) -> &'static str {
        match self {
            Role::Router => "router.carillon.internal",
            Role::Gateway => "gateway.carillon.internal",
        }
    }

    /// The file of the certificate (and, behind it, of intermediate ones, if any).
    #[must_use]
    pub const fn certificate_file(self) -> &'static str {
        match self {
            Role::Router => "router.pem",
            Role::Gateway => "gateway.pem",
        }
    }

    /// The file of the private key.
    #[must_use]
    pub const fn key_file(self) -> &'static str {
        match self {
            Role::Router => "router.key",
            Role::Gateway => "gateway.key",
        }
    }

    fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.certificate_name())
            .unwrap_or_else(|_| unreachable!("role names are DNS names"))
    }
}

/// Why certificates cannot be used. All of them are for the operator to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{}: not usable: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate is not one for this role.
    #[error("{}: the certificate does not name {}", path.display(), role.certificate_name())]
    Role {
        /// Which.
        path: PathBuf,
        /// What it should name.
        role: Role,
    },
    /// Certificates could not be made.
    #[error("certificates for development: {0}")]
    Generate(#[from] rcgen::Error),
    /// Certificate and key do not fit together, or the authority is unusable.
    #[error("TLS configuration: {0}")]
    Configuration(String),
}

impl TlsError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
        |source| TlsError::File { path: path.into(), source }
    }

    fn content(path: &Path, reason: impl ToString) -> TlsError {
        TlsError::Content { path: path.into(), reason: reason.to_string() }
    }
}

/// A process's certificate, key and authority, ready for use at either end of a link.
#[derive(Clone)]
pub struct Identity {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// Made of the private key: what tells a peer that its connection belonged to a former life of this
    /// process (RFC 9000 section 10.3.2 wants this key to outlive the process).
    pub(crate) reset_key: Arc<ring::hmac::Key>,
}

impl Identity {
    /// Reads `ca.pem`, and the role's certificate and key, from `directory`.
    ///
    /// # Errors
    /// A file is missing or holds something else, the certificate does not name the role, or it does not
    /// belong to the key.
    pub fn load(directory: &Path, role: Role) -> Result<Identity, TlsError> {
        let authority_path = directory.join(AUTHORITY_FILE);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authority_path)? {
            roots.add(certificate).map_err(|error| TlsError::content(&authority_path, error))?;
        }
        let chain_path = directory.join(role.certificate_file());
        let chain = certificates(&chain_path)?;
        // Told now, to the operator, rather than later by the peer.
        chain
            .first()
            .and_then(|certificate| ParsedCertificate::try_from(certificate).ok())
            .and_then(|certificate| verify_server_name(&certificate, &role.server_name()).ok())
            .ok_or(TlsError::Role { path: chain_path, role })?;
        let key_path = directory.join(role.key_file());
        let key_pem = fs::read(&key_path).map_err(TlsError::file(&key_path))?;
        let key =
            PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| TlsError::content(&key_path, error))?;
        Identity::new(Arc::new(roots), chain, key).map_err(|error| TlsError::Configuration(error.to_string()))
    }

    fn new(
        roots: Arc<RootCertStore>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Identity, Box<dyn std::error::Error>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let seed = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der());
        let reset_secret = ring::hmac::sign(&seed, b"carillon-link stateless reset");
        let gateways = GatewaysOnly::new(Arc::clone(&roots), &provider)?;

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(gateways))
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.max_early_data_size = 0;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_early_data = false;
        client.resumption = Resumption::disabled();

        Ok(Identity {
            client: Arc::new(client),
            server: Arc::new(server),
            reset_key: Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_secret.as_ref())),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(TlsError::file(path))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::content(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::content(path, "no certificate in it"));
    }
    Ok(certificates)
}

/// Lets in whoever shows a certificate of our authority that names a gateway. (The other direction needs
/// nothing of ours: a gateway asks for a server named as routers are.)
#[derive(Debug)]
struct GatewaysOnly(Arc<dyn ClientCertVerifier>);

impl GatewaysOnly {
    fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build().map(GatewaysOnly)
    }
}

impl ClientCertVerifier for GatewaysOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &Role::Gateway.server_name())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
