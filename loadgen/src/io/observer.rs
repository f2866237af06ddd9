//! What the main thread does while engines work: looks, takes the rows of the series that are over, and tells people.

use std::collections::BTreeMap;
use std::time::Duration;

use carillon_node::clock::Clock;

use super::control::{Control, Plan};
use super::display::{Display, Moment};
use crate::hlog::RowLog;
use crate::series::{Recorder, Row};
use crate::view::Doing;

/// How often the main thread looks.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Looks at a run that has a plan.
pub(super) struct Observer<'r> {
    control: &'r Control,
    plan: &'r Plan,
    recorder: Recorder,
    display: &'r mut Display,
    /// What is waited for.
    pub(super) doing: Doing,
}

impl<'r> Observer<'r> {
    pub(super) fn new(
        control: &'r Control,
        plan: &'r Plan,
        display: &'r mut Display,
        keeps_histograms: bool,
    ) -> Observer<'r> {
        let recorder = Recorder::new(plan.window.row_ns, keeps_histograms);
        Observer { control, plan, recorder, display, doing: Doing::Preparing }
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

    /// Shows what is done from now on, before something that nothing is shown during.
    pub(super) fn announce(&mut self, doing: Doing) {
        self.doing = doing;
        let (display, moment) = self.shown();
        display.announce(&moment);
    }

    fn look(&mut self) {
        let elapsed_ns = self.elapsed_ns();
        if self.recorder.is_behind(elapsed_ns) {
            self.take(self.recorder.row(elapsed_ns));
        }
        let (display, moment) = self.shown();
        display.show(&moment);
    }

    fn shown(&mut self) -> (&mut Display, Moment<'_>) {
        let moment = Moment {
            doing: self.doing,
            elapsed_ns: self.elapsed_ns(),
            length_ns: self.plan.window.rates.length_ns(),
            course: Some((self.plan, &self.recorder)),
        };
        (self.display, moment)
    }

    fn elapsed_ns(&self) -> u64 {
        Clock.now_ns().saturating_sub(self.plan.window.start_ns)
    }

    /// The end was read from the clock before any thread is asked: they write nothing into these rows any more.
    fn take(&mut self, end: u64) {
        self.recorder.take(end, self.control.take_rows(end));
    }

    /// All rows with their histograms, once the engines have stopped.
    pub(super) fn finish(mut self) -> (Vec<Row>, BTreeMap<u64, RowLog>) {
        self.take(self.recorder.row(self.elapsed_ns()) + 1);
        self.recorder.finish()
    }
}
