//! Client frames in JSON, both ways, beside `serde_json`: the input is the text of one frame.

use carillon_protocol::client::{Command, FrameId, Incoming, ServerFrame, check_command, json};
use carillon_protocol::limits::JSON_DEPTH_MAX;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::{Reached, Target};

/// See [`crate::TARGETS`].
pub const TARGET: Target = Target {
    name: "client_json",
    run,
    outcomes: &[
        "identify",
        "send_message",
        "delivered",
        "read",
        "sync",
        "typing",
        "presence_subscribe",
        "presence_unsubscribe",
        "delete_message",
        "react",
        "unreact",
        "refresh_token",
        "heartbeat",
        "bye",
        "refused",
        "unknown type",
        "too deep",
        "not JSON",
        "of a server",
    ],
};

fn run(data: &[u8], reached: &mut Reached) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let incoming = json::decode(text);
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match &incoming.command {
        Ok(command) => {
            assert!(is_json, "what is not JSON is no command");
            assert!(depth(text) <= JSON_DEPTH_MAX, "what nests too deep is no command");
            sound(&incoming, command);
            says_the_same(text, &incoming, command);
            reached.meet(name(command));
        }
        Err(wrong) if !is_json => {
            assert!(wrong.malformed);
            reached.meet("not JSON");
        }
        Err(wrong) => {
            reached.meet(match wrong.malformed {
                _ if depth(text) > JSON_DEPTH_MAX => "too deep",
                true => "refused",
                false => "unknown type",
            });
        }
    }
    if is_json {
        assert_eq!(json::is_too_deep(data), depth(text) > JSON_DEPTH_MAX);
    }
    if let Ok(frame) = json::decode_server(text) {
        reached.meet("of a server");
        let written = of_server(&frame);
        assert_eq!(json::decode_server(&written), Ok(frame), "{written}");
    }
}

/// A command that was let through is within every bound, and comes back when it is written.
fn sound(incoming: &Incoming<'_>, command: &Command<'_>) {
    let mut checked = command.clone();
    assert_eq!(check_command(&mut checked), Ok(()));
    assert_eq!(checked, *command, "it is in its one form");
    let written = of_command(incoming.id.as_ref(), command);
    assert_eq!(json::decode(&written), *incoming, "{written}");
}

/// What we took from the text is what `serde_json` finds there.
fn says_the_same(text: &str, incoming: &Incoming<'_>, command: &Command<'_>) {
    // It refuses numbers that no double holds and halves of surrogate pairs, also where we need not look.
    let Ok(Value::Object(theirs)) = serde_json::from_str(text) else { return };
    let Ok(Value::Object(ours)) = serde_json::from_str(&of_command(incoming.id.as_ref(), command)) else {
        panic!("we write what is not JSON");
    };
    for (field, value) in &ours {
        let found = theirs.get(field).unwrap_or(&Value::Null);
        let is_same = match field.as_str() {
            // Clamped, or filled in.
            "limit" => true,
            // Of each user the first.
            "user_ids" => value
                .as_array()
                .into_iter()
                .flatten()
                .all(|id| found.as_array().is_some_and(|ids| ids.contains(id))),
            // A zero that was written with a sign is zero.
            "id" if *value == 0 => found.as_f64() == Some(0.0),
            _ => found == value,
        };
        assert!(is_same, "{field}: {found} in the text, {value} to us");
    }
}

fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        if in_text {
            (escaped, in_text) = (byte == b'\\' && !escaped, byte != b'"' || escaped);
        } else if byte == b'"' {
            in_text = true;
        } else if matches!(byte, b'{' | b'[') {
            depth += 1;
            deepest = deepest.max(depth);
        } else if matches!(byte, b'}' | b']') {
            depth = depth.saturating_sub(1);
        }
    }
    deepest
}

pub(crate) fn of_command(id: Option<&FrameId>, command: &Command<'_>) -> String {
    let mut out = Vec::new();
    json::encode_command(id, command, &mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

pub(crate) fn of_server(frame: &ServerFrame<'_>) -> String {
    let mut out = Vec::new();
    json::encode(frame, &mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

pub(crate) const fn name(command: &Command<'_>) -> &'static str {
    match command {
        Command::Identify { .. } => "identify",
        Command::SendMessage(_) => "send_message",
        Command::Delivered { .. } => "delivered",
        Command::Read { .. } => "read",
        Command::Sync { .. } => "sync",
        Command::Typing { .. } => "typing",
        Command::PresenceSubscribe { .. } => "presence_subscribe",
        Command::PresenceUnsubscribe { .. } => "presence_unsubscribe",
        Command::DeleteMessage { .. } => "delete_message",
        Command::React { add: true, .. } => "react",
        Command::React { add: false, .. } => "unreact",
        Command::RefreshToken { .. } => "refresh_token",
        Command::Heartbeat => "heartbeat",
        Command::Bye => "bye",
    }
}
