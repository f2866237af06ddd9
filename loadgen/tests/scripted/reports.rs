//! What a run writes: the report and its schema, the table, the page.

use serde_json::Value;

use crate::run;
use crate::server::Script;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loadgen-report.schema.json");

/// What of a value is not as the schema says, in the words that our schemas use; a word that is not known here fails.
fn complaints(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else { return };
    for (word, rule) in schema {
        let is_right = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "format" | "default" => true,
            "$ref" => {
                let target = rule.as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
                complaints(root, target.expect("a definition"), value, at, found);
                true
            }
            "type" => types(rule).iter().any(|name| is_a(value, name)),
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            // Bounds are of numbers: what else a value may be, "type" says.
            "minimum" => !value.is_number() || value.as_f64() >= rule.as_f64(),
            "maximum" => !value.is_number() || value.as_f64() <= rule.as_f64(),
            "anyOf" | "oneOf" => rule.as_array().unwrap().iter().any(|each| {
                let mut inner = Vec::new();
                complaints(root, each, value, at, &mut inner);
                inner.is_empty()
            }),
            "required" => {
                rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "properties" => {
                for (name, inner) in rule.as_object().unwrap() {
                    if let Some(inner_value) = value.get(name) {
                        complaints(root, inner, inner_value, &format!("{at}/{name}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                for (name, inner_value) in value.as_object().into_iter().flatten() {
                    complaints(root, rule, inner_value, &format!("{at}/{name}"), found);
                }
                true
            }
            "items" => {
                for (place, inner_value) in value.as_array().into_iter().flatten().enumerate() {
                    complaints(root, rule, inner_value, &format!("{at}/{place}"), found);
                }
                true
            }
            unknown => panic!("the checker does not know {unknown}"),
        };
        if !is_right {
            found.push(format!("{at}: {word} {rule}"));
        }
    }
}

fn types(rule: &Value) -> Vec<&str> {
    rule.as_array().map_or_else(
        || rule.as_str().into_iter().collect(),
        |all| all.iter().filter_map(Value::as_str).collect(),
    )
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("{other} is no type of JSON Schema"),
    }
}

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(SCHEMA).unwrap()).unwrap()
}

#[track_caller]
pub(crate) fn is_as_the_schema_says(report: &Value) {
    let (schema, mut found) = (schema(), Vec::new());
    complaints(&schema, &schema, report, "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_schema_in_the_documents_is_that_of_the_types() {
    let text = format!("{:#}\n", carillon_loadgen::report::schema());
    if std::env::var_os("CARILLON_BLESS").is_some() {
        std::fs::write(SCHEMA, &text).unwrap();
    }
    let hint = "CARILLON_BLESS=1 cargo test -p carillon-loadgen --test scripted writes it anew";
    assert!(std::fs::read_to_string(SCHEMA).unwrap() == text, "{hint}");
}

#[test]
fn a_real_report_is_as_the_schema_says_and_another_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (csv, html) = (dir.path().join("run.csv"), dir.path().join("run.html"));
    let more = ["--csv", csv.to_str().unwrap(), "--html", html.to_str().unwrap(), "--duration", "3s"];
    let (_, report) = run(Script::Hangs, &more);
    is_as_the_schema_says(&report);
    let (schema, mut wrong) = (schema(), report.clone());
    wrong["steps"][0]["to_ack_us"]["p99_us"] = "fast".into();
    wrong["series"].as_object_mut().unwrap().remove("rows");
    let mut found = Vec::new();
    complaints(&schema, &schema, &wrong, "", &mut found);
    for place in ["/series: required", "/steps/0/to_ack_us/p99_us: type"] {
        assert!(found.iter().any(|words| words.starts_with(place)), "{found:#?}");
    }

    // The course adds up to what the oracle saw, and the table is the course.
    let rows = report["series"]["rows"].as_array().unwrap();
    let total = |name: &str| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    let tally = &report["oracle"]["tally"];
    assert_eq!(Some(total("intended")), tally["sends"].as_u64(), "{report:#}");
    assert_eq!(Some(total("acked")), tally["acked"].as_u64());
    assert_eq!(Some(total("delivered")), tally["deliveries"].as_u64());
    // Messages to groups have a last copy, and a flat run's one step is the whole.
    let (whole, step) = (&report["whole"]["to_last_us"], &report["steps"][0]["to_last_us"]);
    assert!(whole["count"].as_u64() > Some(0) && whole == step, "{report:#}");
    assert!(total("errors") >= 1 && rows.len() >= 3, "the lost connection is in the course");
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), rows.len() + 1);
    let html = std::fs::read_to_string(html).unwrap();
    assert!(
        html.contains("<svg")
            && !html.contains("http://")
            && !html.contains("https://")
            && !html.contains("<script")
    );
}

#[test]
fn idle_connections_are_kept_and_measured() {
    let pid = std::process::id().to_string();
    let (exit, report) = run(Script::Behaves, &["--idle", "--server-pid", &pid]);
    is_as_the_schema_says(&report);
    assert_eq!((exit, report["idle"]["connections"].as_u64()), (0, Some(6)), "{report:#}");
}

#[test]
fn a_ramp_reports_its_steps() {
    let dir = tempfile::tempdir().unwrap();
    let hlog = dir.path().join("run.hlog");
    let more = ["--ramp", "20:10:1", "--ramp-p99-ms", "1", "--hlog", hlog.to_str().unwrap()];
    let (_, report) = run(Script::Behaves, &more);
    is_as_the_schema_says(&report);
    let steps = report["steps"].as_array().unwrap();
    assert!(!steps.is_empty() && steps[0]["rate_per_s"] == 20.0, "{report:#}");
    assert!(std::fs::read_to_string(hlog).unwrap().contains("Tag=ack"));
}

#[test]
fn reports_are_compared_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut report) = run(Script::Behaves, &["--duration", "1s"]);
    let write = |name: &str, report: &Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, report.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let short = write("short.json", &report);
    // A loaded machine may have made the run invalid; what is compared here is made.
    (report["verdict"], report["invalid_because"]) = ("good".into(), Value::Array(Vec::new()));
    let row = report["series"]["rows"][0].clone();
    let course = |factor: u64| -> Vec<Value> {
        let at = |t_s: u64| {
            let mut row = row.clone();
            row["t_s"] = t_s.into();
            for what in ["to_ack_us", "to_delivered_us"] {
                row[what]["p50_us"] = (factor * (1_000 + t_s)).into();
                row[what]["p99_us"] = (factor * (2_000 + t_s)).into();
            }
            row
        };
        (0..20).map(at).collect()
    };
    (report["series"]["measured_from_s"], report["series"]["measured_to_s"]) = (0.into(), 20.into());
    report["series"]["rows"] = course(1).into();
    let before = write("before.json", &report);
    report["series"]["rows"] = course(2).into();
    let after = write("after.json", &report);
    let exit = |args: &[&str]| carillon_loadgen::main_with([&["loadgen", "diff"], args].concat());
    assert_eq!(exit(&[&before, &before]), 0);
    assert_eq!(exit(&[&before, &after]), 1);
    assert_eq!(exit(&[&after, &before, "--json"]), 0);
    assert_eq!(exit(&[&before, &after, "--tolerance", "2"]), 0);
    assert_eq!(exit(&[&before, &after, "--figure", "achieved_per_s"]), 0);
    assert_eq!(exit(&[&before, &short]), 3);
    assert_eq!(exit(&[&before, "/nowhere/report.json"]), 3);
    assert_eq!(exit(&[&before, &after, "--figure", "speed"]), 3);
}

#[test]
fn a_threshold_that_is_missed_is_its_own_exit_status() {
    let more = ["--threshold", "achieved_per_s>1", "--threshold", "ack_max_ms<0.001"];
    let (exit, report) = run(Script::Behaves, &more);
    is_as_the_schema_says(&report);
    let met: Vec<_> = report["thresholds"].as_array().unwrap().iter().map(|each| &each["is_met"]).collect();
    assert_eq!(met, [true, false], "{report:#}");
    // A loaded machine may make the generator late: then the run says nothing, and nothing was missed.
    let expected = if report["invalid_because"] == serde_json::json!([]) { 99 } else { 3 };
    assert_eq!(exit, expected, "{report:#}");
    assert_eq!(run(Script::Behaves, &["--threshold", "speed>1"]).0, 3);
}

#[test]
fn a_search_ends_with_a_table_of_its_probes() {
    let dir = tempfile::tempdir().unwrap();
    let server = crate::server::Server::start(Script::Behaves, dir.path()).to_string();
    let path = dir.path().join("limit.json");
    let mut args =
        vec!["loadgen", "find-limit", "--server", &server, "--data-dir", dir.path().to_str().unwrap()];
    // A bound that nothing reaches: each probe does not hold, and the rate is halved.
    let more =
        "--clients 6 --group-size 3 --from 80 --probes 2 --duration 1s --warmup 0s --p99-ms 0 --report";
    args.extend(more.split(' '));
    args.push(path.to_str().unwrap());
    let exit = carillon_loadgen::main_with(args);
    let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    is_as_the_schema_says(&report);
    let rates: Vec<_> = report["steps"].as_array().unwrap().iter().map(|step| &step["rate_per_s"]).collect();
    assert_eq!(rates, [40.0, 80.0]);
    assert_eq!((exit, &report["limit"]["holds_per_s"]), (3, &Value::Null), "{report:#}");
    assert_eq!(report["limit"]["saturates_per_s"], 40.0);
    assert_eq!(carillon_loadgen::main_with(["loadgen", "find-limit", "--probes", "0"]), 3);
}
