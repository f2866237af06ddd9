//! `docs/protocol.md`, held against the code: every example is read by the decoder that would read it in life and says
//! nothing that the decoder does not know, every frame has an example, and the tables of errors, close codes and limits
//! are those of the code.
#![expect(clippy::disallowed_methods, reason = "the document is a file")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use carillon_protocol::client::{json, schema};
use carillon_protocol::reason::{Close, ROWS};
use carillon_protocol::{ids, limits};
use serde_json::Value;

fn document() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    fs::read_to_string(path).unwrap()
}

/// A fenced block: what stands behind the fence, the line it begins on, and what is in it.
struct Block {
    info: String,
    line: usize,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in document.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(Block { info: info.to_owned(), line: index + 1, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The JSON values of the blocks with this info, each with where it stands.
fn examples(document: &str, info: &str) -> Vec<(String, Value)> {
    let mut examples = Vec::new();
    for block in blocks(document).into_iter().filter(|block| block.info == info) {
        for value in serde_json::Deserializer::from_str(&block.text).into_iter::<Value>() {
            let place = format!("docs/protocol.md, block at line {}", block.line);
            examples.push((place.clone(), value.unwrap_or_else(|error| panic!("{place}: {error}"))));
        }
    }
    examples
}

fn types(examples: &[(String, Value)]) -> BTreeSet<&str> {
    examples.iter().map(|(_, frame)| frame["type"].as_str().unwrap()).collect()
}

/// What clients say: taken by the server's decoder, which loses nothing of it.
#[test]
fn client_examples_are_taken() {
    let document = document();
    let examples = examples(&document, "json client");
    for (place, frame) in &examples {
        let text = frame.to_string();
        let incoming = json::decode(&text);
        let command = incoming.command.unwrap_or_else(|wrong| panic!("{place}: {text}: {wrong:?}"));
        let mut written = Vec::new();
        json::encode_command(incoming.id.as_ref(), &command, &mut written);
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), *frame, "{place}");
    }
    let known: BTreeSet<&str> = schema::client_frames().into_iter().map(|(name, _)| name).collect();
    assert_eq!(types(&examples), known, "each frame has an example");
}

/// What servers say: read by the client's decoder, and written so by a server.
#[test]
fn server_examples_are_what_servers_write() {
    let document = document();
    let examples = examples(&document, "json server");
    for (place, frame) in &examples {
        let text = frame.to_string();
        let read = json::decode_server(&text).unwrap_or_else(|error| panic!("{place}: {text}: {error}"));
        let mut written = Vec::new();
        json::encode(&read, &mut written);
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), *frame, "{place}");
    }
    let known: BTreeSet<&str> =
        schema::server_frames(&mut schema::generator()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(types(&examples), known, "each frame has an example");
}

/// What is said of REST is at least JSON, and nothing is left out of all checks by a block without a mark.
#[test]
fn every_block_is_of_a_known_kind() {
    let document = document();
    for block in blocks(&document) {
        let known = ["", "http", "json client", "json server", "json rest"];
        assert!(known.contains(&block.info.as_str()), "line {}: {}", block.line, block.info);
        if let Some((head, body)) = block.text.split_once("\n\n").filter(|_| block.info == "http") {
            serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{head}: {error}"));
        }
    }
    assert!(!examples(&document, "json rest").is_empty());
}

/// The rows of the table under a heading, as they stand.
fn table<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = document.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.lines().filter(|line| line.starts_with("| ")).skip(1).collect()
}

#[test]
fn the_tables_are_those_of_the_code() {
    let document = document();
    let errors: Vec<String> = ROWS
        .iter()
        .map(|row| {
            let again = if row.retryable { "yes" } else { "no" };
            format!("| `{}` | {} | {again} | {} |", row.name, row.http_status, row.advice)
        })
        .collect();
    assert_eq!(table(&document, "Errors"), errors);

    let closes = table(&document, "Close codes");
    assert_eq!(closes.len(), Close::ALL.len());
    for (row, close) in closes.iter().zip(Close::ALL) {
        let expected = format!("| {} | {} | ", close.code(), close.text());
        assert!(row.starts_with(&expected), "{row}: {expected}");
        assert_eq!(row.starts_with(&format!("{expected}connect again")), close.reconnect(), "{row}");
    }

    let bounds = table(&document, "Limits");
    for (what, bound) in [
        ("`content`", limits::CONTENT_BYTES_MAX),
        ("`media_url`", limits::MEDIA_URL_BYTES_MAX),
        ("a token", limits::TOKEN_BYTES_MAX),
        ("`client_msg_id`", ids::CLIENT_MSG_ID_BYTES_MAX),
        ("a frame's `id`", limits::FRAME_ID_BYTES_MAX),
        ("`emoji`", limits::EMOJI_BYTES_MAX),
        ("different emojis under one message", limits::MESSAGE_EMOJIS_MAX),
        ("`group_name`", limits::GROUP_NAME_BYTES_MAX),
        ("`username`", limits::USERNAME_BYTES_MAX),
        ("`identify.cursors`", limits::CURSORS_MAX),
        ("`user_ids` of `presence_subscribe`", limits::PRESENCE_IDS_MAX),
        ("users watched on one connection", limits::WATCHED_MAX),
        ("ids in one request", limits::MEMBER_IDS_MAX),
        ("events in one page", limits::PAGE_EVENTS_MAX as usize),
        ("events sent on resuming", usize::try_from(limits::RESUME_EVENTS_MAX).unwrap()),
        ("one frame", limits::FRAME_BYTES_DEFAULT),
        ("nesting of JSON", limits::JSON_DEPTH_MAX),
    ] {
        let row = bounds.iter().find(|row| row.starts_with(&format!("| {what} | "))).expect(what);
        let numbers = row.split(|char: char| !char.is_ascii_digit());
        assert!(
            numbers.filter_map(|number| number.parse().ok()).any(|number: usize| number == bound),
            "{row}: {bound}"
        );
    }
}

/// Every heading that the document points at is there.
#[test]
fn links_inside_the_document_lead_somewhere() {
    let document = document();
    let slug = |heading: &str| -> String {
        let kept = heading.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-'));
        kept.map(|char| if char == ' ' { '-' } else { char.to_ascii_lowercase() }).collect()
    };
    let headings: BTreeSet<String> =
        document.lines().filter_map(|line| line.strip_prefix("## ")).map(slug).collect();
    let mut links = 0;
    for link in document.split("](#").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(headings.contains(target), "{target}");
        links += 1;
    }
    assert!(links >= headings.len(), "the list of contents");
}
