//! Scenario files and the closed loop against the scripted server: what they ask for happens, and the oracle finds nothing.

use std::collections::BTreeMap;

use serde_json::json;

use crate::run;
use crate::server::Script;

#[test]
fn a_scenario_has_its_stages_storms_and_slow_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.toml");
    let text = "clients = 9\nwatch = 3\nthresholds = ['reconnects>0']\nslow_readers = { share = 0.5, bytes_per_s = 4000 }\n\
                [[storm]]\nat = '600ms'\nshare = 1.0\n\
                [[stage]]\nrate = 100\nlength = '400ms'\n[[stage]]\npause = '200ms'\n\
                [[stage]]\nfrom = 100\nto = 300\nlength = '800ms'\n";
    std::fs::write(&path, text).unwrap();
    let (exit, report) = run(Script::Behaves, &["--scenario", path.to_str().unwrap(), "--settle", "30s"]);
    // Given on the command line by every test: they go before the file.
    assert_eq!((&report["options"]["clients"], &report["options"]["watch"]), (&json!(6), &json!(3)));
    assert_eq!(report["options"]["stages"], json!([]), "--rate goes before the stages");
    assert!(exit == 0 || exit == 3, "{report:#}");

    let (exit, report) = crate::run_with(Script::Behaves, &["--scenario", path.to_str().unwrap()]);
    let violations = report["oracle"]["violations"].as_object().unwrap();
    assert!(violations.values().all(|count| count == 0), "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    let intended: Vec<_> =
        steps.iter().map(|step| step["generator_lag_us"]["count"].as_u64().unwrap()).collect();
    assert!(steps.len() == 3 && intended[1] <= 1, "{intended:?}");
    assert!((20..=60).contains(&intended[0]) && (100..=220).contains(&intended[2]), "{intended:?}");
    assert_eq!(report["generator"]["reconnects"], 9, "{report:#}");
    assert_eq!(report["troubles"]["cut by the scenario"], 9, "{report:#}");
    let is_valid = report["invalid_because"] == json!([]);
    assert_eq!(exit, if is_valid { 0 } else { 3 }, "{report:#}");
}

/// Whom a storm keeps away stays away for so long, and writes nothing meanwhile: the others write as much more.
#[test]
fn who_is_kept_away_by_a_storm_writes_nothing_meanwhile() {
    const AWAY_NS: u64 = 300_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (path, journal) = (dir.path().join("away.toml"), dir.path().join("journal"));
    let text = "clients = 20\nmix = { one_to_one = 1.0 }\nwarmup = '0s'\n\
                [[storm]]\nat = '200ms'\nshare = 0.3\naway = '300ms'\n[[stage]]\nrate = 300\nlength = '900ms'\n";
    std::fs::write(&path, text).unwrap();
    let words =
        ["--scenario", path.to_str().unwrap(), "--journal", journal.to_str().unwrap(), "--settle", "30s"];
    let (_, report) = crate::run_with(Script::Behaves, &words);
    let violations = report["oracle"]["violations"].as_object().unwrap();
    assert!(violations.values().all(|count| count == 0), "{report:#}");
    let (mut away_since_ns, mut sent, mut returned) = (BTreeMap::new(), 0, 0);
    for line in std::fs::read_to_string(journal).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (now_ns, client): (u64, u32) = (words[0].parse().unwrap(), words[2].parse().unwrap());
        match words[1] {
            "disconnected" => drop(away_since_ns.insert(client, now_ns)),
            "connected" => {
                if let Some(since_ns) = away_since_ns.remove(&client) {
                    assert!(now_ns - since_ns >= AWAY_NS, "{line}");
                    returned += 1;
                }
            }
            "sent" => {
                assert!(!away_since_ns.contains_key(&client), "{line}");
                sent += 1;
            }
            _ => {}
        }
    }
    assert!((1..20).contains(&returned), "{report:#}");
    assert_eq!(report["oracle"]["tally"]["sends"], sent);
    assert_eq!(report["options"]["storms"][0]["away_ms"], 300);
}

#[test]
fn a_closed_loop_keeps_so_many_on_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, html) = (dir.path().join("journal"), dir.path().join("run.html"));
    let more = ["--journal", journal.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let (exit, report) = crate::run_paced(Script::Behaves, &["--in-flight", "2"], &more);
    crate::reports::is_as_the_schema_says(&report);
    let tally = &report["oracle"]["tally"];
    assert_eq!((exit, &tally["deliveries"]), (0, &tally["acked"]), "{report:#}");
    assert_eq!((&report["options"]["in_flight"], &report["options"]["rate_per_s"]), (&json!(2), &json!(0.0)));
    assert!(std::fs::read_to_string(html).unwrap().contains("2 messages of each pair in flight"));
    let (mut waiting, mut most) = (BTreeMap::new(), BTreeMap::new());
    for line in std::fs::read_to_string(journal).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let client: u32 = words[2].parse().unwrap();
        match words[1] {
            "sent" => *waiting.entry(client).or_insert(0) += 1,
            "acked" => *waiting.entry(client).or_insert(0) -= 1,
            _ => {}
        }
        let now = waiting.get(&client).copied().unwrap_or(0);
        let so_far = most.entry(client).or_insert(0);
        *so_far = now.max(*so_far);
    }
    // The first of each pair talks, the second listens.
    assert_eq!(most, BTreeMap::from([(0, 2), (1, 0), (2, 2), (3, 0), (4, 2), (5, 0)]));
    assert!(waiting.values().all(|count| *count == 0));
}

#[test]
fn a_scenario_that_cannot_be_read_is_refused_and_presets_are_told() {
    let exit = |args: &[&str]| carillon_loadgen::main_with([&["loadgen"], args].concat());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.toml");
    std::fs::write(&path, "client = 3\n").unwrap();
    assert_eq!(exit(&["--scenario", path.to_str().unwrap()]), 3);
    assert_eq!(exit(&["--scenario", "/nowhere.toml"]), 3);
    assert_eq!(exit(&["--preset", "no-such"]), 3);
    assert_eq!(exit(&["presets", "no-such"]), 3);
    assert_eq!((exit(&["presets"]), exit(&["presets", "mixed-day"])), (0, 0));
    // The names are in the help, and so are those of every preset in the list.
    let help = <carillon_loadgen::cli::Cli as clap::CommandFactory>::command().render_long_help().to_string();
    for preset in carillon_loadgen::scenario::PRESETS {
        assert!(help.contains(preset.name), "{help}");
    }
}
