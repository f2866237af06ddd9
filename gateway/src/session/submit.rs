//! Durable commands: on their way to a router, answered, and kept until they are.
//!
//! # Invariants
//! - Commands of a session in one conversation leave in the order they came, also when they are sent again (G9): none
//!   leaves before an earlier one, or while an earlier one is under way to a former owner.
//! - A command is sent again only with the same `client_msg_id`, so it takes effect once (G2).
//! - An event of ours that is the outcome of an unanswered command *is* its answer, however it comes: then no ack is
//!   ever later than a higher seq. The ack fills the event's seq, so the event itself is not sent.

use std::borrow::Cow;

use carillon_link::Peer;
use carillon_protocol::client::{DeliveryAck, Done, FrameId, SendMessage, ServerFrame, Status};
use carillon_protocol::frame::{ArchivedAccepted, Change, Command, Receipt, Submit};
use carillon_protocol::ids::{ConversationId, MessageId, Seq};
use carillon_protocol::placement::{Slot, slot_of_conversation};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Body, Event};
use carillon_protocol::time::Time;

use super::Session;
use super::work::{Asked, Durable, Marked, Work};
use crate::common::Common;
use crate::line::Line;
use crate::owners::Route;

impl Session {
    /// A message to be sent.
    pub(super) fn send_message(
        &mut self,
        id: Option<FrameId>,
        message: SendMessage<'_>,
        line: &mut Line,
        common: &mut Common,
    ) {
        let command = Command::Send {
            conversation: message.conversation,
            message_type: message.message_type as u8,
            encoding: message.encoding as u8,
            content: common.spares.text(&message.content),
            media_url: message.media_url.map(Cow::into_owned),
            reply_to: message.reply_to,
        };
        self.submit(id, message.client_msg_id, command, line, common);
    }

    /// Another change of a log.
    pub(super) fn change(
        &mut self,
        id: Option<FrameId>,
        client_msg_id: Option<Cow<'_, str>>,
        conversation: ConversationId,
        change: Change,
        line: &mut Line,
        common: &mut Common,
    ) {
        self.submit(id, client_msg_id, Command::Change { conversation, change }, line, common);
    }

    fn submit(
        &mut self,
        id: Option<FrameId>,
        client_msg_id: Option<Cow<'_, str>>,
        command: Command,
        line: &mut Line,
        common: &mut Common,
    ) {
        if !self.admit_durable(id.as_ref(), line, common) {
            return;
        }
        let is_minted = client_msg_id.is_none();
        let submit = Submit {
            slot_epoch: 0,
            session: line.id.as_u64(),
            request: 0,
            user: self.user,
            said_after: Vec::new(),
            client_msg_id: match client_msg_id {
                Some(given) => common.spares.text(&given),
                None => common.mint_client_msg_id(),
            },
            command,
        };
        let submit = common.spares.boxed(submit);
        self.ask(id, Durable::Submit { submit, is_minted }, common);
    }

    /// A watermark of this device. Without an `id` nobody waits for it: it is merged with others of the turn.
    pub(super) fn mark(&mut self, id: Option<FrameId>, marked: Marked, line: &Line, common: &mut Common) {
        if id.is_none() {
            self.work(common).mark(marked);
            return;
        }
        let receipt = self.receipt(marked, line, common);
        self.ask(id, Durable::Receipt(receipt), common);
    }

    fn receipt(&self, marked: Marked, line: &Line, common: &mut Common) -> Receipt {
        Receipt {
            session: line.id.as_u64(),
            request: 0,
            user: self.user,
            device: common.spares.text(&self.device),
            conversation: marked.conversation,
            delivered_seq: marked.delivered_seq,
            read_seq: marked.read_seq,
        }
    }

    /// Sends the watermarks of the turn. Those whose conversation has no owner that can be reached wait, and merge on.
    pub(super) fn flush_receipts(&mut self, line: &Line, common: &mut Common) {
        let Some(work) = self.work.as_mut().filter(|work| !work.receipts.is_empty()) else { return };
        let mut receipts = std::mem::take(&mut work.receipts);
        receipts.retain(|marked| {
            let Some(route) = common.owners.route_of_conversation(marked.conversation) else { return true };
            let receipt = self.receipt(*marked, line, common);
            common.link(route.router, &receipt);
            common.spares.keep_text(receipt.device);
            common.marks.sent(line.id, *marked, route);
            false
        });
        self.work(common).receipts = receipts;
    }

    /// A router does not own a slot that a watermark was about for which nobody waits: those that went there are sent to
    /// whoever does.
    pub(super) fn marks_disowned(&mut self, (router, slot): (Peer, Slot), line: &Line, common: &mut Common) {
        for (marked, route) in common.marks.take(line.id, router, slot) {
            common.owners.refuted(slot, route);
            self.work.get_or_insert_default().mark(marked);
        }
    }

    fn ask(&mut self, id: Option<FrameId>, what: Durable, common: &mut Common) {
        let at = common.now;
        let mut asked =
            Asked { request: 0, route: None, attempts: 0, id, at, reset_seq: 0, passed_by: None, what };
        asked.put(Vec::new(), common);
        self.work(common).asked.push_back(asked);
    }

    /// What is unanswered, and was asked in a way that is `meant`, is unknown.
    pub(super) fn unask(&mut self, is_meant: impl Fn(Slot, Route) -> bool) {
        for asked in self.work.iter_mut().flat_map(|work| &mut work.asked) {
            if asked.place().is_some_and(|(slot, route)| is_meant(slot, route)) {
                (asked.request, asked.route) = (0, None);
            }
        }
    }

    /// Everything that is not under way goes out as far as its owners are known, in order. What is under way is so by the
    /// epoch that is known, or its slot has no owner now: so nothing passes what was said before it.
    pub(super) fn ask_again(&mut self, common: &mut Common) {
        let Some(work) = &mut self.work else { return };
        for place in 0..work.asked.len() {
            let said_after = work.said_after(place);
            if let Some(asked) = work.asked.get_mut(place).filter(|asked| asked.request == 0) {
                asked.put(said_after, common);
            }
        }
    }

    /// A router does not own what this command is about: it had no effect, and goes again in its place. `None`: it is not
    /// known here.
    pub(super) fn disowned(&mut self, request: u64) -> Option<(Slot, Route)> {
        let asked = self.work.as_mut()?.asked.iter_mut().find(|asked| asked.request == request)?;
        let place = asked.place();
        (asked.request, asked.route) = (0, None);
        asked.attempts -= 1;
        place
    }

    /// Commands that waited too long for a lane are given up: they may have taken effect, or may yet.
    pub(super) fn give_up_unasked(&mut self, line: &mut Line, common: &mut Common) {
        let patience_ms = common.settings.gateway.unknown_after_ms;
        let now = common.now;
        let is_over = |asked: &Asked| asked.request == 0 && asked.at.after_ms(patience_ms) <= now;
        while let Some(work) = &mut self.work
            && let Some(place) = work.asked.iter().position(is_over)
            && let Some(asked) = work.asked.remove(place)
        {
            common.counters.unknown_outcomes += 1;
            let refusal = Refusal::new(
                Code::UnknownOutcome,
                "the server lost its store for a while: send again with the same client_msg_id",
            );
            line.refuse(common, asked.id, refusal);
        }
    }

    /// When the oldest command will have waited too long for a lane.
    pub(super) fn gives_up_at(&self, common: &Common) -> Option<Time> {
        let asked = self.work.as_ref()?.asked.iter().find(|asked| asked.request == 0)?;
        Some(asked.at.after_ms(common.settings.gateway.unknown_after_ms))
    }

    /// A command is committed.
    pub(crate) fn accepted(&mut self, frame: &ArchivedAccepted, line: &mut Line, common: &mut Common) {
        let conversation = ConversationId(frame.conversation.0.to_native());
        let seq = frame.seq.to_native();
        let place = self.place_of(frame.request.to_native());
        let Some(asked) = place.and_then(|place| self.work.as_mut()?.take_committed(place)) else {
            self.typing_accepted(frame.request.to_native(), line, common);
            return;
        };
        match asked.what {
            Durable::Submit { submit, is_minted } => {
                // What an earlier command did comes as an event, or came; what a reset covers the client fetches.
                let duplicate = frame.duplicate || (!frame.unchanged && seq <= asked.reset_seq);
                if !duplicate && !frame.unchanged {
                    self.work(common).early.add(conversation, seq);
                }
                let event = MessageId(frame.id.to_native());
                let answer = Answer { id: asked.id, is_minted, duplicate };
                answer.say(conversation, seq, event, &submit, line, common);
                common.spares.keep_submit(submit);
            }
            Durable::Receipt(receipt) => {
                let done = Done {
                    id: asked.id,
                    conversation: Some(receipt.conversation),
                    seq: Some(seq),
                    duplicate: frame.duplicate,
                    presence: None,
                };
                line.say(common, &ServerFrame::Ok(done));
            }
        }
    }

    /// A command is refused; `false`: it is not known here.
    pub(super) fn ask_refused(
        &mut self,
        request: u64,
        mut refusal: Refusal,
        line: &mut Line,
        common: &mut Common,
    ) -> bool {
        let place = self.place_of(request);
        let Some(asked) = place.and_then(|place| self.work.as_mut()?.asked.remove(place)) else {
            return false;
        };
        if refusal.code == Code::RateLimited {
            self.refused_by_rate(line, common);
        }
        let is_passing = matches!(refusal.code, Code::Unavailable | Code::Overloaded | Code::RateLimited);
        if asked.attempts > 1 && is_passing {
            // This attempt had no effect, but an earlier one may have had (G5).
            refusal.code = Code::UnknownOutcome;
        }
        line.refuse(common, asked.id, refusal);
        true
    }

    /// Which of the commands that wait was put on a lane by this request.
    fn place_of(&self, request: u64) -> Option<usize> {
        // 0 stands for "not on a lane", and no answer carries it.
        self.work.as_ref()?.asked.iter().position(|asked| request != 0 && asked.request == request)
    }

    /// Whether an ack fills this position. If the event is the outcome of a command that is not answered yet, it is
    /// answered now: `origin_request` says which one, when the router knows. `duplicate`: the event itself comes as well,
    /// so the answer must not fill its position.
    #[expect(clippy::too_many_arguments, reason = "what came, how it came, and where answers go")]
    pub(super) fn is_filled(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        event: &Event<'_>,
        origin_request: Option<u64>,
        duplicate: bool,
        line: &mut Line,
        common: &mut Common,
    ) -> bool {
        if event.sender != self.user {
            return false;
        }
        let Some(work) = &mut self.work else { return false };
        if work.early.contains(conversation, seq) {
            // Whoever says it again is answered as a duplicate.
            return true;
        }
        let place = work.asked.iter().position(|asked| match &asked.what {
            Durable::Submit { submit, .. } => {
                origin_request.is_some_and(|request| request != 0 && request == asked.request)
                    || is_outcome(conversation, event, submit)
            }
            Durable::Receipt(_) => false,
        });
        let Some(asked) = place.and_then(|place| work.take_committed(place)) else { return false };
        if let Durable::Submit { submit, is_minted } = asked.what {
            let answer = Answer { id: asked.id, is_minted, duplicate };
            answer.say(conversation, seq, event.id, &submit, line, common);
            common.spares.keep_submit(submit);
        }
        true
    }
}

/// Whether an event is what this command would append: then it is its outcome, because the same key makes the same
/// event only once (G2). With another payload the command will be answered `idempotency_conflict`.
fn is_outcome(conversation: ConversationId, event: &Event<'_>, submit: &Submit) -> bool {
    conversation_of(submit) == Some(conversation)
        && event.client_msg_id == submit.client_msg_id.as_str()
        && says(event, &submit.command)
}

fn says(event: &Event<'_>, command: &Command) -> bool {
    match (&event.body, command) {
        (
            Body::Message(message),
            Command::Send { message_type, encoding, content, media_url, reply_to, .. },
        ) => {
            message.message_type as u8 == *message_type
                && message.encoding as u8 == *encoding
                && message.content == content
                && message.media_url == media_url.as_deref()
                && message.reply_to == *reply_to
        }
        (Body::Deleted { message, .. }, Command::Change { change, .. }) => {
            matches!(change, Change::Delete { message: target } if target == message)
        }
        (Body::ReactionAdded { message, emoji, .. }, Command::Change { change, .. }) => {
            matches!(change, Change::React { message: target, emoji: own } if target == message && own == emoji)
        }
        (Body::ReactionRemoved { message, emoji, .. }, Command::Change { change, .. }) => {
            matches!(change, Change::Unreact { message: target, emoji: own } if target == message && own == emoji)
        }
        _ => false,
    }
}

/// Where a command of a session takes effect.
fn conversation_of(submit: &Submit) -> Option<ConversationId> {
    match submit.command {
        Command::Send { conversation, .. } | Command::Change { conversation, .. } => Some(conversation),
        _ => None,
    }
}

/// What an answer repeats of its command.
struct Answer {
    id: Option<FrameId>,
    is_minted: bool,
    duplicate: bool,
}

impl Answer {
    /// A message is answered as `delivery_ack`, another change as `ok`.
    fn say(
        self,
        conversation: ConversationId,
        seq: Seq,
        event: MessageId,
        submit: &Submit,
        line: &mut Line,
        common: &mut Common,
    ) {
        let Answer { id, is_minted, duplicate } = self;
        let frame = match submit.command {
            Command::Send { .. } => ServerFrame::DeliveryAck(DeliveryAck {
                id,
                message: event,
                status: Status::Sent,
                conversation,
                seq,
                timestamp: event.created_at(),
                client_msg_id: (!is_minted).then(|| submit.client_msg_id.as_str().into()),
                duplicate,
                user: None,
                count: None,
            }),
            _ => ServerFrame::Ok(Done {
                id,
                conversation: Some(conversation),
                seq: (seq > 0).then_some(seq),
                duplicate,
                presence: None,
            }),
        };
        line.say(common, &frame);
    }
}

impl Asked {
    /// Where it takes effect.
    pub(super) fn conversation(&self) -> Option<ConversationId> {
        match &self.what {
            Durable::Submit { submit, .. } => conversation_of(submit),
            Durable::Receipt(receipt) => Some(receipt.conversation),
        }
    }

    /// How it was put on a lane, while it is on one.
    fn place(&self) -> Option<(Slot, Route)> {
        Some((slot_of_conversation(self.conversation()?), self.route?))
    }

    /// Puts the command on its owner's lane, if that one is known and reached.
    fn put(&mut self, said_after: Vec<String>, common: &mut Common) {
        let route = self.conversation().and_then(|id| common.owners.route_of_conversation(id));
        let Some(route) = route else { return };
        (self.request, self.route) = (common.request(), Some(route));
        self.attempts += 1;
        common.counters.submits += 1;
        match &mut self.what {
            Durable::Submit { submit, .. } => {
                (submit.request, submit.slot_epoch) = (self.request, route.epoch);
                submit.said_after = said_after;
                common.link(route.router, &**submit);
            }
            Durable::Receipt(receipt) => {
                receipt.request = self.request;
                common.link(route.router, receipt);
            }
        }
    }
}

impl Work {
    /// Takes out a command that is committed: what was said before it in its conversation, and has no answer yet, is or was
    /// passed by it.
    fn take_committed(&mut self, place: usize) -> Option<Asked> {
        let taken = self.asked.remove(place)?;
        if let (Some(conversation), Durable::Submit { submit, .. }) = (taken.conversation(), &taken.what) {
            let earlier = self.asked.iter_mut().take(place);
            for earlier in earlier.filter(|earlier| earlier.conversation() == Some(conversation)) {
                earlier.passed_by = Some(submit.client_msg_id.clone());
            }
        }
        Some(taken)
    }

    /// The keys of what was said after this one in the same conversation, and is or was on a lane: perhaps this one was
    /// refused there before, nobody heard of it, and one of those is committed.
    fn said_after(&self, place: usize) -> Vec<String> {
        let waiting = self.asked.get(place).filter(|asked| asked.request == 0);
        let Some((waiting, conversation)) = waiting.and_then(|it| Some((it, it.conversation()?))) else {
            return Vec::new();
        };
        if let Some(key) = &waiting.passed_by {
            return vec![key.clone()];
        }
        let later = self.asked.iter().skip(place + 1);
        let later = later.filter(|later| later.attempts > 0 && later.conversation() == Some(conversation));
        let key = |later: &Asked| match &later.what {
            Durable::Submit { submit, .. } => Some(submit.client_msg_id.clone()),
            Durable::Receipt(_) => None,
        };
        later.filter_map(key).collect()
    }
}
