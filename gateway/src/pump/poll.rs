//! One poll session: frames are posted and fetched, the session behind it is like any other.
//!
//! # Invariants
//! - What was fetched is out only when the next fetch acknowledges it; until then the same answer is given again.
//! - Posted frames reach the session in order, across posts; a post is answered when the session took all of its frames.

use std::collections::VecDeque;

use carillon_node::tokens::Claims;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::Time;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::payload::{Queued, queued};
use super::{Ground, IDLE_MS_MAX, POSTS_MAX, RETRY_MS, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX};
use crate::rest::query::Query;
use crate::rest::response::Envelope;
use crate::rest::{Request, Response};
use crate::turn::{ConnectionId, Input};

/// See the module.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) connection: ConnectionId,
    /// Whose token began it, if one did.
    holder: Option<(u64, String)>,
    /// Number of the last answer that was acknowledged.
    acked: u64,
    /// The answer that is not: its body and what of the outbox it stands for.
    answer: Option<(Vec<u8>, usize)>,
    waiting: Option<(Envelope, Time)>,
    posts: VecDeque<Post>,
    /// When it ends, unless it is asked something.
    idle_until: Time,
    armed_at: Option<Time>,
    closed: Option<(u16, String)>,
    is_ended: bool,
}

#[derive(Debug)]
struct Post {
    envelope: Envelope,
    frames: VecDeque<String>,
}

impl Poll {
    pub(super) fn new(connection: ConnectionId, claims: Option<&Claims>, ground: &mut Ground) -> Poll {
        let mut poll = Poll {
            connection,
            holder: claims.map(|claims| (claims.user_id, claims.device_id.clone())),
            acked: 0,
            answer: None,
            waiting: None,
            posts: VecDeque::new(),
            idle_until: ground.now,
            armed_at: None,
            closed: None,
            is_ended: false,
        };
        poll.asked(ground);
        poll.arm(ground);
        poll
    }

    /// Whether a request with this token may have to do with it: one that began with a token is asked with one. Where the
    /// token is in `identify`, nobody knows anything but the name.
    pub(super) fn is_for(&self, claims: Option<&Claims>) -> bool {
        self.holder.as_ref().is_none_or(|(user, device)| {
            claims.is_some_and(|claims| *user == claims.user_id && *device == claims.device_id)
        })
    }

    /// `GET`: answered at once when there is something, else when there is, or the time is over.
    pub(super) fn fetch(
        &mut self,
        envelope: &Envelope,
        request: &Request,
        ground: &mut Ground,
    ) -> Result<(), Refusal> {
        let query = Query::new(&request.query);
        let ack = query.text("ack")?;
        let timeout_ms = query.seq("timeout_ms")?.unwrap_or(TIMEOUT_MS_DEFAULT).min(TIMEOUT_MS_MAX);
        self.asked(ground);
        if let Some(ack) = ack {
            let number = ack.strip_prefix('n').and_then(|number| number.parse::<u64>().ok());
            match number {
                Some(number) if number == self.acked => {}
                Some(number) if number == self.acked + 1 && self.answer.is_some() => {
                    self.acked = number;
                    if let Some((_, bytes)) = self.answer.take() {
                        ground.input(Input::Sent { connection: self.connection, bytes });
                    }
                }
                _ => return Err(Refusal::field("ack", "ack must be the next of the last answer")),
            }
        }
        // Of two fetches the newer one is waited with.
        if let Some((before, _)) = self.waiting.take() {
            self.say_nothing(&before, ground);
        }
        self.waiting = Some((envelope.clone(), ground.now.after_ms(timeout_ms)));
        ground.dirty.insert(self.connection);
        Ok(())
    }

    /// `POST`: client frames.
    pub(super) fn post(
        &mut self,
        envelope: &Envelope,
        request: &Request,
        ground: &mut Ground,
    ) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        struct Posted<'a> {
            #[serde(borrow)]
            frames: Vec<&'a RawValue>,
        }
        self.asked(ground);
        if self.is_closing(ground) {
            return Err(self.gone());
        }
        let body = request.json_body(ground.body_bytes_max)?;
        let wrong = || Refusal::field("frames", "the body must be {\"frames\":[…]}, JSON in UTF-8");
        let text = std::str::from_utf8(body).map_err(|_| wrong())?;
        let posted: Posted<'_> = serde_json::from_str(text).map_err(|_| wrong())?;
        if self.posts.len() >= POSTS_MAX {
            let refusal = Refusal::new(Code::RateLimited, "earlier posts are still being taken");
            return Err(refusal.retry_after(RETRY_MS));
        }
        if posted.frames.is_empty() {
            ground.respond(envelope, Response::empty());
            return Ok(());
        }
        let frames = posted.frames.into_iter().map(|frame| frame.get().to_owned()).collect();
        self.posts.push_back(Post { envelope: envelope.clone(), frames });
        ground.dirty.insert(self.connection);
        Ok(())
    }

    /// `DELETE`: as if it said `bye`.
    pub(super) fn end(&mut self, envelope: &Envelope, ground: &mut Ground) {
        if self.closed.is_none() {
            ground.input(Input::Frame { connection: self.connection, text: "{\"type\":\"bye\"}" });
            ground.pull();
        }
        self.is_ended = true;
        self.closed.get_or_insert((1000, "bye".to_owned()));
        ground.respond(envelope, Response::empty());
        ground.dirty.insert(self.connection);
    }

    /// Brings on what can be.
    pub(super) fn advance(&mut self, ground: &mut Ground) {
        if self.armed_at.is_some_and(|at| at <= ground.now) {
            self.armed_at = None;
        }
        self.feed(ground);
        if self.closed.is_none() && self.answer.is_none() {
            let Queued { texts, outbox_bytes, close } = queued(&ground.shard, self.connection);
            self.closed = close;
            if !texts.is_empty() {
                self.answer = Some((self.body(&texts), outbox_bytes));
            }
        }
        self.answer_fetch(ground);
        self.arm(ground);
    }

    /// Gives posted frames to the session while it takes them. One that ends takes none any more, though what it said
    /// may still be fetched.
    fn feed(&mut self, ground: &mut Ground) {
        while let Some(post) = self.posts.front_mut() {
            if !ground.shard.takes_frames(self.connection) {
                break;
            }
            if let Some(text) = post.frames.pop_front() {
                ground.input(Input::Frame { connection: self.connection, text: &text });
                // Settled frame by frame, so that a full session is seen to be.
                ground.pull();
            }
            if post.frames.is_empty()
                && let Some(post) = self.posts.pop_front()
            {
                ground.respond(&post.envelope, Response::empty());
            }
        }
        if self.is_closing(ground) {
            for post in std::mem::take(&mut self.posts) {
                ground.refuse(&post.envelope, &self.gone());
            }
        }
    }

    /// Whether the session takes nothing any more.
    fn is_closing(&self, ground: &Ground) -> bool {
        self.closed.is_some() || ground.shard.is_closing(self.connection)
    }

    fn answer_fetch(&mut self, ground: &mut Ground) {
        let Some((envelope, until)) = self.waiting.take() else { return };
        if let Some((body, _)) = &self.answer {
            let response = Response::bytes(200, "application/json", body.clone());
            ground.respond(&envelope, response);
        } else if self.closed.is_some() {
            ground.refuse(&envelope, &self.gone());
        } else if until <= ground.now {
            self.say_nothing(&envelope, ground);
        } else {
            self.waiting = Some((envelope, until));
            return;
        }
        self.asked(ground);
    }

    fn say_nothing(&self, envelope: &Envelope, ground: &mut Ground) {
        let body = serde_json::json!({ "frames": [], "next": format!("n{}", self.acked) });
        ground.respond(envelope, Response::json(200, &body));
    }

    /// Whether nothing is left of it. A post that still waits by then does not keep it.
    pub(super) fn is_over(&self, now: Time) -> bool {
        self.is_ended || (self.waiting.is_none() && self.idle_until <= now)
    }

    /// Nobody is left waiting.
    pub(super) fn answer_all(&mut self, ground: &mut Ground) {
        let fetch = self.waiting.take().map(|(envelope, _)| envelope);
        let posts = std::mem::take(&mut self.posts).into_iter().map(|post| post.envelope);
        for envelope in fetch.into_iter().chain(posts) {
            ground.refuse(&envelope, &self.gone());
        }
    }

    fn gone(&self) -> Refusal {
        let message = match &self.closed {
            Some((code, reason)) => {
                format!("this poll session was closed with {code} {reason}; begin another")
            }
            None => "this poll session is over; begin another".to_owned(),
        };
        Refusal::new(Code::Gone, message)
    }

    /// It was asked something: it lives on, and its client is there.
    fn asked(&mut self, ground: &mut Ground) {
        self.idle_until = ground.now.after_ms(IDLE_MS_MAX);
        ground.input(Input::Heard { connection: self.connection });
    }

    fn arm(&mut self, ground: &mut Ground) {
        let at = match &self.waiting {
            Some((_, until)) => *until,
            None => self.idle_until,
        };
        if self.armed_at.is_none_or(|armed| at < armed) {
            self.armed_at = Some(at);
            ground.timers.insert((at, self.connection));
        }
    }

    fn body(&self, texts: &[String]) -> Vec<u8> {
        let frames_bytes: usize = texts.iter().map(|text| text.len() + 1).sum();
        let mut body = Vec::with_capacity(frames_bytes + 32);
        body.extend_from_slice(b"{\"frames\":[");
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(text.as_bytes());
        }
        body.extend_from_slice(format!("],\"next\":\"n{}\"}}", self.acked + 1).as_bytes());
        body
    }
}
