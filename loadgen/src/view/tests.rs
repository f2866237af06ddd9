#![expect(clippy::disallowed_methods, reason = "the expected screens are files")]

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn summary(us: u64) -> Summary {
    Summary { count: 9, p50_us: us, p90_us: 2 * us, p99_us: 3 * us, p999_us: 20 * us, max_us: 50 * us }
}

fn rows() -> Vec<Row> {
    let row = |t_s: u64| Row {
        t_s,
        intended: 1_000 + 10 * t_s,
        acked: 990 + 10 * t_s,
        delivered: 1_980,
        refused: 1,
        errors: 0,
        to_ack_us: summary(700 + 10 * t_s),
        to_delivered_us: summary(900),
    };
    (0..40).map(row).collect()
}

fn screen(width: u16, height: u16, now: &Snapshot<'_>) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

#[track_caller]
fn is_drawn(name: &str, drawn: &str) {
    let path = format!("{}/src/view/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("CARILLON_BLESS").is_some() {
        std::fs::write(&path, drawn).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let hint = "CARILLON_BLESS=1 cargo test -p carillon-loadgen --lib view writes it anew";
    assert!(expected == drawn, "{hint}\n{drawn}");
}

fn with_snapshot<T>(test: impl FnOnce(&Snapshot<'_>) -> T) -> T {
    let (rows, troubles) =
        (rows(), BTreeMap::from([("rate_limited".to_owned(), 1_234), ("reset".to_owned(), 2)]));
    let used = Used {
        cpu: BTreeMap::from([("gateway".to_owned(), 0.625), ("store".to_owned(), 0.25)]),
        memory_bytes: 300 << 20,
    };
    test(&Snapshot {
        title: "one-to-one",
        doing: Doing::Sending { stage: 2, stages: 3, per_s: 1_000.0 },
        elapsed_s: 41.2,
        length_s: 65.0,
        clients: 200,
        live: 198,
        lost: 3,
        reconnects: 1,
        stopped: 0,
        dropped: 0,
        unanswered: 17,
        row_s: 1,
        rows: &rows,
        to_ack: summary(800),
        to_delivered: summary(900),
        heartbeat: Summary::default(),
        troubles: &troubles,
        violations: &[("lost", 0), ("gap", 4)],
        server: Some(&used),
    })
}

/// The whole screen, as it is drawn.
#[test]
fn a_run_is_shown_on_a_screen() {
    with_snapshot(|now| is_drawn("running", &screen(100, 30, now)));
}

#[test]
fn a_run_that_has_nothing_to_show_yet_is_shown_as_such() {
    with_snapshot(|now| {
        let now = Snapshot {
            doing: Doing::Connecting,
            length_s: 0.0,
            rows: &[],
            to_ack: Summary::default(),
            to_delivered: Summary::default(),
            troubles: &BTreeMap::new(),
            violations: &[("lost", 0)],
            server: None,
            ..now.clone()
        };
        is_drawn("connecting", &screen(80, 24, &now));
    });
}

/// Whatever a terminal is resized to, and however far the run is, drawing comes to an end without a panic.
#[test]
fn every_size_can_be_drawn() {
    with_snapshot(|now| {
        for (width, height) in [(1, 1), (3, 40), (20, 5), (79, 23), (300, 100)] {
            for doing in [Doing::Preparing, Doing::Settling, Doing::Judging, Doing::Holding] {
                screen(width, height, &Snapshot { doing, elapsed_s: 900.0, ..now.clone() });
            }
            screen(width, height, &Snapshot { rows: &now.rows[..1], ..now.clone() });
        }
    });
}

#[test]
fn a_line_says_the_same_in_short() {
    with_snapshot(|now| {
        let expected =
            "41 s · intended 1390/s · acked 1380/s · delivered 1980/s · unanswered 17 · p99 to ack 3.3 ms";
        assert_eq!(line(now), expected);
        let idle = Snapshot { doing: Doing::Holding, heartbeat: summary(1_000), ..now.clone() };
        assert_eq!(line(&idle), "idle: alive 198 of 200, lost 3 · heartbeats answered 9, p99 3.0 ms");
        let connecting = Snapshot { doing: Doing::Connecting, ..now.clone() };
        assert_eq!(line(&connecting), "connecting: alive 198 of 200, lost 3");
    });
}

#[test]
fn numbers_are_grouped() {
    for (number, words) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), words);
    }
}
