//! An identity provider: it signs, and publishes the keys to check that with.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_node::clock::Clock;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

/// A key of one, with its id.
pub struct Issuer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Issuer {
    /// A new key.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn new(kid: &'static str) -> Issuer {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        Issuer { kid, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("just made") }
    }

    /// The public key's bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public key as it is published (RFC 8037 §2).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.public());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.kid, "x": x})
    }

    /// A token with these claims.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.forge(&json!({"alg": "EdDSA", "kid": self.kid}), claims)
    }

    /// The same, with any header.
    #[must_use]
    pub fn forge(&self, header: &Value, claims: &Value) -> String {
        forge(header, claims, |message| self.pair.sign(message).as_ref().to_vec())
    }
}

/// Any header and claims, signed by anybody.
#[must_use]
pub fn forge(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A signature of HS256.
#[must_use]
pub fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// Claims of a token that was issued two minutes ago and ends in `ttl_s` seconds.
#[must_use]
pub fn claims(user: u64, device: &str, ttl_s: i64) -> Value {
    let now_s = Clock.wall_ms() / 1_000;
    json!({"sub": user.to_string(), "dev": device, "iat": now_s.saturating_sub(120),
        "exp": now_s.saturating_add_signed(ttl_s)})
}

/// Writes a set of these keys, as providers publish it, in one piece.
///
/// # Panics
/// When it cannot be written.
pub fn publish(path: &Path, keys: &[&Issuer]) {
    let set = json!({"keys": keys.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>()});
    let beside = path.with_extension("new");
    std::fs::write(&beside, set.to_string()).expect("written");
    std::fs::rename(&beside, path).expect("put there");
}
