//! What is said at start: one line for scripts on standard output, and in development mode, on standard error, where to
//! look and what to type next.

use std::net::SocketAddr;
use std::path::Path;

use carillon_node::exit::Fatal;
use carillon_node::tokens::KeyTable;
use serde::Serialize;

use crate::token;

/// Valid for a day of trying things out.
const TTL_S: i64 = 86_400;

/// The addresses that were bound, in the order in which scripts read them; of a single tier, those that it has.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "ready")]
pub struct Ready {
    /// WebSocket and REST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<SocketAddr>,
    /// Metrics and probes.
    pub admin: SocketAddr,
    /// QUIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<SocketAddr>,
}

impl Ready {
    /// The line, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("addresses always serialise")
    }
}

/// Where clients connect, and how.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Where.
    pub gateway: SocketAddr,
    /// By `https://` and `wss://`.
    pub has_tls: bool,
}

/// The text: the page, two ready tokens, a chat with an ordinary WebSocket client, the REST line that reads history, the
/// metrics address, the load generator.
///
/// # Errors
/// As [`token::sign`].
pub fn text(
    keys: &KeyTable,
    now_s: u64,
    base: &Base,
    admin: SocketAddr,
    data_dir: &Path,
) -> Result<String, Fatal> {
    let alice = token::sign(keys, 1, "default", Some("alice"), false, now_s, TTL_S)?;
    let bob = token::sign(keys, 2, "default", Some("bob"), false, now_s, TTL_S)?;
    let data_dir = data_dir.display();
    let Base { gateway, has_tls } = base;
    let s = if *has_tls { "s" } else { "" };
    Ok(format!(
        r#"
Carillon is up in development mode: loopback only, key and certificates in {data_dir}.

Look at it: open http{s}://{gateway}/ in two tabs, be alice in one and bob in the other.

Two ready users, each good for a day:
  ALICE={alice}
  BOB={bob}

1. Chat, one terminal each (any WebSocket client; here websocat):
  websocat -H "Authorization: Bearer $ALICE" ws{s}://{gateway}/v1/ws
  websocat -H "Authorization: Bearer $BOB"   ws{s}://{gateway}/v1/ws
   Begin each with   {{"type":"identify"}}

2. Their conversation (answers its conversation_id; Bob is known once he has connected):
  curl -s -H "Authorization: Bearer $ALICE" -H 'Content-Type: application/json' \
       -d '{{"type":"one_to_one","member_ids":["2"]}}' http{s}://{gateway}/v1/conversations
   then in Alice's terminal   {{"type":"send_message","conversation_id":"…","content":"hello"}}

3. History:
  curl -s -H "Authorization: Bearer $BOB" http{s}://{gateway}/v1/conversations/…/messages

Metrics:  curl -s http://{admin}/metrics      Ready?  curl -s http://{admin}/readyz
Load:     cargo run --release -p carillon-loadgen -- --server {gateway} --data-dir {data_dir} --clients 100 --rate 1000
"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_that_of_the_protocol() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (gateway, router) = (Some(address(8080)), Some(address(7400)));
        let both = Ready { gateway, admin: address(9100), router };
        let line = r#"{"event":"ready","gateway":"127.0.0.1:8080","admin":"127.0.0.1:9100","router":"127.0.0.1:7400"}"#;
        assert_eq!(both.line(), line);
        let tier = Ready { gateway: None, admin: address(9101), router };
        assert_eq!(tier.line(), r#"{"event":"ready","admin":"127.0.0.1:9101","router":"127.0.0.1:7400"}"#);
    }
}
