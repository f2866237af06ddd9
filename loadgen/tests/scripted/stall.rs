//! Coordinated omission: a server that stalls is not asked less, and its stall is in the percentiles as theory says.

use crate::run_with;
use crate::server::{STALL, Script};

/// Over `T` seconds of an even rate, a stall of `S` makes a message wait that was intended `a` seconds into it for `S − a`,
/// so a share of `(S − x) / T` waits longer than `x`, and the quantile `q` lies at `S − (1 − q) · T`. A loaded machine can
/// only add to that. A closed loop, which sends its next message when the last is answered, would have had one late
/// message of each client, and shown the stall in its maximum alone.
#[test]
fn a_stall_of_a_second_is_in_the_percentiles_as_theory_says() {
    let measured_s = 3.0;
    let line =
        "--clients 6 --group-size 3 --rate 200 --arrivals uniform --duration 3s --warmup 0s --settle 20s";
    let (_, report) = run_with(Script::Stalls, &line.split(' ').collect::<Vec<_>>());
    let (ack_us, stall_s) = (&report["whole"]["to_ack_us"], STALL.as_secs_f64());
    for (rank, quantile) in [("p90_us", 0.9), ("p99_us", 0.99), ("p999_us", 0.999)] {
        let theory_s = stall_s - (1.0 - quantile) * measured_s;
        let found_s = ack_us[rank].as_f64().unwrap() / 1e6;
        // Two messages' distance: where in its own gap a message lies.
        assert!(found_s >= theory_s - 2.0 / 200.0, "{rank}: {found_s} s, theory says {theory_s} s");
    }
    // The stall is also where it was: in the seconds of it nothing was acknowledged that was not late.
    let late = report["series"]["rows"].as_array().unwrap().iter();
    let late = late.filter(|row| row["to_ack_us"]["max_us"].as_f64().unwrap() >= 0.95e6 * stall_s).count();
    assert!(late >= 1, "{:#}", report["series"]);
    assert_eq!(report["whole"]["intended"], 599, "the schedule does not wait for the server");
}
