//! Memory that is free again, kept for whoever needs such next: so a message on its way takes none from the allocator, and an
//! idle session still owns none.
//!
//! # Invariants
//! - Bounded: so many pieces of each kind, each no larger than most messages need. What is beyond goes back to the allocator.

use carillon_protocol::frame::{Command, Submit};
use rkyv::util::AlignedVec;

use crate::session::Work;

/// Pieces of a kind: what is under way at a time in a shard that is busy, not in one that meets a crowd.
const PIECES_MAX: usize = 256;
/// Bytes of a text that is kept.
const TEXT_BYTES_MAX: usize = 512;
/// Bytes of a link frame that is kept.
const FRAME_BYTES_MAX: usize = 1_024;

/// See the module. What is taken is empty.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    frames: Vec<AlignedVec>,
    texts: Vec<String>,
    #[expect(clippy::vec_box, reason = "it is the boxes that are kept")]
    submits: Vec<Box<Submit>>,
    #[expect(clippy::vec_box, reason = "it is the boxes that are kept")]
    works: Vec<Box<Work>>,
}

impl Spares {
    /// Room for a link frame.
    pub(crate) fn frame(&mut self) -> AlignedVec {
        self.frames.pop().unwrap_or_default()
    }

    pub(crate) fn keep_frame(&mut self, mut frame: AlignedVec) {
        if frame.capacity() <= FRAME_BYTES_MAX && has_room(&self.frames) {
            frame.clear();
            self.frames.push(frame);
        }
    }

    /// A copy of a text.
    pub(crate) fn text(&mut self, text: &str) -> String {
        let mut copy = self.texts.pop().unwrap_or_default();
        copy.push_str(text);
        copy
    }

    pub(crate) fn keep_text(&mut self, mut text: String) {
        if text.capacity() <= TEXT_BYTES_MAX && has_room(&self.texts) {
            text.clear();
            self.texts.push(text);
        }
    }

    /// A box around a command.
    pub(crate) fn boxed(&mut self, submit: Submit) -> Box<Submit> {
        match self.submits.pop() {
            Some(mut spare) => {
                *spare = submit;
                spare
            }
            None => Box::new(submit),
        }
    }

    pub(crate) fn keep_submit(&mut self, mut submit: Box<Submit>) {
        self.keep_text(std::mem::take(&mut submit.client_msg_id));
        if let Command::Send { content, .. } = &mut submit.command {
            self.keep_text(std::mem::take(content));
        }
        if has_room(&self.submits) {
            self.submits.push(submit);
        }
    }

    /// A session's, nothing under way.
    pub(crate) fn work(&mut self) -> Box<Work> {
        self.works.pop().unwrap_or_default()
    }

    /// Of a session that has nothing under way any more.
    pub(crate) fn keep_work(&mut self, work: Box<Work>) {
        if work.is_small() && has_room(&self.works) {
            self.works.push(work);
        }
    }
}

fn has_room<T>(kept: &[T]) -> bool {
    kept.len() < PIECES_MAX
}
