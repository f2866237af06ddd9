//! Keys out of a JWK set (RFC 7517 §5): what an identity provider publishes, as a file.
//!
//! # Invariants
//! - The algorithm of a key is its own: by its type, which `alg` may only confirm. A token has no say in it.
//! - Keys for something else (encryption, algorithms that we do not take) are left out, as RFC 7517 §5 wants it: providers
//!   publish all of theirs in one set. A key that would be ours and is wrong spoils the whole set, and so does anything
//!   secret in it: who put that there has to hear of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::keys::Key;
use super::public_key;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// A key as it is written (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    intent: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

/// The keys of a set that verify tokens; otherwise what is wrong with it, as the end of a sentence.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Key>, String> {
    // The parser's own words name places and fields, and no values of ours: these are public keys.
    let set: Set = serde_json::from_slice(bytes).map_err(|error| format!("is not a JWK set ({error})"))?;
    if set.keys.iter().any(Jwk::is_secret) {
        return Err("holds a private key or a shared secret: public keys only belong here".to_owned());
    }
    let ours = set.keys.iter().filter_map(|jwk| Some((jwk, jwk.algorithm()?)));
    let keys = ours.map(|(jwk, algorithm)| jwk.key(algorithm)).collect::<Result<Vec<_>, String>>()?;
    if keys.is_empty() {
        return Err("holds no public key for EdDSA, ES256 or RS256".to_owned());
    }
    Ok(keys)
}

impl Jwk {
    fn is_secret(&self) -> bool {
        self.kty == "oct" || self.d.is_some()
    }

    /// What it verifies, when that is signatures that we take.
    fn algorithm(&self) -> Option<Algorithm> {
        let verifies = self.intent.as_deref().is_none_or(|intent| intent == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let (algorithm, name) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA"),
            ("EC", Some("P-256")) => (Algorithm::ES256, "ES256"),
            ("RSA", _) => (Algorithm::RS256, "RS256"),
            _ => return None,
        };
        // RFC 9864 has a name of its own for Ed25519.
        let alg = self.alg.as_deref().map(|alg| if alg == "Ed25519" { "EdDSA" } else { alg });
        (verifies && alg.is_none_or(|alg| alg == name)).then_some(algorithm)
    }

    fn key(&self, algorithm: Algorithm) -> Result<Key, String> {
        let kid = self.kid.clone().ok_or("has a key without a \"kid\", by which tokens name it")?;
        let number = |name: &str, text: Option<&String>| {
            let text = text.ok_or_else(|| format!("key \"{kid}\" has no \"{name}\""))?;
            let wrong = |_| format!("key \"{kid}\": \"{name}\" is not base64url without padding");
            URL_SAFE_NO_PAD.decode(text).map_err(wrong)
        };
        let decoding = match algorithm {
            Algorithm::EdDSA => public_key::ed25519(&number("x", self.x.as_ref())?),
            Algorithm::ES256 => {
                public_key::p256(&number("x", self.x.as_ref())?, &number("y", self.y.as_ref())?)
            }
            _ => public_key::rsa(&number("n", self.n.as_ref())?, &number("e", self.e.as_ref())?),
        };
        let decoding = decoding.map_err(|wrong| format!("key \"{kid}\" {wrong}"))?;
        Ok(Key { kid, algorithm, decoding, encoding: None })
    }
}
