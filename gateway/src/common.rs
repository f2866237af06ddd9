//! What all sessions of a shard share: the turn's time, the settings, the lanes, and where outputs go.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use carillon_link::Peer;
use carillon_node::prng::Prng;
use carillon_node::tokens::KeyTable;
use carillon_protocol::frame::LinkFrame;
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::time::{Time, WallMs};

use crate::counters::Counters;
use crate::hash::IdMap;
use crate::limits::{Rate, Rates};
use crate::line::Scratch;
use crate::owners::Owners;
use crate::session::Marks;
use crate::settings::Settings;
use crate::spares::Spares;
use crate::tails::{Moment, Tails};
use crate::turn::Output;

/// See the module.
pub(crate) struct Common {
    pub(crate) settings: Settings,
    pub(crate) keys: Arc<KeyTable>,
    pub(crate) is_development: bool,
    pub(crate) now: Time,
    pub(crate) wall: WallMs,
    /// When this process last came back from a pause. Waiting for a client counts from here at the earliest: what it
    /// sent meanwhile may not have been read yet (F26).
    pub(crate) resumed_at: Time,
    pub(crate) is_draining: bool,
    pub(crate) prng: Prng,
    pub(crate) counters: Counters,
    pub(crate) address_rates: Rates<IpAddr>,
    pub(crate) device_rates: Rates<(UserId, Box<str>)>,
    pub(crate) connection_rate: Option<Rate>,
    /// What waits for all clients together.
    pub(crate) queued_bytes: usize,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) scratch: Scratch,
    pub(crate) spares: Spares,
    pub(crate) owners: Owners,
    pub(crate) marks: Marks,
    tails: BTreeMap<Peer, Tails>,
    requests_count: u64,
    epoch: u64,
    shard: u16,
    refusals_count: u64,
}

/// Routers that are gone whose tails are remembered, for sessions that did not get through to the next one yet. Beyond:
/// the one with the lowest peer is forgotten, and who was live there is told `behind`.
const GONE_MAX: usize = 8;

/// Which part of `limits.conn_queue_bytes` is left to each when what waits for all is at its bound: room for some events, and
/// for none of a page.
const CROWDED_PART: usize = 16;

impl Common {
    pub(crate) fn new(
        settings: Settings,
        keys: Arc<KeyTable>,
        is_development: bool,
        seed: u64,
        epoch: u64,
        shard: u16,
    ) -> Common {
        let limits = &settings.limits;
        Common {
            address_rates: Rates::new(Rate::new(limits.address_per_s, limits.address_burst)),
            device_rates: Rates::new(Rate::new(limits.device_per_s, limits.device_burst)),
            connection_rate: Rate::new(limits.connection_per_s, limits.connection_burst),
            settings,
            keys,
            is_development,
            now: Time(0),
            wall: WallMs(0),
            resumed_at: Time(0),
            is_draining: false,
            prng: Prng::new(seed),
            counters: Counters::default(),
            queued_bytes: 0,
            outputs: VecDeque::new(),
            scratch: Scratch::default(),
            spares: Spares::default(),
            owners: Owners::default(),
            marks: Marks::default(),
            tails: BTreeMap::new(),
            requests_count: 0,
            epoch,
            shard,
            refusals_count: 0,
        }
    }

    /// What may wait for one client (G13): little, while much waits for all together.
    pub(crate) fn conn_queue_bytes(&self) -> usize {
        let limits = &self.settings.limits;
        if self.queued_bytes < limits.queues_bytes_max {
            limits.conn_queue_bytes
        } else {
            limits.conn_queue_bytes / CROWDED_PART
        }
    }

    /// What was delivered on the lanes of a router, from its first one on.
    pub(crate) fn tails(&mut self, router: Peer) -> &mut Tails {
        self.tails.entry(router).or_insert_with(|| Tails::of(router))
    }

    /// What every session had that was live until then, of these conversations.
    pub(crate) fn had(
        &self,
        moment: Moment,
        conversations: impl Iterator<Item = ConversationId>,
    ) -> IdMap<ConversationId, Seq> {
        self.tails.get(&moment.router()).map(|tails| tails.had(moment, conversations)).unwrap_or_default()
    }

    /// Routers to which lanes are missing are asked for, and those that are gone for good are parted from.
    pub(crate) fn meet_and_part(&mut self) {
        // First who is gone: another one may be at the same address now, and nobody is met there twice.
        let mut has_parted = false;
        while let Some(router) = self.owners.forget_gone() {
            self.outputs.push_back(Output::Part { router });
            has_parted = true;
        }
        if has_parted {
            // Where routers are looked for at first they are looked for again: a new one may be there of which nobody tells
            // any more, because everybody else is gone or stands still.
            let first = self.settings.gateway.routers.iter();
            self.outputs.extend(first.map(|address| Output::Meet { address: address.clone() }));
        }
        for address in self.owners.unmet() {
            self.outputs.push_back(Output::Meet { address });
        }
        let gone: Vec<Peer> = self.tails.keys().copied().filter(|peer| !self.owners.knows(*peer)).collect();
        for peer in gone.iter().take(gone.len().saturating_sub(GONE_MAX)) {
            self.tails.remove(peer);
        }
    }

    /// Puts a frame on a lane.
    pub(crate) fn link(&mut self, router: Peer, frame: &impl LinkFrame) {
        let mut bytes = self.spares.frame();
        frame.append_to(&mut bytes);
        self.outputs.push_back(Output::Link { router, frame: bytes });
    }

    /// A number for a request that expects an answer: never 0, never used before in this epoch (F13).
    pub(crate) fn request(&mut self) -> u64 {
        self.requests_count += 1;
        self.requests_count
    }

    /// A name for an error, by which a client's report and our log are brought together.
    pub(crate) fn request_id(&mut self) -> String {
        self.refusals_count += 1;
        format!("{:08x}-{:x}-{:x}", self.epoch & 0xffff_ffff, self.shard, self.refusals_count)
    }

    /// An idempotency key for a command that came without: a UUID of version 4 (RFC 9562 section 5.4), which the store
    /// packs into sixteen bytes.
    pub(crate) fn mint_client_msg_id(&mut self) -> String {
        use std::fmt::Write as _;

        let high = (self.prng.next_u64() & !0xf000) | 0x4000;
        let low = (self.prng.next_u64() & !(0b11 << 62)) | (0b10 << 62);
        let mut minted = self.spares.text("");
        // Writing to memory does not fail.
        let _ = write!(
            minted,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        );
        minted
    }
}
