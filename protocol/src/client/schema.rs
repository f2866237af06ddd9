//! The JSON encoding as JSON Schema, and the whole of it as an AsyncAPI document. What servers say is derived from the
//! structs that serialise it; what clients say is decoded by hand, and stands in the table of [`commands`], whose field
//! names are the decoder's.
//!
//! # Invariants
//! - Schemas of one [`generator`] refer to each other under `#/components/schemas/`, which is where both AsyncAPI 3 and
//!   OpenAPI 3.1 keep them.
//! - What is optional is left out when it is not there; only `seq` of `ok` may be `null`.

mod commands;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::json::shape;
use crate::reason::{Close, ROWS};

/// A generator whose schemas refer to `#/components/schemas/`. Whoever adds its own shapes to a document uses one for
/// all of them and takes what they refer to with [`components`].
#[must_use]
pub fn generator() -> SchemaGenerator {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    settings.into_generator()
}

/// The schema of a shape, with references into what [`components`] returns.
#[must_use]
pub fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let mut schema = generator.subschema_for::<T>().to_value();
    omit_nulls(&mut schema);
    schema
}

/// Everything that the schemas of this generator refer to, by name. What carries a `type` goes by it, as serde renames
/// it; the derive leaves that field to us. Everything else goes by the name of its struct.
#[must_use]
pub fn components(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut components = generator.take_definitions(true);
    for (name, schema) in &mut components {
        omit_nulls(schema);
        if name.starts_with(|first: char| first.is_ascii_lowercase()) {
            set_type(schema, name);
        }
    }
    components
}

/// `{"error":{…}}`, the body of a refused REST request.
#[must_use]
pub fn error_schema(generator: &mut SchemaGenerator) -> Value {
    of::<shape::ErrorBody<'static>>(generator)
}

/// What servers say: the `type` of each frame and its schema.
#[must_use]
pub fn server_frames(generator: &mut SchemaGenerator) -> Vec<(&'static str, Value)> {
    let reaction = |generator: &mut SchemaGenerator, name| {
        let mut schema = object_of::<shape::Reaction<'static>>(generator);
        set_type(&mut schema, name);
        schema
    };
    let mut frames = vec![
        ("hello", object_of::<shape::Hello>(generator)),
        ("ready", object_of::<shape::Ready<'static>>(generator)),
        ("caught_up", object_of::<shape::CaughtUp>(generator)),
        ("new_message", object_of::<shape::NewMessage<'static>>(generator)),
        ("conversation_created", object_of::<shape::ConversationCreated<'static>>(generator)),
        ("conversation_updated", object_of::<shape::ConversationUpdated<'static>>(generator)),
        ("member_added", object_of::<shape::MemberAdded<'static>>(generator)),
        ("member_removed", object_of::<shape::MemberRemoved<'static>>(generator)),
        ("message_deleted", object_of::<shape::MessageDeleted>(generator)),
        ("reaction_added", reaction(generator, "reaction_added")),
        ("reaction_removed", reaction(generator, "reaction_removed")),
        ("delivery_ack", object_of::<shape::DeliveryAck<'static>>(generator)),
        ("sync_batch", object_of::<shape::SyncBatch<'static>>(generator)),
        ("behind", object_of::<shape::Behind>(generator)),
        ("reset", object_of::<shape::Reset<'static>>(generator)),
        ("reconnect", object_of::<shape::Reconnect<'static>>(generator)),
        ("typing", object_of::<shape::Typing>(generator)),
        ("presence", object_of::<shape::PresenceFrame>(generator)),
        ("read_sync", object_of::<shape::ReadSync>(generator)),
        ("ok", object_of::<shape::Done<'static>>(generator)),
        ("error", object_of::<shape::ErrorFrame<'static>>(generator)),
        ("heartbeat_ack", object_of::<shape::HeartbeatAck<'static>>(generator)),
    ];
    for (name, schema) in &mut frames {
        set_type(schema, name);
    }
    frames
}

/// What clients say: the `type` of each frame and its schema, which refers to nothing.
#[must_use]
pub fn client_frames() -> Vec<(&'static str, Value)> {
    commands::schemas()
}

/// The AsyncAPI 3.0 document of the JSON encoding, from the server's side: it receives what clients say, and sends.
#[must_use]
pub fn asyncapi() -> Value {
    let mut generator = generator();
    let sent = server_frames(&mut generator);
    let received = client_frames();
    let mut messages = Map::new();
    for (side, frames) in [("client", &received), ("server", &sent)] {
        for (name, schema) in frames {
            let message = json!({
                "name": name,
                "title": name,
                "contentType": "application/json",
                "payload": schema,
            });
            messages.insert(format!("{side}.{name}"), message);
        }
    }
    let in_channel: Map<String, Value> = messages
        .keys()
        .map(|key| (key.clone(), json!({ "$ref": format!("#/components/messages/{key}") })))
        .collect();
    let of_side = |side: &str| -> Vec<Value> {
        let keys = messages.keys().filter(|key| key.starts_with(side));
        keys.map(|key| json!({ "$ref": format!("#/channels/session/messages/{key}") })).collect()
    };
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Carillon client protocol",
            "version": shape::PROTOCOL.to_string(),
            "description": "One JSON object per WebSocket text frame. Ids are decimal strings, a seq is a number, times \
                are milliseconds since the Unix epoch. Unknown fields and unknown types are ignored by clients; a server \
                answers an unknown type with an error.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "session": {
                "address": "/v1/ws",
                "description": "A WebSocket, subprotocol carillon.v1.json. The server closes it with one of \
                    x-close-codes.",
                "messages": in_channel,
                "bindings": { "ws": { "method": "GET" } },
            },
        },
        "operations": {
            "receive": {
                "action": "receive",
                "channel": { "$ref": "#/channels/session" },
                "messages": of_side("client."),
            },
            "send": {
                "action": "send",
                "channel": { "$ref": "#/channels/session" },
                "messages": of_side("server."),
            },
        },
        "components": { "messages": messages, "schemas": components(&mut generator) },
        "x-error-codes": error_codes(),
        "x-close-codes": close_codes(),
    })
}

/// The table of errors, as documents carry it.
#[must_use]
pub fn error_codes() -> Value {
    let rows = ROWS.iter().map(|row| {
        json!({
            "code": row.name,
            "http_status": row.http_status,
            "retryable": row.retryable,
            "close_code": row.close.map(Close::code),
            "advice": row.advice,
        })
    });
    rows.collect()
}

/// The table of close codes, as documents carry it.
#[must_use]
pub fn close_codes() -> Value {
    let rows = Close::ALL
        .iter()
        .map(|close| json!({ "code": close.code(), "text": close.text(), "reconnect": close.reconnect() }));
    rows.collect()
}

/// The schema of a struct, in full rather than as a reference.
fn object_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let mut schema = T::json_schema(generator).to_value();
    omit_nulls(&mut schema);
    schema
}

/// Where a field may be left out, `null` is not what a server writes instead. A field that really may be `null` says so
/// by being required or by its `x-null`.
fn omit_nulls(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(omit_nulls),
        Value::Object(object) => {
            let required: Vec<Value> =
                object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                for (name, property) in properties {
                    if !required.iter().any(|field| field == name) {
                        omit_null(property);
                    }
                }
            }
            object.values_mut().for_each(omit_nulls);
        }
        _ => {}
    }
}

fn omit_null(property: &mut Value) {
    let Value::Object(property) = property else { return };
    if property.remove("x-null").is_some() {
        return;
    }
    // `"default": null` would say the same once more.
    property.remove("default");
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(options)) = property.get_mut("anyOf") {
        options.retain(|option| option != &json!({ "type": "null" }));
        if let [Value::Object(only)] = options.as_slice() {
            let only = only.clone();
            property.remove("anyOf");
            property.extend(only);
        }
    }
}

fn set_type(schema: &mut Value, name: &str) {
    let Value::Object(object) = schema else { return };
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    if let Value::Object(properties) = properties {
        properties.insert("type".into(), json!({ "type": "string", "const": name }));
    }
    let required = object.entry("required").or_insert_with(|| json!([]));
    if let Value::Array(required) = required
        && !required.iter().any(|field| field == "type")
    {
        required.insert(0, json!("type"));
    }
}
