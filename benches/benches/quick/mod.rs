//! What the small benchmarks share. They are closed loops of one thread, there to show which of two ways costs less and when
//! a way became dearer: latencies under load are the generator's matter.

use std::time::Duration;

use criterion::Criterion;

/// A text as people write it: a hundred bytes.
pub const TEXT: &str =
    "a hundred bytes, more or less, which is what people say to each other in one message on average, is it";

/// Short rounds: all small benchmarks together take less than three minutes. `-- --measurement-time 5` takes longer ones.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .nresamples(10_000)
        .configure_from_args()
}
