//! What a process counts: plain cells that one thread writes, merged by whoever asks.
//!
//! A crate writes its metrics down as one table ([`metric_table!`](crate::metric_table)); each of its threads holds a
//! [`Meter`] of that table. Adding to a counter is a load and a store of a cell that no other thread writes: no shared
//! atomics, no locks, no look-ups by name. A scrape reads all cells and sums what has the same name and labels.
//!
//! # Invariants
//! - A meter has one writer: it is not `Clone` and not `Sync`. Cells are read by any thread at any time.
//! - Labels come from closed sets: those of the table, and those of the meter (its shard), given once.
//! - At most [`SERIES_COUNT_MAX`] series: meters that would go beyond lose their own labels and are merged.
//! - What is counted below us, where meters are not known, is asked for at each scrape ([`Registry::ask`]).
//! - Every name begins with `carillon_`, the standard `process_*` aside.

mod exposition;
mod process;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use exposition::Page;

/// What a process may show at most, so that a fleet of them does not drown who collects it.
pub const SERIES_COUNT_MAX: usize = 1_500;

/// Lines of the page that are kept for each source that is asked.
pub const SOURCE_LINES_MAX: usize = 100;

/// Lines of a histogram beside its buckets: `+Inf`, `_sum`, `_count`.
const HISTOGRAM_EXTRA_LINES: usize = 3;

/// Empty cells at both ends of a meter (128 bytes, two cache lines, because lines are fetched in pairs): two threads
/// never write to the same one.
const PADDING_CELLS: usize = 16;

/// The upper bounds of a histogram, in the integer unit that is observed, ascending.
#[derive(Debug)]
pub struct Buckets {
    /// The bounds, each included in its bucket.
    pub bounds: &'static [u64],
    /// How many of the observed units make one shown unit: observed in nanoseconds, shown in seconds: 1e9.
    pub per_unit: f64,
}

/// Observed in nanoseconds, shown in seconds: 50 µs to 10 s.
pub const LATENCY_NS: Buckets = Buckets {
    bounds: &[
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        10_000_000_000,
    ],
    per_unit: 1e9,
};

/// Observed in milliseconds, shown in seconds: 1 ms to a minute. For spans between two readings of wall clocks.
pub const WALL_MS: Buckets =
    Buckets { bounds: &[1, 2, 5, 10, 25, 50, 100, 200, 500, 1_000, 2_500, 10_000, 60_000], per_unit: 1e3 };

/// Bytes: 64 B to 1 MiB by fours.
pub const SIZE_BYTES: Buckets =
    Buckets { bounds: &[64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576], per_unit: 1.0 };

/// How many at once (a batch, a fan-out): 1 to 4,096.
pub const COUNT: Buckets =
    Buckets { bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096], per_unit: 1.0 };

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only ever grows; shown with `_total` at its end.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram(&'static Buckets),
}

/// One row of a table: a metric, or a family of them under one label.
#[derive(Clone, Copy, Debug)]
pub struct Def {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    label: Option<(&'static str, &'static [&'static str])>,
}

impl Def {
    /// A counter; `name` without `carillon_` and `_total`.
    pub const fn counter(name: &'static str, help: &'static str) -> Def {
        Def { name, help, kind: Kind::Counter, label: None }
    }

    /// A gauge; `name` without `carillon_`.
    pub const fn gauge(name: &'static str, help: &'static str) -> Def {
        Def { name, help, kind: Kind::Gauge, label: None }
    }

    /// A histogram; `name` without `carillon_`, with the shown unit at its end.
    pub const fn histogram(name: &'static str, help: &'static str, buckets: &'static Buckets) -> Def {
        Def { name, help, kind: Kind::Histogram(buckets), label: None }
    }

    /// One series for each of `values`; the `_at` methods of [`Meter`] take an index into them.
    pub const fn by(self, label: &'static str, values: &'static [&'static str]) -> Def {
        Def { label: Some((label, values)), ..self }
    }

    fn series_count(&self) -> usize {
        self.label.map_or(1, |(_, values)| values.len())
    }

    /// Cells of one series. A histogram has one for each bucket, one above them, and the sum.
    fn width(&self) -> usize {
        match self.kind {
            Kind::Counter | Kind::Gauge => 1,
            Kind::Histogram(buckets) => buckets.bounds.len() + 2,
        }
    }

    fn lines(&self) -> usize {
        match self.kind {
            Kind::Counter | Kind::Gauge => self.series_count(),
            Kind::Histogram(buckets) => self.series_count() * (buckets.bounds.len() + HISTOGRAM_EXTRA_LINES),
        }
    }
}

/// A table of metrics and the names of its rows. Made by [`metric_table!`](crate::metric_table).
pub trait Table: Copy + 'static {
    /// The rows.
    const DEFS: &'static [Def];

    /// The row of this metric.
    fn index(self) -> usize;
}

/// Writes a table of metrics as an enum whose variants are its rows:
///
/// ```
/// use carillon_node::metrics::{Def, LATENCY_NS, Registry};
///
/// carillon_node::metric_table! {
///     /// What a gateway shard counts.
///     pub enum Metric {
///         Accepted = Def::counter("gateway_accepted", "Sockets accepted"),
///         Refused = Def::counter("gateway_refused", "Frames refused").by("code", &["forbidden", "gone"]),
///         Turn = Def::histogram("gateway_turn_seconds", "One turn of the loop", &LATENCY_NS),
///     }
/// }
///
/// let registry = Registry::new();
/// let meter = registry.meter::<Metric>(&[("shard", "0")]);
/// meter.add(Metric::Accepted, 1);
/// meter.add_at(Metric::Refused, 1, 1);
/// meter.observe(Metric::Turn, 70_000);
/// assert!(registry.text().contains("carillon_gateway_refused_total{shard=\"0\",code=\"gone\"} 1"));
/// ```
#[macro_export]
macro_rules! metric_table {
    ($(#[$attribute:meta])* $visible:vis enum $name:ident { $($row:ident = $def:expr),+ $(,)? }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        // The help text of a row is its documentation.
        #[allow(missing_docs)]
        $visible enum $name { $($row),+ }

        impl $crate::metrics::Table for $name {
            const DEFS: &'static [$crate::metrics::Def] = &[$($def),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// Labels with their values, in the order they are shown.
type Labels = Vec<(&'static str, String)>;

/// The cells of one meter, as the scraper sees them.
pub(crate) struct Cells {
    defs: &'static [Def],
    labels: Labels,
    /// Where the first series of each row begins in `cells`.
    starts: Box<[usize]>,
    cells: Box<[AtomicU64]>,
}

impl Cells {
    fn new(defs: &'static [Def], labels: Labels) -> Arc<Cells> {
        let mut next = PADDING_CELLS;
        let mut starts = Vec::with_capacity(defs.len());
        for def in defs {
            starts.push(next);
            next += def.series_count() * def.width();
        }
        let cells = (0..next + PADDING_CELLS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Cells { defs, labels, starts: starts.into(), cells })
    }

    /// The cells of series `at` of row `row`.
    ///
    /// # Panics
    /// When the row has no such series: an index that is not into the values given to [`Def::by`].
    fn series(&self, row: usize, at: usize) -> &[AtomicU64] {
        let def = &self.defs[row];
        assert!(at < def.series_count(), "{} has no series {at}", def.name);
        let start = self.starts[row] + at * def.width();
        &self.cells[start..start + def.width()]
    }
}

impl fmt::Debug for Cells {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Cells").field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// One thread's metrics of one table. Hold it where the work is done; to hand it to another thread is fine, to share
/// it is not possible.
pub struct Meter<M> {
    cells: Arc<Cells>,
    single_writer: PhantomData<(Cell<()>, M)>,
}

impl<M: Table> Meter<M> {
    /// A meter nobody scrapes, for tests and simulation.
    pub fn detached() -> Meter<M> {
        Meter { cells: Cells::new(M::DEFS, Labels::new()), single_writer: PhantomData }
    }

    /// Counts `more`.
    pub fn add(&self, metric: M, more: u64) {
        self.add_at(metric, 0, more);
    }

    /// Counts `more` under the label's value `at`.
    pub fn add_at(&self, metric: M, at: usize, more: u64) {
        let series = self.cells.series(metric.index(), at);
        debug_assert!(matches!(M::DEFS[metric.index()].kind, Kind::Counter), "only a counter is added to");
        bump(&series[0], more);
    }

    /// Sets a gauge.
    pub fn set(&self, metric: M, value: i64) {
        self.set_at(metric, 0, value);
    }

    /// Sets the gauge under the label's value `at`.
    pub fn set_at(&self, metric: M, at: usize, value: i64) {
        let series = self.cells.series(metric.index(), at);
        debug_assert!(matches!(M::DEFS[metric.index()].kind, Kind::Gauge), "only a gauge is set");
        series[0].store(value.cast_unsigned(), Relaxed);
    }

    /// Adds one observation to a histogram, in the unit of its [`Buckets::bounds`].
    pub fn observe(&self, metric: M, value: u64) {
        self.observe_at(metric, 0, value);
    }

    /// Adds one observation to the histogram under the label's value `at`.
    ///
    /// # Panics
    /// When the metric is not a histogram.
    pub fn observe_at(&self, metric: M, at: usize, value: u64) {
        let Kind::Histogram(buckets) = M::DEFS[metric.index()].kind else {
            panic!("{} is not a histogram", M::DEFS[metric.index()].name);
        };
        let series = self.cells.series(metric.index(), at);
        bump(&series[buckets.bounds.partition_point(|&bound| bound < value)], 1);
        bump(&series[buckets.bounds.len() + 1], value);
    }

    /// Adds observations to a histogram that were counted elsewhere: how many fell into each bucket, those above the last
    /// bound at the end, and their sum.
    ///
    /// # Panics
    /// When the metric is no histogram with as many buckets.
    pub fn merge(&self, metric: M, counts: &[u64], sum: u64) {
        let series = self.cells.series(metric.index(), 0);
        let Kind::Histogram(buckets) = M::DEFS[metric.index()].kind else {
            panic!("{} is not a histogram", M::DEFS[metric.index()].name);
        };
        assert_eq!(counts.len(), buckets.bounds.len() + 1, "a count for each bucket");
        for (cell, more) in series.iter().zip(counts.iter().chain([&sum])) {
            bump(cell, *more);
        }
    }

    /// What a counter or gauge holds here, for tests and for admission by load.
    pub fn value(&self, metric: M) -> i64 {
        self.value_at(metric, 0)
    }

    /// The same of one series of a family.
    pub fn value_at(&self, metric: M, at: usize) -> i64 {
        self.cells.series(metric.index(), at)[0].load(Relaxed).cast_signed()
    }
}

impl<M> fmt::Debug for Meter<M> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cells.fmt(out)
    }
}

/// A load and a store, not a locked addition: the caller is the only writer. Wraps at 2^64, as every counter of
/// nanoseconds or bytes may after some centuries.
fn bump(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(more), Relaxed);
}

/// Writes on the page what somebody counts who has no meter.
type Source = Box<dyn Fn(&mut Page<'_, '_>) + Send + Sync>;

/// Everything a process shows. Cheap to clone; all clones are one registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shown: Arc<Mutex<Shown>>,
}

#[derive(Default)]
struct Shown {
    meters: Vec<Arc<Cells>>,
    sources: Vec<Arc<Source>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources_count = self.sources.len();
        out.debug_struct("Shown")
            .field("meters", &self.meters)
            .field("sources_count", &sources_count)
            .finish()
    }
}

impl Registry {
    /// A registry that shows `process_*` until meters join.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// A meter of the table `M` for one thread. Meters with the same labels are shown as one; a meter that is
    /// dropped leaves its counts behind, so that counters never fall.
    ///
    /// # Panics
    /// When a name of the table is not made of `a-z`, `0-9` and `_`, or is another kind of metric elsewhere: a
    /// mistake in a table, which the first run meets.
    pub fn meter<M: Table>(&self, labels: &[(&'static str, &str)]) -> Meter<M> {
        let mut shown = self.lock();
        for def in M::DEFS {
            assert!(is_name(def.name), "{:?} is no name for a metric", def.name);
            let others =
                shown.meters.iter().flat_map(|cells| cells.defs).filter(|other| other.name == def.name);
            for other in others {
                assert!(exposition::are_one_family(other, def), "{} is defined twice, differently", def.name);
            }
        }
        let labels: Labels = labels.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        let mut cells = Cells::new(M::DEFS, labels);
        let kept = process::SERIES_COUNT + shown.sources.len() * SOURCE_LINES_MAX;
        if lines_with(&shown.meters, &cells) > SERIES_COUNT_MAX.saturating_sub(kept) {
            cells = Cells::new(M::DEFS, Labels::new());
        }
        shown.meters.push(Arc::clone(&cells));
        Meter { cells, single_writer: PhantomData }
    }

    /// At each scrape `source` writes what it counts below the meters: [`SOURCE_LINES_MAX`] lines at most, under names
    /// that no meter has. To be said before the meters, which take what lines are left.
    pub fn ask(&self, source: impl Fn(&mut Page<'_, '_>) + Send + Sync + 'static) {
        self.lock().sources.push(Arc::new(Box::new(source)));
    }

    /// All metrics in the OpenMetrics text format (version 1.0.0), the end marker included.
    pub fn text(&self) -> String {
        exposition::open_metrics(self)
    }

    /// All metrics in the older Prometheus text format (version 0.0.4), for those who do not ask for the other.
    pub fn text_prometheus(&self) -> String {
        exposition::prometheus(self)
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        // The lists are only ever pushed to: whoever panicked left them whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Series that `meters` and `one_more` show, each table counted once more without labels: that is where the meters
/// beyond the bound end, so there has to be room for it.
fn lines_with(meters: &[Arc<Cells>], one_more: &Cells) -> usize {
    let mut shown: Vec<(&[Def], &Labels)> = Vec::new();
    let none = Labels::new();
    for cells in meters.iter().map(Arc::as_ref).chain([one_more]) {
        for labels in [&none, &cells.labels] {
            if !shown.iter().any(|&(defs, known)| std::ptr::eq(defs, cells.defs) && known == labels) {
                shown.push((cells.defs, labels));
            }
        }
    }
    shown.iter().flat_map(|(defs, _)| *defs).map(Def::lines).sum()
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        && !name.ends_with("_total")
}
