//! The table of routes: what there is on REST, once. Requests are led by it and the OpenAPI document is made of it
//! (`openapi.rs`), so that neither can say more than the other. What is planned for later is not in it,
//! and a client that asks for it hears "no such route".

use carillon_protocol::ids::CLIENT_MSG_ID_BYTES_MAX;
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, GROUP_NAME_BYTES_MAX, MEDIA_URL_BYTES_MAX, MEMBER_IDS_MAX, PUSH_TOKEN_BYTES_MAX,
    USERNAME_BYTES_MAX,
};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType, Platform, Role};

use super::field::{Field, Kind};
use super::path::Parameters;
use super::plan::{Call, Plan};
use super::response::Response;
use super::{changes, conversations, devices, members, messages, openapi, users};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Whoever comes.
    Open,
    /// Whoever has a valid token.
    User,
    /// A token with `scope:"admin"`.
    Admin,
}

/// What serves a route.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handler {
    /// A router, by what this makes of the request.
    Ask(fn(&Call<'_>) -> Result<Plan, Refusal>),
    /// What this says, whoever asks.
    Tell(fn() -> Response),
    /// The pumps of long polling and server-sent events (`crate::pump`), before a request gets here.
    Pumps,
}

/// What a response is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Empty,
    /// A message that is committed.
    Sent,
    /// A page of messages.
    Messages,
    /// A conversation.
    Conversation,
    /// A page of conversations.
    Conversations,
    /// The `ok` of a command that changes a log.
    Changed,
    /// A page of members.
    Members,
    /// How far members got.
    Receipts,
    /// A user.
    User,
    /// One's own devices.
    Devices,
    /// The name of a poll session.
    Poll,
    /// Frames of a poll session.
    Frames,
    /// The path of a stream.
    Events,
    /// Server-sent events.
    Stream,
    /// An OpenAPI or AsyncAPI document.
    Document,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `GET`, `POST`, … `HEAD` goes wherever `GET` goes (RFC 9110 section 9.3.2).
    pub method: &'static str,
    /// The path; each `{…}` stands for one segment.
    pub pattern: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Who may.
    pub scope: Scope,
    /// Parameters of the query.
    pub query: &'static [Field],
    /// Fields of the body; none: it needs no body.
    pub body: &'static [Field],
    /// Whether it is a durable command, which takes an idempotency key.
    pub is_durable: bool,
    /// What it answers when it is done: status and body.
    pub answers: &'static [(u16, Shape)],
    /// What else than [`REFUSALS`] it may answer.
    pub refusals: &'static [Code],
    pub(super) handler: Handler,
}

/// What any route may answer instead: the request is wrong, the token, the rate, or a part is away.
pub const REFUSALS: &[Code] = &[
    Code::BadRequest,
    Code::Unauthenticated,
    Code::TokenExpired,
    Code::Forbidden,
    Code::TooLarge,
    Code::RateLimited,
    Code::Overloaded,
    Code::Unavailable,
    Code::Internal,
];

impl Route {
    const fn new(method: &'static str, pattern: &'static str, handler: Handler) -> Route {
        Route {
            method,
            pattern,
            summary: "",
            scope: Scope::User,
            query: &[],
            body: &[],
            is_durable: false,
            answers: &[],
            refusals: &[],
            handler,
        }
    }

    /// Looks something up.
    const fn find(
        method: &'static str,
        pattern: &'static str,
        handler: fn(&Call<'_>) -> Result<Plan, Refusal>,
    ) -> Route {
        Route::new(method, pattern, Handler::Ask(handler))
    }

    /// A durable command.
    const fn command(
        method: &'static str,
        pattern: &'static str,
        handler: fn(&Call<'_>) -> Result<Plan, Refusal>,
    ) -> Route {
        Route { is_durable: true, ..Route::new(method, pattern, Handler::Ask(handler)) }
    }

    const fn pumped(method: &'static str, pattern: &'static str) -> Route {
        Route::new(method, pattern, Handler::Pumps)
    }

    /// Whether a body is looked at. A durable command without fields may have one for its `client_msg_id`.
    pub(super) const fn takes_body(&self) -> bool {
        !self.body.is_empty() || self.is_durable
    }

    const fn says(self, summary: &'static str) -> Route {
        Route { summary, ..self }
    }

    const fn scope(self, scope: Scope) -> Route {
        Route { scope, ..self }
    }

    const fn query(self, query: &'static [Field]) -> Route {
        Route { query, ..self }
    }

    const fn body(self, body: &'static [Field]) -> Route {
        Route { body, ..self }
    }

    const fn answers(self, answers: &'static [(u16, Shape)]) -> Route {
        Route { answers, ..self }
    }

    const fn refuses(self, refusals: &'static [Code]) -> Route {
        Route { refusals, ..self }
    }

    /// The names of the pattern's `{…}`.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.pattern.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }
}

const LIMIT: Field =
    Field::optional("limit", Kind::Limit, "How many at most; clamped to 1 to 200, 50 when absent.");
const CURSOR: Field = Field::optional("cursor", Kind::Cursor, "A next_cursor of this list, unchanged.");
const USERNAME: Field = Field::required("username", Kind::Text(1, USERNAME_BYTES_MAX), "Unique.");
const GROUP_NAME: Field =
    Field::required("group_name", Kind::Text(1, GROUP_NAME_BYTES_MAX), "The group's name.");
const UP_TO: Field = Field::required("seq", Kind::Seq, "Up to here, cumulative.");

/// The other name of `Idempotency-Key`: in the body of every durable command.
pub(super) const CLIENT_MSG_ID: Field = Field::optional(
    "client_msg_id",
    Kind::Text(1, CLIENT_MSG_ID_BYTES_MAX),
    "The client's own name for it: a retry with the same one takes effect once. The same as Idempotency-Key.",
);

const MESSAGE: &[Field] = &[
    Field::required("conversation_id", Kind::Id, "Where."),
    Field::required(
        "content",
        Kind::Text(0, CONTENT_BYTES_MAX),
        "The text; empty only with media_url; base64 when opaque.",
    ),
    Field::required(
        "message_type",
        Kind::Name(&[
            MessageType::Text.name(),
            MessageType::Image.name(),
            MessageType::Video.name(),
            MessageType::File.name(),
        ]),
        "What it carries.",
    ),
    Field::optional("media_url", Kind::Text(1, MEDIA_URL_BYTES_MAX), "Where the media lie."),
    Field::optional("reply_to", Kind::Id, "A message of the same conversation."),
    Field::optional(
        "encoding",
        Kind::Name(&[Encoding::Utf8.name(), Encoding::Opaque.name()]),
        "utf8 when absent; opaque content is passed through unread.",
    ),
];

const NEW_CONVERSATION: &[Field] = &[
    Field::required(
        "type",
        Kind::Name(&[ConversationType::OneToOne.name(), ConversationType::Group.name()]),
        "one_to_one has exactly one other member, and there is one of each pair.",
    ),
    Field::required("member_ids", Kind::Users(MEMBER_IDS_MAX), "The caller is a member without being named."),
    Field::optional("group_name", Kind::Text(1, GROUP_NAME_BYTES_MAX), "Required for a group."),
    Field::optional(
        "history",
        Kind::Name(&[History::FromJoin.name(), History::All.name()]),
        "What members added later may see; from_join when absent.",
    ),
];

/// Every route.
pub const ROUTES: &[Route] = &[
    Route::command("POST", "/v1/messages", messages::send)
        .says("Send a message. 200: an earlier attempt with this idempotency key did.")
        .body(MESSAGE)
        .answers(&[(201, Shape::Sent), (200, Shape::Sent)])
        .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::find("GET", "/v1/conversations/{conversation_id}/messages", messages::history)
        .says("Messages of a conversation: newest first, or oldest first above after_seq. A cursor keeps its direction.")
        .query(&[
            CURSOR,
            Field::optional("after_seq", Kind::SeqOrZero, "Only messages above it, the nearest first."),
            Field::optional("before_seq", Kind::SeqOrZero, "Only messages below it, the nearest first."),
            LIMIT,
        ])
        .answers(&[(200, Shape::Messages)]),
    Route::find("GET", "/v1/conversations", conversations::list)
        .says("The caller's conversations, latest activity first.")
        .query(&[CURSOR, LIMIT])
        .answers(&[(200, Shape::Conversations)]),
    Route::command("POST", "/v1/conversations", conversations::create)
        .says("Create a conversation. 200: it existed, as the one of that pair or under this idempotency key.")
        .body(NEW_CONVERSATION)
        .answers(&[(201, Shape::Conversation), (200, Shape::Conversation)])
        .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::find("GET", "/v1/conversations/{conversation_id}", conversations::one)
        .says("One conversation of the caller's.")
        .answers(&[(200, Shape::Conversation)]),
    Route::command("PATCH", "/v1/conversations/{conversation_id}", conversations::rename)
        .says("Rename a group.")
        .body(&[GROUP_NAME])
        .answers(&[(200, Shape::Changed)])
        .refuses(&[Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::find("GET", "/v1/conversations/{conversation_id}/members", members::list)
        .says("The members of a conversation, ascending by user.")
        .query(&[CURSOR, LIMIT])
        .answers(&[(200, Shape::Members)]),
    Route::command("POST", "/v1/conversations/{conversation_id}/members", members::add)
        .says("Add members to a group; those who are members already stay as they are.")
        .body(&[Field::required("user_ids", Kind::Users(MEMBER_IDS_MAX), "Whom.")])
        .answers(&[(200, Shape::Changed)])
        .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::command("PATCH", "/v1/conversations/{conversation_id}/members/{user_id}", members::set_role)
        .says("Make a member an admin, or a member again; by the owner.")
        .body(&[Field::required(
            "role",
            Kind::Name(&[Role::Member.name(), Role::Admin.name()]),
            "What they may do from now on.",
        )])
        .answers(&[(200, Shape::Changed)])
        .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::command("DELETE", "/v1/conversations/{conversation_id}/members/{user_id}", members::remove)
        .says("Remove a member from a group, by its owner or an admin; oneself: leave it.")
        .answers(&[(200, Shape::Changed)])
        .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::command("PUT", "/v1/conversations/{conversation_id}/mute", conversations::mute)
        .says("No notifications of a conversation, for the caller.")
        .body(&[Field::optional("until", Kind::Millis, "Until then; absent: for ever.")])
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::UnknownOutcome]),
    Route::command("DELETE", "/v1/conversations/{conversation_id}/mute", conversations::unmute)
        .says("Notifications again.")
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::UnknownOutcome]),
    Route::find("POST", "/v1/conversations/{conversation_id}/delivered", conversations::delivered)
        .says("Everything up to seq arrived on this device.")
        .body(&[UP_TO])
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::UnknownOutcome]),
    Route::find("POST", "/v1/conversations/{conversation_id}/read", conversations::read)
        .says("Everything up to seq was read; implies delivered.")
        .body(&[UP_TO])
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::UnknownOutcome]),
    Route::find("GET", "/v1/conversations/{conversation_id}/receipts", members::receipts)
        .says("How far the other members got: each of them, or how many in a group of more than 200.")
        .query(&[Field::optional("seq", Kind::Seq, "Where a large group is counted; the head when absent.")])
        .answers(&[(200, Shape::Receipts)]),
    Route::command("DELETE", "/v1/conversations/{conversation_id}/messages/{message_id}", changes::delete)
        .says("Delete a message of one's own for everyone: its content is gone, a tombstone stays.")
        .answers(&[(200, Shape::Changed)])
        .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::UnknownOutcome]),
    Route::command(
        "PUT",
        "/v1/conversations/{conversation_id}/messages/{message_id}/reactions/{emoji}",
        changes::react,
    )
    .says("Put an emoji under a message.")
    .answers(&[(200, Shape::Changed)])
    .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::Gone, Code::UnknownOutcome]),
    Route::command(
        "DELETE",
        "/v1/conversations/{conversation_id}/messages/{message_id}/reactions/{emoji}",
        changes::unreact,
    )
    .says("Take it back.")
    .answers(&[(200, Shape::Changed)])
    .refuses(&[Code::NotFound, Code::IdempotencyConflict, Code::Gone, Code::UnknownOutcome]),
    Route::command("POST", "/v1/users", users::create)
        .says("Create a user without waiting for a first log-in.")
        .scope(Scope::Admin)
        .body(&[Field::optional("user_id", Kind::Id, "A free one when absent."), USERNAME])
        .answers(&[(201, Shape::User)])
        .refuses(&[Code::UnknownOutcome]),
    Route::find("GET", "/v1/users", users::by_name)
        .says("The user with a name.")
        .query(&[USERNAME])
        .answers(&[(200, Shape::User)])
        .refuses(&[Code::NotFound]),
    Route::find("GET", "/v1/users/me", users::me).says("The caller.").answers(&[(200, Shape::User)]),
    Route::find("GET", "/v1/users/{user_id}", users::one)
        .says("A user; more of oneself.")
        .answers(&[(200, Shape::User)])
        .refuses(&[Code::NotFound]),
    Route::command("PATCH", "/v1/users/me", users::rename)
        .says("Another name for the caller.")
        .body(&[USERNAME])
        .answers(&[(200, Shape::User)])
        .refuses(&[Code::UnknownOutcome]),
    Route::find("GET", "/v1/devices", devices::all)
        .says("The caller's devices, with when each was last connected and how much it did not confirm.")
        .answers(&[(200, Shape::Devices)]),
    Route::command("DELETE", "/v1/devices/{device_id}", devices::revoke)
        .says("Revoke a device: tokens issued up to now are refused, its connections are closed with 4501.")
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::NotFound, Code::UnknownOutcome]),
    Route::command("PUT", "/v1/devices/{device_id}/push_token", devices::set_push_token)
        .says("Where notifications of a device go.")
        .body(&[
            Field::required(
                "platform",
                Kind::Name(&[
                    Platform::Apns.name(),
                    Platform::Fcm.name(),
                    Platform::WebPush.name(),
                    Platform::Webhook.name(),
                ]),
                "Who carries them.",
            ),
            Field::required("token", Kind::Text(1, PUSH_TOKEN_BYTES_MAX), "The platform's name for the device."),
        ])
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::NotFound, Code::UnknownOutcome]),
    Route::command("DELETE", "/v1/devices/{device_id}/push_token", devices::clear_push_token)
        .says("Nowhere.")
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::NotFound, Code::UnknownOutcome]),
    Route::pumped("POST", "/v1/poll")
        .says("Begin a session by long polling: the frames of the WebSocket, fetched and posted. It lives 60 s without a request.")
        .answers(&[(201, Shape::Poll)]),
    Route::pumped("GET", "/v1/poll/{poll_id}")
        .says("Frames for the client, at once or when there are any. What is not acknowledged is repeated.")
        .query(&[
            Field::optional("ack", Kind::Cursor, "The next of the answer that arrived."),
            Field::optional("timeout_ms", Kind::SeqOrZero, "How long to wait; 25000 when absent."),
        ])
        .answers(&[(200, Shape::Frames)])
        .refuses(&[Code::Gone]),
    Route::pumped("POST", "/v1/poll/{poll_id}")
        .says("Frames from the client, identify first.")
        .body(&[Field::required("frames", Kind::Frames, "In the order in which they are to be taken.")])
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::Gone]),
    Route::pumped("DELETE", "/v1/poll/{poll_id}")
        .says("Leave.")
        .answers(&[(204, Shape::Empty)])
        .refuses(&[Code::Gone]),
    Route::pumped("POST", "/v1/events")
        .says("A path for a browser's EventSource, which cannot set headers: good once, for 30 s.")
        .answers(&[(201, Shape::Events)]),
    Route::pumped("GET", "/v1/events")
        .says("The frames of the WebSocket as server-sent events, receive only; the id of an event resumes after it.")
        .query(&[Field::optional("ticket", Kind::Cursor, "As POST /v1/events gave it, in place of a token.")])
        .answers(&[(200, Shape::Stream)]),
    Route::new("GET", "/v1/openapi.json", Handler::Tell(openapi::rest))
        .says("This document.")
        .scope(Scope::Open)
        .answers(&[(200, Shape::Document)]),
    Route::new("GET", "/v1/asyncapi.json", Handler::Tell(openapi::frames))
        .says("The frames of the WebSocket, as an AsyncAPI document.")
        .scope(Scope::Open)
        .answers(&[(200, Shape::Document)]),
];

/// What a method and a path lead to.
pub(super) enum Found<'a> {
    /// A route, and the segments that its `{…}` stand for.
    Route(&'static Route, Parameters<'a>),
    /// The path is there, with other methods.
    Methods(Vec<&'static str>),
    /// No such path.
    Nothing,
}

pub(super) fn find<'a>(method: &str, path: &'a str) -> Found<'a> {
    // Fetching from a session takes something, and a stream does not end: neither can be asked for its head alone.
    let is_meant = |route: &Route| match method {
        "HEAD" => route.method == "GET" && !matches!(route.handler, Handler::Pumps),
        _ => route.method == method,
    };
    let mut methods = Vec::new();
    for route in ROUTES {
        let Some(parameters) = Parameters::of(route.pattern, path) else { continue };
        if is_meant(route) {
            return Found::Route(route, parameters);
        }
        if !methods.contains(&route.method) {
            methods.push(route.method);
        }
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_routes() {
        let reactions = "/v1/conversations/{conversation_id}/messages/{message_id}/reactions/{emoji}";
        let cases = [
            ("GET", "/v1/conversations/7/messages", Some("/v1/conversations/{conversation_id}/messages")),
            ("HEAD", "/v1/conversations", Some("/v1/conversations")),
            ("POST", "/v1/messages", Some("/v1/messages")),
            ("GET", "/v1/users/7", Some("/v1/users/{user_id}")),
            ("PATCH", "/v1/users/me", Some("/v1/users/me")),
            ("PUT", "/v1/conversations/7/messages/8/reactions/%F0%9F%91%8D", Some(reactions)),
            ("GET", "/v1/conversations/", None),
            ("GET", "/v1/conversations//messages", None),
            ("GET", "/v1/conversations/7/messages/", None),
            ("GET", "/", None),
            ("GET", "", None),
            ("GET", "/v1/media", None),
        ];
        for (method, path, expected) in cases {
            let found = match find(method, path) {
                Found::Route(route, _) => Some(route.pattern),
                Found::Nothing => None,
                Found::Methods(methods) => panic!("{method} {path}: {methods:?}"),
            };
            assert_eq!(found, expected, "{method} {path}");
        }
        assert!(
            matches!(find("DELETE", "/v1/conversations"), Found::Methods(methods) if methods == ["GET", "POST"])
        );
    }

    #[test]
    fn no_route_stands_twice() {
        for (index, route) in ROUTES.iter().enumerate() {
            let twice = ROUTES
                .iter()
                .skip(index + 1)
                .any(|other| (other.method, other.pattern) == (route.method, route.pattern));
            assert!(!twice, "{} {}", route.method, route.pattern);
        }
    }

    /// The pumps take what the table says that they serve, and nothing else.
    #[test]
    fn the_pumps_serve_their_routes() {
        for route in ROUTES {
            let path = route.pattern.replace("{poll_id}", "x");
            let is_pumped = matches!(route.handler, Handler::Pumps);
            assert_eq!(crate::pump::takes(route.method, &path), is_pumped, "{} {path}", route.method);
        }
    }
}
