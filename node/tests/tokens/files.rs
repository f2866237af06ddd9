//! Where keys come from: sets of an identity provider, and files that change while the server runs.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_node::tokens::{KeyTable, Settings, TokenError};
use serde_json::{Value, json};

use crate::forge::{
    ED25519_PREFIX, Hand, NOW_MS, NOW_S, SECRET, data, good_claims, pem, public_setting, rsa_modulus,
    secret_setting,
};

fn rsa_jwk(modulus: &[u8], exponent: &[u8]) -> Value {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"kty": "RSA", "kid": "rsa", "alg": "RS256", "use": "sig", "n": text(modulus), "e": text(exponent)})
}

fn write(path: &Path, set: &Value) {
    std::fs::write(path, set.to_string()).unwrap();
}

fn settings(jwks: &Path) -> Settings {
    Settings { jwks: jwks.to_path_buf(), ..Settings::default() }
}

/// Security, token: a provider's set, of which only what verifies tokens is taken.
#[test]
fn keys_come_out_of_a_set_and_what_is_for_something_else_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let (ed, ec) = (Hand::ed25519("ed"), Hand::p256("ec"));
    let foreign = [
        json!({"kty": "RSA", "kid": "enc", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "pss", "alg": "PS256", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "wrap", "key_ops": ["wrapKey"], "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "EC", "kid": "k1", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "kid": "p384", "crv": "P-384", "alg": "ES384", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "kid": "x", "crv": "X25519", "x": "AA"}),
        json!({"kty": "of the future"}),
    ];
    let ours = [ed.jwk(), ec.jwk(), rsa_jwk(&rsa_modulus(), &[1, 0, 1])];
    write(&path, &json!({"keys": foreign.iter().chain(&ours).collect::<Vec<_>>(), "more": 1}));
    let table = KeyTable::load(settings(&path)).unwrap();
    assert_eq!(format!("{table:?}"), r#"[("ed", EdDSA), ("ec", ES256), ("rsa", RS256)]"#);
    assert!(!table.is_development());
    for hand in [&ed, &ec] {
        assert_eq!(table.verify(&hand.token(&good_claims()), NOW_MS).unwrap().user_id, 42, "{}", hand.alg);
    }
    // OpenSSL's token names no key, so its key has to be the only one.
    write(&path, &json!({"keys": [ours[2]]}));
    let table = KeyTable::load(settings(&path)).unwrap();
    let token = std::fs::read_to_string(data("rsa_token.txt")).unwrap();
    assert_eq!(table.verify(token.trim(), NOW_MS).unwrap().user_id, 42);

    // Beside keys of the configuration.
    write(&path, &json!({"keys": [ed.jwk()]}));
    let both = Settings { keys: vec![secret_setting("s", SECRET)], ..settings(&path) };
    assert!(both.has_secret() && !both.is_development());
    assert_eq!(format!("{:?}", KeyTable::load(both).unwrap()), r#"[("s", HS256), ("ed", EdDSA)]"#);
    assert!(Settings::default().is_development() && !settings(&path).has_secret());
}

/// Security, token: a set that cannot be used is refused as a whole, and the sentence says what is wrong with it.
#[test]
fn a_set_with_something_wrong_or_secret_in_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let ed = Hand::ed25519("ed").jwk();
    let changed = |field: &str, value: Value| {
        let mut jwk = ed.clone();
        jwk[field] = value;
        json!({"keys": [jwk]}).to_string()
    };
    let with = |other: Value| json!({"keys": [ed, other]}).to_string();
    let rsa = |modulus: &[u8], exponent: &[u8]| with(rsa_jwk(modulus, exponent));
    let (modulus, f4) = (rsa_modulus(), [1, 0, 1]);
    let ec = |x: &str| with(json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": x, "y": "AA"}));
    let many = json!({"keys": (0..33).map(|n| changed_kid(&ed, n)).collect::<Vec<_>>()}).to_string();
    for (set, told) in [
        (String::new(), "is not a JWK set"),
        ("[]".into(), "is not a JWK set"),
        ("{}".into(), "missing field `keys`"),
        (json!({"keys": [ed]}).to_string().replace("\"kid\"", "\"kid\":\"x\",\"kid\""), "duplicate field"),
        (json!({"keys": []}).to_string(), "holds no public key"),
        (json!({"keys": [{"kty": "EC", "crv": "P-384", "kid": "k"}]}).to_string(), "holds no public key"),
        (changed("kid", Value::Null), "without a \"kid\""),
        (changed("x", Value::Null), "key \"ed\" has no \"x\""),
        (changed("x", json!("!")), "\"x\" is not base64url"),
        (changed("x", json!("AA==")), "\"x\" is not base64url"),
        (changed("x", json!("AAAA")), "has 3 bytes where Ed25519 has 32"),
        (changed("d", json!("AAAA")), "private key or a shared secret"),
        (with(json!({"kty": "oct", "kid": "s", "k": "AAAA"})), "private key or a shared secret"),
        (with(ed.clone()), "\"ed\" twice"),
        (ec("AAAA"), "coordinates"),
        (rsa(&modulus[..128], &f4), "has 1024 bits"),
        (rsa(&[&[1][..], &[0; 1_024]].concat(), &f4), "has 8193 bits"),
        (rsa(&modulus, &[1]), "exponent"),
        (rsa(&modulus, &[2]), "exponent"),
        (rsa(&modulus, &[]), "exponent"),
        (rsa(&modulus, &[1, 0, 0, 0, 0, 0, 0, 0, 3]), "exponent"),
        (many, "hold 33 keys where 1 to 32 work"),
        (" ".repeat(300_000), "is larger than any keys"),
    ] {
        std::fs::write(&path, &set).unwrap();
        let fatal = KeyTable::load(settings(&path)).unwrap_err();
        assert!(fatal.status == 2 && fatal.sentence.contains(told), "{told}: {fatal}");
        assert!(fatal.sentence.contains("auth."), "says where: {fatal}");
    }
    let absent = KeyTable::load(settings(Path::new("absent.json"))).unwrap_err();
    assert!(absent.sentence.contains("auth.jwks: absent.json cannot be read"), "{absent}");
}

fn changed_kid(jwk: &Value, number: u32) -> Value {
    let mut jwk = jwk.clone();
    jwk["kid"] = json!(number.to_string());
    jwk
}

/// Security, token: two keys are valid during a rotation, which needs no restart; a file that cannot be used changes
/// nothing.
#[test]
fn files_that_change_are_read_again_and_what_cannot_be_used_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let (old, new) = (Hand::ed25519("2026-01"), Hand::p256("2026-02"));
    let third = Hand::ed25519("pem");
    let pem_path = pem(dir.path(), "third.pem", ED25519_PREFIX, &third.public);
    write(&path, &json!({"keys": [old.jwk()]}));
    let keys = vec![public_setting("pem", "EdDSA", pem_path.clone())];
    let table = KeyTable::load(Settings { keys, ..settings(&path) }).unwrap();
    let let_in = |hand: &Hand| table.verify(&hand.token(&good_claims()), NOW_MS).is_ok();
    let who = || (let_in(&old), let_in(&new), let_in(&third));
    assert_eq!(who(), (true, false, true));
    assert!(!table.refresh().unwrap(), "nothing changed");

    write(&path, &json!({"keys": [old.jwk(), new.jwk()]}));
    assert_eq!(who(), (true, false, true), "nobody has looked yet");
    assert!(table.refresh().unwrap());
    assert_eq!(who(), (true, true, true), "during a rotation");
    assert!(!table.refresh().unwrap());

    for wrong in [&br#"{"keys": ["#[..], b"", br#"{"keys":[]}"#] {
        std::fs::write(&path, wrong).unwrap();
        for _ in 0..2 {
            assert!(table.refresh().unwrap_err().sentence.contains("auth.jwks"));
            assert_eq!(who(), (true, true, true), "the old ones stay");
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(table.refresh().unwrap_err().sentence.contains("cannot be read"));
    assert_eq!(who(), (true, true, true));

    write(&path, &json!({"keys": [new.jwk()]}));
    assert!(table.refresh().unwrap());
    assert_eq!(who(), (false, true, true), "the old one is retired");

    // The other file counts as well.
    pem(dir.path(), "third.pem", ED25519_PREFIX, &Hand::ed25519("pem").public);
    assert!(table.refresh().unwrap());
    assert_eq!(who(), (false, true, false));
    assert!(!KeyTable::from_secret("k", &[7; 32]).refresh().unwrap(), "no files, nothing to look at");
}

/// Security, token: who made it and for whom is asked where it is configured, and only there.
#[test]
fn issuer_and_audience_are_asked_for_where_they_are_configured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let hand = Hand::ed25519("ed");
    write(&path, &json!({"keys": [hand.jwk()]}));
    let (iss, aud) = (Some(json!("https://id.example.org")), Some(json!("chat")));
    let rows = [
        (iss.clone(), aud.clone(), None),
        (iss.clone(), Some(json!(["mail", "chat"])), None),
        (None, aud.clone(), Some("iss")),
        (Some(json!("https://id.example.org/")), aud.clone(), Some("iss")),
        (Some(json!("https://id.example.com")), aud.clone(), Some("iss")),
        (Some(json!(["https://id.example.org"])), aud.clone(), Some("iss")),
        (Some(json!(null)), aud, Some("iss")),
        (iss.clone(), None, Some("aud")),
        (iss.clone(), Some(json!("mail")), Some("aud")),
        (iss.clone(), Some(json!(["mail", "chats"])), Some("aud")),
        (iss.clone(), Some(json!([])), Some("aud")),
        (iss.clone(), Some(json!([["chat"]])), Some("aud")),
        (iss, Some(json!({"chat": true})), Some("aud")),
    ];
    let asks = Settings {
        issuer: "https://id.example.org".to_owned(),
        audience: "chat".to_owned(),
        ..settings(&path)
    };
    let (asks, does_not) = (KeyTable::load(asks).unwrap(), KeyTable::load(settings(&path)).unwrap());
    for (iss, aud, wrong) in rows {
        // Whose it is comes before whether it is still good: nothing is said of a stranger's token.
        for exp in [NOW_S + 60, NOW_S - 60] {
            let mut claims = json!({"sub": "42", "exp": exp});
            for (name, value) in [("iss", &iss), ("aud", &aud)] {
                claims.as_object_mut().unwrap().extend(value.clone().map(|value| (name.to_owned(), value)));
            }
            let token = hand.token(&claims.to_string());
            let told = |table: &KeyTable| table.verify(&token, NOW_MS).map(|claims| claims.user_id);
            let otherwise = if exp > NOW_S { Ok(42) } else { Err(TokenError::Expired) };
            assert_eq!(
                told(&asks),
                wrong.map_or(otherwise, |claim| Err(TokenError::BadClaim(claim))),
                "{claims}"
            );
            assert_eq!(told(&does_not), otherwise, "{claims}");
        }
    }
}
