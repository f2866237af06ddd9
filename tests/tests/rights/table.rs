//! Who may do what: every route and every frame, with what each of six is told. The test beside it walks every cell over every
//! transport; an operation that is not in here fails it.

use serde_json::{Value, json};

use crate::place::{ABSENT, Place};

/// Who asks, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// Made the group.
    Owner,
    /// A member.
    Member,
    /// The same user on another device.
    OtherDevice,
    /// Was a member until they were removed.
    Former,
    /// A user who was never a member.
    Stranger,
    /// Without a token.
    Nobody,
}

pub(crate) const EVERYBODY: [Who; 6] =
    [Who::Owner, Who::Member, Who::OtherDevice, Who::Former, Who::Stranger, Who::Nobody];

/// What they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Done,
    /// A code of the protocol's table.
    Code(&'static str),
}

/// It is done.
const Y: Told = Told::Done;
/// `forbidden`: also what they would be told if it were not there.
const F: Told = Told::Code("forbidden");
/// There is no such thing, inside of what they may see.
const N: Told = Told::Code("not_found");
/// It is not theirs, or is over.
const G: Told = Told::Code("gone");
/// Who are you?
const U: Told = Told::Code("unauthenticated");
/// It makes no sense.
const B: Told = Told::Code("bad_request");

/// How something is said at a place: a frame, or a body.
type Form = fn(&Place) -> Value;

/// A row: what somebody does, what each is told, and how it is said. Both forms are the same operation, so they have the same
/// cells.
pub(crate) struct Operation {
    pub(crate) what: &'static str,
    pub(crate) cells: [Told; 6],
    /// The frame, on the transports that carry frames.
    pub(crate) frame: Option<Form>,
    /// Method, path with its parameters, and body (for a `GET`: what stands in its query).
    pub(crate) route: Option<(&'static str, &'static str, Form)>,
    /// What it is aimed at, where that is not the group, the owner's message, and somebody else in the group.
    pub(crate) aim: fn(&mut Place),
}

const NOTHING: Form = |_| Value::Null;
const MESSAGE: &str = "/v1/conversations/{conversation_id}/messages/{message_id}";
const REACTION: &str = "/v1/conversations/{conversation_id}/messages/{message_id}/reactions/{emoji}";
const MEMBER: &str = "/v1/conversations/{conversation_id}/members/{user_id}";

const fn op(what: &'static str, cells: [Told; 6]) -> Operation {
    Operation { what, cells, frame: None, route: None, aim: |_| () }
}

impl Operation {
    const fn frame(mut self, frame: Form) -> Operation {
        self.frame = Some(frame);
        self
    }

    const fn route(mut self, method: &'static str, pattern: &'static str, body: Form) -> Operation {
        self.route = Some((method, pattern, body));
        self
    }

    const fn aim(mut self, aim: fn(&mut Place)) -> Operation {
        self.aim = aim;
        self
    }
}

const DELETE: Form =
    |p| json!({"type": "delete_message", "conversation_id": p.conversation, "message_id": p.message});
const REACT: Form =
    |p| json!({"type": "react", "conversation_id": p.conversation, "message_id": p.message, "emoji": "👍"});
const UNREACT: Form =
    |p| json!({"type": "unreact", "conversation_id": p.conversation, "message_id": p.message, "emoji": "👍"});
const AT_ABSENT: fn(&mut Place) = |p| p.message = ABSENT.to_owned();
const AT_MEMBERS_OWN: fn(&mut Place) = |p| p.message.clone_from(&p.members_message);
const AT_ELSEWHERE: fn(&mut Place) = |p| p.message.clone_from(&p.message_elsewhere);

#[rustfmt::skip]
pub(crate) const TABLE: &[Operation] = &[
    //                                       owner member other former stranger nobody
    //                                                    device
    op("identify once more",                 [B, B, B, B, B, U])
        .frame(|_| json!({"type": "identify"})),
    op("hand in the next token",             [Y, Y, Y, Y, Y, U])
        .frame(|p| json!({"type": "refresh_token", "token": p.own_token})),
    op("hand in somebody else's",            [B, B, B, B, B, U])
        .frame(|p| json!({"type": "refresh_token", "token": p.foreign_token})),
    op("be there",                           [Y, Y, Y, Y, Y, U])
        .frame(|_| json!({"type": "heartbeat"})),
    // Who never said who they are may go as well.
    op("leave the connection",               [Y, Y, Y, Y, Y, Y])
        .frame(|_| json!({"type": "bye"})),

    op("send a message",                     [Y, Y, Y, F, F, U])
        .frame(|p| json!({"type": "send_message", "conversation_id": p.conversation, "content": "hello"}))
        .route("POST", "/v1/messages",
            |p| json!({"conversation_id": p.conversation, "content": "hello", "message_type": "text"})),
    // Who was removed reads up to their removal (G11).
    op("read what was said",                 [Y, Y, Y, Y, F, U])
        .frame(|p| json!({"type": "sync", "conversation_id": p.conversation, "from_seq": 1}))
        .route("GET", "/v1/conversations/{conversation_id}/messages", NOTHING),
    op("confirm that it arrived",            [Y, Y, Y, F, F, U])
        .frame(|p| json!({"type": "delivered", "conversation_id": p.conversation, "seq": 1}))
        .route("POST", "/v1/conversations/{conversation_id}/delivered", |_| json!({"seq": 1})),
    op("say that it was read",               [Y, Y, Y, F, F, U])
        .frame(|p| json!({"type": "read", "conversation_id": p.conversation, "seq": 1}))
        .route("POST", "/v1/conversations/{conversation_id}/read", |_| json!({"seq": 1})),
    op("see how far others got",             [Y, Y, Y, F, F, U])
        .route("GET", "/v1/conversations/{conversation_id}/receipts", NOTHING),
    op("type",                               [Y, Y, Y, F, F, U])
        .frame(|p| json!({"type": "typing", "conversation_id": p.conversation, "state": "start"})),
    op("delete the owner's message",         [Y, F, F, F, F, U])
        .frame(DELETE).route("DELETE", MESSAGE, NOTHING),
    op("delete the member's message",        [F, Y, Y, F, F, U])
        .frame(DELETE).route("DELETE", MESSAGE, NOTHING).aim(AT_MEMBERS_OWN),
    op("delete a message that is not there", [N, N, N, F, F, U])
        .frame(DELETE).route("DELETE", MESSAGE, NOTHING).aim(AT_ABSENT),
    op("delete a message of elsewhere",      [N, N, N, F, F, U])
        .frame(DELETE).route("DELETE", MESSAGE, NOTHING).aim(AT_ELSEWHERE),
    op("react to a message",                 [Y, Y, Y, F, F, U])
        .frame(REACT).route("PUT", REACTION, NOTHING),
    op("react to one that is not there",     [N, N, N, F, F, U])
        .frame(REACT).route("PUT", REACTION, NOTHING).aim(AT_ABSENT),
    op("react to one of elsewhere",          [N, N, N, F, F, U])
        .frame(REACT).route("PUT", REACTION, NOTHING).aim(AT_ELSEWHERE),
    op("take a reaction back",               [Y, Y, Y, F, F, U])
        .frame(UNREACT).route("DELETE", REACTION, NOTHING),
    op("take it back from elsewhere",        [N, N, N, F, F, U])
        .frame(UNREACT).route("DELETE", REACTION, NOTHING).aim(AT_ELSEWHERE),

    op("look at the conversation",           [Y, Y, Y, F, F, U])
        .route("GET", "/v1/conversations/{conversation_id}", NOTHING),
    op("rename it",                          [Y, Y, Y, F, F, U])
        .route("PATCH", "/v1/conversations/{conversation_id}", |_| json!({"group_name": "another name"})),
    op("see who is in it",                   [Y, Y, Y, F, F, U])
        .route("GET", "/v1/conversations/{conversation_id}/members", NOTHING),
    op("add somebody",                       [Y, Y, Y, F, F, U])
        .route("POST", "/v1/conversations/{conversation_id}/members", |p| json!({"user_ids": [p.outside]})),
    op("remove somebody else",               [Y, F, F, F, F, U])
        .route("DELETE", MEMBER, NOTHING),
    op("leave",                              [Y, Y, Y, F, F, U])
        .route("DELETE", MEMBER, NOTHING).aim(|p| p.user.clone_from(&p.caller)),
    op("make somebody an admin",             [Y, F, F, F, F, U])
        .route("PATCH", MEMBER, |_| json!({"role": "admin"})),
    op("make oneself an admin",              [B, F, F, F, F, U])
        .route("PATCH", MEMBER, |_| json!({"role": "admin"})).aim(|p| p.user.clone_from(&p.caller)),
    op("mute it",                            [Y, Y, Y, F, F, U])
        .route("PUT", "/v1/conversations/{conversation_id}/mute", |_| json!({})),
    op("hear of it again",                   [Y, Y, Y, F, F, U])
        .route("DELETE", "/v1/conversations/{conversation_id}/mute", NOTHING),
    op("list one's conversations",           [Y, Y, Y, Y, Y, U])
        .route("GET", "/v1/conversations", NOTHING),
    op("begin a conversation",               [Y, Y, Y, Y, Y, U])
        .route("POST", "/v1/conversations",
            |p| json!({"type": "group", "group_name": "g", "member_ids": [p.outside]})),

    op("ask whether users are there",        [Y, Y, Y, Y, Y, U])
        .frame(|p| json!({"type": "presence_subscribe", "user_ids": [p.user]})),
    op("ask no longer",                      [Y, Y, Y, Y, Y, U])
        .frame(|p| json!({"type": "presence_unsubscribe", "user_ids": [p.user]})),
    op("look a user up",                     [Y, Y, Y, Y, Y, U])
        .route("GET", "/v1/users/{user_id}", NOTHING),
    op("look one up who is not there",       [N, N, N, N, N, U])
        .route("GET", "/v1/users/{user_id}", NOTHING).aim(|p| p.user = ABSENT.to_owned()),
    op("look one up by name",                [Y, Y, Y, Y, Y, U])
        .route("GET", "/v1/users", |p| json!({"username": format!("user-{}", p.user)})),
    op("look a name up that nobody has",     [N, N, N, N, N, U])
        .route("GET", "/v1/users", |_| json!({"username": "nobody has it"})),
    op("look at oneself",                    [Y, Y, Y, Y, Y, U])
        .route("GET", "/v1/users/me", NOTHING),
    op("take another name",                  [Y, Y, Y, Y, Y, U])
        .route("PATCH", "/v1/users/me", |p| json!({"username": format!("{:?} {}", p.who, p.caller)})),
    // Only a token with that scope does; see `administrators_create_users`.
    op("create a user",                      [F, F, F, F, F, U])
        .route("POST", "/v1/users", |_| json!({"username": "somebody new"})),
    op("list one's devices",                 [Y, Y, Y, Y, Y, U])
        .route("GET", "/v1/devices", NOTHING),
    // Of one's own, of that name, whoever else has one.
    op("revoke a device of one's own",       [Y, Y, Y, Y, Y, U])
        .route("DELETE", "/v1/devices/{device_id}", NOTHING),
    op("have a device notified",             [Y, Y, Y, Y, Y, U])
        .route("PUT", "/v1/devices/{device_id}/push_token", |_| json!({"platform": "fcm", "token": "t"})),
    op("have it left alone",                 [Y, Y, Y, Y, Y, U])
        .route("DELETE", "/v1/devices/{device_id}/push_token", NOTHING),

    // The token may come with `identify`.
    op("begin to poll",                      [Y, Y, Y, Y, Y, Y])
        .route("POST", "/v1/poll", NOTHING),
    // The member's session is the member's, on that device, and is not there for anybody else.
    op("fetch what came for the member",     [G, Y, G, G, G, G])
        .route("GET", "/v1/poll/{poll_id}", |_| json!({"timeout_ms": 0})),
    op("say something for the member",       [G, Y, G, G, G, G])
        .route("POST", "/v1/poll/{poll_id}", |_| json!({"frames": [{"type": "heartbeat"}]})),
    op("end the member's session",           [G, Y, G, G, G, G])
        .route("DELETE", "/v1/poll/{poll_id}", NOTHING),
    op("get a path for a stream",            [Y, Y, Y, Y, Y, U])
        .route("POST", "/v1/events", NOTHING),
    op("open a stream",                      [Y, Y, Y, Y, Y, U])
        .route("GET", "/v1/events", NOTHING),

    op("read how REST works",                [Y, Y, Y, Y, Y, Y])
        .route("GET", "/v1/openapi.json", NOTHING),
    op("read how frames work",               [Y, Y, Y, Y, Y, Y])
        .route("GET", "/v1/asyncapi.json", NOTHING),
];
