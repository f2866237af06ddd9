//! The load generator against a real server: every scenario that comes with it, in small, and workers whose reports become
//! one. What it costs is no matter here, only that nobody finds a promise broken.

#![expect(clippy::disallowed_methods, reason = "reports are files")]

use std::ffi::OsString;

use carillon_loadgen::options::Options;
use carillon_loadgen::report::VIOLATION;
use carillon_loadgen::scenario::{PRESETS, Scenario};
use carillon_node::clock::Clock;
use carillon_tests::server::{Deployment, Server};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

/// How large a preset is here: clients, members of a group, and how long it sends.
struct Small {
    name: &'static str,
    clients: u32,
    group_size: u32,
    seconds: f64,
}

const fn small(name: &'static str, clients: u32, group_size: u32, seconds: f64) -> Small {
    Small { name, clients, group_size, seconds }
}

const SMALL: [Small; 8] = [
    small("one-to-one", 20, 2, 2.0),
    small("groups-200", 60, 20, 2.0),
    small("group-1000", 60, 60, 2.0),
    small("channel-25000", 90, 90, 2.0),
    small("mixed-day", 20, 5, 3.0),
    small("reconnect-storm", 40, 10, 3.0),
    small("presence-storm", 40, 10, 3.0),
    small("slow-readers", 20, 10, 2.0),
];

/// Messages a second of a small run are within this, whatever the large one has: enough to find something.
const PER_S: (f64, f64) = (20.0, 60.0);

/// A preset in small: its stages, storms and watchers as they are, in less time and with fewer people.
fn options(small: &Small, server: &Server) -> Options {
    let words = ["loadgen", "--warmup", "0s", "--settle", "30s", "--server"].map(OsString::from);
    let places =
        [server.address().to_string().into(), "--data-dir".into(), server.data_dir().into_os_string()];
    let mut options = <Options as clap::Parser>::try_parse_from(words.into_iter().chain(places)).unwrap();
    let preset = PRESETS.iter().find(|preset| preset.name == small.name).unwrap();
    let given = |id: &str| ["warmup", "settle"].contains(&id);
    Scenario::parse(preset.text).unwrap().apply(small.name, &mut options, given).unwrap();
    options.clients = small.clients;
    options.group_size = small.group_size;
    // What is fast enough on a machine of its own is not judged on a busy one.
    options.threshold.clear();
    let send_s = options.send_time().as_secs_f64();
    let (faster, peak_per_s) = (small.seconds / send_s, options.peak_per_s());
    let rarer = peak_per_s.clamp(PER_S.0, PER_S.1) / peak_per_s;
    for stage in &mut options.stages {
        stage.length_ns = (stage.length_ns as f64 * faster) as u64;
        (stage.from_per_s, stage.to_per_s) = (stage.from_per_s * rarer, stage.to_per_s * rarer);
    }
    for storm in &mut options.manners.storms {
        storm.at_ns = (storm.at_ns as f64 * faster) as u64;
        storm.away_ns = storm.away_ns.map(|away_ns| (away_ns as f64 * faster) as u64);
    }
    options
}

#[track_caller]
fn is_clean(name: &str, report: &Value) {
    let violations = report["oracle"]["violations"].as_object().unwrap();
    assert!(violations.values().all(|count| *count == 0), "{name}: {report:#}");
    let tally = &report["oracle"]["tally"];
    assert!(tally["acked"].as_u64() > Some(0) && tally["acked"] == tally["sends"], "{name}: {report:#}");
    // A busy machine may make the generator late, which it says; nothing else may be wrong.
    let is_only_late = |words: &Value| {
        words
            .as_str()
            .is_some_and(|words| words.contains("generator was late") || words.ends_with("left in time"))
    };
    assert!(report["invalid_because"].as_array().unwrap().iter().all(is_only_late), "{name}: {report:#}");
}

/// FR2, GF4, CP3, CP13: one-to-one chat, groups of 200, a group of 1,000, a channel of 25,000, a day of 40 messages a user with
/// a tenth of them media, a storm of reconnects (F19), one of presence (F20), and slow readers (F14). In none of them anything is
/// lost, doubled, reordered, skipped, invented, misdelivered or changed (G1–G9, G11).
#[test]
fn every_preset_keeps_every_promise() {
    // Who goes is offline at once: in small they stay away for half a second.
    let more = ["conversations.max_members=25000", "limits.send_per_s=0", "presence.offline_after_ms=0"];
    let server = Server::start(BINARY, Deployment::OneProcess, &more);
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    assert_eq!(names.len(), SMALL.len(), "{names:?}");
    for small in &SMALL {
        let options = options(small, &server);
        let outcome = carillon_loadgen::io::run(&options);
        assert_ne!(outcome.exit, VIOLATION, "{}: {}", small.name, outcome.text);
        let report = outcome.report.unwrap_or_else(|| panic!("{}: {}", small.name, outcome.text));
        is_clean(small.name, &report);
        let (generator, asked) = (&report["generator"], &report["options"]);
        let storms = asked["storms"].as_array().unwrap();
        if !storms.is_empty() {
            assert!(
                generator["reconnects"].as_u64() >= Some(small.clients.into()),
                "{}: {report:#}",
                small.name
            );
        }
        assert_eq!(asked["mix"]["media"] == 0.1, small.name == "mixed-day", "{asked:#}");
        if asked["watch"] != 0 {
            assert!(
                generator["presence"].as_u64() > Some(small.clients.into()),
                "{}: {report:#}",
                small.name
            );
        }
    }
}

/// When workers start, in seconds from now: long after the last of a handful of clients has connected.
const START_IN_S: u64 = 5;

/// Two generators share a scenario, and neither finds a promise broken (G1–G9, G11); what they found together is the sum of what
/// each found, histograms included.
#[test]
fn workers_share_a_scenario_and_become_one_report() {
    let server = Server::start(BINARY, Deployment::OneProcess, &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).into_os_string();
    let start_at = (Clock.wall_ms() / 1_000 + START_IN_S).to_string();
    let worker = |number: u32| -> Vec<OsString> {
        let line = format!(
            "loadgen --server {} --clients 13 --group-size 4 --rate 100 --duration 3s --warmup 0s --threshold ack_max_ms>0 \
             --threshold achieved_share<0 --start-at {start_at} --worker {number}/2 --report",
            server.address()
        );
        let words = line.split_ascii_whitespace().map(OsString::from);
        let places =
            [path(&format!("w{number}.json")), "--data-dir".into(), server.data_dir().into_os_string()];
        words.chain(places).collect()
    };
    std::thread::scope(|scope| {
        for number in [1, 2] {
            scope.spawn(move || carillon_loadgen::main_with(worker(number)));
        }
    });
    let merge = |reports: &[&str], more: &[&str]| {
        let words = ["loadgen", "merge"].map(OsString::from).into_iter();
        let more = more.iter().map(|word| if word.starts_with("--") { (*word).into() } else { path(word) });
        carillon_loadgen::main_with(words.chain(reports.iter().map(|name| path(name))).chain(more))
    };
    let outputs = ["--report", "all.json", "--csv", "all.csv", "--html", "all.html", "--hlog", "all.hlog"];
    let exit = merge(&["w2.json", "w1.json"], &outputs);
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap() };
    let (one, two, all) = (read("w1.json"), read("w2.json"), read("all.json"));
    is_clean("merged", &all);
    // The threshold that nothing reaches is missed by the whole as well, unless a busy machine made a worker late.
    let is_valid = all["invalid_because"].as_array().unwrap().is_empty();
    assert_eq!(exit, if is_valid { 99 } else { 3 }, "{all:#}");
    for pointer in [
        "/oracle/tally/sends",
        "/oracle/tally/deliveries",
        "/oracle/history_messages",
        "/whole/intended",
        "/whole/to_ack_us/count",
        "/whole/to_delivered_us/count",
        "/whole/to_last_us/count",
        "/options/clients",
        "/generator/due",
    ] {
        let of = |report: &Value| report.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
        assert!(of(&one) > 0 && of(&two) > 0, "{pointer}");
        assert_eq!(of(&one) + of(&two), of(&all), "{pointer}");
    }
    // Three groups of four and one who is left over, whose group reaches back.
    let clients =
        |report: &Value| (report["options"]["clients"].clone(), report["options"]["first_user"].clone());
    assert_eq!([clients(&one), clients(&two)], [(8.into(), 1_000.into()), (5.into(), 1_008.into())]);
    // Every message of the course is in a histogram of its row.
    for row in all["series"]["rows"].as_array().unwrap() {
        assert_eq!(row["acked"], row["to_ack_us"]["count"], "{row}");
        assert_eq!(row["delivered"], row["to_delivered_us"]["count"], "{row}");
    }
    let slowest = |report: &Value| report["whole"]["to_ack_us"]["max_us"].as_u64();
    assert_eq!(slowest(&all), slowest(&one).max(slowest(&two)));
    let html = std::fs::read_to_string(path("all.html")).unwrap();
    assert!(html.contains("<h2>Workers</h2>"));
    let rows = all["series"]["rows"].as_array().unwrap().len();
    assert_eq!(std::fs::read_to_string(path("all.csv")).unwrap().lines().count(), rows + 1);

    assert_eq!(merge(&["w1.json"], &[]), 3, "the other is missing");
    assert_eq!(merge(&["w1.json", "all.json"], &[]), 3, "what is merged is no worker's");
    std::fs::copy(path("w1.hlog"), path("w2.hlog")).unwrap();
    assert_eq!(merge(&["w1.json", "w2.json"], &[]), 3, "the log is of another");
}
