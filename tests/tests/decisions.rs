//! What docs/decisions.md says, held against the defaults and the tests that it names; and what it says is measured,
//! measured.

#![expect(clippy::disallowed_methods, reason = "tests read documents and wait for deadlines")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use carillon_tests::client::{Client, Wire};
use carillon_tests::features::scan;
use carillon_tests::http::request;
use carillon_tests::server::{Deployment, PATIENCE, Server, command};
use carillon_tests::stage::{create, introduce};
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/decisions.md")).expect("docs/decisions.md")
}

/// What stands below a heading, up to the next.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) =
        document.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n## ").next().unwrap_or_default()
}

/// The cells of the rows of tables, without heads.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut is_body = false;
    for line in text.lines() {
        if !line.starts_with('|') {
            is_body = false;
        } else if line.starts_with("|---") {
            is_body = true;
        } else if is_body {
            rows.push(line.trim_matches('|').split('|').map(str::trim).collect());
        }
    }
    rows
}

/// What stands between backticks.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn mentions(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "nothing is said about {word:?} in {text}");
    }
}

/// TO1, OR6: the three transports are weighed; that conversations have no order among them is said.
#[test]
fn to1_the_transports_are_weighed() {
    let document = document();
    let transports = section(&document, "How clients are connected");
    mentions(
        transports,
        &["| | WebSocket | long polling | server-sent events |", "direction", "default because"],
    );
    assert!(rows(transports).iter().all(|row| row.len() == 4 && row.iter().all(|cell| !cell.is_empty())));
    assert!(rows(transports).len() >= 4, "something is weighed");
    mentions(section(&document, "Sent is durable, delivered is eventual"), &["No order is promised between"]);
}

/// TO3, T5, T6: fan-out on write and on read are weighed, and every number of the page is the default of its setting.
#[test]
fn to3_the_numbers_are_the_defaults() {
    let document = document();
    let printed = command(BINARY, &["config", "print", "--short"], &[]);
    let default = |key: &str| {
        let line = printed.stdout.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        let value = line.and_then(|rest| rest.split_whitespace().next());
        value.unwrap_or_else(|| panic!("there is no setting {key}: {}", printed.stdout)).to_owned()
    };
    let fanout = section(&document, "Fan-out");
    mentions(fanout, &["*On write*", "*On read*"]);
    let (direct_max, queue_min) = (default("fanout.direct_max"), default("fanout.queue_min"));
    let slices = format!("slices of {} sessions", default("gateway.slice_sessions"));
    mentions(fanout, &[&format!("| up to {direct_max} |"), &format!("| up to {queue_min} |"), &slices]);
    let settings: Vec<_> =
        rows(&document).into_iter().filter(|row| row.len() == 2 && row[0].starts_with('`')).collect();
    assert!(settings.len() >= 8, "{settings:?}");
    for row in settings {
        assert_eq!(row[1], default(row[0].trim_matches('`')), "{row:?}");
    }
    // A setting that is named elsewhere exists as well.
    for words in code(&document) {
        let (key, value) = words.split_once('=').unwrap_or((words, ""));
        let is_key = ["limits.", "presence.", "fanout.", "gateway.", "conversations.", "typing."]
            .iter()
            .any(|section| key.starts_with(section));
        assert!(!is_key || !default(key).is_empty(), "{words}");
        if is_key && !value.is_empty() {
            let checked = command(BINARY, &["config", "check", "--set", words], &[]);
            assert_eq!(checked.status, Some(0), "{words} is no legal setting: {checked:?}");
        }
    }
}

/// T10: each part that such designs name has its role here, a file that fills it, and tests of that role, which exist and run.
#[test]
fn t10_every_role_has_a_part_and_tests() {
    let document = document();
    let sources = scan::workspace(&root()).expect("the sources");
    let rows = rows(section(&document, "Parts that others name"));
    let parts: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    for named in ["Kafka", "Redis)", "Redis with TTL", "Cassandra", "Postgres"] {
        assert!(parts.iter().any(|part| part.contains(named)), "{named} is in none of {parts:?}");
    }
    for row in &rows {
        let [part, role, here, tests] = row[..] else { panic!("four cells: {row:?}") };
        assert!(!role.is_empty(), "{part} has a role");
        assert!(!code(here).is_empty() && !code(tests).is_empty(), "{part}: {here}, {tests}");
        for path in code(here) {
            assert!(root().join(path).exists(), "{part}: there is no {path}");
        }
        for test in code(tests) {
            let defines = |text: &str| text.contains(&format!("#[test]\nfn {test}() {{"));
            let count = sources.files.iter().filter(|(_, text)| defines(text)).count();
            assert_eq!(count, 1, "{part}: there is no test {test}");
        }
    }
}

/// The sum of a metric's samples whose line holds all of these.
fn metric(admin: SocketAddr, name: &str, labels: &[&str]) -> u64 {
    let text = request(admin, "GET", "/metrics", None, &[], None).text;
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let lines: Vec<&str> = text.lines().filter(of_name).collect();
    assert!(!lines.is_empty(), "no metric {name} in {text}");
    let wanted = lines.iter().filter(|line| labels.iter().all(|label| line.contains(label)));
    wanted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Asks until the answer is at least this; the page is brought up to date a few times a second.
fn until_at_least(least: u64, ask: impl Fn() -> u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = ask();
        if value >= least {
            return value;
        }
        assert!(Instant::now() < deadline, "{value} and not {least}");
    }
}

struct Party {
    server: Server,
    pair: String,
    group: String,
    at_alice: Client,
    others: [Client; 2],
}

/// Alice with bob and carol, all live, in a pair and a group; the creations are heard.
fn party(deployment: Deployment, settings: &[&str]) -> Party {
    let server = Server::start(BINARY, deployment, settings);
    (1..=3).for_each(|user| introduce(&server, user));
    let pair = create(&server, 1, &json!({"type": "one_to_one", "member_ids": ["2"]}));
    let wish = json!({"type": "group", "group_name": "three", "member_ids": ["2", "3"]});
    let group = create(&server, 1, &wish);
    let live = |user: u64| {
        let mut client = Client::login(&server, Wire::Json, user, "phone");
        client.until_type("caught_up");
        client
    };
    let (at_alice, others) = (live(1), [live(2), live(3)]);
    Party { pair, group, at_alice, others, server }
}

/// WS6: a thousand messages on one connection are one HTTP request, its upgrade; those who hear them make none.
#[test]
fn ws6_a_thousand_messages_are_one_http_request() {
    const MESSAGES: usize = 1_000;
    for deployment in [Deployment::OneProcess, Deployment::Tiers] {
        let Party { server, pair, at_alice, mut others, .. } = party(deployment, &["limits.send_per_s=0"]);
        let admin = server.admin();
        drop(at_alice);
        let heard = || metric(admin, "carillon_gateway_heard_total", &["kind=\"send_message\""]);
        let counts = || {
            [
                metric(admin, "carillon_gateway_upgrades_total", &["outcome=\"done\""]),
                metric(admin, "carillon_gateway_upgrades_total", &["outcome=\"http\""]),
                metric(admin, "carillon_http_requests_total", &[]),
            ]
        };
        // What a shard has counted is on the page a turn later: three people were introduced, and two conversations made.
        until_at_least(3, || counts()[0]);
        until_at_least(5, || counts()[1].min(counts()[2]));
        let before = counts();
        let mut at_alice = Client::login(&server, Wire::Json, 1, "phone");
        let acks = at_alice.say_all(&pair, (0..MESSAGES).map(|n| n.to_string()));
        assert_eq!(acks.len(), MESSAGES);
        assert_eq!(others[0].events(&pair, MESSAGES).len(), MESSAGES);
        until_at_least(MESSAGES as u64, heard);
        let after = counts();
        assert_eq!(
            after,
            [before[0] + 1, before[1], before[2]],
            "{deployment:?}: the upgrade, and nothing else"
        );
    }
}

/// GF2, OO2: a group's message takes the way of a pair's: from the gateway, which stores nothing, to the router that owns
/// the conversation, and is an event there before anybody hears it.
#[test]
fn gf2_a_groups_message_goes_to_its_owner_like_a_pairs() {
    const MESSAGES: u64 = 5;
    let Party { server, pair, group, mut at_alice, mut others } = party(Deployment::Tiers, &[]);
    let router = server.router.as_ref().map(|router| router.address("admin")).expect("a router");
    let counts = || {
        [
            metric(server.admin(), "carillon_gateway_submits_total", &[]),
            metric(router, "carillon_router_requests_total", &["outcome=\"appended\""]),
            metric(router, "carillon_fanout_recipients_count", &[]),
        ]
    };
    let gateway = request(server.admin(), "GET", "/metrics", None, &[], None).text;
    assert!(!gateway.contains("carillon_router_requests"), "the gateway owns nothing");
    for (conversation, recipients) in [(&pair, 1), (&group, 2)] {
        let before = counts();
        for n in 0..MESSAGES {
            at_alice.say(conversation, "x", &format!("{conversation} {n}"));
        }
        for other in &mut others[..recipients] {
            assert_eq!(other.events(conversation, MESSAGES as usize).len() as u64, MESSAGES);
        }
        for (place, what) in ["submitted", "appended by the owner", "handed on"].into_iter().enumerate() {
            let count = until_at_least(before[place] + MESSAGES, || counts()[place]);
            assert_eq!(count, before[place] + MESSAGES, "{what}, {recipients} recipients");
        }
    }
}

/// TO2: the time from commit to delivery is on the metrics page, once for each client that was told, and the page of
/// decisions says what it is.
#[test]
fn to2_commit_to_deliver_is_measured() {
    const MESSAGES: u64 = 10;
    let document = document();
    let eventual = section(&document, "Sent is durable, delivered is eventual");
    let names: BTreeSet<&str> =
        code(eventual).into_iter().filter(|word| word.starts_with("carillon_")).collect();
    assert!(names.contains("carillon_commit_to_deliver_seconds"), "{names:?}");
    let Party { server, group, mut at_alice, mut others, .. } = party(Deployment::OneProcess, &[]);
    let text = request(server.admin(), "GET", "/metrics", None, &[], None).text;
    for name in names {
        assert!(text.contains(&format!("# TYPE {name} ")), "there is no metric {name}");
    }
    let count = || metric(server.admin(), "carillon_commit_to_deliver_seconds_count", &[]);
    let before = count();
    for n in 0..MESSAGES {
        at_alice.say(&group, "x", &n.to_string());
    }
    for other in &mut others {
        assert_eq!(other.events(&group, MESSAGES as usize).len() as u64, MESSAGES);
    }
    // The sender's own event is its ack.
    let expected = before + 2 * MESSAGES;
    assert_eq!(until_at_least(expected, count), expected);
    let buckets = request(server.admin(), "GET", "/metrics", None, &[], None).text;
    let all = buckets
        .lines()
        .filter(|line| line.starts_with("carillon_commit_to_deliver_seconds_bucket") && line.contains("+Inf"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum::<u64>();
    assert_eq!(all, expected);
}
