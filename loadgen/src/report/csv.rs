//! A run's course as a table: a header, and a line a row.

use std::fmt::Write as _;

use super::Course;
use crate::stats::Summary;

const LATENCIES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

/// The table. Latencies in microseconds; empty where nothing came.
#[must_use]
pub fn table(course: &Course) -> String {
    let mut out = "t_s,intended,acked,delivered,refused,errors".to_owned();
    for what in ["ack", "delivered"] {
        for rank in LATENCIES {
            let _ = write!(out, ",{what}_{rank}_us");
        }
    }
    out.push('\n');
    for row in &course.rows {
        let counts = [row.t_s, row.intended, row.acked, row.delivered, row.refused, row.errors];
        out.push_str(&counts.map(|count| count.to_string()).join(","));
        for summary in [&row.to_ack_us, &row.to_delivered_us] {
            for us in latencies(summary) {
                out.push(',');
                if summary.count > 0 {
                    let _ = write!(out, "{us}");
                }
            }
        }
        out.push('\n');
    }
    out
}

fn latencies(summary: &Summary) -> [u64; LATENCIES.len()] {
    [summary.p50_us, summary.p90_us, summary.p99_us, summary.p999_us, summary.max_us]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Row;

    #[test]
    fn a_row_is_a_line() {
        let to_ack_us = Summary { count: 2, p50_us: 1, p90_us: 2, p99_us: 3, p999_us: 4, max_us: 5 };
        let rows = vec![Row { t_s: 3, intended: 2, acked: 2, to_ack_us, ..Row::default() }];
        let text = table(&Course { row_s: 1, rows, ..Course::default() });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1..], ["3,2,2,0,0,0,1,2,3,4,5,,,,,"]);
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
    }
}
