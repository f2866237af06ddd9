//! Changes of a conversation's log other than messages: deletions and reactions; and how any of them is answered.

use std::borrow::Cow;

use carillon_protocol::client::{self, check_command};
use carillon_protocol::frame::{Accepted, Change};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::reason::Refusal;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::Fields;
use super::plan::{Call, Plan, mismatch};
use super::response::Response;

/// `DELETE /v1/conversations/{id}/messages/{message_id}`.
pub(super) fn delete(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split_or_none(call.body)?;
    let message = call.path.message()?;
    call.change(&fields, Change::Delete { message })
}

/// `PUT …/reactions/{emoji}`.
pub(super) fn react(call: &Call<'_>) -> Result<Plan, Refusal> {
    reaction(call, true)
}

/// `DELETE …/reactions/{emoji}`.
pub(super) fn unreact(call: &Call<'_>) -> Result<Plan, Refusal> {
    reaction(call, false)
}

/// The same checks as on WebSocket (T7).
fn reaction(call: &Call<'_>, add: bool) -> Result<Plan, Refusal> {
    let fields = Fields::split_or_none(call.body)?;
    let (conversation, message) = (call.path.conversation()?, call.path.message()?);
    let emoji: Cow<'_, str> = call.path.emoji()?;
    let mut command = client::Command::React { conversation, message, emoji, client_msg_id: None, add };
    check_command(&mut command)?;
    let client::Command::React { emoji, .. } = command else { return Err(mismatch()) };
    let emoji = emoji.into_owned();
    let change = if add { Change::React { message, emoji } } else { Change::Unreact { message, emoji } };
    call.change(&fields, change)
}

/// The `ok` of a command that changes a log.
#[derive(Serialize, JsonSchema)]
pub(super) struct Changed {
    conversation_id: ConversationId,
    /// The event that made it so; `null` when there is none.
    seq: Option<Seq>,
    /// Whether an earlier attempt under the same key did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
}

/// It is so now.
pub(super) fn changed(accepted: &Accepted) -> Response {
    let changed = Changed {
        conversation_id: accepted.conversation,
        seq: (accepted.seq != 0).then_some(accepted.seq),
        duplicate: accepted.duplicate.then_some(true),
    };
    Response::json(200, &changed)
}
