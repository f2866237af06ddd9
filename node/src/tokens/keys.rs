//! Our own key table: which key, with which algorithm, goes with which key id.
//!
//! # Invariants
//! - One algorithm per key id, pinned here; a token's header can only agree with it.
//! - Never empty. Any number of keys is valid at once, so that a new one can be spread before it is used and an old
//!   one kept until its last token expired.
//! - Replaced as a whole, when its files hold other keys ([`KeyTable::refresh`]): nobody sees half of a change. Keys that
//!   cannot be used change nothing.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::digest::{Context, Digest, SHA256};
use serde::Deserialize;
use tokio::runtime::Handle;

use super::development::DEVELOPMENT_KID;
use super::{jwks, provider, public_key};
use crate::exit::Fatal;

/// An HMAC key has at least as many bytes as its hash (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Key ids are looked up by comparing them one after the other; nobody rotates through more.
const KEYS_COUNT_MAX: usize = 32;

/// Larger than any file of keys: RSA of 8,192 bits is 1.5 KB, and [`KEYS_COUNT_MAX`] of them with their certificates fit.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// One table of `auth.keys` as it stands in the configuration file. Relative paths start at the working directory.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySetting {
    /// The key id that a token's header names.
    pub kid: String,
    /// `HS256`, `EdDSA`, `ES256` or `RS256`.
    pub alg: String,
    /// For HS256: the secret itself, its UTF-8 bytes.
    pub secret: Option<String>,
    /// For HS256: a file whose bytes are the secret; one newline at its end does not count.
    pub secret_file: Option<PathBuf>,
    /// For the others: a PEM file with the public key.
    pub public_key: Option<PathBuf>,
}

impl fmt::Debug for KeySetting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeySetting").field("kid", &self.kid).field("alg", &self.alg).finish_non_exhaustive()
    }
}

/// The section `auth`, as far as it says which tokens are good.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Settings {
    /// Keys one by one.
    pub keys: Vec<KeySetting>,
    /// A file of more of them; empty: none.
    pub jwks: PathBuf,
    /// What `iss` has to be; empty: not asked.
    pub issuer: String,
    /// What `aud` has to be or to hold; empty: not asked.
    pub audience: String,
}

impl Settings {
    /// Whether no keys are configured: then it is the development key that counts.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.keys.is_empty() && self.jwks.as_os_str().is_empty()
    }

    /// Whether a secret is among the keys: who checks tokens with it can make them.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.keys.iter().any(|key| key.alg == "HS256")
    }
}

/// One key: what verifies, and what signs when the key can.
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) encoding: Option<EncodingKey>,
}

/// Every key at one moment.
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// The key for a header that names `kid`, or none.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.0.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid == kid),
            // Without a key id there has to be no choice.
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// The first key that signs.
    pub(super) fn signing(&self) -> Option<(&Key, &EncodingKey)> {
        self.0.iter().find_map(|key| Some((key, key.encoding.as_ref()?)))
    }

    /// Reads them; otherwise what is wrong with them.
    fn read(settings: &Settings, files: &mut Files) -> Result<Keys, String> {
        let mut keys: Vec<Key> = Vec::with_capacity(settings.keys.len());
        for setting in &settings.keys {
            let wrong = |wrong| format!("auth.keys \"{}\": {wrong}", setting.kid);
            keys.push(key_of(setting, files).map_err(wrong)?);
        }
        if !settings.jwks.as_os_str().is_empty() {
            let wrong = |wrong| format!("auth.jwks: {} {wrong}", settings.jwks.display());
            let bytes = files.read(&settings.jwks).map_err(|wrong| format!("auth.jwks: {wrong}"))?;
            keys.extend(jwks::read(&bytes).map_err(wrong)?);
        }
        if keys.is_empty() || keys.len() > KEYS_COUNT_MAX {
            let count = keys.len();
            return Err(format!(
                "auth.keys and auth.jwks hold {count} keys where 1 to {KEYS_COUNT_MAX} work"
            ));
        }
        for (index, key) in keys.iter().enumerate() {
            if keys.iter().take(index).any(|earlier| earlier.kid == key.kid) {
                return Err(format!("auth.keys and auth.jwks have the key id \"{}\" twice", key.kid));
            }
        }
        Ok(Keys(keys))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.0.iter().map(|key| (&key.kid, key.algorithm))).finish()
    }
}

/// The keys that tokens are checked with. See [`super`] for the rules and [`KeyTable::verify`] for their order.
pub struct KeyTable {
    pub(super) settings: Settings,
    /// Read once a token, and written when files have changed.
    keys: RwLock<Arc<Keys>>,
    /// What the files held when they were tried last, whether or not it could be used.
    tried: Mutex<Digest>,
    is_development: bool,
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys().fmt(out)
    }
}

impl KeyTable {
    /// The keys of the section `auth`.
    ///
    /// # Errors
    /// Status 2 with the key id and what is wrong: an unknown algorithm, a key of another kind, a secret shorter
    /// than 32 bytes, a key id twice, a set with something secret in it, no key at all.
    pub fn load(settings: Settings) -> Result<KeyTable, Fatal> {
        let mut files = Files::default();
        let keys = Keys::read(&settings, &mut files).map_err(Fatal::config)?;
        Ok(KeyTable { tried: Mutex::new(files.digest()), ..KeyTable::new(settings, keys, false) })
    }

    /// A table of one HS256 key, for tests and tools.
    pub fn from_secret(kid: &str, secret: &[u8; 32]) -> KeyTable {
        KeyTable::new(Settings::default(), Keys(vec![secret_key(kid, secret)]), false)
    }

    pub(super) fn of_development(secret: &[u8; 32]) -> KeyTable {
        KeyTable::new(Settings::default(), Keys(vec![secret_key(DEVELOPMENT_KID, secret)]), true)
    }

    fn new(settings: Settings, keys: Keys, is_development: bool) -> KeyTable {
        provider::install();
        let (keys, tried) = (RwLock::new(Arc::new(keys)), Mutex::new(Files::default().digest()));
        KeyTable { settings, keys, tried, is_development }
    }

    /// Is this the development key, with which nothing but loopback may be served?
    pub fn is_development(&self) -> bool {
        self.is_development
    }

    /// The keys as they are now.
    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files again. `true`: they had changed, and tokens are checked with the new keys from now on; what was
    /// let in with the old ones stays until its token expires. What cannot be used is tried once.
    ///
    /// # Errors
    /// As for [`KeyTable::load`]. The old keys stay.
    pub fn refresh(&self) -> Result<bool, Fatal> {
        if self.settings.is_development() {
            return Ok(false);
        }
        let mut files = Files::default();
        let read = Keys::read(&self.settings, &mut files);
        let digest = files.digest();
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = tried.as_ref() != digest.as_ref();
        *tried = digest;
        let keys = read.map_err(Fatal::config)?;
        if is_new {
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        }
        Ok(is_new)
    }

    /// [`KeyTable::refresh`] every `period`, on `runtime` for as long as it runs, which is told in the log. The contents are
    /// compared, not the times of the files: so a link that leads elsewhere, as it does where secrets are mounted, is found
    /// as well, and a file that was half written is found whole the next time.
    pub fn keep_fresh(self: &Arc<KeyTable>, runtime: &Handle, period: Duration) {
        let table = Arc::clone(self);
        runtime.spawn(async move {
            let mut told = None;
            loop {
                tokio::time::sleep(period).await;
                let here = Arc::clone(&table);
                // Files may lie on a disk that takes its time.
                let Ok(refreshed) = tokio::task::spawn_blocking(move || here.refresh()).await else { return };
                match refreshed {
                    Ok(true) => {
                        tracing::info!(keys = ?table, "tokens are checked with these keys from now on");
                        told = None;
                    }
                    Ok(false) => {}
                    Err(Fatal { sentence, .. }) if told.as_ref() != Some(&sentence) => {
                        tracing::error!(error = %sentence, "the keys for tokens cannot be used; the old ones stay");
                        told = Some(sentence);
                    }
                    Err(_) => {}
                }
            }
        });
    }
}

fn secret_key(kid: &str, secret: &[u8]) -> Key {
    Key {
        kid: kid.to_owned(),
        algorithm: Algorithm::HS256,
        decoding: DecodingKey::from_secret(secret),
        encoding: Some(EncodingKey::from_secret(secret)),
    }
}

/// The key a setting describes; otherwise what is wrong with it.
fn key_of(setting: &KeySetting, files: &mut Files) -> Result<Key, String> {
    let algorithm = match setting.alg.as_str() {
        "HS256" => Algorithm::HS256,
        "EdDSA" => Algorithm::EdDSA,
        "ES256" => Algorithm::ES256,
        "RS256" => Algorithm::RS256,
        other => return Err(format!("alg \"{other}\" is not one of HS256, EdDSA, ES256, RS256")),
    };
    match (algorithm, &setting.secret, &setting.secret_file, &setting.public_key) {
        (Algorithm::HS256, Some(secret), None, None) => long_enough(&setting.kid, secret.as_bytes()),
        (Algorithm::HS256, None, Some(path), None) => {
            let bytes = files.read(path)?;
            long_enough(&setting.kid, bytes.strip_suffix(b"\n").unwrap_or(&bytes))
        }
        (Algorithm::HS256, ..) => Err("HS256 takes one of secret, secret_file, and no public_key".to_owned()),
        (_, None, None, Some(path)) => {
            let pem = String::from_utf8_lossy(&files.read(path)?).into_owned();
            let decoding =
                public_key::of_pem(algorithm, &pem).map_err(|wrong| format!("{} {wrong}", path.display()))?;
            Ok(Key { kid: setting.kid.clone(), algorithm, decoding, encoding: None })
        }
        _ => Err(format!("{} takes public_key, a PEM file, and no secret", setting.alg)),
    }
}

fn long_enough(kid: &str, secret: &[u8]) -> Result<Key, String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("the secret has {} bytes where HS256 needs {SECRET_BYTES_MIN}", secret.len()));
    }
    Ok(secret_key(kid, secret))
}

/// Small files, and what tells other contents from theirs, so that no second copy of a secret has to be kept for that.
struct Files(Context);

impl Default for Files {
    fn default() -> Files {
        Files(Context::new(&SHA256))
    }
}

impl Files {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let cannot = |error: io::Error| format!("{} cannot be read ({error})", path.display());
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(cannot)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("{} is larger than any keys", path.display()));
        }
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(&bytes);
        Ok(bytes)
    }

    fn digest(self) -> Digest {
        self.0.finish()
    }
}
