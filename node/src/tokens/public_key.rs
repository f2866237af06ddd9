//! Public keys out of PEM files: `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7) in the three shapes we have a use for.
//!
//! A key that could never verify anything is refused here, when the process starts, and not at the first token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey};

/// Larger than any key we accept (RSA of 8,192 bits is 1.5 KB as PEM).
pub(super) const PEM_BYTES_MAX: usize = 16 * 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// `AlgorithmIdentifier` contents: id-Ed25519 (RFC 8410 §3).
const ED25519_ID: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];
/// id-ecPublicKey with secp256r1 (RFC 5480 §2.1.1).
const P256_ID: &[u8] =
    &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// rsaEncryption with its NULL (RFC 3279 §2.3.1).
const RSA_ID: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 0x05, 0];

/// What ring verifies with: shorter RSA keys are broken, longer ones cost more than a handshake may.
const RSA_MODULUS_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// The key in `pem`, which has to be one for `algorithm`; otherwise what is wrong with it, as the end of a sentence.
pub(super) fn decoding_key(algorithm: Algorithm, pem: &str) -> Result<DecodingKey, String> {
    let der = der_of(pem).ok_or("holds no PEM block \"PUBLIC KEY\" (make one with openssl pkey -pubout)")?;
    let malformed = || "is not a well-formed public key".to_owned();
    let (identifier, key) = parts(&der).ok_or_else(malformed)?;
    match (algorithm, identifier) {
        (Algorithm::EdDSA, ED25519_ID) if key.len() == 32 => Ok(DecodingKey::from_ed_der(key)),
        // An uncompressed point (SEC 1 §2.3.3).
        (Algorithm::ES256, P256_ID) if key.len() == 65 && key.first() == Some(&4) => {
            Ok(DecodingKey::from_ec_der(key))
        }
        (Algorithm::RS256, RSA_ID) => {
            let bits = rsa_modulus_bits(key).ok_or_else(malformed)?;
            if !RSA_MODULUS_BITS.contains(&bits) {
                return Err(format!("has {bits} bits where RS256 needs 2048 to 8192"));
            }
            Ok(DecodingKey::from_rsa_der(key))
        }
        _ => Err(format!("is not a key for {algorithm:?}")),
    }
}

/// The bytes inside the first PEM block of a public key (RFC 7468 §13).
fn der_of(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
    let text: String = body.split_whitespace().collect();
    STANDARD.decode(text).ok()
}

/// The algorithm identifier's contents and the key's bytes.
fn parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (outer, []) = element(der, SEQUENCE)? else { return None };
    let (identifier, rest) = element(outer, SEQUENCE)?;
    let (bits, []) = element(rest, BIT_STRING)? else { return None };
    // The first byte counts unused bits, of which a key has none.
    Some((identifier, bits.strip_prefix(&[0])?))
}

fn rsa_modulus_bits(key: &[u8]) -> Option<usize> {
    let (numbers, []) = element(key, SEQUENCE)? else { return None };
    let (modulus, rest) = element(numbers, INTEGER)?;
    let (_exponent, []) = element(rest, INTEGER)? else { return None };
    let significant = modulus.iter().skip_while(|&&byte| byte == 0);
    let first = significant.clone().next()?;
    Some(significant.count() * 8 - first.leading_zeros() as usize)
}

/// One DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, short], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (len, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (&len, rest) = rest.split_first()?;
            (usize::from(len), rest)
        }
        0x82 => {
            let (&len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(len)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}
