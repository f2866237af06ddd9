//! What a shard counts: plain numbers that its driver copies to the metrics page.

use carillon_protocol::reason::Close;

/// Counts since the shard began; they only rise, but for the gauges.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Gauge: connections, whatever their phase.
    pub connections: u64,
    /// Gauge: identified sessions.
    pub sessions: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Upgrades done.
    pub upgraded: u64,
    /// Upgrades refused.
    pub upgrades_refused: u64,
    /// Connections given to the HTTP server.
    pub handed_off: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes taken by the kernel.
    pub bytes_out: u64,
    /// Client frames decoded.
    pub frames_in: u64,
    /// Frames queued for clients, shared ones once per client.
    pub frames_out: u64,
    /// Errors told to clients.
    pub refusals: u64,
    /// Commands sent to routers, repeats included.
    pub submits: u64,
    /// `Deliver` frames received.
    pub delivers: u64,
    /// Events queued live for clients.
    pub events_live: u64,
    /// Events queued for clients from pages.
    pub events_paged: u64,
    /// Sessions that were told `behind`.
    pub behinds: u64,
    /// Conversations that were reset.
    pub resets: u64,
    /// Commands whose outcome stayed unknown.
    pub unknown_outcomes: u64,
    /// Lanes that came up.
    pub lanes_up: u64,
    /// Lanes that were lost.
    pub lanes_down: u64,
    /// Link frames and stored events that this build cannot read.
    pub unreadable: u64,
    /// Closes by the server, in the order of [`CLOSES`].
    pub closes: [u64; CLOSES.len()],
}

/// Every reason to close, in the order of [`Counters::closes`].
pub const CLOSES: [Close; 20] = [
    Close::Bye,
    Close::GoingAway,
    Close::ProtocolError,
    Close::UnsupportedData,
    Close::InvalidUtf8,
    Close::TooBig,
    Close::Internal,
    Close::Restart,
    Close::TryLater,
    Close::IdentifyTimeout,
    Close::RateLimited,
    Close::SlowConsumer,
    Close::HeartbeatMissed,
    Close::TokenExpired,
    Close::AuthenticationFailed,
    Close::DeviceRevoked,
    Close::MalformedFrames,
    Close::TooManyConnections,
    Close::OriginRefused,
    Close::Replaced,
];

impl Counters {
    /// Counts a close.
    pub fn close(&mut self, close: Close) {
        if let Some(count) =
            CLOSES.iter().position(|known| *known == close).and_then(|index| self.closes.get_mut(index))
        {
            *count += 1;
        }
    }
}
