//! A user's own devices: which there are, no longer trusting one, and where its notifications go.

use carillon_protocol::frame::{Command, DeviceView, Wanted};
use carillon_protocol::limits::PUSH_TOKEN_BYTES_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::Platform;
use carillon_protocol::time::WallMs;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{Fields, required};
use super::plan::{Ask, Call, Plan, Tell};
use super::response::Response;

/// `GET /v1/devices`.
pub(super) fn all(_: &Call<'_>) -> Result<Plan, Refusal> {
    Ok(Plan { ask: Ask::Find(Wanted::Devices), tell: Tell::Devices })
}

/// `DELETE /v1/devices/{device_id}`.
pub(super) fn revoke(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split_or_none(call.body)?;
    let device = call.path.device()?.to_owned();
    call.submit(&fields, Command::Revoke { device }, Tell::Stored)
}

/// `PUT /v1/devices/{device_id}/push_token`.
pub(super) fn set_push_token(call: &Call<'_>) -> Result<Plan, Refusal> {
    let device = call.path.device()?.to_owned();
    let fields = Fields::split(call.body)?;
    let platform: Platform =
        fields.named("platform", "apns, fcm, webpush or webhook")?.ok_or_else(|| required("platform"))?;
    let token = fields.required_text("token")?;
    match token.len() {
        0 => return Err(Refusal::field("token", "token must not be empty")),
        1..=PUSH_TOKEN_BYTES_MAX => {}
        _ => {
            let message = format!("token must be at most {PUSH_TOKEN_BYTES_MAX} bytes");
            return Err(Refusal { code: Code::TooLarge, ..Refusal::field("token", message) });
        }
    }
    let token = Some((platform as u8, token.into_owned()));
    call.submit(&fields, Command::PushToken { device, token }, Tell::Stored)
}

/// `DELETE /v1/devices/{device_id}/push_token`.
pub(super) fn clear_push_token(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split_or_none(call.body)?;
    let device = call.path.device()?.to_owned();
    call.submit(&fields, Command::PushToken { device, token: None }, Tell::Stored)
}

/// A device of one's own.
#[derive(Serialize, JsonSchema)]
pub(super) struct Device<'a> {
    device_id: &'a str,
    /// When it was last connected; `null`: never yet for long enough to be seen.
    last_seen_at: Option<WallMs>,
    /// Visible events of all conversations that it did not confirm.
    cursor_lag: u64,
}

/// One's own devices.
#[derive(Serialize, JsonSchema)]
pub(super) struct Devices<'a> {
    devices: Vec<Device<'a>>,
}

/// The list.
pub(super) fn list(views: &[DeviceView]) -> Response {
    let devices = views.iter().map(|view| Device {
        device_id: &view.device,
        last_seen_at: (view.last_seen_at_ms != 0).then_some(WallMs(view.last_seen_at_ms)),
        cursor_lag: view.cursor_lag,
    });
    Response::json(200, &Devices { devices: devices.collect() })
}
