//! Who the clients are: tokens signed with a development key, or read from a file.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_node::clock::Clock;
use carillon_node::tokens::{self, KeyTable};
use serde_json::Value;

use crate::options::Options;

/// A token outlives its run by this.
const TOKEN_SPARE_S: u64 = 24 * 3_600;

/// A token for each client. Those of the development key are signed when they are needed: 200,000 strings would take more
/// memory than everything else that is known of idle clients.
pub(super) enum Tokens {
    Given(Vec<String>),
    Signed { keys: Box<KeyTable>, claims: tokens::Claims },
}

impl Tokens {
    /// Of users that count up.
    pub(super) fn sign(options: &Options) -> Result<(Vec<u64>, Tokens), String> {
        let keys = tokens::dev_key(&options.data_dir).map_err(|fatal| fatal.to_string())?;
        let now_s = Clock.wall_ms() / 1_000;
        let claims = tokens::Claims {
            user_id: options.users,
            device_id: "loadgen".to_owned(),
            issued_s: now_s,
            expires_s: now_s + options.send_time().as_secs() + options.duration.as_secs() + TOKEN_SPARE_S,
            name: None,
            scope: String::new(),
        };
        // One that can be signed means that all can.
        keys.sign(&claims).map_err(|error| format!("a token cannot be signed: {error}"))?;
        let users = (options.users..).take(options.clients as usize).collect();
        Ok((users, Tokens::Signed { keys: Box::new(keys), claims }))
    }

    /// The token of a client; empty for one that has none.
    pub(super) fn of(&self, client: u32) -> Cow<'_, str> {
        match self {
            Tokens::Given(tokens) => tokens.get(client as usize).map_or("", String::as_str).into(),
            Tokens::Signed { keys, claims } => {
                let user_id = claims.user_id + u64::from(client);
                keys.sign(&tokens::Claims { user_id, ..claims.clone() }).unwrap_or_default().into()
            }
        }
    }
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
