//! What comes over the lanes, taken to the sessions it is for.

use carillon_link::Peer;
use carillon_protocol::client::{DeliveryAck, ServerFrame, Status};
use carillon_protocol::frame::{
    self, ArchivedOwners, ArchivedPresence, ArchivedReadSync, ArchivedRevoked, ArchivedTyped,
    ArchivedWatermark, Frame,
};
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::reason::Close;
use carillon_protocol::time::WallMs;

use super::Shard;
use super::connection::Phase;
use crate::common::Common;
use crate::line::Line;
use crate::session::{ReadTo, Session, State};
use crate::turn::{ConnectionId, Output};

impl Shard {
    /// A frame from a router.
    pub(super) fn lane_frame(&mut self, router: Peer, bytes: &[u8]) {
        if !self.common.owners.is_up(router) {
            return;
        }
        let read = match frame::read(bytes) {
            Ok(read) => read,
            Err(_) => {
                // Of another version, or broken: nothing behind it can be trusted either.
                self.common.counters.unreadable += 1;
                self.common.outputs.push_back(Output::CloseLane { router });
                return;
            }
        };
        if !self.crowded(router, &read, bytes) {
            self.dispatch(router, &read);
        }
    }

    /// Takes a frame to whom it is for.
    pub(super) fn dispatch(&mut self, router: Peer, frame: &Frame<'_>) {
        match *frame {
            Frame::Deliver(frame) => self.deliver_at_once(router, frame),
            Frame::Watermark(frame) => self.watermark(frame),
            Frame::Accepted(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.accepted(frame, line, common)
                });
            }
            Frame::Refused(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.refused(frame, line, common)
                });
            }
            Frame::NotOwner(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.not_owner(router, frame, line, common)
                });
            }
            Frame::Registered(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.registered(frame, line, common)
                });
            }
            Frame::Peeked(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.peeked(frame, line, common)
                });
            }
            Frame::Page(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.page(frame, line, common)
                });
            }
            Frame::Replaced(frame) => {
                self.session(frame.session.to_native(), |_, line, _| line.close(Close::Replaced));
            }
            Frame::Watched(frame) => {
                self.session(frame.session.to_native(), |session, line, common| {
                    session.watched(frame, line, common)
                });
            }
            Frame::Presence(frame) => self.presence(router, frame),
            Frame::Typed(frame) => self.typed(frame),
            Frame::ReadSync(frame) => self.read_sync(frame),
            Frame::Revoked(frame) => self.revoked(frame),
            Frame::Owners(frame) => self.owners(router, frame),
            // Said when the lane began, or never to a gateway's shard.
            Frame::Open(_)
            | Frame::Register(_)
            | Frame::Unregister(_)
            | Frame::Peek(_)
            | Frame::Submit(_)
            | Frame::Notify(_)
            | Frame::Notified(_)
            | Frame::Own(_)
            | Frame::Owned(_)
            | Frame::Lapsed(_)
            | Frame::Moved(_)
            | Frame::ReadBy(_)
            | Frame::Read(_)
            | Frame::Receipt(_)
            | Frame::Find(_)
            | Frame::Found(_)
            | Frame::Watch(_)
            | Frame::Typing(_) => {}
        }
    }

    /// A router says who there is, and who owns what.
    fn owners(&mut self, router: Peer, frame: &ArchivedOwners) {
        let changes = self.common.owners.learn(router, frame);
        self.common.meet_and_part();
        if changes.are_none() {
            return;
        }
        if !changes.raised.is_empty() {
            // Who goes to another router has what the tails say, no more.
            self.disperse();
        }
        self.each_session(|session, line, common| {
            let is_concerned = session.is_concerned(&changes);
            if is_concerned {
                session.owners_changed(&changes, line, common);
            }
            is_concerned
        });
    }

    /// Has the session of this number do something, if it is still there.
    fn session(&mut self, number: u64, work: impl FnOnce(&mut Session, &mut Line, &mut Common)) {
        let Some(id) = ConnectionId::from_u64(number) else { return };
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Phase::Open(_, session) = &mut connection.phase else { return };
        work(session, &mut connection.line, &mut self.common);
        self.touch(id);
    }

    /// A reader's watermark moved: the senders concerned hear it.
    fn watermark(&mut self, frame: &ArchivedWatermark) {
        let conversation = ConversationId(frame.conversation.0.to_native());
        for concerned in frame.senders.iter() {
            let seq = concerned.seq.to_native();
            let ack = ServerFrame::DeliveryAck(DeliveryAck {
                id: None,
                message: MessageId(concerned.message.0.to_native()),
                status: if frame.read { Status::Read } else { Status::Delivered },
                conversation,
                seq,
                timestamp: WallMs(frame.at_ms.to_native()),
                client_msg_id: None,
                duplicate: false,
                user: frame.named.then_some(UserId(frame.reader.0.to_native())),
                count: (!frame.named).then_some(concerned.count.to_native()),
            });
            let mut encoded = [const { None }; 2];
            for id in self.roster.sessions(UserId(concerned.user.0.to_native())) {
                let Some(connection) = self.connections.get_mut(*id) else { continue };
                let Phase::Open(_, session) = &mut connection.phase else { continue };
                let line = &mut connection.line;
                session.watermark(conversation, seq, &mut encoded, &ack, line, &mut self.common);
                if !std::mem::replace(&mut connection.is_dirty, true) {
                    self.dirty.push_back(*id);
                }
            }
        }
    }

    /// A user came or went: the sessions that watch them hear it.
    fn presence(&mut self, router: Peer, frame: &ArchivedPresence) {
        let (user, state) = (UserId(frame.user.user.0.to_native()), State::new(&frame.user));
        let mut encoded = [const { None }; 2];
        for session in frame.sessions.iter() {
            self.session(session.to_native(), |session, line, common| {
                session.presence(router, user, state, &mut encoded, line, common)
            });
        }
    }

    /// A user types: these hear it.
    fn typed(&mut self, frame: &ArchivedTyped) {
        let said = ServerFrame::Typing {
            conversation: ConversationId(frame.conversation.0.to_native()),
            user: UserId(frame.user.0.to_native()),
            start: frame.start,
        };
        let mut encoded = [const { None }; 2];
        for user in frame.users.iter() {
            let user = UserId(user.0.to_native());
            self.each_of(user, |session, line, common| session.typed(&mut encoded, &said, line, common));
        }
    }

    /// A user read on one device: their others hear it.
    fn read_sync(&mut self, frame: &ArchivedReadSync) {
        let except = frame.except_session.to_native();
        let read = ReadTo {
            conversation: ConversationId(frame.conversation.0.to_native()),
            read_seq: frame.read_seq.to_native(),
            unread_count: frame.unread_count.to_native(),
        };
        let user = UserId(frame.user.0.to_native());
        self.each_of(user, |session, line, common| {
            if line.id.as_u64() != except {
                session.read_elsewhere(read, line, common);
            }
        });
    }

    /// A device was revoked: its connections with tokens from before are closed.
    fn revoked(&mut self, frame: &ArchivedRevoked) {
        let (user, at_ms) = (UserId(frame.user.0.to_native()), frame.at_ms.to_native());
        self.each_of(user, |session, line, _| session.revoked(&frame.device, at_ms, line));
    }

    /// Has every session of a user do something.
    fn each_of(&mut self, user: UserId, mut each: impl FnMut(&mut Session, &mut Line, &mut Common)) {
        for id in self.roster.sessions(user) {
            let Some(connection) = self.connections.get_mut(*id) else { continue };
            let Phase::Open(_, session) = &mut connection.phase else { continue };
            each(session, &mut connection.line, &mut self.common);
            if !std::mem::replace(&mut connection.is_dirty, true) {
                self.dirty.push_back(*id);
            }
        }
    }
}
