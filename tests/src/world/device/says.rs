//! What a device says, and when.

use std::borrow::Cow;
use std::collections::BTreeMap;

use carillon_protocol::client::{Command, FrameId, SendMessage, Wire, binary, json};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::PAGE_EVENTS_MAX;
use carillon_protocol::record::{Encoding, MessageType};
use carillon_protocol::websocket::{Opcode, append_client_frame};
use rkyv::util::AlignedVec;

use super::{Device, HEARTBEAT_MS, Hands, Phase, Receipt, Sync, Why};
use crate::world::book::{Send, State};
use crate::world::plan::MS;

/// Ids of frames that are not sends begin here.
const OTHER_IDS: i64 = 1 << 40;

impl Device {
    fn put(&mut self, hands: &mut Hands<'_, '_>, id: Option<&FrameId>, command: &Command<'_>) {
        let key = (self.prng.next_u64() as u32).to_le_bytes();
        match self.wire {
            Wire::Json => {
                let mut text = Vec::new();
                json::encode_command(id, command, &mut text);
                append_client_frame(&mut hands.out, Opcode::Text, &text, key);
            }
            Wire::Rkyv => {
                let mut archive = AlignedVec::new();
                binary::encode_command(id, command, &mut archive);
                append_client_frame(&mut hands.out, Opcode::Binary, &archive, key);
            }
        }
    }

    fn next_id(&mut self) -> i64 {
        self.frames_count += 1;
        OTHER_IDS + self.frames_count
    }

    pub(super) fn identify(&mut self, hands: &mut Hands<'_, '_>) {
        let token = (!self.is_bearer).then(|| Cow::Owned(self.token.clone()));
        // Everything it knows, some of it, or nothing: the server knows what was confirmed.
        let style = self.prng.below(4);
        let mut cursors: Vec<(ConversationId, Seq)> =
            self.cursors.iter().map(|(id, seq)| (*id, *seq)).collect();
        cursors.retain(|_| style > 1 || (style == 1 && self.prng.chance(1, 2)));
        self.stored = self.said.clone();
        self.lines.clear();
        self.marks.clear();
        self.floors = hands.book.told.clone();
        self.identified_at = hands.now;
        for (conversation, seq) in &cursors {
            self.lines.insert(*conversation, crate::world::line::Line::new(*seq, *seq));
        }
        self.put(hands, None, &Command::Identify { token, cursors });
        self.phase = Phase::Identified;
        self.heartbeat_at = hands.now + HEARTBEAT_MS * MS;
    }

    /// Something is due.
    pub(super) fn act(&mut self, hands: &mut Hands<'_, '_>) {
        let now = hands.now;
        if self.patience_at <= now {
            hands.leave_ms = Some(self.prng.between(1, 200));
            return;
        }
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + HEARTBEAT_MS * MS;
            self.put(hands, None, &Command::Heartbeat);
        }
        let due: Vec<usize> =
            self.retries.extract_if(.., |(at, _)| *at <= now).map(|(_, number)| number).collect();
        self.queue.extend(due);
        self.hand_over(hands);
        let due: Vec<Sync> =
            self.sync_again.extract_if(.., |(at, _)| *at <= now).map(|(_, sync)| sync).collect();
        for sync in due {
            self.sync(sync.conversation, sync.from_seq, sync.why, hands);
        }
        if self.watch_at <= now {
            self.watch_at = u64::MAX;
            self.watch = Some(self.next_id());
            // Who shares a conversation with whom is certain where members do not change.
            let steady = hands.book.members.iter().filter(|(id, _)| !hands.book.moving.contains_key(id));
            let own = steady.map(|(_, members)| members).filter(|members| members.contains(&self.user));
            self.companions = own.flatten().copied().filter(|user| *user != self.user).collect();
            let users = (1..=hands.plan.users_count as u64).map(UserId).collect();
            let id = self.watch.map(FrameId::Number);
            self.put(hands, id.as_ref(), &Command::PresenceSubscribe { users });
        }
        if self.confirm_at <= now {
            self.confirm_at = u64::MAX;
            self.confirm(hands);
        }
        if self.act_at <= now {
            self.act_at = now + self.prng.below(2 * hands.plan.send_gap_ns) + MS;
            if !self.is_hushed {
                self.something(hands);
            }
        }
    }

    fn something(&mut self, hands: &mut Hands<'_, '_>) {
        match self.prng.below(100) {
            0..80 if self.sends_count < hands.plan.sends_max => {
                let count = if self.prng.chance(1, 5) { self.prng.between(2, 6) } else { 1 };
                for _ in 0..count {
                    self.say(hands);
                }
                self.hand_over(hands);
            }
            80..84 => self.say_again(hands),
            84..87 => self.say_otherwise(hands),
            87..90 => self.say_where_it_may_not(hands),
            90..93 => self.type_something(hands),
            93..100 => {
                let known: Vec<ConversationId> = self.lines.keys().copied().collect();
                let chosen = known.get(self.prng.index(known.len())).copied();
                if let Some(conversation) = chosen.filter(|chosen| !self.repeated.contains(chosen)) {
                    let from_seq = self.prng.between(1, hands.book.told(conversation).max(1));
                    self.sync(conversation, from_seq, Why::Whim, hands);
                }
            }
            _ => {}
        }
    }

    fn new_send(
        &mut self,
        conversation: ConversationId,
        name: Option<String>,
        hands: &mut Hands<'_, '_>,
    ) -> usize {
        let number = hands.book.sends.len();
        let mut content = format!("{number} of {} in {conversation}", self.label());
        if self.prng.chance(hands.plan.large, 100) {
            content.push_str(&"abcdefgh".repeat(self.prng.between(100, 1_500) as usize));
        }
        hands.book.sends.push(Send {
            device: self.number,
            user: self.user,
            conversation,
            client_msg_id: name,
            content,
            state: State::Open,
            floor: None,
            attempts: 0,
            said_at: 0,
            first_said_at: 0,
            may_be_overtaken: false,
            is_expected_refused: false,
        });
        number
    }

    /// A new message.
    fn say(&mut self, hands: &mut Hands<'_, '_>) {
        let own = |members: &Vec<_>| members.contains(&self.user);
        // Now and then where members come and go, whoever it is.
        let anywhere = self.prng.chance(1, 16);
        let may = |(id, members): &(&ConversationId, &Vec<_>)| {
            own(members) || (anywhere && hands.book.moving.contains_key(id))
        };
        let known: Vec<ConversationId> = hands.book.members.iter().filter(may).map(|(id, _)| *id).collect();
        let Some(conversation) = known.get(self.prng.index(known.len())).copied() else { return };
        self.sends_count += 1;
        let is_named = !self.prng.chance(hands.plan.unnamed, 100);
        let name = is_named.then(|| format!("m{}-{}", self.number, self.sends_count));
        let number = self.new_send(conversation, name.clone(), hands);
        if let Some(name) = name {
            hands.book.names.insert((self.user, name), number);
        }
        self.pending.push(number);
        self.queue.push(number);
    }

    /// A retry of something that was answered: the answer has to be the same (G2).
    ///
    /// Not beside a `sync` that somebody is curious about: while the connection is `behind`, a page that goes back below
    /// what the client has answers a repeated send as if its event were new.
    fn say_again(&mut self, hands: &mut Hands<'_, '_>) {
        let Some(number) = self.answered(hands) else { return };
        let conversation = hands.book.sends[number].conversation;
        if self.syncs.values().all(|sync| sync.conversation != conversation) {
            self.repeated.insert(conversation);
            self.put_send(number, hands);
        }
    }

    /// The same name with other content: `idempotency_conflict`.
    fn say_otherwise(&mut self, hands: &mut Hands<'_, '_>) {
        if let Some(number) = self.answered(hands) {
            let Send { conversation, client_msg_id, .. } = hands.book.sends[number].clone();
            let other = self.new_send(conversation, client_msg_id, hands);
            hands.book.sends[other].is_expected_refused = true;
            self.put_send(other, hands);
        }
    }

    /// To a conversation of others: `forbidden`.
    fn say_where_it_may_not(&mut self, hands: &mut Hands<'_, '_>) {
        let others = |(id, members): &(&ConversationId, &Vec<_>)| {
            !members.contains(&self.user) && !hands.book.moving.contains_key(id)
        };
        let known: Vec<ConversationId> =
            hands.book.members.iter().filter(others).map(|(id, _)| *id).collect();
        let Some(conversation) = known.get(self.prng.index(known.len())).copied() else { return };
        let name = format!("f{}-{}", self.number, hands.book.sends.len());
        let number = self.new_send(conversation, Some(name), hands);
        hands.book.sends[number].is_expected_refused = true;
        self.put_send(number, hands);
    }

    fn answered(&mut self, hands: &Hands<'_, '_>) -> Option<usize> {
        let own = |send: &Send| send.device == self.number && send.client_msg_id.is_some();
        let sends = hands.book.sends.iter().enumerate();
        let sends = sends.filter(|(_, send)| own(send) && matches!(send.state, State::Acked { .. }));
        let numbers: Vec<usize> = sends.map(|(number, _)| number).collect();
        numbers.get(self.prng.index(numbers.len())).copied()
    }

    /// Says what waits to be said.
    pub(super) fn hand_over(&mut self, hands: &mut Hands<'_, '_>) {
        let may_send = self.phase == Phase::Live || (self.phase == Phase::Ready && self.may_send_early);
        if !may_send {
            return;
        }
        for number in std::mem::take(&mut self.queue) {
            if self.pending.contains(&number) {
                self.put_send(number, hands);
            }
        }
    }

    fn put_send(&mut self, number: usize, hands: &mut Hands<'_, '_>) {
        let conversation = hands.book.sends[number].conversation;
        let told = hands.book.told(conversation);
        let send = &mut hands.book.sends[number];
        send.floor.get_or_insert(told);
        if send.attempts == 0 {
            send.first_said_at = hands.now;
        }
        send.attempts += 1;
        send.said_at = hands.now;
        let Send { client_msg_id, content, attempts, .. } = send.clone();
        hands.trace.note(hands.now, "says", [self.number as u64, number as u64, u64::from(attempts)], || {
            format!("{} send {number} {client_msg_id:?} to {conversation}, attempt {attempts}", self.label())
        });
        let message = SendMessage {
            conversation,
            content: Cow::Owned(content),
            message_type: MessageType::default(),
            encoding: Encoding::default(),
            media_url: None,
            client_msg_id: client_msg_id.map(Cow::Owned),
            reply_to: None,
        };
        self.put(hands, Some(&FrameId::Number(number as i64)), &Command::SendMessage(message));
    }

    pub(super) fn sync(
        &mut self,
        conversation: ConversationId,
        from_seq: Seq,
        why: Why,
        hands: &mut Hands<'_, '_>,
    ) {
        let id = self.next_id();
        let limit = if self.prng.chance(1, 2) { PAGE_EVENTS_MAX } else { self.prng.between(1, 5) as u32 };
        let floor = hands.book.told(conversation);
        self.syncs.insert(id, Sync { conversation, from_seq, why, floor, asked_at: hands.now });
        hands.trace.note(hands.now, "syncs", [self.number as u64, conversation.0, from_seq], || {
            format!("{} {conversation} from {from_seq} ({why:?})", self.label())
        });
        self.put(hands, Some(&FrameId::Number(id)), &Command::Sync { conversation, from_seq, limit });
    }

    /// Types: `start` as a member, `stop` once it was told that it is none. That one is never passed on (G11).
    fn type_something(&mut self, hands: &mut Hands<'_, '_>) {
        let known: Vec<(ConversationId, bool)> =
            self.lines.iter().map(|(id, line)| (*id, !line.is_closed)).collect();
        let Some((conversation, start)) = known.get(self.prng.index(known.len())).copied() else { return };
        hands.book.typed.entry((self.user, conversation, start)).or_insert(hands.now);
        self.put(hands, None, &Command::Typing { conversation, start });
    }

    pub(super) fn first_of(&self, conversation: ConversationId) -> Seq {
        self.firsts.get(&conversation).copied().unwrap_or(1)
    }

    /// Asks for what is missing below what came. Where nothing came by this connection, it holds the last there is.
    pub(super) fn ask_missing(&mut self, hands: &mut Hands<'_, '_>) {
        let cursor_of = |conversation: &ConversationId| match self.lines.get(conversation) {
            Some(line) => line.least(),
            None => self.held.get(conversation).and_then(|held| held.last().copied()).unwrap_or(0),
        };
        let cursors: BTreeMap<ConversationId, Seq> =
            self.held.keys().chain(self.lines.keys()).map(|id| (*id, cursor_of(id))).collect();
        for (conversation, cursor) in cursors {
            let is_asked = |sync: &Sync| sync.conversation == conversation && sync.why == Why::History;
            if let Some(first) =
                self.missing(conversation, self.first_of(conversation), cursor).first().copied()
                && !self.syncs.values().any(is_asked)
            {
                self.sync(conversation, first, Why::History, hands);
            }
        }
    }

    /// Confirms what came.
    fn confirm(&mut self, hands: &mut Hands<'_, '_>) {
        for conversation in std::mem::take(&mut self.unconfirmed) {
            let Some(seq) =
                self.lines.get(&conversation).and_then(|line| line.cursor()).filter(|seq| *seq > 0)
            else {
                continue;
            };
            let is_closed = self.lines.get(&conversation).is_some_and(|line| line.is_closed);
            // Who is no member confirms nothing, but for those who try.
            if is_closed && self.prng.chance(3, 4) {
                continue;
            }
            let is_read = self.prng.chance(1, 3);
            let id = self.prng.chance(1, 2).then(|| self.next_id());
            let (_, most) = self.said.entry(conversation).or_default();
            *most = (*most).max(seq);
            let marks = if is_read { &mut hands.book.read } else { &mut hands.book.delivered };
            let marks = marks.entry((self.user, conversation)).or_default();
            marks.said = marks.said.max(seq);
            // `read` implies delivered.
            let delivered = hands.book.delivered.entry((self.user, conversation)).or_default();
            delivered.said = delivered.said.max(seq);
            if let Some(id) = id {
                self.receipts.insert(id, Receipt { conversation, seq, is_read, said_at: hands.now });
            }
            let id = id.map(FrameId::Number);
            let command = if is_read {
                Command::Read { conversation, seq }
            } else {
                Command::Delivered { conversation, seq }
            };
            self.put(hands, id.as_ref(), &command);
        }
    }
}
