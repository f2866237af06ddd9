//! The OpenAPI 3.1 document of REST, made of the table of routes and the very types that serialise the answers.

use std::sync::LazyLock;

use carillon_protocol::client::json::shape;
use carillon_protocol::client::schema;
use carillon_protocol::reason::Code;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::field::{Field, Kind};
use super::response::Response;
use super::routes::{CLIENT_MSG_ID, REFUSALS, ROUTES, Route, Scope, Shape};
use super::{changes, conversations, devices, members, messages, users};

/// Documents do not change while a process lives.
static REST: LazyLock<Vec<u8>> = LazyLock::new(|| document().to_string().into_bytes());
static FRAMES: LazyLock<Vec<u8>> = LazyLock::new(|| schema::asyncapi().to_string().into_bytes());

/// `GET /v1/openapi.json`.
pub(super) fn rest() -> Response {
    Response::bytes(200, "application/json", REST.clone())
}

/// `GET /v1/asyncapi.json`.
pub(super) fn frames() -> Response {
    Response::bytes(200, "application/json", FRAMES.clone())
}

fn document() -> Value {
    let mut generator = schema::generator();
    let error = schema::error_schema(&mut generator);
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.pattern).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(route.method.to_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Carillon over REST",
            "version": shape::PROTOCOL.to_string(),
            "description": "The same sessions, limits and idempotency as on the WebSocket (/v1/asyncapi.json). Ids are \
                decimal strings, a seq is a number, times are milliseconds since the Unix epoch, UTC. Unknown fields \
                are ignored. Every answer carries X-Request-Id, the client's own when it sent one.",
        },
        "paths": paths,
        "components": {
            "schemas": schema::components(&mut generator),
            "responses": {
                "Error": {
                    "description": "What to change, and whether to try again. With 429 and 503 Retry-After says when.",
                    "headers": {
                        "Retry-After": { "description": "Seconds.", "schema": { "type": "integer", "minimum": 1 } },
                    },
                    "content": { "application/json": { "schema": error } },
                },
            },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
        },
        "x-error-codes": schema::error_codes(),
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut operation = Map::new();
    operation.insert("summary".into(), json!(route.summary));
    operation.insert("operationId".into(), json!(operation_id(route)));
    operation.insert("security".into(), security(route));
    let parameters: Vec<Value> = route
        .parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": path_schema(name) }))
        .chain(route.query.iter().map(|field| parameter("query", field.name, field)))
        .chain(route.is_durable.then(|| parameter("header", "Idempotency-Key", &CLIENT_MSG_ID)))
        .collect();
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    if let Some(body) = body(route) {
        operation.insert("requestBody".into(), body);
    }
    operation.insert("responses".into(), responses(route, generator));
    Value::Object(operation)
}

/// `GET /v1/users/{user_id}` → `get_users_user_id`.
fn operation_id(route: &Route) -> String {
    let mut id = route.method.to_lowercase();
    let path = route.pattern.trim_start_matches("/v1");
    for word in path.split(['/', '.', '{', '}']).filter(|word| !word.is_empty()) {
        id.push('_');
        id.push_str(word);
    }
    id
}

fn security(route: &Route) -> Value {
    match route.scope {
        Scope::Open => json!([]),
        Scope::User => json!([{ "token": [] }]),
        Scope::Admin => json!([{ "token": ["admin"] }]),
    }
}

fn parameter(place: &str, name: &str, field: &Field) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": field.is_required,
        "description": field.what,
        "schema": field.kind.schema(),
    })
}

fn path_schema(name: &str) -> Value {
    match name {
        "device_id" => json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$" }),
        "emoji" => json!({ "type": "string", "minLength": 1, "maxLength": 64 }),
        "poll_id" => json!({ "type": "string" }),
        _ => Kind::Id.schema(),
    }
}

/// What the body of a request has to be.
fn body(route: &Route) -> Option<Value> {
    let fields = route.body.iter().chain(route.is_durable.then_some(&CLIENT_MSG_ID));
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        let mut property = field.kind.schema();
        if let Value::Object(property) = &mut property {
            property.insert("description".into(), json!(field.what));
        }
        properties.insert(field.name.into(), property);
        if field.is_required {
            required.push(field.name);
        }
    }
    let is_required = !required.is_empty();
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    let body = json!({ "required": is_required, "content": { "application/json": { "schema": schema } } });
    route.takes_body().then_some(body)
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for (status, shape) in route.answers {
        let mut response = json!({ "description": describe(*shape) });
        if let (Some((content_type, schema)), Value::Object(response)) =
            (content(*shape, generator), &mut response)
        {
            response.insert("content".into(), json!({ content_type: { "schema": schema } }));
        }
        responses.insert(status.to_string(), response);
    }
    if route.scope != Scope::Open {
        let of_bodies = if route.takes_body() { &[Code::UnsupportedMedia][..] } else { &[] };
        for code in REFUSALS.iter().chain(of_bodies).chain(route.refusals).map(|code: &Code| code.row()) {
            responses.insert(code.http_status.to_string(), json!({ "$ref": "#/components/responses/Error" }));
        }
    }
    Value::Object(responses)
}

fn describe(shape: Shape) -> &'static str {
    match shape {
        Shape::Empty => "Done.",
        Shape::Sent => "The message is committed.",
        Shape::Messages => "A page of messages.",
        Shape::Conversation => "The conversation.",
        Shape::Conversations => "A page of conversations.",
        Shape::Changed => "It is so now; seq is the event that made it so.",
        Shape::Members => "A page of members.",
        Shape::Receipts => "Watermarks, or counts.",
        Shape::User => "The user.",
        Shape::Devices => "The devices.",
        Shape::Poll => "The session has begun.",
        Shape::Frames => "Frames, none when the time was over.",
        Shape::Events => "The path to give to EventSource.",
        Shape::Stream => "A stream that does not end.",
        Shape::Document => "The document.",
    }
}

/// Content type and schema of a body; `None`: there is none.
fn content(shape: Shape, generator: &mut SchemaGenerator) -> Option<(&'static str, Value)> {
    let object = |properties: Value| {
        let required: Vec<String> =
            properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        json!({ "type": "object", "properties": properties, "required": required })
    };
    let schema = match shape {
        Shape::Empty => return None,
        Shape::Stream => return Some(("text/event-stream", json!({ "type": "string" }))),
        Shape::Sent => schema::of::<messages::Sent>(generator),
        // Written message by message, because it ends at a number of bytes.
        Shape::Messages => object(json!({
            "messages": { "type": "array", "items": schema::of::<shape::Message<'static>>(generator) },
            "next_cursor": { "type": ["string", "null"] },
        })),
        Shape::Conversation => schema::of::<conversations::Conversation<'static>>(generator),
        Shape::Conversations => schema::of::<conversations::Conversations<'static>>(generator),
        Shape::Changed => schema::of::<changes::Changed>(generator),
        Shape::Members => schema::of::<members::Members>(generator),
        Shape::Receipts => schema::of::<shape::Receipts>(generator),
        Shape::User => schema::of::<users::User<'static>>(generator),
        Shape::Devices => schema::of::<devices::Devices<'static>>(generator),
        Shape::Poll => object(json!({ "poll_id": { "type": "string" } })),
        Shape::Frames => object(json!({
            "frames": { "type": "array", "items": { "type": "object" } },
            "next": { "type": "string" },
        })),
        Shape::Events => object(json!({ "path": { "type": "string" } })),
        Shape::Document => json!({ "type": "object" }),
    };
    Some(("application/json", schema))
}
