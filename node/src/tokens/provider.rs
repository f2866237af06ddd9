//! The cryptography behind `jsonwebtoken`: its provider trait on ring, for the four algorithms a key may have.
//!
//! `jsonwebtoken` without a provider panics at the first token whose header is well-formed, so [`install`] comes
//! before every use; [`super::KeyTable`] sees to it.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory,
    verifier_factory,
    // Only for JWKs made of keys, and thumbprints, of which no part of us has any. They refuse rather than panic.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

/// Makes ring the provider of this process. Costs nothing after the first call.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    // A provider that somebody installed before us verifies the same signatures: nothing to undo.
    INSTALLED.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

fn unsupported() -> Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))),
        _ => Err(unsupported()),
    }
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // A key used for another family than its own is how a public key becomes a shared secret.
    if algorithm.family() != key.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let bytes = key.try_get_as_bytes()?;
    let rule: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::HS256 => return Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes)))),
        Algorithm::EdDSA => &ED25519,
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(unsupported()),
    };
    Ok(Box::new(Public { algorithm: *algorithm, key: UnparsedPublicKey::new(rule, bytes.to_vec()) }))
}

/// A shared secret: signs and verifies.
struct Hs256(hmac::Key);

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        // In constant time.
        hmac::verify(&self.0, message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

/// A public key of the algorithm it is pinned to.
struct Public {
    algorithm: Algorithm,
    key: UnparsedPublicKey<Vec<u8>>,
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        self.key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second lock behind the key table's own: bytes of one family make no verifier of another.
    #[test]
    fn a_key_verifies_only_for_its_own_family_and_only_algorithms_we_chose() {
        let (secret, ed) = (DecodingKey::from_secret(&[7; 32]), DecodingKey::from_ed_der(&[7; 32]));
        assert!(verifier_factory(&Algorithm::HS256, &secret).is_ok());
        assert!(verifier_factory(&Algorithm::EdDSA, &ed).is_ok());
        for (algorithm, key) in [
            (Algorithm::HS256, &ed),
            (Algorithm::EdDSA, &secret),
            (Algorithm::ES256, &ed),
            (Algorithm::HS512, &secret),
        ] {
            assert!(verifier_factory(&algorithm, key).is_err(), "{algorithm:?}");
        }
        assert!(signer_factory(&Algorithm::EdDSA, &EncodingKey::from_ed_der(&[7; 32])).is_err());
        assert!((PROVIDER.key_utils.compute_digest)(&[], jsonwebtoken::jwk::ThumbprintHash::SHA256).is_err());
    }
}
