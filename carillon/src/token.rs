//! `carillon token`: tokens signed with the development key, for trying things out and for tests.

use std::io::Write;

use carillon_node::clock::Clock;
use carillon_node::config::Config;
use carillon_node::exit::Fatal;
use carillon_node::tokens::{Claims, DEVICE_DEFAULT, KeyTable, SCOPE_ADMIN};
use carillon_protocol::ids::{UserId, is_device_id};

use crate::args::TokenArguments;
use crate::configure;

/// The most tokens that one call prints.
const TOKENS_MAX: u64 = 10_000_000;

/// Prints one token a line.
///
/// # Errors
/// Status 2: an argument is not what it should be, or keys are configured and none of them can sign.
pub fn print(wanted: &TokenArguments, config: &Config) -> Result<(), Fatal> {
    let (first, last) = users(&wanted.user)?;
    let ttl_s = seconds(&wanted.ttl)?;
    let device = wanted.device.as_deref().unwrap_or(DEVICE_DEFAULT);
    if !is_device_id(device) {
        return Err(Fatal::config(format!("--device {device:?} is not 1 to 64 of A-Z a-z 0-9 _ -")));
    }
    let keys = configure::keys(config)?;
    let now_s = Clock.wall_ms() / 1_000;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for user in first..=last {
        let token = sign(&keys, user, device, wanted.name.as_deref(), wanted.admin, now_s, ttl_s)?;
        if writeln!(out, "{token}").is_err() {
            // The reader has enough.
            return Ok(());
        }
    }
    let _ = out.flush();
    Ok(())
}

/// One token, valid from now for `ttl_s` seconds (negative: expired).
///
/// # Errors
/// Status 2 when no key can sign, or a claim is out of bounds.
pub fn sign(
    keys: &KeyTable,
    user: u64,
    device: &str,
    name: Option<&str>,
    is_admin: bool,
    now_s: u64,
    ttl_s: i64,
) -> Result<String, Fatal> {
    let expires_s = now_s.saturating_add_signed(ttl_s);
    let claims = Claims {
        user_id: user,
        device_id: device.to_owned(),
        issued_s: now_s.min(expires_s),
        expires_s,
        name: name.map(str::to_owned),
        scope: if is_admin { SCOPE_ADMIN.to_owned() } else { String::new() },
    };
    keys.sign(&claims).map_err(|error| Fatal::config(format!("a token cannot be signed: {error}")))
}

fn users(text: &str) -> Result<(u64, u64), Fatal> {
    let wrong =
        || Fatal::config(format!("--user {text:?} is not an id (1 to 2^63 - 1) or a range such as 1-1000"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = UserId::parse(first).ok_or_else(wrong)?.0;
    let last = UserId::parse(last).ok_or_else(wrong)?.0;
    if first > last || last - first >= TOKENS_MAX {
        return Err(wrong());
    }
    Ok((first, last))
}

fn seconds(text: &str) -> Result<i64, Fatal> {
    let wrong =
        || Fatal::config(format!("--ttl {text:?} is not a whole number with s, m, h or d, such as 24h"));
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(wrong()),
    };
    let number: i64 = text.get(..text.len() - 1).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ranges_are_read_strictly() {
        assert_eq!(seconds("24h").unwrap(), 86_400);
        assert_eq!(seconds("-1m").unwrap(), -60);
        for wrong in ["", "h", "24", "1.5h", "1w", "h1"] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(users("7").unwrap(), (7, 7));
        assert_eq!(users("1-3").unwrap(), (1, 3));
        for wrong in ["", "0", "3-1", "a", "1-", "-1", "01"] {
            assert!(users(wrong).is_err(), "{wrong:?}");
        }
    }
}
