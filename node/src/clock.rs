//! Time from the outside world. Two clocks that are never mixed: boot time orders and measures, wall time is for
//! display and token expiry only (G16).

use rustix::time::{ClockId, clock_gettime};

/// The clocks of this machine. Upstairs code does not hold one: it is handed what this returns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Nanoseconds since boot, suspension included (`CLOCK_BOOTTIME`): never jumps, never goes back. A process
    /// that was stopped for 30 s sees 30 s pass, which is what fencing needs (F26).
    pub fn now_ns(&self) -> u64 {
        nanoseconds(ClockId::Boottime)
    }

    /// Milliseconds since the epoch, UTC. May jump either way at any time (F15).
    pub fn wall_ms(&self) -> u64 {
        nanoseconds(ClockId::Realtime) / 1_000_000
    }
}

/// A clock before its epoch reads as 0; 64 bits of nanoseconds last until the year 2554.
pub(crate) fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_does_not_go_back_and_wall_time_is_this_century() {
        let clock = Clock;
        let mut last_ns = clock.now_ns();
        assert!(last_ns > 0);
        for _ in 0..1_000 {
            let now_ns = clock.now_ns();
            assert!(now_ns >= last_ns);
            last_ns = now_ns;
        }
        assert!(clock.wall_ms() > 946_684_800_000, "milliseconds, after the year 2000");
    }
}
