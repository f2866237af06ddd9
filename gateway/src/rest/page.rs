//! The page to look at, in development mode: the files of [`demo`], and its ready users.
//!
//! # Invariants
//! - Tokens of the ready users go to pages of this machine only: the server listens on loopback in development mode, and
//!   a name that was made to point here (DNS rebinding) is told by its `Host`.

use std::collections::VecDeque;

use carillon_protocol::frame::Command;
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::Time;
use serde::Serialize;

use super::plan::{Ask, Tell};
use super::request::{ReadyUser, Request};
use super::response::{Envelope, Response};
use super::waiting::Entry;
use super::{ANSWER_MS_MAX, Rest, WAITING_MAX, overloaded};
use crate::{auth, demo};

/// Only files of our own run, and only they talk to us; images may come from anywhere, as messages name them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src * data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The path of the index.
const INDEX: &str = "/";

/// What a request is to the page.
pub(super) enum Wanted {
    /// The index, which needs the ready users.
    Index,
    /// A file as it is.
    File(Response),
}

/// `None`: it is not about the page.
pub(super) fn wanted(request: &Request) -> Option<Wanted> {
    let (content_type, bytes) = demo::file(&request.path)?;
    let host = request.headers.host.as_deref().and_then(|host| std::str::from_utf8(host).ok());
    if !matches!(request.method.as_str(), "GET" | "HEAD") || !host.is_some_and(auth::is_loopback_host) {
        return None;
    }
    Some(match request.path.as_str() {
        INDEX => Wanted::Index,
        _ => Wanted::File(guarded(content_type, bytes.to_vec())),
    })
}

impl Rest {
    /// Development mode's page; its index when its users are known, so that they find each other by name.
    pub(super) fn page(&mut self, envelope: Envelope, wanted: Wanted, users: Vec<ReadyUser>) {
        match wanted {
            Wanted::File(response) => self.respond(&envelope, response),
            Wanted::Index if self.waiting.count() >= WAITING_MAX => {
                self.respond(&envelope, Response::refusal(&overloaded(), &envelope.request_id));
            }
            Wanted::Index => {
                let to_provision = users.clone().into();
                self.provision_ready(envelope, self.now.after_ms(ANSWER_MS_MAX), to_provision, users);
            }
        }
    }

    /// Makes the next of the ready users known, or answers when all of them are.
    pub(super) fn provision_ready(
        &mut self,
        envelope: Envelope,
        deadline: Time,
        mut left: VecDeque<ReadyUser>,
        users: Vec<ReadyUser>,
    ) {
        let Some(next) = left.pop_front().filter(|_| self.settings.auto_provision) else {
            let response =
                index(&users).unwrap_or_else(|refusal| Response::refusal(&refusal, &envelope.request_id));
            return self.respond(&envelope, response);
        };
        let command = Command::Provision { name: next.name };
        self.ask(Entry {
            envelope,
            user: next.user,
            deadline,
            ask: Ask::Submit { client_msg_id: String::new(), command },
            tell: Tell::Ready { left, users },
            order: 0,
            route: None,
            is_at_stake: false,
            is_repeated: false,
        });
    }
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    user_id: UserId,
    token: &'a str,
}

/// The index with its ready users.
///
/// # Errors
/// Never: names and tokens serialise.
pub(super) fn index(users: &[ReadyUser]) -> Result<Response, Refusal> {
    let users: Vec<User<'_>> =
        users.iter().map(|user| User { name: &user.name, user_id: user.user, token: &user.token }).collect();
    let json = serde_json::to_string(&users)
        .map_err(|_| Refusal::new(Code::Internal, "the page's users cannot be written"))?;
    Ok(guarded("text/html; charset=utf-8", demo::index(&json)))
}

fn guarded(content_type: &str, body: Vec<u8>) -> Response {
    let mut response = Response::bytes(200, content_type, body);
    response.headers.push(("content-security-policy", POLICY.to_owned()));
    response.headers.push(("referrer-policy", "no-referrer".to_owned()));
    response
}
