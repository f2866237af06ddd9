//! Users: looking one up, and creating one without waiting for a first log-in.

use carillon_protocol::frame::{Command, Found, Wanted};
use carillon_protocol::ids::UserId;
use carillon_protocol::limits::USERNAME_BYTES_MAX;
use carillon_protocol::reason::Refusal;
use carillon_protocol::time::WallMs;
use serde::Serialize;

use super::body::{Fields, required};
use super::plan::{Ask, Call, Plan, Tell, mismatch};
use super::query::{self, Query};
use super::response::Response;

/// `POST /v1/users`.
pub(super) fn create(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    let user = fields.id("user_id")?.map(UserId);
    let username = fields.required_text("username")?.into_owned();
    if !(1..=USERNAME_BYTES_MAX).contains(&username.len()) || username.chars().any(char::is_control) {
        let message = format!("username must be 1 to {USERNAME_BYTES_MAX} bytes without control characters");
        return Err(Refusal::field("username", message));
    }
    let command = Command::CreateUser { user, username };
    Ok(Plan { ask: Ask::Submit { client_msg_id: String::new(), command }, tell: Tell::UserCreated })
}

/// `GET /v1/users/{id}`.
pub(super) fn one(call: &Call<'_>) -> Result<Plan, Refusal> {
    let user = query::user(call.parameter)?;
    Ok(Plan { ask: Ask::Find(Wanted::User(user)), tell: Tell::User(200) })
}

/// `GET /v1/users?username=`.
pub(super) fn by_name(call: &Call<'_>) -> Result<Plan, Refusal> {
    let username = Query::new(call.query).text("username")?.ok_or_else(|| required("username"))?;
    // No such user, whatever is asked: a longer name is not carried to the router only to hear that.
    if !(1..=USERNAME_BYTES_MAX).contains(&username.len()) {
        return Err(Refusal::field("username", format!("username must be 1 to {USERNAME_BYTES_MAX} bytes")));
    }
    Ok(Plan { ask: Ask::Find(Wanted::Username(username)), tell: Tell::User(200) })
}

#[derive(Serialize)]
struct Object<'a> {
    user_id: UserId,
    username: &'a str,
    created_at: WallMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<WallMs>,
}

/// A user as others see them.
pub(super) fn object(status: u16, found: &Found) -> Result<Response, Refusal> {
    let user = found.users.first().ok_or_else(mismatch)?;
    let object = Object {
        user_id: user.user,
        username: &user.username,
        created_at: WallMs(user.created_at_ms),
        last_seen_at: (user.last_seen_at_ms != 0).then_some(WallMs(user.last_seen_at_ms)),
    };
    Ok(Response::json(status, &object))
}
