//! What a session still has to bring to its client, conversation by conversation.

use carillon_protocol::ids::{ConversationId, Seq};

/// One conversation of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) conversation: ConversationId,
    /// How it is brought.
    pub(super) how: How,
    /// The first seq that the client does not have. For a reset: the first it may see.
    pub(super) next: Seq,
    /// The last seq to bring. For a reset: the head.
    pub(super) target: Seq,
    /// `Deliver` frames up to this seq came already.
    pub(super) fanned_out: Seq,
    /// The client is taken to hold nothing, because its user was not known to have been a member before: the page knows.
    pub(super) is_first: bool,
}

/// How a conversation is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Its events, in pages.
    Pages,
    /// A `reset`, with this reason.
    Reset(&'static str),
    /// It was brought.
    Done,
}

/// See the module. Entries ascend by conversation.
#[derive(Debug, Default)]
pub(super) struct Plan {
    entries: Vec<Entry>,
    /// Everything before it is done.
    first: usize,
    resets_count: usize,
}

impl Plan {
    pub(super) fn new(mut entries: Vec<Entry>) -> Plan {
        entries.sort_unstable_by_key(|entry| entry.conversation);
        let resets_count = entries.iter().filter(|entry| matches!(entry.how, How::Reset(_))).count();
        Plan { entries, first: 0, resets_count }
    }

    /// Conversations and events that are to be paged.
    pub(super) fn pending(&self) -> (u64, u64) {
        let pages = self.entries.iter().filter(|entry| entry.how == How::Pages);
        pages.fold((0, 0), |(conversations, events), entry| {
            (conversations + 1, events + (entry.target + 1).saturating_sub(entry.next))
        })
    }

    /// The next thing to bring: resets first, so that a client knows early what to drop.
    pub(super) fn next(&mut self) -> Option<Entry> {
        let is_reset = |entry: &&Entry| matches!(entry.how, How::Reset(_));
        if self.resets_count > 0 {
            return self.entries.iter().skip(self.first).find(is_reset).copied();
        }
        while self.entries.get(self.first).is_some_and(|entry| entry.how == How::Done) {
            self.first += 1;
        }
        self.entries.get(self.first).copied()
    }

    /// The conversation's entry, unless it is done.
    pub(super) fn open(&mut self, conversation: ConversationId) -> Option<&mut Entry> {
        let place = self.entries.binary_search_by_key(&conversation, |entry| entry.conversation).ok()?;
        self.entries.get_mut(place).filter(|entry| entry.how != How::Done)
    }

    /// A conversation is done.
    pub(super) fn done(&mut self, conversation: ConversationId) {
        if let Some(entry) = self.open(conversation) {
            let was_reset = matches!(entry.how, How::Reset(_));
            entry.how = How::Done;
            self.resets_count -= usize::from(was_reset);
        }
    }

    /// A conversation's pages turn out to be none: it is to be reset.
    pub(super) fn reset(
        &mut self,
        conversation: ConversationId,
        first_seq: Seq,
        head: Seq,
        reason: &'static str,
    ) {
        if let Some(entry) = self.open(conversation).filter(|entry| entry.how == How::Pages) {
            (entry.how, entry.next, entry.target) =
                (How::Reset(reason), first_seq, head.max(entry.fanned_out));
            self.resets_count += 1;
        }
    }

    /// Everything from `seq` on is to be paged of a conversation that was done or not in the plan; `seq` itself came as
    /// a `Deliver`.
    pub(super) fn page_from(&mut self, conversation: ConversationId, next: Seq, target: Seq) {
        let entry =
            Entry { conversation, how: How::Pages, next, target, fanned_out: target, is_first: false };
        match self.entries.binary_search_by_key(&conversation, |entry| entry.conversation) {
            Ok(place) => {
                if let Some(done) = self.entries.get_mut(place) {
                    *done = entry;
                }
                self.first = self.first.min(place);
            }
            Err(place) => {
                self.entries.insert(place, entry);
                self.first = self.first.min(place);
            }
        }
    }

    /// A conversation is to be reset, whatever its place was: the member came back to it by the event at `target`, which
    /// came as a `Deliver`.
    pub(super) fn begin_anew(&mut self, conversation: ConversationId, first_seq: Seq, target: Seq) {
        let how = How::Reset("membership");
        let entry = Entry { conversation, how, next: first_seq, target, fanned_out: target, is_first: false };
        let place = match self.entries.binary_search_by_key(&conversation, |entry| entry.conversation) {
            Ok(place) => {
                if let Some(old) = self.entries.get_mut(place) {
                    let was_reset = matches!(old.how, How::Reset(_));
                    self.resets_count -= usize::from(was_reset);
                    *old = entry;
                }
                place
            }
            Err(place) => {
                self.entries.insert(place, entry);
                place
            }
        };
        self.resets_count += 1;
        self.first = self.first.min(place);
    }

    /// What is not done yet, ascending.
    pub(super) fn into_open(self) -> Vec<Entry> {
        let mut entries = self.entries;
        entries.retain(|entry| entry.how != How::Done);
        entries
    }

    /// How many entries it holds, done or not.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    /// A `Deliver` of this conversation came while it is to be brought anyway.
    pub(super) fn raise(&mut self, seq: Seq) {
        self.target = self.target.max(seq);
        self.fanned_out = self.fanned_out.max(seq);
    }
}
