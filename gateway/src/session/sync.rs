//! `sync`: a client asks for events, to fill what it knows it misses, or because it is behind. One page is on its way at
//! a time, and only while there is room for it.

use carillon_protocol::client::{FrameId, SyncBatch};
use carillon_protocol::frame::{ArchivedPage, Read};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::placement::{Slot, slot_of_conversation};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::Event;

use super::catch_up::{Reset, fanned_out};
use super::work::SyncAsked;
use super::{Session, Stage};
use crate::common::Common;
use crate::counters::Shared;
use crate::line::Line;
use crate::owners::Route;
use crate::render;

impl Session {
    /// Events are asked for.
    pub(super) fn sync(
        &mut self,
        id: Option<FrameId>,
        conversation: ConversationId,
        from_seq: Seq,
        limit: u32,
        common: &Common,
    ) {
        self.sync_progress(conversation, common.now);
        let asked = SyncAsked { request: 0, route: None, id, conversation, from_seq, limit };
        self.work.get_or_insert_default().syncs.push_back(asked);
    }

    /// Puts the next `sync` on its lane, if there is room for the page. Not while the session registers: what a page
    /// shows could not be compared with what is pushed.
    pub(super) fn start_sync(&mut self, line: &Line, common: &mut Common) {
        if !matches!(self.stage, Stage::CatchingUp(_) | Stage::Live(_)) || !line.has_room_for_page(common) {
            return;
        }
        let Some(asked) = self.work.as_mut().and_then(|work| work.syncs.front_mut()) else { return };
        let Some(route) = common.owners.route_of_conversation(asked.conversation) else { return };
        if asked.request != 0 {
            return;
        }
        (asked.request, asked.route) = (common.request(), Some(route));
        let read = Read {
            session: line.id.as_u64(),
            request: asked.request,
            user: self.user,
            conversation: asked.conversation,
            from_seq: asked.from_seq,
            to_seq: Seq::MAX,
            limit: asked.limit,
            newest_first: false,
            messages_only: false,
        };
        common.link(route.router, &read);
    }

    /// A page that was asked for in a way that is `meant` will be asked for again.
    pub(super) fn unask_sync(&mut self, is_meant: impl FnOnce(Slot, Route) -> bool) {
        if let Some(asked) = self.work.as_mut().and_then(|work| work.syncs.front_mut())
            && asked.route.is_some_and(|route| is_meant(slot_of_conversation(asked.conversation), route))
        {
            (asked.request, asked.route) = (0, None);
        }
    }

    /// How the page of a `sync` was asked for, if this is its request.
    pub(super) fn sync_asked(&self, request: u64) -> Option<(Slot, Route)> {
        let asked = self.work.as_ref()?.syncs.front().filter(|asked| asked.request == request)?;
        Some((slot_of_conversation(asked.conversation), asked.route?))
    }

    fn take_sync(&mut self, request: u64) -> Option<SyncAsked> {
        self.work.as_mut()?.syncs.pop_front_if(|asked| request != 0 && asked.request == request)
    }

    /// The page for a `sync`.
    pub(super) fn sync_page(&mut self, page: &ArchivedPage, line: &mut Line, common: &mut Common) {
        let Some(asked) = self.take_sync(page.request.to_native()) else { return };
        let SyncAsked { id, conversation, from_seq, .. } = asked;
        let (first_seq, head_seq) = (page.first_seq.to_native(), page.head_seq.to_native());
        let told = page.fanned_out_seq.to_native();
        let fanned_out = match (self.home(), asked.route) {
            (Some(home), Some(route)) => fanned_out(home, conversation, (route, told), common),
            _ => 0,
        };
        if from_seq > head_seq + 1 {
            let reset = Reset { id, conversation, first_seq, head_seq, reason: "cursor_ahead" };
            self.say_reset(reset, line, common);
            self.synced(conversation, page.request.to_native(), head_seq, fanned_out, common);
            return;
        }
        let from_seq = from_seq.max(first_seq);
        let is_placed = matches!(self.stage, Stage::CatchingUp(_) | Stage::Live(_));
        let is_unknown = !is_placed || self.is_unknown(conversation);
        let receipts = render::receipts(page);
        let mut events = Vec::with_capacity(page.entries.len());
        let mut to_seq = from_seq.saturating_sub(1);
        for stored in page.entries.iter() {
            to_seq = stored.seq.to_native();
            let Some(event) = Event::decode(&stored.record) else {
                common.counters.unreadable += 1;
                continue;
            };
            // Where the page stands for the live line, an unanswered command of which this is the outcome hears that
            // first. Elsewhere its ack comes on the line itself: this page may be from before what the router has told,
            // and says nothing about what the client has. What was asked for is complete all the same.
            if is_unknown {
                let _ = self.is_filled(conversation, to_seq, &event, None, true, line, common);
            }
            events.push(render::event_frame(
                conversation,
                to_seq,
                head_seq,
                &event,
                self.user,
                render::marks(&receipts),
            ));
        }
        render::react(&mut events, &page.reacted);
        common.counters.events_paged += events.len() as u64;
        let has_more = page.has_more;
        let batch = SyncBatch { id, conversation, events, from_seq, to_seq, head_seq, has_more, receipts };
        let (bytes, cut) = render::batch(line.wire, batch, &mut common.scratch);
        common.counters.said_shared(Shared::SyncBatch);
        line.answer(common, bytes);
        if cut.is_none() && !has_more && to_seq >= head_seq {
            self.synced(conversation, page.request.to_native(), head_seq, fanned_out, common);
        } else {
            self.sync_progress(conversation, common.now);
        }
    }

    /// The page for a `sync` is refused; `false`: the request is not known here.
    pub(super) fn sync_refused(
        &mut self,
        request: u64,
        refusal: &Refusal,
        line: &mut Line,
        common: &mut Common,
    ) -> bool {
        let Some(asked) = self.take_sync(request) else { return false };
        line.refuse(common, asked.id, refusal.clone());
        if refusal.code == Code::Forbidden {
            // No member any more: there is nothing left to sync.
            self.synced(asked.conversation, request, 0, 0, common);
        }
        true
    }
}
