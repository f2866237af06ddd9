//! Our own key table: which key, with which algorithm, goes with which key id.
//!
//! # Invariants
//! - One algorithm per key id, pinned here; a token's header can only agree with it.
//! - Never empty. Any number of keys is valid at once, so that a new one can be spread before it is used and an old
//!   one kept until its last token expired.
//! - Immutable: a process that is to know other keys is given another table.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::Deserialize;

use super::{provider, public_key};
use crate::exit::Fatal;
use crate::random;

/// The key id of the development key.
pub const DEVELOPMENT_KID: &str = "dev";

/// The file of the development key in the data directory.
pub const DEVELOPMENT_FILE: &str = "dev.key";

/// An HMAC key has at least as many bytes as its hash (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Key ids are looked up by comparing them one after the other; nobody rotates through more.
const KEYS_COUNT_MAX: usize = 32;

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

/// One key: what verifies, and what signs when the key can.
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) encoding: Option<EncodingKey>,
}

/// The keys that tokens are checked with. See [`super`] for the rules and [`KeyTable::verify`] for their order.
pub struct KeyTable {
    pub(super) keys: Vec<Key>,
    development: bool,
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.keys.iter().map(|key| (&key.kid, key.algorithm))).finish()
    }
}

impl KeyTable {
    /// The keys of `auth.keys`.
    ///
    /// # Errors
    /// Status 2 with the key id and what is wrong: an unknown algorithm, a key of another kind, a secret shorter
    /// than 32 bytes, a key id twice, no key at all.
    pub fn from_settings(settings: &[KeySetting]) -> Result<KeyTable, Fatal> {
        provider::install();
        if settings.is_empty() || settings.len() > KEYS_COUNT_MAX {
            let count = settings.len();
            return Err(Fatal::config(format!(
                "auth.keys holds {count} keys where 1 to {KEYS_COUNT_MAX} work"
            )));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(settings.len());
        for setting in settings {
            if keys.iter().any(|key| key.kid == setting.kid) {
                return Err(Fatal::config(format!("auth.keys has the key id \"{}\" twice", setting.kid)));
            }
            let key = key_of(setting)
                .map_err(|wrong| Fatal::config(format!("auth.keys \"{}\": {wrong}", setting.kid)))?;
            keys.push(key);
        }
        Ok(KeyTable { keys, development: false })
    }

    /// A table of one HS256 key, for tests and tools.
    pub fn from_secret(kid: &str, secret: &[u8; 32]) -> KeyTable {
        provider::install();
        KeyTable { keys: vec![secret_key(kid, secret)], development: false }
    }

    /// Is this the development key, with which nothing but loopback may be served?
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// The key for a header that names `kid`, or none.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.keys.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid == kid),
            // Without a key id there has to be no choice.
            (None, [only]) => Some(only),
            (None, _) => None,
        }
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
fn key_of(setting: &KeySetting) -> Result<Key, String> {
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
            let bytes = read_small(path)?;
            long_enough(&setting.kid, bytes.strip_suffix(b"\n").unwrap_or(&bytes))
        }
        (Algorithm::HS256, ..) => Err("HS256 takes one of secret, secret_file, and no public_key".to_owned()),
        (_, None, None, Some(path)) => {
            let pem = String::from_utf8_lossy(&read_small(path)?).into_owned();
            let decoding = public_key::decoding_key(algorithm, &pem)
                .map_err(|wrong| format!("{} {wrong}", path.display()))?;
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

fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("{} cannot be read ({error})", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(cannot)?;
    io::Read::read_to_end(&mut io::Read::take(file, public_key::PEM_BYTES_MAX as u64 + 1), &mut bytes)
        .map_err(cannot)?;
    if bytes.len() > public_key::PEM_BYTES_MAX {
        return Err(format!("{} is larger than any key", path.display()));
    }
    Ok(bytes)
}

/// The development key: `dev.key` in the data directory (32 random bytes as hexadecimal, mode 0600), made when it is
/// missing, together with the directory. Two processes that start at the same moment end with the same key.
///
/// # Errors
/// Status 2 when the directory cannot be written, or the file holds something else.
pub fn dev_key(data_dir: &Path) -> Result<KeyTable, Fatal> {
    let path = data_dir.join(DEVELOPMENT_FILE);
    let failed = |error: io::Error| {
        Fatal::config(format!(
            "the development key {} cannot be read or made ({error}): choose another place with --data-dir",
            path.display()
        ))
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dev_key(data_dir, &path).map_err(failed)?;
            // Read back: another process may have been first.
            fs::read_to_string(&path).map_err(failed)?
        }
        read => read.map_err(failed)?,
    };
    let secret = from_hex(text.trim_end()).ok_or_else(|| {
        Fatal::config(format!(
            "the development key {} is not 64 hexadecimal digits: delete it, and a new one is made",
            path.display()
        ))
    })?;
    provider::install();
    Ok(KeyTable { keys: vec![secret_key(DEVELOPMENT_KID, &secret)], development: true })
}

/// Writes a whole key under a name of its own, then links it to `path` unless that exists by now: nobody ever reads
/// half a key, and the first one stays.
fn make_dev_key(data_dir: &Path, path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let mut secret = [0; 32];
    random::fill(&mut secret);
    let temporary = data_dir.join(format!("{DEVELOPMENT_FILE}.{:016x}", random::seed()));
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(
        |mut file| {
            file.write_all(format!("{}\n", to_hex(&secret)).as_bytes())?;
            file.sync_all()
        },
    );
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    fs::remove_file(&temporary)?;
    linked?;
    fs::File::open(data_dir)?.sync_all()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
