//! Where a scenario plays: one server, one wire, and people that no other scenario knows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use crate::client::{Client, Transport};
use crate::http::{Answer, request};
use crate::server::{Deployment, Server};

/// Servers that are running, by what makes them differ. Scenarios that run at the same time share one; the last to
/// leave ends it, so that no process outlives its test binary.
static RUNNING: Mutex<BTreeMap<String, Weak<Server>>> = Mutex::new(BTreeMap::new());

/// The next user id that nobody has.
static NEXT_USER: AtomicU64 = AtomicU64::new(1_001);

/// See the module.
pub struct Stage {
    server: Arc<Server>,
    /// How clients are connected.
    pub transport: Transport,
}

impl Stage {
    /// A stage on a server with these settings, shared with whoever wants the same.
    #[must_use]
    pub fn shared(
        binary: &str,
        deployment: Deployment,
        transport: impl Into<Transport>,
        settings: &[&str],
    ) -> Stage {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let place = running.entry(format!("{deployment:?} {settings:?}")).or_default();
        let server = place.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start(binary, deployment, settings));
            *place = Arc::downgrade(&server);
            server
        });
        Stage { server, transport: transport.into() }
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Users that nobody has heard of, made known to the server by their first request (their tokens vouch for them).
    #[must_use]
    pub fn people<const N: usize>(&self) -> [u64; N] {
        let first = NEXT_USER.fetch_add(N as u64, Ordering::Relaxed);
        let people = std::array::from_fn(|index| first + index as u64);
        for user in people {
            introduce(&self.server, user);
        }
        people
    }

    /// A connection that has caught up.
    #[must_use]
    pub fn login(&self, user: u64, device: &str) -> Client {
        Client::login(&self.server, self.transport, user, device)
    }

    /// A connection that names its cursors, and has caught up.
    #[must_use]
    pub fn login_at(&self, user: u64, device: &str, conversation: &str, seq: u64) -> Client {
        Client::login_with(&self.server, self.transport, user, device, &json!({conversation: seq}))
    }

    /// A connection that has caught up and whose past is read.
    #[must_use]
    pub fn live(&self, user: u64, device: &str) -> Client {
        let mut client = self.login(user, device);
        client.until_type("caught_up");
        client
    }

    /// One REST request of a user.
    #[must_use]
    pub fn rest(&self, user: u64, method: &str, path: &str, body: Option<&Value>) -> Answer {
        rest(&self.server, user, method, path, &[], body)
    }

    /// The conversation of two.
    #[must_use]
    pub fn pair(&self, one: u64, other: u64) -> String {
        create(&self.server, one, &json!({"type": "one_to_one", "member_ids": [other.to_string()]}))
    }

    /// A group.
    #[must_use]
    pub fn group(&self, by: u64, others: &[u64]) -> String {
        let members: Vec<String> = others.iter().map(ToString::to_string).collect();
        create(&self.server, by, &json!({"type": "group", "group_name": "a group", "member_ids": members}))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.server.gateway.iter().chain(&self.server.router) {
                eprintln!("--- log of process {}:\n{}", process.pid(), process.log_tail());
            }
        }
    }
}

/// One REST request of a user, on the device `rest`.
#[must_use]
pub fn rest(
    server: &Server,
    user: u64,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    request(server.address(), method, path, Some(&server.token(user, "rest")), headers, body)
}

/// Makes a user known: a valid token of an unknown user creates that user.
///
/// # Panics
/// When the server will not have them.
pub fn introduce(server: &Server, user: u64) {
    let answer = rest(server, user, "GET", "/v1/conversations", &[], None);
    assert_eq!(answer.status, 200, "user {user} is not welcome: {answer:?}");
}

/// Creates a conversation and returns its id.
///
/// # Panics
/// When it is refused.
#[must_use]
pub fn create(server: &Server, by: u64, wish: &Value) -> String {
    let answer = rest(server, by, "POST", "/v1/conversations", &[], Some(wish));
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.body["conversation_id"].as_str();
    id.unwrap_or_else(|| panic!("no conversation_id: {answer:?}")).to_owned()
}

/// The test of each named scenario over WebSockets in both deployments and encodings, and over long polling:
/// `everywhere!(settings; one, two)` wants `fn one(stage: &Stage)`.
#[macro_export]
macro_rules! everywhere {
    ($settings:expr; $($scenario:ident),+ $(,)?) => {
        $crate::everywhere!(@ one_process_json, OneProcess, Json, $settings; $($scenario),+);
        $crate::everywhere!(@ one_process_rkyv, OneProcess, Rkyv, $settings; $($scenario),+);
        $crate::everywhere!(@ tiers_json, Tiers, Json, $settings; $($scenario),+);
        $crate::everywhere!(@ tiers_rkyv, Tiers, Rkyv, $settings; $($scenario),+);
        $crate::everywhere!(@ one_process_poll, OneProcess, Poll, $settings; $($scenario),+);
    };
    (@ $module:ident, $deployment:ident, $transport:ident, $settings:expr; $($scenario:ident),+) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                super::$scenario(&$crate::stage::Stage::shared(
                    env!("CARGO_BIN_EXE_carillon-under-test"),
                    $crate::server::Deployment::$deployment,
                    $crate::client::Transport::$transport,
                    $settings,
                ));
            })+
        }
    };
}

/// The test of each named scenario over server-sent events and REST as well: for those that a client can play that says
/// nothing on its own connection.
#[macro_export]
macro_rules! over_events {
    ($settings:expr; $($scenario:ident),+ $(,)?) => {
        $crate::everywhere!(@ one_process_events, OneProcess, Events, $settings; $($scenario),+);
    };
}
