//! A poll session: nothing but HTTP/1.1 requests (TR2).

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Refused, Seen};
use crate::http::request;

/// How long one fetch is held, in milliseconds.
const HOLD_MS: u64 = 100;

/// See the module.
pub(super) struct Poll {
    address: SocketAddr,
    token: Option<String>,
    path: String,
    ack: String,
}

impl Poll {
    pub(super) fn begin(address: SocketAddr, token: Option<&str>) -> Result<Poll, Refused> {
        let answer = request(address, "POST", "/v1/poll", token, &[], None);
        if answer.status != 201 {
            return Err((answer.status, answer.text));
        }
        let id = answer.body["poll_id"].as_str().unwrap_or_else(|| panic!("no poll_id: {answer:?}"));
        let path = format!("/v1/poll/{id}");
        Ok(Poll { address, token: token.map(str::to_owned), path, ack: String::new() })
    }

    pub(super) fn send(&mut self, frame: &Value) {
        let body = json!({ "frames": [frame] });
        let answer = request(self.address, "POST", &self.path, self.token.as_deref(), &[], Some(&body));
        // A session that ended says so to the next fetch.
        assert!(matches!(answer.status, 204 | 410), "{frame} → {answer:?}");
    }

    /// Ends the session: there is no connection whose end would show that nobody asks any more.
    pub(super) fn end(&self) {
        let answer = request(self.address, "DELETE", &self.path, self.token.as_deref(), &[], None);
        assert!(matches!(answer.status, 204 | 410), "{answer:?}");
    }

    /// Fetches once, acknowledging what was fetched before.
    pub(super) fn read(&mut self) -> Seen {
        let path = format!("{}?ack={}&timeout_ms={HOLD_MS}", self.path, self.ack);
        let answer = request(self.address, "GET", &path, self.token.as_deref(), &[], None);
        if answer.status == 410 {
            // The message names the code that a WebSocket would have been closed with.
            let message = answer.body["error"]["message"].as_str().unwrap_or_default().to_owned();
            let code = message.split(' ').find_map(|word| word.parse().ok()).unwrap_or(1006);
            return Seen::Closed(code, message);
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["next"]
            .as_str()
            .unwrap_or_else(|| panic!("no next: {answer:?}"))
            .clone_into(&mut self.ack);
        Seen::Frames(answer.body["frames"].as_array().cloned().unwrap_or_default())
    }
}
