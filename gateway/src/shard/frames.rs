//! What comes over the lanes, taken to the sessions it is for.

use carillon_link::Peer;
use carillon_protocol::client::{DeliveryAck, ServerFrame, Status};
use carillon_protocol::frame::{self, ArchivedDeliver, ArchivedWatermark, Frame};
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::reason::Close;
use carillon_protocol::record::Event;
use carillon_protocol::time::WallMs;

use super::Shard;
use super::connection::Phase;
use crate::common::Common;
use crate::line::Line;
use crate::session::{Delivery, Session};
use crate::turn::{ConnectionId, Output};

impl Shard {
    /// A frame from a router.
    pub(super) fn lane_frame(&mut self, router: Peer, bytes: &[u8]) {
        if !self.common.is_up(router) {
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
        match read {
            Frame::Deliver(frame) => self.deliver(router, frame),
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
                    session.not_owner(frame, line, common)
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
            // Said when the lane began, or never to a gateway's shard.
            Frame::Open(_)
            | Frame::Register(_)
            | Frame::Unregister(_)
            | Frame::Peek(_)
            | Frame::Submit(_)
            | Frame::Notify(_)
            | Frame::Notified(_)
            | Frame::Read(_)
            | Frame::Receipt(_)
            | Frame::Find(_)
            | Frame::Found(_) => {}
        }
    }

    /// Has the session of this number do something, if it is still there.
    fn session(&mut self, number: u64, work: impl FnOnce(&mut Session, &mut Line, &mut Common)) {
        let Some(id) = ConnectionId::from_u64(number) else { return };
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Phase::Open(_, session) = &mut connection.phase else { return };
        work(session, &mut connection.line, &mut self.common);
        self.touch(id);
    }

    /// An event, for everybody here who hears it.
    fn deliver(&mut self, router: Peer, frame: &ArchivedDeliver) {
        let (conversation, seq) = (ConversationId(frame.conversation.0.to_native()), frame.seq.to_native());
        self.common.counters.delivers += 1;
        if let Some(router) = self.common.router(router) {
            router.tails.delivered(conversation, seq);
        }
        let Some(event) = Event::decode(&frame.record) else {
            self.common.counters.unreadable += 1;
            return;
        };
        let mut delivery = Delivery {
            conversation,
            seq,
            head_seq: frame.head_seq.to_native().max(seq),
            origin_session: frame.origin_session.to_native(),
            origin_request: frame.origin_request.to_native(),
            event,
            encoded: [const { None }; 4],
        };
        for user in frame.users.iter() {
            for id in self.roster.sessions(UserId(user.0.to_native())) {
                let Some(connection) = self.connections.get_mut(*id) else { continue };
                let Phase::Open(_, session) = &mut connection.phase else { continue };
                session.deliver(&mut delivery, &mut connection.line, &mut self.common);
                if !std::mem::replace(&mut connection.is_dirty, true) {
                    self.dirty.push_back(*id);
                }
            }
        }
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
}
