//! What is refused before a router is asked, and what every response carries.

use carillon_gateway::rest::{Body, Scope, Settings};
use carillon_protocol::frame::Refused;
use carillon_protocol::reason::Code;

use crate::rig::{Rig, WALL, accepted, filled, header, refused, request, settings, token, token_at};

/// Security, token: on every route; what is wrong is said, the token is not.
#[test]
fn tokens_are_checked() {
    let expired = format!("Bearer {}", token_at(WALL, 1, -31, ""));
    let leeway = format!("Bearer {}", token_at(WALL, 1, -29, ""));
    let other = format!("Basic {}", token(1));
    let cases: [(Option<&str>, Option<&str>); 8] = [
        (None, Some("unauthenticated")),
        (Some(""), Some("unauthenticated")),
        (Some("Bearer"), Some("unauthenticated")),
        (Some("Bearer x.y.z"), Some("unauthenticated")),
        (Some(&other), Some("unauthenticated")),
        (Some(&expired), Some("token_expired")),
        (Some(&leeway), None),
        (Some("Bearer \u{fffd}"), Some("unauthenticated")),
    ];
    for route in carillon_gateway::rest::ROUTES {
        if route.scope == Scope::Open
            || route.pattern.starts_with("/v1/poll")
            || route.pattern == "/v1/events"
        {
            continue;
        }
        let path = filled(route.pattern);
        for (authorization, code) in cases {
            let mut rig = Rig::new(settings());
            let mut request = request(0, route.method, &path, "");
            request.headers.authorization = authorization.map(|text| text.as_bytes().to_vec());
            let ticket = rig.send(request);
            match code {
                Some(code) => {
                    assert_eq!(header(&rig.responses[&ticket], "www-authenticate"), Some("Bearer"));
                    assert_eq!(rig.refused(ticket), (401, code.to_owned(), None), "{path} {authorization:?}");
                }
                None => assert!(rig.responses.get(&ticket).is_none_or(|response| response.status != 401)),
            }
        }
    }
}

#[test]
fn paths_and_methods() {
    let cases = [
        ("GET", "/", 404, "not_found", None),
        ("GET", "/v1/media", 404, "not_found", None),
        ("PATCH", "/v1/nothing", 404, "not_found", None),
        ("GET", "/v1/conversations/7/mute", 405, "bad_request", Some("PUT, DELETE")),
        ("PUT", "/v1/users/me", 405, "bad_request", Some("GET, PATCH")),
        ("PUT", "/v1/events", 405, "bad_request", Some("POST, GET")),
        ("DELETE", "/v1/conversations", 405, "bad_request", Some("GET, POST")),
        ("GET", "/v1/messages", 405, "bad_request", Some("POST")),
        ("POST", "/v1/conversations/7", 405, "bad_request", Some("GET, PATCH")),
    ];
    for (method, path, status, code, allow) in cases {
        let mut rig = Rig::new(settings());
        let ticket = rig.send(request(0, method, path, ""));
        assert_eq!(header(&rig.responses[&ticket], "allow"), allow, "{method} {path}");
        assert_eq!(rig.refused(ticket), (status, code.to_owned(), None), "{method} {path}");
    }
}

/// `X-Request-Id` is echoed, or made.
#[test]
fn requests_have_names() {
    let mut rig = Rig::new(settings());
    for (given, expected) in
        [(Some("req-1"), Some("req-1")), (Some("a b\r\nc"), Some("abc")), (Some("\n"), None), (None, None)]
    {
        let mut request = request(0, "GET", "/", "");
        request.headers.request_id = given.map(|text| text.as_bytes().to_vec());
        let ticket = rig.send(request);
        let response = rig.response(ticket);
        let named = header(&response, "x-request-id").unwrap().to_owned();
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body["error"]["request_id"], named);
        match expected {
            Some(expected) => assert_eq!(named, expected),
            None => {
                assert!(named.len() == 16 && named.bytes().all(|byte| byte.is_ascii_hexdigit()), "{named}")
            }
        }
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"));
    }
}

/// Security, browsers: only listed pages; those may read the answer.
#[test]
fn origins_are_checked() {
    let listed = Settings { origins: vec!["https://chat.example".to_owned()], ..settings() };
    for (origin, allowed) in
        [("https://chat.example", true), ("https://evil.example", false), ("null", false)]
    {
        for method in ["OPTIONS", "GET"] {
            let mut rig = Rig::new(listed.clone());
            let mut request = request(0, method, "/v1/conversations", "");
            request.headers.origin = Some(origin.as_bytes().to_vec());
            let ticket = rig.send(request);
            let response = rig.response(ticket);
            let expected = match (allowed, method) {
                (true, "OPTIONS") => 204,
                (true, _) => 401,
                (false, _) => 403,
            };
            assert_eq!(response.status, expected, "{method} {origin}");
            assert_eq!(header(&response, "access-control-allow-origin"), allowed.then_some(origin));
        }
    }
}

/// F23, security: a body above `limits.frame_bytes` is 413.
#[test]
fn large_bodies_are_refused() {
    for body in [Body::TooLarge, Body::Whole(vec![b' '; 65_537])] {
        let mut rig = Rig::new(settings());
        let ticket =
            rig.send(carillon_gateway::rest::Request { body, ..request(1, "POST", "/v1/messages", "") });
        assert_eq!(rig.refused(ticket), (413, "too_large".to_owned(), None));
    }
}

/// Security, JSON: a name twice in one object is refused, also inside a field that nobody knows.
#[test]
fn what_is_given_twice_is_refused() {
    let known = r#""conversation_id":"7","content":"x","message_type":"text""#;
    for (more, field) in [
        (r#""content":"y""#, Some("content")),
        (r#""new":1,"new":1"#, None),
        (r#""new":[{"a":1,"\u0061":1}]"#, None),
        (r#""seq":{"a":{"b":1,"b":2}}"#, Some("seq")),
    ] {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, "POST", "/v1/messages", &format!("{{{known},{more}}}"));
        let expected = (400, "bad_request".to_owned(), field.map(str::to_owned));
        assert_eq!(rig.refused(ticket), expected, "{more}");
    }
    let mut rig = Rig::new(settings());
    let alike = format!(r#"{{{known},"new":[{{"a":1}},{{"a":{{"a":2}}}}]}}"#);
    rig.ask(1, "POST", "/v1/messages", &alike);
    assert_eq!(rig.up.len(), 1, "the same name in different objects");
}

/// RL1: the rate of a device is that device's; what is refused by the router's rates passes on; 429 says when to
/// come again, in whole seconds and in milliseconds.
#[test]
fn rates_are_held() {
    let mut rig = Rig::new(Settings { device_per_s: 1, device_burst: 2, inflight: 100, ..settings() });
    let body = r#"{"conversation_id":"7","content":"x","message_type":"text"}"#;
    for _ in 0..2 {
        let ticket = rig.ask(1, "POST", "/v1/messages", body);
        let up = rig.next_up();
        rig.hear(&accepted(&up, 7, 1, 1, false));
        assert_eq!(rig.response(ticket).status, 201);
    }
    let ticket = rig.ask(1, "POST", "/v1/messages", body);
    assert_eq!(header(&rig.responses[&ticket], "retry-after"), Some("1"));
    let (status, told) = rig.told(ticket);
    assert_eq!(
        (status, &told["error"]["code"], &told["error"]["retry_after_ms"]),
        (429, &"rate_limited".into(), &1_000.into())
    );
    rig.ask(1, "GET", "/v1/conversations", "");
    rig.ask(2, "POST", "/v1/messages", body);
    assert_eq!(rig.up.len(), 2, "reading, and others, go on");
    assert_eq!((rig.rest.rate_limited().device, rig.rest.rate_limited().address), (1, 0));
    rig.pass_ms(1_000);
    rig.up.clear();
    let ticket = rig.ask(1, "POST", "/v1/messages", body);
    assert!(!rig.responses.contains_key(&ticket));
    let up = rig.next_up();
    rig.hear(&Refused { retry_after_ms: 1_250, ..refused(&up, Code::RateLimited, "") });
    assert_eq!(header(&rig.responses[&ticket], "retry-after"), Some("2"));
    assert_eq!(rig.told(ticket).1["error"]["retry_after_ms"], 1_250);
}

/// RL1: connections from one address are counted as upgrades are, at their first request; this machine's never.
#[test]
fn addresses_are_held_to_their_rate() {
    let mut rig = Rig::new(Settings { address_per_s: 1, address_burst: 2, ..settings() });
    let from = |address: &str, is_follower| carillon_gateway::rest::Request {
        address: Some(address.parse().unwrap()),
        is_follower,
        ..request(1, "GET", "/v1/conversations", "")
    };
    for (address, is_follower, refused) in [
        ("192.0.2.1", false, false),
        ("192.0.2.1", true, false),
        ("192.0.2.1", false, false),
        ("192.0.2.1", false, true),
        ("192.0.2.1", true, false),
        ("192.0.2.2", false, false),
        ("127.0.0.1", false, false),
        ("::1", false, false),
    ] {
        let ticket = rig.send(from(address, is_follower));
        let told = rig.responses.remove(&ticket).map(|response| response.status);
        assert_eq!(told, refused.then_some(429), "{address} {is_follower}");
    }
    assert_eq!(rig.rest.rate_limited().address, 1);
}

/// G13: what waits is bounded, first for each user, then for all.
#[test]
fn waiting_is_bounded() {
    let mut rig = Rig::new(settings());
    for user in 1..=64 {
        for _ in 0..64 {
            let ticket = rig.send(request(user, "GET", "/v1/conversations", ""));
            assert!(!rig.responses.contains_key(&ticket));
        }
        if user == 1 {
            let ticket = rig.send(request(user, "GET", "/v1/conversations", ""));
            assert_eq!(rig.refused(ticket), (429, "rate_limited".to_owned(), None));
        }
    }
    let ticket = rig.send(request(99, "GET", "/v1/conversations", ""));
    assert_eq!(header(&rig.responses[&ticket], "retry-after"), Some("1"));
    assert_eq!(rig.refused(ticket), (503, "overloaded".to_owned(), None));
    let up = rig.next_up();
    rig.hear(&refused(&up, Code::Internal, ""));
    let ticket = rig.send(request(1, "GET", "/v1/conversations", ""));
    assert!(!rig.responses.contains_key(&ticket), "there is room again, for all and for that user");
}
