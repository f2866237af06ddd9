//! However sockets are carried, a run comes to the same.

use serde_json::{Value, json};

use crate::server::Script;
use crate::{reports, run, run_with};

/// The carriers that are allowed here, by what a run on each of them says.
fn carriers() -> Vec<&'static str> {
    let words =
        ["--clients", "2", "--rate", "50", "--duration", "200ms", "--warmup", "0s", "--mix", "one_to_one=1"];
    let is_allowed = |io: &&str| {
        let (_, report) = run_with(Script::Behaves, &[&words[..], &["--io", io]].concat());
        // Of a plan that is refused there is no report.
        assert!(report.is_null() || report["machine"]["io"] == *io, "{report:#}");
        !report.is_null()
    };
    let carriers: Vec<_> = ["epoll", "uring"].into_iter().filter(is_allowed).collect();
    assert_eq!(carriers.first(), Some(&"epoll"), "it is allowed everywhere");
    carriers
}

/// The same plan on each of them: as many messages, all of them acknowledged and delivered, nothing wrong.
#[test]
fn a_run_comes_to_the_same_on_every_carrier() {
    let counts = |io: &str, encoding: &str| {
        let words = "--clients 6 --rate 200 --duration 900ms --warmup 100ms --mix one_to_one=1 --arrivals uniform --settle 30s \
                     --threads 2";
        let words: Vec<&str> = words.split_whitespace().chain(["--encoding", encoding, "--io", io]).collect();
        let (exit, report) = run_with(Script::Behaves, &words);
        reports::is_as_the_schema_says(&report);
        assert_eq!((&report["machine"]["engines"], &report["machine"]["io"]), (&json!(2), &json!(io)));
        let found = |pointer: &str| report.pointer(pointer).cloned().unwrap_or(Value::Null);
        let violations = found("/oracle/violations");
        assert!(violations.as_object().unwrap().values().all(|count| count == 0), "{report:#}");
        let is_valid = report["invalid_because"] == json!([]);
        assert_eq!(exit, if is_valid { 0 } else { 3 }, "{report:#}");
        [
            "/oracle/tally/sends",
            "/oracle/tally/acked",
            "/oracle/tally/deliveries",
            "/oracle/history_messages",
            "/generator/reconnects",
            "/troubles",
        ]
        .map(found)
    };
    for encoding in ["json", "rkyv"] {
        let all: Vec<_> = carriers().into_iter().map(|io| counts(io, encoding)).collect();
        let sends = all[0][0].as_u64().unwrap();
        assert!((198..=200).contains(&sends), "{all:?}");
        let expected = [json!(sends), json!(sends), json!(sends), json!(sends), json!(0), json!({})];
        assert!(all.iter().all(|counts| *counts == expected), "{all:#?}");
    }
}

/// Connections that are cut are made again in the same place, also of those who read slowly, and nothing is lost by it.
#[test]
fn a_storm_loses_nothing_on_any_carrier() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("storm.toml");
    let text = "clients = 9\nslow_readers = { share = 0.3, bytes_per_s = 20000 }\n\
                [[storm]]\nat = '300ms'\nshare = 1.0\n[[storm]]\nat = '600ms'\nshare = 0.5\n\
                [[stage]]\nrate = 200\nlength = '1s'\n";
    std::fs::write(&path, text).unwrap();
    for io in carriers() {
        let words = ["--scenario", path.to_str().unwrap(), "--settle", "30s", "--io", io];
        let (_, report) = run_with(Script::Behaves, &words);
        let violations = report["oracle"]["violations"].as_object().unwrap();
        assert!(violations.values().all(|count| count == 0), "{report:#}");
        let tally = &report["oracle"]["tally"];
        assert_eq!(tally["sends"], tally["acked"], "{report:#}");
        assert!(report["generator"]["reconnects"].as_u64().unwrap() >= 10, "{report:#}");
    }
}

/// Idle connections are held: what they cost is told, and one that is lost makes the run miss what it was for.
#[test]
fn idle_connections_are_held_or_missed() {
    let pid = std::process::id().to_string();
    for io in carriers() {
        let more = ["--hold", "--server-pid", &pid, "--open-rate", "50", "--io", io];
        let (exit, report) = run(Script::Behaves, &more);
        reports::is_as_the_schema_says(&report);
        let idle = &report["idle"];
        assert_eq!((exit, &idle["alive"], &idle["lost"]), (0, &json!(6), &json!(0)), "{report:#}");
        assert!(idle["heartbeat_us"]["count"].as_u64().unwrap() >= 6, "{report:#}");
        assert_eq!(report["thresholds"][0]["threshold"], "connections_lost<1", "{report:#}");
        // The first at once, each of the others a fiftieth of a second later.
        assert!(idle["opened_s"].as_f64().unwrap() >= 0.1, "{report:#}");

        let (exit, report) = run(Script::Tires, &more);
        assert_eq!((exit, &report["idle"]["lost"]), (99, &json!(1)), "{report:#}");
        let (exit, report) =
            run(Script::Tires, &[&more[..], &["--threshold", "connections_lost<2"]].concat());
        assert_eq!((exit, &report["idle"]["lost"]), (0, &json!(1)), "{report:#}");
    }
}
