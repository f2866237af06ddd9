//! A report as one page that needs nothing else: no script, no font, no picture from elsewhere.

use std::fmt::Write as _;

use super::plot::{Axis, Chart, Line, Scale, Unit, escaped};
use super::{AskedStage, Course, CurvePoint, Report, StepReport, ThresholdReport, Word, WorkerReport, text};
use crate::series::Row;
use crate::stats::Summary;

const STYLE: &str = include_str!("style.css");
/// Steps from which on a run is shown by step as well.
const STEPS_MIN: usize = 2;

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut body = header(report);
    body.push_str(&tiles(report));
    if report.steps.len() >= STEPS_MIN {
        let words = "What was asked of the server, step by step, and what came of it.";
        body.push_str(&section("Steps", words, &steps(&report.steps)));
    }
    let mut sections: Vec<String> =
        charts(report).into_iter().map(|(name, words, chart)| section(name, words, &chart)).collect();
    sections.push(section("What was asked for", "The run, as the command line had it.", &asked(report)));
    sections.push(section("Oracle", oracle_words(report), &oracle(report)));
    if !report.thresholds.is_empty() {
        let words = "What the whole measured time had to reach.";
        sections.push(section("Thresholds", words, &thresholds(&report.thresholds)));
    }
    if !report.workers.is_empty() {
        let words = "Generators that ran at once, and what each of them found alone.";
        sections.push(section("Workers", words, &workers(&report.workers)));
    }
    let words = "Counted by the generator; none of it breaks a promise.";
    sections.push(section("What else happened", words, &troubles(report)));
    let _ = write!(body, "<div class=\"grid2\">{}</div>", sections.concat());
    let machine = &report.machine;
    let _ = write!(
        body,
        "<footer>loadgen {} on {}, {} hardware threads, {}, sockets by {} · commit {} · run {} · {}</footer>",
        escaped(&report.carillon_loadgen),
        escaped(&machine.cpu),
        machine.threads,
        escaped(&machine.kernel),
        escaped(&machine.io),
        escaped(report.commit.get(..12).unwrap_or(&report.commit)),
        escaped(&report.run),
        escaped(&report.schema),
    );
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>loadgen: {}</title>\
         <style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        text::verdict(report.verdict)
    )
}

fn section(name: &str, words: &str, body: &str) -> String {
    format!(
        "<section><h2>{}</h2><p>{}</p><div class=\"wide\">{body}</div></section>",
        escaped(name),
        escaped(words)
    )
}

fn header(report: &Report) -> String {
    let class = match report.verdict {
        Word::Good => "good",
        Word::Violation => "violation",
        Word::Invalid | Word::Missed => "invalid",
    };
    let asked = &report.options;
    let what = if asked.idle {
        format!("{} idle connections", asked.clients)
    } else {
        let pace = match asked.in_flight {
            Some(count) => format!("{count} messages of each pair in flight"),
            None => format!("{} messages/s at the start", Unit::Count.words(asked.rate_per_s)),
        };
        format!(
            "{} clients · {pace} · {} · receipts {}",
            Unit::Count.words(f64::from(asked.clients)),
            escaped(&asked.encoding),
            escaped(&asked.receipts)
        )
    };
    let mut out = format!(
        "<header><h1>Carillon under load</h1><span class=\"word {class}\">{}</span></header><p class=\"sub\">{what}</p>",
        text::verdict(report.verdict)
    );
    for words in &report.invalid_because {
        let _ = write!(out, "<p class=\"note\">This run says nothing: {}</p>", escaped(words));
    }
    out
}

fn tiles(report: &Report) -> String {
    let mut tiles = Vec::new();
    let mut tile = |value: String, name: &str| {
        tiles.push(format!("<div class=\"tile\"><b>{value}</b><span>{name}</span></div>"))
    };
    let us = |value: u64| Unit::Microseconds.words(value as f64);
    if let Some(idle) = &report.idle {
        tile(Unit::Count.words(f64::from(idle.connections)), "idle connections");
        tile(Unit::Count.words(idle.lost as f64), "of them were lost");
        tile(format!("{} B", idle.bytes_per_connection), "server memory per connection");
        tile(format!("{:.2} µs", idle.cpu_us_per_connection_s), "server CPU a second and connection");
        tile(us(idle.heartbeat_us.p99_us), "heartbeat → answer, p99");
    }
    if let Some(rate) = report.limit.as_ref().and_then(|limit| limit.holds_per_s) {
        tile(format!("{}/s", Unit::Count.words(rate)), "the highest rate that held");
    }
    if let Some(limit) = report.saturates_at_per_s {
        tile(format!("{}/s", Unit::Count.words(limit)), "asked for where it saturates");
    }
    let best = report.steps.iter().max_by(|one, other| one.achieved_per_s.total_cmp(&other.achieved_per_s));
    if let Some(step) = best {
        tile(format!("{}/s", Unit::Count.words(step.achieved_per_s)), "acknowledged and durable");
        tile(us(step.to_ack_us.p50_us), "intended → ack, p50");
        tile(us(step.to_ack_us.p99_us), "intended → ack, p99");
        tile(us(step.to_delivered_us.p50_us), "intended → delivered, p50");
        tile(us(step.to_delivered_us.p99_us), "intended → delivered, p99");
        if step.to_last_us.count > 0 {
            tile(us(step.to_last_us.p99_us), "intended → last of a group, p99");
        }
        let cpu_us: f64 = step.cpu_us_per_message.values().sum();
        if cpu_us > 0.0 {
            tile(format!("{cpu_us:.1} µs"), "server CPU per message");
        }
    }
    let broken: u64 = report.oracle.violations.values().sum();
    tile(broken.to_string(), "broken promises");
    format!("<div class=\"tiles\">{}</div>", tiles.concat())
}

const TIME: Axis = Axis { name: "seconds since the start", scale: Scale::Linear, unit: Unit::Seconds };

fn charts(report: &Report) -> Vec<(&'static str, &'static str, String)> {
    let course = &report.series;
    let mut charts = Vec::new();
    if !course.rows.is_empty() {
        charts.push((
            "Intended to acknowledged, over time",
            "Of the messages acknowledged in each second; counted from when they were meant to leave.",
            latency_chart(course, |row| &row.to_ack_us).svg(),
        ));
        charts.push((
            "Intended to delivered, over time",
            "Of the copies that reached another member in each second.",
            latency_chart(course, |row| &row.to_delivered_us).svg(),
        ));
        charts.push((
            "Throughput",
            "Messages a second. The dashed line is what was intended, whatever the server did.",
            count_chart(
                course,
                &[("intended", "intended", |row| row.intended), ("acked", "acked", |row| row.acked)],
            ),
        ));
        charts.push((
            "Deliveries, refusals, errors",
            "A message in a group is delivered to each other member.",
            count_chart(
                course,
                &[
                    ("delivered", "delivered", |row| row.delivered),
                    ("refused", "refused", |row| row.refused),
                    ("errors", "errors", |row| row.errors),
                ],
            ),
        ));
    }
    if !report.curves.to_ack.is_empty() {
        charts.push((
            "Percentiles",
            "Over the whole measured time: how long the share below took at most. Each nine is as wide as the one before.",
            curve_chart(&report.curves.to_ack, &report.curves.to_delivered),
        ));
    }
    if report.steps.len() >= STEPS_MIN {
        charts.push((
            "Latency by throughput",
            "Each step: what was acknowledged a second, and how long it took.",
            step_chart(&report.steps),
        ));
    }
    charts
}

fn shades(course: &Course) -> Vec<(f64, f64, &'static str)> {
    vec![
        (0.0, course.measured_from_s, "warm-up: judged, not measured"),
        (course.measured_to_s, f64::MAX, "nothing is sent any more; answers are awaited"),
    ]
}

/// A line: its name, its class, and which number of a summary or a row it shows.
type Shown<T> = (&'static str, &'static str, fn(&T) -> u64);

fn latency_chart(course: &Course, of: impl Fn(&Row) -> &Summary) -> Chart {
    let ranks: [Shown<Summary>; 5] = [
        ("p50", "q50", |summary| summary.p50_us),
        ("p90", "q90", |summary| summary.p90_us),
        ("p99", "q99", |summary| summary.p99_us),
        ("p99.9", "q999", |summary| summary.p999_us),
        ("max", "qmax", |summary| summary.max_us),
    ];
    let line = |(name, class, rank): Shown<Summary>| Line {
        name: name.to_owned(),
        class,
        points: course
            .rows
            .iter()
            .map(|row| (row.t_s as f64, (of(row).count > 0).then(|| rank(of(row)) as f64)))
            .collect(),
    };
    let y = Axis { name: "latency", scale: Scale::Log, unit: Unit::Microseconds };
    Chart { x: TIME, y, lines: ranks.map(line).into(), shades: shades(course) }
}

fn count_chart(course: &Course, what: &[Shown<Row>]) -> String {
    let row_s = course.row_s.max(1) as f64;
    // Behind the end a row of what is still answered would look like a fall.
    let rows =
        || course.rows.iter().filter(|row| ((row.t_s + course.row_s) as f64) <= course.measured_to_s + 0.5);
    let line = |(name, class, count): &Shown<Row>| Line {
        name: (*name).to_owned(),
        class,
        points: rows().map(|row| (row.t_s as f64, Some(count(row) as f64 / row_s))).collect(),
    };
    let y = Axis { name: "a second", scale: Scale::Linear, unit: Unit::Count };
    Chart { x: TIME, y, lines: what.iter().map(line).collect(), shades: shades(course) }.svg()
}

fn curve_chart(to_ack: &[CurvePoint], to_delivered: &[CurvePoint]) -> String {
    let line = |name: &str, class, curve: &[CurvePoint]| Line {
        name: name.to_owned(),
        class,
        points: curve
            .iter()
            .filter(|point| point.quantile < 1.0)
            .map(|point| (point.quantile, Some(point.us as f64)))
            .collect(),
    };
    let x = Axis { name: "share of the messages", scale: Scale::Tail, unit: Unit::Share };
    let y = Axis { name: "latency", scale: Scale::Linear, unit: Unit::Microseconds };
    let lines = vec![line("acked", "acked", to_ack), line("delivered", "delivered", to_delivered)];
    Chart { x, y, lines, shades: Vec::new() }.svg()
}

fn step_chart(steps: &[StepReport]) -> String {
    let mut sorted: Vec<_> = steps.iter().collect();
    sorted.sort_by(|one, other| one.achieved_per_s.total_cmp(&other.achieved_per_s));
    let line = |name: &str, class, rank: fn(&Summary) -> u64| Line {
        name: name.to_owned(),
        class,
        points: sorted.iter().map(|step| (step.achieved_per_s, Some(rank(&step.to_ack_us) as f64))).collect(),
    };
    let x = Axis { name: "acknowledged a second", scale: Scale::Linear, unit: Unit::Count };
    let y = Axis { name: "latency", scale: Scale::Log, unit: Unit::Microseconds };
    let lines = vec![
        line("p50", "q50", |s| s.p50_us),
        line("p99", "q99", |s| s.p99_us),
        line("p99.9", "q999", |s| s.p999_us),
    ];
    Chart { x, y, lines, shades: Vec::new() }.svg()
}

fn steps(steps: &[StepReport]) -> String {
    let mut out = "<table><tr><th class=\"n\">asked/s<th class=\"n\">achieved/s<th class=\"n\">ack p50<th class=\"n\">p99\
                   <th class=\"n\">p99.9<th class=\"n\">delivered p50<th class=\"n\">p99<th class=\"n\">CPU µs a message<th>"
        .to_owned();
    let us = |value: u64| Unit::Microseconds.words(value as f64);
    for step in steps {
        let cpu_us: f64 = step.cpu_us_per_message.values().sum();
        let _ = write!(
            out,
            "<tr><td class=\"n\">{:.0}<td class=\"n\">{:.0}",
            step.rate_per_s, step.achieved_per_s
        );
        let (ack, delivered) = (&step.to_ack_us, &step.to_delivered_us);
        for value in [ack.p50_us, ack.p99_us, ack.p999_us, delivered.p50_us, delivered.p99_us] {
            let _ = write!(out, "<td class=\"n\">{}", us(value));
        }
        let cpu = if cpu_us > 0.0 { format!("{cpu_us:.1}") } else { "–".to_owned() };
        let _ = write!(out, "<td class=\"n\">{cpu}<td>{}", escaped(step.saturated.as_deref().unwrap_or("")));
    }
    out + "</table>"
}

fn oracle_words(report: &Report) -> &'static str {
    match report.verdict {
        Word::Violation => "Promises were broken. The first examples are below.",
        _ if !report.options.history => "Every ack and every delivery was compared at the end.",
        _ => "Every ack, every delivery and every history was compared at the end.",
    }
}

fn oracle(report: &Report) -> String {
    let mut out = "<table>".to_owned();
    for (kind, count) in &report.oracle.violations {
        let (class, words) =
            if *count == 0 { ("yes", "✓ none".to_owned()) } else { ("no", format!("✗ {count}")) };
        let _ = write!(out, "<tr><td>{}<td class=\"n {class}\">{words}", escaped(kind));
    }
    let tally = &report.oracle.tally;
    let looked_at = [
        ("sends", tally.sends),
        ("acknowledged", tally.acked),
        ("deliveries", tally.deliveries),
        ("messages in histories", report.oracle.history_messages),
    ];
    for (name, count) in looked_at {
        let _ = write!(out, "<tr><td>{name}<td class=\"n\">{count}");
    }
    out.push_str("</table>");
    for words in &report.oracle.examples {
        let _ = write!(out, "<p class=\"no\">{}</p>", escaped(words));
    }
    out
}

fn thresholds(thresholds: &[ThresholdReport]) -> String {
    let mut out = "<table>".to_owned();
    for ThresholdReport { threshold, value, is_met } in thresholds {
        let value = value.map_or("not known".to_owned(), |value| format!("{}", (value * 1e3).round() / 1e3));
        let (class, mark) = if *is_met { ("yes", "✓") } else { ("no", "✗") };
        let _ = write!(out, "<tr><td>{}<td class=\"n {class}\">{mark} {value}", escaped(threshold));
    }
    out + "</table>"
}

fn workers(workers: &[WorkerReport]) -> String {
    let mut out = "<table><tr><th class=\"n\">worker<th>machine<th class=\"n\">clients<th class=\"n\">acked<th class=\"n\">ack p50\
                   <th class=\"n\">p99<th class=\"n\">own lag p99<th class=\"n\">started after<th class=\"n\">broken promises<th>"
        .to_owned();
    let us = |value: u64| Unit::Microseconds.words(value as f64);
    for worker in workers {
        let broken: u64 = worker.violations.values().sum();
        let class = if broken == 0 { "yes" } else { "no" };
        let _ = write!(
            out,
            "<tr><td class=\"n\">{}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}\
             <td class=\"n\">{} ms<td class=\"n {class}\">{broken}<td>{}",
            worker.number,
            escaped(&worker.machine.cpu),
            worker.clients,
            worker.acked,
            us(worker.to_ack_us.p50_us),
            us(worker.to_ack_us.p99_us),
            us(worker.generator_lag_us.p99_us),
            worker.late_ms,
            text::verdict(worker.verdict)
        );
    }
    out + "</table>"
}

fn asked(report: &Report) -> String {
    let asked = &report.options;
    let share =
        |part: f64| Unit::Share.words(part / (asked.mix.one_to_one + asked.mix.group).max(f64::MIN_POSITIVE));
    let rate = match asked.ramp {
        None if let Some(count) = asked.in_flight => format!("{count} messages of each pair in flight"),
        Some(ramp) => format!("from {}/s, × {} every {} s", asked.rate_per_s, ramp.factor, ramp.step_s),
        None if !asked.stages.is_empty() => {
            let ends = |stage: &AskedStage| stage.from_per_s.max(stage.to_per_s);
            let peak = asked.stages.iter().map(ends).fold(0.0, f64::max);
            format!(
                "{} stages, up to {}/s, {} gaps",
                asked.stages.len(),
                Unit::Count.words(peak),
                asked.arrivals
            )
        }
        None => format!("{}/s, {} gaps", asked.rate_per_s, asked.arrivals),
    };
    let rows = [
        ("scenario", scenario_words(report)),
        ("clients", asked.clients.to_string()),
        ("rate", rate),
        (
            "time",
            format!(
                "{} s after {} s of warm-up",
                asked.duration_ms as f64 / 1e3,
                asked.warmup_ms as f64 / 1e3
            ),
        ),
        ("one to one · groups", format!("{} · {}", share(asked.mix.one_to_one), share(asked.mix.group))),
        ("members of a group", asked.group_size.to_string()),
        ("media", Unit::Share.words(asked.mix.media)),
        ("content", format!("{} bytes", asked.content_bytes)),
        ("encoding", asked.encoding.clone()),
        ("receipts", asked.receipts.clone()),
        ("generator", format!("{} threads, seed {}", asked.threads, asked.seed)),
        ("server", asked.server.join(", ")),
    ];
    table(rows.iter().map(|(name, value)| (*name, value.clone(), "")))
}

fn scenario_words(report: &Report) -> String {
    let name = report.options.scenario.as_deref().unwrap_or("none");
    match report.options.worker {
        Some(worker) => format!("{name}, worker {} of {}", worker.number, worker.of),
        None => name.to_owned(),
    }
}

fn troubles(report: &Report) -> String {
    let generator = &report.generator;
    let lag_us = report.steps.iter().map(|step| step.generator_lag_us.p99_us).max().unwrap_or(0);
    let on_time = generator.on_time as f64 / generator.due.max(1) as f64;
    let own = [
        ("messages that left in time", Unit::Share.words(on_time)),
        ("generator's own lag, p99", Unit::Microseconds.words(lag_us as f64)),
        ("not sent: too many waiting", generator.dropped.to_string()),
        ("reconnects", generator.reconnects.to_string()),
        ("clients lost for good", generator.stopped.to_string()),
        ("told how another user is", generator.presence.to_string()),
    ];
    let own = own.iter().map(|(name, value)| (*name, value.clone(), ""));
    let met = report.troubles.iter().map(|(words, count)| (words.as_str(), count.to_string(), "note"));
    table(own.chain(met))
}

fn table<'a>(rows: impl Iterator<Item = (&'a str, String, &'a str)>) -> String {
    let mut out = "<table>".to_owned();
    for (name, value, class) in rows {
        let _ = write!(out, "<tr><td>{}<td class=\"n {class}\">{}", escaped(name), escaped(&value));
    }
    out + "</table>"
}
