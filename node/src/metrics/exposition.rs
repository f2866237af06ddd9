//! From cells to text: sums what belongs together, and hands it to `prometheus-client`'s encoders as a collector.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use super::process::Process;
use super::{Cells, Def, HISTOGRAM_EXTRA_LINES, Kind, LATENCY_NS, Labels, Registry, SOURCE_LINES_MAX};

/// What every name of ours begins with; the library puts the underscore.
const PREFIX: &str = "carillon";

/// One metric name with the summed cells of each of its label sets.
struct Family {
    def: &'static Def,
    series: BTreeMap<Labels, Vec<u64>>,
}

pub(super) fn open_metrics(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail, and our collectors return no error of their own.
    let encoded = text::encode(&mut out, &library_registry(registry));
    debug_assert!(encoded.is_ok());
    out
}

pub(super) fn prometheus(registry: &Registry) -> String {
    let mut out = String::new();
    let encoded = prometheus_text::encode(&mut out, &library_registry(registry));
    debug_assert!(encoded.is_ok());
    out
}

/// May rows of two tables be shown under one name? Labels may differ, what is summed may not.
pub(super) fn are_one_family(one: &Def, two: &Def) -> bool {
    one.help == two.help
        && match (one.kind, two.kind) {
            (Kind::Counter, Kind::Counter) | (Kind::Gauge, Kind::Gauge) => true,
            (Kind::Histogram(one), Kind::Histogram(two)) => {
                one.bounds == two.bounds && one.per_unit == two.per_unit
            }
            _ => false,
        }
}

fn library_registry(registry: &Registry) -> prometheus_client::registry::Registry {
    let mut root = prometheus_client::registry::Registry::default();
    root.register_collector(Box::new(Process));
    root.sub_registry_with_prefix(PREFIX).register_collector(Box::new(registry.clone()));
    root
}

impl Collector for Registry {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (meters, sources) = {
            let shown = self.lock();
            (shown.meters.clone(), shown.sources.clone())
        };
        let mut families = BTreeMap::new();
        for cells in &meters {
            gather(cells, &mut families);
        }
        for (name, family) in &families {
            write(name, family, &mut encoder)?;
        }
        for source in &sources {
            let mut page = Page { encoder: &mut encoder, lines_left: SOURCE_LINES_MAX, encoded: Ok(()) };
            source(&mut page);
            page.encoded?;
        }
        Ok(())
    }
}

/// What a source writes on: names without `carillon_` and `_total`, as in a [`Def`].
pub struct Page<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    lines_left: usize,
    encoded: fmt::Result,
}

impl Page<'_, '_> {
    /// What only ever grows.
    pub fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.family(name, help, MetricType::Counter, 1, |mut metric| {
            metric.encode_counter(&count, None::<&Exemplar<NoLabelSet, u64>>)
        });
    }

    /// Time that only ever grows, in nanoseconds; shown in seconds.
    pub fn counter_seconds(&mut self, name: &str, help: &str, sum_ns: u64) {
        let seconds = sum_ns as f64 / LATENCY_NS.per_unit;
        self.family(name, help, MetricType::Counter, 1, |mut metric| {
            metric.encode_counter(&seconds, None::<&Exemplar<NoLabelSet, f64>>)
        });
    }

    /// A counter for each value of a label, whose values are a closed set.
    pub fn counters(&mut self, name: &str, help: &str, label: &'static str, counts: &[(&'static str, u64)]) {
        self.family(name, help, MetricType::Counter, counts.len(), |mut metric| {
            for (value, count) in counts {
                let labels = [(label, *value)];
                let mut series = metric.encode_family(&labels)?;
                series.encode_counter(count, None::<&Exemplar<NoLabelSet, u64>>)?;
            }
            Ok(())
        });
    }

    /// What goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, level: u64) {
        self.family(name, help, MetricType::Gauge, 1, |mut metric| metric.encode_gauge(&level));
    }

    /// A distribution of times, in nanoseconds; shown in seconds. `counts` has one more than `bounds_ns`.
    pub fn histogram_seconds(
        &mut self,
        name: &str,
        help: &str,
        bounds_ns: &[u64],
        counts: &[u64],
        sum_ns: u64,
    ) {
        let lines = counts.len() + HISTOGRAM_EXTRA_LINES;
        self.family(name, help, MetricType::Histogram, lines, |mut metric| {
            encode_histogram(&mut metric, bounds_ns, LATENCY_NS.per_unit, counts, sum_ns)
        });
    }

    /// One family, unless there are no lines left for it: that is a mistake in a source, which the first scrape meets.
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        lines: usize,
        encode: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) {
        debug_assert!(lines <= self.lines_left, "a source has {SOURCE_LINES_MAX} lines, which end at {name}");
        if lines > self.lines_left || self.encoded.is_err() {
            return;
        }
        self.lines_left -= lines;
        self.encoded = self.encoder.encode_descriptor(name, help, None, kind).and_then(encode);
    }
}

fn gather(cells: &Cells, families: &mut BTreeMap<&'static str, Family>) {
    for (row, def) in cells.defs.iter().enumerate() {
        let family = families.entry(def.name).or_insert_with(|| Family { def, series: BTreeMap::new() });
        for at in 0..def.series_count() {
            let mut labels = cells.labels.clone();
            labels.extend(def.label.map(|(label, values)| (label, values[at].to_owned())));
            let sums = family.series.entry(labels).or_insert_with(|| vec![0; def.width()]);
            for (sum, cell) in sums.iter_mut().zip(cells.series(row, at)) {
                *sum = sum.wrapping_add(cell.load(Relaxed));
            }
        }
    }
}

fn write(name: &str, family: &Family, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
    let kind = match family.def.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram(_) => MetricType::Histogram,
    };
    let mut metric = encoder.encode_descriptor(name, family.def.help, None, kind)?;
    for (labels, sums) in &family.series {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut series = metric.encode_family(&labels)?;
        match family.def.kind {
            Kind::Counter => series.encode_counter(&sums[0], None::<&Exemplar<NoLabelSet, u64>>)?,
            Kind::Gauge => series.encode_gauge(&sums[0].cast_signed())?,
            Kind::Histogram(buckets) => {
                let (counts, sum) = sums.split_at(buckets.bounds.len() + 1);
                encode_histogram(&mut series, buckets.bounds, buckets.per_unit, counts, sum[0])?;
            }
        }
    }
    Ok(())
}

/// `counts` has one more than `bounds`: what is above them all.
fn encode_histogram(
    series: &mut MetricEncoder<'_>,
    bounds: &[u64],
    per_unit: f64,
    counts: &[u64],
    sum: u64,
) -> fmt::Result {
    let bounds = bounds.iter().map(|&bound| bound as f64 / per_unit).chain([f64::INFINITY]);
    let shown: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    // The count is the sum of the buckets read, so that the two agree while a thread goes on writing.
    let count = counts.iter().sum();
    series.encode_histogram::<NoLabelSet>(sum as f64 / per_unit, count, &shown, None)
}
