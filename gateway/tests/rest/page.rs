//! The page to look at: in development mode, on this machine, and nowhere else.

use std::sync::Arc;

use carillon_gateway::rest::{ReadyUser, Request, Rest};
use carillon_protocol::frame::Command;
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::Code;

use crate::rig::{Rig, Up, accepted, header, keys, refused, request, settings};

fn ready_users() -> Vec<ReadyUser> {
    let user = |number, name: &str| ReadyUser {
        user: UserId(number),
        name: name.to_owned(),
        token: format!("token-of-{name}"),
    };
    vec![user(1, "alice"), user(2, "bob")]
}

fn rig() -> Rig {
    Rig::of(Rest::new(settings(), keys(), 7).with_page(Arc::new(ready_users)))
}

fn get(method: &str, path: &str, host: &str) -> Request {
    let mut request = request(0, method, path, "");
    request.headers.host = Some(host.as_bytes().to_vec());
    request
}

/// The index carries its users, who are known before it is answered, however often it is asked for; nothing of it is
/// cached, framed or talked to by others.
#[test]
fn the_index_has_ready_users() {
    let mut rig = rig();
    let ticket = rig.send(get("GET", "/", "localhost:8080"));
    for (user, name) in [(1, "alice"), (2, "bob")] {
        assert!(rig.responses.is_empty());
        let up = rig.next_up();
        let command = Command::Provision { name: name.to_owned() };
        assert!(
            matches!(&up, Up::Submit(submit) if submit.command == command && submit.user == UserId(user)),
            "{up:?}"
        );
        if user == 1 {
            rig.hear(&accepted(&up, 0, 0, 1, true));
        } else {
            rig.hear(&refused(&up, Code::Overloaded, ""));
        }
    }
    let response = rig.response(ticket);
    let text = String::from_utf8(response.body.clone()).unwrap();
    assert_eq!(response.status, 200);
    assert!(text.contains(r#"{"name":"bob","user_id":"2","token":"token-of-bob"}"#), "{text}");
    assert!(!text.contains("{{users}}"));
    for (name, part) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "script-src 'self'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert!(header(&response, name).is_some_and(|value| value.contains(part)), "{name}");
    }
    for path in ["/page.js", "/page.css", "/carillon.js", "/carillon.d.ts"] {
        let ticket = rig.send(get("GET", path, "127.0.0.1:8080"));
        let response = rig.response(ticket);
        assert!(response.status == 200 && !response.body.is_empty(), "{path}");
        assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"));
    }
}

/// Security, browsers: a name that somebody made to point here gets no tokens, and neither does anybody outside
/// development mode.
#[test]
fn the_page_is_for_this_machine_only() {
    for host in ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1:8080", ""]
    {
        for path in ["/", "/page.js"] {
            let mut rig = rig();
            let ticket = rig.send(get("GET", path, host));
            assert_eq!(rig.refused(ticket), (404, "not_found".to_owned(), None), "{host} {path}");
            assert!(rig.up.is_empty());
        }
    }
    let mut rig = rig();
    let ticket = rig.send(request(0, "GET", "/", ""));
    assert_eq!(rig.refused(ticket).0, 404, "without a Host");
    let ticket = rig.send(get("POST", "/", "localhost"));
    assert_eq!(rig.refused(ticket).0, 404);
    let ticket = rig.send(get("GET", "/index.html", "localhost"));
    assert_eq!(rig.refused(ticket).0, 404);
    let mut rig = Rig::new(settings());
    let ticket = rig.send(get("GET", "/", "localhost"));
    assert_eq!(rig.refused(ticket).0, 404, "without ready users there is no page");
}

/// Without a router the page says so in time.
#[test]
fn the_page_waits_for_a_router_only_so_long() {
    let mut rig = rig();
    let ticket = rig.send(get("GET", "/", "[::1]:8080"));
    rig.pass_ms(carillon_gateway::rest::ANSWER_MS_MAX);
    assert_eq!(rig.refused(ticket).0, 503);
}
