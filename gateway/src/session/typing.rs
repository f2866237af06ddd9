//! What a client says of its typing on its way to the others, and what it hears of theirs. Never stored.
//!
//! # Invariants
//! - Of a conversation at most one state in [`TYPING_INTERVAL_MS`] is passed on. A change within it waits for its end, the
//!   latest one only; a repeat is not passed on at all.
//! - Every frame with an `id` is answered: `ok`, or why not.
//! - Bounded: beyond [`CONVERSATIONS_MAX`] conversations at once it is not passed on.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_link::Peer;
use carillon_protocol::client::{Done, FrameId, ServerFrame};
use carillon_protocol::frame::Typing;
use carillon_protocol::ids::ConversationId;
use carillon_protocol::limits::TYPING_INTERVAL_MS;
use carillon_protocol::placement::{Slot, slot_of_conversation};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::Time;

use super::Session;
use crate::common::Common;
use crate::counters::Shared;
use crate::line::Line;
use crate::owners::Route;

/// Conversations in which one connection types at once. Nobody does so in more; beyond: `rate_limited`.
const CONVERSATIONS_MAX: usize = 32;
/// Frames that wait for the answer to one state. Beyond: `rate_limited`.
const WAITING_MAX: usize = 16;

/// A conversation in which the client typed a moment ago.
#[derive(Debug)]
struct Passed {
    at: Time,
    start: bool,
    /// What is passed on when the interval is over, if that is something else.
    deferred: Option<bool>,
    /// What the router is asked; 0: it answered.
    request: u64,
    /// Where that went.
    route: Route,
    /// Frames that wait for that answer.
    waiting: Vec<FrameId>,
    /// The answer, once it came, when it was no.
    refusal: Option<Refusal>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Typists {
    conversations: BTreeMap<ConversationId, Passed>,
    /// Frames whose answers were lost with a lane, and with it what was typed: clients let a typing state end by themselves.
    lost: Vec<FrameId>,
}

impl Typists {
    /// When something deferred is due, or a conversation can be forgotten.
    pub(super) fn deadline(&self) -> Option<Time> {
        let due = self.conversations.values();
        let due = due.filter(|passed| passed.deferred.is_some() || passed.waiting.is_empty());
        due.map(|passed| passed.at.after_ms(TYPING_INTERVAL_MS)).min()
    }

    /// A lane is lost.
    pub(super) fn lane_down(&mut self, router: Peer) {
        let is_lost = |passed: &Passed| passed.route.router == router;
        let (lost, rest) =
            std::mem::take(&mut self.conversations).into_iter().partition(|(_, passed)| is_lost(passed));
        self.conversations = rest;
        let lost: BTreeMap<ConversationId, Passed> = lost;
        self.lost.extend(lost.into_values().flat_map(|passed| passed.waiting));
    }

    /// Forgets where nothing was said lately and nobody waits.
    fn tidy(&mut self, now: Time) {
        self.conversations.retain(|_, passed| {
            let is_over = passed.at.after_ms(TYPING_INTERVAL_MS) <= now;
            !is_over || passed.deferred.is_some() || !passed.waiting.is_empty()
        });
    }

    fn of_request(&mut self, request: u64) -> Option<(ConversationId, &mut Passed)> {
        let mut asked = self.conversations.iter_mut();
        let (id, passed) = asked.find(|(_, passed)| passed.request == request && request != 0)?;
        Some((*id, passed))
    }
}

impl Session {
    /// The client types, or stopped.
    pub(super) fn typing(
        &mut self,
        id: Option<FrameId>,
        conversation: ConversationId,
        start: bool,
        line: &mut Line,
        common: &mut Common,
    ) {
        let now = common.now;
        let Some(route) = common.owners.route_of_conversation(conversation) else {
            return answer_refused(id, unreachable(), line, common);
        };
        let typing = self.live.get_or_insert_default().typing.get_or_insert_default();
        if typing.conversations.len() >= CONVERSATIONS_MAX {
            typing.tidy(now);
        }
        let is_full = typing.conversations.len() >= CONVERSATIONS_MAX;
        match typing.conversations.get_mut(&conversation) {
            Some(passed) if passed.at.after_ms(TYPING_INTERVAL_MS) > now => {
                passed.deferred = (passed.start != start).then_some(start);
                let Some(id) = id else { return };
                if let Some(refusal) = passed.refusal.clone() {
                    line.refuse(common, Some(id), refusal);
                } else if passed.request == 0 {
                    line.say(common, &ServerFrame::Ok(Done { id: Some(id), ..Done::default() }));
                } else if passed.waiting.len() < WAITING_MAX {
                    passed.waiting.push(id);
                } else {
                    answer_refused(Some(id), too_often(), line, common);
                }
            }
            None if is_full => answer_refused(id, too_often(), line, common),
            place => {
                let mut waiting = place.map(|passed| std::mem::take(&mut passed.waiting)).unwrap_or_default();
                waiting.extend(id);
                let passed =
                    Passed { at: now, start, deferred: None, request: 0, route, waiting, refusal: None };
                typing.conversations.insert(conversation, passed);
                self.pass_typing(conversation, route, line, common);
            }
        }
    }

    fn pass_typing(&mut self, conversation: ConversationId, route: Route, line: &Line, common: &mut Common) {
        let typing = self.live.as_mut().and_then(|live| live.typing.as_mut());
        let passed = typing.and_then(|typing| typing.conversations.get_mut(&conversation));
        let Some(passed) = passed else { return };
        (passed.request, passed.route) = (common.request(), route);
        let frame = Typing {
            session: line.id.as_u64(),
            request: passed.request,
            user: self.user,
            conversation,
            start: passed.start,
        };
        common.link(route.router, &frame);
    }

    /// Passes on what was deferred long enough.
    pub(super) fn settle_typing(&mut self, line: &mut Line, common: &mut Common) {
        let Some(live) = &mut self.live else { return };
        let Some(typing) = &mut live.typing else { return };
        for id in std::mem::take(&mut typing.lost) {
            line.refuse(common, Some(id), unreachable());
        }
        let now = common.now;
        let due: Vec<ConversationId> = typing
            .conversations
            .iter_mut()
            .filter(|(_, passed)| passed.at.after_ms(TYPING_INTERVAL_MS) <= now)
            .filter_map(|(conversation, passed)| {
                passed.start = passed.deferred.take()?;
                passed.at = now;
                Some(*conversation)
            })
            .collect();
        typing.tidy(now);
        for conversation in due {
            if let Some(route) = common.owners.route_of_conversation(conversation) {
                self.pass_typing(conversation, route, line, common);
            }
        }
        let Some(live) = &mut self.live else { return };
        live.typing.take_if(|typing| typing.conversations.is_empty());
    }

    /// The router passed it on; `false`: the request is none about typing.
    pub(super) fn typing_accepted(&mut self, request: u64, line: &mut Line, common: &mut Common) -> bool {
        let typing = self.live.as_mut().and_then(|live| live.typing.as_mut());
        let Some((_, passed)) = typing.and_then(|typing| typing.of_request(request)) else { return false };
        passed.request = 0;
        for id in std::mem::take(&mut passed.waiting) {
            line.say(common, &ServerFrame::Ok(Done { id: Some(id), ..Done::default() }));
        }
        true
    }

    /// The router did not; `false`: the request is none about typing.
    pub(super) fn typing_refused(
        &mut self,
        request: u64,
        refusal: &Refusal,
        line: &mut Line,
        common: &mut Common,
    ) -> bool {
        let typing = self.live.as_mut().and_then(|live| live.typing.as_mut());
        let Some((_, passed)) = typing.and_then(|typing| typing.of_request(request)) else { return false };
        passed.request = 0;
        let is_definite = !matches!(refusal.code, Code::Unavailable | Code::Overloaded);
        if is_definite {
            (passed.refusal, passed.deferred) = (Some(refusal.clone()), None);
        }
        let waiting = std::mem::take(&mut passed.waiting);
        // Nobody waits, yet a client that types where it may not is told so; one that met a crowd is not.
        if waiting.is_empty() && is_definite {
            line.refuse(common, None, refusal.clone());
        }
        for id in waiting {
            line.refuse(common, Some(id), refusal.clone());
        }
        true
    }

    /// A router does not own the conversation that the client typed in: as if it could not be reached. `None`: the request
    /// is none about typing.
    pub(super) fn typing_disowned(
        &mut self,
        request: u64,
        line: &mut Line,
        common: &mut Common,
    ) -> Option<(Slot, Route)> {
        let typing = self.live.as_mut()?.typing.as_mut()?;
        let (conversation, passed) = typing.of_request(request)?;
        passed.request = 0;
        let (route, waiting) = (passed.route, std::mem::take(&mut passed.waiting));
        for id in waiting {
            line.refuse(common, Some(id), unreachable());
        }
        Some((slot_of_conversation(conversation), route))
    }

    /// Somebody else types, or stopped. Dropped when there is anything better to say.
    pub(crate) fn typed(
        &mut self,
        encoded: &mut [Option<Bytes>; 2],
        frame: &ServerFrame<'_>,
        line: &mut Line,
        common: &mut Common,
    ) {
        if self.hears_ephemeral(line) {
            let bytes = line.encode_shared(common, encoded, frame);
            let _ = line.whisper(common, bytes, Shared::Typing);
        }
    }
}

fn unreachable() -> Refusal {
    Refusal::new(Code::Unavailable, "the conversation cannot be reached: try again")
        .retry_after(TYPING_INTERVAL_MS)
}

fn too_often() -> Refusal {
    Refusal::new(Code::RateLimited, "too many typing frames: one in three seconds is passed on")
        .retry_after(TYPING_INTERVAL_MS)
}

/// Only who gave an `id` hears why its typing was not passed on.
fn answer_refused(id: Option<FrameId>, refusal: Refusal, line: &mut Line, common: &mut Common) {
    if id.is_some() {
        line.refuse(common, id, refusal);
    }
}
