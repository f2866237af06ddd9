//! What a client may ask for in a time: of one connection any frames, of one device durable commands. What a user may
//! send on all gateways together the router counts.
//!
//! # Invariants
//! - What is refused by rate had no effect, and the client is told how long to wait (FU4b).
//! - Who goes on above a rate for `limits.rate_grace_ms` is closed with 4008, not before.

use carillon_protocol::client::FrameId;
use carillon_protocol::reason::{Close, Code, Refusal};

use super::Session;
use crate::common::Common;
use crate::counters::Limited;
use crate::limits::wait_ms;
use crate::line::Line;

impl Session {
    /// Whether a frame of any kind may be looked at; tells the client if not.
    pub(super) fn admit_frame(&mut self, id: Option<&FrameId>, line: &mut Line, common: &mut Common) -> bool {
        let Some(rate) = common.connection_rate else { return true };
        let Err(wait) = rate.admit(common.now.0, &mut self.frames_due) else { return true };
        common.counters.limited(Limited::Connection);
        let refusal = Refusal::new(Code::RateLimited, "too many frames: wait before sending the next");
        line.refuse(common, id.cloned(), refusal.retry_after(wait_ms(wait)));
        self.refused_by_rate(line, common);
        false
    }

    /// Whether this device may command something durable now; tells the client if not.
    pub(super) fn admit_durable(
        &mut self,
        id: Option<&FrameId>,
        line: &mut Line,
        common: &mut Common,
    ) -> bool {
        if !common.device_rates.is_on() {
            return true;
        }
        let key = (self.user, self.device.clone());
        let Err(wait) = common.device_rates.admit(common.now.0, key) else { return true };
        common.counters.limited(Limited::Device);
        let refusal = Refusal::new(
            Code::RateLimited,
            "too many messages from this device: wait before sending the next",
        );
        line.refuse(common, id.cloned(), refusal.retry_after(wait_ms(wait)));
        self.refused_by_rate(line, common);
        false
    }

    /// Something was refused by rate, here or by the router; who goes on so for long is closed.
    pub(super) fn refused_by_rate(&mut self, line: &mut Line, common: &Common) {
        let grace_ms = common.settings.limits.rate_grace_ms;
        if self.faults.get_or_insert_default().refused_by_rate(common.now, grace_ms) {
            line.close(Close::RateLimited);
        }
    }
}
