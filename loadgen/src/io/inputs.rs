//! Who the clients are: tokens signed with a development key, or read from a file.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_node::clock::Clock;
use carillon_node::tokens;
use serde_json::Value;

use crate::options::Options;

/// A token outlives its run by this.
const TOKEN_SPARE_S: u64 = 24 * 3_600;

/// Users that count up, each with a token.
pub(super) fn sign_tokens(options: &Options) -> Result<(Vec<u64>, Vec<String>), String> {
    let keys = tokens::dev_key(&options.data_dir).map_err(|fatal| fatal.to_string())?;
    let now_s = Clock.wall_ms() / 1_000;
    let mut claims = tokens::Claims {
        user_id: 0,
        device_id: "loadgen".to_owned(),
        issued_s: now_s,
        expires_s: now_s + options.send_time().as_secs() + options.duration.as_secs() + TOKEN_SPARE_S,
        name: None,
        scope: String::new(),
    };
    let users: Vec<u64> = (options.users..).take(options.clients as usize).collect();
    let mut signed = Vec::with_capacity(users.len());
    for user in &users {
        claims.user_id = *user;
        signed.push(keys.sign(&claims).map_err(|error| format!("a token cannot be signed: {error}"))?);
    }
    Ok((users, signed))
}

/// The tokens of a file with the users they are of. Nothing is verified: that is the server's.
pub(super) fn read_tokens(path: &Path) -> Result<Vec<(u64, String)>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let user = |token: &str| {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        carillon_protocol::ids::parse_id(claims.get("sub")?.as_str()?)
    };
    (1..)
        .zip(lines)
        .map(|(line, token)| Ok((user(token), line, token)))
        .map(|read: Result<_, String>| {
            let (user, line, token) = read?;
            let user =
                user.ok_or_else(|| format!("line {line} of {} is not a token with a user", path.display()))?;
            Ok((user, token.to_owned()))
        })
        .collect()
}
