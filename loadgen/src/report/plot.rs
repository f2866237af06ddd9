//! Line charts as SVG, small enough to be read: axes, a grid, lines with their names at their ends, shaded times.
//!
//! # Invariants
//! - Colours are classes: the page's style decides, in the light and in the dark.
//! - A text from outside is escaped.

use std::fmt::Write as _;

/// Of a chart, in its own units.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;
/// Between two names at the ends of lines.
const NAME_GAP: f64 = 14.0;
/// Marks that tell their values when pointed at.
const HINTS_MAX: usize = 400;

/// How numbers lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear,
    Log,
    /// Shares of messages, each nine as far from the next as that from the one after.
    Tail,
}

/// What an axis counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unit {
    Seconds,
    Microseconds,
    Count,
    Share,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) scale: Scale,
    pub(super) unit: Unit,
}

/// A line. Where it has no value it is interrupted.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A chart.
pub(super) struct Chart {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// Spans of x that are shaded, with their names.
    pub(super) shades: Vec<(f64, f64, &'static str)>,
}

/// What of the numbers is shown, and where.
#[derive(Clone, Copy)]
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Range {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        match scale {
            Scale::Linear => {
                Range { scale, low: low.min(0.0), high: if high > 0.0 { high * 1.05 } else { 1.0 } }
            }
            Scale::Log => {
                let (low, high) = (low.max(1.0), high.max(1.0));
                Range { scale, low: low / 1.3, high: (high * 1.3).max(low * 3.0) }
            }
            Scale::Tail => Range { scale, low: 0.0, high: high.clamp(0.99, 0.999_999) },
        }
    }

    fn place(&self, value: f64) -> f64 {
        let bent = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(self.low).log10(),
            Scale::Tail => -(1.0 - value.min(self.high)).log10(),
        };
        (bent(value) - bent(self.low)) / (bent(self.high) - bent(self.low)).max(1e-12)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = (self.high - self.low) / 5.0;
                let decade = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * decade);
                let step = step.into_iter().find(|step| *step >= rough).unwrap_or(decade);
                (0..=6).map(|count| f64::from(count) * step).filter(|at| *at <= self.high).collect()
            }
            Scale::Log => {
                let decades = (self.high / self.low).log10();
                let within: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                (0..9)
                    .flat_map(|decade| within.iter().map(move |times| times * 10f64.powi(decade)))
                    .filter(|at| (self.low..=self.high).contains(at))
                    .collect()
            }
            Scale::Tail => [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
                .into_iter()
                .filter(|share| *share <= self.high)
                .collect(),
        }
    }
}

impl Chart {
    /// The chart as an SVG element.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Range::of(self.x.scale, points().map(|(x, _)| *x));
        let y = Range::of(self.y.scale, points().filter_map(|(_, y)| *y));
        let (x_end, y_end) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let across = |value: f64| LEFT + x.place(value) * (x_end - LEFT);
        let up = |value: f64| y_end - y.place(value) * (y_end - TOP);
        let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        for (from, to, name) in &self.shades {
            let (from, to) = (across(from.max(x.low)), across(to.min(x.high)));
            if to - from > 0.5 {
                let width = to - from;
                let height = y_end - TOP;
                let _ = write!(
                    out,
                    "<rect class=\"shade\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\">\
                     <title>{name}</title></rect>"
                );
            }
        }
        for tick in y.ticks() {
            let (at, words) = (up(tick), self.y.unit.words(tick));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{x_end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{words}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for tick in x.ticks() {
            let (at, words) = (across(tick), self.x.unit.words(tick));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{y_end}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{words}</text>",
                y_end + 4.0,
                y_end + 18.0
            );
        }
        let _ = write!(
            out,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (LEFT + x_end) / 2.0,
            HEIGHT - 4.0,
            self.x.name
        );
        for line in &self.lines {
            let _ = write!(out, "<path class=\"line {}\" d=\"{}\"/>", line.class, path(line, across, up));
        }
        self.name_lines(&mut out, up);
        self.hints(&mut out, across, y_end);
        out.push_str("</svg>");
        out
    }

    /// Each line's name, where it ends; those that would lie on each other are moved apart.
    fn name_lines(&self, out: &mut String, up: impl Fn(f64) -> f64) {
        let end = |line: &Line| line.points.iter().rev().find_map(|(_, y)| *y);
        let mut ends: Vec<_> =
            self.lines.iter().filter_map(|line| Some((up(end(line)?).max(TOP + 4.0), line))).collect();
        ends.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut above = HEIGHT - BOTTOM + NAME_GAP;
        for (at, line) in ends {
            above = at.min(above - NAME_GAP);
            let _ = write!(
                out,
                "<text class=\"label {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                line.class,
                WIDTH - RIGHT + 8.0,
                above + 4.0,
                escaped(&line.name)
            );
        }
    }

    /// Columns that tell what is in them when they are pointed at.
    fn hints(&self, out: &mut String, across: impl Fn(f64) -> f64, y_end: f64) {
        let Some(first) = self.lines.first() else { return };
        if first.points.len() > HINTS_MAX
            || self.lines.iter().any(|line| line.points.len() != first.points.len())
        {
            return;
        }
        for (place, (x, _)) in first.points.iter().enumerate() {
            let next = first.points.get(place + 1).map_or(WIDTH - RIGHT, |(next, _)| across(*next));
            let at = across(*x);
            let mut words = self.x.unit.words(*x);
            for line in &self.lines {
                if let Some(value) = line.points.get(place).and_then(|(_, y)| *y) {
                    let _ = write!(words, "\n{}: {}", escaped(&line.name), self.y.unit.words(value));
                }
            }
            let _ = write!(
                out,
                "<rect class=\"hint\" x=\"{at:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>{words}</title></rect>",
                (next - at).max(1.0),
                y_end - TOP
            );
        }
    }
}

fn path(line: &Line, across: impl Fn(f64) -> f64, up: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut is_down = false;
    for (x, y) in &line.points {
        let Some(y) = y else {
            is_down = false;
            continue;
        };
        let command = if is_down { 'L' } else { 'M' };
        is_down = true;
        // A point between two holes is a line of no length, which round caps make visible.
        let _ = write!(path, "{command}{:.1} {:.1}", across(*x), up(*y));
        if command == 'M' {
            path.push_str("h0");
        }
    }
    path
}

impl Unit {
    /// A value for people.
    pub(super) fn words(self, value: f64) -> String {
        match self {
            _ if value == 0.0 => "0".to_owned(),
            Unit::Seconds => format!("{} s", trimmed(value)),
            Unit::Microseconds if value >= 1e6 => format!("{} s", trimmed(value / 1e6)),
            Unit::Microseconds if value >= 1e3 => format!("{} ms", trimmed(value / 1e3)),
            Unit::Microseconds => format!("{} µs", trimmed(value)),
            Unit::Count if value >= 1e6 => format!("{} M", trimmed(value / 1e6)),
            Unit::Count if value >= 1e4 => format!("{} k", trimmed(value / 1e3)),
            Unit::Count => trimmed(value),
            Unit::Share => format!("{} %", (value * 1e9).round() / 1e7),
        }
    }
}

/// Three digits or the whole number.
fn trimmed(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text that is safe within an element and an attribute.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>) -> String {
        let axis = |scale, unit| Axis { name: "a", scale, unit };
        Chart {
            x: axis(Scale::Linear, Unit::Seconds),
            y: axis(Scale::Log, Unit::Microseconds),
            lines: vec![Line { name: "<p99>".to_owned(), class: "c", points }],
            shades: vec![(0.0, 1.0, "warm-up")],
        }
        .svg()
    }

    #[test]
    fn a_line_is_interrupted_where_nothing_is_known() {
        let svg = chart(vec![(0.0, Some(10.0)), (1.0, None), (2.0, Some(1e6)), (3.0, Some(2e6))]);
        let path = svg.split("d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
        assert!(svg.contains("&lt;p99&gt;") && !svg.contains("<p99>"));
    }

    #[test]
    fn whatever_the_numbers_every_place_is_a_number_inside() {
        let values: [&[f64]; 5] = [&[], &[0.0], &[5.0, 5.0], &[1e-9, 1e12], &[f64::NAN, f64::INFINITY]];
        for scale in [Scale::Linear, Scale::Log, Scale::Tail] {
            for values in values {
                let range = Range::of(scale, values.iter().copied());
                for value in values.iter().copied().filter(|value| value.is_finite()) {
                    let place = range.place(value);
                    assert!((-0.001..=1.001).contains(&place), "{scale:?} {values:?} {value} {place}");
                }
                assert!(range.ticks().len() <= 27 && range.ticks().iter().all(|tick| tick.is_finite()));
            }
        }
        assert!(!chart(Vec::new()).contains("NaN"));
    }

    #[test]
    fn numbers_are_short() {
        let words = [
            (Unit::Microseconds, 250.0, "250 µs"),
            (Unit::Microseconds, 12_345.0, "12.3 ms"),
            (Unit::Microseconds, 1_500_000.0, "1.5 s"),
            (Unit::Count, 81_000.0, "81 k"),
            (Unit::Count, 100.0, "100"),
            (Unit::Share, 0.999, "99.9 %"),
        ];
        for (unit, value, expected) in words {
            assert_eq!(unit.words(value), expected);
        }
    }
}
