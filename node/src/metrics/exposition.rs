//! From cells to text: sums what belongs together, and hands it to `prometheus-client`'s encoders as a collector.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use super::process::Process;
use super::{Cells, Def, Kind, Labels, Registry};

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
        let meters = self.lock().clone();
        let mut families = BTreeMap::new();
        for cells in &meters {
            gather(cells, &mut families);
        }
        for (name, family) in &families {
            write(name, family, &mut encoder)?;
        }
        Ok(())
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
                let bounds = buckets.bounds.iter().map(|&bound| bound as f64 / buckets.per_unit);
                let bounds = bounds.chain([f64::INFINITY]);
                let shown: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
                // The count is the sum of the buckets read, so that the two agree while a thread goes on writing.
                let count = counts.iter().sum();
                let sum = sum[0] as f64 / buckets.per_unit;
                series.encode_histogram::<NoLabelSet>(sum, count, &shown, None)?;
            }
        }
    }
    Ok(())
}
