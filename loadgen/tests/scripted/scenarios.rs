//! Scenario files against the scripted server: what they ask for happens, and the oracle finds nothing.

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
}
