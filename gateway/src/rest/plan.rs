//! What a request comes to: a question for the router, and what becomes of the answer. A request may take several such
//! steps: is its user known, do what it wants, read what that made.

use carillon_protocol::client::field_name;
use carillon_protocol::frame::{
    Accepted, Command, Find, Found, LinkFrame, Page, Read, Receipt, Refused, Submit, Wanted,
};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};
use rkyv::util::AlignedVec;

use super::messages::Window;
use super::response::Response;
use super::{RETRY_MS, conversations, messages, users};

/// A request on its way into a handler.
pub(super) struct Call<'a> {
    /// Who, from the token.
    pub(super) user: UserId,
    /// On which device, from the token.
    pub(super) device: &'a str,
    /// What stands at `{…}` of the route's pattern.
    pub(super) parameter: Option<&'a str>,
    /// Behind `?`.
    pub(super) query: &'a str,
    /// `Idempotency-Key`.
    pub(super) idempotency_key: Option<&'a [u8]>,
    /// Within its bound.
    pub(super) body: &'a [u8],
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

    pub(super) fn to_frame(&self, request: u64, user: UserId) -> AlignedVec {
        // Session 0 is REST.
        let session = 0;
        match self {
            Ask::Submit { client_msg_id, command } => {
                let (client_msg_id, command) = (client_msg_id.clone(), command.clone());
                Submit { session, request, user, client_msg_id, command }.to_frame()
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
    /// The user is there, or is made known under the name in the token; then `plan`.
    Admission { name: String, plan: Box<Plan> },
    /// The message's id and seq.
    Sent,
    /// Nothing.
    Receipted,
    /// A page of messages.
    Messages,
    /// A page of conversations.
    Conversations,
    /// The conversation, which is read next.
    Created,
    /// A conversation, with this status.
    Conversation(u16),
    /// The user, who is read next.
    UserCreated,
    /// A user, with this status.
    User(u16),
}

/// An answer.
pub(super) enum Heard {
    Accepted(Accepted),
    Refused(Refused),
    NotOwner,
    Page(Page),
    Found(Found),
}

/// What to do about an answer.
pub(super) enum Step {
    Respond(Response),
    Ask(Ask, Tell),
    /// Make the user known; the answer is told as this one was.
    Provision,
    /// The user is known: on to what they want.
    Known,
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
    if let Heard::NotOwner = heard {
        let message = "that is moving to another router; try again";
        return Err(Refusal::new(Code::Unavailable, message).retry_after(RETRY_MS));
    }
    match (tell, heard) {
        (Tell::Admission { .. }, Heard::Refused(refused)) => unknown_user(ask, refused, auto_provision),
        (_, Heard::Refused(refused)) => Err(refusal(refused)),
        (Tell::Admission { .. }, Heard::Found(_) | Heard::Accepted(_)) => Ok(Step::Known),
        (Tell::Sent, Heard::Accepted(accepted)) => Ok(Step::Respond(messages::sent(&accepted))),
        (Tell::Receipted, Heard::Accepted(_)) => Ok(Step::Respond(Response::empty())),
        (Tell::Messages, Heard::Page(page)) => {
            let Ask::Messages { window, .. } = ask else { return Err(mismatch()) };
            messages::page(&page, window, user).map(Step::Respond)
        }
        (Tell::Conversations, Heard::Found(found)) => conversations::page(&found, user).map(Step::Respond),
        (Tell::Created, Heard::Accepted(accepted)) => {
            let status = if accepted.duplicate { 200 } else { 201 };
            Ok(Step::Ask(Ask::Find(Wanted::Conversation(accepted.conversation)), Tell::Conversation(status)))
        }
        (Tell::Conversation(status), Heard::Found(found)) => {
            conversations::object(*status, &found, user).map(Step::Respond)
        }
        (Tell::UserCreated, Heard::Accepted(accepted)) => {
            Ok(Step::Ask(Ask::Find(Wanted::User(UserId(accepted.id))), Tell::User(201)))
        }
        (Tell::User(status), Heard::Found(found)) => users::object(*status, &found).map(Step::Respond),
        _ => Err(mismatch()),
    }
}

/// The identity provider is the authority on who exists, unless `auth.auto_provision` is off.
fn unknown_user(ask: &Ask, refused: Refused, auto_provision: bool) -> Result<Step, Refusal> {
    let is_unknown = matches!(ask, Ask::Find(_)) && Code::from_number(refused.code) == Code::NotFound;
    match (is_unknown, auto_provision) {
        (true, true) => Ok(Step::Provision),
        (true, false) => Err(Refusal::new(Code::Forbidden, "the user of this token is not known")),
        (false, _) => Err(refusal(refused)),
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
