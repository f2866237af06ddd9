//! What the main thread does while engines work: looks, takes the rows of the series that are over, and tells people.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use carillon_node::clock::Clock;

use super::control::{Control, Plan};
use crate::series::{Recorder, Row};

/// How often the main thread looks.
pub(super) const LOOK: Duration = Duration::from_millis(20);
const PROGRESS_NS: u64 = 1_000_000_000;

/// Looks at a run that has a plan.
pub(super) struct Observer<'r> {
    control: &'r Control,
    plan: &'r Plan,
    recorder: Recorder,
    progress: Progress,
}

impl<'r> Observer<'r> {
    pub(super) fn new(control: &'r Control, plan: &'r Plan) -> Observer<'r> {
        Observer { control, plan, recorder: Recorder::new(plan.window.row_ns), progress: Progress::new() }
    }

    /// Waits until a time.
    pub(super) fn wait_until(&mut self, until_ns: u64) {
        while Clock.now_ns() < until_ns {
            std::thread::sleep(LOOK.min(Duration::from_nanos(until_ns.saturating_sub(Clock.now_ns()))));
            self.look();
        }
    }

    /// Waits for something, so long at most; returns whether it is done.
    pub(super) fn wait_for(&mut self, limit_ns: u64, is_done: &dyn Fn() -> bool) -> bool {
        let until_ns = Clock.now_ns().saturating_add(limit_ns);
        while !is_done() && Clock.now_ns() < until_ns {
            std::thread::sleep(LOOK);
            self.look();
        }
        is_done()
    }

    fn look(&mut self) {
        let elapsed_ns = self.elapsed_ns();
        if self.recorder.is_behind(elapsed_ns) {
            self.take(self.recorder.row(elapsed_ns));
        }
        let (last, plan) = (self.recorder.last(), self.plan);
        self.progress.show(|| progress_text(elapsed_ns, plan, last));
    }

    fn elapsed_ns(&self) -> u64 {
        Clock.now_ns().saturating_sub(self.plan.window.start_ns)
    }

    /// The end was read from the clock before any thread is asked: they write nothing into these rows any more.
    fn take(&mut self, end: u64) {
        self.recorder.take(end, self.control.take_rows(end));
    }

    /// All rows, once the engines have stopped.
    pub(super) fn finish(mut self) -> Vec<Row> {
        self.take(self.recorder.row(self.elapsed_ns()) + 1);
        self.recorder.finish()
    }
}

fn progress_text(elapsed_ns: u64, plan: &Plan, last: Option<&Row>) -> String {
    let elapsed_s = elapsed_ns / 1_000_000_000;
    let Some(row) = last else { return format!("{elapsed_s} s") };
    let row_s = (plan.window.row_ns / 1_000_000_000).max(1);
    format!(
        "{elapsed_s} s · intended {}/s · acked {}/s · delivered {}/s · unanswered {} · p99 to ack {:.1} ms",
        row.intended / row_s,
        row.acked / row_s,
        row.delivered / row_s,
        plan.shared.unanswered.load(Ordering::SeqCst),
        row.to_ack_us.p99_us as f64 / 1e3
    )
}

/// One line a second on standard error; on a terminal always the same line.
pub(super) struct Progress {
    next_ns: u64,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { next_ns: Clock.now_ns() + PROGRESS_NS, is_terminal: io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if Clock.now_ns() < self.next_ns {
            return;
        }
        self.next_ns = Clock.now_ns() + PROGRESS_NS;
        let text = text();
        let line = if self.is_terminal { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
        // Nobody may be listening; that is no reason to end.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
