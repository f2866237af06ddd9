//! What waits to be sent on one connection: whole frames, shared with other connections where they are the same.
//!
//! Live pushes are bounded: one that does not fit is not queued, and the session finds another way to bring the event
//! (`behind`). Answers are never refused here: what asks for them is bounded (`limits.inflight`, one page at a time),
//! and the connection is not read while too much is queued. Ephemeral frames (typing, presence) have room in the first
//! half of the bound only, and take none of it from pushes.
//!
//! # Invariants
//! - Frames leave whole and in order; one that has begun is never dropped.
//! - An empty outbox owns no memory beyond itself.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Most outboxes hold one frame at a time: it takes no memory of its own.
    first: Option<Item>,
    #[expect(clippy::box_collection, reason = "a pointer is all that an idle connection pays for it")]
    rest: Option<Box<VecDeque<Item>>>,
    bytes: usize,
    push_bytes: usize,
}

#[derive(Debug)]
struct Item {
    bytes: Bytes,
    is_push: bool,
}

impl Outbox {
    /// Queues an answer.
    pub(crate) fn answer(&mut self, bytes: Bytes) {
        self.add(Item { bytes, is_push: false });
    }

    /// Queues a live push unless the pushes would take more than `bytes_max` together. One push always fits, however
    /// large: a bound below the largest event must not keep it from anybody.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: Bytes, bytes_max: usize) -> bool {
        if self.push_bytes > 0 && self.push_bytes + bytes.len() > bytes_max {
            return false;
        }
        self.push_bytes += bytes.len();
        self.add(Item { bytes, is_push: true });
        true
    }

    /// Queues a frame that may be lost, unless half of `bytes_max` waits already: it is dropped before anything else
    /// has to be (DS2).
    #[must_use]
    pub(crate) fn whisper(&mut self, bytes: Bytes, bytes_max: usize) -> bool {
        if self.bytes + bytes.len() > bytes_max / 2 {
            return false;
        }
        self.add(Item { bytes, is_push: false });
        true
    }

    fn add(&mut self, item: Item) {
        self.bytes += item.bytes.len();
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.get_or_insert_default().push_back(item);
        }
    }

    /// What is to be sent, in order.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter())).map(|item| &item.bytes)
    }

    /// So many bytes are out.
    pub(crate) fn sent(&mut self, mut bytes: usize) {
        while let Some(item) = &mut self.first {
            let taken = bytes.min(item.bytes.len());
            item.bytes.advance(taken);
            self.bytes -= taken;
            if item.is_push {
                self.push_bytes -= taken;
            }
            bytes -= taken;
            if !item.bytes.is_empty() {
                return;
            }
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
        }
        // Idle connections own no buffers.
        self.rest = None;
    }

    /// Bytes queued.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is queued.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(outbox: &Outbox) -> Vec<u8> {
        outbox.pending().flatten().copied().collect()
    }

    /// G13, F14: pushes are bounded, answers and frames that have begun are not touched.
    #[test]
    fn frames_leave_whole_and_in_order() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(Bytes::from_static(b"0123456789"), 4), "one push always fits");
        assert!(!outbox.push(Bytes::from_static(b"x"), 4));
        outbox.answer(Bytes::from_static(b"abc"));
        outbox.sent(8);
        assert_eq!((gather(&outbox).as_slice(), outbox.bytes()), (&b"89abc"[..], 5));
        assert!(outbox.push(Bytes::from_static(b"yz"), 4));
        outbox.sent(3);
        assert_eq!(gather(&outbox), b"bcyz");
        outbox.sent(4);
        assert!(outbox.is_empty() && outbox.push_bytes == 0);
        assert!(outbox.first.is_none() && outbox.rest.is_none(), "an empty outbox owns nothing");
    }

    /// DS2: typing and presence are dropped first, and take no room from messages.
    #[test]
    fn whispers_give_way() {
        let mut outbox = Outbox::default();
        assert!(outbox.whisper(Bytes::from_static(b"typing"), 12), "half of it is free");
        assert!(!outbox.whisper(Bytes::from_static(b"x"), 12));
        assert!(
            outbox.push(Bytes::from_static(b"0123456789"), 12) && outbox.push(Bytes::from_static(b"ab"), 12)
        );
        assert!(!outbox.whisper(Bytes::new(), 12), "messages wait");
        outbox.sent(18);
        assert!(outbox.whisper(Bytes::from_static(b"again"), 12));
    }
}
