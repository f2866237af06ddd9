//! What is shown of a run while it goes on: a line a second on standard error, or a screen.
//!
//! What it costs: the main thread draws four times a second at most, a millisecond of CPU each time (200 columns and 50 lines), which
//! is 0.4 % of one hardware thread. Clients are on threads of their own, which it makes wait only while it reads their counters,
//! some microseconds each time. The latencies that are shown are those of rows that are over, which are taken from the threads
//! once a second whether anybody looks or not. The server's `/proc` is read once a second.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use carillon_node::clock::Clock;

use super::control::{Control, Plan};
use super::screen::Screen;
use super::watch::Sample;
use crate::options::{Options, View};
use crate::oracle::Kind;
use crate::series::Recorder;
use crate::view::{self, Doing, Snapshot, Used};

const LINE: Duration = Duration::from_secs(1);
const DRAW: Duration = Duration::from_millis(250);
/// How often the server is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Shows a run.
pub(super) struct Display {
    control: Arc<Control>,
    title: String,
    clients: u32,
    server_pids: Vec<u32>,
    sink: Sink,
    next_ns: u64,
    watcher: Watcher,
}

enum Sink {
    /// Lines; on a terminal always the same one.
    Lines {
        is_terminal: bool,
    },
    Screen(Screen),
}

/// How far a run is.
pub(super) struct Moment<'r> {
    pub(super) doing: Doing,
    pub(super) elapsed_ns: u64,
    pub(super) length_ns: u64,
    /// Once there is one.
    pub(super) course: Option<(&'r Plan, &'r Recorder)>,
}

impl Display {
    /// Takes the terminal, if that was asked for and there is one.
    pub(super) fn open(options: &Options, control: Arc<Control>) -> Result<Display, String> {
        let screen = match options.view {
            View::Live => Some(Screen::open().map_err(|error| format!("--view live: no terminal: {error}"))?),
            View::Auto => Screen::open().ok(),
            View::Plain => None,
        };
        let sink = screen.map_or(Sink::Lines { is_terminal: io::stderr().is_terminal() }, Sink::Screen);
        let title = match (&options.scenario, options.in_flight) {
            (Some(name), _) => name.clone(),
            (None, Some(count)) => format!("{count} in flight"),
            (None, None) if options.idle => format!("{} idle connections", options.clients),
            (None, None) => format!("{} clients", options.clients),
        };
        let title = options.worker.map(|worker| format!("{title} · worker {worker}")).unwrap_or(title);
        // The first line comes after a second, and a screen is never empty.
        let next_ns = match &sink {
            Sink::Lines { .. } => Clock.now_ns() + nanoseconds(LINE),
            Sink::Screen(_) => 0,
        };
        Ok(Display {
            control,
            title,
            clients: options.clients,
            server_pids: options.server_pid.clone(),
            sink,
            next_ns,
            watcher: Watcher::default(),
        })
    }

    /// Shows how far it is, when it is time to.
    pub(super) fn show(&mut self, moment: &Moment<'_>) {
        if Clock.now_ns() >= self.next_ns {
            self.show_now(moment);
        }
    }

    /// Shows it before something that nothing is shown during; a log needs no line for that.
    pub(super) fn announce(&mut self, moment: &Moment<'_>) {
        if matches!(self.sink, Sink::Screen(_)) {
            self.show_now(moment);
        }
    }

    fn show_now(&mut self, moment: &Moment<'_>) {
        let now_ns = Clock.now_ns();
        let every = if matches!(self.sink, Sink::Screen(_)) { DRAW } else { LINE };
        self.next_ns = now_ns + nanoseconds(every);
        if matches!(self.sink, Sink::Screen(_)) {
            self.watcher.look(&self.server_pids, now_ns);
        }
        let counts = self.control.counts();
        let (to_ack, to_delivered) = moment.course.map(|(_, recorder)| recorder.so_far()).unwrap_or_default();
        let violations: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).zip(counts.violations).collect();
        let snapshot = Snapshot {
            title: &self.title,
            doing: moment.doing,
            elapsed_s: moment.elapsed_ns as f64 / 1e9,
            length_s: moment.length_ns as f64 / 1e9,
            clients: self.clients,
            live: self.control.live.load(Ordering::SeqCst),
            lost: counts.lost,
            reconnects: counts.reconnects,
            stopped: counts.stopped,
            dropped: counts.dropped,
            unanswered: moment.course.map_or(0, |(plan, _)| plan.shared.unanswered.load(Ordering::SeqCst)),
            row_s: moment.course.map_or(1, |(plan, _)| plan.window.row_ns / 1_000_000_000),
            rows: moment.course.map_or(&[], |(_, recorder)| recorder.rows()),
            to_ack,
            to_delivered,
            heartbeat: counts.heartbeat.summary(),
            troubles: &counts.troubles,
            violations: &violations,
            server: self.watcher.used.as_ref(),
        };
        match &mut self.sink {
            Sink::Screen(screen) => screen.draw(|frame| view::draw(frame, &snapshot)),
            Sink::Lines { is_terminal } => {
                let text = view::line(&snapshot);
                let line = if *is_terminal { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
                // Nobody may be listening; that is no reason to end.
                let _ = io::stderr().write_all(line.as_bytes());
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if matches!(self.sink, Sink::Lines { is_terminal: true }) {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// Looks at the processes of the server.
#[derive(Default)]
struct Watcher {
    last: Option<(u64, Sample)>,
    used: Option<Used>,
}

impl Watcher {
    fn look(&mut self, pids: &[u32], now_ns: u64) {
        let since_ns = self.last.as_ref().map_or(u64::MAX, |(at_ns, _)| now_ns.saturating_sub(*at_ns));
        if pids.is_empty() || since_ns < nanoseconds(WATCH) {
            return;
        }
        let sample = Sample::take(pids, &[]);
        if let Some((_, earlier)) = &self.last {
            let spent_s = |(tier, cpu_s): (&String, &f64)| {
                let before_s = earlier.cpu_s.get(tier).copied().unwrap_or(0.0);
                (tier.clone(), (cpu_s - before_s).max(0.0) * 1e9 / since_ns as f64)
            };
            let cpu = sample.cpu_s.iter().map(spent_s).collect();
            self.used = Some(Used { cpu, memory_bytes: sample.memory_bytes });
        }
        self.last = Some((now_ns, sample));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
