//! A client of the simulated world: one device of a user, which speaks the real protocol with our own codec, in either
//! encoding, and checks everything that it is told. Here is the connection; what is said on it is in
//! [`hears`] and [`says`].

mod hears;
mod says;

use std::collections::{BTreeMap, BTreeSet};

use carillon_node::prng::Prng;
use carillon_protocol::client::{Wire, binary, json};
use carillon_protocol::handshake::{self, Answer};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::websocket::{Decoder, Event as Message, Opcode, Role, append_client_frame};
use rkyv::util::AlignedVec;

use super::World;
use super::agenda::Event;
use super::book::{Book, State};
use super::line::Line;
use super::plan::{MS, Plan};
use super::trace::Trace;

/// How long a device waits for `ready` before it tries elsewhere.
const PATIENCE_MS: u64 = 15_000;
/// How long a gateway may take to find that a connection is gone, at most: also when it is paused meanwhile.
const HALF_OPEN_MS: u64 = 8_000;
/// How often it is heard at least.
const HEARTBEAT_MS: u64 = 25_000;
/// The most bytes of a frame of the server.
const FRAME_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Away,
    Upgrading,
    Open,
    Identified,
    Ready,
    Live,
}

/// Why events were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Told `behind`.
    Behind,
    /// Missing from the local copy.
    History,
    /// Curious.
    Whim,
}

/// An unanswered `sync`.
#[derive(Clone, Copy, Debug)]
struct Sync {
    conversation: ConversationId,
    from_seq: Seq,
    why: Why,
    /// The highest seq that anybody was told before it was asked (G10).
    floor: Seq,
    asked_at: u64,
}

/// An unanswered receipt.
#[derive(Clone, Copy, Debug)]
struct Receipt {
    conversation: ConversationId,
    seq: Seq,
    is_read: bool,
    said_at: u64,
}

/// See the module.
pub(super) struct Device {
    number: usize,
    user: UserId,
    name: String,
    wire: Wire,
    token: String,
    prng: Prng,
    pub(super) socket: Option<usize>,
    phase: Phase,
    key: String,
    head: Vec<u8>,
    decoder: Decoder,
    scratch: AlignedVec<16>,
    /// The token came with the upgrade.
    is_bearer: bool,
    may_send_early: bool,
    lines: BTreeMap<ConversationId, Line>,
    /// What it holds, over all its connections.
    held: BTreeMap<ConversationId, BTreeSet<Seq>>,
    /// The first event of a conversation that it may see, where that is not 1.
    firsts: BTreeMap<ConversationId, Seq>,
    /// Up to where it holds everything, as it says when it comes back.
    cursors: BTreeMap<ConversationId, Seq>,
    /// `delivered` as it stands at the server, at least and at most; as of this connection's `identify`.
    stored: BTreeMap<ConversationId, (Seq, Seq)>,
    said: BTreeMap<ConversationId, (Seq, Seq)>,
    /// The highest seq that anybody was told before this connection's `identify`.
    floors: BTreeMap<ConversationId, Seq>,
    identified_at: u64,
    /// Up to where this connection was told that others got, and whether by reading.
    marks: BTreeMap<(ConversationId, UserId, bool), Seq>,
    /// Sends without an answer, in order.
    pending: Vec<usize>,
    /// To be said, in order.
    queue: Vec<usize>,
    retries: Vec<(u64, usize)>,
    syncs: BTreeMap<i64, Sync>,
    sync_again: Vec<(u64, Sync)>,
    receipts: BTreeMap<i64, Receipt>,
    unconfirmed: BTreeSet<ConversationId>,
    /// The request by which this connection watches others, once it is answered who it may see and whether they are there.
    watch: Option<i64>,
    watched: BTreeMap<UserId, bool>,
    /// With whom it shared a conversation then.
    companions: BTreeSet<UserId>,
    watch_at: u64,
    /// Where something that was answered was said again on this connection.
    repeated: BTreeSet<ConversationId>,
    frames_count: i64,
    sends_count: usize,
    is_hushed: bool,
    /// It does not come back.
    is_gone: bool,
    connect_at: u64,
    patience_at: u64,
    act_at: u64,
    confirm_at: u64,
    heartbeat_at: u64,
    wake_at: Option<u64>,
}

/// What a device works with for one step.
struct Hands<'h, 't> {
    now: u64,
    book: &'h mut Book,
    trace: &'h mut Trace<'t>,
    plan: &'h Plan,
    out: Vec<u8>,
    /// Leave this connection, and come back after so many milliseconds.
    leave_ms: Option<u64>,
}

impl Device {
    pub(super) fn new(
        number: usize,
        user: UserId,
        name: String,
        wire: Wire,
        token: String,
        seed: u64,
    ) -> Device {
        Device {
            number,
            user,
            name,
            wire,
            token,
            prng: Prng::new(seed),
            socket: None,
            phase: Phase::Away,
            key: String::new(),
            head: Vec::new(),
            decoder: Decoder::new(Role::Client),
            scratch: AlignedVec::new(),
            is_bearer: false,
            may_send_early: false,
            lines: BTreeMap::new(),
            held: BTreeMap::new(),
            firsts: BTreeMap::new(),
            cursors: BTreeMap::new(),
            stored: BTreeMap::new(),
            said: BTreeMap::new(),
            floors: BTreeMap::new(),
            identified_at: 0,
            marks: BTreeMap::new(),
            pending: Vec::new(),
            queue: Vec::new(),
            retries: Vec::new(),
            syncs: BTreeMap::new(),
            sync_again: Vec::new(),
            receipts: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            watch: None,
            watched: BTreeMap::new(),
            companions: BTreeSet::new(),
            watch_at: u64::MAX,
            repeated: BTreeSet::new(),
            frames_count: 0,
            sends_count: 0,
            is_hushed: false,
            is_gone: false,
            connect_at: 0,
            patience_at: u64::MAX,
            act_at: u64::MAX,
            confirm_at: u64::MAX,
            heartbeat_at: u64::MAX,
            wake_at: None,
        }
    }

    pub(super) fn user(&self) -> UserId {
        self.user
    }

    pub(super) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Begins nothing new.
    pub(super) fn hush(&mut self) {
        self.is_hushed = true;
    }

    /// It leaves and does not come back.
    pub(super) fn go(&mut self) {
        self.is_gone = true;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whom it watches, and whether they are there as far as it was told.
    pub(super) fn watched(&self) -> &BTreeMap<UserId, bool> {
        &self.watched
    }

    /// What it does not hold of `first..=head`.
    pub(super) fn missing(&self, conversation: ConversationId, first: Seq, head: Seq) -> Vec<Seq> {
        let held = self.held.get(&conversation);
        (first..=head).filter(|seq| held.is_none_or(|held| !held.contains(seq))).collect()
    }

    /// Sends that it still waits for.
    pub(super) fn pending(&self) -> &[usize] {
        &self.pending
    }

    pub(super) fn label(&self) -> String {
        format!("device {} ({}@{})", self.number, self.user, self.name)
    }

    fn begin(&mut self, hands: &mut Hands<'_, '_>) {
        let mut nonce = [0; 16];
        self.prng.fill(&mut nonce);
        self.key = handshake::encode_key(nonce);
        self.is_bearer = self.prng.chance(1, 2);
        self.may_send_early = self.prng.chance(1, 2);
        self.head.clear();
        self.phase = Phase::Upgrading;
        self.patience_at = hands.now + PATIENCE_MS * MS;
        let bearer = self.is_bearer.then_some(self.token.as_str());
        let request = handshake::request("world", "/v1/ws", &self.key, &[self.wire.subprotocol()], bearer);
        hands.out.extend(request);
    }

    /// The connection is gone.
    fn lost(&mut self, hands: &mut Hands<'_, '_>) {
        self.socket = None;
        self.phase = Phase::Away;
        for (conversation, line) in std::mem::take(&mut self.lines) {
            if let (false, Some(cursor)) = (line.is_behind, line.cursor()) {
                self.cursors.insert(conversation, cursor);
            }
        }
        let patience_ns = hands.plan.settings.gateway.unknown_after_ms * MS;
        self.pending.retain(|number| {
            let send = &mut hands.book.sends[*number];
            if send.client_msg_id.is_none() && send.attempts > 0 {
                // Its gateway may still say it, behind what this device says again.
                (send.state, send.may_be_overtaken) = (State::Unknown, true);
                return false;
            }
            // Its gateway may give it up before it finds that nobody is there to hear of that.
            let until = hands.now + HALF_OPEN_MS * MS;
            send.may_be_overtaken |= send.attempts > 0 && until.saturating_sub(send.said_at) >= patience_ns;
            true
        });
        self.queue.clear();
        self.retries.clear();
        self.syncs.clear();
        self.sync_again.clear();
        self.receipts.clear();
        self.unconfirmed.clear();
        (self.watch, self.watch_at) = (None, u64::MAX);
        self.watched.clear();
        self.repeated.clear();
        (self.act_at, self.confirm_at, self.heartbeat_at) = (u64::MAX, u64::MAX, u64::MAX);
        self.patience_at = u64::MAX;
        let wait_ms = hands.leave_ms.unwrap_or_else(|| self.prng.between(1, 1_000));
        self.connect_at = hands.now + wait_ms * MS;
    }

    fn bytes(&mut self, bytes: &[u8], hands: &mut Hands<'_, '_>) {
        if self.phase == Phase::Upgrading {
            self.head.extend_from_slice(bytes);
            let head = std::mem::take(&mut self.head);
            match handshake::parse_response(&head, &self.key, &[self.wire.subprotocol()]) {
                Answer::Partial => self.head = head,
                Answer::Accepted { consumed, .. } => {
                    self.phase = Phase::Open;
                    self.decoder = Decoder::new(Role::Client);
                    self.messages(&head[consumed..], hands);
                }
                Answer::Refused { status, .. } => {
                    hands.trace.note(
                        hands.now,
                        "refused",
                        [self.number as u64, u64::from(status), 0],
                        String::new,
                    );
                    hands.leave_ms = Some(self.prng.between(10, 500));
                }
                Answer::Invalid(words) => hands.book.wrong("handshake", words),
            }
        } else {
            self.messages(bytes, hands);
        }
    }

    fn messages(&mut self, mut bytes: &[u8], hands: &mut Hands<'_, '_>) {
        while !bytes.is_empty() && hands.leave_ms.is_none() {
            let mut scratch = std::mem::take(&mut self.scratch);
            match self.decoder.decode(bytes, FRAME_BYTES_MAX, &mut scratch) {
                Err(violation) => {
                    hands.book.wrong("websocket", format!("{}: {violation}", self.label()));
                    return;
                }
                Ok((used, message)) => {
                    bytes = &bytes[used..];
                    match message {
                        None => {}
                        Some(Message::Text(text)) => match json::decode_server(text) {
                            Ok(frame) => self.hear(&frame, hands),
                            Err(error) => hands.book.wrong("codec", format!("{error}: {text}")),
                        },
                        Some(Message::Binary(message)) => {
                            for frame in binary::decode_server(message) {
                                match frame {
                                    Ok(frame) => self.hear(&frame, hands),
                                    Err(error) => hands.book.wrong("codec", error),
                                }
                            }
                        }
                        Some(Message::Ping(payload)) => {
                            let key = (self.prng.next_u64() as u32).to_le_bytes();
                            append_client_frame(&mut hands.out, Opcode::Pong, payload, key);
                        }
                        Some(Message::Pong(_)) => {}
                        Some(Message::Close { code, .. }) => self.closed(code.unwrap_or(1005), hands),
                    }
                }
            }
            self.scratch = scratch;
        }
    }

    fn closed(&mut self, code: u16, hands: &mut Hands<'_, '_>) {
        hands.trace.note(hands.now, "closed", [self.number as u64, u64::from(code), 0], || {
            format!("{} with {code}", self.label())
        });
        match code {
            4507 => hands.book.stats.replaced_unduly += 1,
            4500.. => hands.book.wrong("close", format!("{} was closed with {code}", self.label())),
            1002 | 1003 | 1007 | 1009 | 1011 => {
                hands.book.wrong("close", format!("{} spoke well, and got {code}", self.label()))
            }
            _ => {}
        }
        hands.leave_ms.get_or_insert(self.prng.between(1, 800));
    }

    /// When it has something to do next.
    fn due(&self) -> u64 {
        if self.phase == Phase::Away {
            return if self.is_gone { u64::MAX } else { self.connect_at };
        }
        let retries = self.retries.iter().map(|(at, _)| *at);
        let syncs = self.sync_again.iter().map(|(at, _)| *at);
        let fixed = [self.patience_at, self.act_at, self.confirm_at, self.heartbeat_at, self.watch_at];
        retries.chain(syncs).chain(fixed).min().unwrap_or(u64::MAX)
    }
}

impl World<'_> {
    /// Nothing new is said any more; now and then somebody leaves for good.
    pub(super) fn hush(&mut self) {
        self.devices.iter_mut().for_each(Device::hush);
        let leaving = UserId(self.prng.between(1, 2 * self.plan.users_count as u64));
        for device in 0..self.devices.len() {
            if self.devices[device].user == leaving {
                self.devices[device].go();
                if let Some(socket) = self.devices[device].socket {
                    self.cut(socket);
                }
            }
        }
    }

    pub(super) fn plan_device(&mut self, device: usize, at: u64) {
        let at = at.max(self.now);
        let one = &mut self.devices[device];
        if at < u64::MAX && one.wake_at.is_none_or(|wake_at| wake_at > at) {
            one.wake_at = Some(at);
            self.agenda.put(at, Event::Device { device, at });
        }
    }

    pub(super) fn wake_device(&mut self, device: usize, at: u64) {
        if self.devices[device].wake_at != Some(at) {
            return;
        }
        self.devices[device].wake_at = None;
        if self.devices[device].phase == Phase::Away && self.devices[device].is_gone {
            return;
        }
        if self.devices[device].phase != Phase::Away {
            self.with_device(device, Device::act);
        } else if self.devices[device].connect_at <= self.now {
            let gateway = self.prng.index(self.gateways.len());
            let socket = self.open_socket(device, gateway);
            self.devices[device].socket = Some(socket);
            self.note("connect", [device as u64, gateway as u64, socket as u64], || {
                format!("device {device} to gateway {gateway}")
            });
            self.with_device(device, Device::begin);
        } else {
            let at = self.devices[device].connect_at;
            self.plan_device(device, at);
        }
    }

    pub(super) fn device_bytes(&mut self, device: usize, socket: usize, bytes: &[u8]) {
        if self.devices[device].socket == Some(socket) {
            self.with_device(device, |one, hands| one.bytes(bytes, hands));
        }
    }

    pub(super) fn device_lost(&mut self, device: usize, socket: usize) {
        if self.devices[device].socket == Some(socket) {
            self.note("disconnected", [device as u64, 0, 0], || format!("device {device}"));
            self.with_device(device, Device::lost);
        }
    }

    fn with_device(&mut self, device: usize, step: impl FnOnce(&mut Device, &mut Hands<'_, '_>)) {
        let World { devices, book, trace, plan, now, .. } = self;
        let one = &mut devices[device];
        let mut hands = Hands { now: *now, book, trace, plan, out: Vec::new(), leave_ms: None };
        step(one, &mut hands);
        let socket = one.socket;
        let left = hands.leave_ms.filter(|_| socket.is_some());
        let out = std::mem::take(&mut hands.out);
        if left.is_some() {
            one.lost(&mut hands);
        }
        let due = one.due();
        if let Some(socket) = socket {
            self.write_up(socket, &out);
            if left.is_some() {
                self.close_client(socket);
            }
        }
        self.plan_device(device, due);
    }
}
