//! The certificate of the public port, and those that come in its place while it runs.
//!
//! # Invariants
//! - What is shown is always a pair that belongs together: one that cannot be used changes nothing, and is told.
//! - Connections that are there go on; a change is for the next handshake.
//! - TLS 1.3 and 1.2, by *ring*, which is passed explicitly; no early data, which could be replayed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use carillon_node::exit::Fatal;
use ring::digest::{Digest, SHA256};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::runtime::Handle;

use crate::settings::Tls;

/// The one application protocol: what a browser offers for `wss://`, and what the HTTP server speaks.
const ALPN: &[u8] = b"http/1.1";
/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Why a certificate cannot be used. All of it is for the operator to mend.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{} {}: {source}", key, path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} {}: not usable: {reason}", key, path.display())]
    Content {
        /// The setting that names it.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The two do not belong together, or TLS cannot be made of them.
    #[error("tls.cert and tls.key: {0}")]
    Pair(#[from] rustls::Error),
}

/// See the module. Clones are one.
#[derive(Clone)]
pub struct Certificate(Arc<Kept>);

struct Kept {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    /// What the files held when they were tried last, whether or not it could be used.
    tried: Mutex<Digest>,
}

/// What is shown to clients now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Certificate {
    /// The pair that the settings name; `None`: they name none.
    ///
    /// # Errors
    /// Status 2: they name one of the two, or what cannot be used.
    pub fn of(settings: &Tls) -> Result<Option<Certificate>, Fatal> {
        match (settings.cert.as_str(), settings.key.as_str()) {
            ("", "") => Ok(None),
            ("", _) | (_, "") => Err(Fatal::config(
                "tls.cert and tls.key go together: name both files, or neither for a port without TLS",
            )),
            (cert, key) => match Certificate::load(Path::new(cert), Path::new(key)) {
                Ok(certificate) => Ok(Some(certificate)),
                Err(error) => Err(Fatal::config(error.to_string())),
            },
        }
    }

    /// Reads a pair.
    ///
    /// # Errors
    /// A file cannot be read, holds something else, or does not belong to the other.
    pub fn load(cert: &Path, key: &Path) -> Result<Certificate, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let files = Files::read(cert, key)?;
        let current = Arc::new(Current(RwLock::new(files.certified(&provider)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.max_early_data_size = 0;
        // A client that comes back brings what is to be remembered of it: no memory of ours, and no signature, which is most
        // of what a handshake costs.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Certificate(Arc::new(Kept {
            cert: cert.into(),
            key: key.into(),
            provider,
            current,
            config: Arc::new(config),
            tried: Mutex::new(files.digest()),
        })))
    }

    /// What connections are made with; it always shows the current pair.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.config)
    }

    /// Looks at the files again. `true`: they had changed, and the next handshake shows the new ones. What cannot be used is
    /// tried once.
    ///
    /// # Errors
    /// As for [`Certificate::load`]. The old pair stays.
    pub fn refresh(&self) -> Result<bool, CertificateError> {
        let kept = &*self.0;
        let files = Files::read(&kept.cert, &kept.key)?;
        let mut tried = kept.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.as_ref() == files.digest().as_ref() {
            return Ok(false);
        }
        *tried = files.digest();
        let certified = files.certified(&kept.provider)?;
        *kept.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(true)
    }

    /// [`Certificate::refresh`] every five seconds, on `runtime` for as long as it runs, which is told in the log. Contents
    /// are compared, not the times of files: so a link that leads elsewhere is found as well, and files that were half
    /// written are found whole the next time.
    pub fn keep_fresh(&self, runtime: &Handle) {
        let certificate = self.clone();
        runtime.spawn(async move {
            let mut told = None;
            loop {
                tokio::time::sleep(PERIOD).await;
                let here = certificate.clone();
                // Files may lie on a disk that takes its time.
                let Ok(refreshed) = tokio::task::spawn_blocking(move || here.refresh()).await else { return };
                match refreshed {
                    Ok(true) => {
                        tracing::info!(cert = %certificate.0.cert.display(), "clients are shown a new certificate");
                        told = None;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        let error = error.to_string();
                        if told.as_ref() != Some(&error) {
                            tracing::error!(%error, "the certificate cannot be used; the old one stays");
                            told = Some(error);
                        }
                    }
                }
            }
        });
    }
}

/// What lies in the two files.
struct Files<'a> {
    cert: (&'a Path, Vec<u8>),
    key: (&'a Path, Vec<u8>),
}

impl<'a> Files<'a> {
    fn read(cert: &'a Path, key: &'a Path) -> Result<Files<'a>, CertificateError> {
        let read = |setting: &'static str, path: &'a Path| {
            let failed = |source| CertificateError::File { key: setting, path: path.into(), source };
            std::fs::read(path).map(|bytes| (path, bytes)).map_err(failed)
        };
        Ok(Files { cert: read("tls.cert", cert)?, key: read("tls.key", key)? })
    }

    /// What tells other contents from these, so that no second copy of the key has to be kept for that.
    fn digest(&self) -> Digest {
        let mut context = ring::digest::Context::new(&SHA256);
        for (_, bytes) in [&self.cert, &self.key] {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        }
        context.finish()
    }

    fn certified(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertificateError> {
        let content = |key: &'static str, path: &Path, reason: String| CertificateError::Content {
            key,
            path: path.into(),
            reason,
        };
        let (path, pem) = &self.cert;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| content("tls.cert", path, error.to_string()))?;
        if chain.is_empty() {
            return Err(content("tls.cert", path, "no certificate in it".to_owned()));
        }
        let (path, pem) = &self.key;
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|error| content("tls.key", path, error.to_string()))?;
        Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
    }
}
