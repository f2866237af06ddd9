//! What is shown while a run goes on: one line for a log, or a full screen for a terminal. Both are functions of a
//! [`Snapshot`].
//!
//! # Invariants
//! - Pure: nothing here looks at the run or at the terminal.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Sparkline};

use crate::series::Row;
use crate::stats::Summary;

/// Rows of the course that are shown: as many as a wide terminal has columns for.
const ROWS_SHOWN: usize = 120;
/// Kinds of trouble that are shown, the most frequent first.
const TROUBLES_SHOWN: usize = 5;

/// What the run is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doing {
    /// Clients connect.
    Connecting,
    /// Conversations are made over REST, and the start is awaited.
    Preparing,
    /// The schedule runs.
    Sending {
        /// The stage, from 1 on; 0 in the warm-up.
        stage: usize,
        /// How many there are.
        stages: usize,
        /// Messages a second that the stage has on average; 0 in a closed loop.
        per_s: f64,
    },
    /// Nothing is sent any more; answers and deliveries are awaited.
    Settling,
    /// Histories are read, and the oracle judges.
    Judging,
    /// Idle connections are held.
    Holding,
}

/// What the server used lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Hardware threads' worth of CPU, by tier.
    pub cpu: BTreeMap<String, f64>,
    /// Memory.
    pub memory_bytes: u64,
}

/// A moment of a run.
#[derive(Clone, Debug)]
pub struct Snapshot<'r> {
    /// What runs: the scenario, or what was asked for.
    pub title: &'r str,
    /// How far it is.
    pub doing: Doing,
    /// Since this began, in seconds.
    pub elapsed_s: f64,
    /// How long it takes; 0 where nobody knows.
    pub length_s: f64,
    /// Clients there are.
    pub clients: u32,
    /// Of them connected and caught up.
    pub live: u32,
    /// Connections that were lost.
    pub lost: u64,
    /// Of them made anew.
    pub reconnects: u64,
    /// Clients that stopped for good.
    pub stopped: u64,
    /// Messages that found too many waiting.
    pub dropped: u64,
    /// Messages that wait for an answer.
    pub unanswered: i64,
    /// How long a row is.
    pub row_s: u64,
    /// The course so far; the last row is the one that was over last.
    pub rows: &'r [Row],
    /// Intended to acknowledged, since the start.
    pub to_ack: Summary,
    /// Intended to delivered, since the start.
    pub to_delivered: Summary,
    /// Heartbeats to their answers.
    pub heartbeat: Summary,
    /// Refusals and errors by code, since the start.
    pub troubles: &'r BTreeMap<String, u64>,
    /// Broken promises that were seen on the way, by kind.
    pub violations: &'r [(&'static str, u64)],
    /// The server, when it is watched.
    pub server: Option<&'r Used>,
}

impl Snapshot<'_> {
    fn per_s(&self, of: fn(&Row) -> u64) -> u64 {
        self.rows.last().map_or(0, |row| of(row) / self.row_s.max(1))
    }
}

/// One line.
#[must_use]
pub fn line(now: &Snapshot<'_>) -> String {
    let Snapshot { clients, live, lost, .. } = now;
    match now.doing {
        Doing::Connecting => format!("connecting: alive {live} of {clients}, lost {lost}"),
        Doing::Preparing => "making conversations".to_owned(),
        Doing::Judging => "reading histories".to_owned(),
        Doing::Holding => format!(
            "idle: alive {live} of {clients}, lost {lost} · heartbeats answered {}, p99 {:.1} ms",
            now.heartbeat.count,
            ms(now.heartbeat.p99_us)
        ),
        Doing::Sending { .. } | Doing::Settling if now.rows.is_empty() => format!("{:.0} s", now.elapsed_s),
        Doing::Sending { .. } | Doing::Settling => format!(
            "{:.0} s · intended {}/s · acked {}/s · delivered {}/s · unanswered {} · p99 to ack {:.1} ms",
            now.elapsed_s,
            now.per_s(|row| row.intended),
            now.per_s(|row| row.acked),
            now.per_s(|row| row.delivered),
            now.unanswered,
            now.rows.last().map_or(0.0, |row| ms(row.to_ack_us.p99_us))
        ),
    }
}

const OFFERED: Color = Color::Gray;
const ACKED: Color = Color::Cyan;
const DELIVERED: Color = Color::Green;
const P50: Color = Color::Green;
const P99: Color = Color::Yellow;
const P999: Color = Color::Red;

/// A whole screen.
pub fn draw(frame: &mut Frame<'_>, now: &Snapshot<'_>) {
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(8),
        Constraint::Min(6),
        Constraint::Length(8),
    ]);
    let [head, figures, charts, rest] = rows.areas(frame.area());
    draw_head(frame, head, now);
    let [rates, latencies] = Layout::horizontal([Constraint::Fill(1); 2]).areas(figures);
    draw_rates(frame, rates, now);
    draw_latencies(frame, latencies, now);
    let [acks, deliveries] = Layout::horizontal([Constraint::Fill(1); 2]).areas(charts);
    draw_course(frame, acks, "intended → ack", now, |row| &row.to_ack_us);
    draw_course(frame, deliveries, "intended → delivered", now, |row| &row.to_delivered_us);
    let columns = Layout::horizontal([
        Constraint::Length(21),
        Constraint::Fill(1),
        Constraint::Length(18),
        Constraint::Length(21),
    ]);
    let [connections, troubles, oracle, server] = columns.areas(rest);
    draw_list(frame, connections, "connections", connection_lines(now));
    draw_list(frame, troubles, "refusals and errors", trouble_lines(now));
    draw_list(frame, oracle, "oracle, so far", oracle_lines(now));
    draw_list(frame, server, "server", server_lines(now));
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, now: &Snapshot<'_>) {
    let doing = match now.doing {
        Doing::Connecting => "connecting".to_owned(),
        Doing::Preparing => "making conversations".to_owned(),
        Doing::Sending { stage: 0, .. } => "warming up".to_owned(),
        Doing::Sending { stage, stages, per_s } if per_s > 0.0 => {
            format!("stage {stage} of {stages}, {}/s", grouped(per_s as u64))
        }
        Doing::Sending { stage, stages, .. } => format!("stage {stage} of {stages}"),
        Doing::Settling => "waiting for what is on its way".to_owned(),
        Doing::Judging => "reading histories, judging".to_owned(),
        Doing::Holding => "holding idle connections".to_owned(),
    };
    let time = if now.length_s > 0.0 {
        format!("{:.0} s of {:.0} s", now.elapsed_s, now.length_s)
    } else {
        format!("{:.0} s", now.elapsed_s)
    };
    let words = Line::from(vec![
        Span::styled(now.title.to_owned(), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(" · {doing} · {time}")),
    ]);
    let share = if now.length_s > 0.0 { (now.elapsed_s / now.length_s).clamp(0.0, 1.0) } else { 0.0 };
    let done = (f64::from(area.width) * share) as usize;
    let bar = Line::from(vec![
        Span::styled("━".repeat(done), Style::new().fg(ACKED)),
        Span::styled("─".repeat(usize::from(area.width) - done), Style::new().add_modifier(Modifier::DIM)),
    ]);
    frame.render_widget(Paragraph::new(vec![words, bar]), area);
}

/// A rate: its name, its colour, and which number of a row it is.
type Rate = (&'static str, Color, fn(&Row) -> u64);

fn draw_rates(frame: &mut Frame<'_>, area: Rect, now: &Snapshot<'_>) {
    let block = Block::bordered().title(" messages a second ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rates: [Rate; 3] = [
        ("offered", OFFERED, |row| row.intended),
        ("acked", ACKED, |row| row.acked),
        ("delivered", DELIVERED, |row| row.delivered),
    ];
    let lines: [Rect; 3] = Layout::vertical([Constraint::Length(2); 3]).areas(inner);
    for ((name, color, of), line) in rates.into_iter().zip(lines) {
        let [words, course] = Layout::horizontal([Constraint::Length(21), Constraint::Fill(1)]).areas(line);
        let style = Style::new().fg(color);
        let value = format!("{name:<10}{:>10}", grouped(now.per_s(of)));
        frame.render_widget(Paragraph::new(Span::styled(value, style)), words);
        let shown = last(now.rows, usize::from(course.width));
        let values: Vec<u64> = shown.iter().map(|row| of(row) / now.row_s.max(1)).collect();
        frame.render_widget(Sparkline::default().data(values).style(style), course);
    }
}

fn draw_latencies(frame: &mut Frame<'_>, area: Rect, now: &Snapshot<'_>) {
    let none = Summary::default();
    let (ack, delivered) =
        now.rows.last().map_or((&none, &none), |row| (&row.to_ack_us, &row.to_delivered_us));
    let dim = Style::new().add_modifier(Modifier::DIM);
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("{:<13}", ""), dim),
        Span::styled(format!("{:>8}", "p50"), Style::new().fg(P50)),
        Span::styled(format!("{:>8}", "p99"), Style::new().fg(P99)),
        Span::styled(format!("{:>8}", "p99.9"), Style::new().fg(P999)),
        Span::styled(format!("{:>9}", "max"), dim),
    ])];
    let heartbeat = (now.heartbeat.count > 0).then_some(("heartbeats", &now.heartbeat));
    let table = [
        ("ack now", ack),
        ("ack all", &now.to_ack),
        ("delivered now", delivered),
        ("delivered all", &now.to_delivered),
    ];
    for (name, summary) in table.into_iter().chain(heartbeat) {
        let cell = |us| if summary.count > 0 { format!("{:.1}", ms(us)) } else { "–".to_owned() };
        let [p50, p99, p999, max] =
            [summary.p50_us, summary.p99_us, summary.p999_us, summary.max_us].map(cell);
        lines.push(Line::raw(format!("{name:<13}{p50:>8}{p99:>8}{p999:>8}{max:>9}")));
    }
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" intended → …, ms ")), area);
}

/// Quantiles over time, each power of ten as high as the one before.
fn draw_course(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    now: &Snapshot<'_>,
    of: impl Fn(&Row) -> &Summary,
) {
    let shown = last(now.rows, ROWS_SHOWN);
    let points = |rank: fn(&Summary) -> u64| -> Vec<(f64, f64)> {
        let heard = shown.iter().filter(|row| of(row).count > 0);
        heard.map(|row| (row.t_s as f64, (rank(of(row)).max(1) as f64).log10())).collect()
    };
    let lines = [
        ("p99.9", P999, points(|summary| summary.p999_us)),
        ("p99", P99, points(|summary| summary.p99_us)),
        ("p50", P50, points(|summary| summary.p50_us)),
    ];
    let heights = lines.iter().flat_map(|(.., points)| points).map(|(_, height)| *height);
    // Whole powers of ten of microseconds, one at least.
    let (low, high) = heights
        .fold((f64::MAX, f64::MIN), |(low, high), height| (low.min(height.floor()), high.max(height.ceil())));
    let (low, high) = if low < high {
        (low, high)
    } else if low == high {
        (low, low + 1.0)
    } else {
        (2.0, 5.0)
    };
    let (first_s, last_s) = (
        shown.first().map_or(0.0, |row| row.t_s as f64),
        shown.last().map_or(1.0, |row| row.t_s as f64).max(1.0),
    );
    let label = |power: f64| format!("{} ms", 10f64.powf(power) / 1e3);
    let datasets = lines.iter().map(|(name, color, points)| {
        Dataset::default()
            .name(*name)
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(*color))
            .data(points)
    });
    let chart = Chart::new(datasets.collect())
        .block(Block::bordered().title(format!(" {title}: p50, p99, p99.9 ")))
        .legend_position(None)
        .x_axis(
            Axis::default()
                .bounds([first_s, last_s.max(first_s + 1.0)])
                .labels([format!("{first_s} s"), format!("{last_s} s")]),
        )
        .y_axis(Axis::default().bounds([low, high]).labels([label(low), label(high)]));
    frame.render_widget(chart, area);
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>) {
    let block = Block::bordered().title(format!(" {title} "));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn connection_lines(now: &Snapshot<'_>) -> Vec<Line<'static>> {
    let counts = [
        ("connected", u64::from(now.live)),
        ("of", u64::from(now.clients)),
        ("lost", now.lost),
        ("made anew", now.reconnects),
        ("stopped", now.stopped),
        ("unanswered", u64::try_from(now.unanswered).unwrap_or(0)),
    ];
    counts.map(|(name, count)| Line::raw(format!("{name:<11}{:>8}", grouped(count)))).into()
}

fn trouble_lines(now: &Snapshot<'_>) -> Vec<Line<'static>> {
    if now.troubles.is_empty() && now.dropped == 0 {
        return vec![Line::styled("none", Style::new().fg(Color::Green))];
    }
    let dropped = (now.dropped > 0).then(|| ("not sent: too many waiting".to_owned(), now.dropped));
    let mut all: Vec<(String, u64)> =
        now.troubles.iter().map(|(words, count)| (words.clone(), *count)).chain(dropped).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest = all.len().saturating_sub(TROUBLES_SHOWN);
    let shown = all.into_iter().take(TROUBLES_SHOWN);
    let style = Style::new().fg(Color::Yellow);
    let mut lines: Vec<_> =
        shown.map(|(words, count)| Line::styled(format!("{:>8} {words}", grouped(count)), style)).collect();
    if rest > 0 {
        lines.push(Line::raw(format!("and {rest} kinds more")));
    }
    lines
}

fn oracle_lines(now: &Snapshot<'_>) -> Vec<Line<'static>> {
    let broken = now.violations.iter().filter(|(_, count)| *count > 0);
    let lines: Vec<_> = broken
        .map(|(kind, count)| {
            Line::styled(format!("{kind:<11}{:>8}", grouped(*count)), Style::new().fg(Color::Red))
        })
        .collect();
    if lines.is_empty() { vec![Line::styled("all kept", Style::new().fg(Color::Green))] } else { lines }
}

fn server_lines(now: &Snapshot<'_>) -> Vec<Line<'static>> {
    let Some(used) = now.server else {
        return vec![Line::styled("--server-pid", Style::new().add_modifier(Modifier::DIM))];
    };
    let all: f64 = used.cpu.values().sum();
    let mut lines = vec![
        Line::raw(format!("{:<11}{:>6.0} %", "CPU", all * 100.0)),
        Line::raw(format!("{:<11}{:>4} MiB", "memory", used.memory_bytes >> 20)),
    ];
    let mut tiers: Vec<_> = used.cpu.iter().collect();
    tiers.sort_by(|one, other| other.1.total_cmp(one.1));
    let tiers = tiers.into_iter().take(4);
    lines.extend(tiers.map(|(tier, cpu)| Line::raw(format!("  {tier:<9}{:>6.0} %", cpu * 100.0))));
    lines
}

fn last(rows: &[Row], count: usize) -> &[Row] {
    rows.get(rows.len().saturating_sub(count)..).unwrap_or_default()
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
