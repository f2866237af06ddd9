//! Hands that sign: what an identity provider makes, and what a stranger can make.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use carillon_node::tokens::{KeySetting, KeyTable, Settings};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

pub(crate) const NOW_S: u64 = 1_800_000_000;
pub(crate) const NOW_MS: u64 = NOW_S * 1_000;
pub(crate) const SECRET: &str = "an HS256 secret of more than thirty-two bytes";

/// `SubjectPublicKeyInfo` up to the key (RFC 8410 §10.1; RFC 5480 §2).
pub(crate) const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
pub(crate) const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3,
    1, 7, 3, 0x42, 0,
];

/// A token of any header and claims, signed by `sign`.
pub(crate) fn forge(header: &Value, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    forge_text(&header.to_string(), claims, sign)
}

/// The same of any bytes for a header.
pub(crate) fn forge_text(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub(crate) fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

pub(crate) fn good_claims() -> String {
    json!({"sub": "42", "iat": NOW_S, "exp": NOW_S + 60}).to_string()
}

pub(crate) fn secret_setting(kid: &str, secret: &str) -> KeySetting {
    KeySetting {
        kid: kid.into(),
        alg: "HS256".into(),
        secret: Some(secret.into()),
        secret_file: None,
        public_key: None,
    }
}

pub(crate) fn public_setting(kid: &str, alg: &str, path: PathBuf) -> KeySetting {
    KeySetting { kid: kid.into(), alg: alg.into(), secret: None, secret_file: None, public_key: Some(path) }
}

pub(crate) fn table_of(keys: &[KeySetting]) -> KeyTable {
    KeyTable::load(Settings { keys: keys.to_vec(), ..Settings::default() }).unwrap()
}

/// Made once by `openssl genrsa` and `openssl dgst -sha256 -sign`; the private keys are gone.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens/data").join(name)
}

/// The modulus of the RSA key there: it stands behind 33 bytes of DER, before the exponent.
pub(crate) fn rsa_modulus() -> Vec<u8> {
    let text = std::fs::read_to_string(data("rsa_2048.pem")).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).unwrap();
    assert_eq!((der.len(), &der[33 + 256..]), (294, &[2, 3, 1, 0, 1][..]));
    der[33..33 + 256].to_vec()
}

pub(crate) fn pem(dir: &Path, name: &str, prefix: &[u8], key: &[u8]) -> PathBuf {
    let body = STANDARD.encode([prefix, key].concat());
    let path = dir.join(name);
    std::fs::write(&path, format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")).unwrap();
    path
}

/// Makes a signature of a message.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Who has a private key.
pub(crate) struct Hand {
    pub(crate) kid: &'static str,
    pub(crate) alg: &'static str,
    /// The public key as it lies in its `SubjectPublicKeyInfo`.
    pub(crate) public: Vec<u8>,
    sign: Sign,
}

impl Hand {
    pub(crate) fn ed25519(kid: &'static str) -> Hand {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        Hand {
            kid,
            alg: "EdDSA",
            public,
            sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()),
        }
    }

    pub(crate) fn p256(kid: &'static str) -> Hand {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        let sign = move |message: &[u8]| pair.sign(&random, message).unwrap().as_ref().to_vec();
        Hand { kid, alg: "ES256", public, sign: Box::new(sign) }
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.alg, "kid": self.kid})
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        (self.sign)(message)
    }

    pub(crate) fn token(&self, claims: &str) -> String {
        self.forge(&self.header(), claims)
    }

    pub(crate) fn forge(&self, header: &Value, claims: &str) -> String {
        forge(header, claims, |message| self.sign(message))
    }

    /// As a provider publishes it.
    pub(crate) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(bytes));
        match self.alg {
            "EdDSA" => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "use": "sig", "x": text(&self.public)})
            }
            _ => json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "alg": self.alg, "key_ops": ["verify"],
                "x": text(&self.public[1..33]), "y": text(&self.public[33..])}),
        }
    }
}
