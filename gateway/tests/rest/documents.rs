//! The OpenAPI document and the server say the same: every route is in it and answers as it says, what it asks for is
//! asked for, and it names nothing that is not there.

use carillon_gateway::rest::{Field, Kind, REFUSALS, ROUTES, Route, Scope, Shape};
use carillon_node::prng::Prng;
use carillon_protocol::frame::{
    Counts, DeviceView, Findings, Found, LinkFrame, Mark, MemberView, Page, PushTokenView, Reacted,
    ReactionCount, UserView, Wanted,
};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::{Code, ROWS};
use serde_json::{Map, Value, json};

use crate::rig::{
    Rig, Up, WALL, accepted, admission, conversation, entry, filled, found_conversations, message_id,
    refused, request, settings, token_at,
};
use crate::schema::faults;

fn document(path: &str) -> Value {
    let mut rig = Rig::new(settings());
    let ticket = rig.send(request(0, "GET", path, ""));
    let (status, document) = rig.told(ticket);
    assert_eq!(status, 200);
    document
}

/// What may stand in a field.
fn right(kind: Kind) -> Value {
    match kind {
        Kind::Id => json!("7"),
        Kind::Users(_) => json!(["2"]),
        Kind::Seq | Kind::Limit => json!(7),
        Kind::SeqOrZero => json!(0),
        Kind::Cursor => json!(""),
        Kind::Text(bytes_min, _) => json!("x".repeat(bytes_min.max(1))),
        Kind::Name(names) => json!(names[0]),
        Kind::Millis => json!(1_790_000_000_000_u64),
        Kind::Frames => json!([]),
    }
}

/// What may not.
fn wrong(kind: Kind) -> Vec<Value> {
    let mut wrong = vec![json!({}), json!(true)];
    wrong.extend(match kind {
        Kind::Id => vec![json!(7), json!("07"), json!("")],
        Kind::Users(count_max) => {
            let many: Vec<_> = (2..=count_max + 2).map(|id| id.to_string()).collect();
            vec![json!([]), json!([2]), json!("2"), json!(many)]
        }
        Kind::Seq | Kind::Millis => vec![json!(0), json!(-1), json!("7"), json!(1.5)],
        Kind::Text(bytes_min, bytes_max) => {
            let empty = (bytes_min > 0).then(|| json!(""));
            empty.into_iter().chain([json!("x".repeat(bytes_max + 1)), json!(7)]).collect()
        }
        Kind::Name(_) => vec![json!("nonsense"), json!(1)],
        // In queries only, where text is all there is; or the pumps' matter.
        Kind::SeqOrZero | Kind::Limit | Kind::Cursor | Kind::Frames => Vec::new(),
    });
    wrong
}

/// A body with every required field, and with those optional ones of `also`.
fn body(route: &Route, also: impl Fn(&Field) -> bool) -> Map<String, Value> {
    let fields = route.body.iter().filter(|field| field.is_required || also(field));
    let mut body: Map<String, Value> =
        fields.map(|field| (field.name.to_owned(), right(field.kind))).collect();
    if body.get("type") == Some(&json!("one_to_one")) {
        body.remove("group_name");
    }
    body
}

fn is_pumped(route: &Route) -> bool {
    route.pattern.starts_with("/v1/poll") || route.pattern.starts_with("/v1/events")
}

/// Routes that a router answers.
fn asking() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| route.scope != Scope::Open && !is_pumped(route))
}

fn target(route: &Route) -> String {
    let mut query = String::new();
    for field in route.query.iter().filter(|field| field.is_required) {
        query.push_str(&format!("?{}={}", field.name, right(field.kind).as_str().unwrap()));
    }
    filled(route.pattern) + &query
}

fn ask(rig: &mut Rig, route: &Route, body: &Map<String, Value>) -> carillon_gateway::rest::Ticket {
    let needs_none = body.is_empty() && !route.body.iter().any(|field| field.is_required);
    let text = if needs_none { String::new() } else { Value::from(body.clone()).to_string() };
    let mut request = request(1, route.method, &target(route), &text);
    let token = token_at(WALL, 1, 60, if route.scope == Scope::Admin { "admin" } else { "" });
    request.headers.authorization = Some(format!("Bearer {token}").into_bytes());
    rig.ask_with(request)
}

/// Answers whatever goes up until `ticket` has its response.
fn answer_all(rig: &mut Rig, prng: &mut Prng) {
    while let Some(up) = rig.up.pop_front() {
        match &up {
            Up::Submit(_) | Up::Receipt(_) => {
                let seq = prng.below(3);
                rig.hear(&accepted(&up, 7, seq, 7, prng.chance(1, 2)));
            }
            Up::Read(read) => rig.hear(&page(read.request, prng)),
            Up::Find(find) => rig.hear(&found(find.request, &find.what, prng)),
        }
    }
}

fn reactions(prng: &mut Prng) -> Vec<ReactionCount> {
    let reaction = ReactionCount { emoji: "👍".to_owned(), count: 2, mine: prng.chance(1, 2) };
    if prng.chance(1, 2) { vec![reaction] } else { Vec::new() }
}

fn mark() -> Mark {
    Mark { user: UserId(2), delivered_seq: 6, read_seq: 4 }
}

fn page(request: u64, prng: &mut Prng) -> impl LinkFrame {
    Page {
        session: 0,
        request,
        conversation: ConversationId(7),
        first_seq: 1,
        head_seq: 9,
        fanned_out_seq: 9,
        entries: vec![entry(9, 1, "nine"), entry(8, 2, "eight")],
        has_more: prng.chance(1, 2),
        marks: vec![mark()],
        counts: None,
        reacted: vec![Reacted { seq: 9, reactions: reactions(prng) }],
    }
}

fn found(request: u64, what: &Wanted, prng: &mut Prng) -> impl LinkFrame {
    let some = prng.chance(1, 2);
    let findings = match what {
        Wanted::Admission { .. } => return admission(request, some, 0),
        Wanted::Conversations { .. } | Wanted::Conversation(_) => {
            let last_message = some.then(|| entry(4, 1, "last"));
            let mut view = conversation(7, last_message);
            view.muted_until_ms = if some { u64::MAX } else { 0 };
            view.last_reactions = reactions(prng);
            (view.conversation_type, view.group_name) = if some { (1, view.group_name) } else { (0, None) };
            return found_conversations(request, vec![view], some);
        }
        Wanted::User(_) | Wanted::Username(_) => {
            let push_token = PushTokenView { device: "phone".to_owned(), platform: 3, token: "t".to_owned() };
            Findings::User(UserView {
                user: UserId(if some { 1 } else { 2 }),
                username: "name".to_owned(),
                created_at_ms: 5,
                last_seen_at_ms: prng.below(2),
                push_tokens: vec![push_token],
            })
        }
        Wanted::Members { .. } => {
            let member = MemberView { user: UserId(2), role: 2, joined_seq: 1 };
            Findings::Members { members: vec![member], more: some }
        }
        Wanted::Receipts { .. } if some => Findings::Marks(vec![mark()]),
        Wanted::Receipts { .. } => Findings::Counts(Counts { seq: 9, delivered_count: 300, read_count: 250 }),
        Wanted::Devices => {
            let last_seen_at_ms = prng.below(2);
            Findings::Devices(vec![DeviceView { device: "phone".to_owned(), last_seen_at_ms, cursor_lag: 3 }])
        }
    };
    Found { request, findings }
}

fn operation<'a>(document: &'a Value, route: &Route) -> &'a Value {
    &document["paths"][route.pattern][route.method.to_lowercase()]
}

/// AP2, AP4: each answer of each route is one that the document describes, body and all.
#[test]
fn answers_are_as_documented() {
    let document = document("/v1/openapi.json");
    for route in asking() {
        let operation = operation(&document, route);
        let mut statuses = std::collections::BTreeSet::new();
        for seed in 0..24 {
            let mut prng = Prng::new(seed);
            let mut rig = Rig::new(settings());
            let body = body(route, |_| seed % 2 == 1);
            let ticket = ask(&mut rig, route, &body);
            answer_all(&mut rig, &mut prng);
            let (status, told) = rig.told(ticket);
            statuses.insert(status);
            let place = format!("{} {} {status} {told}", route.method, route.pattern);
            let response = &operation["responses"][status.to_string()];
            assert!(response.is_object() && response.get("$ref").is_none(), "{place}");
            match response.get("content") {
                Some(content) => {
                    let schema = &content["application/json"]["schema"];
                    assert_eq!(faults(&document, schema, &told), Vec::<String>::new(), "{place}");
                }
                None => assert_eq!(told, Value::Null, "{place}"),
            }
        }
        let documented = route.answers.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, documented, "{} {}: all of them happen", route.method, route.pattern);
    }
}

/// AP7: what is required is, and what a field may not hold is refused by its name; what it may hold goes up.
#[test]
fn bodies_are_as_documented() {
    for route in asking() {
        for also in [false, true] {
            let mut rig = Rig::new(settings());
            let ticket = ask(&mut rig, route, &body(route, |_| also));
            assert_eq!(
                rig.up.len(),
                1,
                "{} {}: {:?}",
                route.method,
                route.pattern,
                rig.responses.get(&ticket)
            );
        }
        for field in route.body.iter().chain(route.query) {
            let is_in_body = route.body.iter().any(|other| other.name == field.name);
            let mut cases = Vec::new();
            if is_in_body {
                cases.extend(wrong(field.kind).into_iter().map(Some));
                cases.extend(field.is_required.then_some(None));
            }
            for case in cases {
                let mut body = body(route, |other| other.name == field.name);
                // A name for a group is looked at when it is one.
                if field.name == "group_name" && route.method == "POST" {
                    body.insert("type".to_owned(), json!("group"));
                }
                match &case {
                    Some(value) => body.insert(field.name.to_owned(), value.clone()),
                    None => body.remove(field.name),
                };
                let mut rig = Rig::new(settings());
                let ticket = ask(&mut rig, route, &body);
                let place = format!("{} {} {:.80?}", route.method, route.pattern, case);
                assert!(rig.up.is_empty(), "{place}");
                let (status, code, named) = rig.refused(ticket);
                assert_eq!(named.as_deref(), Some(field.name), "{place}");
                assert!(
                    matches!((status, code.as_str()), (400, "bad_request") | (413, "too_large")),
                    "{place}"
                );
            }
        }
    }
}

/// AP7: every error has the documented shape, and each route documents those of the router that concern it.
#[test]
fn errors_are_as_documented() {
    let document = document("/v1/openapi.json");
    let error = &document["components"]["responses"]["Error"]["content"]["application/json"]["schema"];
    for route in asking() {
        for row in ROWS {
            let mut rig = Rig::new(settings());
            let ticket = ask(&mut rig, route, &body(route, |_| true));
            let up = rig.next_up();
            rig.hear(&refused(&up, row.code, ""));
            let (status, told) = rig.told(ticket);
            assert_eq!((status, &told["error"]["code"]), (row.http_status, &json!(row.name)));
            assert_eq!(faults(&document, error, &told), Vec::<String>::new(), "{told}");
            let is_documented = operation(&document, route)["responses"]
                .get(status.to_string())
                .is_some_and(|response| response["$ref"] == "#/components/responses/Error");
            // Whoever may send a body may send one of another type.
            let of_body =
                [Code::UnsupportedMedia].into_iter().filter(|_| !route.body.is_empty() || route.is_durable);
            let is_expected = REFUSALS
                .iter()
                .copied()
                .chain(of_body)
                .chain(route.refusals.iter().copied())
                .any(|code| code.row().http_status == status);
            assert_eq!(is_documented, is_expected, "{} {} {status}", route.method, route.pattern);
        }
    }
    let rows = document["x-error-codes"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["code"].as_str().unwrap()).collect();
    assert_eq!(names, ROWS.map(|row| row.name));
}

/// The document names every route of the table and no other, with what each takes; references lead somewhere.
#[test]
fn the_document_is_the_table() {
    let document = document("/v1/openapi.json");
    assert_eq!(document["openapi"], "3.1.0");
    let mut documented = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        documented.extend(
            operations.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())),
        );
    }
    let mut table: Vec<_> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.pattern.to_owned())).collect();
    documented.sort();
    table.sort();
    assert_eq!(documented, table);

    let mut ids = std::collections::BTreeSet::new();
    for route in ROUTES {
        let operation = operation(&document, route);
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        assert!(!route.summary.is_empty() && !route.answers.is_empty(), "{}", route.pattern);
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named: Vec<_> = parameters
            .iter()
            .map(|parameter| (parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap()))
            .collect();
        let mut expected: Vec<_> = route.parameters().map(|name| ("path", name)).collect();
        expected.extend(route.query.iter().map(|field| ("query", field.name)));
        expected.extend(route.is_durable.then_some(("header", "Idempotency-Key")));
        assert_eq!(named, expected, "{} {}", route.method, route.pattern);
        let needs_token = operation["security"] != json!([]);
        assert_eq!(needs_token, route.scope != Scope::Open, "{}", route.pattern);
        let is_empty = route.answers.iter().all(|(_, shape)| *shape == Shape::Empty);
        let has_content = operation["responses"]
            .as_object()
            .unwrap()
            .iter()
            .any(|(status, response)| status.starts_with('2') && response.get("content").is_some());
        assert_eq!(has_content, !is_empty, "{}", route.pattern);
    }
    follow(&document, &document);
}

fn follow(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = target.trim_start_matches('#');
                assert!(target.starts_with('#') && document.pointer(pointer).is_some(), "{target}");
            }
            fields.values().for_each(|field| follow(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| follow(document, item)),
        _ => {}
    }
}

/// The frames of the WebSocket have their document as well.
#[test]
fn frames_have_their_document() {
    let document = document("/v1/asyncapi.json");
    assert!(document["asyncapi"].as_str().unwrap().starts_with("3."), "{document}");
    follow(&document, &document);
}

/// AP8, G11: whatever a stranger tries with a conversation, on any route, the router's `forbidden` is what they hear.
#[test]
fn strangers_hear_forbidden() {
    let of_conversations = asking().filter(|route| {
        route.pattern.contains("{conversation_id}")
            || route.body.iter().any(|field| field.name == "conversation_id")
    });
    let mut routes_count = 0;
    for route in of_conversations {
        let mut rig = Rig::new(settings());
        let ticket = ask(&mut rig, route, &body(route, |_| true));
        let up = rig.next_up();
        rig.hear(&refused(&up, Code::Forbidden, ""));
        assert_eq!(
            rig.refused(ticket),
            (403, "forbidden".to_owned(), None),
            "{} {}",
            route.method,
            route.pattern
        );
        routes_count += 1;
    }
    assert!(routes_count > 10, "{routes_count}");
}

/// An id of a message stands for itself.
#[test]
fn ids_in_paths_are_strings_of_digits() {
    let document = document("/v1/openapi.json");
    let route = ROUTES.iter().find(|route| route.pattern.ends_with("{message_id}")).unwrap();
    let schema = &operation(&document, route)["parameters"][1]["schema"];
    assert_eq!(faults(&document, schema, &json!(message_id(3).0.to_string())), Vec::<String>::new());
}
