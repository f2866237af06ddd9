//! Who may speak on a link: certificates of a private authority, each naming the one role of its process.
//!
//! # Invariants
//! - Both sides show a certificate, and both are verified: signed by the authority in `ca.pem` and by nobody
//!   else (the handshake sees to that), and naming exactly one role ([`Role::named_by`], which both ends ask
//!   before anything else). Routers listen; gateways and other routers connect. What a peer is, is what its
//!   certificate says, whatever it says itself.
//! - New certificates in the directory are for new connections ([`Identity::refresh`]); those that are there go
//!   on. Certificates that cannot be used change nothing.
//! - TLS 1.3 only, the application protocol is exactly [`ALPN`], no early data (it could be replayed), no
//!   resumption (so each connection verifies certificates), and the cryptography is *ring*'s, passed
//!   explicitly.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::digest::{Digest, SHA256};
use rustls::client::{Resumption, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::runtime::Handle;
use tokio::sync::watch;

mod development;

pub use development::ensure_development;

/// The only application protocol of a link. Its number rises when two versions cannot speak to each other.
pub const ALPN: &[u8] = b"carillon-link/1";

/// The file of the authority's certificate, in the directory of certificates.
const AUTHORITY_FILE: &str = "ca.pem";

/// What a process is, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Listens, and connects to other routers.
    Router,
    /// Connects to routers.
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

    /// The role that a certificate names. None when it names neither, or both: then nobody can tell what its
    /// owner is.
    pub(crate) fn named_by(certificate: &CertificateDer<'_>) -> Option<Role> {
        let certificate = ParsedCertificate::try_from(certificate).ok()?;
        let names = |role: Role| verify_server_name(&certificate, &role.server_name()).is_ok();
        match (names(Role::Router), names(Role::Gateway)) {
            (true, false) => Some(Role::Router),
            (false, true) => Some(Role::Gateway),
            (true, true) | (false, false) => None,
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
    /// The certificate is not one for this role, or not for this one alone.
    #[error("{}: the certificate does not name {}, and no other role", path.display(), role.certificate_name())]
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

/// A process's certificate, key and authority, ready for use at either end of a link. Clones are one: what
/// [`Identity::refresh`] finds is for all of them.
#[derive(Clone)]
pub struct Identity(Arc<Kept>);

struct Kept {
    directory: PathBuf,
    role: Role,
    configs: watch::Sender<Configs>,
    /// What the files held when they were tried last, whether or not it could be used.
    tried: Mutex<Digest>,
}

/// What connections are made with.
#[derive(Clone)]
pub(crate) struct Configs {
    pub(crate) client: Arc<QuicClientConfig>,
    pub(crate) server: Arc<QuicServerConfig>,
    /// Made of the private key: what tells a peer that its connection belonged to a former life of this
    /// process (RFC 9000 section 10.3.2 wants this key to outlive the process).
    pub(crate) reset_key: Arc<ring::hmac::Key>,
}

impl Identity {
    /// Reads `ca.pem`, and the role's certificate and key, from `directory`.
    ///
    /// # Errors
    /// A file is missing or holds something else, the certificate does not name the role (or another one too), or
    /// it does not belong to the key.
    pub fn load(directory: &Path, role: Role) -> Result<Identity, TlsError> {
        let files = Files::read(directory, role)?;
        let (configs, _) = watch::channel(files.configs()?);
        let tried = Mutex::new(files.digest());
        Ok(Identity(Arc::new(Kept { directory: directory.into(), role, configs, tried })))
    }

    /// Looks at the files again. `true`: they had changed, and whoever connects from now on is met with the new
    /// ones. What cannot be used is tried once.
    ///
    /// # Errors
    /// As for [`Identity::load`]. The old certificates stay.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let kept = &*self.0;
        let files = Files::read(&kept.directory, kept.role)?;
        let mut tried = kept.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.as_ref() == files.digest().as_ref() {
            return Ok(false);
        }
        *tried = files.digest();
        kept.configs.send_replace(files.configs()?);
        Ok(true)
    }

    /// [`Identity::refresh`] every `period`, on `runtime` for as long as it runs, which is told in the log. The
    /// contents are compared, not the times of the files: so a link that leads elsewhere, and two changes within
    /// a tick of the clock, are found as well, and files that were half written are found whole the next time.
    pub fn keep_fresh(&self, runtime: &Handle, period: Duration) {
        let identity = self.clone();
        runtime.spawn(async move {
            let mut told = None;
            loop {
                tokio::time::sleep(period).await;
                let here = identity.clone();
                // Files may lie on a disk that takes its time.
                let Ok(refreshed) = tokio::task::spawn_blocking(move || here.refresh()).await else { return };
                let directory = identity.0.directory.display();
                match refreshed {
                    Ok(true) => tracing::info!(%directory, "new connections use new certificates"),
                    Ok(false) => told = None,
                    Err(error) => {
                        let error = error.to_string();
                        if told.as_ref() != Some(&error) {
                            tracing::error!(%error, "the certificates cannot be used; the old ones stay");
                            told = Some(error);
                        }
                    }
                }
            }
        });
    }

    /// What connections are made with now.
    pub(crate) fn configs(&self) -> Configs {
        self.0.configs.borrow().clone()
    }

    /// The same, and what it will be.
    pub(crate) fn watch(&self) -> watch::Receiver<Configs> {
        self.0.configs.subscribe()
    }
}

/// What lies in a directory of certificates for one role.
struct Files {
    role: Role,
    authority: (PathBuf, Vec<u8>),
    chain: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
}

impl Files {
    fn read(directory: &Path, role: Role) -> Result<Files, TlsError> {
        let read = |name: &str| -> Result<_, TlsError> {
            let path = directory.join(name);
            let bytes = fs::read(&path).map_err(TlsError::file(&path))?;
            Ok((path, bytes))
        };
        Ok(Files {
            role,
            authority: read(AUTHORITY_FILE)?,
            chain: read(role.certificate_file())?,
            key: read(role.key_file())?,
        })
    }

    /// What tells other contents from these, so that no second copy of the key has to be kept for that.
    fn digest(&self) -> Digest {
        let mut context = ring::digest::Context::new(&SHA256);
        for (_, bytes) in [&self.authority, &self.chain, &self.key] {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        }
        context.finish()
    }

    fn configs(&self) -> Result<Configs, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(|error| TlsError::content(&self.authority.0, error))?;
        }
        let chain = certificates(&self.chain)?;
        // Told now, to the operator, rather than later by the peer.
        if chain.first().and_then(Role::named_by) != Some(self.role) {
            return Err(TlsError::Role { path: self.chain.0.clone(), role: self.role });
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key.1)
            .map_err(|error| TlsError::content(&self.key.0, error))?;
        Configs::new(&Arc::new(roots), &chain, &key)
            .map_err(|error| TlsError::Configuration(error.to_string()))
    }
}

impl Configs {
    fn new(
        roots: &Arc<RootCertStore>,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
    ) -> Result<Configs, Box<dyn std::error::Error>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let seed = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der());
        let reset_secret = ring::hmac::sign(&seed, b"carillon-link stateless reset");
        let who_connects =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).build()?;

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(who_connects)
            .with_single_cert(chain.to_vec(), key.clone_key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.max_early_data_size = 0;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(roots))
            .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_early_data = false;
        client.resumption = Resumption::disabled();

        Ok(Configs {
            client: Arc::new(QuicClientConfig::try_from(client)?),
            server: Arc::new(QuicServerConfig::try_from(server)?),
            reset_key: Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_secret.as_ref())),
        })
    }
}

fn certificates((path, pem): &(PathBuf, Vec<u8>)) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::content(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::content(path, "no certificate in it"));
    }
    Ok(certificates)
}
