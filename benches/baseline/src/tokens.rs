//! Who a client is, by its bearer token.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

const LEEWAY_S: u64 = 30;
const SECRET_BYTES: usize = 32;

/// Lets clients in.
pub struct Door {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Door {
    /// Believes what a token says of its user.
    pub fn open() -> Door {
        let mut door = Door { key: DecodingKey::from_secret(b""), validation: validation() };
        door.validation.insecure_disable_signature_validation();
        door.validation.validate_exp = false;
        door
    }

    /// Checks tokens with the development key of a data directory, and makes one where there is none.
    pub fn keyed(data_dir: &Path) -> io::Result<Door> {
        let path = data_dir.join("dev.key");
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                let mut secret = [0; SECRET_BYTES];
                std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
                let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
                file.write_all(format!("{digits}\n").as_bytes())?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let text = std::fs::read_to_string(&path)?;
        let secret = secret(text.trim_end()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Door { key: DecodingKey::from_secret(&secret), validation: validation() })
    }

    /// The user of an `Authorization` header.
    pub fn user(&self, authorization: Option<&str>) -> Option<u64> {
        let token = authorization?.strip_prefix("Bearer ")?;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).ok()?.claims;
        claims.sub.parse().ok().filter(|user| (1..1 << 63).contains(user))
    }
}

fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_S;
    validation
}

fn secret(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    bytes.filter(|bytes| bytes.len() == SECRET_BYTES)
}
