//! One client after the upgrade, as a state machine: frames in, frames out. It greets, says what it holds, sends what
//! the schedule hands it, confirms, asks for what it missed, and repeats what nobody answered.
//!
//! # Invariants
//! - Pure: time, book and buffers are handed in with each call ([`Turn`]).
//! - A message keeps its `client_msg_id` and content however often it is sent; sends of one client leave in order.
//! - A message waits until it was answered for good. At most [`PENDING_MAX`] wait; more are dropped, and the run is
//!   then invalid.

use std::borrow::Cow;
use std::collections::VecDeque;

use carillon_node::prng::Prng;
use carillon_protocol::client::{
    Command, DeliveryAck, EventFrame, FrameId, SendMessage, ServerFrame, Status, SyncBatch,
};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::{PAGE_EVENTS_MAX, PRESENCE_IDS_MAX};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Encoding, MessageType};

use crate::content::{self, Mark};
use crate::journal::Entry;
use crate::oracle::Seen;
use crate::turn::Turn;

/// Messages of one client that may wait for an answer: minutes of its share of any plausible rate.
pub const PENDING_MAX: usize = 20_000;

/// Bytes on their way to a socket above which a client hands over no further messages: the server stopped reading.
const OUT_BYTES_MAX: usize = 256 * 1024;

/// How long a retryably refused message waits when the server does not say.
const RETRY_AFTER_MS: u64 = 100;

/// Until the server's `hello` says otherwise.
const HEARTBEAT_MS: u32 = 30_000;

/// What clients confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Receipts {
    /// Nothing.
    None,
    /// That events arrived.
    Delivered,
    /// That they were read, which implies that they arrived.
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection, or one that is not upgraded.
    Offline,
    /// Identified, receiving what was missed.
    Resuming,
    /// Caught up.
    Live,
}

/// A message that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Pending {
    n: u64,
    conversation: u32,
    intended_ns: u64,
    /// The highest seq anybody was told when it was first handed over; `None` before.
    floor_seq: Option<Seq>,
}

/// What the engine has to do after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing more.
    Go,
    /// Offer message `n` again at this time.
    RetryAt {
        /// Which.
        n: u64,
        /// Nanoseconds on the clock.
        due_ns: u64,
    },
    /// Close, and come back after this long.
    ComeBack {
        /// Milliseconds.
        after_ms: u64,
    },
    /// The server will not have this client.
    Stop(Code),
}

/// A client.
#[derive(Debug)]
pub struct Session {
    client: u32,
    phase: Phase,
    heartbeat_ms: u32,
    /// When the heartbeat left that is not answered yet; 0: there is none.
    beat_ns: u64,
    /// Ascending by `n`.
    pending: VecDeque<Pending>,
    /// To be handed over, in order.
    queue: VecDeque<u64>,
    /// Conversations with something to confirm.
    unconfirmed: Vec<u32>,
    send_per_s: u64,
    is_measured: bool,
}

impl Session {
    /// A client that is offline.
    #[must_use]
    pub fn new(client: u32) -> Session {
        Session {
            client,
            phase: Phase::Offline,
            heartbeat_ms: HEARTBEAT_MS,
            beat_ns: 0,
            pending: VecDeque::new(),
            queue: VecDeque::new(),
            unconfirmed: Vec::new(),
            send_per_s: 0,
            is_measured: true,
        }
    }

    /// What it receives is judged, and not measured: it is slow on purpose.
    pub fn leave_unmeasured(&mut self) {
        self.is_measured = false;
    }

    /// Whether it has caught up and may send.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// How often to be heard, in milliseconds.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u64 {
        u64::from(self.heartbeat_ms)
    }

    /// Messages a second that the server takes from one user; 0: unlimited, or unknown.
    #[must_use]
    pub fn send_per_s(&self) -> u64 {
        self.send_per_s
    }

    /// Messages that wait for an answer.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, turn: &mut Turn<'_>) {
        self.phase = Phase::Offline;
        self.beat_ns = 0;
        self.unconfirmed.clear();
        turn.ledger.connected(self.client, false);
        turn.note(Entry::Disconnected { client: self.client });
    }

    /// The schedule wants a message in a conversation. Returns whether it waits for an answer from now on.
    pub fn send(&mut self, turn: &mut Turn<'_>, conversation: u32, intended_ns: u64) -> bool {
        if self.pending.len() >= PENDING_MAX {
            turn.stats.dropped_count += 1;
            return false;
        }
        let n = turn.ledger.next_n(self.client);
        let pending = Pending { n, conversation, intended_ns, floor_seq: None };
        let mark = Mark { run: turn.roster.run(), user: turn.roster.user(self.client), n, intended_ns };
        turn.text.write(&mark, turn.content_bytes, turn.media);
        turn.ledger.sent(self.client, conversation, &turn.text.content, turn.text.media_url());
        turn.note(Entry::Sent { client: self.client, n, conversation });
        self.pending.push_back(pending);
        self.queue.push_back(n);
        self.hand_over(turn);
        true
    }

    /// A refused message is due again.
    pub fn retry(&mut self, turn: &mut Turn<'_>, n: u64) {
        if self.phase == Phase::Live && self.find(n).is_some() && !self.queue.contains(&n) {
            self.queue.push_back(n);
            self.hand_over(turn);
        }
    }

    /// Says that it is there.
    pub fn heartbeat(&mut self, turn: &mut Turn<'_>) {
        if self.beat_ns == 0 {
            self.beat_ns = turn.now_ns;
        }
        turn.put(None, &Command::Heartbeat);
    }

    /// Leaves.
    pub fn bye(&mut self, turn: &mut Turn<'_>) {
        turn.put(None, &Command::Bye);
    }

    /// Hands over what waits, as far as the connection takes it, and confirms what came.
    pub fn flush(&mut self, turn: &mut Turn<'_>) {
        if self.phase == Phase::Offline {
            return;
        }
        self.hand_over(turn);
        for number in std::mem::take(&mut self.unconfirmed) {
            let conversation = turn.roster.conversations()[number as usize].id;
            let seq = turn.ledger.cursor(self.client, number);
            match turn.receipts {
                Receipts::None => {}
                Receipts::Delivered => turn.put(None, &Command::Delivered { conversation, seq }),
                Receipts::Read => turn.put(None, &Command::Read { conversation, seq }),
            }
        }
    }

    /// A frame from the server.
    pub fn frame(&mut self, turn: &mut Turn<'_>, frame: &ServerFrame<'_>) -> Next {
        match frame {
            ServerFrame::Hello(hello) => {
                let interval_ms = hello.heartbeat_interval_ms.clamp(10, 3_600_000);
                self.heartbeat_ms = u32::try_from(interval_ms).unwrap_or(HEARTBEAT_MS);
                self.send_per_s = hello.send_per_s;
                self.identify(turn);
            }
            ServerFrame::CaughtUp => self.caught_up(turn),
            ServerFrame::Event(event) => self.event(turn, event),
            ServerFrame::DeliveryAck(ack) => self.acked(turn, ack),
            ServerFrame::SyncBatch(batch) => self.batch(turn, batch),
            ServerFrame::Behind { conversations } => {
                turn.ledger.behind(self.client);
                for (conversation, _) in conversations {
                    self.sync(turn, *conversation, None);
                }
            }
            ServerFrame::Reset { conversation, head_seq, .. } => {
                turn.ledger.reset(self.client, *conversation, *head_seq);
                turn.note(Entry::Reset {
                    client: self.client,
                    conversation: *conversation,
                    head_seq: *head_seq,
                });
            }
            ServerFrame::Reconnect { after_ms, .. } => return Next::ComeBack { after_ms: *after_ms },
            ServerFrame::Error { id, refusal, .. } => return self.error(turn, id.as_ref(), refusal),
            ServerFrame::Presence(_) => turn.stats.presence_count += 1,
            ServerFrame::HeartbeatAck { .. } => {
                if let beat_ns @ 1.. = std::mem::take(&mut self.beat_ns) {
                    turn.stats.heartbeat.record_ns(turn.now_ns.saturating_sub(beat_ns));
                }
            }
            ServerFrame::Ready { .. }
            | ServerFrame::Ok(_)
            | ServerFrame::Typing { .. }
            | ServerFrame::ReadSync { .. } => {}
        }
        Next::Go
    }

    fn identify(&mut self, turn: &mut Turn<'_>) {
        turn.ledger.connected(self.client, true);
        turn.note(Entry::Connected { client: self.client });
        let conversations = turn.roster.conversations();
        let cursors = turn.ledger.cursors(self.client);
        let cursors = cursors.map(|(number, seq)| (conversations[number as usize].id, seq)).collect();
        turn.put(None, &Command::Identify { token: None, cursors });
        self.phase = Phase::Resuming;
    }

    fn caught_up(&mut self, turn: &mut Turn<'_>) {
        if self.phase == Phase::Resuming {
            self.phase = Phase::Live;
            self.watch(turn);
            // Whatever nobody answered goes out again, in order, under the same ids (F1).
            self.queue.clear();
            self.queue.extend(self.pending.iter().map(|pending| pending.n));
        }
        self.hand_over(turn);
    }

    /// Asks how some others are, on each connection anew: of those in its largest conversation, because of people with whom
    /// one shares nothing a server tells nothing.
    fn watch(&mut self, turn: &mut Turn<'_>) {
        let conversations = turn.roster.conversations();
        let shared =
            turn.roster.memberships(self.client).iter().map(|number| &conversations[*number as usize]);
        let Some(largest) = shared.max_by_key(|conversation| conversation.members.len()) else { return };
        let members = &largest.members;
        let behind = members.partition_point(|member| *member <= self.client);
        let others = members.iter().cycle().skip(behind).take(members.len() - 1).take(turn.watch as usize);
        let users: Vec<UserId> = others.map(|member| UserId(turn.roster.user(*member))).collect();
        for some in users.chunks(PRESENCE_IDS_MAX) {
            turn.put(None, &Command::PresenceSubscribe { users: some.to_vec() });
        }
    }

    fn event(&mut self, turn: &mut Turn<'_>, event: &EventFrame<'_>) {
        let (conversation, seq) = event.position();
        let (sender, digest, mark) = match event {
            EventFrame::NewMessage { message, .. } => {
                (message.sender.0, content::view_digest(message), content::read(&message.content))
            }
            other => {
                let (by, digest) = content::other_digest(other);
                (by, digest, None)
            }
        };
        match turn.ledger.delivered(self.client, conversation, seq, sender, digest, mark) {
            Seen::Taken { conversation: number } => {
                turn.note(Entry::Delivered { client: self.client, conversation, seq, digest });
                if turn.receipts != Receipts::None && !self.unconfirmed.contains(&number) {
                    self.unconfirmed.push(number);
                }
                if let Some(mark) = mark.filter(|_| self.is_measured) {
                    turn.ledger.arrived(number, seq, mark.intended_ns, turn.now_ns);
                    turn.delivered(mark.intended_ns);
                }
            }
            Seen::MustSync { from_seq } => self.sync(turn, conversation, Some(from_seq)),
            Seen::Unrelated => {}
        }
    }

    fn batch(&mut self, turn: &mut Turn<'_>, batch: &SyncBatch<'_>) {
        for event in &batch.events {
            self.event(turn, event);
        }
        // Pages of a resume come by themselves; those that were asked for are asked on.
        if batch.has_more && batch.id.is_some() {
            self.sync(turn, batch.conversation, Some(batch.to_seq.saturating_add(1)));
        }
    }

    fn sync(&mut self, turn: &mut Turn<'_>, conversation: ConversationId, from_seq: Option<Seq>) {
        let held = turn.roster.number(conversation).map(|number| turn.ledger.cursor(self.client, number));
        let from_seq = from_seq.unwrap_or_else(|| held.unwrap_or(0).saturating_add(1));
        let id = FrameId::Text("sync".into());
        turn.put(Some(&id), &Command::Sync { conversation, from_seq, limit: PAGE_EVENTS_MAX });
    }

    fn acked(&mut self, turn: &mut Turn<'_>, ack: &DeliveryAck<'_>) {
        if ack.status != Status::Sent {
            return;
        }
        // Without an `id` it is for nobody who waits here.
        let Some(FrameId::Number(n)) = ack.id else { return };
        let n = n.unsigned_abs();
        let floor_seq = self.find(n).and_then(|place| self.pending.get(place)?.floor_seq);
        let (seq, message, duplicate) = (ack.seq, ack.message, ack.duplicate);
        turn.note(Entry::Acked { client: self.client, n, seq, message, duplicate });
        let answers = turn.ledger.acked(self.client, n, seq, message, duplicate, floor_seq.unwrap_or(0));
        // Told to everybody before it counts as answered: who sees nothing unanswered also sees how far to wait.
        if let Some(pending) = self.find(n).and_then(|place| self.pending.get(place))
            && answers
        {
            turn.acked(pending.conversation, seq, pending.intended_ns);
        }
        self.answered(turn, n);
    }

    fn error(&mut self, turn: &mut Turn<'_>, id: Option<&FrameId>, refusal: &Refusal) -> Next {
        let name = refusal.code.name();
        match id {
            Some(FrameId::Number(n)) => {
                turn.stats.refused(name);
                let n = n.unsigned_abs();
                turn.note(Entry::Refused { client: self.client, n, code: refusal.code });
                if refusal.code.row().retryable {
                    turn.ledger.deferred(self.client, n);
                    let wait_ms = refusal.retry_after_ms.unwrap_or(RETRY_AFTER_MS).min(60_000);
                    let due_ns = turn.now_ns.saturating_add(jittered(turn.prng, wait_ms) * 1_000_000);
                    return Next::RetryAt { n, due_ns };
                }
                turn.ledger.refused(self.client, n);
                self.answered(turn, n);
                Next::Go
            }
            _ => {
                turn.stats.trouble(name);
                let is_turned_away = self.phase != Phase::Live
                    && matches!(refusal.code, Code::Unauthenticated | Code::TokenExpired | Code::Forbidden);
                if is_turned_away { Next::Stop(refusal.code) } else { Next::Go }
            }
        }
    }

    fn find(&self, n: u64) -> Option<usize> {
        self.pending.binary_search_by_key(&n, |pending| pending.n).ok()
    }

    fn answered(&mut self, turn: &mut Turn<'_>, n: u64) {
        if self.find(n).and_then(|place| self.pending.remove(place)).is_some() {
            turn.answered();
        }
    }

    fn hand_over(&mut self, turn: &mut Turn<'_>) {
        while self.phase == Phase::Live && turn.out.len() < OUT_BYTES_MAX {
            let Some(n) = self.queue.pop_front() else { return };
            let Some(place) = self.find(n) else { continue };
            let Some(pending) = self.pending.get_mut(place) else { continue };
            let heard = turn.told_seq(pending.conversation);
            pending.floor_seq.get_or_insert(heard);
            let pending = *pending;
            let (run, user) = (turn.roster.run(), turn.roster.user(self.client));
            let mark = Mark { run, user, n, intended_ns: pending.intended_ns };
            let mut text = std::mem::take(turn.text);
            text.write(&mark, turn.content_bytes, turn.media);
            let media_url = text.media_url();
            let message = SendMessage {
                conversation: turn.roster.conversations()[pending.conversation as usize].id,
                content: Cow::Borrowed(&text.content),
                message_type: if media_url.is_some() { MessageType::Image } else { MessageType::Text },
                encoding: Encoding::default(),
                media_url: media_url.map(Cow::Borrowed),
                client_msg_id: Some(Cow::Borrowed(&text.client_msg_id)),
                reply_to: None,
            };
            let id = FrameId::Number(i64::try_from(n).unwrap_or(i64::MAX));
            turn.put(Some(&id), &Command::SendMessage(message));
            *turn.text = text;
        }
    }
}

/// A time between half of it and all of it, so that those who wait together do not come together.
#[must_use]
pub fn jittered(prng: &mut Prng, milliseconds: u64) -> u64 {
    prng.between(milliseconds / 2, milliseconds)
}
