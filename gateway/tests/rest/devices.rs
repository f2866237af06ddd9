//! Users and their devices: names, lists, push tokens, and devices that are trusted no longer.

use carillon_gateway::rest::{Input, Request};
use carillon_protocol::frame::{Command, DeviceView, Findings, Found, PushTokenView, Revoked, Wanted};
use carillon_protocol::ids::UserId;
use serde_json::{Value, json};

use crate::rig::{ROUTER, Rig, Up, WALL, accepted, admission, found_user, request, settings, token_issued};

/// A request with a token that was issued `age_s` ago.
fn aged(method: &str, path: &str, age_s: u64) -> Request {
    let mut request = request(1, method, path, "");
    request.headers.authorization =
        Some(format!("Bearer {}", token_issued(1, WALL / 1_000 - age_s)).into_bytes());
    request
}

/// FU3c: the devices of the one who asks, with last use and cursor lag.
#[test]
fn devices_are_listed() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", "/v1/devices", "");
    let up = rig.next_up();
    assert!(
        matches!(&up, Up::Find(find) if find.what == Wanted::Devices && find.user == UserId(1)),
        "{up:?}"
    );
    let device = |device: &str, last_seen_at_ms, cursor_lag| DeviceView {
        device: device.to_owned(),
        last_seen_at_ms,
        cursor_lag,
    };
    let devices = vec![device("laptop", 0, 12), device("phone", 77, 0)];
    rig.hear(&Found { request: up.number(), findings: Findings::Devices(devices) });
    let expected = json!({"devices": [
        {"device_id": "laptop", "last_seen_at": null, "cursor_lag": 12},
        {"device_id": "phone", "last_seen_at": 77, "cursor_lag": 0},
    ]});
    assert_eq!(rig.told(ticket), (200, expected));
}

/// Revoking and push tokens are durable commands of the caller's, on any device of theirs.
#[test]
fn devices_are_changed() {
    let device = || "laptop".to_owned();
    let cases = [
        ("DELETE", "", "", Command::Revoke { device: device() }),
        (
            "PUT",
            "/push_token",
            r#"{"platform":"webpush","token":"https://push/1"}"#,
            Command::PushToken { device: device(), token: Some((2, "https://push/1".to_owned())) },
        ),
        ("DELETE", "/push_token", "", Command::PushToken { device: device(), token: None }),
    ];
    for (method, path, body, command) in cases {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, method, &format!("/v1/devices/laptop{path}"), body);
        let up = rig.next_up();
        assert!(
            matches!(&up, Up::Submit(submit) if submit.command == command && submit.user == UserId(1)),
            "{up:?}"
        );
        rig.hear(&accepted(&up, 0, 0, 0, false));
        assert_eq!(rig.told(ticket), (204, Value::Null));
    }
    let long = format!(r#"{{"platform":"fcm","token":"{}"}}"#, "t".repeat(4_097));
    for (method, path, body, status, field) in [
        ("DELETE", "/v1/devices/a.b", "", 400, "device_id"),
        ("PUT", "/v1/devices/a/push_token", "{}", 400, "platform"),
        ("PUT", "/v1/devices/a/push_token", r#"{"platform":"pigeon","token":"t"}"#, 400, "platform"),
        ("PUT", "/v1/devices/a/push_token", r#"{"platform":"fcm"}"#, 400, "token"),
        ("PUT", "/v1/devices/a/push_token", r#"{"platform":"fcm","token":""}"#, 400, "token"),
        ("PUT", "/v1/devices/a/push_token", &long, 413, "token"),
    ] {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, method, path, body);
        let told = rig.refused(ticket);
        assert_eq!((told.0, told.2.as_deref()), (status, Some(field)), "{method} {path} {body:.60}");
    }
}

/// Renaming oneself, and what one sees of oneself only.
#[test]
fn users_rename_themselves() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "PATCH", "/v1/users/me", r#"{"username":"zoë"}"#);
    let up = rig.next_up();
    let command = Command::Profile { username: "zoë".to_owned() };
    assert!(
        matches!(&up, Up::Submit(submit) if submit.command == command && submit.user == UserId(1)),
        "{up:?}"
    );
    rig.hear(&accepted(&up, 0, 0, 1, false));
    let up = rig.next_up();
    assert!(matches!(&up, Up::Find(find) if find.what == Wanted::User(UserId(1))), "{up:?}");
    let mut found = found_user(up.number(), 1);
    if let Findings::User(user) = &mut found.findings {
        let push_token = PushTokenView { device: "phone".to_owned(), platform: 1, token: "t".to_owned() };
        (user.username, user.push_tokens) = ("zoë".to_owned(), vec![push_token]);
    }
    rig.hear(&found);
    let expected = json!({
        "user_id": "1", "username": "zoë", "created_at": 5,
        "device_tokens": [{"device_id": "phone", "platform": "fcm", "token": "t"}],
    });
    assert_eq!(rig.told(ticket), (200, expected));
    for body in [r#"{"username":""}"#, "{}", r#"{"username":"a\u0007"}"#, r#"{"username":7}"#] {
        let ticket = rig.ask(1, "PATCH", "/v1/users/me", body);
        assert_eq!(rig.refused(ticket).2.as_deref(), Some("username"), "{body}");
    }
}

/// A revoked device's tokens from before are refused and nothing of theirs goes up, whether the revocation was
/// there before, is told later, or overtakes the answer; newer tokens, and other devices, go on.
#[test]
fn revoked_devices_are_refused() {
    let revoked_at_ms = WALL - 10_000;
    let refusal = (401, "unauthenticated".to_owned(), None);
    let news = |device: &str| Revoked { user: UserId(1), device: device.to_owned(), at_ms: revoked_at_ms };

    let mut rig = Rig::new(settings());
    let ticket = rig.send(aged("GET", "/v1/conversations", 20));
    let up = rig.next_up();
    rig.hear(&admission(up.number(), true, revoked_at_ms));
    assert_eq!(rig.refused(ticket), refusal, "was there before");
    let ticket = rig.send(aged("GET", "/v1/conversations", 10));
    assert_eq!(rig.refused(ticket), refusal, "the same second counts as before; and nobody is asked again");
    let ticket = rig.send(aged("GET", "/v1/conversations", 9));
    assert!(!rig.responses.contains_key(&ticket) && rig.up.len() == 1, "a newer token");

    let mut rig = Rig::new(settings());
    rig.ask_with(aged("GET", "/v1/conversations", 20));
    rig.hear(&news("tablet"));
    rig.up.clear();
    rig.send(aged("GET", "/v1/conversations", 20));
    assert_eq!(rig.up.len(), 1, "another device was");
    rig.hear(&news("phone"));
    let ticket = rig.send(aged("GET", "/v1/conversations", 20));
    assert_eq!(rig.refused(ticket), refusal, "told later");

    let mut rig = Rig::new(settings());
    let ticket = rig.send(aged("GET", "/v1/conversations", 20));
    let up = rig.next_up();
    rig.hear(&news("phone"));
    rig.hear(&admission(up.number(), true, 0));
    assert_eq!(rig.refused(ticket), refusal, "overtook the answer");
    assert_eq!(rig.closed_lanes_count, 0);
}

/// What is told while there is no lane is not heard, so after it everybody is asked for again, once.
#[test]
fn a_lost_lane_forgets_who_may_come_in() {
    let mut rig = Rig::new(settings());
    rig.ask(1, "GET", "/v1/conversations", "");
    rig.up.clear();
    rig.send(request(1, "GET", "/v1/conversations", ""));
    assert!(matches!(rig.next_up(), Up::Find(find) if matches!(find.what, Wanted::Conversations { .. })));
    rig.handle(Input::LaneDown { router: ROUTER });
    rig.lane_up();
    rig.up.clear();
    let ticket = rig.send(request(1, "GET", "/v1/conversations", ""));
    let up = rig.next_up();
    let device = Wanted::Admission { device: "phone".to_owned() };
    assert!(matches!(&up, Up::Find(find) if find.what == device), "{up:?}");
    rig.hear(&admission(up.number(), true, WALL));
    assert_eq!(rig.refused(ticket).0, 401);
}
