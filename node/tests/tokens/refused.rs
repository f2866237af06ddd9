//! The negative list of the Security table, for each of the public algorithms: one table of tokens, each a good one but for
//! one thing.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use carillon_node::tokens::{KeyTable, LEEWAY_S, Settings, TOKEN_BYTES_MAX, TokenError};
use serde_json::{Value, json};

use crate::forge::{
    ED25519_PREFIX, Hand, NOW_MS, NOW_S, P256_PREFIX, data, forge, forge_text, good_claims, hs256,
    public_setting, rsa_modulus,
};

use TokenError::{BadClaim, BadSignature, Expired, Malformed, NotYet, UnknownKey};

type Row = (&'static str, String, TokenError);

/// A table of three keys, and the hands of two of them; OpenSSL lent its own for one token.
struct Ground {
    table: KeyTable,
    hands: [Hand; 2],
    _dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let hands = [Hand::ed25519("ed"), Hand::p256("ec")];
        let jwks = dir.path().join("jwks.json");
        std::fs::write(&jwks, json!({"keys": hands.each_ref().map(Hand::jwk)}).to_string()).unwrap();
        let keys = vec![public_setting("rsa", "RS256", data("rsa_2048.pem"))];
        let table = KeyTable::load(Settings { keys, jwks, ..Settings::default() }).unwrap();
        Ground { table, hands, _dir: dir }
    }

    fn check(&self, rows: impl IntoIterator<Item = Row>) {
        for (what, token, expected) in rows {
            assert_eq!(self.table.verify(&token, NOW_MS), Err(expected), "{what}: {token}");
        }
    }

    /// For each hand: it is let in, and what `rows` makes of it is not.
    fn check_each(&self, rows: impl Fn(&Hand) -> Vec<Row>) {
        for hand in &self.hands {
            assert!(self.table.verify(&hand.token(&good_claims()), NOW_MS).is_ok(), "{}", hand.alg);
            self.check(rows(hand));
        }
    }
}

/// Security, token: one pinned algorithm per key id, never from the header.
#[test]
fn the_algorithm_is_never_the_headers() {
    let ground = Ground::new();
    ground.check_each(|hand| {
        let prefix = if hand.alg == "EdDSA" { ED25519_PREFIX } else { P256_PREFIX };
        let der = [prefix, &hand.public].concat();
        let base64 = STANDARD.encode(&der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        let mut rows = Vec::new();
        // The public key's bytes for a secret, in every form in which somebody may have them.
        for secret in
            [&hand.public, &der, pem.as_bytes(), pem.trim().as_bytes(), hand.jwk().to_string().as_bytes()]
        {
            for (alg, told) in [("HS256", UnknownKey), ("HS512", UnknownKey), (hand.alg, BadSignature)] {
                let header = json!({"alg": alg, "kid": hand.kid});
                rows.push(("a public key for a secret", forge(&header, &good_claims(), hs256(secret)), told));
            }
        }
        for alg in ["none", "None", "NONE", "nOnE", "", "null", "ES512", "eddsa", "es256", "A128GCM", "dir"] {
            let header = json!({"alg": alg, "kid": hand.kid});
            rows.push(("no such algorithm", forge(&header, &good_claims(), |_| vec![]), Malformed));
            rows.push(("a signature all the same", hand.forge(&header, &good_claims()), Malformed));
        }
        for header in
            [json!({"kid": hand.kid}), json!({"alg": null, "kid": hand.kid}), json!({"alg": [hand.alg]})]
        {
            rows.push(("no algorithm", hand.forge(&header, &good_claims()), Malformed));
        }
        for alg in ["EdDSA", "ES256", "RS256", "PS256", "ES384", "RS512"] {
            if alg != hand.alg {
                let header = json!({"alg": alg, "kid": hand.kid});
                rows.push(("another algorithm", hand.forge(&header, &good_claims()), UnknownKey));
            }
        }
        rows
    });
    let token = forge(&json!({"alg": "HS256", "kid": "rsa"}), &good_claims(), hs256(&rsa_modulus()));
    ground.check([("an RSA modulus for a secret", token, UnknownKey)]);
}

/// Security, token: the key is our table's, whatever the header says or brings.
#[test]
fn the_key_is_never_the_headers() {
    let ground = Ground::new();
    let strangers = [Hand::ed25519("ed"), Hand::p256("ec")];
    ground.check_each(|hand| {
        let stranger = strangers.iter().find(|stranger| stranger.alg == hand.alg).unwrap();
        let other = ground.hands.iter().find(|other| other.alg != hand.alg).unwrap();
        let kid = |kid: Value| json!({"alg": hand.alg, "kid": kid});
        let with = |name: &str, value: Value| {
            let mut header = hand.header();
            header[name] = value;
            header
        };
        let twice = format!(r#"{{"alg":"none","alg":"{}","kid":"{}"}}"#, hand.alg, hand.kid);
        let kid_twice = format!(r#"{{"alg":"{}","kid":"x","kid":"{}"}}"#, hand.alg, hand.kid);
        let mut rows = vec![
            ("a stranger's key", stranger.token(&good_claims()), BadSignature),
            (
                "and they bring it along",
                stranger.forge(&with("jwk", stranger.jwk()), &good_claims()),
                BadSignature,
            ),
            (
                "or say where it is",
                stranger.forge(&with("jku", json!("https://e.example")), &good_claims()),
                BadSignature,
            ),
            (
                "or a certificate",
                stranger.forge(&with("x5u", json!("https://e.example")), &good_claims()),
                BadSignature,
            ),
            (
                "the other key's name",
                hand.forge(&json!({"alg": hand.alg, "kid": other.kid}), &good_claims()),
                UnknownKey,
            ),
            ("and its algorithm", hand.forge(&other.header(), &good_claims()), BadSignature),
            (
                "no name where there is a choice",
                hand.forge(&json!({"alg": hand.alg}), &good_claims()),
                UnknownKey,
            ),
            ("a name that is none", hand.forge(&kid(Value::Null), &good_claims()), UnknownKey),
            ("a name that is a number", hand.forge(&kid(json!(1)), &good_claims()), Malformed),
            ("two algorithms", forge_text(&twice, &good_claims(), |message| hand.sign(message)), Malformed),
            ("two names", forge_text(&kid_twice, &good_claims(), |message| hand.sign(message)), Malformed),
            ("an extension", hand.forge(&with("crit", json!(["exp"])), &good_claims()), Malformed),
        ];
        for wrong in ["", "Ed", "EC", " ed", "ec ", "../../dev.key", "ed\0", "'; drop table", "*"] {
            rows.push(("an unknown name", hand.forge(&kid(json!(wrong)), &good_claims()), UnknownKey));
        }
        for typ in ["JWS", "JOSE", "dpop+jwt", "logout+jwt", "secevent+jwt", "application/", "jwt ", ""] {
            rows.push(("another kind", hand.forge(&with("typ", json!(typ)), &good_claims()), Malformed));
        }
        rows.push(("a kind that is none", hand.forge(&with("typ", json!(7)), &good_claims()), Malformed));
        for typ in ["JWT", "jwt", "at+jwt", "application/at+JWT", "application/jwt"] {
            let token = hand.forge(&with("typ", json!(typ)), &good_claims());
            assert!(ground.table.verify(&token, NOW_MS).is_ok(), "{typ}");
        }
        rows
    });
}

/// Security, token: a signature is of this message, by this key, in the form that RFC 7518 wants.
#[test]
fn a_signature_is_whole_and_of_this_message() {
    let ground = Ground::new();
    ground.check_each(|hand| {
        let signed = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            forge(&hand.header(), &good_claims(), |message| change(hand.sign(message)))
        };
        let sized = |len: usize| {
            signed(&|mut signature| {
                signature.resize(len, 0);
                signature
            })
        };
        let flipped = |at: usize| {
            signed(&|mut signature| {
                signature[at] ^= 1;
                signature
            })
        };
        let other = forge(&hand.header(), &good_claims(), |_| hand.sign(b"another message"));
        // Where ES256 wants r and s as they are, ASN.1 is what many libraries make (RFC 7518 §3.4).
        let asn1 = signed(&|signature| {
            let integer = |number: &[u8]| [&[2, 33, 0][..], number].concat();
            let (r, s) = signature.split_at(32);
            [&[0x30, 70][..], &integer(r), &integer(s)].concat()
        });
        vec![
            ("none", sized(0), BadSignature),
            ("one byte", sized(1), BadSignature),
            ("half", sized(32), BadSignature),
            ("a byte too short", sized(63), BadSignature),
            ("a byte too long", sized(65), BadSignature),
            ("long", sized(1_024), BadSignature),
            ("zeros", signed(&|signature| vec![0; signature.len()]), BadSignature),
            ("ones", signed(&|signature| vec![0xff; signature.len()]), BadSignature),
            ("its first bit", flipped(0), BadSignature),
            ("its last bit", flipped(63), BadSignature),
            ("of another message", other, BadSignature),
            ("in ASN.1", asn1, BadSignature),
        ]
    });
    // OpenSSL's, with the key as the only one, cut and prolonged.
    let rsa = KeyTable::load(Settings {
        keys: vec![public_setting("rsa", "RS256", data("rsa_2048.pem"))],
        ..Settings::default()
    });
    let (rsa, token) = (rsa.unwrap(), std::fs::read_to_string(data("rsa_token.txt")).unwrap());
    assert!(rsa.verify(token.trim(), NOW_MS).is_ok());
    let (message, signature) = token.trim().rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for wrong in [&signature[1..], &signature[..255], &[&signature[..], &[0]].concat(), &[0; 256], &[]] {
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(wrong));
        assert_eq!(rsa.verify(&token, NOW_MS), Err(BadSignature), "{} bytes", wrong.len());
    }
}

/// Security, token: three parts of base64url without padding, each in its one spelling.
#[test]
fn a_token_has_one_spelling() {
    let ground = Ground::new();
    ground.check_each(|hand| {
        let good = hand.token(&good_claims());
        let parts: Vec<&str> = good.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("three parts") };
        let of = |header: &str, claims: &str, signature: &str| format!("{header}.{claims}.{signature}");
        // 64 bytes are 86 characters of which the last has four bits to spare.
        let mut spare = signature.to_owned();
        let last = spare.pop().unwrap();
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        spare.push(alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap());
        // Signed as it stands, so that nothing but the alphabet is wrong.
        let resigned = |header: &str, claims: &str| {
            let message = format!("{header}.{claims}");
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(hand.sign(message.as_bytes())))
        };
        let odd = r#"{"sub":"42","exp":1900000000,"x":"??>>~~"}"#;
        let standard = STANDARD_NO_PAD.encode(odd);
        assert!(standard.contains(['+', '/']) && ground.table.verify(&hand.token(odd), NOW_MS).is_ok());
        vec![
            ("no parts", String::new(), Malformed),
            ("two", format!("{header}.{claims}"), Malformed),
            ("two and a dot", format!("{header}.{claims}."), BadSignature),
            ("four", format!("{good}.x"), Malformed),
            ("five, as an encrypted one", format!("{good}.x.y"), Malformed),
            ("a dot in front", format!(".{good}"), Malformed),
            ("a dot behind", format!("{good}."), Malformed),
            ("no header", of("", claims, signature), Malformed),
            ("no claims", of(header, "", signature), BadSignature),
            ("padding of the header", of(&format!("{header}="), claims, signature), Malformed),
            ("padding of the claims", resigned(header, &format!("{claims}=")), Malformed),
            ("padding of the signature", format!("{good}=="), Malformed),
            ("the other alphabet", resigned(header, &standard), Malformed),
            ("spare bits of the signature", of(header, claims, &spare), Malformed),
            ("a space in front", format!(" {good}"), Malformed),
            ("a space behind", format!("{good} "), Malformed),
            ("a line end", format!("{good}\n"), Malformed),
            ("a NUL", format!("{good}\0"), Malformed),
            ("no ASCII", format!("{good}é"), Malformed),
            (
                "claims that are no text",
                resigned(header, &URL_SAFE_NO_PAD.encode([0x7b, 0xff, 0x7d])),
                Malformed,
            ),
            (
                "a header that is no object",
                forge_text("[]", &good_claims(), |message| hand.sign(message)),
                Malformed,
            ),
            ("two objects", hand.token(&format!("{0}{0}", good_claims())), Malformed),
            (
                "too long",
                hand.token(&json!({"sub": "42", "exp": NOW_S, "x": "x".repeat(TOKEN_BYTES_MAX)}).to_string()),
                Malformed,
            ),
            ("very long", "x".repeat(10_000_000), Malformed),
        ]
    });
}

/// Security, token: `exp` is required, one leeway both ways; claims are what the protocol says; each is there once.
#[test]
fn claims_are_there_once_and_good_now() {
    let ground = Ground::new();
    let leeway_s = LEEWAY_S;
    assert_eq!(leeway_s, 30, "at most sixty by the table, thirty by the protocol");
    ground.check_each(|hand| {
        let with = |name: &str, value: Value| {
            let mut claims = json!({"sub": "42", "exp": NOW_S + 60});
            claims[name] = value;
            hand.token(&claims.to_string())
        };
        let mut rows = vec![
            ("no exp", hand.token(r#"{"sub":"42"}"#), BadClaim("exp")),
            ("no sub", hand.token(r#"{"exp":1900000000}"#), BadClaim("sub")),
            ("over", with("exp", json!(NOW_S - leeway_s)), Expired),
            ("long over", with("exp", json!(0)), Expired),
            ("in milliseconds", with("exp", json!("1900000000000")), BadClaim("exp")),
            ("not yet", with("nbf", json!(NOW_S + leeway_s + 1)), NotYet),
            ("an nbf that is none", with("nbf", json!("soon")), BadClaim("nbf")),
            ("an iat that is none", with("iat", json!({})), BadClaim("iat")),
            ("a scope that is none", with("scope", json!(["admin"])), BadClaim("scope")),
            ("a device that is none", with("dev", json!("a b")), BadClaim("dev")),
            ("a name that is none", with("name", json!("a\u{0}b")), BadClaim("name")),
        ];
        for exp in [json!(null), json!("1900000000"), json!(-1), json!(1e300), json!(u64::MAX), json!(true)] {
            rows.push(("an exp that is none", with("exp", exp), BadClaim("exp")));
        }
        for sub in [
            json!(null), json!(42), json!(""), json!("0"), json!("042"), json!("+42"), json!("-42"), json!(" 42"), json!("4_2"),
            json!("0x2a"), json!("4e1"), json!("42.0"), json!("٤٢"), json!("alice"), json!("9223372036854775808"),
            json!("18446744073709551658"), json!("42\0"),
        ] {
            rows.push(("a sub that is no id", with("sub", sub), BadClaim("sub")));
        }
        // The library's own reading of a list or an object stops before ours.
        for sub in [json!(["42"]), json!({"id": "42"})] {
            rows.push(("a sub that is no text", with("sub", sub), Malformed));
        }
        for name in ["sub", "exp", "iat", "nbf", "dev", "name", "scope", "iss", "aud"] {
            let good = json!({"sub": "42", "exp": NOW_S + 60, "iat": NOW_S, "nbf": NOW_S, "dev": "d", "name": "n",
                "scope": "admin", "iss": "i", "aud": "a"});
            assert!(ground.table.verify(&hand.token(&good.to_string()), NOW_MS).is_ok());
            let twice = good.to_string().replacen('{', &format!("{{\"{name}\":{},", good[name]), 1);
            rows.push(("a claim twice", hand.token(&twice), Malformed));
        }
        rows
    });
}
