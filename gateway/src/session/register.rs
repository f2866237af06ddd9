//! From `identify` to knowing where every conversation stands: at first, after a lane was lost, and when the user became
//! another router's. All of it is their home's business: the router that owns the user's slot.
//!
//! Registering comes before anything is read, so that nothing can fall between (F6). Until the answer to the peek a
//! `Deliver` is not kept, only its seq: the event will be read.

use carillon_link::Peer;
use carillon_protocol::client::{FrameId, ServerFrame};
use carillon_protocol::frame::{ArchivedPeeked, ArchivedRegistered, Joined, Peek, Register, Standing};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::limits::LINK_LIST_MAX;
use carillon_protocol::reason::{Close, Code, Refusal};
use carillon_protocol::time::Time;

use super::catch_up::{BEHIND_MAX, CatchingUp, Style};
use super::place::{self, Before, Known, Placed};
use super::{Session, Stage};
use crate::common::Common;
use crate::line::Line;
use crate::owners::Route;
use crate::tails::{Life, Moment};

/// Conversations of one user that a session can follow. Beyond: 1013, and an operator has to look.
const JOINED_MAX: usize = 65_536;
/// How soon something that a router could not answer is asked again.
pub(super) const RETRY_MS: u64 = 250;

/// Waits for its conversations.
#[derive(Debug)]
pub(super) struct Registering {
    /// The link request; 0 while it is not on a lane.
    pub(super) request: u64,
    /// Where that went.
    pub(super) home: Option<Route>,
    /// A router that counts it as registered, though it could not tell where it stands.
    pub(super) listed_by: Option<Peer>,
    pub(super) retry_at: Option<Time>,
    pub(super) known: Known,
    pub(super) cause: Cause,
}

/// Waits for where these stand.
#[derive(Debug)]
pub(super) struct Peeking {
    /// Link requests without an answer.
    pub(super) requests: Vec<u64>,
    /// Where they went.
    pub(super) home: Route,
    pub(super) known: Known,
    pub(super) cause: Cause,
}

/// Why a session registers.
#[derive(Debug)]
pub(super) enum Cause {
    /// It begins.
    Fresh {
        /// Of the `identify`, until it is answered.
        id: Option<FrameId>,
        since: Time,
        /// From the token.
        name: String,
        /// From `identify`, ascending.
        cursors: Vec<(ConversationId, Seq)>,
    },
    /// Its lane was lost, or its user is another router's now.
    Again { before: Before, owes_caught_up: bool, style: Style },
}

impl Registering {
    pub(super) fn new(cause: Cause) -> Box<Registering> {
        Box::new(Registering {
            request: 0,
            home: None,
            listed_by: None,
            retry_at: None,
            known: Known::default(),
            cause,
        })
    }
}

impl Session {
    /// Why it registers, while it does.
    pub(super) fn cause(&self) -> Option<&Cause> {
        match &self.stage {
            Stage::Registering(registering) => Some(&registering.cause),
            Stage::Peeking(peeking) => Some(&peeking.cause),
            _ => None,
        }
    }

    /// The `id` of the `identify` that is not answered yet.
    pub(super) fn identify_id(&self) -> Option<FrameId> {
        match self.cause()? {
            Cause::Fresh { id, .. } => id.clone(),
            Cause::Again { .. } => None,
        }
    }

    /// Puts the registration on the lane, when it is due and the lane is there.
    pub(super) fn register(&mut self, line: &Line, common: &mut Common) {
        let Stage::Registering(registering) = &mut self.stage else { return };
        let is_due = registering.retry_at.is_none_or(|at| at <= common.now);
        let Some(home) = common.owners.route_of_user(self.user) else { return };
        if registering.request != 0 || !is_due {
            return;
        }
        (registering.retry_at, registering.home) = (None, Some(home));
        registering.request = common.request();
        let (name, again) = match &registering.cause {
            Cause::Fresh { name, .. } => (name.clone(), false),
            Cause::Again { .. } => (String::new(), true),
        };
        let register = Register {
            session: line.id.as_u64(),
            request: registering.request,
            user: self.user,
            device: self.device.to_string(),
            name,
            auto_provision: common.settings.auth.auto_provision,
            again,
            waited_ms: common.now.since(self.identified_at).as_millis().try_into().unwrap_or(u64::MAX),
            issued_at_s: self.issued_at_s,
        };
        common.link(home.router, &register);
    }

    /// The router told some of the conversations.
    pub(crate) fn registered(&mut self, frame: &ArchivedRegistered, line: &mut Line, common: &mut Common) {
        let Stage::Registering(registering) = &mut self.stage else { return };
        if registering.request == 0 || registering.request != frame.request.to_native() {
            return;
        }
        if registering.known.joined.len() + frame.conversations.len() > JOINED_MAX {
            line.close(Close::TryLater);
            return;
        }
        registering.known.joined.extend(frame.conversations.iter().map(|joined| Joined {
            conversation: ConversationId(joined.conversation.0.to_native()),
            cursor: joined.cursor.to_native(),
            is_returning: joined.is_returning,
        }));
        if frame.more {
            return;
        }
        let Stage::Registering(registering) = std::mem::replace(&mut self.stage, Stage::Gone) else { return };
        let Registering { mut known, cause, home: Some(home), .. } = *registering else { return };
        known.listed();
        let mut peeking = Box::new(Peeking { requests: Vec::new(), home, known, cause });
        for chunk in peeking.known.joined.chunks(LINK_LIST_MAX) {
            let request = common.request();
            peeking.requests.push(request);
            let peek = Peek {
                session: line.id.as_u64(),
                request,
                user: self.user,
                conversations: chunk.iter().map(|joined| joined.conversation).collect(),
            };
            common.link(home.router, &peek);
        }
        self.stage = Stage::Peeking(peeking);
        self.place_if_known(line, common);
    }

    /// The router told where some of them stand.
    pub(crate) fn peeked(&mut self, frame: &ArchivedPeeked, line: &mut Line, common: &mut Common) {
        let Stage::Peeking(peeking) = &mut self.stage else { return };
        let request = frame.request.to_native();
        let Some(place) = peeking.requests.iter().position(|other| *other == request) else { return };
        peeking.requests.swap_remove(place);
        for standing in frame.standings.iter() {
            let standing = Standing {
                conversation: ConversationId(standing.conversation.0.to_native()),
                first_seq: standing.first_seq.to_native(),
                joined_seq: standing.joined_seq.to_native(),
                head_seq: standing.head_seq.to_native(),
                fanned_out_seq: standing.fanned_out_seq.to_native(),
            };
            peeking.known.stands(standing);
        }
        self.place_if_known(line, common);
    }

    /// When every standing is here, decides what has to be brought, and begins to.
    fn place_if_known(&mut self, line: &mut Line, common: &mut Common) {
        if !matches!(&self.stage, Stage::Peeking(peeking) if peeking.requests.is_empty()) {
            return;
        }
        let Stage::Peeking(peeking) = std::mem::replace(&mut self.stage, Stage::Gone) else { return };
        let Peeking { mut known, cause, home, .. } = *peeking;
        known.is_known();
        let work = self.work.get_or_insert_default();
        let life = common.tails(home.router).life();
        let catching_up = match cause {
            Cause::Fresh { id, cursors, .. } => {
                let Placed { plan, .. } = place::fresh(known, &cursors, work, common.tails(home.router));
                let (pending_conversations, pending_events) = plan.pending();
                let ready = ServerFrame::Ready {
                    id,
                    user: self.user,
                    device: (&*self.device).into(),
                    pending_conversations,
                    pending_events,
                };
                line.say(common, &ready);
                CatchingUp::new(plan, Vec::new(), true, Style::Batches, life)
            }
            Cause::Again { before, owes_caught_up, style } => {
                let joined = known.joined.iter().map(|joined| joined.conversation);
                let (had, tails) = (common.had(before.moment, joined), common.tails(home.router));
                let Placed { plan, unknown, mut listed } = place::again(known, &before, &had, work, tails);
                if listed.len() + unknown.len() > BEHIND_MAX {
                    line.close(Close::TryLater);
                    return;
                }
                if !unknown.is_empty() {
                    common.counters.behinds += 1;
                    listed.extend(unknown.iter().map(|(conversation, _)| (*conversation, 0)));
                    listed.sort_unstable();
                    line.say(common, &ServerFrame::Behind { conversations: unknown });
                }
                let owes_caught_up = owes_caught_up || !listed.is_empty();
                CatchingUp::new(plan, listed, owes_caught_up, style, life)
            }
        };
        self.stage = Stage::CatchingUp(Box::new(catching_up.since(common.now)));
    }

    /// Its home's lane is lost, or its home is another one now: whatever stage the session is in, it will register again,
    /// and knows what it was before. `moment`: until when it was live, given by which life.
    pub(super) fn unregister(&mut self, moment: impl FnOnce(Life) -> Moment) {
        // A page that comes meanwhile could not be compared with what is pushed.
        self.unask_sync(|_, _| true);
        let cause = match std::mem::replace(&mut self.stage, Stage::Gone) {
            stage @ (Stage::AwaitIdentify(_) | Stage::Gone) => {
                self.stage = stage;
                return;
            }
            Stage::Registering(registering) => registering.cause,
            Stage::Peeking(peeking) => peeking.cause,
            Stage::CatchingUp(catching_up) => catching_up.into_cause(moment),
            Stage::Live(life) => Cause::Again {
                before: Before { moment: moment(life), open: Vec::new(), listed: Vec::new() },
                owes_caught_up: false,
                style: Style::Live,
            },
        };
        self.stage = Stage::Registering(Registering::new(cause));
    }

    /// A router could not register the session or tell where it stands.
    pub(super) fn register_refused(&mut self, refusal: Refusal, line: &mut Line, common: &mut Common) {
        let Some(cause) = self.cause() else { return };
        let is_fresh = matches!(cause, Cause::Fresh { .. });
        let close = match refusal.code {
            Code::RateLimited => Close::TooManyConnections,
            Code::Unauthenticated if refusal.field == Some("device_id") => Close::DeviceRevoked,
            Code::BadRequest
            | Code::Unauthenticated
            | Code::TokenExpired
            | Code::Forbidden
            | Code::NotFound
            | Code::Gone => Close::AuthenticationFailed,
            // The client has nothing to do with it: ask again, more slowly. One that begins is told when that took too long.
            code if !is_fresh || code == Code::Unavailable => {
                let wait_ms = refusal.retry_after_ms.unwrap_or(RETRY_MS).max(RETRY_MS);
                let (listed_by, refused_by) = match &self.stage {
                    Stage::Registering(registering) => (registering.listed_by, registering.home),
                    _ => (self.home(), None),
                };
                // Whom it watches at that router is forgotten there together with it.
                if let Some(home) = refused_by {
                    self.watch_again_at(home.router);
                }
                self.unregister(Moment::end_of);
                if let Stage::Registering(registering) = &mut self.stage {
                    registering.listed_by = listed_by;
                    registering.retry_at = Some(common.now.after_ms(wait_ms));
                }
                return;
            }
            _ => Close::TryLater,
        };
        let id = self.identify_id();
        line.refuse(common, id, refusal);
        line.close(close);
    }
}
