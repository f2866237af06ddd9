//! What a scrape shows: sums over threads, histograms, the standard process metrics, and nothing without a bound.
#![expect(clippy::disallowed_methods, reason = "real descriptors are what is tested")]

use carillon_node::metric_table;
use carillon_node::metrics::{COUNT, Def, LATENCY_NS, Meter, Registry, SERIES_COUNT_MAX, SOURCE_LINES_MAX};

metric_table! {
    /// One of each.
    enum Metric {
        Frames = Def::counter("gateway_frames", "Frames decoded"),
        Refused = Def::counter("gateway_refused", "Frames refused").by("code", &["forbidden", "gone"]),
        Open = Def::gauge("gateway_connections", "Sockets open"),
        Commit = Def::histogram("commit_seconds", "From leaving to durable", &LATENCY_NS),
        Batch = Def::histogram("batch_messages", "Messages a batch", &COUNT).by("lane", &["a", "b"]),
    }
}

#[track_caller]
fn shows(text: &str, line: &str) {
    assert!(text.lines().any(|shown| shown == line), "no line {line:?} in\n{text}");
}

#[test]
fn meters_with_the_same_labels_are_summed_and_others_stand_side_by_side() {
    let registry = Registry::new();
    let shards: Vec<Meter<Metric>> = ["0", "1"].map(|shard| registry.meter(&[("shard", shard)])).into();
    let (one, two) = (registry.meter::<Metric>(&[]), registry.meter::<Metric>(&[]));
    shards[0].add(Metric::Frames, 3);
    shards[1].add(Metric::Frames, 4);
    one.add(Metric::Frames, 10);
    two.add(Metric::Frames, 20);
    two.add(Metric::Frames, 1);
    one.add_at(Metric::Refused, 1, 5);
    one.set(Metric::Open, 7);
    two.set(Metric::Open, -2);
    two.set(Metric::Open, -3);
    assert_eq!((one.value(Metric::Open), two.value(Metric::Frames)), (7, 21));
    drop(two);

    let text = registry.text();
    shows(&text, "# HELP carillon_gateway_frames Frames decoded");
    shows(&text, "# TYPE carillon_gateway_frames counter");
    shows(&text, "carillon_gateway_frames_total 31");
    shows(&text, "carillon_gateway_frames_total{shard=\"0\"} 3");
    shows(&text, "carillon_gateway_frames_total{shard=\"1\"} 4");
    shows(&text, "carillon_gateway_refused_total{code=\"forbidden\"} 0");
    shows(&text, "carillon_gateway_refused_total{code=\"gone\"} 5");
    shows(&text, "carillon_gateway_refused_total{shard=\"0\",code=\"gone\"} 0");
    shows(&text, "carillon_gateway_connections 4");
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# TYPE carillon_gateway_frames ").count(), 1, "one family, whoever writes it");

    let older = registry.text_prometheus();
    shows(&older, "# TYPE carillon_gateway_frames_total counter");
    shows(&older, "carillon_gateway_frames_total 31");
    assert!(!older.contains("# EOF"));
}

/// What a thread counted in plain numbers of its own is shown as if it had been observed.
#[test]
fn observations_that_were_counted_elsewhere_are_merged() {
    let registry = Registry::new();
    let [observed, counted] = ["0", "1"].map(|shard| registry.meter::<Metric>(&[("shard", shard)]));
    let values = [0, 50_000, 50_001, 99_000_000_000];
    let (mut counts, mut sum) = ([0; LATENCY_NS.bounds.len() + 1], 0);
    for value in values {
        observed.observe(Metric::Commit, value);
        counts[LATENCY_NS.bounds.partition_point(|bound| *bound < value)] += 1;
        sum += value;
    }
    counted.merge(Metric::Commit, &counts, sum);
    let text = registry.text();
    let of = |shard: &str| {
        let label = format!("shard=\"{shard}\"");
        let lines = text.lines().filter(|line| line.contains("commit_seconds") && line.contains(&label));
        lines.map(|line| line.replace(&label, "")).collect::<Vec<_>>()
    };
    assert!(of("0").len() > LATENCY_NS.bounds.len(), "{text}");
    assert_eq!(of("0"), of("1"));
}

/// What is counted where meters are not known is asked for at each scrape, and shown as if it had been metered.
#[test]
fn who_has_no_meter_is_asked() {
    let registry = Registry::new();
    let (asked, other) = (registry.meter::<Metric>(&[]), Registry::new());
    asked.observe(Metric::Commit, 70_000);
    let times = std::sync::atomic::AtomicU64::new(0);
    other.ask(move |page| {
        page.counter(
            "store_times",
            "Times asked",
            1 + times.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        );
        page.counters("store_attempts", "Attempts", "outcome", &[("good", 3), ("bad", 0)]);
        page.counter_seconds("store_wait_seconds", "Waiting", 1_500_000_000);
        page.gauge("store_rows", "Rows", 7);
        let mut counts = [0; LATENCY_NS.bounds.len() + 1];
        counts[1] = 1;
        page.histogram_seconds(
            "commit_seconds",
            "From leaving to durable",
            LATENCY_NS.bounds,
            &counts,
            70_000,
        );
    });
    let text = other.text();
    shows(&text, "# TYPE carillon_store_times counter");
    shows(&text, "carillon_store_times_total 1");
    shows(&text, "carillon_store_attempts_total{outcome=\"good\"} 3");
    shows(&text, "carillon_store_attempts_total{outcome=\"bad\"} 0");
    shows(&text, "carillon_store_wait_seconds_total 1.5");
    shows(&text, "carillon_store_rows 7");
    shows(&other.text_prometheus(), "carillon_store_times_total 2");
    let histogram = |text: &str| {
        text.lines().filter(|line| line.contains("commit_seconds")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(histogram(&text), histogram(&registry.text()));
}

/// The lines of those that are asked are kept for them: meters take what is left.
#[test]
fn lines_are_kept_for_who_is_asked() {
    let lines_of = |is_asked: bool| {
        let registry = Registry::new();
        if is_asked {
            registry.ask(|_| {});
        }
        // Each with a label of its own, until there is no room.
        let meters: Vec<Meter<Metric>> =
            (0..SERIES_COUNT_MAX).map(|shard| registry.meter(&[("shard", &shard.to_string())])).collect();
        let count = registry.text().lines().filter(|line| line.starts_with("carillon_")).count();
        drop(meters);
        count
    };
    let (alone, beside) = (lines_of(false), lines_of(true));
    assert!(alone <= SERIES_COUNT_MAX);
    assert!(alone > SERIES_COUNT_MAX - SOURCE_LINES_MAX, "{alone} lines: it would prove nothing");
    assert!(beside <= SERIES_COUNT_MAX - SOURCE_LINES_MAX, "{beside} lines");
}

#[test]
fn histograms_are_cumulative_merged_and_shown_in_base_units() {
    let registry = Registry::new();
    let (one, two) = (registry.meter::<Metric>(&[]), registry.meter::<Metric>(&[]));
    for ns in [0, 50_000, 50_001, 100_000] {
        one.observe(Metric::Commit, ns);
    }
    two.observe(Metric::Commit, 10_000_000_000);
    two.observe(Metric::Commit, 10_000_000_001);
    two.observe_at(Metric::Batch, 1, 3);
    let text = registry.text();
    shows(&text, "carillon_commit_seconds_bucket{le=\"0.00005\"} 2");
    shows(&text, "carillon_commit_seconds_bucket{le=\"0.0001\"} 4");
    shows(&text, "carillon_commit_seconds_bucket{le=\"10.0\"} 5");
    shows(&text, "carillon_commit_seconds_bucket{le=\"+Inf\"} 6");
    shows(&text, "carillon_commit_seconds_count 6");
    shows(&text, "carillon_commit_seconds_sum 20.000200002");
    shows(&text, "carillon_batch_messages_bucket{le=\"2.0\",lane=\"b\"} 0");
    shows(&text, "carillon_batch_messages_bucket{le=\"4.0\",lane=\"b\"} 1");
    shows(&text, "carillon_batch_messages_sum{lane=\"b\"} 3.0");
    shows(&text, "carillon_batch_messages_count{lane=\"a\"} 0");
}

#[test]
fn no_count_is_lost_while_threads_write_and_somebody_reads() {
    const THREADS: u64 = 4;
    const TIMES: u64 = 20_000;
    let registry = Registry::new();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let meter = registry.meter::<Metric>(&[]);
            scope.spawn(move || {
                for ns in 0..TIMES {
                    meter.add(Metric::Frames, 1);
                    meter.observe(Metric::Commit, ns);
                }
            });
        }
        for _ in 0..20 {
            let text = registry.text();
            let number = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
            };
            assert_eq!(
                number("carillon_commit_seconds_count"),
                number("carillon_commit_seconds_bucket{le=\"+Inf\"}")
            );
        }
    });
    shows(&registry.text(), &format!("carillon_gateway_frames_total {}", THREADS * TIMES));
    shows(&registry.text(), &format!("carillon_commit_seconds_count {}", THREADS * TIMES));
}

#[test]
fn the_standard_process_metrics_are_true() {
    let held: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let text = Registry::new().text();
    let number = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!((1e5..1e11).contains(&number("process_resident_memory_bytes")));
    assert!(number("process_open_fds") >= held.len() as f64);
    assert!(number("process_max_fds") >= number("process_open_fds"));
    assert!(number("process_cpu_seconds_total") > 0.0);
    let age_s = carillon_node::clock::Clock.wall_ms() as f64 / 1e3 - number("process_start_time_seconds");
    assert!((-1.0..600.0).contains(&age_s), "started {age_s} s ago");
    shows(&text, "# TYPE process_cpu_seconds counter");
}

/// Every sample line of ours begins with `carillon_`, and a process shows fewer than 1,500 whatever its core count.
#[test]
fn series_are_bounded_by_merging_meters_beyond_the_bound() {
    const SHARDS: u64 = 256;
    let registry = Registry::new();
    for shard in 0..SHARDS {
        registry.meter::<Metric>(&[("shard", &shard.to_string())]).add(Metric::Frames, 1);
    }
    let text = registry.text();
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!((1_000..=SERIES_COUNT_MAX).contains(&samples.len()), "{} series", samples.len());
    assert!(samples.iter().all(|line| line.starts_with("carillon_") || line.starts_with("process_")));
    let frames = samples.iter().filter(|line| line.starts_with("carillon_gateway_frames_total"));
    let total: u64 = frames.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total, SHARDS, "merged, not lost");
}

mod other {
    use super::*;
    metric_table! { enum Clash { Frames = Def::gauge("gateway_frames", "Frames decoded") } }
    metric_table! { enum Named { Bad = Def::counter("gateway_frames_total", "Ends as the library ends it") } }

    #[test]
    #[should_panic(expected = "gateway_frames is defined twice, differently")]
    fn one_name_is_one_kind_of_metric() {
        let registry = Registry::new();
        registry.meter::<Metric>(&[]).add(Metric::Frames, 1);
        registry.meter::<Clash>(&[]).set(Clash::Frames, 1);
    }

    #[test]
    #[should_panic(expected = "is no name for a metric")]
    fn a_name_follows_the_rules() {
        Registry::new().meter::<Named>(&[]).add(Named::Bad, 1);
    }

    #[test]
    #[should_panic(expected = "has no series 2")]
    fn a_label_is_one_of_its_closed_set() {
        Meter::detached().add_at(Metric::Refused, 2, 1);
    }
}
