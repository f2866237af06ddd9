//! Tokens as strangers make them: any text, and headers and claims of any kind signed by the right key, by another, or by a public
//! key taken for a secret. A verifier of our own, of ring and `serde_json`, says what may be let through.

#![expect(clippy::disallowed_methods, reason = "keys come from files")]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use carillon_node::tokens::{Claims, KeySetting, KeyTable, LEEWAY_S, Settings, TokenError};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::draw::Draw;
use crate::{Reached, Target};

/// See [`crate::TARGETS`].
pub const TARGET: Target = Target {
    name: "tokens",
    run,
    outcomes: &[
        "HS256",
        "EdDSA",
        "ES256",
        "of ours",
        "Malformed",
        "UnknownKey",
        "BadSignature",
        "Expired",
        "NotYet",
        "BadClaim",
    ],
};

const NOW_S: u64 = 1_800_000_000;
const SECRETS: [(&str, &str); 2] =
    [("h", "a secret of more than thirty-two bytes"), ("g", "another secret of more than thirty-two")];
/// `SubjectPublicKeyInfo` up to the key (RFC 8410 section 10.1; RFC 5480 section 2).
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3,
    1, 7, 3, 0x42, 0,
];

/// What a server would know, and what its issuer does.
struct Keys {
    table: KeyTable,
    signing: KeyTable,
    edwards: Ed25519KeyPair,
    nist: EcdsaKeyPair,
    /// The file that the table read the Edwards key from: to be taken for a secret.
    edwards_pem: String,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let edwards = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any seed is a key");
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let nist =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
    let pem = |prefix: &[u8], key: &[u8]| {
        let body = STANDARD.encode([prefix, key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    };
    let edwards_pem = pem(ED25519_PREFIX, edwards.public_key().as_ref());
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path
    };
    let settings = json!([
        { "kid": SECRETS[0].0, "alg": "HS256", "secret": SECRETS[0].1 },
        { "kid": SECRETS[1].0, "alg": "HS256", "secret": SECRETS[1].1 },
        { "kid": "e", "alg": "EdDSA", "public_key": file("e.pem", &edwards_pem) },
        { "kid": "p", "alg": "ES256", "public_key": file("p.pem", &pem(P256_PREFIX, nist.public_key().as_ref())) },
    ]);
    let settings: Vec<KeySetting> = serde_json::from_value(settings).expect("settings");
    let load = |keys: &[KeySetting]| {
        KeyTable::load(Settings { keys: keys.to_vec(), ..Settings::default() }).expect("keys")
    };
    let (table, signing) = (load(&settings), load(&settings[..1]));
    Keys { table, signing, edwards, nist, edwards_pem }
});

fn run(data: &[u8], reached: &mut Reached) {
    let Some((&form, data)) = data.split_first() else { return };
    let mut draw = Draw::new(data);
    match form % 4 {
        0 => {
            let Ok(token) = std::str::from_utf8(data) else { return };
            judge(token, NOW_S * 1_000, reached);
        }
        1 => of_ours(&mut draw, reached),
        _ => {
            let wall_ms = match draw.byte() {
                0 => 0,
                1 => u64::MAX,
                2 => draw.number(),
                near => (NOW_S - 128 + u64::from(near)) * 1_000,
            };
            judge(&forged(draw), wall_ms, reached);
        }
    }
}

/// Whatever the table says, the other verifier says as well.
fn judge(token: &str, wall_ms: u64, reached: &mut Reached) {
    let verdict = KEYS.table.verify(token, wall_ms);
    match &verdict {
        Ok(claims) => {
            let algorithm = signed_by(token).unwrap_or_else(|| panic!("nobody signed {token}"));
            says(token, claims, wall_ms);
            reached.meet(algorithm);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(token.len() < 12 || !said.contains(token), "an error shows no token");
            reached.meet(match error {
                TokenError::Malformed => "Malformed",
                TokenError::UnknownKey => "UnknownKey",
                TokenError::BadSignature => "BadSignature",
                TokenError::Expired => "Expired",
                TokenError::NotYet => "NotYet",
                TokenError::BadClaim(_) => "BadClaim",
            });
            if matches!(error, TokenError::Expired | TokenError::NotYet | TokenError::BadClaim(_)) {
                assert!(signed_by(token).is_some(), "a stranger learns nothing about claims");
            }
        }
    }
}

fn part(token: &str, index: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()
}

/// The algorithm of the key that the header names, if that key really signed this.
fn signed_by(token: &str) -> Option<&'static str> {
    let header: Value = serde_json::from_slice(&part(token, 0)?).ok()?;
    let (message, signature) = token.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let (algorithm, is_right) = match header.get("kid")?.as_str()? {
        kid @ ("h" | "g") => {
            let secret = SECRETS.iter().find(|secret| secret.0 == kid)?.1;
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            ("HS256", hmac::verify(&key, message.as_bytes(), &signature).is_ok())
        }
        "e" => {
            let key = UnparsedPublicKey::new(&ED25519, KEYS.edwards.public_key());
            ("EdDSA", key.verify(message.as_bytes(), &signature).is_ok())
        }
        "p" => {
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, KEYS.nist.public_key());
            ("ES256", key.verify(message.as_bytes(), &signature).is_ok())
        }
        _ => return None,
    };
    (is_right && header.get("alg")?.as_str()? == algorithm && header.get("crit").is_none_or(Value::is_null))
        .then_some(algorithm)
}

/// What was taken from the claims stands there, and is within its bounds.
fn says(token: &str, claims: &Claims, wall_ms: u64) {
    let payload = part(token, 1).expect("it was read");
    let raw: Value = serde_json::from_slice(&payload).expect("it was read");
    let is_device = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    assert_eq!(raw["sub"], claims.user_id.to_string().as_str(), "one spelling");
    assert!((1..=i64::MAX as u64).contains(&claims.user_id));
    assert_eq!(raw["dev"].as_str().unwrap_or("default"), claims.device_id);
    assert!((1..=64).contains(&claims.device_id.len()) && claims.device_id.bytes().all(is_device));
    assert_eq!(raw["name"].as_str().filter(|name| !name.is_empty()), claims.name.as_deref());
    assert!(claims.name.as_ref().is_none_or(|name| name.len() <= 64 && !name.contains(char::is_control)));
    assert_eq!(raw["scope"].as_str().unwrap_or(""), claims.scope);
    assert_eq!(raw["exp"].as_f64().map(f64::floor), Some(claims.expires_s as f64));
    assert!(wall_ms < claims.dead_at_ms(), "it has not expired");
    let not_before_s = raw["nbf"].as_f64().unwrap_or(0.0).floor();
    assert!(wall_ms.saturating_add(LEEWAY_S * 1_000) as f64 >= not_before_s * 1_000.0, "it is valid already");
    assert_eq!(raw["iat"].as_f64().unwrap_or(0.0).floor(), claims.issued_s as f64);
}

/// What we sign, we let through for as long as it says.
fn of_ours(draw: &mut Draw<'_>, reached: &mut Reached) {
    let claims = Claims {
        user_id: if draw.flag() { draw.number() } else { u64::from(draw.byte()) },
        device_id: if draw.flag() { draw.text(66).into() } else { "phone".to_owned() },
        issued_s: NOW_S,
        expires_s: NOW_S + u64::from(draw.byte()),
        name: draw.flag().then(|| draw.text(66).into()).filter(|name: &String| !name.is_empty()),
        scope: draw.text(20).into(),
    };
    let wall_ms = (NOW_S + u64::from(draw.byte()) + u64::from(draw.byte())) * 1_000;
    let Ok(token) = KEYS.signing.sign(&claims) else { return };
    let expected = if wall_ms < claims.dead_at_ms() { Ok(claims) } else { Err(TokenError::Expired) };
    assert_eq!(KEYS.table.verify(&token, wall_ms), expected);
    reached.meet("of ours");
}

/// A header and claims of any kind, signed by somebody.
fn forged(mut draw: Draw<'_>) -> String {
    const KIDS: [&str; 6] = ["h", "g", "e", "p", "x", ""];
    const ALGORITHMS: [&str; 8] = ["HS256", "EdDSA", "ES256", "RS256", "none", "HS512", "PS256", "hs256"];
    let plan = draw.byte();
    let kid = draw.pick(&KIDS);
    // Mostly the key's own algorithm, and the key itself.
    let own = match kid {
        "e" => "EdDSA",
        "p" => "ES256",
        _ => "HS256",
    };
    let algorithm = if plan & 1 == 0 { own } else { draw.pick(&ALGORITHMS) };
    let header = match plan >> 1 & 7 {
        0 => String::from_utf8_lossy(draw.bytes(120)).into_owned(),
        1 => json!({ "alg": algorithm }).to_string(),
        2 => json!({ "alg": algorithm, "kid": kid, "crit": ["exp"], "exp": 1 }).to_string(),
        3 => json!({ "alg": algorithm, "kid": kid, "jwk": { "kty": "oct", "k": "AAAA" }, "jku": "http://x" })
            .to_string(),
        _ => json!({ "alg": algorithm, "kid": kid, "typ": "JWT" }).to_string(),
    };
    let signer =
        if plan & 16 == 0 { kid } else { draw.pick(&["h", "g", "e", "p", "pem", "nobody", "garbage"]) };
    let tail = draw.bytes(8);
    let claims = claims(draw);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mac = |secret: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()).as_ref().to_vec()
    };
    let signature = match signer {
        "h" | "x" | "" => mac(SECRETS[0].1.as_bytes()),
        "g" => mac(SECRETS[1].1.as_bytes()),
        "e" => KEYS.edwards.sign(message.as_bytes()).as_ref().to_vec(),
        "p" => KEYS.nist.sign(&SystemRandom::new(), message.as_bytes()).expect("signs").as_ref().to_vec(),
        "pem" => mac(KEYS.edwards_pem.as_bytes()),
        "garbage" => tail.to_vec(),
        _ => Vec::new(),
    };
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Claims as they stand in the input, or usual ones with values from it.
fn claims(mut draw: Draw<'_>) -> Vec<u8> {
    let plan = draw.byte();
    if plan & 1 == 0 {
        return draw.rest().to_vec();
    }
    let mut claims = json!({ "sub": "42", "exp": NOW_S + 60 });
    let values = [
        json!(null),
        json!(NOW_S),
        json!(NOW_S + 100),
        json!(-1),
        json!(1e300),
        json!("7"),
        json!(1.5),
        json!([]),
    ];
    for (bit, name) in ["sub", "dev", "iat", "exp", "nbf", "name", "scope"].iter().enumerate() {
        if plan >> (bit + 1) & 1 == 1 {
            claims[name] = match draw.byte() {
                draws @ 0..8 => values[usize::from(draws)].clone(),
                8..16 => json!(draw.number()),
                _ => json!(draw.text(70)),
            };
        }
    }
    claims.to_string().into_bytes()
}
