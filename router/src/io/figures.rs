//! What the store counts, on the metrics page.

use std::sync::{Arc, Weak};

use carillon_node::metrics::{Page, Registry};
use carillon_store::figures::{BOUNDS_NS, Figure, Value};
use carillon_store::txn::Engine;

/// From now on each scrape asks the engine, as long as there is one: the page does not keep a store open.
pub(super) fn show(metrics: &Registry, engine: &Arc<dyn Engine>) {
    let engine: Weak<dyn Engine> = Arc::downgrade(engine);
    metrics.ask(move |page| {
        for figure in engine.upgrade().map(|engine| engine.figures()).unwrap_or_default() {
            write(page, &figure);
        }
    });
}

fn write(page: &mut Page<'_, '_>, figure: &Figure) {
    let Figure { name, help, value } = figure;
    match value {
        Value::Count(count) => page.counter(name, help, *count),
        Value::TimeNs(sum_ns) => page.counter_seconds(name, help, *sum_ns),
        Value::Level(level) => page.gauge(name, help, *level),
        Value::Outcomes(counts) => page.counters(name, help, "outcome", counts),
        Value::Times(times) => page.histogram_seconds(name, help, &BOUNDS_NS, &times.counts, times.sum_ns),
    }
}
