//! The authorisation matrix: every operation, by everybody, over every transport, against a real server (G11, AP8). The
//! expected answers are in `table.rs`.

mod place;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use carillon_gateway::rest::ROUTES;
use carillon_tests::client::{Client, Event, Transport};
use carillon_tests::desk::Desk;
use carillon_tests::http::request;
use carillon_tests::server::Deployment;
use carillon_tests::stage::Stage;
use serde_json::{Value, json};

use place::{ABSENT, Cast, Place, told, told_by_frame};
use table::{EVERYBODY, Operation, TABLE, Told, Who};

fn stage() -> Stage {
    Stage::shared(
        env!("CARGO_BIN_EXE_carillon-under-test"),
        Deployment::OneProcess,
        Transport::Json,
        &["limits.send_per_s=0"],
    )
}

/// Security, authorisation: nothing can be asked for that the table does not answer for.
#[test]
fn no_operation_is_without_cells() {
    let routes = |of: &mut dyn Iterator<Item = (&'static str, &'static str)>| -> BTreeSet<String> {
        of.map(|(method, pattern)| format!("{method} {pattern}")).collect()
    };
    let served = routes(&mut ROUTES.iter().map(|route| (route.method, route.pattern)));
    let in_table =
        routes(&mut TABLE.iter().filter_map(|row| row.route).map(|(method, pattern, _)| (method, pattern)));
    assert_eq!(in_table, served, "the table's routes, and those that are served");

    // The server says which frames it takes.
    let stage = stage();
    let published = request(stage.server().address(), "GET", "/v1/asyncapi.json", None, &[], None).body;
    let messages = published["components"]["messages"].as_object().expect("messages");
    let taken: BTreeSet<&str> = messages.keys().filter_map(|name| name.strip_prefix("client.")).collect();
    let [owner, ..] = EVERYBODY;
    let place = Cast::new(&stage).place(owner);
    let frames: Vec<Value> = TABLE.iter().filter_map(|row| row.frame).map(|frame| frame(&place)).collect();
    let in_table: BTreeSet<&str> = frames.iter().filter_map(|frame| frame["type"].as_str()).collect();
    assert_eq!(in_table, taken, "the table's frames, and those that are published");
}

/// Security, authorisation, AP8: every cell over REST.
#[test]
fn every_cell_over_rest() {
    let stage = stage();
    let cast = Cast::new(&stage);
    walk(&cast, |row| row.route.is_some(), |row, place| told(&cast.ask(row, place)));
}

/// Security, authorisation: every cell over WebSockets of JSON.
#[test]
fn every_cell_over_json() {
    every_cell_of_frames(Transport::Json);
}

/// Security, authorisation: every cell over WebSockets of rkyv.
#[test]
fn every_cell_over_rkyv() {
    every_cell_of_frames(Transport::Rkyv);
}

/// Security, authorisation: every cell over long polling.
#[test]
fn every_cell_over_polling() {
    every_cell_of_frames(Transport::Poll);
}

fn every_cell_of_frames(transport: Transport) {
    let stage = stage();
    let cast = Cast::new(&stage);
    let mut clients: BTreeMap<Who, Client> =
        EVERYBODY.map(|who| (who, cast.connect(who, transport))).into_iter().collect();
    let mut count = 0_u64;
    walk(
        &cast,
        |row| row.frame.is_some(),
        |row, place| {
            let mut frame = row.frame.expect("it has a frame")(place);
            count += 1;
            frame["id"] = json!(count);
            // Nobody is let stay for long.
            if place.who == Who::Nobody {
                clients.insert(place.who, cast.connect(place.who, transport));
            }
            let client = clients.get_mut(&place.who).expect("everybody is connected");
            client.send(&frame);
            if frame["type"] == "bye" {
                let left = clients.insert(place.who, cast.connect(place.who, transport));
                let code = left.expect("it was there").until_closed();
                return (Told::Done, json!(code));
            }
            let answer = client.until("the answer", |answer| answer["id"] == json!(count));
            let (told, mut seen) = told_by_frame(&answer);
            seen["id"] = Value::Null;
            (told, seen)
        },
    );
}

/// Walks the cells of some rows, each in a place of its own. Where somebody outside is forbidden something in a conversation,
/// what they see is what they would see if it were not there.
fn walk(
    cast: &Cast<'_>,
    is_meant: impl Fn(&Operation) -> bool,
    mut act: impl FnMut(&Operation, &Place) -> (Told, Value),
) {
    let mut wrong = Vec::new();
    for row in TABLE.iter().filter(|row| is_meant(row)) {
        for (who, expected) in EVERYBODY.into_iter().zip(row.cells) {
            let mut place = cast.place(who);
            (row.aim)(&mut place);
            let (told, seen) = act(row, &place);
            if told != expected {
                wrong.push(format!("{}, {who:?}: {expected:?} expected, {told:?}: {seen}", row.what));
            }
            let is_outside = matches!(who, Who::Former | Who::Stranger);
            if is_outside && told == Told::Code("forbidden") && is_in_a_conversation(row, &place) {
                ABSENT.clone_into(&mut place.conversation);
                let (_, absent) = act(row, &place);
                if absent != seen {
                    wrong
                        .push(format!("{}, {who:?}: {seen} where it is, {absent} where it is not", row.what));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether a row names a conversation: in its path, its body or its frame.
fn is_in_a_conversation(row: &Operation, place: &Place) -> bool {
    let in_frame = row.frame.is_some_and(|frame| frame(place).get("conversation_id").is_some());
    let in_route = row.route.is_some_and(|(_, pattern, body)| {
        pattern.contains("{conversation_id}") || body(place).get("conversation_id").is_some()
    });
    in_frame || in_route
}

/// Security, authorisation: ids are not told apart by how long an answer takes: what a stranger asks takes as many questions
/// to the store, and as many transactions, whether there is such a conversation, held in memory or not, or none.
#[test]
fn what_is_forbidden_takes_as_much_work_as_what_is_absent() {
    const STRANGER: u64 = 9;
    for is_held in [false, true] {
        let mut desk = Desk::new(7);
        for user in [1, 2, STRANGER] {
            assert_eq!(desk.ask(user, "GET", "/v1/conversations", None).0, 200);
        }
        let group = json!({"type": "group", "group_name": "g", "member_ids": ["2"]});
        let (status, made) = desk.ask(1, "POST", "/v1/conversations", Some(&group));
        assert_eq!(status, 201, "{made}");
        let conversation = made["conversation_id"].as_str().expect("an id").to_owned();
        let body = json!({"conversation_id": conversation, "content": "x", "message_type": "text"});
        let (status, sent) = desk.ask(1, "POST", "/v1/messages", Some(&body));
        assert_eq!(status, 201, "{sent}");
        for path in ["", "/messages", "/members", "/receipts"].into_iter().filter(|_| is_held) {
            let path = format!("/v1/conversations/{conversation}{path}");
            assert!((0..2).all(|_| desk.ask(1, "GET", &path, None).0 == 200), "{path}");
        }
        let message = sent["message_id"].as_str().expect("an id").to_owned();
        let there = Place::of_strangers(STRANGER, conversation, message);
        let nowhere = Place::of_strangers(STRANGER, ABSENT.to_owned(), there.message.clone());
        let mut rows_count = 0;
        for row in TABLE.iter().filter(|row| row.route.is_some() && is_in_a_conversation(row, &there)) {
            let (method, ..) = row.route.expect("it has a route");
            let mut work = |place: &Place| {
                let (path, body) = place.request(row);
                let before = (desk.queries_count, desk.commits_count);
                let (status, mut told) = desk.ask(STRANGER, method, &path, body.as_ref());
                let work = (desk.queries_count - before.0, desk.commits_count - before.1);
                assert!(
                    told["error"].as_object_mut().is_some_and(|error| error.remove("request_id").is_some())
                );
                (status, told, work)
            };
            let seen = work(&there);
            assert_eq!(seen, work(&nowhere), "{}, held: {is_held}", row.what);
            assert!(seen.0 == 403 && seen.2 != (0, 0), "{}: {seen:?}", row.what);
            rows_count += 1;
        }
        assert!(rows_count > 20, "{rows_count}");
    }
}

/// Security, authorisation: what happens in a conversation is heard by who is in it, over each transport, and by nobody else.
#[test]
fn events_are_heard_by_members_only() {
    for transport in [Transport::Json, Transport::Rkyv, Transport::Poll, Transport::Events] {
        let stage = stage();
        let cast = Cast::new(&stage);
        let place = cast.place(Who::Owner);
        let sentinels = cast.sentinels();
        let mut ears = [Who::Owner, Who::Member, Who::OtherDevice, Who::Former, Who::Stranger]
            .map(|who| (who, cast.connect(who, transport)));
        cast.something_happens(&place);
        cast.say_in(&sentinels);
        for (who, client) in &mut ears {
            let is_in = matches!(who, Who::Owner | Who::Member | Who::OtherDevice);
            let mut heard = Vec::new();
            // What was said last comes last: all of it was said by one, one after the other.
            loop {
                let frame = client.frame();
                if Event::all(&frame).iter().any(|event| sentinels.contains(&event.conversation)) {
                    break;
                }
                let conversation = &frame["conversation_id"];
                let of_message = &frame["message"]["conversation_id"];
                if [conversation, of_message].contains(&&json!(place.conversation)) {
                    heard.push(frame["type"].as_str().unwrap_or_default().to_owned());
                }
            }
            let expected: &[&str] = if is_in {
                &["new_message", "reaction_added", "message_deleted", "conversation_updated", "member_added"]
            } else {
                &[]
            };
            assert_eq!(heard, expected, "{who:?} over {transport:?}");
        }
    }
}

/// Security, authorisation: who may create users is who has a token for that.
#[test]
fn administrators_create_users() {
    let stage = stage();
    let [admin] = stage.people();
    let body = json!({"username": format!("made by {admin}")});
    for (scope, status) in [("", 403), ("administrator", 403), ("read admin", 201)] {
        let token = stage.server().token_with(admin, "phone", 600, scope);
        let answer = request(stage.server().address(), "POST", "/v1/users", Some(&token), &[], Some(&body));
        assert_eq!(answer.status, status, "{scope:?}: {answer:?}");
    }
}

/// Security, authorisation: a device is revoked for its own user, whoever else has one of that name; and what stands in a
/// request changes nothing about who asks.
#[test]
fn one_speaks_for_oneself_only() {
    let stage = stage();
    let [alice, bob] = stage.people();
    let mut phone = stage.live(bob, "phone");
    assert_eq!(stage.rest(alice, "DELETE", "/v1/devices/phone", None).status, 204);
    assert!(phone.is_quiet(), "another user's device of that name");

    let pair = stage.pair(alice, bob);
    let body = json!({"conversation_id": pair, "content": "x", "message_type": "text", "sender_id": bob.to_string(),
        "user_id": bob.to_string(), "device_id": "phone", "created_at": 1});
    assert_eq!(stage.rest(alice, "POST", "/v1/messages", Some(&body)).status, 201);
    let heard = phone.until_type("new_message");
    assert_eq!(heard["message"]["sender_id"], json!(alice.to_string()), "{heard}");
}
