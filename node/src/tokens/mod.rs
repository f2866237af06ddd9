//! Who a client is: a JSON Web Token (RFC 7519), signed, checked against our own [`KeyTable`].
//!
//! # Invariants
//! - The algorithm is pinned to the key id in our table; the header of a token chooses neither (RFC 8725 §3.1).
//! - Nothing of a claim is believed, and nothing but the header parsed, before the signature holds.
//! - Wall time is an argument: the same token at the same time and with the same keys is the same answer (G16).
//! - No error carries a token or a piece of one, and [`Claims`] shows no text of a user in its `Debug`.

mod development;
mod jwks;
mod keys;
mod provider;
mod public_key;

use std::fmt;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use development::{DEVELOPMENT_FILE, DEVELOPMENT_KID, dev_key};
pub use keys::{KeySetting, KeyTable, Settings};

/// A longer token is refused before anything of it is read. Ours are near 250 bytes; identity providers that put
/// groups into theirs stay below 2 KiB.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// How far our clock and the issuer's may be apart, both ways: one leeway everywhere.
pub const LEEWAY_S: u64 = 30;

/// The device of a token that names none.
pub const DEVICE_DEFAULT: &str = "default";

/// The scope that may create users.
pub const SCOPE_ADMIN: &str = "admin";

const DEVICE_BYTES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;

/// Numbers of seconds above this are mistakes (milliseconds, mostly), and exact in a double.
const SECONDS_MAX: u64 = 1 << 53;

/// Why a token is refused. The peer's kind of wrong: `Expired` is `token_expired`, the rest `unauthenticated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token we can read: too long, not three parts, not JSON, an algorithm nobody knows (`none` is one), a kind that
    /// is for something else, an extension that must be understood.
    #[error("the token is malformed")]
    Malformed,
    /// No key of ours has this key id with this algorithm. For [`KeyTable::sign`]: no key of ours signs.
    #[error("the token names no key of this server")]
    UnknownKey,
    /// The signature was not made with the key.
    #[error("the token's signature does not match")]
    BadSignature,
    /// `exp` is more than [`LEEWAY_S`] ago.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is more than [`LEEWAY_S`] ahead.
    #[error("the token is not valid yet")]
    NotYet,
    /// A claim is missing or not what the protocol says; which one.
    #[error("the token's claim {0} is missing or not what it has to be")]
    BadClaim(&'static str),
}

/// What a valid token says.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: the user, 1 … 2^63 − 1.
    pub user_id: u64,
    /// `dev`: 1–64 of `[A-Za-z0-9_-]`; [`DEVICE_DEFAULT`] when absent.
    pub device_id: String,
    /// `iat`, seconds since the epoch; 0 when absent, so that such a token is older than any revocation.
    pub issued_s: u64,
    /// `exp`, seconds since the epoch.
    pub expires_s: u64,
    /// `name`: up to 64 bytes without control characters.
    pub name: Option<String>,
    /// `scope`: words separated by spaces (RFC 8693 §4.2), empty when absent.
    pub scope: String,
}

impl Claims {
    /// May the bearer do this?
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|word| word == scope)
    }

    /// May the bearer create users?
    pub fn is_admin(&self) -> bool {
        self.has_scope(SCOPE_ADMIN)
    }

    /// From this wall time on, in milliseconds, the token is refused and its live connections are closed (4012).
    pub fn dead_at_ms(&self) -> u64 {
        self.expires_s.saturating_add(LEEWAY_S).saturating_mul(1_000)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Claims")
            .field("user_id", &self.user_id)
            .field("device_id", &self.device_id)
            .field("expires_s", &self.expires_s)
            .finish_non_exhaustive()
    }
}

/// The claims as they are signed, with the names of RFC 7519 §4.1.
#[derive(Serialize)]
struct Signed<'a> {
    sub: String,
    dev: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
}

/// The claims as a stranger wrote them: any JSON, so that what is wrong can be named. A claim given twice is an error
/// of the parser.
#[derive(Deserialize)]
struct Raw {
    sub: Option<Value>,
    dev: Option<Value>,
    iat: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    name: Option<Value>,
    scope: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
}

impl KeyTable {
    /// Checks a token at `wall_ms`, milliseconds since the epoch: length, form, key, signature, issuer and
    /// audience, times, claims.
    ///
    /// # Errors
    /// The first check that fails, in that order: a stranger learns nothing about claims without a signature.
    pub fn verify(&self, token: &str, wall_ms: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // We understand no extension, so none may be critical (RFC 7515 §4.1.11).
        if header.crit.is_some() || !header.typ.as_deref().is_none_or(is_for_access) {
            return Err(TokenError::Malformed);
        }
        let keys = self.keys();
        let key = keys.find(header.kid.as_deref()).ok_or(TokenError::UnknownKey)?;
        if header.alg != key.algorithm {
            return Err(TokenError::UnknownKey);
        }
        let decoded = jsonwebtoken::decode::<Raw>(token, &key.decoding, &signature_only(key.algorithm));
        let raw = decoded.map_err(|error| refused(&error))?.claims;
        raw.is_for_us(&self.settings)?;
        raw.check(wall_ms)
    }

    /// Signs `claims` with the first key that can.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] when every key is a public one; [`TokenError::BadClaim`] and
    /// [`TokenError::Malformed`] when this table itself would refuse the token for its claims or its length.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let keys = self.keys();
        let (key, encoding) = keys.signing().ok_or(TokenError::UnknownKey)?;
        user_id(&claims.user_id.to_string()).ok_or(TokenError::BadClaim("sub"))?;
        if !is_device(&claims.device_id) {
            return Err(TokenError::BadClaim("dev"));
        }
        if claims.name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(TokenError::BadClaim("name"));
        }
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(key.algorithm) };
        let signed = Signed {
            sub: claims.user_id.to_string(),
            dev: &claims.device_id,
            iat: claims.issued_s,
            exp: claims.expires_s,
            name: claims.name.as_deref(),
            scope: &claims.scope,
        };
        let token = jsonwebtoken::encode(&header, &signed, encoding).map_err(|_| TokenError::Malformed)?;
        if token.len() > TOKEN_BYTES_MAX { Err(TokenError::Malformed) } else { Ok(token) }
    }
}

/// What the library shall check: the signature. Its own checks of time read a clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn refused(error: &Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        _ => TokenError::Malformed,
    }
}

/// Whether a token that calls itself this is one (RFC 7519 §5.1), or says that it is for access (RFC 9068 §2.1). Providers
/// sign others with the same keys, for other ends (RFC 8725 §3.11).
fn is_for_access(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

impl Raw {
    /// Who made it and for whom, as far as that is configured (RFC 8725 §3.8, §3.9).
    fn is_for_us(&self, settings: &Settings) -> Result<(), TokenError> {
        let names = |value: &Value, wanted: &str| value.as_str() == Some(wanted);
        if !settings.issuer.is_empty() && !self.iss.iter().any(|iss| names(iss, &settings.issuer)) {
            return Err(TokenError::BadClaim("iss"));
        }
        let is_named = match &self.aud {
            Some(Value::Array(all)) => all.iter().any(|one| names(one, &settings.audience)),
            one => one.iter().any(|one| names(one, &settings.audience)),
        };
        if !settings.audience.is_empty() && !is_named {
            return Err(TokenError::BadClaim("aud"));
        }
        Ok(())
    }

    fn check(self, wall_ms: u64) -> Result<Claims, TokenError> {
        let expires_s = seconds("exp", self.exp.as_ref())?.ok_or(TokenError::BadClaim("exp"))?;
        let not_before_s = seconds("nbf", self.nbf.as_ref())?.unwrap_or(0);
        let leeway_ms = LEEWAY_S * 1_000;
        if wall_ms >= (expires_s * 1_000).saturating_add(leeway_ms) {
            return Err(TokenError::Expired);
        }
        if wall_ms.saturating_add(leeway_ms) < not_before_s * 1_000 {
            return Err(TokenError::NotYet);
        }
        let sub = text("sub", self.sub)?.ok_or(TokenError::BadClaim("sub"))?;
        let device_id = text("dev", self.dev)?.unwrap_or_else(|| DEVICE_DEFAULT.to_owned());
        let name = text("name", self.name)?.filter(|name| !name.is_empty());
        if !is_device(&device_id) {
            return Err(TokenError::BadClaim("dev"));
        }
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(TokenError::BadClaim("name"));
        }
        Ok(Claims {
            user_id: user_id(&sub).ok_or(TokenError::BadClaim("sub"))?,
            device_id,
            issued_s: seconds("iat", self.iat.as_ref())?.unwrap_or(0),
            expires_s,
            name,
            scope: text("scope", self.scope)?.unwrap_or_default(),
        })
    }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction: it is cut off. `null` is absent.
fn seconds(claim: &'static str, value: Option<&Value>) -> Result<Option<u64>, TokenError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| (0.0..=SECONDS_MAX as f64).contains(number))?;
        Some(number as u64)
    });
    match whole {
        Some(whole) if whole <= SECONDS_MAX => Ok(Some(whole)),
        _ => Err(TokenError::BadClaim(claim)),
    }
}

fn text(claim: &'static str, value: Option<Value>) -> Result<Option<String>, TokenError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::BadClaim(claim)),
    }
}

/// A canonical decimal, 1 … 2^63 − 1: no sign, no leading zero, so that an id has one spelling.
fn user_id(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|digit| digit.is_ascii_digit()) && !text.starts_with('0');
    let id: u64 = if canonical { text.parse().ok()? } else { return None };
    (id <= i64::MAX as u64).then_some(id)
}

fn is_device(text: &str) -> bool {
    (1..=DEVICE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}
