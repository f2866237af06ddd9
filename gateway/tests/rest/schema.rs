//! As much of JSON Schema (draft 2020-12) as our documents use, and stricter: a field that is not described is wrong.

use serde_json::Value;

/// What is wrong with `value`, where; nothing when it is as `schema` says. `document` is what references are into.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(document, schema, value, "$", &mut faults);
    faults
}

fn check(document: &Value, schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
    let mut fault = |what: String| faults.push(format!("{place}: {what}, in {value}"));
    let Value::Object(rules) = schema else {
        if schema != &Value::Bool(true) {
            fault(format!("{schema} is no schema"));
        }
        return;
    };
    for (rule, wanted) in rules {
        match rule.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                let target = document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"));
                check(document, target, value, place, faults);
                return;
            }
            "type" => {
                let names = match wanted {
                    Value::Array(names) => names.clone(),
                    name => vec![name.clone()],
                };
                if !names.iter().any(|name| is_type(name.as_str().unwrap(), value)) {
                    fault(format!("is not {wanted}"));
                    return;
                }
            }
            "const" if wanted != value => fault(format!("is not {wanted}")),
            "enum" if !wanted.as_array().unwrap().contains(value) => fault(format!("is none of {wanted}")),
            "minimum" if value.is_number() && value.as_f64() < wanted.as_f64() => {
                fault(format!("is below {wanted}"))
            }
            "maximum" if value.is_number() && value.as_f64() > wanted.as_f64() => {
                fault(format!("is above {wanted}"))
            }
            "pattern" => assert!(
                matches!(wanted.as_str(), Some("^[1-9][0-9]{0,18}$")),
                "{wanted}: only ids have a pattern here"
            ),
            "const" | "enum" | "minimum" | "maximum" | "anyOf" | "oneOf" | "properties" | "required"
            | "items" => {}
            "description"
            | "format"
            | "default"
            | "title"
            | "examples"
            | "minLength"
            | "maxLength"
            | "x-null"
            | "additionalProperties" => {}
            other => fault(format!("the checker does not know {other}")),
        }
    }
    if let (true, Value::String(text)) = (rules.contains_key("pattern"), value)
        && carillon_protocol::ids::parse_id(text).is_none()
    {
        fault("is no id".to_owned());
    }
    for rule in ["anyOf", "oneOf"] {
        let Some(options) = rules.get(rule).and_then(Value::as_array) else { continue };
        if !options.iter().any(|option| self::faults(document, option, value).is_empty()) {
            fault(format!("is none of {options:?}"));
        }
    }
    if let Value::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            if let Some(schema) = rules.get("items") {
                check(document, schema, item, &format!("{place}[{index}]"), faults);
            }
        }
    }
    let (Value::Object(fields), Some(Value::Object(properties))) = (value, rules.get("properties")) else {
        return;
    };
    for required in rules.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(required.as_str().unwrap()) {
            faults.push(format!("{place}: {required} is missing, in {value}"));
        }
    }
    for (name, field) in fields {
        match properties.get(name) {
            Some(schema) => check(document, schema, field, &format!("{place}.{name}"), faults),
            None => faults.push(format!("{place}: {name} is not described")),
        }
    }
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn the_checker_can_tell() {
    let document: Value =
        serde_json::json!({"s": {"Id": {"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}}});
    let schema = serde_json::json!({
        "type": "object",
        "properties": {"id": {"$ref": "#/s/Id"}, "n": {"type": ["integer", "null"], "minimum": 1}},
        "required": ["id"],
    });
    for (value, is_right) in [
        (r#"{"id":"7"}"#, true),
        (r#"{"id":"7","n":null}"#, true),
        (r#"{"id":"7","n":0}"#, false),
        (r#"{"id":"7","n":1.5}"#, false),
        (r#"{"id":"07"}"#, false),
        (r#"{"id":7}"#, false),
        (r#"{"id":"7","x":1}"#, false),
        (r#"{"n":1}"#, false),
        ("[]", false),
    ] {
        let value = serde_json::from_str(value).unwrap();
        assert_eq!(faults(&document, &schema, &value).is_empty(), is_right, "{value}");
    }
}
