//! How sockets end, whatever the driver: those that we close linger, and those that their clients ended are let go a few at
//! a time. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use carillon_protocol::time::Time;

use crate::turn::ConnectionId;

/// Connections that were ended by their clients and are let go at a time; then that rests for [`ENDS_REST`]. Each costs
/// the kernel some 15 µs: thousands that go at once leave most of a processor to those who stay.
const ENDS_MAX: usize = 16;
/// See [`ENDS_MAX`].
const ENDS_REST: Duration = Duration::from_millis(1);
/// How long a closed connection may still take what was sent to it, and send what we discard.
const LINGER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Partings {
    /// With when each has lingered long enough; all linger equally long, so they are in that order.
    lingering: VecDeque<(Time, ConnectionId)>,
    /// In the order in which it was seen.
    ended: VecDeque<ConnectionId>,
    /// When the next of them may be let go.
    let_go_at: Time,
}

impl Partings {
    pub(super) fn new() -> Partings {
        Partings { lingering: VecDeque::new(), ended: VecDeque::new(), let_go_at: Time(0) }
    }

    /// We close it.
    pub(super) fn linger(&mut self, now: Time, connection: ConnectionId) {
        self.lingering.push_back((now.after(LINGER), connection));
    }

    /// Its client ended it, or it broke.
    pub(super) fn end(&mut self, connection: ConnectionId) {
        self.ended.push_back(connection);
    }

    /// Those that go now. Some of them may have gone already, for another reason.
    pub(super) fn due(&mut self, now: Time) -> Vec<ConnectionId> {
        let lingered = self.lingering.partition_point(|(due, _)| *due <= now);
        let mut due: Vec<ConnectionId> =
            self.lingering.drain(..lingered).map(|(_, connection)| connection).collect();
        if !self.ended.is_empty() && self.let_go_at <= now {
            self.let_go_at = now.after(ENDS_REST);
            due.extend(self.ended.drain(..self.ended.len().min(ENDS_MAX)));
        }
        due
    }

    /// How long until somebody has to go, if anybody has to.
    pub(super) fn sleep(&self, now: Time) -> Option<Duration> {
        let lingering = self.lingering.front().map(|(due, _)| due.since(now));
        let ended = (!self.ended.is_empty()).then(|| self.let_go_at.since(now));
        lingering.into_iter().chain(ended).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 0 }
    }

    /// F13: of thousands that end at once a few go at a time, and none is forgotten.
    #[test]
    fn f13_ends_are_spread() {
        let (mut partings, start) = (Partings::new(), Time(5_000_000));
        assert_eq!(partings.sleep(start), None);
        for slot in 0..40 {
            partings.end(connection(slot));
        }
        assert_eq!(partings.sleep(start), Some(Duration::ZERO));
        assert_eq!(partings.due(start), (0..16).map(connection).collect::<Vec<_>>());
        assert_eq!(partings.due(start), [], "they rest");
        assert_eq!(partings.sleep(start), Some(ENDS_REST));
        let next = start.after(ENDS_REST);
        assert_eq!(partings.due(next), (16..32).map(connection).collect::<Vec<_>>());
        assert_eq!(partings.due(next.after(ENDS_REST)), (32..40).map(connection).collect::<Vec<_>>());
        assert_eq!(partings.sleep(next), None);
    }

    /// F14: what we close has its time, and no more than that.
    #[test]
    fn f14_who_lingers_goes_in_the_end() {
        let (mut partings, start) = (Partings::new(), Time(0));
        partings.linger(start, connection(1));
        partings.linger(start.after_ms(400), connection(2));
        assert_eq!(partings.due(start.after_ms(999)), []);
        assert_eq!(partings.sleep(start.after_ms(999)), Some(Duration::from_millis(1)));
        assert_eq!(partings.due(start.after_ms(1_000)), [connection(1)]);
        assert_eq!(partings.due(start.after_ms(1_400)), [connection(2)]);
    }
}
