//! What a request comes to: a question for the router, and what becomes of the answer. A request may take several such
//! steps: may its device come in, do what it wants, read what that made.

use std::collections::VecDeque;

use carillon_protocol::client::field_name;
use carillon_protocol::frame::{
    Accepted, Change, Command, Find, Findings, LinkFrame, Page, Read, Receipt, Refused, Submit, Wanted,
};
use carillon_protocol::ids::{CLIENT_MSG_ID_BYTES_MAX, ConversationId, Seq, UserId};
use carillon_protocol::placement::{Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use rkyv::util::AlignedVec;

use super::body::Fields;
use super::messages::Window;
use super::path::Parameters;
use super::request::ReadyUser;
use super::response::Response;
use super::{changes, conversations, devices, members, messages, users};

/// A request on its way into a handler.
pub(super) struct Call<'a> {
    /// Who, from the token.
    pub(super) user: UserId,
    /// On which device, from the token.
    pub(super) device: &'a str,
    /// What stands at the `{…}` of the route's pattern.
    pub(super) path: Parameters<'a>,
    /// Behind `?`.
    pub(super) query: &'a str,
    /// `Idempotency-Key`.
    pub(super) idempotency_key: Option<&'a [u8]>,
    /// Within its bound.
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    /// The idempotency key; empty: none was given. `Idempotency-Key` and `client_msg_id` are the same thing, so both may
    /// be given only alike.
    pub(super) fn key(&self, fields: &Fields<'_>) -> Result<String, Refusal> {
        let wrong = |message: &'static str| Refusal::field("client_msg_id", message);
        let in_body = fields.text("client_msg_id")?;
        if in_body.as_ref().is_some_and(|key| !(1..=CLIENT_MSG_ID_BYTES_MAX).contains(&key.len())) {
            return Err(wrong("client_msg_id must be 1 to 64 bytes"));
        }
        let Some(in_header) = self.idempotency_key else {
            return Ok(in_body.unwrap_or_default().into_owned());
        };
        let in_header = std::str::from_utf8(in_header)
            .ok()
            .filter(|key| (1..=CLIENT_MSG_ID_BYTES_MAX).contains(&key.len()))
            .ok_or_else(|| wrong("Idempotency-Key must be 1 to 64 bytes of UTF-8"))?;
        match in_body {
            Some(in_body) if in_body != in_header => {
                Err(wrong("Idempotency-Key and client_msg_id must be the same"))
            }
            _ => Ok(in_header.to_owned()),
        }
    }

    /// A durable command under the key that the request gives.
    pub(super) fn submit(&self, fields: &Fields<'_>, command: Command, tell: Tell) -> Result<Plan, Refusal> {
        Ok(Plan { ask: Ask::Submit { client_msg_id: self.key(fields)?, command }, tell })
    }

    /// A change of the log of the conversation that the path names.
    pub(super) fn change(&self, fields: &Fields<'_>, change: Change) -> Result<Plan, Refusal> {
        let conversation = self.path.conversation()?;
        self.submit(fields, Command::Change { conversation, change }, Tell::Changed)
    }
}

/// What a handler makes of a request.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) ask: Ask,
    pub(super) tell: Tell,
}

/// A question for the router.
#[derive(Debug)]
pub(super) enum Ask {
    /// A durable command; an empty `client_msg_id` is filled in before it leaves.
    Submit { client_msg_id: String, command: Command },
    /// Watermarks.
    Receipt { device: String, conversation: ConversationId, delivered_seq: Seq, read_seq: Seq },
    /// A page of messages.
    Messages { conversation: ConversationId, window: Window },
    /// A look-up.
    Find(Wanted),
}

impl Ask {
    /// Whether silence leaves open what happened. Making a user known is not what they asked for, so it does not count.
    pub(super) fn is_write(&self) -> bool {
        match self {
            Ask::Submit { command, .. } => !matches!(command, Command::Provision { .. }),
            Ask::Receipt { .. } => true,
            Ask::Messages { .. } | Ask::Find(_) => false,
        }
    }

    /// Whether asking twice does no more than asking once. Creating a user has no idempotency key: the second time the
    /// name is taken, which would look like a failure.
    pub(super) fn may_repeat(&self) -> bool {
        !matches!(self, Ask::Submit { command: Command::CreateUser { .. }, .. })
    }

    /// The slot that it belongs to when `user` asks: the conversation's that it is about, else a user's. Who is made known
    /// with an id of their own, or looked up by it, is that user; everything else is the business of the one who asks.
    pub(super) fn slot(&self, user: UserId) -> Slot {
        match self {
            Ask::Submit { command: Command::Send { conversation, .. }, .. }
            | Ask::Submit { command: Command::Change { conversation, .. }, .. }
            | Ask::Receipt { conversation, .. }
            | Ask::Messages { conversation, .. }
            | Ask::Find(
                Wanted::Conversation(conversation)
                | Wanted::Members { conversation, .. }
                | Wanted::Receipts { conversation, .. },
            ) => slot_of_conversation(*conversation),
            Ask::Submit { command: Command::CreateUser { user: Some(other), .. }, .. }
            | Ask::Find(Wanted::User(other)) => slot_of_user(*other),
            Ask::Submit { .. }
            | Ask::Find(
                Wanted::Conversations { .. }
                | Wanted::Username(_)
                | Wanted::Devices
                | Wanted::Admission { .. },
            ) => slot_of_user(user),
        }
    }

    /// The frame that asks an owner by this epoch.
    pub(super) fn to_frame(&self, request: u64, user: UserId, slot_epoch: u64) -> AlignedVec {
        // Session 0 is REST.
        let session = 0;
        match self {
            Ask::Submit { client_msg_id, command } => {
                let (client_msg_id, command) = (client_msg_id.clone(), command.clone());
                Submit { slot_epoch, session, request, user, said_after: Vec::new(), client_msg_id, command }
                    .to_frame()
            }
            Ask::Receipt { device, conversation, delivered_seq, read_seq } => Receipt {
                session,
                request,
                user,
                device: device.clone(),
                conversation: *conversation,
                delivered_seq: *delivered_seq,
                read_seq: *read_seq,
            }
            .to_frame(),
            Ask::Messages { conversation, window } => Read {
                session,
                request,
                user,
                conversation: *conversation,
                from_seq: window.from_seq,
                to_seq: window.to_seq,
                limit: window.limit,
                newest_first: window.newest_first,
                messages_only: true,
            }
            .to_frame(),
            Ask::Find(what) => Find { request, user, what: what.clone() }.to_frame(),
        }
    }
}

/// What becomes of an answer.
#[derive(Debug)]
pub(super) enum Tell {
    /// Whether the user is known and the device not revoked; then `plan`.
    Admission(Box<Admission>),
    /// A ready user was made known on the way to the page, however that went; on to those that are left.
    Ready { left: VecDeque<ReadyUser>, users: Vec<ReadyUser> },
    /// The message's id and seq.
    Sent,
    /// The event's seq.
    Changed,
    /// Nothing.
    Stored,
    /// A page of messages.
    Messages,
    /// A page of conversations.
    Conversations {
        /// The place that was asked for, as in [`Wanted::Conversations`].
        below: (u64, u64),
    },
    /// The conversation, which is read next.
    Created,
    /// A conversation, with this status.
    Conversation(u16),
    /// A page of members.
    Members,
    /// How far members got.
    Receipts,
    /// One's own devices.
    Devices,
    /// The user, who is read next.
    UserCreated,
    /// The caller, who is read next.
    Renamed,
    /// A user, with this status.
    User(u16),
}

/// What a request wants once it may come in.
#[derive(Debug)]
pub(super) struct Admission {
    /// The name in the token; empty when it has none.
    pub(super) name: String,
    /// The token's device.
    pub(super) device: String,
    /// When the token was issued, Unix seconds.
    pub(super) issued_s: u64,
    /// What is wanted.
    pub(super) plan: Plan,
}

/// An answer.
pub(super) enum Heard {
    Accepted(Accepted),
    Refused(Refused),
    Page(Page),
    Found(Findings),
}

/// What to do about an answer.
pub(super) enum Step {
    Respond(Response),
    Ask(Ask, Tell),
    /// Make the user known; the answer is told as this one was.
    Provision,
    /// The user is known, and tokens of the device that were issued up to then are refused.
    Known {
        revoked_at_ms: u64,
    },
}

/// Decides. `user` asked.
///
/// # Errors
/// What the client is told instead: the router's refusal, or `internal` for an answer to another question.
pub(super) fn step(
    ask: &Ask,
    tell: &Tell,
    heard: Heard,
    user: UserId,
    auto_provision: bool,
) -> Result<Step, Refusal> {
    match heard {
        Heard::Refused(refused) => Err(refusal(refused)),
        Heard::Accepted(accepted) => done(tell, &accepted, user),
        Heard::Page(page) => match (tell, ask) {
            (Tell::Messages, Ask::Messages { window, .. }) => {
                messages::page(&page, window, user).map(Step::Respond)
            }
            _ => Err(mismatch()),
        },
        Heard::Found(Findings::Admission { known, revoked_at_ms }) => match (tell, known) {
            (Tell::Admission(_), true) => Ok(Step::Known { revoked_at_ms }),
            // The identity provider is the authority on who exists, unless `auth.auto_provision` is off.
            (Tell::Admission(_), false) if auto_provision => Ok(Step::Provision),
            (Tell::Admission(_), false) => {
                Err(Refusal::new(Code::Forbidden, "the user of this token is not known"))
            }
            _ => Err(mismatch()),
        },
        Heard::Found(findings) => found(tell, &findings, user).map(Step::Respond),
    }
}

/// A command is committed.
fn done(tell: &Tell, accepted: &Accepted, user: UserId) -> Result<Step, Refusal> {
    Ok(match tell {
        // Provisioned: no device of somebody new was ever revoked.
        Tell::Admission(_) => Step::Known { revoked_at_ms: 0 },
        Tell::Sent => Step::Respond(messages::sent(accepted)),
        Tell::Changed => Step::Respond(changes::changed(accepted)),
        Tell::Stored => Step::Respond(Response::empty()),
        Tell::Created => {
            let status = if accepted.duplicate { 200 } else { 201 };
            Step::Ask(Ask::Find(Wanted::Conversation(accepted.conversation)), Tell::Conversation(status))
        }
        Tell::UserCreated => Step::Ask(Ask::Find(Wanted::User(UserId(accepted.id))), Tell::User(201)),
        Tell::Renamed => Step::Ask(Ask::Find(Wanted::User(user)), Tell::User(200)),
        _ => return Err(mismatch()),
    })
}

/// Something was looked up.
fn found(tell: &Tell, findings: &Findings, user: UserId) -> Result<Response, Refusal> {
    match (tell, findings) {
        (Tell::Conversations { below }, Findings::Conversations { conversations, more }) => {
            conversations::page(conversations, *more, *below, user)
        }
        (Tell::Conversation(status), Findings::Conversations { conversations, .. }) => {
            let conversation = conversations.first().ok_or_else(mismatch)?;
            conversations::object(*status, conversation, user)
        }
        (Tell::Members, Findings::Members { members, more }) => members::page(members, *more),
        (Tell::Receipts, Findings::Marks(marks)) => Ok(members::marks(marks)),
        (Tell::Receipts, Findings::Counts(counts)) => Ok(members::counts(counts)),
        (Tell::Devices, Findings::Devices(devices)) => Ok(devices::list(devices)),
        (Tell::User(status), Findings::User(view)) => users::object(*status, view, user),
        _ => Err(mismatch()),
    }
}

/// A router's refusal as the client hears it.
fn refusal(refused: Refused) -> Refusal {
    Refusal {
        code: Code::from_number(refused.code),
        message: refused.message.into(),
        field: field_name(&refused.field),
        retry_after_ms: (refused.retry_after_ms != 0).then_some(u64::from(refused.retry_after_ms)),
    }
}

/// A defect: the router answered another question than the one with this number.
pub(super) fn mismatch() -> Refusal {
    Refusal::new(Code::Internal, "the answer could not be read")
}
