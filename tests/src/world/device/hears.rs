//! What a device is told, frame by frame, and whether it may be told that.

use carillon_protocol::client::{DeliveryAck, Done, EventFrame, FrameId, ServerFrame, Status, SyncBatch};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};

use super::{Device, Hands, Phase, Receipt, Sync, Why};
use crate::world::book::{Sight, State, sight};
use crate::world::line::Line;
use crate::world::members::Claim;
use crate::world::plan::MS;

/// How long a refused frame waits when the server does not say.
const RETRY_MS: u64 = 50;

impl Device {
    pub(super) fn hear(&mut self, frame: &ServerFrame<'_>, hands: &mut Hands<'_, '_>) {
        match frame {
            ServerFrame::Hello(_) => self.identify(hands),
            ServerFrame::Ready { user, .. } => {
                if self.phase != Phase::Identified || *user != self.user {
                    hands.book.wrong("ready", format!("{} at {:?}", self.label(), self.phase));
                }
                self.phase = Phase::Ready;
                self.patience_at = u64::MAX;
                self.queue = self.pending.clone();
                self.hand_over(hands);
            }
            ServerFrame::CaughtUp => self.caught_up(hands),
            ServerFrame::Event(event) => self.live(event, hands),
            ServerFrame::DeliveryAck(ack) => self.acked(ack, hands),
            ServerFrame::SyncBatch(batch) => self.batch(batch, hands),
            ServerFrame::Behind { conversations } => self.behind(conversations, hands),
            ServerFrame::Reset { id, conversation, first_seq, head_seq, reason } => {
                hands.book.stats.resets += u64::from(*reason != "membership");
                hands.book.stats.returns += u64::from(*reason == "membership");
                hands.book.firsts.insert((self.user, *conversation, *first_seq));
                let asked = match id {
                    Some(FrameId::Number(id)) => self.syncs.remove(id),
                    _ => None,
                };
                let is_over = !hands.book.is_member(self.user, *conversation);
                let line = self.line(*conversation);
                // Who was curious beyond the end of what they may see holds all the same what they hold, unless they had
                // to fetch it: then they may drop it instead.
                let is_last = line.is_behind && !line.is_older(*head_seq, is_over);
                let is_closed = line.is_closed && is_over;
                let is_whim = asked.is_some_and(|sync| sync.why == Why::Whim);
                if is_whim && !is_last {
                    return;
                }
                hands.trace.note(hands.now, "reset", [self.number as u64, conversation.0, *head_seq], || {
                    format!("{} {conversation} to {head_seq}: {reason}", self.label())
                });
                self.firsts.insert(*conversation, *first_seq);
                if let Some(held) = self.held.get_mut(conversation) {
                    *held = held.split_off(&(head_seq + 1));
                }
                let line = self.line(*conversation);
                *line = line.reset(*head_seq);
                line.is_closed = is_closed && is_whim;
                if self.phase == Phase::Live {
                    self.ask_missing(hands);
                }
            }
            ServerFrame::Reconnect { after_ms, .. } => hands.leave_ms = Some(*after_ms),
            ServerFrame::Ok(done) => self.done(done, hands),
            ServerFrame::Error { id, refusal, .. } => self.refused(id.as_ref(), refusal, hands),
            ServerFrame::Presence(view) => {
                if let Some(is_there) = self.watched.get_mut(&view.user) {
                    *is_there = view.online;
                }
            }
            ServerFrame::Typing { conversation, user, start } => {
                self.typing(*conversation, *user, *start, hands);
            }
            // What is true only now says nothing about the log.
            ServerFrame::HeartbeatAck { .. } | ServerFrame::ReadSync { .. } => {}
        }
    }

    fn caught_up(&mut self, hands: &mut Hands<'_, '_>) {
        hands.trace.note(hands.now, "caught up", [self.number as u64, 0, 0], || self.label());
        if let Some((conversation, _)) = self.lines.iter().find(|(_, line)| line.is_behind) {
            hands.book.wrong(
                "behind",
                format!("{} is caught up, and still behind in {conversation}", self.label()),
            );
        }
        if self.phase == Phase::Ready {
            self.judge_floors(hands);
            self.phase = Phase::Live;
            hands.book.stats.lives += 1;
            if self.prng.chance(1, 2) {
                self.watch_at = hands.now;
            }
            if self.act_at == u64::MAX {
                self.act_at = hands.now + self.prng.below(2 * hands.plan.send_gap_ns);
            }
        }
        self.hand_over(hands);
        self.ask_missing(hands);
    }

    /// Somebody types, who was a member since they first did so (G11).
    fn typing(
        &mut self,
        conversation: ConversationId,
        typist: UserId,
        start: bool,
        hands: &mut Hands<'_, '_>,
    ) {
        hands.book.stats.typings += 1;
        let Some(since) = hands.book.typed.get(&(typist, conversation, start)).copied() else {
            let words = format!("{} hears that {typist} types in {conversation}", self.label());
            hands.book.wrong("G11", words);
            return;
        };
        // Who knows that they left says `stop` only: that is passed on to nobody.
        if !start {
            let (promise, user, to) = ("G11", typist, hands.now);
            let words = format!("{} hears {typist} type in {conversation}, who left", self.label());
            let claim = Claim { promise, user, conversation, from: since, to, was_member: true, words };
            hands.book.claims.push(claim);
        }
    }

    /// The user was told something that is right only if it was no member of that conversation since then.
    fn was_no_member(
        &self,
        promise: &'static str,
        (conversation, since): (ConversationId, u64),
        words: String,
        hands: &mut Hands<'_, '_>,
    ) {
        let (user, to) = (self.user, hands.now);
        let claim = Claim { promise, user, conversation, from: since, to, was_member: false, words };
        hands.book.claims.push(claim);
    }

    /// Whoever is caught up has what anybody was told before they came (G10).
    fn judge_floors(&mut self, hands: &mut Hands<'_, '_>) {
        let floors = std::mem::take(&mut self.floors);
        let own = |conversation: &ConversationId, hands: &Hands<'_, '_>| {
            hands.book.is_member(self.user, *conversation)
        };
        for (conversation, floor) in floors {
            let most = self.stored.get(&conversation).map_or(0, |stored| stored.1);
            let has = match self.lines.get(&conversation) {
                Some(line) => line.cursor(),
                None => Some(most),
            };
            if let Some(has) = has.filter(|has| *has < floor && own(&conversation, hands)) {
                let words = format!(
                    "{} is caught up with {conversation} at {has}, and {floor} was told before it came",
                    self.label()
                );
                self.was_no_member("G10", (conversation, self.identified_at), words, hands);
            }
        }
    }

    pub(super) fn line(&mut self, conversation: ConversationId) -> &mut Line {
        let (least, most) = self.stored.get(&conversation).copied().unwrap_or_default();
        self.lines.entry(conversation).or_insert_with(|| Line::new(least, most))
    }

    fn keep(&mut self, conversation: ConversationId, seq: Seq, sight: Sight, hands: &mut Hands<'_, '_>) {
        hands.book.shown(self.user, conversation, seq, hands.now);
        hands.book.see(conversation, seq, sight, hands.now);
        self.held.entry(conversation).or_default().insert(seq);
        self.unconfirmed.insert(conversation);
        if self.confirm_at == u64::MAX {
            self.confirm_at = hands.now + self.prng.below(200 * MS);
        }
    }

    fn event(&mut self, event: &EventFrame<'_>, hands: &mut Hands<'_, '_>) -> (ConversationId, Seq) {
        let (conversation, seq) = event.position();
        let (sight, name) = sight(event);
        if name.is_some() && sight.sender != self.user {
            hands.book.wrong("G11", format!("{} sees the client_msg_id of {}", self.label(), sight.sender));
        }
        hands.book.stats.events += 1;
        self.keep(conversation, seq, sight, hands);
        (conversation, seq)
    }

    /// An event that has to be the next.
    fn live(&mut self, event: &EventFrame<'_>, hands: &mut Hands<'_, '_>) {
        self.next_event(event, hands);
        if is_farewell(event, self.user) {
            let (conversation, _) = event.position();
            self.part(conversation, hands);
        }
    }

    /// The user is told that they are no member any more.
    fn part(&mut self, conversation: ConversationId, hands: &mut Hands<'_, '_>) {
        hands.book.stats.farewells += 1;
        self.line(conversation).is_closed = true;
    }

    fn next_event(&mut self, event: &EventFrame<'_>, hands: &mut Hands<'_, '_>) {
        let (conversation, seq) = self.event(event, hands);
        hands.trace.note(hands.now, "event", [self.number as u64, conversation.0, seq], || {
            format!("{} {conversation}/{seq}", self.label())
        });
        if self.phase < Phase::Ready {
            hands.book.wrong("G6", format!("{} hears {conversation}/{seq} before ready", self.label()));
        }
        if let EventFrame::MemberAdded { user_ids, .. } = event
            && user_ids.contains(&self.user)
            && self.line(conversation).begin(seq)
        {
            // What they see begins here.
            self.firsts.entry(conversation).or_insert(seq);
        }
        if let Err(words) = self.line(conversation).event(seq) {
            hands.book.wrong("G6", format!("{} in {conversation}: {words}", self.label()));
        }
    }

    fn batch(&mut self, batch: &SyncBatch<'_>, hands: &mut Hands<'_, '_>) {
        let SyncBatch { conversation, from_seq, to_seq, head_seq, has_more, .. } = *batch;
        hands.trace.note(hands.now, "batch", [self.number as u64, conversation.0, to_seq], || {
            format!("{} {conversation}/{from_seq}..={to_seq} of {head_seq}, {:?}", self.label(), batch.id)
        });
        // Who came back and may see all of the log sees how they left, too.
        let is_own = |event: &&EventFrame<'_>| is_farewell(event, self.user) || is_welcome(event, self.user);
        let last = batch.events.iter().rfind(is_own);
        // What is there already, and went on, was read before they came back.
        let line = self.line(conversation);
        let is_old = last.is_some_and(|event| line.is_past(event.position().1));
        let has_left = last.is_some_and(|event| is_farewell(event, self.user)) && !is_old;
        let Some(id) = &batch.id else {
            for event in &batch.events {
                self.next_event(event, hands);
            }
            if has_left && !has_more && to_seq >= head_seq {
                self.part(conversation, hands);
            }
            if let Err(words) = self.line(conversation).covered(to_seq) {
                hands.book.wrong("G6", format!("{} in {conversation}: {words}", self.label()));
            }
            return;
        };
        let FrameId::Number(id) = id else { return };
        let Some(sync) = self.syncs.remove(id).filter(|sync| sync.conversation == conversation) else {
            hands
                .book
                .wrong("sync", format!("{} got a batch for {id}, which it did not ask for", self.label()));
            return;
        };
        if head_seq < sync.floor {
            let words = format!(
                "{} is shown {conversation} up to {head_seq}, and {} was told before it asked",
                self.label(),
                sync.floor
            );
            self.was_no_member("G10", (conversation, sync.asked_at), words, hands);
        }
        // Below what the user may see it begins with the first that they may.
        let mut next = sync.from_seq.max(from_seq);
        if from_seq > sync.from_seq {
            hands.book.firsts.insert((self.user, conversation, from_seq));
            let first = self.firsts.entry(conversation).or_insert(from_seq);
            *first = from_seq.max(*first);
        }
        for event in &batch.events {
            let (_, seq) = self.event(event, hands);
            if seq != next {
                hands.book.wrong(
                    "G6",
                    format!("{} asked for {next} of {conversation} and got {seq}", self.label()),
                );
            }
            next = seq + 1;
        }
        // Of who left there are no later pages.
        let is_over = has_left || !hands.book.is_member(self.user, conversation);
        let line = self.line(conversation);
        let is_final = !has_more && to_seq >= head_seq && !line.is_older(head_seq, is_over);
        if line.is_behind {
            line.is_behind = !is_final;
            line.is_closed = has_left && is_final;
            line.jump(to_seq);
        }
        if !is_final && sync.why != Why::Whim {
            self.sync(conversation, to_seq + 1, sync.why, hands);
        } else if sync.why == Why::History && self.phase == Phase::Live {
            // A `reset` on the way had it drop what was below.
            self.ask_missing(hands);
        }
    }

    fn behind(&mut self, conversations: &[(ConversationId, Seq)], hands: &mut Hands<'_, '_>) {
        hands.book.stats.behinds += 1;
        for (conversation, head_seq) in conversations.iter().copied() {
            hands.trace.note(hands.now, "behind", [self.number as u64, conversation.0, head_seq], || {
                format!("{} in {conversation} at {head_seq}", self.label())
            });
            let line = self.line(conversation);
            (line.is_behind, line.behind_head) = (true, head_seq);
            let cursor = line.cursor();
            let from_seq =
                cursor.unwrap_or_else(|| self.stored.get(&conversation).map_or(0, |stored| stored.0)) + 1;
            self.sync(conversation, from_seq, Why::Behind, hands);
        }
    }

    fn acked(&mut self, ack: &DeliveryAck<'_>, hands: &mut Hands<'_, '_>) {
        let DeliveryAck { message, status, conversation, seq, duplicate, .. } = *ack;
        if status != Status::Sent {
            let marks = if status == Status::Read { &hands.book.read } else { &hands.book.delivered };
            if let Some(reader) = ack.user {
                let said = marks.get(&(reader, conversation)).map_or(0, |marks| marks.said);
                // A mark of a seq is told for the sender's highest message at or below it.
                if said < seq {
                    let words = format!(
                        "{} hears that {reader} is at {seq} of {conversation}, who said {said}",
                        self.label()
                    );
                    hands.book.wrong("G12", words);
                }
                let mark = (conversation, reader, status == Status::Read);
                hands.trace.note(hands.now, "mark", [self.number as u64, reader.0, seq], || {
                    format!("{} {reader} {status:?} {conversation}/{seq}", self.label())
                });
                // A former home may have a late word: clients merge by maximum.
                let told = self.marks.entry(mark).or_insert(0);
                hands.book.stats.older_marks += u64::from(seq < *told);
                *told = seq.max(*told);
            }
            return;
        }
        let Some(FrameId::Number(number)) = ack.id else {
            hands
                .book
                .wrong("ack", format!("{} got an ack of {conversation}/{seq} without its id", self.label()));
            return;
        };
        let number = number as usize;
        hands.trace.note(hands.now, "ack", [self.number as u64, number as u64, seq], || {
            format!(
                "{} send {number} at {conversation}/{seq}{}",
                self.label(),
                if duplicate { ", duplicate" } else { "" }
            )
        });
        let Some(send) = hands.book.sends.get(number).filter(|send| send.device == self.number).cloned()
        else {
            hands.book.wrong("ack", format!("{} got an ack of {number}, which it never sent", self.label()));
            return;
        };
        if send.is_expected_refused || send.state == State::Refused {
            hands.book.wrong("G5", format!("send {number} is refused for good, and acked at {seq}"));
        }
        if send.conversation != conversation {
            hands
                .book
                .wrong("ack", format!("send {number} to {} is acked in {conversation}", send.conversation));
        }
        if let State::Acked { seq: before, message: same } = send.state
            && (before, same) != (seq, message)
        {
            hands
                .book
                .wrong("G2", format!("send {number} is acked at {before} and at {seq} of {conversation}"));
        }
        if send.floor.is_none_or(|floor| seq <= floor) {
            let words = format!("send {number} got {seq} of {conversation} when {:?} was told", send.floor);
            hands.book.wrong("G8", words);
        }
        hands.book.stats.acked += 1;
        hands.book.stats.duplicates += u64::from(duplicate);
        hands.book.sends[number].state = State::Acked { seq, message };
        self.pending.retain(|other| *other != number);
        if duplicate {
            let told = hands.book.told.entry(conversation).or_insert(0);
            *told = (*told).max(seq);
            return;
        }
        let line = self.line(conversation);
        hands.book.stats.early_acks += u64::from(line.cursor().is_some_and(|cursor| cursor + 1 < seq));
        if let Err(words) = line.ack(seq) {
            hands.book.wrong("G6", format!("{} in {conversation}: {words}", self.label()));
        }
        self.keep(conversation, seq, Sight { message, sender: self.user, content: send.content }, hands);
    }

    fn done(&mut self, done: &Done, hands: &mut Hands<'_, '_>) {
        let Some(FrameId::Number(id)) = done.id else { return };
        if self.watch == Some(id) {
            self.watches(done);
            return;
        }
        let Some(Receipt { conversation, seq, is_read, .. }) = self.receipts.remove(&id) else { return };
        hands.book.stats.receipts += 1;
        let (least, _) = self.said.entry(conversation).or_default();
        *least = (*least).max(seq);
        for marks in
            [Some(&mut hands.book.delivered), is_read.then_some(&mut hands.book.read)].into_iter().flatten()
        {
            let marks = marks.entry((self.user, conversation)).or_default();
            marks.confirmed = marks.confirmed.max(seq);
        }
        if done.seq.is_none_or(|told| told < seq) {
            hands.book.wrong("G12", format!("{} confirmed {seq} and was told {:?}", self.label(), done.seq));
        }
    }

    /// Whom it may see: those with whom it shared a conversation when it asked.
    fn watches(&mut self, done: &Done) {
        let views = done.presence.iter().flatten().filter(|view| self.companions.contains(&view.user));
        self.watched = views.map(|view| (view.user, view.online)).collect();
    }

    fn refused(&mut self, id: Option<&FrameId>, refusal: &Refusal, hands: &mut Hands<'_, '_>) {
        hands.book.stats.refusals += 1;
        let code = refusal.code;
        hands.trace.note(hands.now, "refused", [self.number as u64, code as u64, 0], || {
            format!("{} {id:?}: {} {}", self.label(), code.name(), refusal.message)
        });
        hands.book.stats.unknown_outcomes += u64::from(code == Code::UnknownOutcome);
        let is_retryable = code.row().retryable;
        let Some(FrameId::Number(id)) = id.cloned() else {
            // Who confirms or types without wanting an answer is told only this.
            let may_be = code == Code::Forbidden && !hands.book.moving.is_empty();
            if !is_retryable && !may_be {
                hands.book.wrong("error", format!("{} got {} without asking", self.label(), code.name()));
            }
            return;
        };
        let wait_ms = refusal.retry_after_ms.unwrap_or(RETRY_MS).max(RETRY_MS);
        let again_at = hands.now + self.prng.between(wait_ms, 2 * wait_ms) * MS;
        if let Some(sync) = self.syncs.remove(&id) {
            let Sync { conversation, why, asked_at, .. } = sync;
            if code == Code::Forbidden {
                let words = format!("{} may not read {conversation}", self.label());
                self.forbidden("sync", (conversation, asked_at), words, hands);
            } else if !is_retryable {
                hands
                    .book
                    .wrong("sync", format!("{} may not read {conversation}: {}", self.label(), code.name()));
            } else if why != Why::Whim {
                self.sync_again.push((again_at, sync));
            }
            return;
        }
        if self.watch == Some(id) {
            if !is_retryable {
                let words = format!("{} may not watch: {}", self.label(), code.name());
                hands.book.wrong("presence", words);
            }
            self.watch_at = again_at;
            return;
        }
        if let Some(receipt) = self.receipts.remove(&id) {
            if code == Code::Forbidden {
                let words =
                    format!("{} may not confirm {} of {}", self.label(), receipt.seq, receipt.conversation);
                self.forbidden("G12", (receipt.conversation, receipt.said_at), words, hands);
                return;
            }
            if !is_retryable {
                let words =
                    format!("{} may not confirm {} of {}", self.label(), receipt.seq, receipt.conversation);
                hands.book.wrong("G12", words);
            }
            self.unconfirmed.insert(receipt.conversation);
            self.confirm_at = self.confirm_at.min(again_at);
            return;
        }
        self.send_refused(id as usize, code, again_at, hands);
    }

    fn forbidden(
        &self,
        promise: &'static str,
        at: (ConversationId, u64),
        words: String,
        hands: &mut Hands<'_, '_>,
    ) {
        hands.book.stats.forbidden += 1;
        self.was_no_member(promise, at, words, hands);
    }

    fn send_refused(&mut self, number: usize, code: Code, again_at: u64, hands: &mut Hands<'_, '_>) {
        let Some(send) = hands.book.sends.get_mut(number).filter(|send| send.device == self.number) else {
            hands.book.wrong("error", format!("{} got {} for {number}", self.label(), code.name()));
            return;
        };
        if send.is_expected_refused {
            return;
        }
        send.may_be_overtaken = true;
        if code == Code::Forbidden {
            // What was said before may still be on its way; this attempt had no effect.
            let is_only = send.attempts == 1;
            if !matches!(send.state, State::Acked { .. }) {
                send.state = if is_only { State::Refused } else { State::Unknown };
            }
            let at = (send.conversation, send.first_said_at);
            self.pending.retain(|other| *other != number);
            let words = format!("send {number} of {} was forbidden", self.label());
            self.forbidden("G11", at, words, hands);
            return;
        }
        let is_answered = matches!(send.state, State::Acked { .. });
        let is_definite = code != Code::UnknownOutcome;
        if !code.row().retryable {
            send.state = State::Refused;
            self.pending.retain(|other| *other != number);
            hands.book.wrong("G5", format!("send {number} of {} was refused: {}", self.label(), code.name()));
        } else if !is_answered
            && is_definite
            && send.attempts == 1
            && (send.client_msg_id.is_none() || self.prng.chance(1, 8))
        {
            // A refused attempt never takes effect, and there is no other.
            send.state = State::Refused;
            self.pending.retain(|other| *other != number);
        } else if !is_answered && send.client_msg_id.is_none() {
            send.state = State::Unknown;
            self.pending.retain(|other| *other != number);
        } else if !is_answered {
            self.retries.push((again_at, number));
        }
    }
}

/// The event by which a user is a member no more.
fn is_farewell(event: &EventFrame<'_>, to: UserId) -> bool {
    matches!(event, EventFrame::MemberRemoved { user, .. } if *user == to)
}

/// The event by which they are one.
fn is_welcome(event: &EventFrame<'_>, to: UserId) -> bool {
    matches!(event, EventFrame::MemberAdded { user_ids, .. } if user_ids.contains(&to))
}
