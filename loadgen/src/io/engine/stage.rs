//! How far a connection is: connect, upgrade, then frames.

use std::net::SocketAddr;

use carillon_node::prng::Prng;
use carillon_protocol::handshake;
use carillon_protocol::websocket::{Decoder, Role};

/// Where in its life a connection is.
#[derive(Debug)]
pub(super) enum Stage {
    /// There is none.
    Closed,
    Connecting,
    Upgrading(Box<Upgrade>),
    Open(Decoder),
}

/// A request to be upgraded that is not answered yet.
#[derive(Debug)]
pub(super) struct Upgrade {
    key: String,
    answer: Vec<u8>,
}

/// Why there is no upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Status(u16),
    Invalid(&'static str),
}

impl Stage {
    /// The connection is there: asks to be upgraded.
    pub(super) fn upgrade(
        server: SocketAddr,
        subprotocol: &str,
        token: &str,
        prng: &mut Prng,
        out: &mut Vec<u8>,
    ) -> Stage {
        let mut nonce = [0; 16];
        prng.fill(&mut nonce);
        let key = handshake::encode_key(nonce);
        out.extend(handshake::request(&server.to_string(), "/v1/ws", &key, &[subprotocol], Some(token)));
        Stage::Upgrading(Box::new(Upgrade { key, answer: Vec::new() }))
    }

    /// More of the answer to the upgrade. Once it is whole: the bytes behind it.
    pub(super) fn upgraded(&mut self, bytes: &[u8], subprotocol: &str) -> Result<Option<Vec<u8>>, Refused> {
        let Stage::Upgrading(upgrade) = self else { return Ok(None) };
        let Upgrade { key, answer } = &mut **upgrade;
        answer.extend_from_slice(bytes);
        match handshake::parse_response(answer, key, &[subprotocol]) {
            handshake::Answer::Partial => Ok(None),
            handshake::Answer::Accepted { subprotocol: Some(_), consumed } => {
                let rest = answer.split_off(consumed);
                *self = Stage::Open(Decoder::new(Role::Client));
                Ok(Some(rest))
            }
            handshake::Answer::Accepted { subprotocol: None, .. } => {
                Err(Refused::Invalid("no subprotocol was chosen"))
            }
            handshake::Answer::Refused { status, .. } => Err(Refused::Status(status)),
            handshake::Answer::Invalid(words) => Err(Refused::Invalid(words)),
        }
    }
}
