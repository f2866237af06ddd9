//! The table of routes: what there is on REST, once. What is documented for later is not in it, and a client that asks
//! for it hears "no such route".

use carillon_protocol::reason::Refusal;

use super::plan::{Call, Plan};
use super::{conversations, messages, users};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Whoever has a valid token.
    User,
    /// A token with `scope:"admin"`.
    Admin,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `GET` or `POST`. `HEAD` goes wherever `GET` goes (RFC 9110 section 9.3.2).
    pub method: &'static str,
    /// The path; `{…}` stands for one segment. At most one of them.
    pub pattern: &'static str,
    /// Who may.
    pub scope: Scope,
    /// What it does, in one line.
    pub summary: &'static str,
    handler: fn(&Call<'_>) -> Result<Plan, Refusal>,
}

impl Route {
    /// Reads a request of this route.
    pub(super) fn read(&self, call: &Call<'_>) -> Result<Plan, Refusal> {
        (self.handler)(call)
    }
}

macro_rules! routes {
    ($($method:ident $pattern:literal $scope:ident $handler:path, $summary:literal;)+) => {
        &[$(Route {
            method: stringify!($method),
            pattern: $pattern,
            scope: Scope::$scope,
            summary: $summary,
            handler: $handler,
        }),+]
    };
}

/// Every route.
pub const ROUTES: &[Route] = routes! {
    POST "/v1/messages" User messages::send,
        "Send a message; repeats with the same Idempotency-Key return the first.";
    GET "/v1/conversations/{conversation_id}/messages" User messages::history,
        "Messages of a conversation, newest first, or oldest first above after_seq.";
    GET "/v1/conversations" User conversations::list,
        "The caller's conversations, latest activity first.";
    POST "/v1/conversations" User conversations::create,
        "Create a conversation, or find the one of a pair.";
    GET "/v1/conversations/{conversation_id}" User conversations::one,
        "One conversation of the caller's.";
    POST "/v1/conversations/{conversation_id}/delivered" User conversations::delivered,
        "Everything up to seq arrived on this device.";
    POST "/v1/conversations/{conversation_id}/read" User conversations::read,
        "Everything up to seq was read.";
    POST "/v1/users" Admin users::create,
        "Create a user without waiting for a first log-in.";
    GET "/v1/users" User users::by_name,
        "The user with a name.";
    GET "/v1/users/{user_id}" User users::one,
        "A user.";
};

/// What a method and a path lead to.
pub(super) enum Found<'a> {
    /// A route, and the segment that its `{…}` stands for.
    Route(&'static Route, Option<&'a str>),
    /// The path is there, with other methods.
    Methods(Vec<&'static str>),
    /// No such path.
    Nothing,
}

pub(super) fn find<'a>(method: &str, path: &'a str) -> Found<'a> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut methods = Vec::new();
    for route in ROUTES {
        let Some(parameter) = matches(route.pattern, path) else { continue };
        if route.method == method {
            return Found::Route(route, parameter);
        }
        methods.push(route.method);
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods) }
}

/// Compares segment by segment; inside `Some`: the segment at `{…}`.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<Option<&'a str>> {
    let mut parameter = None;
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        let segment = segments.next()?;
        if wanted.starts_with('{') && !segment.is_empty() {
            parameter = Some(segment);
        } else if wanted != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_routes() {
        let cases = [
            (
                "GET",
                "/v1/conversations/7/messages",
                Some(("/v1/conversations/{conversation_id}/messages", Some("7"))),
            ),
            ("HEAD", "/v1/conversations", Some(("/v1/conversations", None))),
            ("POST", "/v1/messages", Some(("/v1/messages", None))),
            ("GET", "/v1/users/7", Some(("/v1/users/{user_id}", Some("7")))),
            ("GET", "/v1/conversations/", None),
            ("GET", "/v1/conversations//messages", None),
            ("GET", "/v1/conversations/7/messages/", None),
            ("GET", "/", None),
            ("GET", "", None),
            ("GET", "/v1/media", None),
        ];
        for (method, path, expected) in cases {
            let found = match find(method, path) {
                Found::Route(route, parameter) => Some((route.pattern, parameter)),
                Found::Nothing => None,
                Found::Methods(methods) => panic!("{method} {path}: {methods:?}"),
            };
            assert_eq!(found, expected, "{method} {path}");
        }
        assert!(
            matches!(find("DELETE", "/v1/conversations"), Found::Methods(methods) if methods == ["GET", "POST"])
        );
    }

    #[test]
    fn no_route_stands_twice() {
        for (index, route) in ROUTES.iter().enumerate() {
            let twice = ROUTES
                .iter()
                .skip(index + 1)
                .any(|other| (other.method, other.pattern) == (route.method, route.pattern));
            assert!(!twice, "{} {}", route.method, route.pattern);
        }
    }
}
