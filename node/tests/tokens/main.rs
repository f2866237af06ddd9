//! The token rules of the Security table, with real signatures: made by ring, by OpenSSL, and by RFC 7515.
#![expect(clippy::disallowed_methods, reason = "real key files are what is tested")]

mod files;
mod forge;
mod refused;

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_node::exit::Fatal;
use carillon_node::tokens::{Claims, KeySetting, KeyTable, Settings, TOKEN_BYTES_MAX, TokenError, dev_key};
use serde_json::{Value, json};

use forge::{
    ED25519_PREFIX, Hand, NOW_MS, NOW_S, P256_PREFIX, SECRET, data, forge, good_claims, hs256, pem,
    public_setting, secret_setting, table_of,
};

#[test]
fn what_is_signed_here_is_verified_here_with_every_claim() {
    let table = KeyTable::from_secret("k", &[7; 32]);
    let full = Claims {
        user_id: i64::MAX as u64,
        device_id: "phone_2-A".into(),
        issued_s: NOW_S,
        expires_s: NOW_S + 60,
        name: Some("Zoë 🔔".into()),
        scope: "read admin".into(),
    };
    let token = table.sign(&full).unwrap();
    assert_eq!(table.verify(&token, NOW_MS).unwrap(), full);
    assert!(
        full.is_admin() && full.has_scope("read") && !full.has_scope("adm") && !full.has_scope("read admin")
    );

    let bare =
        Claims { user_id: 1, device_id: "default".into(), name: None, scope: String::new(), ..full.clone() };
    let read = table.verify(&table.sign(&bare).unwrap(), NOW_MS).unwrap();
    assert_eq!(read, bare);
    assert!(!read.is_admin());
    let shown = format!("{full:?} {table:?}");
    assert!(!shown.contains("Zo") && !shown.contains("7, 7") && !shown.contains("0707"), "{shown}");
    assert!(!shown.contains(&token));
}

#[test]
fn tokens_of_a_known_peer_are_verified_rfc_7515_and_openssl() {
    // RFC 7515 appendix A.1: its claims are not ours, and that is said only after its signature held.
    let secret = URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, &secret).unwrap();
    let mut setting = secret_setting("rfc", "");
    (setting.secret, setting.secret_file) = (None, Some(path));
    let table = table_of(&[setting]);
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9l\
                 eGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    assert_eq!(table.verify(token, 1_300_819_380_000), Err(TokenError::BadClaim("sub")));
    let forged = token.replace("dBjf", "dBjg");
    assert_eq!(table.verify(&forged, 1_300_819_380_000), Err(TokenError::BadSignature));

    // RS256, signed by OpenSSL.
    let table = table_of(&[public_setting("rsa", "RS256", data("rsa_2048.pem"))]);
    let token = std::fs::read_to_string(data("rsa_token.txt")).unwrap();
    let claims = table.verify(token.trim(), NOW_MS).unwrap();
    assert_eq!((claims.user_id, claims.device_id.as_str(), claims.issued_s), (42, "phone", NOW_S));
    let forged = token.trim().replace("eyJzdWIiOiI0MiIs", "eyJzdWIiOiI0MyIs");
    assert_eq!(table.verify(&forged, NOW_MS), Err(TokenError::BadSignature));
    assert_eq!(table.sign(&claims), Err(TokenError::UnknownKey), "a public key signs nothing");
}

#[test]
fn eddsa_and_es256_keys_verify_from_pem() {
    let dir = tempfile::tempdir().unwrap();
    let (ed, ec) = (Hand::ed25519("ed"), Hand::p256("ec"));
    let ed_pem = pem(dir.path(), "ed.pem", ED25519_PREFIX, &ed.public);
    let ec_pem = pem(dir.path(), "ec.pem", P256_PREFIX, &ec.public);
    let table = table_of(&[
        public_setting("ed", "EdDSA", ed_pem.clone()),
        public_setting("ec", "ES256", ec_pem.clone()),
    ]);
    for hand in [&ed, &ec] {
        assert_eq!(table.verify(&hand.token(&good_claims()), NOW_MS).unwrap().user_id, 42);
    }

    for (alg, path, told) in [
        ("ES256", ed_pem, "is not a key for ES256"),
        ("EdDSA", ec_pem, "is not a key for EdDSA"),
        ("EdDSA", data("rsa_2048.pem"), "is not a key for EdDSA"),
        ("RS256", data("rsa_1024.pem"), "has 1024 bits"),
        ("RS256", data("rsa_token.txt"), "holds no PEM block"),
        ("RS256", pem(dir.path(), "cut.pem", &ED25519_PREFIX[..7], &[]), "not a well-formed"),
        (
            "EdDSA",
            pem(dir.path(), "short.pem", &short_prefix(), &ed.public[..31]),
            "31 bytes where Ed25519 has 32",
        ),
        ("RS256", dir.path().join("absent.pem"), "cannot be read"),
    ] {
        let fatal = refused_settings(&[public_setting("k", alg, path)]);
        assert!(
            fatal.sentence.starts_with("auth.keys \"k\": ") && fatal.sentence.contains(told),
            "{told}: {fatal}"
        );
        assert_eq!(fatal.status, 2);
    }
}

/// `SubjectPublicKeyInfo` of an Ed25519 key that lacks a byte.
fn short_prefix() -> Vec<u8> {
    let mut prefix = ED25519_PREFIX.to_vec();
    (prefix[1], prefix[10]) = (prefix[1] - 1, prefix[10] - 1);
    prefix
}

fn refused_settings(keys: &[KeySetting]) -> Fatal {
    KeyTable::load(Settings { keys: keys.to_vec(), ..Settings::default() }).unwrap_err()
}

/// The classic: the attacker knows the public key, and signs HS256 with it as the secret.
#[test]
fn a_public_key_is_never_a_shared_secret() {
    let dir = tempfile::tempdir().unwrap();
    let ed = Hand::ed25519("ed");
    let path = pem(dir.path(), "ed.pem", ED25519_PREFIX, &ed.public);
    let text = std::fs::read(&path).unwrap();
    let table = table_of(&[public_setting("ed", "EdDSA", path)]);
    for secret in [&ed.public, &text] {
        for header in [json!({"alg": "HS256", "kid": "ed"}), json!({"alg": "HS256"})] {
            let token = forge(&header, &good_claims(), hs256(secret));
            assert_eq!(table.verify(&token, NOW_MS), Err(TokenError::UnknownKey), "{header}");
        }
        // And with the header telling the truth about the algorithm.
        let token = forge(&json!({"alg": "EdDSA", "kid": "ed"}), &good_claims(), hs256(secret));
        assert_eq!(table.verify(&token, NOW_MS), Err(TokenError::BadSignature));
    }
    // The other way round: a table with a secret does not take another algorithm of its family.
    let table = table_of(&[secret_setting("s", SECRET)]);
    for alg in ["HS384", "HS512", "RS256", "EdDSA", "ES256", "PS256"] {
        let token = forge(&json!({"alg": alg, "kid": "s"}), &good_claims(), hs256(SECRET.as_bytes()));
        assert_eq!(table.verify(&token, NOW_MS), Err(TokenError::UnknownKey), "{alg}");
    }
}

#[test]
fn a_token_without_a_signature_is_no_token() {
    let table = table_of(&[secret_setting("s", SECRET)]);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for header in [json!({"alg": alg, "kid": "s"}), json!({"alg": alg})] {
            for sign in [vec![], b"x".to_vec()] {
                let token = forge(&header, &good_claims(), |_| sign.clone());
                assert_eq!(table.verify(&token, NOW_MS), Err(TokenError::Malformed), "{header}");
            }
        }
    }
    let token = forge(&json!({"alg": "HS256", "kid": "s"}), &good_claims(), |_| vec![]);
    assert_eq!(table.verify(&token, NOW_MS), Err(TokenError::BadSignature));
}

#[test]
fn two_keys_are_valid_during_a_rotation_and_a_retired_one_is_not() {
    let (old, new) = (secret_setting("2026-01", SECRET), secret_setting("2026-02", &SECRET.to_uppercase()));
    let before = table_of(std::slice::from_ref(&old));
    let during = table_of(&[new.clone(), old]);
    let after = table_of(&[new]);
    let claims =
        before.verify(&forge(&json!({"alg": "HS256"}), &good_claims(), hs256(SECRET.as_bytes())), NOW_MS);
    let claims = claims.expect("without a key id, one key is no choice");

    let (old_token, new_token) = (before.sign(&claims).unwrap(), during.sign(&claims).unwrap());
    assert!(during.verify(&old_token, NOW_MS).is_ok() && during.verify(&new_token, NOW_MS).is_ok());
    assert_eq!(after.verify(&old_token, NOW_MS), Err(TokenError::UnknownKey));
    assert!(after.verify(&new_token, NOW_MS).is_ok(), "the first key of the table signs");
    assert_eq!(before.verify(&new_token, NOW_MS), Err(TokenError::UnknownKey));

    let without = forge(&json!({"alg": "HS256"}), &good_claims(), hs256(SECRET.as_bytes()));
    assert_eq!(during.verify(&without, NOW_MS), Err(TokenError::UnknownKey), "two keys are a choice");
    let swapped = forge(&json!({"alg": "HS256", "kid": "2026-02"}), &good_claims(), hs256(SECRET.as_bytes()));
    assert_eq!(during.verify(&swapped, NOW_MS), Err(TokenError::BadSignature), "the key id pins the key");
}

#[test]
fn time_has_one_leeway_of_thirty_seconds_both_ways_and_comes_from_the_caller() {
    let table = table_of(&[secret_setting("s", SECRET)]);
    let verify = |claims: Value, wall_ms: u64| {
        let token =
            forge(&json!({"alg": "HS256", "kid": "s"}), &claims.to_string(), hs256(SECRET.as_bytes()));
        table.verify(&token, wall_ms)
    };
    let expiring = json!({"sub": "1", "exp": NOW_S});
    let claims = verify(expiring.clone(), NOW_MS + 29_999).unwrap();
    assert_eq!(claims.dead_at_ms(), NOW_MS + 30_000);
    assert_eq!(verify(expiring.clone(), claims.dead_at_ms() - 1), Ok(claims.clone()));
    assert_eq!(verify(expiring.clone(), claims.dead_at_ms()), Err(TokenError::Expired));
    assert!(verify(expiring, 0).is_ok(), "a wrong clock is the caller's");

    let later = json!({"sub": "1", "exp": NOW_S + 90, "nbf": NOW_S + 30});
    assert!(verify(later.clone(), NOW_MS).is_ok());
    assert_eq!(verify(later, NOW_MS - 1), Err(TokenError::NotYet));

    assert_eq!(verify(json!({"sub": "1"}), NOW_MS), Err(TokenError::BadClaim("exp")));
    assert_eq!(verify(json!({"sub": "1", "exp": null}), NOW_MS), Err(TokenError::BadClaim("exp")));
    assert!(verify(json!({"sub": "1", "exp": (NOW_S + 9) as f64 + 0.5}), NOW_MS).is_ok(), "RFC 7519 §2");
    for exp in [json!("1900000000"), json!(-1), json!(1e300), json!(u64::MAX), json!(true)] {
        assert_eq!(
            verify(json!({"sub": "1", "exp": exp}), NOW_MS),
            Err(TokenError::BadClaim("exp")),
            "{exp}"
        );
    }
    // The library's own reading of a list stops before ours.
    assert_eq!(verify(json!({"sub": "1", "exp": [NOW_S]}), NOW_MS), Err(TokenError::Malformed));
    assert_eq!(
        verify(json!({"sub": "1", "exp": NOW_S + 9, "nbf": "x"}), NOW_MS),
        Err(TokenError::BadClaim("nbf"))
    );
    assert_eq!(
        verify(json!({"sub": "1", "exp": NOW_S + 9, "iat": "x"}), NOW_MS),
        Err(TokenError::BadClaim("iat"))
    );
}

#[test]
fn claims_are_what_the_protocol_says_or_named() {
    let table = table_of(&[secret_setting("s", SECRET)]);
    let verify = |claim: &str, value: Value| {
        let mut claims = json!({"sub": "42", "exp": NOW_S});
        claims[claim] = value;
        let token = forge(&json!({"alg": "HS256"}), &claims.to_string(), hs256(SECRET.as_bytes()));
        table.verify(&token, NOW_MS)
    };
    for sub in ["1", "9223372036854775807"] {
        assert_eq!(verify("sub", json!(sub)).unwrap().user_id.to_string(), sub);
    }
    for sub in [
        json!(42),
        json!(null),
        json!(""),
        json!("0"),
        json!("01"),
        json!("+1"),
        json!("-1"),
        json!(" 1"),
        json!("1 "),
    ] {
        assert_eq!(verify("sub", sub.clone()), Err(TokenError::BadClaim("sub")), "{sub}");
    }
    for sub in ["9223372036854775808", "18446744073709551616", "1e3", "0x1", "१", "alice"] {
        assert_eq!(verify("sub", json!(sub)), Err(TokenError::BadClaim("sub")), "{sub}");
    }
    let longest = "d".repeat(64);
    assert_eq!(verify("dev", json!(longest)).unwrap().device_id, longest);
    assert_eq!(verify("dev", json!(null)).unwrap().device_id, "default");
    for dev in [json!(""), json!("d".repeat(65)), json!("a b"), json!("a/b"), json!("ä"), json!(7)] {
        assert_eq!(verify("dev", dev.clone()), Err(TokenError::BadClaim("dev")), "{dev}");
    }
    assert_eq!(verify("name", json!("n".repeat(64))).unwrap().name.unwrap().len(), 64);
    assert_eq!(verify("name", json!("")).unwrap().name, None);
    for name in [json!("n".repeat(65)), json!("a\nb"), json!("a\u{7f}"), json!("\u{85}"), json!({"a": 1})] {
        assert_eq!(verify("name", name.clone()), Err(TokenError::BadClaim("name")), "{name}");
    }
    assert_eq!(verify("scope", json!(["admin"])), Err(TokenError::BadClaim("scope")));
    assert!(!verify("scope", json!("administrator")).unwrap().is_admin());
    assert!(verify("aud", json!("someone")).is_ok() && verify("unknown", json!({"a": []})).is_ok());
    assert_eq!(verify("iat", json!(null)).unwrap().issued_s, 0);
}

#[test]
fn what_is_no_token_is_refused_without_a_panic() {
    let table = table_of(&[secret_setting("s", SECRET)]);
    let header = json!({"alg": "HS256", "kid": "s"});
    let good = forge(&header, &good_claims(), hs256(SECRET.as_bytes()));
    assert!(table.verify(&good, NOW_MS).is_ok());
    for wrong in ["", ".", "..", "...", "a.b", "a.b.c", "eyJ9.e30.", "\0\0\0", "ä.ö.ü"] {
        assert_eq!(table.verify(wrong, NOW_MS), Err(TokenError::Malformed), "{wrong:?}");
    }
    // Cut and flipped anywhere: never a panic, never a pass.
    for at in 0..good.len() {
        assert!(table.verify(&good[..at], NOW_MS).is_err(), "cut at {at}");
        let mut flipped = good.clone().into_bytes();
        flipped[at] ^= 1;
        let flipped = String::from_utf8(flipped).unwrap();
        assert!(table.verify(&flipped, NOW_MS).is_err(), "flipped at {at}");
    }
    let signed = |claims: &str| forge(&header, claims, hs256(SECRET.as_bytes()));
    for claims in ["", "{", "[]", "null", "42", r#"{"sub":"1","sub":"2","exp":1900000000}"#] {
        assert_eq!(table.verify(&signed(claims), NOW_MS), Err(TokenError::Malformed), "{claims}");
    }
    let (open, close) = ("[".repeat(900), "]".repeat(900));
    let deep = signed(&format!(r#"{{"sub":{open}1{close},"exp":1900000000}}"#));
    assert_eq!(table.verify(&deep, NOW_MS), Err(TokenError::Malformed), "depth is bounded where it is kept");
    let deep = signed(&format!(r#"{{"sub":"1","exp":1900000000,"x":{open}1{close}}}"#));
    assert!(table.verify(&deep, NOW_MS).is_ok(), "and costs no stack where it is skipped");
    let critical = json!({"alg": "HS256", "kid": "s", "crit": ["b64"], "b64": false});
    let critical = forge(&critical, &good_claims(), hs256(SECRET.as_bytes()));
    assert_eq!(table.verify(&critical, NOW_MS), Err(TokenError::Malformed), "RFC 7515 §4.1.11");
    for kid in ["", "S", "s ", "../../dev.key"] {
        let token = forge(&json!({"alg": "HS256", "kid": kid}), &good_claims(), hs256(SECRET.as_bytes()));
        assert_eq!(table.verify(&token, NOW_MS), Err(TokenError::UnknownKey), "{kid}");
    }
    let padded = |pad: usize| signed(&json!({"sub": "1", "exp": NOW_S, "x": "p".repeat(pad)}).to_string());
    let fits = (0..).map(padded).take_while(|token| token.len() <= TOKEN_BYTES_MAX).count();
    assert!(table.verify(&padded(fits - 1), NOW_MS).is_ok());
    assert_eq!(table.verify(&padded(fits), NOW_MS), Err(TokenError::Malformed), "one byte too long");
}

#[test]
fn settings_that_cannot_work_say_what_to_change_and_show_no_secret() {
    let short = secret_setting("k", "hunter2 is too short");
    let mut both = secret_setting("k", SECRET);
    both.public_key = Some(data("rsa_2048.pem"));
    let mut none = secret_setting("k", SECRET);
    none.alg = "none".into();
    let mut nothing = secret_setting("k", SECRET);
    nothing.secret = None;
    let mut wrong_kind = secret_setting("k", SECRET);
    wrong_kind.alg = "EdDSA".into();
    for (settings, told) in [
        (vec![], "hold 0 keys"),
        (vec![secret_setting("k", SECRET); 2], "\"k\" twice"),
        (vec![short], "20 bytes where HS256 needs 32"),
        (vec![both], "takes one of secret"),
        (vec![none], "alg \"none\" is not one of"),
        (vec![nothing], "takes one of secret"),
        (vec![wrong_kind], "takes public_key"),
    ] {
        let fatal = refused_settings(&settings);
        assert!(fatal.sentence.contains(told), "{told}: {fatal}");
        assert!(!fatal.sentence.contains("hunter2") && !format!("{settings:?}").contains("hunter2"));
    }
}

#[test]
fn the_development_key_is_made_once_however_many_start_at_the_same_moment() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("new/carillon-data");
    let claims = Claims {
        user_id: 42,
        device_id: "default".into(),
        issued_s: NOW_S,
        expires_s: NOW_S + 60,
        name: None,
        scope: String::new(),
    };
    let tables: Vec<KeyTable> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..16).map(|_| scope.spawn(|| dev_key(&data_dir).unwrap())).collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let token = tables[0].sign(&claims).unwrap();
    for table in &tables {
        assert!(table.is_development());
        assert_eq!(table.verify(&token, NOW_MS).as_ref(), Ok(&claims));
    }
    let names: Vec<_> =
        std::fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["dev.key"], "nothing temporary is left");
    let path = data_dir.join("dev.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = std::fs::read_to_string(&path).unwrap();
    assert_eq!(key.trim_end().len(), 64);
    assert!(!format!("{:?}", tables[0]).contains(&key[..8]));

    for wrong in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
        std::fs::write(&path, wrong).unwrap();
        let fatal = dev_key(&data_dir).unwrap_err();
        assert!(fatal.status == 2 && fatal.sentence.contains("64 hexadecimal digits"), "{fatal}");
    }
    let other = dir.path().join("other");
    assert_eq!(
        dev_key(&other).unwrap().verify(&token, NOW_MS),
        Err(TokenError::BadSignature),
        "a key of its own"
    );
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(dev_key(&dir.path().join("file")).unwrap_err().sentence.contains("--data-dir"));
}
