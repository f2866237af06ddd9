//! Reads a defaults text: TOML for the values, and the comment above each key for people.
//!
//! The text is ours and embedded, so what breaks a rule is a mistake of ours; it is still an error and not a panic,
//! because a command that prints one line is the shortest way to find it.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{ConfigError, Key, Kind, Source};

/// What stands before attributes: `#: secret`, `#: tables`.
const ATTRIBUTES_PREFIX: &str = "#:";

/// What the lines of the text say about a key, beside its value.
#[derive(Clone, Debug, Default)]
struct Note {
    comment: String,
    secret: bool,
    tables: bool,
}

/// The keys of `text` in its order.
pub(super) fn read(owner: &'static str, text: &str) -> Result<Vec<Key>, ConfigError> {
    let wrong = |reason: String| ConfigError::Defaults { owner, reason };
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let mut values = BTreeMap::new();
    flatten("", table, &mut values);

    let mut keys = Vec::with_capacity(values.len());
    for (name, note) in notes(text).map_err(wrong)? {
        let Some(value) = values.remove(&name) else { continue };
        if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
            || name.contains("__")
        {
            return Err(wrong(format!("{name} is not made of a-z, 0-9 and single underscores")));
        }
        if note.comment.is_empty() {
            return Err(wrong(format!("{name} has no comment that says what it is")));
        }
        let kind = kind_of(&value, note.tables)
            .ok_or_else(|| wrong(format!("{name} has a default of a kind that no source can write")))?;
        let Note { comment, secret, .. } = note;
        keys.push(Key { name, kind, secret, comment, value, source: Source::Default(owner) });
    }
    match values.keys().next() {
        Some(unseen) => Err(wrong(format!("{unseen} does not stand on a line of its own as key = value"))),
        None => Ok(keys),
    }
}

fn flatten(above: &str, table: Table, values: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if above.is_empty() { name } else { format!("{above}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, values),
            value => {
                values.insert(key, value);
            }
        }
    }
}

fn kind_of(value: &Value, tables: bool) -> Option<Kind> {
    match value {
        Value::Array(items) if tables => items.is_empty().then_some(Kind::Tables),
        _ if tables => None,
        Value::String(_) => Some(Kind::Text),
        Value::Integer(_) => Some(Kind::Integer),
        Value::Boolean(_) => Some(Kind::Boolean),
        Value::Float(_) => Some(Kind::Float),
        Value::Array(items) => items.iter().all(Value::is_str).then_some(Kind::List),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Walks the lines: comments gather until a key takes them; an empty line or a header lets them go.
fn notes(text: &str) -> Result<Vec<(String, Note)>, String> {
    let mut section = String::new();
    let mut note = Note::default();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(attributes) = line.strip_prefix(ATTRIBUTES_PREFIX) {
            for attribute in attributes.split_whitespace() {
                match attribute {
                    "secret" => note.secret = true,
                    "tables" => note.tables = true,
                    unknown => return Err(format!("the attribute {unknown} is not one of secret, tables")),
                }
            }
        } else if let Some(comment) = line.strip_prefix('#') {
            let gap = if note.comment.is_empty() { "" } else { "\n" };
            note.comment = format!("{}{gap}{}", note.comment, comment.trim());
        } else if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{}.", header.trim());
            note = Note::default();
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            found.push((format!("{section}{name}"), std::mem::take(&mut note)));
        } else {
            note = Note::default();
        }
    }
    Ok(found)
}
