//! `docs/protocol.md` and the server say the same about REST: its examples are requests that the server takes and answers
//! that its schemas describe, and its table names every route.

use carillon_gateway::rest::{ROUTES, Request, Route};
use serde_json::Value;

use crate::rig::{Rig, request, settings};
use crate::schema::faults;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The fenced blocks of a document: what stands behind the fence, and the text.
fn blocks(document: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    for (index, part) in document.split("\n```").enumerate() {
        // Outside and inside take turns.
        if index % 2 == 1 {
            blocks.push(part.split_once('\n').unwrap_or((part, "")));
        }
    }
    blocks
}

/// An example of a request, as user 42 sends it.
fn read(example: &str) -> Request {
    let (head, body) = example.split_once("\n\n").unwrap_or((example, ""));
    let mut lines = head.lines();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let mut request = request(42, method, target, body);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        match name {
            "Authorization" => assert_eq!(value, "Bearer <token>"),
            "Content-Type" => assert_eq!(value, "application/json"),
            "Idempotency-Key" => request.headers.idempotency_key = Some(value.as_bytes().to_vec()),
            other => panic!("{other} is no header that is looked at"),
        }
    }
    request
}

fn route_of(request: &Request) -> &'static Route {
    let fits = |route: &&Route| {
        let (pattern, path) = (route.pattern.split('/'), request.path.split('/'));
        route.method == request.method
            && pattern.clone().count() == path.clone().count()
            && pattern.zip(path).all(|(wanted, segment)| wanted == segment || wanted.starts_with('{'))
    };
    ROUTES.iter().find(fits).unwrap_or_else(|| panic!("{} {} is no route", request.method, request.path))
}

#[test]
fn the_examples_work() {
    let mut rig = Rig::new(settings());
    let ticket = rig.send(request(0, "GET", "/v1/openapi.json", ""));
    let openapi = rig.told(ticket).1;
    let (mut requests_count, mut answers_count) = (0, 0);
    let mut last = None;
    for (kind, text) in blocks(DOCUMENT) {
        match kind {
            "http" => {
                let request = read(text);
                let route = route_of(&request);
                if !route.pattern.starts_with("/v1/poll") && !route.pattern.starts_with("/v1/events") {
                    let ticket = rig.ask_with(request);
                    assert_eq!(rig.up.len(), 1, "{text}: {:?}", rig.responses.get(&ticket));
                    rig.up.clear();
                }
                (last, requests_count) = (Some(route), requests_count + 1);
            }
            "json rest" => {
                let route = last.take().unwrap_or_else(|| panic!("no request before {text}"));
                let (status, _) = route.answers[0];
                let response = &openapi["paths"][route.pattern][route.method.to_lowercase()]["responses"]
                    [status.to_string()];
                let schema = &response["content"]["application/json"]["schema"];
                let answer: Value =
                    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!(faults(&openapi, schema, &answer), Vec::<String>::new(), "{text}");
                answers_count += 1;
            }
            _ => {}
        }
    }
    assert!(requests_count >= 8 && answers_count >= 6, "{requests_count} requests, {answers_count} answers");
}

/// A pattern with its parameters unnamed.
fn unnamed(pattern: &str) -> String {
    let segments = pattern.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

#[test]
fn the_table_names_every_route() {
    let table = DOCUMENT.split("| route | what |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows: Vec<_> =
        table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let words = |row: &str| -> Vec<String> {
        row.split(['`', ' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let names = |row: &str, route: &Route| {
        let pattern = unnamed(route.pattern);
        let words = words(row);
        let is_method = words.iter().any(|word| word == route.method);
        let is_path = words.iter().any(|word| {
            let path = unnamed(word.split('?').next().unwrap_or_default());
            match (path.strip_prefix('…'), path.strip_suffix('…')) {
                (Some(end), _) => pattern.ends_with(end),
                (_, Some(begin)) => pattern.starts_with(begin),
                _ => pattern == path,
            }
        });
        is_method && is_path
    };
    for route in ROUTES {
        assert!(
            rows.iter().any(|row| names(row, route)),
            "{} {} is not in the table",
            route.method,
            route.pattern
        );
    }
    for row in rows {
        assert!(row.starts_with('-') || ROUTES.iter().any(|route| names(row, route)), "{row} is no route");
    }
}
