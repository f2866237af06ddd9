//! Users: looking one up, renaming oneself, and creating one without waiting for a first log-in.

use carillon_protocol::frame::{Command, UserView, Wanted};
use carillon_protocol::ids::UserId;
use carillon_protocol::limits::USERNAME_BYTES_MAX;
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::Platform;
use carillon_protocol::time::WallMs;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{Fields, required};
use super::plan::{Ask, Call, Plan, Tell, mismatch};
use super::query::Query;
use super::response::Response;

/// `POST /v1/users`.
pub(super) fn create(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    let user = fields.id("user_id")?.map(UserId);
    let command = Command::CreateUser { user, username: username(&fields)? };
    call.submit(&fields, command, Tell::UserCreated)
}

/// `PATCH /v1/users/me`.
pub(super) fn rename(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    call.submit(&fields, Command::Profile { username: username(&fields)? }, Tell::Renamed)
}

fn username(fields: &Fields<'_>) -> Result<String, Refusal> {
    let username = fields.required_text("username")?;
    if (1..=USERNAME_BYTES_MAX).contains(&username.len()) && !username.contains(char::is_control) {
        return Ok(username.into_owned());
    }
    let message = format!("username must be 1 to {USERNAME_BYTES_MAX} bytes without control characters");
    Err(Refusal::field("username", message))
}

/// `GET /v1/users/{id}`.
pub(super) fn one(call: &Call<'_>) -> Result<Plan, Refusal> {
    let user = call.path.user()?;
    Ok(Plan { ask: Ask::Find(Wanted::User(user)), tell: Tell::User(200) })
}

/// `GET /v1/users/me`.
pub(super) fn me(call: &Call<'_>) -> Result<Plan, Refusal> {
    Ok(Plan { ask: Ask::Find(Wanted::User(call.user)), tell: Tell::User(200) })
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

/// A user as others see them, and more of oneself.
#[derive(Serialize, JsonSchema)]
pub(super) struct User<'a> {
    user_id: UserId,
    username: &'a str,
    created_at: WallMs,
    /// When they last went offline, to those who share a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<WallMs>,
    /// Where notifications go; to oneself only.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_tokens: Option<Vec<DeviceToken<'a>>>,
}

/// Where notifications of a device go.
#[derive(Serialize, JsonSchema)]
pub(super) struct DeviceToken<'a> {
    device_id: &'a str,
    platform: Platform,
    token: &'a str,
}

/// A user as `asker` sees them.
pub(super) fn object(status: u16, view: &UserView, asker: UserId) -> Result<Response, Refusal> {
    let mut device_tokens = Vec::new();
    for push_token in &view.push_tokens {
        device_tokens.push(DeviceToken {
            device_id: &push_token.device,
            platform: Platform::from_number(push_token.platform).ok_or_else(mismatch)?,
            token: &push_token.token,
        });
    }
    let user = User {
        user_id: view.user,
        username: &view.username,
        created_at: WallMs(view.created_at_ms),
        last_seen_at: (view.last_seen_at_ms != 0).then_some(WallMs(view.last_seen_at_ms)),
        device_tokens: (view.user == asker).then_some(device_tokens),
    };
    Ok(Response::json(status, &user))
}
