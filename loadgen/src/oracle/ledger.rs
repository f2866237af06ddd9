//! What the clients of one thread did and saw. Everything that can be judged at once is; the rest waits, small, for
//! the [`Judge`](super::Judge).

use std::ops::AddAssign;
use std::sync::Arc;

use carillon_protocol::ids::{ConversationId, MessageId, SEQ_MAX, Seq};

use super::last::Copies;
use super::line::{Line, Step};
use super::{Kind, Roster, Violations};
use crate::content::{self, Mark};

/// How far beyond what this thread has seen a seq may lie. A server that says more is wrong, and must not make us
/// allocate: a run of a day at a full rate in one conversation stays below.
const SEQ_AHEAD_MAX: u64 = 1 << 24;

/// How a send stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unanswered,
    Acked,
    Refused,
}

/// One send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) digest: u64,
    /// Where it was acked; 0 before.
    pub(super) seq: Seq,
    pub(super) conversation: u32,
    pub(super) state: State,
    /// It was refused retryably, so later ones may stand before it.
    pub(super) may_be_overtaken: bool,
}

const _: () = assert!(size_of::<Row>() == 24);

/// How much was looked at.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct Tally {
    /// Messages handed to a connection, retries not counted.
    pub sends: u64,
    /// Of them acknowledged.
    pub acked: u64,
    /// Of them definitely refused.
    pub refused: u64,
    /// Acks that said `duplicate`.
    pub acked_duplicate: u64,
    /// Events of the run's conversations that clients received.
    pub deliveries: u64,
    /// Events of other conversations and from before the run.
    pub unrelated: u64,
    /// Conversations that were reset for a client.
    pub resets: u64,
    /// How often a connection fell behind.
    pub behinds: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Tally) {
        self.sends += more.sends;
        self.acked += more.acked;
        self.refused += more.refused;
        self.acked_duplicate += more.acked_duplicate;
        self.deliveries += more.deliveries;
        self.unrelated += more.unrelated;
        self.resets += more.resets;
        self.behinds += more.behinds;
    }
}

/// What a client makes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Taken.
    Taken {
        /// The conversation's number.
        conversation: u32,
    },
    /// Not of this run.
    Unrelated,
    /// Legally skipped some: ask from here on.
    MustSync {
        /// The first missing.
        from_seq: Seq,
    },
}

/// A thread's book. Clients are called by their number in the roster; those that are not the thread's own are ignored.
#[derive(Debug)]
pub struct Ledger {
    pub(super) roster: Arc<Roster>,
    pub(super) first_client: u32,
    /// Per client, its sends in order.
    pub(super) rows: Vec<Vec<Row>>,
    /// Per client, a line per membership, in the roster's order.
    pub(super) lines: Vec<Vec<Line>>,
    /// Per client, whether it is expected to hold everything at the end.
    pub(super) is_connected: Vec<bool>,
    /// Per conversation, the digest seen at `base_seq + 1 + index`; 0 where nothing was.
    pub(super) digests: Vec<Vec<u64>>,
    /// Per group, the copies seen of `base_seq + 1 + index`.
    pub(super) copies: Vec<Vec<Copies>>,
    pub(super) violations: Violations,
    pub(super) tally: Tally,
}

impl Ledger {
    /// The book of `count` clients from `first_client` on.
    #[must_use]
    pub fn new(roster: Arc<Roster>, first_client: u32, count: u32) -> Ledger {
        let clients = first_client..first_client.saturating_add(count);
        let line = |number: &u32| Line::new(roster.conversations()[*number as usize].base_seq);
        let lines = clients.map(|client| roster.memberships(client).iter().map(line).collect()).collect();
        Ledger {
            first_client,
            rows: vec![Vec::new(); count as usize],
            lines,
            is_connected: vec![true; count as usize],
            digests: vec![Vec::new(); roster.conversations().len()],
            copies: vec![Vec::new(); roster.conversations().len()],
            violations: Violations::default(),
            tally: Tally::default(),
            roster,
        }
    }

    fn local(&self, client: u32) -> usize {
        client.wrapping_sub(self.first_client) as usize
    }

    /// A client has a new connection, or none.
    pub fn connected(&mut self, client: u32, is_connected: bool) {
        let local = self.local(client);
        if let Some(flag) = self.is_connected.get_mut(local) {
            *flag = is_connected;
        }
        for line in self.lines.get_mut(local).into_iter().flatten() {
            line.reconnected();
        }
    }

    /// What was found broken so far; the rest the judge finds.
    #[must_use]
    pub fn violations(&self) -> &Violations {
        &self.violations
    }

    /// The number of the client's next message.
    #[must_use]
    pub fn next_n(&self, client: u32) -> u64 {
        self.rows.get(self.local(client)).map_or(0, |rows| rows.len() as u64)
    }

    /// The client sends its next message, for the first time.
    pub fn sent(&mut self, client: u32, conversation: u32, content: &str, media_url: Option<&str>) {
        let local = self.local(client);
        if let Some(rows) = self.rows.get_mut(local) {
            let digest = content::digest(content, media_url);
            rows.push(Row {
                digest,
                seq: 0,
                conversation,
                state: State::Unanswered,
                may_be_overtaken: false,
            });
            self.tally.sends += 1;
        }
    }

    /// A send was acknowledged. `floor_seq` is the highest seq of the conversation that anybody had been told when it
    /// was first sent (G8). Returns whether the answer belongs to a send that waited for one.
    pub fn acked(
        &mut self,
        client: u32,
        n: u64,
        seq: Seq,
        message: MessageId,
        duplicate: bool,
        floor_seq: Seq,
    ) -> bool {
        let local = self.local(client);
        let row = self.rows.get_mut(local).and_then(|rows| rows.get_mut(usize::try_from(n).ok()?));
        let Some(row) = row else {
            self.violations
                .add(Kind::Phantom, format_args!("client {client} got an ack for send {n}, never sent"));
            return false;
        };
        let (number, digest) = (row.conversation, row.digest);
        let id = self.roster.conversations()[number as usize].id;
        if row.state == State::Acked {
            if row.seq != seq {
                let words =
                    format_args!("send {n} of client {client} was acked at {} and {seq} of {id}", row.seq);
                self.violations.add(Kind::Duplicated, words);
            }
            return false;
        }
        if row.state == State::Refused {
            let words = format_args!("send {n} of client {client} was refused, then acked at {seq} of {id}");
            self.violations.add(Kind::Phantom, words);
        }
        row.state = State::Acked;
        row.seq = seq;
        self.tally.acked += 1;
        self.tally.acked_duplicate += u64::from(duplicate);
        if seq > SEQ_MAX {
            self.violations.add(Kind::Gap, format_args!("{seq} of {id} is no seq"));
            return true;
        }
        if seq <= floor_seq {
            let words =
                format_args!("send {n} of client {client} got {seq} of {id} when {floor_seq} was known (G8)");
            self.violations.add(Kind::Reordered, words);
        }
        let digest = content::event_digest(message.0, self.roster.user(client), digest);
        self.observe(number, seq, digest);
        if !duplicate {
            let step = self.line(client, number).map(|line| line.own_ack(seq));
            self.stepped(client, number, seq, step.unwrap_or(Step::InOrder));
        }
        true
    }

    /// A send was refused for good.
    pub fn refused(&mut self, client: u32, n: u64) {
        let Some(row) = self.row(client, n) else { return };
        if row.state == State::Unanswered {
            row.state = State::Refused;
            self.tally.refused += 1;
        }
    }

    /// A send was refused retryably, or its outcome is unknown: it will be sent again, after later ones.
    pub fn deferred(&mut self, client: u32, n: u64) {
        if let Some(row) = self.row(client, n) {
            row.may_be_overtaken = true;
        }
    }

    /// A client received an event: `digest` is [`content::view_digest`] of a message, `mark` what its content says.
    pub fn delivered(
        &mut self,
        client: u32,
        id: ConversationId,
        seq: Seq,
        sender: u64,
        digest: u64,
        mark: Option<Mark>,
    ) -> Seen {
        let is_ours = mark.is_some_and(|mark| mark.run == self.roster.run());
        let Some(number) = self.roster.number(id) else {
            if is_ours {
                let words =
                    format_args!("client {client} got a message of this run in {id}, which is not of it");
                self.violations.add(Kind::Phantom, words);
            }
            self.tally.unrelated += 1;
            return Seen::Unrelated;
        };
        if seq <= self.roster.conversations()[number as usize].base_seq {
            self.tally.unrelated += 1;
            return Seen::Unrelated;
        }
        if seq > SEQ_MAX {
            self.violations.add(Kind::Gap, format_args!("{seq} of {id} is no seq"));
            return Seen::Unrelated;
        }
        let Some(line) = self.line(client, number) else {
            let words = format_args!("client {client} got {seq} of {id}, and is not a member");
            self.violations.add(Kind::Foreign, words);
            return Seen::Unrelated;
        };
        let step = line.event(seq);
        let from_seq = line.cursor() + 1;
        if step == Step::MustSync {
            return Seen::MustSync { from_seq };
        }
        self.tally.deliveries += 1;
        self.stepped(client, number, seq, step);
        if !is_ours || mark.is_some_and(|mark| mark.user != sender) {
            self.violations
                .add(Kind::Phantom, format_args!("{seq} of {id} is from {sender}, who never sent it"));
        }
        self.observe(number, seq, digest);
        Seen::Taken { conversation: number }
    }

    /// A message of a group, meant to leave then, reached a client.
    pub fn arrived(&mut self, number: u32, seq: Seq, intended_ns: u64, now_ns: u64) {
        let Some(conversation) = self.roster.conversations().get(number as usize) else { return };
        let Some(copies) = self.copies.get_mut(number as usize) else { return };
        let index = seq.checked_sub(conversation.base_seq + 1);
        let is_near = |index: &u64| *index < copies.len() as u64 + SEQ_AHEAD_MAX;
        let Some(index) = index.filter(|_| conversation.members.len() > 2).filter(is_near) else { return };
        if copies.len() <= index as usize {
            copies.resize(index as usize + 1, Copies::default());
        }
        copies[index as usize].arrived(intended_ns, now_ns);
    }

    /// A client is told that its connection was too slow: skips are legal until it has caught up.
    pub fn behind(&mut self, client: u32) {
        let local = self.local(client);
        for line in self.lines.get_mut(local).into_iter().flatten() {
            line.behind();
        }
        self.tally.behinds += 1;
    }

    /// A client is told to drop its copy: it goes on after `head_seq`.
    pub fn reset(&mut self, client: u32, id: ConversationId, head_seq: Seq) {
        if let Some(number) = self.roster.number(id)
            && let Some(line) = self.line(client, number)
        {
            line.reset(head_seq.min(SEQ_MAX));
            self.tally.resets += 1;
        }
    }

    /// What the client holds of its conversations, for `identify.cursors`.
    pub fn cursors(&self, client: u32) -> impl Iterator<Item = (u32, Seq)> {
        let lines = self.lines.get(self.local(client)).map_or(&[] as &[Line], Vec::as_slice);
        self.roster.memberships(client).iter().copied().zip(lines.iter().map(Line::cursor))
    }

    /// What the client holds of one conversation; 0 for one that is not its own.
    #[must_use]
    pub fn cursor(&self, client: u32, number: u32) -> Seq {
        let place = self.roster.memberships(client).binary_search(&number).ok();
        let lines = self.lines.get(self.local(client));
        place.zip(lines).and_then(|(place, lines)| lines.get(place)).map_or(0, Line::cursor)
    }

    /// Counts so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn row(&mut self, client: u32, n: u64) -> Option<&mut Row> {
        let local = self.local(client);
        self.rows.get_mut(local)?.get_mut(usize::try_from(n).ok()?)
    }

    fn line(&mut self, client: u32, number: u32) -> Option<&mut Line> {
        let place = self.roster.memberships(client).binary_search(&number).ok()?;
        let local = self.local(client);
        self.lines.get_mut(local)?.get_mut(place)
    }

    fn stepped(&mut self, client: u32, number: u32, seq: Seq, step: Step) {
        let id = self.roster.conversations()[number as usize].id;
        match step {
            Step::InOrder | Step::MustSync => {}
            Step::Repeated => {
                self.violations
                    .add(Kind::Duplicated, format_args!("client {client} got {seq} of {id} twice"));
            }
            Step::Late => {
                let words = format_args!("client {client} got {seq} of {id} after a higher one");
                self.violations.add(Kind::Reordered, words);
            }
            Step::Skips(missing) => {
                let words =
                    format_args!("client {client} got {seq} of {id}, and not the {missing} before it");
                self.violations.add(Kind::Gap, words);
            }
        }
    }

    fn observe(&mut self, number: u32, seq: Seq, digest: u64) {
        let Some(conversation) = self.roster.conversations().get(number as usize) else { return };
        let Some(digests) = self.digests.get_mut(number as usize) else { return };
        let index = seq.checked_sub(conversation.base_seq + 1);
        let Some(index) = index.filter(|index| *index < digests.len() as u64 + SEQ_AHEAD_MAX) else {
            let words = format_args!("{seq} of {} is far from everything before", conversation.id);
            self.violations.add(Kind::Gap, words);
            return;
        };
        let index = index as usize;
        if digests.len() <= index {
            digests.resize(index + 1, 0);
        }
        if let Some(known) = digests.get_mut(index) {
            if *known == 0 {
                *known = digest;
            } else if *known != digest {
                let words = format_args!("{seq} of {} is not the same for two observers", conversation.id);
                self.violations.add(Kind::Mutated, words);
            }
        }
    }
}
