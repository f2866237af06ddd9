//! What is wrong with a client's frame, and what the client is told: one table for JSON, where most ways to be wrong
//! exist, and one of commands that are wrong in either encoding alike. They hold F22, the security rules for rkyv and
//! JSON, and the errors of protocol.md.

use std::borrow::Cow;

use carillon_protocol::client::{Command, FrameId, Incoming, SendMessage, binary, json};
use carillon_protocol::framing;
use carillon_protocol::ids::{ConversationId, ID_MAX, MessageId, SEQ_MAX, UserId};
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, CURSORS_MAX, EMOJI_BYTES_MAX, FRAME_BYTES_DEFAULT, MEDIA_URL_BYTES_MAX,
    PRESENCE_IDS_MAX, TOKEN_BYTES_MAX,
};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{Encoding, MessageType};
use rkyv::util::AlignedVec;

const MALFORMED: bool = true;
const FINE: bool = false;

fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut out = AlignedVec::new();
    out.extend_from_slice(bytes);
    out
}

/// The one place where an answer is compared with what was expected.
#[track_caller]
fn check(incoming: &Incoming<'_>, what: &str, code: Code, field: Option<&str>, malformed: bool) {
    let wrong = incoming.command.as_ref().expect_err(what);
    let seen = (wrong.refusal.code, wrong.refusal.field, wrong.malformed);
    assert_eq!(seen, (code, field, malformed), "{what}: {}", wrong.refusal.message);
    assert!(!wrong.refusal.message.is_empty(), "{what}: says nothing");
}

#[test]
fn json_frames_are_refused_by_field() {
    use Code::BadRequest as Bad;
    let send = |rest: &str| format!(r#"{{"type":"send_message","conversation_id":"1","content":"x"{rest}}}"#);
    let sync = |rest: &str| format!(r#"{{"type":"sync","conversation_id":"1"{rest}}}"#);
    let users = |ids: &str| format!(r#"{{"type":"presence_subscribe","user_ids":{ids}}}"#);
    let react = |rest: &str| format!(r#"{{"type":"react","conversation_id":"1","message_id":"2",{rest}}}"#);
    let crowd = |count: usize| {
        let ids: Vec<String> = (1..=count).map(|id| format!("\"{id}\"")).collect();
        format!("[{}]", ids.join(","))
    };
    let cursors = |map: &str| format!(r#"{{"type":"identify","cursors":{map}}}"#);
    let deep = |depth: usize| {
        format!(r#"{{"type":"heartbeat","x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
    };
    let many = |count: usize| {
        let entries: Vec<String> = (1..=count).map(|id| format!("\"{id}\":1")).collect();
        cursors(&format!("{{{}}}", entries.join(",")))
    };
    assert!(json::decode(&deep(32)).command.is_ok());
    let alike = r#"{"type":"heartbeat","x":[{"a":1},{"a":{"a":true},"b":1e999},{"x":"a"}]}"#;
    assert!(json::decode(alike).command.is_ok());
    assert!(json::decode(&many(CURSORS_MAX)).command.is_ok());
    assert!(json::decode(&users(&crowd(PRESENCE_IDS_MAX))).command.is_ok());
    let longest = format!(r#""emoji":"{}""#, "\u{1f44d}".repeat(EMOJI_BYTES_MAX / 4));
    assert!(json::decode(&react(&longest)).command.is_ok());

    let table: Vec<(String, Option<&str>)> = vec![
        // Not a frame at all.
        ("".into(), None),
        ("hello".into(), None),
        ("[]".into(), None),
        ("5".into(), None),
        ("null".into(), None),
        ("{\"type\":\"heartbeat\"".into(), None),
        ("{\"type\":\"heartbeat\"} {}".into(), None),
        ("{\"type\":\"heartbeat\",}".into(), None),
        ("{\"type\":\"heartbeat\",\"x\":01}".into(), None),
        ("{\"type\":\"heart\nbeat\"}".into(), None),
        (deep(33), None),
        ("[".repeat(60_000), None),
        // The type.
        ("{}".into(), Some("type")),
        (r#"{"type":null}"#.into(), Some("type")),
        (r#"{"type":5}"#.into(), Some("type")),
        (r#"{"type":"\ud800"}"#.into(), Some("type")),
        // Given twice, also when nobody knows the field.
        (r#"{"type":"heartbeat","type":"heartbeat"}"#.into(), Some("type")),
        (r#"{"type":"heartbeat","ty\u0070e":"bye"}"#.into(), Some("type")),
        (r#"{"type":"heartbeat","x":1,"x":1}"#.into(), None),
        (r#"{"type":"heartbeat","x":1,"y":{"x":1},"\u0078":1}"#.into(), None),
        (r#"{"type":"heartbeat","id":1,"id":1}"#.into(), Some("id")),
        (r#"{"type":"heartbeat","x":{"a":1,"a":2}}"#.into(), None),
        (r#"{"type":"heartbeat","x":[1,{"y":{"b":[],"\u0062":null}}]}"#.into(), None),
        (r#"{"type":"heartbeat","seq":{"a":1,"a":2}}"#.into(), Some("seq")),
        // The id.
        (r#"{"type":"heartbeat","id":true}"#.into(), Some("id")),
        (r#"{"type":"heartbeat","id":1.5}"#.into(), Some("id")),
        (r#"{"type":"heartbeat","id":1e3}"#.into(), Some("id")),
        (r#"{"type":"heartbeat","id":9007199254740993}"#.into(), Some("id")),
        (r#"{"type":"heartbeat","id":-9007199254740993}"#.into(), Some("id")),
        (r#"{"type":"heartbeat","id":[]}"#.into(), Some("id")),
        (format!(r#"{{"type":"heartbeat","id":"{}"}}"#, "x".repeat(65)), Some("id")),
        // send_message.
        (r#"{"type":"send_message","content":"x"}"#.into(), Some("conversation_id")),
        (r#"{"type":"send_message","conversation_id":"1"}"#.into(), Some("content")),
        (r#"{"type":"send_message","conversation_id":1,"content":"x"}"#.into(), Some("conversation_id")),
        (r#"{"type":"send_message","conversation_id":"01","content":"x"}"#.into(), Some("conversation_id")),
        (r#"{"type":"send_message","conversation_id":"0","content":"x"}"#.into(), Some("conversation_id")),
        (r#"{"type":"send_message","conversation_id":"-1","content":"x"}"#.into(), Some("conversation_id")),
        (r#"{"type":"send_message","conversation_id":"1","content":5}"#.into(), Some("content")),
        (r#"{"type":"send_message","conversation_id":"1","content":""}"#.into(), Some("content")),
        (r#"{"type":"send_message","conversation_id":"1","content":"\udc00"}"#.into(), Some("content")),
        (send(r#","message_type":"voice""#), Some("message_type")),
        (send(r#","message_type":0"#), Some("message_type")),
        (send(r#","encoding":"base64""#), Some("encoding")),
        (send(r#","encoding":"opaque""#), Some("content")),
        (send(r#","media_url":"""#), Some("media_url")),
        (send(r#","media_url":{}"#), Some("media_url")),
        (send(r#","client_msg_id":"""#), Some("client_msg_id")),
        (send(r#","client_msg_id":7"#), Some("client_msg_id")),
        (send(&format!(r#","client_msg_id":"{}é""#, "x".repeat(63))), Some("client_msg_id")),
        (send(r#","reply_to":12"#), Some("reply_to")),
        (send(r#","reply_to":"9223372036854775808""#), Some("reply_to")),
        // Watermarks and sync.
        (r#"{"type":"delivered","conversation_id":"1"}"#.into(), Some("seq")),
        (r#"{"type":"delivered","conversation_id":"1","seq":0}"#.into(), Some("seq")),
        (r#"{"type":"read","conversation_id":"1","seq":-1}"#.into(), Some("seq")),
        (r#"{"type":"read","conversation_id":"1","seq":-0}"#.into(), Some("seq")),
        (r#"{"type":"read","conversation_id":"1","seq":1.0}"#.into(), Some("seq")),
        (r#"{"type":"read","conversation_id":"1","seq":"1"}"#.into(), Some("seq")),
        (r#"{"type":"read","conversation_id":"1","seq":9223372036854775808}"#.into(), Some("seq")),
        (r#"{"type":"read","conversation_id":"1","seq":99999999999999999999}"#.into(), Some("seq")),
        (r#"{"type":"read","seq":1}"#.into(), Some("conversation_id")),
        (sync(""), Some("from_seq")),
        (sync(r#","from_seq":0"#), Some("from_seq")),
        (sync(r#","from_seq":1,"limit":"10""#), Some("limit")),
        (sync(r#","from_seq":1,"limit":true"#), Some("limit")),
        // typing.
        (r#"{"type":"typing","state":"start"}"#.into(), Some("conversation_id")),
        (r#"{"type":"typing","conversation_id":"1"}"#.into(), Some("state")),
        (r#"{"type":"typing","conversation_id":"1","state":null}"#.into(), Some("state")),
        (r#"{"type":"typing","conversation_id":"1","state":"started"}"#.into(), Some("state")),
        (r#"{"type":"typing","conversation_id":"1","state":"Start"}"#.into(), Some("state")),
        (r#"{"type":"typing","conversation_id":"1","state":true}"#.into(), Some("state")),
        (r#"{"type":"typing","conversation_id":1,"state":"stop"}"#.into(), Some("conversation_id")),
        // Presence.
        (r#"{"type":"presence_subscribe"}"#.into(), Some("user_ids")),
        (users("null"), Some("user_ids")),
        (users("[]"), Some("user_ids")),
        (users("\"1\""), Some("user_ids")),
        (users("[1]"), Some("user_ids")),
        (users("[\"1\",2]"), Some("user_ids")),
        (users("[\"0\"]"), Some("user_ids")),
        (users("[\"01\"]"), Some("user_ids")),
        (users("[\"9223372036854775808\"]"), Some("user_ids")),
        (users("[null]"), Some("user_ids")),
        (users("[[\"1\"]]"), Some("user_ids")),
        (users("{\"1\":1}"), Some("user_ids")),
        (users(&crowd(PRESENCE_IDS_MAX + 1)), Some("user_ids")),
        // Not repeated by being the same: the bound is on what was sent.
        (users(&format!("[{}\"1\"]", "\"1\",".repeat(PRESENCE_IDS_MAX))), Some("user_ids")),
        (r#"{"type":"presence_unsubscribe","user_ids":[]}"#.into(), Some("user_ids")),
        // Deletions and reactions.
        (r#"{"type":"delete_message","message_id":"2"}"#.into(), Some("conversation_id")),
        (r#"{"type":"delete_message","conversation_id":"1"}"#.into(), Some("message_id")),
        (r#"{"type":"delete_message","conversation_id":"1","message_id":2}"#.into(), Some("message_id")),
        (r#"{"type":"delete_message","conversation_id":"1","message_id":"-2"}"#.into(), Some("message_id")),
        (react(r#""emoji":"x","client_msg_id":"""#), Some("client_msg_id")),
        (react(r#""emoji":"x","client_msg_id":5"#), Some("client_msg_id")),
        (react(r#""emoji":null"#), Some("emoji")),
        (react(r#""emoji":"""#), Some("emoji")),
        (react(r#""emoji":128077"#), Some("emoji")),
        (react(r#""emoji":["x"]"#), Some("emoji")),
        (react(r#""emoji":"\ud83d""#), Some("emoji")),
        (react(r#""emoji":"\u0000""#), Some("emoji")),
        (react(r#""emoji":"a\nb""#), Some("emoji")),
        (react(r#""emoji":"\u0085""#), Some("emoji")),
        (react(&format!(r#""emoji":"{}""#, "x".repeat(EMOJI_BYTES_MAX + 1))), Some("emoji")),
        (react(&format!(r#""emoji":"x{}""#, "\u{1f44d}".repeat(16))), Some("emoji")),
        (r#"{"type":"unreact","conversation_id":"1","emoji":"x"}"#.into(), Some("message_id")),
        (r#"{"type":"unreact","conversation_id":"1","message_id":"2"}"#.into(), Some("emoji")),
        // identify and refresh_token.
        (r#"{"type":"identify","token":5}"#.into(), Some("token")),
        (r#"{"type":"refresh_token"}"#.into(), Some("token")),
        (cursors("[]"), Some("cursors")),
        (cursors("\"x\""), Some("cursors")),
        (cursors(r#"{"01":1}"#), Some("cursors")),
        (cursors(r#"{"x":1}"#), Some("cursors")),
        (cursors(r#"{"1":"1"}"#), Some("cursors")),
        (cursors(r#"{"1":-1}"#), Some("cursors")),
        (cursors(r#"{"1":null}"#), Some("cursors")),
        (cursors(r#"{"1":1,"2":1,"1":1}"#), Some("cursors")),
        (many(CURSORS_MAX + 1), Some("cursors")),
    ];
    for (text, field) in &table {
        let what: String = text.chars().take(120).collect();
        check(&json::decode(text), &what, Bad, *field, MALFORMED);
    }
}

#[test]
fn types_that_are_not_served_are_refused_without_a_mark() {
    for name in [
        "dance",
        "",
        // What only servers say.
        "presence",
        "message_deleted",
        "Typing",
    ] {
        let text = format!(r#"{{"type":"{name}","id":"7","content":5}}"#);
        let incoming = json::decode(&text);
        check(&incoming, name, Code::BadRequest, Some("type"), FINE);
        assert_eq!(incoming.id, Some(FrameId::Text("7".into())), "the id is echoed");
    }
    let mut out = AlignedVec::new();
    for kind in [0_u16, 0x0f, 0x40, 0x100, 0xffff] {
        framing::append(&mut out, kind, &1_u64);
    }
    let seen: Vec<Incoming<'_>> = binary::decode(&out).collect();
    assert_eq!(seen.len(), 5, "each is refused by itself");
    for incoming in &seen {
        check(incoming, "kind", Code::BadRequest, Some("type"), FINE);
    }
}

/// Each id once, in the order of their first mention, from either encoding.
#[test]
fn repeated_users_are_merged() {
    let users = [5, 3, 5, 9, 3].map(UserId).to_vec();
    let expected = Ok(Command::PresenceSubscribe { users: [5, 3, 9].map(UserId).to_vec() });
    let text = r#"{"type":"presence_subscribe","user_ids":["5","3","5","9","3"]}"#;
    assert_eq!(json::decode(text).command, expected);
    let mut message = AlignedVec::new();
    binary::encode_command(None, &Command::PresenceSubscribe { users }, &mut message);
    assert_eq!(binary::decode(&message).next().unwrap().command, expected);
}

/// The two states have numbers in binary frames; another number names its field.
#[test]
fn a_typing_state_of_another_number_is_refused() {
    let mut command = AlignedVec::new();
    let typing = Command::Typing { conversation: ConversationId(u64::MAX >> 1), start: true };
    binary::encode_command(None, &typing, &mut command);
    let mut refused = Vec::new();
    for place in command.iter().enumerate().filter(|(_, byte)| **byte == 1).map(|(place, _)| place) {
        let mut changed = aligned(&command);
        changed[place] = 2;
        if let Some(Incoming { command: Err(wrong), .. }) = binary::decode(&changed).next() {
            refused.extend(wrong.refusal.field);
        }
    }
    assert!(refused.contains(&"state"), "{refused:?}");
}

#[test]
fn what_a_type_does_not_need_is_not_looked_at() {
    let text = r#"{"type":"heartbeat","seq":"x","content":"\ud800","cursors":[1],"new":{"a":[{}]},"id":-3}"#;
    let incoming = json::decode(text);
    assert_eq!(incoming, Incoming { id: Some(FrameId::Number(-3)), command: Ok(Command::Heartbeat) });
    let text = r#"{"id":null,"content":"x","media_url":null,"encoding":null,"message_type":null,"reply_to":null,
        "client_msg_id":null,"conversation_id":"9","type":"send_message"}"#;
    let expected = SendMessage { conversation: ConversationId(9), ..message() };
    assert_eq!(json::decode(text), Incoming { id: None, command: Ok(Command::SendMessage(expected)) });
}

#[test]
fn the_id_is_echoed_as_far_as_it_can_be_read() {
    for (text, id) in [
        (r#"{"type":"send_message","id":9007199254740992}"#, Some(FrameId::Number(1 << 53))),
        (r#"{"type":"send_message","id":-0}"#, Some(FrameId::Number(0))),
        (r#"{"id":"","type":7}"#, Some(FrameId::Text("".into()))),
        (r#"{"id":"a\u00e9","x":1,"x":2}"#, Some(FrameId::Text("aé".into()))),
        (r#"{"id":"a""#, None),
    ] {
        let incoming = json::decode(text);
        assert!(incoming.command.is_err(), "{text}");
        assert_eq!(incoming.id, id, "{text}");
    }
}

#[test]
fn sync_limit_is_clamped_and_never_refused_as_a_number() {
    for (limit, expected) in [
        ("0", 1),
        ("-7", 1),
        ("1", 1),
        ("10.9", 10),
        ("200", 200),
        ("201", 200),
        ("1e9", 200),
        ("18446744073709551616", 200),
        ("null", 200),
    ] {
        let text = format!(r#"{{"type":"sync","conversation_id":"1","from_seq":1,"limit":{limit}}}"#);
        let Ok(Command::Sync { limit: seen, .. }) = json::decode(&text).command else { panic!("{text}") };
        assert_eq!(seen, expected, "{text}");
    }
}

fn message() -> SendMessage<'static> {
    SendMessage {
        conversation: ConversationId(1),
        content: Cow::Borrowed("x"),
        message_type: MessageType::Text,
        encoding: Encoding::Utf8,
        media_url: None,
        client_msg_id: None,
        reply_to: None,
    }
}

/// Encoders write what they are given, so a bad command can be had in both encodings.
#[test]
fn both_encodings_refuse_a_bad_command_alike() {
    use Code::{BadRequest as Bad, TooLarge};
    let long = |bytes: usize| Some(Cow::Owned("x".repeat(bytes)));
    let send = |change: &dyn Fn(&mut SendMessage<'static>)| {
        let mut message = message();
        change(&mut message);
        Command::SendMessage(message)
    };
    let sync = |conversation, from_seq| Command::Sync {
        conversation: ConversationId(conversation),
        from_seq,
        limit: 5,
    };
    let identify = |cursors| Command::Identify { token: None, cursors };
    let subscribe =
        |ids: Vec<u64>| Command::PresenceSubscribe { users: ids.into_iter().map(UserId).collect() };
    let delete = |conversation, message, client_msg_id| Command::DeleteMessage {
        conversation: ConversationId(conversation),
        message: MessageId(message),
        client_msg_id,
    };
    let react = |conversation, message, emoji: &str, add| Command::React {
        conversation: ConversationId(conversation),
        message: MessageId(message),
        emoji: emoji.to_owned().into(),
        client_msg_id: None,
        add,
    };
    let too_long = "x".repeat(EMOJI_BYTES_MAX + 1);
    let cursor = |conversation, seq| (ConversationId(conversation), seq);
    let opaque = |content: &'static str| {
        send(&|message| {
            message.encoding = Encoding::Opaque;
            message.content = Cow::Borrowed(content);
        })
    };
    let table = [
        (send(&|message| message.conversation = ConversationId(0)), Bad, "conversation_id", MALFORMED),
        (
            send(&|message| message.conversation = ConversationId(ID_MAX + 1)),
            Bad,
            "conversation_id",
            MALFORMED,
        ),
        (send(&|message| message.content = Cow::Borrowed("")), Bad, "content", MALFORMED),
        (send(&|m| m.content = long(CONTENT_BYTES_MAX + 1).unwrap()), TooLarge, "content", FINE),
        (opaque("abc"), Bad, "content", MALFORMED),
        (opaque("ab-_"), Bad, "content", MALFORMED),
        (send(&|message| message.media_url = long(0)), Bad, "media_url", MALFORMED),
        (send(&|message| message.media_url = long(MEDIA_URL_BYTES_MAX + 1)), TooLarge, "media_url", FINE),
        (send(&|message| message.client_msg_id = long(0)), Bad, "client_msg_id", MALFORMED),
        (send(&|message| message.client_msg_id = long(65)), Bad, "client_msg_id", MALFORMED),
        (send(&|message| message.reply_to = Some(MessageId(0))), Bad, "reply_to", MALFORMED),
        (Command::Typing { conversation: ConversationId(0), start: true }, Bad, "conversation_id", MALFORMED),
        (subscribe(vec![]), Bad, "user_ids", MALFORMED),
        (subscribe(vec![1, 0]), Bad, "user_ids", MALFORMED),
        (subscribe(vec![ID_MAX + 1]), Bad, "user_ids", MALFORMED),
        (subscribe((1..=PRESENCE_IDS_MAX as u64 + 1).collect()), Bad, "user_ids", MALFORMED),
        (Command::PresenceUnsubscribe { users: Vec::new() }, Bad, "user_ids", MALFORMED),
        (delete(0, 1, None), Bad, "conversation_id", MALFORMED),
        (delete(1, 0, None), Bad, "message_id", MALFORMED),
        (delete(1, ID_MAX + 1, None), Bad, "message_id", MALFORMED),
        (delete(1, 1, long(0)), Bad, "client_msg_id", MALFORMED),
        (delete(1, 1, long(65)), Bad, "client_msg_id", MALFORMED),
        (react(0, 1, "x", true), Bad, "conversation_id", MALFORMED),
        (react(1, 0, "x", false), Bad, "message_id", MALFORMED),
        (react(1, 1, "", true), Bad, "emoji", MALFORMED),
        (react(1, 1, "a\tb", true), Bad, "emoji", MALFORMED),
        (react(1, 1, &too_long, false), Bad, "emoji", MALFORMED),
        (sync(0, 1), Bad, "conversation_id", MALFORMED),
        (sync(1, 0), Bad, "from_seq", MALFORMED),
        (sync(1, u64::MAX), Bad, "from_seq", MALFORMED),
        (Command::Delivered { conversation: ConversationId(1), seq: 0 }, Bad, "seq", MALFORMED),
        (Command::Read { conversation: ConversationId(1), seq: SEQ_MAX + 1 }, Bad, "seq", MALFORMED),
        (Command::RefreshToken { token: long(TOKEN_BYTES_MAX + 1).unwrap() }, TooLarge, "token", FINE),
        (
            Command::Identify { token: long(TOKEN_BYTES_MAX + 1), cursors: Vec::new() },
            TooLarge,
            "token",
            FINE,
        ),
        (identify(vec![cursor(0, 1)]), Bad, "cursors", MALFORMED),
        (identify(vec![cursor(3, 1), cursor(2, 0), cursor(3, 9)]), Bad, "cursors", MALFORMED),
        (identify(vec![cursor(1, SEQ_MAX + 1)]), Bad, "cursors", MALFORMED),
        (identify((1..=CURSORS_MAX as u64 + 1).map(|id| cursor(id, 1)).collect()), Bad, "cursors", MALFORMED),
    ];
    let id = FrameId::Number(5);
    for (command, code, field, malformed) in table {
        let what = format!("{command:.80?}");
        let mut text = Vec::new();
        json::encode_command(Some(&id), &command, &mut text);
        let text = String::from_utf8(text).unwrap();
        let of_json = json::decode(&text);
        check(&of_json, &what, code, Some(field), malformed);
        let mut message = AlignedVec::new();
        binary::encode_command(Some(&id), &command, &mut message);
        let of_binary: Vec<Incoming<'_>> = binary::decode(&message).collect();
        assert_eq!(of_binary, [of_json], "{what}");
    }
    for id in [FrameId::Number((1 << 53) + 1), FrameId::Text("x".repeat(65).into())] {
        let mut message = AlignedVec::new();
        binary::encode_command(Some(&id), &Command::Bye, &mut message);
        check(&binary::decode(&message).next().unwrap(), "id", Code::BadRequest, Some("id"), MALFORMED);
    }
}

#[test]
fn binary_headers_are_refused_and_end_the_message() {
    let mut good = AlignedVec::new();
    binary::encode_command(None, &Command::Heartbeat, &mut good);
    let with = |head: [u8; 8]| {
        let mut message = good.clone();
        message.extend_from_slice(&head);
        message.extend_from_slice(&good);
        message
    };
    let too_long = u32::try_from(FRAME_BYTES_DEFAULT + 1).unwrap().to_le_bytes();
    let [l0, l1, l2, l3] = too_long;
    for (head, code) in [
        ([2, 0, 7, 0, 8, 0, 0, 0], Code::BadRequest),
        ([1, 1, 7, 0, 8, 0, 0, 0], Code::BadRequest),
        ([1, 0, 7, 0, 0, 1, 0, 0], Code::BadRequest),
        ([1, 0, 7, 0, l0, l1, l2, l3], Code::TooLarge),
        ([1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff], Code::TooLarge),
    ] {
        let message = with(head);
        let seen: Vec<Incoming<'_>> = binary::decode(&message).collect();
        assert_eq!(seen.len(), 2, "{head:?}: the good frame before it, and the refusal");
        assert_eq!(seen[0].command, Ok(Command::Heartbeat));
        check(&seen[1], "header", code, None, MALFORMED);
    }
    let none: Vec<Incoming<'_>> = binary::decode(&[]).collect();
    assert_eq!(none.len(), 1);
    check(&none[0], "an empty message", Code::BadRequest, None, MALFORMED);
}

#[test]
fn a_broken_archive_costs_only_itself() {
    let mut message = AlignedVec::new();
    framing::append(&mut message, binary::Kind::SendMessage as u16, &1_u64);
    binary::encode_command(Some(&FrameId::Number(1)), &Command::Heartbeat, &mut message);
    let seen: Vec<Incoming<'_>> = binary::decode(&message).collect();
    assert_eq!(seen.len(), 2);
    check(&seen[0], "archive", Code::BadRequest, None, MALFORMED);
    assert_eq!(seen[1], Incoming { id: Some(FrameId::Number(1)), command: Ok(Command::Heartbeat) });

    let mut command = AlignedVec::new();
    binary::encode_command(None, &Command::SendMessage(message_with_kinds()), &mut command);
    let file = MessageType::File as u8;
    let places = command.iter().enumerate().filter(|(_, byte)| **byte == file).map(|(place, _)| place);
    let mut refused = Vec::new();
    for place in places {
        let mut changed = aligned(&command);
        changed[place] = 0x7f;
        if let Some(Incoming { command: Err(wrong), .. }) = binary::decode(&changed).next() {
            refused.extend(wrong.refusal.field);
        }
    }
    assert!(refused.contains(&"message_type"), "a number of no type names its field: {refused:?}");
}

fn message_with_kinds() -> SendMessage<'static> {
    SendMessage { message_type: MessageType::File, ..message() }
}

#[test]
fn a_message_that_is_not_aligned_is_refused() {
    let mut good = AlignedVec::new();
    binary::encode_command(None, &Command::Heartbeat, &mut good);
    let mut shifted = aligned(&[0; 4]);
    shifted.extend_from_slice(&good);
    let seen: Vec<Incoming<'_>> = binary::decode(&shifted[4..]).collect();
    assert_eq!(seen.len(), 1);
    check(&seen[0], "alignment", Code::BadRequest, None, MALFORMED);
}
