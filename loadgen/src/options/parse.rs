//! The forms of values on the command line.

use std::time::Duration;

use super::{Mix, Ramp};

/// `30s`, `500ms`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a time is a number and ms, s, m or h, such as 30s")?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a time is a number and ms, s, m or h, such as 30s".to_owned()),
    };
    // A week: far above any run, and far from overflowing nanoseconds.
    let millis = number.checked_mul(unit_ms).filter(|millis| *millis <= 604_800_000);
    millis.map(Duration::from_millis).ok_or_else(|| "a time is at most 168h".to_owned())
}

pub(super) fn mix(text: &str) -> Result<Mix, String> {
    let mut mix = Mix { one_to_one: 0.0, group: 0.0 };
    for part in text.split(',') {
        let (name, share) = part.split_once('=').ok_or("shares are written one_to_one=0.8,group=0.2")?;
        let share: f64 = share.trim().parse().map_err(|_| format!("{share} is not a number"))?;
        if !(share.is_finite() && share >= 0.0) {
            return Err(format!("a share is at least 0, and {share} is not"));
        }
        match name.trim() {
            "one_to_one" => mix.one_to_one = share,
            "group" => mix.group = share,
            other => return Err(format!("{other} is neither one_to_one nor group")),
        }
    }
    Ok(mix)
}

pub(super) fn ramp(text: &str) -> Result<Ramp, String> {
    let form = || "a ramp is START:FACTOR:STEP_SECONDS, such as 500:1.5:5".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let [start, factor, step] = parts.as_slice() else { return Err(form()) };
    let start_per_s: f64 = start.parse().map_err(|_| form())?;
    let factor: f64 = factor.parse().map_err(|_| form())?;
    let step_s: u64 = step.parse().map_err(|_| form())?;
    if !(start_per_s.is_finite() && start_per_s > 0.0 && (1.01..=10.0).contains(&factor)) {
        return Err("a ramp starts above 0 and its factor lies within 1.01 to 10".to_owned());
    }
    if !(1..=3_600).contains(&step_s) {
        return Err("a step takes 1 to 3600 seconds".to_owned());
    }
    Ok(Ramp { start_per_s, factor, step_s })
}

pub(super) fn first_user(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('-').unwrap_or(text);
    carillon_protocol::ids::parse_id(number).ok_or_else(|| format!("{number} is not a user id"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::options::{Options, Ramp};

    fn parsed(line: &str) -> Options {
        Options::try_parse_from(["loadgen"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let options = parsed("--duration 2m --warmup 500ms --ramp 500:1.5:5 --users 42- --retry false");
        assert_eq!((options.duration.as_secs(), options.warmup.as_millis()), (120, 500));
        assert_eq!(options.ramp, Some(Ramp { start_per_s: 500.0, factor: 1.5, step_s: 5 }));
        assert!((options.users, options.retry) == (42, false) && parsed("--retry").retry);
        assert!(!parsed("--history false").history && parsed("").history);
        for wrong in [
            "--duration 30",
            "--mix a=1",
            "--ramp 1:1:1",
            "--ramp 1:2",
            "--users 0-",
            "--retry maybe",
            "--in-flight 1 --rate 5",
            "--in-flight 1 --idle",
        ] {
            let line = ["loadgen"].into_iter().chain(wrong.split_whitespace());
            assert!(Options::try_parse_from(line).is_err(), "{wrong}");
        }
    }
}
