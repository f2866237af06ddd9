//! What became of operations, told to those who wait.

use carillon_protocol::frame::{Accepted, Revoked};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Body, Event};
use carillon_protocol::time::WallMs;
use carillon_store::verb::{Outcome, Query, ReceiptOp};

use super::{Shard, UNAVAILABLE_RETRY_MS};
use crate::batch::{Done, Failure, OVERLOADED_RETRY_MS, Origin, Part, Touches, Waiter};
use crate::meters::{Metric, Told, nanos};
use crate::outbox::Asked;

impl Shard {
    pub(super) fn committed(&mut self, commit_lane: u16, at: WallMs, results: Vec<Result<Outcome, Failure>>) {
        let fatal = results.iter().find_map(|result| match result {
            Err(Failure::Fatal(sentence)) => Some(sentence.clone()),
            _ => None,
        });
        if let Some(sentence) = fatal {
            return self.outbox.fail(sentence);
        }
        for done in self.batches.arrived(commit_lane, results) {
            self.settle(done, at);
        }
    }

    /// Tells those who wait what became of their operation.
    fn settle(&mut self, done: Done, at: WallMs) {
        let Done { waiter, slot, touches, since, is_stale, result } = done;
        if let (Err(Failure::Unknown), Some(conversation)) = (&result, touches.appends_to()) {
            self.fanout.suspect(self.now, conversation);
        }
        self.cache.settled(self.now, &touches, &result);
        self.forget_profiles(touches, &result);
        match (waiter, result) {
            (Waiter::Submit(origin), Ok(outcome)) => {
                self.outbox.meter.observe(Metric::SubmitTime, nanos(self.now.since(since)));
                self.submitted(origin, outcome, is_stale);
            }
            (Waiter::Receipts { user, device, conversation, parts }, Ok(outcome)) => {
                let merged = ReceiptOp { user, device, conversation, delivered_seq: 0, read_seq: 0 };
                self.receipted(&merged, &parts, outcome, at);
            }
            (Waiter::Registration(origin), Ok(Outcome::Refused(refusal))) => {
                self.registry.refuse(origin, &refusal, &mut self.outbox);
            }
            (Waiter::Registration(origin), Ok(_)) => self.registry.provisioned(origin, &mut self.outbox),
            (Waiter::Devices(origin, user), Ok(_)) => {
                self.ask(origin, Asked::Devices(origin, user, true), Query::Devices { user });
            }
            (Waiter::Devices(origin, _), Err(failure)) => self.outbox.refuse(origin, &refusal_of(&failure)),
            (Waiter::Nobody, _) => {}
            (Waiter::Seen, _) => self.presence.written(),
            (Waiter::FanOut(..), _) if is_stale => {}
            (Waiter::FanOut(conversation, seq), result) => {
                self.fanout.marked(self.now, conversation, seq, result.is_ok(), &self.outbox);
            }
            (Waiter::Submit(origin), Err(Failure::Fenced)) => self.fenced(origin, slot),
            (Waiter::Receipts { parts, .. }, Err(Failure::Fenced)) => {
                parts.iter().for_each(|part| self.fenced(part.origin, slot));
            }
            (Waiter::Submit(origin), Err(failure)) => self.outbox.refuse(origin, &refusal_of(&failure)),
            (Waiter::Receipts { parts, .. }, Err(failure)) => {
                let refusal = refusal_of(&failure);
                parts.iter().for_each(|part| self.outbox.refuse(part.origin, &refusal));
            }
            (Waiter::Registration(origin), Err(failure)) => {
                self.registry.refuse(origin, &refusal_of(&failure), &mut self.outbox);
            }
        }
    }

    /// Before anybody is answered: what is asked next is told as it is now.
    fn forget_profiles(&mut self, touches: Touches, result: &Result<Outcome, Failure>) {
        match (touches, result) {
            (Touches::Profile(user), _) => self.profiles.forget(user),
            (Touches::Log(_), Ok(Outcome::Appended(appended))) => {
                let came_or_went = came_or_went(&appended.record);
                came_or_went.into_iter().for_each(|user| self.profiles.forget(user));
            }
            (Touches::Log(_), Err(Failure::Unknown)) => self.profiles.forget_all(),
            _ => {}
        }
    }

    /// `is_stale`: what was committed is in the store's markers, and handed on from there as what an earlier owner may have
    /// handed on.
    fn submitted(&mut self, origin: Origin, outcome: Outcome, is_stale: bool) {
        let Origin { lane, session, request } = origin;
        match outcome {
            Outcome::Appended(appended) => {
                let accepted = Accepted {
                    session,
                    request,
                    conversation: appended.conversation,
                    seq: appended.seq,
                    id: appended.id.0,
                    duplicate: appended.duplicate,
                    unchanged: false,
                };
                self.outbox.send(lane, &accepted);
                if appended.duplicate {
                    self.outbox.count(Told::Duplicate);
                } else {
                    self.outbox.count(Told::Appended);
                    if !is_stale {
                        self.fanout.committed(self.now, appended, Some(origin));
                    }
                }
            }
            Outcome::Unchanged { conversation, seq, duplicate } => {
                self.outbox.count(if duplicate { Told::Duplicate } else { Told::Unchanged });
                let accepted = Accepted {
                    conversation,
                    seq: seq.unwrap_or(0),
                    duplicate,
                    unchanged: true,
                    ..beside_the_logs(origin)
                };
                self.outbox.send(lane, &accepted);
            }
            Outcome::User { user, existed } => {
                let accepted = Accepted { id: user.0, duplicate: existed, ..beside_the_logs(origin) };
                self.outbox.send(lane, &accepted);
            }
            Outcome::Stored => self.outbox.send(lane, &beside_the_logs(origin)),
            // The connections of the device are closed before anybody hears that it is revoked.
            Outcome::Revoked { user, device, at } => {
                self.outbox.broadcast(&Revoked { user, device, at_ms: at.0 });
                self.outbox.send(lane, &beside_the_logs(origin));
            }
            Outcome::Refused(refusal) => self.outbox.refuse(origin, &refusal),
            Outcome::Receipted(_) | Outcome::FannedOut => {
                panic!("a command has the outcome of another operation")
            }
        }
    }

    fn receipted(&mut self, merged: &ReceiptOp, parts: &[Part], outcome: Outcome, at: WallMs) {
        match outcome {
            Outcome::Receipted(receipted) => {
                for part in parts.iter().filter(|part| part.origin.request != 0) {
                    let (before, after) =
                        if part.read_seq > 0 { receipted.read } else { receipted.delivered };
                    let accepted = Accepted {
                        session: part.origin.session,
                        request: part.origin.request,
                        conversation: receipted.conversation,
                        seq: after,
                        id: 0,
                        duplicate: before == after,
                        unchanged: false,
                    };
                    self.outbox.send(part.origin.lane, &accepted);
                }
                self.outbox.count(Told::Receipt);
                let Shard { now, receipts, fanout, registry, cluster, outbox, .. } = self;
                receipts.committed(*now, receipted, (parts, at), fanout, (registry, cluster), outbox);
            }
            Outcome::Refused(refusal) if parts.len() == 1 => {
                parts.iter().for_each(|part| self.outbox.refuse(part.origin, &refusal));
            }
            // One wrong receipt among right ones: each is decided alone.
            Outcome::Refused(_) => {
                for part in parts {
                    let Part { delivered_seq, read_seq, .. } = *part;
                    let receipt = ReceiptOp { delivered_seq, read_seq, ..merged.clone() };
                    if let Err(refusal) = self.batches.offer_alone(self.now, receipt, *part) {
                        self.outbox.refuse(part.origin, &refusal);
                    }
                }
            }
            _ => panic!("a receipt has the outcome of another operation"),
        }
    }
}

/// What is accepted without an event.
fn beside_the_logs(origin: Origin) -> Accepted {
    let Origin { session, request, .. } = origin;
    let conversation = ConversationId(0);
    Accepted { session, request, conversation, seq: 0, id: 0, duplicate: false, unchanged: false }
}

fn refusal_of(failure: &Failure) -> Refusal {
    match failure {
        Failure::Unknown => Refusal::new(
            Code::UnknownOutcome,
            "it may or may not have happened; retry with the same client_msg_id",
        ),
        Failure::Busy => {
            Refusal::new(Code::Unavailable, "the store is busy; try again").retry_after(OVERLOADED_RETRY_MS)
        }
        Failure::Full => Refusal::new(Code::Unavailable, "the store is short of space; try again later")
            .retry_after(UNAVAILABLE_RETRY_MS),
        Failure::Fenced => Refusal::new(Code::Unavailable, "another router took over; try again")
            .retry_after(UNAVAILABLE_RETRY_MS),
        Failure::Fatal(_) => Refusal::new(Code::Internal, "the store failed"),
    }
}

/// Whom an event brings into its conversation, or out of it.
fn came_or_went(record: &[u8]) -> Vec<UserId> {
    // Nearly always it is a message.
    if Event::decode_sender(record).is_some_and(|(.., is_message)| is_message) {
        return Vec::new();
    }
    match Event::decode(record).map(|event| event.body) {
        Some(Body::Created { members: users, .. } | Body::MembersAdded { users, .. }) => users,
        Some(Body::MemberRemoved { user, .. }) => vec![user],
        _ => Vec::new(),
    }
}
