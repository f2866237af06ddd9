//! What a [`Session`](crate::session::Session) is handed with each call: the time, the book, the figures, and the
//! buffer of its connection.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use carillon_node::prng::Prng;
use carillon_protocol::client::{Command, FrameId, Wire, binary, json};
use carillon_protocol::ids::Seq;
use carillon_protocol::websocket::{Opcode, append_client_frame};
use rkyv::util::AlignedVec;

use crate::content::{self, Mark};
use crate::journal::Entry;
use crate::oracle::{Ledger, Roster};
use crate::schedule::Rates;
use crate::session::Receipts;
use crate::stats::Stats;

/// What all threads share while they run.
#[derive(Debug)]
pub struct Shared {
    /// Per conversation, the highest seq that any client was told in an ack.
    pub told_seqs: Vec<AtomicU64>,
    /// Messages that wait for an answer, of all threads.
    pub unanswered: AtomicI64,
}

impl Shared {
    /// For so many conversations.
    #[must_use]
    pub fn new(conversations_count: usize) -> Shared {
        let told_seqs = (0..conversations_count).map(|_| AtomicU64::new(0)).collect();
        Shared { told_seqs, unanswered: AtomicI64::new(0) }
    }
}

/// When things are measured.
#[derive(Clone, Debug)]
pub struct Window {
    /// The run's start, on the clock.
    pub start_ns: u64,
    /// Messages intended before are not measured.
    pub measure_from_ns: u64,
    /// How the rate goes.
    pub rates: Rates,
    /// Whether an answer belongs to the step in which it comes, so that a step is complete when it ends, and not to that
    /// of its message.
    pub steps_end: bool,
    /// How long a row of the series is.
    pub row_ns: u64,
}

impl Window {
    /// The row of the series that a moment is in.
    #[must_use]
    pub fn row(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.start_ns) / self.row_ns
    }

    /// The step that something belongs to which was intended then and happens now; `None` in the warm-up.
    #[must_use]
    pub fn step(&self, intended_ns: u64, now_ns: u64) -> Option<usize> {
        let at_ns = if self.steps_end { now_ns } else { intended_ns };
        (intended_ns >= self.measure_from_ns).then(|| self.rates.step(at_ns.saturating_sub(self.start_ns)))
    }
}

/// Strings that are written again and again.
#[derive(Debug, Default)]
pub struct Text {
    /// A message's content.
    pub content: String,
    /// Its id.
    pub client_msg_id: String,
    /// Where its media lie; empty when it has none.
    pub media_url: String,
}

impl Text {
    /// What a message says, from whose it is.
    pub fn write(&mut self, mark: &Mark, content_bytes: usize, media: f64) {
        content::write(mark, content_bytes, &mut self.content);
        content::write_client_msg_id(mark.run, mark.user, mark.n, &mut self.client_msg_id);
        self.media_url.clear();
        if content::is_media(mark.user, mark.n, media) {
            content::write_media_url(mark.user, mark.n, &mut self.media_url);
        }
    }

    /// Where its media lie, if it has some.
    #[must_use]
    pub fn media_url(&self) -> Option<&str> {
        Some(self.media_url.as_str()).filter(|url| !url.is_empty())
    }
}

/// One call's surroundings.
#[derive(Debug)]
pub struct Turn<'t> {
    /// The clock.
    pub now_ns: u64,
    /// Who takes part.
    pub roster: &'t Roster,
    /// The thread's book.
    pub ledger: &'t mut Ledger,
    /// The thread's figures.
    pub stats: &'t mut Stats,
    /// When things are measured.
    pub window: &'t Window,
    /// What all threads share.
    pub shared: &'t Shared,
    /// Chance.
    pub prng: &'t mut Prng,
    /// Which encoding is spoken.
    pub wire: Wire,
    /// Bytes of content in a message.
    pub content_bytes: usize,
    /// The share of the messages that are media.
    pub media: f64,
    /// What is confirmed.
    pub receipts: Receipts,
    /// Whose coming and going each client asks for: so many of the clients after it.
    pub watch: u32,
    /// What the socket is to be given.
    pub out: &'t mut Vec<u8>,
    /// Scratch for JSON frames.
    pub json: &'t mut Vec<u8>,
    /// Scratch for binary frames.
    pub binary: &'t mut AlignedVec<16>,
    /// Scratch for messages.
    pub text: &'t mut Text,
    /// The journal's lines of this turn, when one is kept.
    pub journal: Option<&'t mut Vec<u8>>,
}

impl Turn<'_> {
    /// Appends a frame to what the socket is to be given.
    pub fn put(&mut self, id: Option<&FrameId>, command: &Command<'_>) {
        let key = (self.prng.next_u64() as u32).to_le_bytes();
        match self.wire {
            Wire::Json => {
                self.json.clear();
                json::encode_command(id, command, self.json);
                append_client_frame(self.out, Opcode::Text, self.json, key);
            }
            Wire::Rkyv => {
                self.binary.clear();
                binary::encode_command(id, command, self.binary);
                append_client_frame(self.out, Opcode::Binary, self.binary, key);
            }
        }
    }

    /// Writes to the journal.
    pub fn note(&mut self, entry: Entry) {
        if let Some(journal) = self.journal.as_deref_mut() {
            entry.write(self.now_ns, journal);
        }
    }

    /// The highest seq of a conversation that anybody was told.
    #[must_use]
    pub fn told_seq(&self, conversation: u32) -> Seq {
        self.shared.told_seqs.get(conversation as usize).map_or(0, |seq| seq.load(Ordering::SeqCst))
    }

    /// A message was acknowledged for the first time.
    pub fn acked(&mut self, conversation: u32, seq: Seq, intended_ns: u64) {
        if let Some(told) = self.shared.told_seqs.get(conversation as usize) {
            told.fetch_max(seq, Ordering::SeqCst);
        }
        let waited_ns = self.now_ns.saturating_sub(intended_ns);
        self.stats.slot().to_ack.record_ns(waited_ns);
        if let Some(step) = self.window.step(intended_ns, self.now_ns) {
            let step = self.stats.step(step);
            step.acked_count += 1;
            step.to_ack.record_ns(waited_ns);
        }
    }

    /// A message of somebody else arrived.
    pub fn delivered(&mut self, intended_ns: u64) {
        let waited_ns = self.now_ns.saturating_sub(intended_ns);
        self.stats.slot().to_delivered.record_ns(waited_ns);
        if let Some(step) = self.window.step(intended_ns, self.now_ns) {
            let step = self.stats.step(step);
            step.delivered_count += 1;
            step.to_delivered.record_ns(waited_ns);
        }
    }

    /// A message waits no longer.
    pub fn answered(&self) {
        self.shared.unanswered.fetch_sub(1, Ordering::SeqCst);
    }
}
