//! One client of a hall: what it holds, and what may come next.

use std::collections::BTreeSet;

use carillon_gateway::turn::ConnectionId;
use serde_json::{Value, json};

use super::Said;

/// See the module.
pub(super) struct Seat {
    pub(super) user: u64,
    pub(super) gateway: usize,
    pub(super) connection: ConnectionId,
    /// Everything up to here is there, or was given up by a `reset`.
    pub(super) cursor: u64,
    /// Acks above the cursor.
    early: BTreeSet<u64>,
    /// What was acknowledged on this connection: a page may show it again.
    own: BTreeSet<u64>,
    /// Where the last `reset` began; what was asked for before may still be answered with older ones.
    reset_head: u64,
    /// Told to sync.
    is_behind: bool,
    /// Takes nothing off its connection for now.
    pub(super) is_stalled: bool,
    /// Lost its connection, or was told `behind`, at least once: what a `reset` then skipped it never had.
    pub(super) is_lossy: bool,
    /// Every seq of the crowd that it took, in that order.
    pub(super) heard: Vec<u64>,
    /// Messages that it reacted to.
    pub(super) reacted: BTreeSet<String>,
    /// Its last ack, and how many clients of its gateway had the event then.
    pub(super) acked: Option<u64>,
}

/// What a frame means for the hall.
#[derive(Default)]
pub(super) struct Reaction {
    /// An own message of this seq is acknowledged, in whichever conversation.
    pub(super) acked_seq: Option<u64>,
    /// In the crowd.
    pub(super) is_crowds: bool,
    /// The gateway asks to come again: what was read for the session was overtaken.
    pub(super) is_away: bool,
    /// What the client says to it.
    pub(super) answer: Option<Value>,
}

impl Seat {
    pub(super) fn new(user: u64, gateway: usize) -> Seat {
        Seat {
            user,
            gateway,
            connection: ConnectionId { slot: 0, generation: 0 },
            cursor: 0,
            early: BTreeSet::new(),
            own: BTreeSet::new(),
            reset_head: 0,
            is_behind: false,
            is_stalled: false,
            is_lossy: false,
            heard: Vec::new(),
            reacted: BTreeSet::new(),
            acked: None,
        }
    }

    /// Another connection: what was acknowledged above the cursor comes again.
    pub(super) fn begin(&mut self, connection: ConnectionId) {
        self.connection = connection;
        self.early.clear();
        self.own.clear();
        (self.is_behind, self.reset_head) = (false, 0);
    }

    pub(super) fn hear(&mut self, said: &Said, crowd: &str, violations: &mut Vec<String>) -> Reaction {
        let frame = &said.frame;
        let is_crowds = frame["conversation_id"] == crowd || frame["message"]["conversation_id"] == crowd;
        let mut reaction = Reaction { is_crowds, ..Reaction::default() };
        let mut wrong = |at: &Seat, what: &str| {
            violations.push(format!("user {} at {}: {what}: {frame}", at.user, at.cursor));
        };
        match frame["type"].as_str().unwrap_or_default() {
            "delivery_ack" if frame["status"] == "sent" => {
                reaction.acked_seq = frame["seq"].as_u64();
                if let Some(seq) = frame["seq"].as_u64().filter(|_| is_crowds)
                    && let Err(what) = self.fill(seq)
                {
                    wrong(self, what);
                }
            }
            "ok" if is_crowds => {
                if let Some(seq) = frame["seq"].as_u64()
                    && let Err(what) = self.fill(seq)
                {
                    wrong(self, what);
                }
            }
            "behind" => {
                let listed = frame["conversations"].as_array().into_iter().flatten();
                for conversation in listed.into_iter().filter_map(|listed| listed["conversation_id"].as_str())
                {
                    let from_seq = if conversation == crowd { self.cursor + 1 } else { 1 };
                    // A hall has one conversation that can be behind; the bystanders' is too small.
                    reaction.answer = Some(
                        json!({"type": "sync", "conversation_id": conversation, "from_seq": from_seq, "id": "more"}),
                    );
                }
                (self.is_behind, self.is_lossy) = (true, true);
            }
            "closed" if frame["code"] == 1013 => reaction.is_away = true,
            "closed" | "nonsense" => wrong(self, "nothing that a good client is told"),
            "caught_up" => self.is_behind = false,
            "reset" if is_crowds => {
                let head = frame["head_seq"].as_u64().unwrap_or(0);
                if head < self.cursor {
                    wrong(self, "a reset to what it holds");
                }
                (self.cursor, self.reset_head) = (head, head);
                self.early = self.early.split_off(&(head + 1));
                self.advance();
            }
            "sync_batch" if is_crowds => {
                for (_, seq) in &said.events {
                    if let Err(what) = self.take(*seq, true) {
                        wrong(self, what);
                    }
                }
                if frame["has_more"] == true && frame["id"] == "more" {
                    let from_seq = frame["to_seq"].as_u64().unwrap_or(0) + 1;
                    reaction.answer = Some(
                        json!({"type": "sync", "conversation_id": crowd, "from_seq": from_seq, "id": "more"}),
                    );
                }
            }
            _ => {
                for (_, seq) in said.events.iter().filter(|(conversation, _)| conversation == crowd) {
                    if self.is_behind {
                        wrong(self, "live although it was told to sync");
                    } else if let Err(what) = self.take(*seq, false) {
                        wrong(self, what);
                    }
                }
            }
        }
        reaction
    }

    /// An event came, live or in a page.
    fn take(&mut self, seq: u64, is_paged: bool) -> Result<(), &'static str> {
        if is_paged && (self.own.contains(&seq) || seq <= self.reset_head) {
            return Ok(());
        }
        // Who holds nothing begins where they joined: whether that is right is judged at the end.
        if seq != self.cursor + 1 && !(self.cursor == 0 && self.heard.is_empty()) {
            return Err(if seq <= self.cursor { "a second time" } else { "some are skipped" });
        }
        self.cursor = seq;
        self.heard.push(seq);
        self.advance();
        Ok(())
    }

    /// An own event came as its answer.
    fn fill(&mut self, seq: u64) -> Result<(), &'static str> {
        if seq <= self.cursor {
            return Err("an ack behind what came after it");
        }
        self.own.insert(seq);
        self.early.insert(seq);
        self.advance();
        Ok(())
    }

    fn advance(&mut self) {
        while self.early.remove(&(self.cursor + 1)) {
            self.cursor += 1;
            self.heard.push(self.cursor);
        }
    }

    /// Holds what was heard against the stays in the crowd.
    pub(super) fn judge(
        &self,
        stays: &[(u64, Option<u64>)],
        head: u64,
        sees_all: bool,
    ) -> Result<(), String> {
        let stays: Vec<(u64, u64)> = stays.iter().map(|(from, to)| (*from, to.unwrap_or(head))).collect();
        let all: Vec<u64> = stays.iter().flat_map(|(from, to)| *from..=*to).collect();
        let last = all.last().copied().unwrap_or(0);
        let wrong = |what: &str| {
            Err(format!("user {} {what}: holds {:?} of {stays:?}", self.user, spans(&self.heard)))
        };
        if !self.is_lossy {
            return if self.heard == all { Ok(()) } else { wrong("was there all the time") };
        }
        if !self.heard.is_sorted_by(|one, next| one < next) {
            return wrong("took something twice");
        }
        let is_theirs = |seq: &u64| {
            (sees_all && *seq <= last) || stays.iter().any(|(from, to)| (from..=to).contains(&seq))
        };
        if !self.heard.iter().all(is_theirs) {
            return wrong("heard what was not for them");
        }
        if self.cursor.max(self.heard.last().copied().unwrap_or(0)) != last {
            return wrong("does not hold the end");
        }
        Ok(())
    }
}

/// Consecutive seqs as (first, last).
fn spans(seqs: &[u64]) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for seq in seqs {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == *seq => *last = *seq,
            _ => spans.push((*seq, *seq)),
        }
    }
    spans
}
