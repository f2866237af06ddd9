//! Public keys in the three shapes we have a use for, out of PEM files (`SubjectPublicKeyInfo`, RFC 5280 §4.1.2.7) and out
//! of the numbers of a JWK ([`super::jwks`]).
//!
//! A key that could never verify anything, or would verify what anybody makes, is refused here, when it is read, and not
//! at the first token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey};

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

/// An Ed25519 point, compressed, and half of an uncompressed one of P-256.
const COORDINATE_BYTES: usize = 32;

/// What ring verifies with: shorter RSA keys are broken, longer ones cost more than a handshake may.
const RSA_MODULUS_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// Public exponents that ring verifies with. By 1 anybody signs, and an even one is no exponent.
const RSA_EXPONENTS: std::ops::RangeInclusive<u64> = 3..=(1 << 33) - 1;

/// The key in `pem`, which has to be one for `algorithm`; otherwise what is wrong with it, as the end of a sentence.
pub(super) fn of_pem(algorithm: Algorithm, pem: &str) -> Result<DecodingKey, String> {
    let der = der_of(pem).ok_or("holds no PEM block \"PUBLIC KEY\" (make one with openssl pkey -pubout)")?;
    let malformed = || "is not a well-formed public key".to_owned();
    let (identifier, key) = parts(&der).ok_or_else(malformed)?;
    match (algorithm, identifier) {
        (Algorithm::EdDSA, ED25519_ID) => ed25519(key),
        // An uncompressed point (SEC 1 §2.3.3).
        (Algorithm::ES256, P256_ID) => match key.split_first() {
            Some((&4, point)) if point.len() == 2 * COORDINATE_BYTES => {
                let (x, y) = point.split_at(COORDINATE_BYTES);
                p256(x, y)
            }
            _ => Err(malformed()),
        },
        (Algorithm::RS256, RSA_ID) => {
            let (modulus, exponent) = rsa_numbers(key).ok_or_else(malformed)?;
            rsa(modulus, exponent)
        }
        _ => Err(format!("is not a key for {algorithm:?}")),
    }
}

/// A key for EdDSA.
pub(super) fn ed25519(point: &[u8]) -> Result<DecodingKey, String> {
    if point.len() != COORDINATE_BYTES {
        return Err(format!("has {} bytes where Ed25519 has {COORDINATE_BYTES}", point.len()));
    }
    Ok(DecodingKey::from_ed_der(point))
}

/// A key for ES256, by its coordinates.
pub(super) fn p256(x: &[u8], y: &[u8]) -> Result<DecodingKey, String> {
    if (x.len(), y.len()) != (COORDINATE_BYTES, COORDINATE_BYTES) {
        return Err(format!("has coordinates of other than {COORDINATE_BYTES} bytes"));
    }
    Ok(DecodingKey::from_ec_der(&[&[4], x, y].concat()))
}

/// A key for RS256, by its numbers in big-endian order.
pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, String> {
    let (modulus, exponent) = (significant(modulus), significant(exponent));
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    if !RSA_MODULUS_BITS.contains(&bits) {
        return Err(format!("has {bits} bits where RS256 needs 2048 to 8192"));
    }
    let value = exponent.iter().take(9).fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    if exponent.len() > 8 || value % 2 == 0 || !RSA_EXPONENTS.contains(&value) {
        return Err("has an exponent that is not odd and 3 to 2^33 - 1".to_owned());
    }
    // RSAPublicKey (RFC 8017 §A.1.1), which ring reads.
    let numbers = [encoded(INTEGER, &unsigned(modulus)), encoded(INTEGER, &unsigned(exponent))].concat();
    Ok(DecodingKey::from_rsa_der(&encoded(SEQUENCE, &numbers)))
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

/// Modulus and exponent.
fn rsa_numbers(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (numbers, []) = element(key, SEQUENCE)? else { return None };
    let (modulus, rest) = element(numbers, INTEGER)?;
    let (exponent, []) = element(rest, INTEGER)? else { return None };
    Some((modulus, exponent))
}

/// Without the zeros in front.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A number without zeros in front, as DER wants it: its first bit is a sign.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let needs_zero = number.first().is_none_or(|first| first & 0x80 != 0);
    [if needs_zero { &[0][..] } else { &[] }, number].concat()
}

/// One DER element. Nothing that is put into one here is longer than two bytes can say.
fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head = match (high, low) {
        (0, 0..=0x7f) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        (_, _) => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
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
