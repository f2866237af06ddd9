//! What a shard counts: plain numbers that its driver copies to the metrics page.

use carillon_node::metrics::WALL_MS;
use carillon_protocol::client::{Command, ServerFrame};
use carillon_protocol::reason::Close;

/// Counts since the shard began; they only rise, but for the gauges.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Gauge: connections, whatever their phase.
    pub connections: u64,
    /// Gauge: bytes that wait for clients.
    pub queued_bytes: u64,
    /// Gauge: identified sessions.
    pub sessions: u64,
    /// Gauge: slots of which it is known who owns them.
    pub slots_owned: u64,
    /// Gauge: of those, the ones whose owner is reached and says so too.
    pub slots_confirmed: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Upgrades done.
    pub upgraded: u64,
    /// Upgrades refused.
    pub upgrades_refused: u64,
    /// Connections that were told to come again, and not read.
    pub turned_away: u64,
    /// What TLS and the headers of proxies came to, in the order of [`SECURED`].
    pub secured: [u64; SECURED.len()],
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
    /// The same by how long after their commit that was, in the buckets of [`WALL_MS`].
    pub delivered: [u64; WALL_MS.bounds.len() + 1],
    /// The sum of it.
    pub delivered_ms: u64,
    /// Events queued for clients from pages.
    pub events_paged: u64,
    /// Ephemeral frames that found no room.
    pub ephemeral_dropped: u64,
    /// Refused by rate, in the order of [`LIMITED_BY`].
    pub limited: [u64; LIMITED_BY.len()],
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
    /// Closes by the server, in the order of [`Close::ALL`].
    pub closes: [u64; Close::ALL.len()],
    /// Frames from clients by kind, in the order of [`HEARD`].
    pub heard: [u64; HEARD.len()],
    /// Frames queued for clients by kind, in the order of [`SAID`].
    pub said: [u64; SAID.len()],
}

/// What becomes of connections before their first request, where clients speak TLS or proxies stand before them.
pub const SECURED: [&str; 4] = ["done", "failed", "plain", "proxy"];

/// Indexes into [`SECURED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Secured {
    /// A handshake was done.
    Done = 0,
    /// It was not, by what the client said.
    Failed = 1,
    /// The client did not speak TLS.
    Plain = 2,
    /// A trusted proxy sent no header that can be read.
    Proxy = 3,
}

/// Whose rate a command or an upgrade was above. The router counts users and conversations under the same name.
pub const LIMITED_BY: [&str; 3] = ["connection", "device", "address"];

/// Indexes into [`LIMITED_BY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limited {
    /// Commands of one connection.
    Connection = 0,
    /// Durable commands of one device.
    Device = 1,
    /// Upgrades from one address.
    Address = 2,
}

/// Kinds of frames from clients; the last one is everything that is no command.
pub const HEARD: [&str; 15] = [
    "identify",
    "send_message",
    "delivered",
    "read",
    "sync",
    "refresh_token",
    "heartbeat",
    "bye",
    "typing",
    "presence_subscribe",
    "presence_unsubscribe",
    "delete_message",
    "react",
    "unreact",
    "refused",
];

/// Kinds of frames to clients.
pub const SAID: [&str; 15] = [
    "hello",
    "ready",
    "caught_up",
    "event",
    "delivery_ack",
    "sync_batch",
    "behind",
    "reset",
    "reconnect",
    "ok",
    "error",
    "heartbeat_ack",
    "typing",
    "presence",
    "read_sync",
];

/// Kinds of [`SAID`] that are encoded once for many clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Shared {
    /// A durable event.
    Event = 3,
    /// A watermark.
    DeliveryAck = 4,
    /// A page.
    SyncBatch = 5,
    /// Somebody types.
    Typing = 12,
    /// Somebody came or went.
    Presence = 13,
    /// Read on another device.
    ReadSync = 14,
}

impl Counters {
    /// Counts an event queued live for a client, so long after it was given its time in its commit.
    pub fn event_live(&mut self, since_commit_ms: u64) {
        self.events_live += 1;
        let bucket = WALL_MS.bounds.partition_point(|bound| *bound < since_commit_ms);
        if let Some(count) = self.delivered.get_mut(bucket) {
            *count += 1;
        }
        self.delivered_ms = self.delivered_ms.saturating_add(since_commit_ms);
    }

    /// Counts a frame from a client; `None`: it was no command.
    pub fn heard(&mut self, command: Option<&Command<'_>>) {
        self.heard[match command {
            Some(Command::Identify { .. }) => 0,
            Some(Command::SendMessage(_)) => 1,
            Some(Command::Delivered { .. }) => 2,
            Some(Command::Read { .. }) => 3,
            Some(Command::Sync { .. }) => 4,
            Some(Command::RefreshToken { .. }) => 5,
            Some(Command::Heartbeat) => 6,
            Some(Command::Bye) => 7,
            Some(Command::Typing { .. }) => 8,
            Some(Command::PresenceSubscribe { .. }) => 9,
            Some(Command::PresenceUnsubscribe { .. }) => 10,
            Some(Command::DeleteMessage { .. }) => 11,
            Some(Command::React { add: true, .. }) => 12,
            Some(Command::React { add: false, .. }) => 13,
            None => 14,
        }] += 1;
    }

    /// Counts a frame to a client.
    pub fn said(&mut self, frame: &ServerFrame<'_>) {
        self.said[match frame {
            ServerFrame::Hello(_) => 0,
            ServerFrame::Ready { .. } => 1,
            ServerFrame::CaughtUp => 2,
            ServerFrame::Event(_) => Shared::Event as usize,
            ServerFrame::DeliveryAck(_) => Shared::DeliveryAck as usize,
            ServerFrame::SyncBatch(_) => Shared::SyncBatch as usize,
            ServerFrame::Behind { .. } => 6,
            ServerFrame::Reset { .. } => 7,
            ServerFrame::Reconnect { .. } => 8,
            ServerFrame::Ok(_) => 9,
            ServerFrame::Error { .. } => 10,
            ServerFrame::HeartbeatAck { .. } => 11,
            ServerFrame::Typing { .. } => Shared::Typing as usize,
            ServerFrame::Presence(_) => Shared::Presence as usize,
            ServerFrame::ReadSync { .. } => Shared::ReadSync as usize,
        }] += 1;
    }

    /// Counts a frame to a client that was encoded for many.
    pub fn said_shared(&mut self, kind: Shared) {
        self.said[kind as usize] += 1;
    }

    /// Counts what was refused by rate.
    pub fn limited(&mut self, by: Limited) {
        self.limited[by as usize] += 1;
    }

    /// Counts a close.
    pub fn close(&mut self, close: Close) {
        if let Some(count) =
            Close::ALL.iter().position(|known| *known == close).and_then(|index| self.closes.get_mut(index))
        {
            *count += 1;
        }
    }
}
