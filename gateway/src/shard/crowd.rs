//! Events with many listeners, worked off a slice a turn, so that who waits for an ack does not wait for the crowd (T5).
//!
//! # Invariants
//! - Per conversation, events are given out in the order they came: what follows a waiting event waits behind it.
//! - `Registered`, `Peeked` and `Page` say what came before them on the lane, so they wait as well. Answers to commands
//!   pass, and so does the ack that a waiting event is for its sender.
//! - The tail rises when the last listener was given the event. A lane that is lost is worked off first: then everybody
//!   has what the tail says.
//! - Bounded: [`FRAMES_MAX`] frames and [`BYTES_MAX`] bytes. Beyond, everything that waits is given out at once: order
//!   and completeness come before latency.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use carillon_link::Peer;
use carillon_protocol::frame::{self, ArchivedDeliver, Frame};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::record::Event;
use rkyv::util::AlignedVec;

use super::Shard;
use super::connection::Phase;
use crate::session::Delivery;
use crate::turn::ConnectionId;

/// Frames that may wait.
const FRAMES_MAX: usize = 4_096;
/// Bytes of frames that may wait.
const BYTES_MAX: usize = 8 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Waiting events by conversation.
    conversations: BTreeMap<ConversationId, usize>,
    turn: Turn,
}

/// How far this turn is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// What somebody waits for goes out first.
    #[default]
    Answers,
    /// That is out, and the slice is next.
    Yielded,
    /// The slice is done.
    Sliced,
}

#[derive(Debug)]
struct Waiting {
    router: Peer,
    /// As it came.
    frame: AlignedVec,
    /// Of an event: where.
    conversation: Option<ConversationId>,
    progress: Progress,
}

/// How far an event was given out.
#[derive(Debug, Default)]
struct Progress {
    users_count: usize,
    /// See [`Delivery::encoded`].
    encoded: [Option<Bytes>; 4],
}

impl Crowd {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a frame has to wait behind others, or is for so many that it begins to wait.
    fn has_to_wait(&self, frame: &Frame<'_>, slice_users_max: usize) -> bool {
        let is_behind = |conversation: u64| self.conversations.contains_key(&ConversationId(conversation));
        match frame {
            Frame::Deliver(frame) => {
                frame.users.len() > slice_users_max || is_behind(frame.conversation.0.to_native())
            }
            Frame::Watermark(frame) => is_behind(frame.conversation.0.to_native()),
            Frame::Registered(_) | Frame::Peeked(_) | Frame::Page(_) => !self.is_empty(),
            _ => false,
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.frame.len();
        if let Some(conversation) = waiting.conversation {
            *self.conversations.entry(conversation).or_default() += 1;
        }
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.frame.len();
        if let Some(conversation) = waiting.conversation
            && let Some(count) = self.conversations.get_mut(&conversation)
        {
            *count -= 1;
            if *count == 0 {
                self.conversations.remove(&conversation);
            }
        }
        Some(waiting)
    }

    fn put_back(&mut self, waiting: Waiting) {
        self.bytes += waiting.frame.len();
        if let Some(conversation) = waiting.conversation {
            *self.conversations.entry(conversation).or_default() += 1;
        }
        self.waiting.push_front(waiting);
    }

    /// Everything else of the turn is done: a crowd that waits may have its slice. At most once a turn.
    pub(super) fn takes_its_turn(&mut self) -> bool {
        let is_next = self.turn == Turn::Answers && !self.is_empty();
        if is_next {
            self.turn = Turn::Yielded;
        }
        is_next
    }

    /// Whether the slice is what comes next.
    pub(super) fn is_next(&self) -> bool {
        self.turn == Turn::Yielded
    }

    /// A turn is over: the next one may work off a slice.
    pub(super) fn end_turn(&mut self) {
        self.turn = Turn::Answers;
    }
}

impl Shard {
    /// Takes a frame that has to wait; `false`: it has not.
    pub(super) fn crowded(&mut self, router: Peer, frame: &Frame<'_>, bytes: &[u8]) -> bool {
        if !self.crowd.has_to_wait(frame, self.common.settings.gateway.slice_sessions) {
            return false;
        }
        let mut copy = AlignedVec::with_capacity(bytes.len());
        copy.extend_from_slice(bytes);
        let conversation = match frame {
            Frame::Deliver(frame) => {
                self.answer_origin(router, frame);
                Some(ConversationId(frame.conversation.0.to_native()))
            }
            _ => None,
        };
        self.crowd.push(Waiting { router, frame: copy, conversation, progress: Progress::default() });
        if self.crowd.waiting.len() > FRAMES_MAX || self.crowd.bytes > BYTES_MAX {
            self.disperse();
        }
        true
    }

    /// The sender of an event that has to wait hears now that it is committed.
    fn answer_origin(&mut self, router: Peer, frame: &ArchivedDeliver) {
        let Some(id) = ConnectionId::from_u64(frame.origin_session.to_native()) else { return };
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Phase::Open(_, session) = &mut connection.phase else { return };
        if session.home() != Some(router) {
            return;
        }
        let Some(delivery) = delivery(router, frame, Progress::default()) else { return };
        session.answered_early(&delivery, &mut connection.line, &mut self.common);
        self.touch(id);
    }

    /// Works off this turn's slice, which has to be next.
    pub(super) fn slice(&mut self) {
        self.crowd.turn = Turn::Sliced;
        let mut sessions_max = self.common.settings.gateway.slice_sessions.max(1);
        while sessions_max > 0
            && let Some(waiting) = self.crowd.pop()
        {
            sessions_max = sessions_max.saturating_sub(self.work_off(waiting, sessions_max));
        }
    }

    /// Works off everything.
    pub(super) fn disperse(&mut self) {
        while let Some(waiting) = self.crowd.pop() {
            self.work_off(waiting, usize::MAX);
        }
    }

    /// Returns how much of the slice it took, at least 1.
    fn work_off(&mut self, mut waiting: Waiting, sessions_max: usize) -> usize {
        let Ok(read) = frame::read(&waiting.frame) else { return 1 };
        let Frame::Deliver(frame) = read else {
            self.dispatch(waiting.router, &read);
            return 1;
        };
        let sessions_count = self.deliver(waiting.router, frame, &mut waiting.progress, sessions_max);
        if waiting.progress.users_count < frame.users.len() {
            self.crowd.put_back(waiting);
        }
        sessions_count.max(1)
    }

    /// An event, for everybody here who hears it.
    pub(super) fn deliver_at_once(&mut self, router: Peer, frame: &ArchivedDeliver) {
        self.deliver(router, frame, &mut Progress::default(), usize::MAX);
    }

    /// Goes on giving out an event, until it was given to `sessions_max` sessions or a few more of the same user.
    /// Returns to how many.
    fn deliver(
        &mut self,
        router: Peer,
        frame: &ArchivedDeliver,
        progress: &mut Progress,
        sessions_max: usize,
    ) -> usize {
        let mut sessions_count = 0;
        let (conversation, seq) = (ConversationId(frame.conversation.0.to_native()), frame.seq.to_native());
        let tails = self.common.tails(router);
        let (tail, is_doubtful) = (tails.tail(conversation), tails.is_doubtful(conversation, seq));
        if frame.replayed && tail.is_some_and(|tail| tail >= seq) {
            // Handed on by an earlier owner, too: everybody has it.
            progress.users_count = frame.users.len();
            return sessions_count;
        }
        if let Some(mut delivery) = delivery(router, frame, std::mem::take(progress)) {
            delivery.is_doubtful = frame.replayed && is_doubtful;
            for user in frame.users.iter().skip(delivery.users_count) {
                if sessions_count >= sessions_max {
                    break;
                }
                delivery.users_count += 1;
                for id in self.roster.sessions(UserId(user.0.to_native())) {
                    sessions_count += 1;
                    let Some(connection) = self.connections.get_mut(*id) else { continue };
                    let Phase::Open(_, session) = &mut connection.phase else { continue };
                    session.deliver(&mut delivery, &mut connection.line, &mut self.common);
                    if !std::mem::replace(&mut connection.is_dirty, true) {
                        self.dirty.push_back(*id);
                    }
                }
            }
            let Delivery { users_count, encoded, .. } = delivery;
            *progress = Progress { users_count, encoded };
        } else {
            self.common.counters.unreadable += 1;
            progress.users_count = frame.users.len();
        }
        if progress.users_count >= frame.users.len() {
            self.common.counters.delivers += 1;
            self.common.tails(router).delivered(conversation, seq, frame.replayed);
        }
        sessions_count
    }
}

/// `None`: an event that this build cannot read.
fn delivery(router: Peer, frame: &ArchivedDeliver, progress: Progress) -> Option<Delivery<'_>> {
    let seq = frame.seq.to_native();
    Some(Delivery {
        router,
        is_replayed: frame.replayed,
        is_doubtful: false,
        conversation: ConversationId(frame.conversation.0.to_native()),
        seq,
        head_seq: frame.head_seq.to_native().max(seq),
        origin_session: frame.origin_session.to_native(),
        origin_request: frame.origin_request.to_native(),
        event: Event::decode(&frame.record)?,
        users_count: progress.users_count,
        encoded: progress.encoded,
    })
}
