use std::time::Duration;

use carillon_node::prng::Prng;

use super::*;
use crate::report;

const WORKERS: u32 = 3;
const START_WALL_MS: u64 = 1_700_000_000_000;
const ROWS: u64 = 12;

/// What a generator would have kept of these messages, each of a step and a row.
#[derive(Clone, Default)]
struct Kept {
    steps: [StepLog; 2],
    rows: BTreeMap<u64, (Latency, Latency)>,
    to_last: Latency,
}

impl Kept {
    fn record(&mut self, row: u64, us: u64) {
        let step = &mut self.steps[usize::from(row >= ROWS / 2)];
        let row = self.rows.entry(row).or_default();
        for (latency, us) in [
            (&mut step.to_ack, us),
            (&mut step.to_delivered, us + 50),
            (&mut step.lag, us % 90),
            (&mut self.to_last, us + 70),
            (&mut row.0, us),
            (&mut row.1, us + 50),
        ] {
            latency.record_ns(us * 1_000);
        }
    }

    fn part(&self, worker: Option<u32>, late_rows: u64) -> Part {
        let mut report = report::sample();
        let number = worker.unwrap_or(1);
        report.options.clients = if worker.is_some() { 100 } else { 300 };
        report.options.rate_per_s = f64::from(report.options.clients);
        report.options.first_user = 1_000 + u64::from(number - 1) * 100;
        report.options.worker = worker.map(|number| AskedWorker {
            number,
            of: WORKERS,
            first_client: (number - 1) * 100,
            all_clients: 300,
        });
        let at = Duration::from_secs;
        let mut steps = self.steps.clone();
        (steps[0].start, steps[0].length) = (at(0), at(ROWS / 2));
        (steps[1].start, steps[1].length) = (at(ROWS / 2), at(ROWS / 2));
        report.steps = steps
            .iter()
            .map(|log| {
                judge_step(report.options.rate_per_s, ROWS as f64 / 2.0, &step(log), BTreeMap::new(), 200)
            })
            .collect();
        let start_wall_ms = START_WALL_MS + late_rows * 1_000;
        let row = |(t_s, (to_ack, to_delivered)): (&u64, &(Latency, Latency))| Row {
            t_s: *t_s,
            intended: to_ack.0.len(),
            acked: to_ack.0.len(),
            delivered: to_delivered.0.len(),
            to_ack_us: to_ack.summary(),
            to_delivered_us: to_delivered.summary(),
            ..Row::default()
        };
        report.series = Course {
            start_wall_ms,
            row_s: 1,
            measured_from_s: 0.0,
            measured_to_s: ROWS as f64,
            rows: self.rows.iter().map(row).collect(),
        };
        let packed = |(t_s, (to_ack, to_delivered)): (&u64, &(Latency, Latency))| {
            (*t_s, RowLog::new(to_ack, to_delivered))
        };
        let log = Log {
            start_wall_ms,
            steps: steps.into(),
            rows: self.rows.iter().map(packed).collect(),
            row_s: 1,
            to_last: self.to_last.clone(),
            heartbeat: Latency::default(),
        };
        // As it comes from files.
        let log = Log::parse(&log.text()).unwrap();
        Part { name: format!("w{number}.json"), report, log }
    }
}

/// The same messages, by workers and by one generator.
fn kept() -> (Vec<Kept>, Kept) {
    let mut prng = Prng::new(7);
    let (mut parts, mut whole) = (vec![Kept::default(); WORKERS as usize], Kept::default());
    for _ in 0..5_000 {
        // Workers that are not alike: the quantiles of all are no average of theirs.
        let worker = prng.index(WORKERS as usize);
        let us = prng.between(100, 1_000) * 10u64.pow(worker as u32);
        let row = prng.between(0, ROWS - 1);
        parts[worker].record(row, us);
        whole.record(row, us);
    }
    (parts, whole)
}

fn parts(kept: &[Kept]) -> Vec<Part> {
    (1..).zip(kept).map(|(number, kept)| kept.part(Some(number), 0)).collect()
}

fn json(report: &Report) -> Value {
    serde_json::to_value(report).unwrap()
}

#[test]
fn merged_is_what_one_generator_would_have_found() {
    let (workers, whole) = kept();
    let (merged, log) = merge(parts(&workers)).unwrap();
    let one = whole.part(None, 0);
    for (merged, one) in merged.steps.iter().zip(&one.report.steps) {
        assert_eq!(
            (merged.to_ack_us, merged.to_delivered_us, merged.generator_lag_us, merged.rate_per_s),
            (one.to_ack_us, one.to_delivered_us, one.generator_lag_us, one.rate_per_s)
        );
        assert!((merged.achieved_per_s - one.achieved_per_s).abs() < 1e-9);
    }
    assert_eq!(merged.series.rows, one.report.series.rows);
    assert_eq!(merged.whole.to_last_us, whole.to_last.summary());
    assert_eq!(log.steps[1].to_ack.0, one.log.steps[1].to_ack.0);
    let count = merged.whole.to_ack_us.count;
    assert_eq!((count, merged.whole.intended), (5_000, 5_000));
    assert_eq!((merged.options.clients, merged.options.first_user, merged.workers.len()), (300, 1_000, 3));
    assert!((merged.options.rate_per_s - 300.0).abs() < 1e-9 && merged.options.worker.is_none());
    assert_eq!(merged.oracle.tally.acked, 300, "each sample has 100");
}

#[test]
fn the_order_of_the_workers_does_not_matter() {
    let (workers, _) = kept();
    let named = parts(&workers);
    let expected = merge(named.clone()).map(|(report, log)| (json(&report), log.text())).unwrap();
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shuffled = order.map(|place: usize| named[place].clone()).to_vec();
        let merged = merge(shuffled).map(|(report, log)| (json(&report), log.text())).unwrap();
        assert!(merged == expected, "{order:?}");
    }
}

#[test]
fn rows_are_added_by_the_time_on_the_wall() {
    let (workers, _) = kept();
    let late: Vec<_> =
        (1..).zip(&workers).map(|(number, kept)| kept.part(Some(number), u64::from(number == 2))).collect();
    let (merged, log) = merge(late).unwrap();
    assert_eq!(merged.series.rows.len() as u64, ROWS + 1);
    for row in &merged.series.rows {
        let at = |kept: &Kept, t_s: u64| kept.rows.get(&t_s).map_or(0, |row| row.0.0.len());
        let expected = at(&workers[0], row.t_s)
            + at(&workers[2], row.t_s)
            + row.t_s.checked_sub(1).map_or(0, |t_s| at(&workers[1], t_s));
        assert_eq!((row.acked, row.to_ack_us.count), (expected, expected), "{}", row.t_s);
    }
    assert_eq!((merged.series.measured_from_s, merged.series.measured_to_s), (1.0, 12.0));
    assert_eq!(log.start_wall_ms, START_WALL_MS);
    assert_eq!(merged.workers.iter().map(|worker| worker.late_ms).collect::<Vec<_>>(), [0, 1_000, 0]);
}

#[test]
fn broken_promises_and_reasons_of_each_are_those_of_all() {
    let (workers, _) = kept();
    let mut named = parts(&workers);
    named[1].report.invalid_because.push("the generator was late".to_owned());
    let (merged, _) = merge(named.clone()).unwrap();
    assert_eq!((merged.exit, merged.verdict), (INVALID, Word::Invalid));
    assert_eq!(merged.invalid_because, ["worker 2: the generator was late"]);
    for (place, count) in [(0, 2), (2, 5)] {
        let oracle = &mut named[place].report.oracle;
        oracle.violations.insert("lost".to_owned(), count);
        oracle.examples.push("lost: 7 of 8".to_owned());
    }
    let (merged, _) = merge(named).unwrap();
    assert_eq!((merged.exit, merged.oracle.violations["lost"]), (VIOLATION, 7));
    assert_eq!(merged.oracle.examples, ["worker 1: lost: 7 of 8", "worker 3: lost: 7 of 8"]);
    let found: Vec<_> = merged.workers.iter().map(|worker| worker.violations["lost"]).collect();
    assert_eq!(found, [2, 0, 5]);
}

/// Each worker's own p99 lies on another side of the bound than that of all.
#[test]
fn thresholds_are_judged_again() {
    let (workers, whole) = kept();
    let mut named = parts(&workers);
    let p50_ms = whole.part(None, 0).report.steps[0].to_ack_us.p50_us as f64 / 1e3;
    for part in &mut named {
        let thresholds: Vec<Threshold> =
            ["ack_p50_ms>1", "achieved_per_s<5000"].map(|text| text.parse().unwrap()).into();
        thresholds::apply(&thresholds, &mut part.report);
    }
    let met = |report: &Report| report.thresholds.iter().map(|each| each.is_met).collect::<Vec<_>>();
    let (mut merged, _) = merge(named).unwrap();
    assert_eq!(met(&merged), [p50_ms > 1.0, true]);
    assert!(merged.thresholds[0].value > Some(1.0), "{:?}", merged.thresholds);
    assert_eq!(merged.exit, GOOD);
    thresholds::apply_more(&["ack_p50_ms<1".parse().unwrap()], &mut merged);
    assert_eq!((met(&merged), merged.exit), (vec![true, true, false], report::MISSED));
}

#[test]
fn the_cpu_of_one_server_is_counted_once() {
    let (workers, _) = kept();
    let mut named = parts(&workers);
    let achieved: Vec<f64> = named.iter().map(|part| part.report.steps[0].achieved_per_s).collect();
    // Half a hardware thread, as two of them see it.
    for place in [0, 2] {
        let us = 500_000.0 / achieved[place];
        named[place].report.steps[0].cpu_us_per_message.insert("gateway".to_owned(), us);
    }
    let (merged, _) = merge(named).unwrap();
    let expected = 500_000.0 / achieved.iter().sum::<f64>();
    assert!((merged.steps[0].cpu_us_per_message["gateway"] - expected).abs() < 0.01, "{expected}");
}

#[test]
fn held_connections_are_those_of_all() {
    let (workers, _) = kept();
    let mut named = parts(&workers);
    for (place, part) in named.iter_mut().enumerate() {
        part.report.idle = Some(Idle {
            connections: 100,
            alive: 99,
            lost: 1,
            memory_before_bytes: 1_000 + place as u64,
            memory_after_bytes: 31_000 - place as u64,
            held_s: 10.0 + place as f64,
            cpu_us_per_connection_s: 3.0,
            generator_bytes_per_connection: 50,
            ..Idle::default()
        });
        part.log.heartbeat.record_ns(1_000_000);
    }
    let idle = merge(named).unwrap().0.idle.unwrap();
    assert_eq!((idle.connections, idle.alive, idle.lost, idle.bytes_per_connection), (300, 297, 3, 100));
    assert_eq!((idle.heartbeat_us.count, idle.held_s), (3, 10.0));
    assert_eq!((idle.cpu_us_per_connection_s, idle.generator_bytes_per_connection), (1.0, 50));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    type Change = fn(&mut Vec<Part>);
    let cases: [(Change, &str); 12] = [
        (|parts| parts[1].report.options.group_size += 1, "its group_size is 6, not 5"),
        (|parts| parts[1].report.options.clients += 1, "its rate_per_s is"),
        (|parts| parts[2].report.options.first_user += 1, "its first_user is 1001, not 1000"),
        (|parts| parts[2].report.options.worker.as_mut().unwrap().of = 4, "its worker is"),
        (
            |parts| {
                parts[2].report.options.storms.push(report::AskedStorm {
                    at_ms: 1,
                    share: 1.0,
                    away_ms: None,
                })
            },
            "its storms is",
        ),
        (|parts| parts[0].report.options.worker = None, "w1.json is of a whole run"),
        (|parts| drop(parts.pop()), "worker 3 of 3 is missing"),
        (|parts| parts.push(parts[0].clone()), "w1.json and w1.json are both of worker 1"),
        (
            |parts| thresholds::apply(&["ack_p50_ms>1".parse().unwrap()], &mut parts[1].report),
            "its thresholds is",
        ),
        (
            |parts| {
                for (part, commit) in parts.iter_mut().zip(["aa", "bb"]) {
                    commit.clone_into(&mut part.report.commit);
                }
            },
            "different commits: aa, bb",
        ),
        (
            |parts| {
                parts[1].report.series.start_wall_ms += 2_000;
                parts[1].log.start_wall_ms += 2_000;
            },
            "10.0 s of that at once",
        ),
        (|parts| parts[1].log = parts[0].log.clone(), "the log beside w2.json is not of its run"),
    ];
    let (workers, _) = kept();
    for (change, words) in cases {
        let mut named = parts(&workers);
        change(&mut named);
        let sentence = merge(named).map(|_| ()).unwrap_err();
        assert!(sentence.contains(words) && !sentence.contains('\n'), "{words}: {sentence}");
    }
    assert!(merge(Vec::new()).is_err());
}
