//! The schemas and the AsyncAPI document, held against what is really written and read: every golden frame fits its
//! schema, whatever a schema of a command describes is taken and nothing else, and the document names the kinds of the
//! code, no more and no fewer.
#![expect(clippy::disallowed_methods, reason = "golden files are files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use carillon_protocol::client::binary::Kind;
use carillon_protocol::client::{json, schema};
use carillon_protocol::reason::{Close, ROWS};
use serde_json::{Map, Value, json as value};

/// What of JSON Schema the documents use. Stricter than it in one respect: a property that the schema does not name
/// does not fit, so that a field which is written and not documented is found.
fn misfit(schema: &Value, components: &Map<String, Value>, instance: &Value) -> Option<String> {
    let Value::Object(schema) = schema else { return Some(format!("no schema: {schema}")) };
    for (keyword, rule) in schema {
        let wrong = match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str()?.strip_prefix("#/components/schemas/").unwrap_or("?");
                let Some(schema) = components.get(name) else { return Some(format!("no component {name}")) };
                misfit(schema, components, instance)
            }
            "type" => {
                let names: Vec<&Value> =
                    rule.as_array().map_or_else(|| vec![rule], |names| names.iter().collect());
                (!names.iter().any(|name| is_of(name, instance))).then(|| format!("{instance} is not {rule}"))
            }
            "const" => (rule != instance).then(|| format!("{instance} is not {rule}")),
            "enum" => (!rule.as_array()?.contains(instance)).then(|| format!("{instance} is none of {rule}")),
            "anyOf" | "oneOf" => {
                let misfits: Vec<String> = rule
                    .as_array()?
                    .iter()
                    .filter_map(|option| misfit(option, components, instance))
                    .collect();
                (misfits.len() == rule.as_array()?.len()).then(|| misfits.join("; "))
            }
            "required" => rule.as_array()?.iter().find_map(|name| {
                let there = instance.get(name.as_str().unwrap()).is_some();
                (!there).then(|| format!("{name} is missing"))
            }),
            "properties" => {
                instance.as_object().into_iter().flatten().find_map(|(name, field)| match rule.get(name) {
                    Some(rule) => misfit(rule, components, field),
                    None => Some(format!("{name} is not documented")),
                })
            }
            "additionalProperties" => {
                instance.as_object()?.values().find_map(|field| misfit(rule, components, field))
            }
            "items" => instance.as_array()?.iter().find_map(|item| misfit(rule, components, item)),
            "minimum" => (instance.as_f64()? < rule.as_f64()?).then(|| format!("{instance} is below {rule}")),
            "maximum" => (instance.as_f64()? > rule.as_f64()?).then(|| format!("{instance} is above {rule}")),
            "pattern" => {
                assert_eq!(rule, "^[1-9][0-9]{0,18}$", "the one pattern there is");
                let text = instance.as_str()?;
                let is_id = (1..=19).contains(&text.len())
                    && !text.starts_with('0')
                    && text.bytes().all(|byte| byte.is_ascii_digit());
                (!is_id).then(|| format!("{instance} is no id"))
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "maxProperties" | "propertyNames" => None,
            "description" | "format" | "title" | "default" | "x-null" => None,
            other => Some(format!("a keyword that is not looked at: {other}")),
        };
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

fn is_of(name: &Value, instance: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => instance.is_object(),
        "array" => instance.is_array(),
        "string" => instance.is_string(),
        "boolean" => instance.is_boolean(),
        "integer" => instance.is_i64() || instance.is_u64(),
        "number" => instance.is_number(),
        "null" => instance.is_null(),
        other => panic!("type {other}"),
    }
}

/// The golden frames: the file's name, and what is in it.
fn golden() -> Vec<(String, Value)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/client");
    let mut frames = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            frames.push((name, serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()));
        }
    }
    frames
}

/// Every field that a golden frame carries is in the schema of its type, and fits it.
#[test]
fn golden_frames_fit_their_schemas() {
    let mut generator = schema::generator();
    let server = schema::server_frames(&mut generator);
    let client = schema::client_frames();
    let components = schema::components(&mut generator);
    let mut seen = BTreeSet::new();
    for (file, frame) in golden() {
        let is_of_server = json::decode_server(&frame.to_string()).is_ok();
        let frames = if is_of_server { &server } else { &client };
        let name = frame["type"].as_str().unwrap();
        let (_, schema) = frames.iter().find(|(known, _)| *known == name).unwrap();
        assert_eq!(misfit(schema, &components, &frame), None, "{file}: {frame}\nagainst {schema:#}");
        seen.insert((is_of_server, name.to_owned()));
    }
    assert_eq!(seen.len(), server.len() + client.len(), "a frame without a golden file: {seen:?}");
}

/// The check above can fail: each golden frame with a field more, or without one that is required.
#[test]
fn what_does_not_fit_is_found() {
    let mut generator = schema::generator();
    let frames = schema::server_frames(&mut generator);
    let components = schema::components(&mut generator);
    for (file, frame) in golden() {
        let name = frame["type"].as_str().unwrap();
        let Some((_, schema)) = frames.iter().find(|(known, _)| *known == name) else { continue };
        let mut more = frame.clone();
        more["unheard_of"] = value!(1);
        assert!(misfit(schema, &components, &more).is_some(), "{file}");
        for field in schema["required"].as_array().unwrap() {
            let mut less = frame.clone();
            less.as_object_mut().unwrap().remove(field.as_str().unwrap());
            assert!(misfit(schema, &components, &less).is_some(), "{file} without {field}");
        }
    }
}

/// The document names exactly the frames that the code has numbers for.
#[test]
fn the_document_names_the_kinds_of_the_code() {
    let document = schema::asyncapi();
    let documented = |side: &str| -> BTreeSet<String> {
        let messages = document["components"]["messages"].as_object().unwrap();
        messages.keys().filter_map(|key| key.strip_prefix(side)).map(str::to_owned).collect()
    };
    let of_code = |range: std::ops::Range<u16>| -> BTreeSet<String> {
        let kinds = Kind::ALL.iter().filter(|kind| range.contains(&(**kind as u16)));
        kinds.map(|kind| kind.name().to_owned()).collect()
    };
    assert_eq!(documented("client."), of_code(0..0x40));
    assert_eq!(documented("server."), of_code(0x40..0x100));
    let codes: Vec<&str> = document["x-error-codes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ROWS.map(|row| row.name));
    let closes = document["x-close-codes"].as_array().unwrap();
    assert_eq!(closes.len(), Close::ALL.len());
    assert!(closes.windows(2).all(|pair| pair[0]["code"].as_u64() < pair[1]["code"].as_u64()));
}

/// Every reference of the document leads somewhere.
#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(part: &'a Value, found: &mut Vec<&'a str>) {
        match part {
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|item| references(item, found));
            }
            _ => {}
        }
    }
    let document = schema::asyncapi();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for reference in found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}

/// Something that a schema describes.
fn example(schema: &Value) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema.get("enum").and_then(|names| names.get(0))) {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("string") if schema.get("pattern").is_some() => value!("9223372036854775807"),
        Some("string") => value!("x"),
        Some("integer" | "number") => schema.get("maximum").cloned().unwrap_or(value!(7)),
        Some("array") => value!([example(&schema["items"])]),
        Some("object") => value!({ "9223372036854775807": example(&schema["additionalProperties"]) }),
        _ => example(&schema["anyOf"][0]),
    }
}

/// Values of every type, one of which is wrong for any field.
fn wrong_for(schema: &Value) -> Vec<Value> {
    let name = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut wrong = vec![value!(true), value!([[]]), value!([1])];
    if schema.get("anyOf").is_none() && name != "integer" && name != "number" {
        wrong.push(value!(7));
    }
    if name != "string" && schema.get("anyOf").is_none() {
        wrong.push(value!("x"));
    }
    if schema.get("pattern").is_some() || schema.get("enum").is_some() {
        wrong.push(value!("x"));
        wrong.push(value!(""));
    }
    if schema.get("minLength").is_some_and(|length| *length == 1) {
        wrong.push(value!(""));
    }
    if schema.get("minimum").is_some_and(|minimum| *minimum == 1) {
        wrong.push(value!(0));
    }
    wrong
}

/// What the schema of a command describes is what the decoder takes: with all fields and with the required ones alone
/// it is a command, without a required one or with another type of value it is refused by that field.
#[test]
fn the_decoder_takes_what_the_schema_describes() {
    for (name, schema) in schema::client_frames() {
        let properties = schema["properties"].as_object().unwrap();
        let required: Vec<&str> =
            schema["required"].as_array().unwrap().iter().map(|field| field.as_str().unwrap()).collect();
        let mut full: Map<String, Value> =
            properties.iter().map(|(field, schema)| (field.clone(), example(schema))).collect();
        let refused = |frame: &Map<String, Value>, field: &str| {
            let text = Value::Object(frame.clone()).to_string();
            let wrong = json::decode(&text).command.expect_err(&text);
            assert_eq!(wrong.refusal.field, Some(field), "{text}: {}", wrong.refusal.message);
        };
        let taken = |frame: &Map<String, Value>| {
            let text = Value::Object(frame.clone()).to_string();
            let incoming = json::decode(&text);
            assert!(incoming.command.is_ok(), "{text}: {incoming:?}");
            let mut written = Vec::new();
            json::encode_command(incoming.id.as_ref(), &incoming.command.unwrap(), &mut written);
            let again: Value = serde_json::from_slice(&written).unwrap();
            assert_eq!(misfit(&schema, &Map::new(), &again), None, "{again}");
            again
        };
        if full.contains_key("encoding") {
            full["encoding"] = value!("utf8");
        }
        let written = taken(&full);
        // Whatever differs from its default is still there: no field of the table is one that the decoder ignores.
        for field in full.keys().filter(|field| !["message_type", "encoding"].contains(&field.as_str())) {
            assert!(written.get(field).is_some(), "{name}: {field} was not read");
        }
        let least = full.iter().filter(|(field, _)| required.contains(&field.as_str()));
        taken(&least.map(|(field, value)| (field.clone(), value.clone())).collect());
        for field in &required {
            let mut less = full.clone();
            less.remove(*field);
            refused(&less, field);
        }
        for (field, schema) in properties {
            for wrong in wrong_for(schema).into_iter().filter(|_| field != "type") {
                let mut frame = full.clone();
                frame[field] = wrong;
                refused(&frame, field);
            }
        }
    }
}
