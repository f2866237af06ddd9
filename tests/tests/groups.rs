//! Groups: who comes, goes and may what, as events of the same log, so that who may see what is decided by seq (G11).

use carillon_tests::client::{Client, Event};
use carillon_tests::stage::Stage;
use carillon_tests::{everywhere, over_events};
use serde_json::{Value, json};

const SETTINGS: &[&str] = &["limits.send_per_s=0"];

everywhere!(crate::SETTINGS;
    members_come_and_go_in_the_log,
    who_joins_sees_from_then_on,
    who_joins_under_all_sees_everything,
    who_was_removed_offline_hears_that_last,
    who_comes_back_is_reset_first,
    who_came_back_offline_is_reset_first,
    roles_decide_who_may_what,
    a_group_is_renamed,
    the_owner_leaves_an_heir,
    a_pair_stays_a_pair,
);
over_events!(crate::SETTINGS;
    members_come_and_go_in_the_log,
    who_joins_sees_from_then_on,
    who_was_removed_offline_hears_that_last,
    roles_decide_who_may_what,
    a_group_is_renamed,
);

fn path(group: &str, rest: &str) -> String {
    format!("/v1/conversations/{group}{rest}")
}

/// Adds a member and returns the event's seq.
fn add(stage: &Stage, by: u64, group: &str, user: u64) -> u64 {
    let body = json!({ "user_ids": [user.to_string()] });
    let answer = stage.rest(by, "POST", &path(group, "/members"), Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["conversation_id"], *group);
    answer.body["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {answer:?}"))
}

fn remove(stage: &Stage, by: u64, group: &str, user: u64) -> u64 {
    let answer = stage.rest(by, "DELETE", &path(group, &format!("/members/{user}")), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {answer:?}"))
}

fn event(client: &mut Client, kind: &str) -> Value {
    let frame = client.frame();
    assert_eq!(frame["type"], kind, "{frame}");
    frame
}

fn history_seqs(stage: &Stage, user: u64, group: &str) -> Vec<u64> {
    let answer = stage.rest(user, "GET", &path(group, "/messages?limit=200"), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    let messages = answer.body["messages"].as_array().expect("messages");
    messages.iter().filter_map(|message| message["seq"].as_u64()).collect()
}

/// GF1, GF3, SV5, FR2: a removed member's last event is the removal, on push, send, history and receipts.
fn members_come_and_go_in_the_log(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob]);
    let [mut at_alice, mut at_bob, mut at_carol] = [alice, bob, carol].map(|user| stage.live(user, "phone"));

    let added = add(stage, bob, &group, carol);
    let expected = json!([carol.to_string()]);
    for client in [&mut at_alice, &mut at_bob, &mut at_carol] {
        let frame = event(client, "member_added");
        assert_eq!((&frame["conversation_id"], &frame["seq"]), (&json!(group), &json!(added)), "{frame}");
        assert_eq!((&frame["user_ids"], &frame["by"]), (&expected, &json!(bob.to_string())), "{frame}");
    }
    let ack = at_carol.say(&group, "hello all", "c-1");
    assert_eq!(ack["seq"], added + 1);
    for client in [&mut at_alice, &mut at_bob] {
        assert_eq!(event(client, "new_message")["message"]["content"], "hello all");
    }
    // Adding who is there already changes nothing.
    assert_eq!(add(stage, alice, &group, carol), added);

    let removed = remove(stage, alice, &group, carol);
    assert_eq!(removed, added + 2);
    for client in [&mut at_alice, &mut at_bob, &mut at_carol] {
        let frame = event(client, "member_removed");
        assert_eq!((&frame["seq"], &frame["user_ids"]), (&json!(removed), &expected), "{frame}");
        assert_eq!(frame["by"], alice.to_string());
    }
    at_alice.say(&group, "among us", "a-1");
    assert_eq!(event(&mut at_bob, "new_message")["message"]["content"], "among us");
    assert!(at_carol.is_quiet(), "nothing after the removal");
    at_carol
        .send(&json!({"type": "send_message", "conversation_id": group, "content": "still here?", "id": 1}));
    assert_eq!(event(&mut at_carol, "error")["error"]["code"], "forbidden");
    at_carol.send(&json!({"type": "read", "conversation_id": group, "seq": removed + 1, "id": 2}));
    assert_eq!(event(&mut at_carol, "error")["error"]["code"], "forbidden");
    let past = stage.rest(carol, "GET", &path(&group, "/messages"), None);
    let seen = past.body["messages"].as_array().into_iter().flatten();
    assert!(seen.into_iter().all(|message| message["seq"].as_u64() <= Some(removed)), "{past:?}");
    assert_eq!(stage.rest(carol, "GET", &path(&group, ""), None).status, 403);
    let list = stage.rest(carol, "GET", "/v1/conversations", None);
    assert_eq!(list.body["conversations"], json!([]), "{list:?}");
    // Removing who is gone changes nothing.
    assert_eq!(remove(stage, alice, &group, carol), removed);
}

/// GF3: `history: from_join`, the default.
fn who_joins_sees_from_then_on(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob]);
    let mut at_alice = stage.live(alice, "phone");
    at_alice.say(&group, "before", "a-1");
    let added = add(stage, alice, &group, carol);
    at_alice.say(&group, "after", "a-2");
    assert_eq!(history_seqs(stage, carol, &group), [added + 1]);
    let object = stage.rest(carol, "GET", &path(&group, ""), None);
    assert_eq!((&object.body["unread_count"], &object.body["history"]), (&json!(1), &json!("from_join")));
    // A device that comes begins with the event by which its user joined.
    let mut at_carol = stage.login(carol, "phone");
    let past: Vec<Event> = at_carol.past().iter().flat_map(Event::all).collect();
    let seqs: Vec<u64> = past.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [added, added + 1], "{past:?}");
    assert_eq!(past[0].content, "member_added");
}

/// GF3: `history: all`; an online member is told `behind` and pages from the beginning.
fn who_joins_under_all_sees_everything(stage: &Stage) {
    let [alice, bob, carol, dave] = stage.people();
    let body =
        json!({"type": "group", "group_name": "open", "member_ids": [bob.to_string()], "history": "all"});
    let created = stage.rest(alice, "POST", "/v1/conversations", Some(&body));
    assert_eq!((created.status, &created.body["history"]), (201, &json!("all")), "{created:?}");
    let group = created.body["conversation_id"].as_str().unwrap().to_owned();
    let mut at_alice = stage.live(alice, "phone");
    at_alice.say(&group, "long ago", "a-1");
    let mut at_carol = stage.live(carol, "phone");
    let added = add(stage, alice, &group, carol);
    let behind = event(&mut at_carol, "behind");
    assert_eq!(behind["conversations"][0]["conversation_id"], *group, "{behind}");
    at_carol.send(&json!({"type": "sync", "conversation_id": group, "from_seq": 1}));
    let batch = event(&mut at_carol, "sync_batch");
    let seqs: Vec<u64> = Event::all(&batch).iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=added).collect::<Vec<_>>(), "{batch}");
    event(&mut at_carol, "caught_up");
    at_alice.say(&group, "now", "a-2");
    assert_eq!(event(&mut at_carol, "new_message")["message"]["seq"], added + 1);
    assert!(at_carol.is_quiet());
    // Somebody who was not there pages the whole of it on coming.
    let added = add(stage, carol, &group, dave);
    let mut at_dave = stage.login(dave, "phone");
    let past: Vec<u64> = at_dave.past().iter().flat_map(Event::all).map(|event| event.seq).collect();
    assert_eq!(past, (1..=added).collect::<Vec<_>>());
}

/// G11, DS1: on resume as well the removal is the last that is seen.
fn who_was_removed_offline_hears_that_last(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let mut at_alice = stage.live(alice, "phone");
    let at_carol = stage.live(carol, "phone");
    at_carol.cut();
    at_alice.say(&group, "one", "a-1");
    let removed = remove(stage, alice, &group, carol);
    at_alice.say(&group, "two", "a-2");
    let mut at_carol = stage.login(carol, "phone");
    let past: Vec<Event> = at_carol.past().iter().flat_map(Event::all).collect();
    assert_eq!(
        past.last().map(|event| (event.seq, event.content.as_str())),
        Some((removed, "member_removed"))
    );
    assert!(past.iter().any(|event| event.content == "one"), "{past:?}");
    at_alice.say(&group, "three", "a-3");
    assert!(at_carol.is_quiet());
}

/// G11, G6: what a returning member holds ends before the gap.
fn who_comes_back_is_reset_first(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let (mut at_alice, mut at_carol) = (stage.live(alice, "phone"), stage.live(carol, "phone"));
    remove(stage, alice, &group, carol);
    event(&mut at_carol, "member_removed");
    at_alice.until_type("member_removed");
    at_alice.say(&group, "without carol", "a-1");
    let added = add(stage, bob, &group, carol);
    let reset = event(&mut at_carol, "reset");
    assert_eq!((&reset["first_seq"], &reset["reason"]), (&json!(added), &json!("membership")), "{reset}");
    assert_eq!(event(&mut at_carol, "member_added")["seq"], added);
    at_alice.say(&group, "welcome back", "a-2");
    assert_eq!(event(&mut at_carol, "new_message")["message"]["seq"], added + 1);
    assert_eq!(history_seqs(stage, carol, &group), [added + 1], "what was said meanwhile stays unseen");
    assert!(at_carol.is_quiet());
}

/// G11, G6: the same for a device that was away all the while, by its own cursor.
fn who_came_back_offline_is_reset_first(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let mut at_alice = stage.live(alice, "phone");
    let mut at_carol = stage.live(carol, "phone");
    at_carol.send(&json!({"type": "delivered", "conversation_id": group, "seq": 1, "id": 0}));
    at_carol.until_type("ok");
    at_carol.cut();
    remove(stage, alice, &group, carol);
    at_alice.say(&group, "without carol", "a-1");
    let added = add(stage, bob, &group, carol);
    at_alice.say(&group, "welcome back", "a-2");
    for cursors in [json!({}), json!({ group.as_str(): 1 })] {
        let mut at_carol = Client::login_with(stage.server(), stage.transport, carol, "phone", &cursors);
        let past = at_carol.past();
        let reset = past.iter().find(|frame| frame["type"] == "reset").unwrap_or_else(|| panic!("{past:?}"));
        assert_eq!((&reset["first_seq"], &reset["reason"]), (&json!(added), &json!("membership")), "{reset}");
        let events: Vec<u64> = past.iter().flat_map(Event::all).map(|event| event.seq).collect();
        assert!(events.iter().all(|seq| *seq >= added), "{events:?}");
        at_carol.cut();
    }
}

/// The fine print of roles: any member adds and renames, owner and admins remove, the owner makes admins.
fn roles_decide_who_may_what(stage: &Stage) {
    let [alice, bob, carol, dave, eve] = stage.people();
    let group = stage.group(alice, &[bob, carol, dave]);
    let mut at_carol = stage.live(carol, "phone");
    let member = |user: u64| path(&group, &format!("/members/{user}"));
    let code = |by: u64, method: &str, path: &str, body: Option<&Value>| {
        let answer = stage.rest(by, method, path, body);
        (answer.status, answer.body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let forbidden = (403, "forbidden".to_owned());
    let admin = json!({"role": "admin"});
    assert_eq!(code(bob, "DELETE", &member(carol), None), forbidden, "a member removes nobody");
    assert_eq!(code(bob, "PATCH", &member(carol), Some(&admin)), forbidden);
    assert_eq!(code(eve, "POST", &path(&group, "/members"), Some(&json!({"user_ids": ["1"]}))), forbidden);
    assert_eq!(code(alice, "PATCH", &member(bob), Some(&json!({"role": "king"}))).0, 400);
    let made = stage.rest(alice, "PATCH", &member(bob), Some(&admin));
    assert_eq!(made.status, 200, "{made:?}");
    let frame = event(&mut at_carol, "conversation_updated");
    assert_eq!((&frame["seq"], &frame["role"]), (&made.body["seq"], &json!("admin")), "{frame}");
    assert_eq!(frame["user_ids"], json!([bob.to_string()]));
    // Now he may, but not the owner.
    assert_eq!(code(bob, "DELETE", &member(alice), None), forbidden);
    remove(stage, bob, &group, carol);
    event(&mut at_carol, "member_removed");
    // Anyone leaves.
    remove(stage, dave, &group, dave);
    let members = stage.rest(alice, "GET", &path(&group, "/members"), None);
    assert_eq!(members.status, 200, "{members:?}");
    let roles: Vec<(&str, &str)> = members.body["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|member| Some((member["user_id"].as_str()?, member["role"].as_str()?)))
        .collect();
    let (alice, bob) = (alice.to_string(), bob.to_string());
    assert_eq!(roles, [(alice.as_str(), "owner"), (bob.as_str(), "admin")]);
    // Who does not exist is no member to be.
    let nobody = json!({"user_ids": ["9223372036854775807"]});
    let answer = stage.rest(alice.parse().unwrap(), "POST", &path(&group, "/members"), Some(&nobody));
    assert_eq!((answer.status, &answer.body["error"]["field"]), (404, &json!("user_ids")), "{answer:?}");
}

fn a_group_is_renamed(stage: &Stage) {
    let [alice, bob, eve] = stage.people();
    let group = stage.group(alice, &[bob]);
    let mut at_alice = stage.live(alice, "phone");
    let wish = json!({"group_name": "a better name"});
    let done = stage.rest(bob, "PATCH", &path(&group, ""), Some(&wish));
    assert_eq!((done.status, &done.body["seq"]), (200, &json!(2)), "{done:?}");
    let frame = event(&mut at_alice, "conversation_updated");
    assert_eq!((&frame["group_name"], &frame["by"]), (&json!("a better name"), &json!(bob.to_string())));
    let object = stage.rest(alice, "GET", &path(&group, ""), None);
    assert_eq!(object.body["group_name"], "a better name");
    // The same name again is no event.
    let again = stage.rest(alice, "PATCH", &path(&group, ""), Some(&wish));
    assert_eq!((again.status, &again.body["seq"]), (200, &json!(2)), "{again:?}");
    assert_eq!(stage.rest(eve, "PATCH", &path(&group, ""), Some(&wish)).status, 403);
    assert_eq!(stage.rest(bob, "PATCH", &path(&group, ""), Some(&json!({"group_name": ""}))).status, 400);
    assert!(at_alice.is_quiet());
}

fn the_owner_leaves_an_heir(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let admin = json!({"role": "admin"});
    let answer = stage.rest(alice, "PATCH", &path(&group, &format!("/members/{carol}")), Some(&admin));
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut at_bob = stage.live(bob, "phone");
    remove(stage, alice, &group, alice);
    let frame = event(&mut at_bob, "member_removed");
    assert_eq!(frame["owner_id"], carol.to_string(), "the admin before the member: {frame}");
    remove(stage, carol, &group, bob);
}

fn a_pair_stays_a_pair(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let pair = stage.pair(alice, bob);
    let add = json!({"user_ids": [carol.to_string()]});
    for (method, path, body) in [
        ("POST", path(&pair, "/members"), Some(&add)),
        ("DELETE", path(&pair, &format!("/members/{bob}")), None),
        ("DELETE", path(&pair, &format!("/members/{alice}")), None),
        ("PATCH", path(&pair, ""), Some(&json!({"group_name": "us"}))),
    ] {
        let answer = stage.rest(alice, method, &path, body);
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (400, &json!("bad_request")),
            "{method} {path}"
        );
    }
    let alone = json!({"type": "one_to_one", "member_ids": [alice.to_string()]});
    assert_eq!(stage.rest(alice, "POST", "/v1/conversations", Some(&alone)).status, 400);
}
