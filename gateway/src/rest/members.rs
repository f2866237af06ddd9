//! Members of a conversation: who they are, how they come and go, and how far they got.

use carillon_protocol::client::json::shape;
use carillon_protocol::client::{ReceiptsView, check_command};
use carillon_protocol::frame::{Change, Counts, Mark, MemberView, Wanted};
use carillon_protocol::ids::{Seq, UserId};
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::Role;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{Fields, required};
use super::cursor::{self, Cursor};
use super::messages;
use super::plan::{Ask, Call, Plan, Tell, mismatch};
use super::query::Query;
use super::response::Response;

/// `GET /v1/conversations/{id}/members`.
pub(super) fn list(call: &Call<'_>) -> Result<Plan, Refusal> {
    let conversation = call.path.conversation()?;
    let query = Query::new(call.query);
    let limit = query.limit()?;
    let after = match query.text("cursor")? {
        None => UserId(0),
        Some(text) => match Cursor::parse(&text)? {
            Cursor::Members(user) => UserId(user),
            _ => return Err(cursor::wrong()),
        },
    };
    Ok(Plan { ask: Ask::Find(Wanted::Members { conversation, after, limit }), tell: Tell::Members })
}

/// `POST /v1/conversations/{id}/members`.
pub(super) fn add(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    let mut users = fields.required_users("user_ids")?;
    users.sort_unstable();
    users.dedup();
    if users.is_empty() {
        return Err(Refusal::field("user_ids", "user_ids must name somebody"));
    }
    call.change(&fields, Change::AddMembers { users })
}

/// `DELETE /v1/conversations/{id}/members/{user_id}`.
pub(super) fn remove(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split_or_none(call.body)?;
    let user = call.path.user()?;
    call.change(&fields, Change::RemoveMember { user })
}

/// `PATCH /v1/conversations/{id}/members/{user_id}`.
pub(super) fn set_role(call: &Call<'_>) -> Result<Plan, Refusal> {
    let user = call.path.user()?;
    let fields = Fields::split(call.body)?;
    let role: Role = fields.named("role", "member or admin")?.ok_or_else(|| required("role"))?;
    if role == Role::Owner {
        return Err(Refusal::field("role", "role must be member or admin: who owns a group stays its owner"));
    }
    call.change(&fields, Change::SetRole { user, role: role as u8 })
}

/// `GET /v1/conversations/{id}/receipts`.
pub(super) fn receipts(call: &Call<'_>) -> Result<Plan, Refusal> {
    let conversation = call.path.conversation()?;
    let seq: Option<Seq> = Query::new(call.query).seq("seq")?;
    if let Some(seq) = seq {
        check_command(&mut carillon_protocol::client::Command::Read { conversation, seq })?;
    }
    let wanted = Wanted::Receipts { conversation, seq: seq.unwrap_or(0) };
    Ok(Plan { ask: Ask::Find(wanted), tell: Tell::Receipts })
}

/// A member, in `GET …/members`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Member {
    user_id: UserId,
    role: Role,
    /// The event by which they are one.
    joined_seq: Seq,
}

/// A page of members, ascending.
#[derive(Serialize, JsonSchema)]
pub(super) struct Members {
    members: Vec<Member>,
    next_cursor: Option<String>,
}

/// A page of members.
pub(super) fn page(views: &[MemberView], more: bool) -> Result<Response, Refusal> {
    let member = |view: &MemberView| {
        let role = Role::from_number(view.role).ok_or_else(mismatch)?;
        Ok(Member { user_id: view.user, role, joined_seq: view.joined_seq })
    };
    let members = views.iter().map(member).collect::<Result<Vec<_>, Refusal>>()?;
    let last = views.last().filter(|_| more);
    let next_cursor = last.map(|view| Cursor::Members(view.user.0).to_text());
    Ok(Response::json(200, &Members { members, next_cursor }))
}

/// How far each member got, in small groups.
pub(super) fn marks(marks: &[Mark]) -> Response {
    respond(&ReceiptsView::Each(messages::receipts(marks)))
}

/// How many got so far, in larger ones.
pub(super) fn counts(counts: &Counts) -> Response {
    respond(&ReceiptsView::Counted { delivered_count: counts.delivered_count, read_count: counts.read_count })
}

fn respond(view: &ReceiptsView) -> Response {
    Response::json(200, &shape::Receipts::from(view))
}
