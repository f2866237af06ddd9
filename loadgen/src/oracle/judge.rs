//! The end of the trial: all ledgers beside the histories.

use std::collections::BTreeMap;
use std::sync::Arc;

use carillon_protocol::ids::{SEQ_MAX, Seq};

use super::ledger::{Ledger, Row, State};
use super::{Kind, Roster, Verdict};
use crate::content;

/// One message of a history, as the server tells it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Its place.
    pub seq: Seq,
    /// Its id.
    pub message: u64,
    /// Its sender's user id.
    pub sender: u64,
    /// What it says.
    pub content: &'a str,
    /// Where its media lie.
    pub media_url: Option<&'a str>,
}

/// Judges. Tell it the history of every conversation, in seq order, from the first seq after its base; then
/// [`Judge::finish`].
#[derive(Debug)]
pub struct Judge {
    roster: Arc<Roster>,
    ledgers: Vec<Ledger>,
    /// Per client, per send: the seq it stands at in the history; 0 for nowhere.
    places: Vec<Vec<Seq>>,
    /// Per conversation.
    readings: Vec<Reading>,
    verdict: Verdict,
}

/// How far one history was read.
#[derive(Debug, Default)]
struct Reading {
    /// Messages and holes so far: the next expected is `base_seq + 1 + events`.
    events: u64,
    /// By place; 0 in a hole. Ends where no ledger has anything to compare.
    digests: Vec<u64>,
    /// Per sender, the last of its sends.
    last_n: BTreeMap<u32, u64>,
}

impl Judge {
    /// A judge of these ledgers.
    #[must_use]
    pub fn new(roster: Arc<Roster>, mut ledgers: Vec<Ledger>) -> Judge {
        ledgers.sort_by_key(|ledger| ledger.first_client);
        let places = ledgers.iter().flat_map(|ledger| &ledger.rows).map(|rows| vec![0; rows.len()]).collect();
        let mut verdict = Verdict::default();
        for ledger in &mut ledgers {
            verdict.violations.merge(std::mem::take(&mut ledger.violations));
            verdict.tally += ledger.tally;
        }
        let readings = roster.conversations().iter().map(|_| Reading::default()).collect();
        Judge { roster, ledgers, places, readings, verdict }
    }

    fn row(&self, client: u32, n: u64) -> Option<Row> {
        let ledger = self.ledgers.iter().rev().find(|ledger| ledger.first_client <= client)?;
        let rows = ledger.rows.get((client - ledger.first_client) as usize)?;
        rows.get(usize::try_from(n).ok()?).copied()
    }

    /// The next message of a conversation's history.
    pub fn told(&mut self, number: u32, told: &Told<'_>) {
        let Some(conversation) = self.roster.conversations().get(number as usize) else { return };
        let (id, base_seq) = (conversation.id, conversation.base_seq);
        let Some(reading) = self.readings.get_mut(number as usize) else { return };
        self.verdict.history_messages += 1;
        // No larger one is a seq; it is then the gap that it makes.
        let seq = told.seq.min(SEQ_MAX);
        let expected_seq = base_seq + 1 + reading.events;
        let content_digest = content::digest(told.content, told.media_url);
        let digest = content::event_digest(told.message, told.sender, content_digest);
        if seq < expected_seq {
            let words = format_args!("the history of {id} holds {seq} twice or after a higher one");
            self.verdict.violations.add(Kind::Duplicated, words);
            return;
        }
        if seq > expected_seq {
            let missing = seq - expected_seq;
            let words = format_args!("the history of {id} lacks {missing} before {seq}");
            self.verdict.violations.add(Kind::Gap, words);
        }
        let index = seq - base_seq - 1;
        reading.events = index + 1;
        let seen = self.ledgers.iter().filter_map(|ledger| ledger.digests.get(number as usize)).map(Vec::len);
        if index < seen.max().unwrap_or(0) as u64 {
            reading.digests.resize(index as usize, 0);
            reading.digests.push(digest);
        }

        let mark = content::read(told.content).filter(|mark| mark.run == self.roster.run());
        let found = mark.and_then(|mark| {
            let client = self.roster.client(mark.user)?;
            Some((client, mark.n, self.row(client, mark.n)?))
        });
        let Some((client, n, row)) = found.filter(|(.., row)| row.conversation == number) else {
            self.verdict.violations.add(Kind::Phantom, format_args!("{seq} of {id} was never sent there"));
            return;
        };
        if row.digest != content_digest || told.sender != self.roster.user(client) {
            let words = format_args!("{seq} of {id} is not what client {client} sent as {n}");
            self.verdict.violations.add(Kind::Mutated, words);
        }
        if row.state == State::Refused {
            let words = format_args!("{seq} of {id}, send {n} of client {client}, was definitely refused");
            self.verdict.violations.add(Kind::Phantom, words);
        }
        self.place(number, client, n, &row, seq);
        if let Some(reading) = self.readings.get_mut(number as usize) {
            let last_n = reading.last_n.entry(client).or_insert(n);
            if n < *last_n && !row.may_be_overtaken {
                let words = format_args!("{seq} of {id}: client {client} sent {n} before {}", *last_n);
                self.verdict.violations.add(Kind::Reordered, words);
            }
            *last_n = n.max(*last_n);
        }
    }

    fn place(&mut self, number: u32, client: u32, n: u64, row: &Row, seq: Seq) {
        let id = self.roster.conversations()[number as usize].id;
        let first_client = self.ledgers.first().map_or(0, |ledger| ledger.first_client);
        let places = self.places.get_mut((client - first_client) as usize);
        let Some(place) = places.and_then(|places| places.get_mut(n as usize)) else { return };
        if *place != 0 {
            let words = format_args!("send {n} of client {client} stands at {} and {seq} of {id}", *place);
            self.verdict.violations.add(Kind::Duplicated, words);
        } else if row.state == State::Acked && row.seq != seq {
            let words =
                format_args!("send {n} of client {client}, acked at {}, stands at {seq} of {id}", row.seq);
            self.verdict.violations.add(Kind::Duplicated, words);
        }
        *place = seq;
    }

    /// The verdict, after every history was told.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        self.acked();
        let acked = self.acked_seqs();
        self.observers(&acked);
        self.deliveries(&acked);
        self.verdict
    }

    /// The verdict on a server that keeps no history: what was acknowledged has to have reached every member.
    #[must_use]
    pub fn finish_without_histories(mut self) -> Verdict {
        let acked = self.acked_seqs();
        self.deliveries(&acked);
        self.verdict
    }

    /// The verdict without whole histories: what was seen on the way, and nothing about what is missing.
    #[must_use]
    pub fn abandon(self) -> Verdict {
        self.verdict
    }

    /// Acked sends have to be in the history.
    fn acked(&mut self) {
        let rows = self.ledgers.iter().flat_map(|ledger| {
            (ledger.first_client..).zip(&ledger.rows).map(|(client, rows)| (client, rows.as_slice()))
        });
        for ((client, rows), places) in rows.zip(&self.places) {
            for ((n, row), _) in rows.iter().enumerate().zip(places).filter(|(_, place)| **place == 0) {
                if row.state == State::Acked {
                    let id = self.roster.conversations()[row.conversation as usize].id;
                    let seq = row.seq;
                    let words =
                        format_args!("{seq} of {id}, send {n} of client {client}, was acked and is gone");
                    self.verdict.violations.add(Kind::Lost, words);
                }
            }
        }
    }

    /// Per conversation, the acked seqs, ascending.
    fn acked_seqs(&self) -> Vec<Vec<Seq>> {
        let mut acked = vec![Vec::new(); self.roster.conversations().len()];
        let rows = self.ledgers.iter().flat_map(|ledger| &ledger.rows).flatten();
        for row in rows.filter(|row| row.state == State::Acked) {
            if let Some(seqs) = acked.get_mut(row.conversation as usize) {
                seqs.push(row.seq);
            }
        }
        for seqs in &mut acked {
            seqs.sort_unstable();
        }
        acked
    }

    /// What was seen has to be what the history says.
    fn observers(&mut self, acked: &[Vec<Seq>]) {
        for ledger in &self.ledgers {
            let numbers = self.roster.conversations().iter().zip(&self.readings).zip(acked);
            for (((conversation, reading), acked), seen) in numbers.zip(&ledger.digests) {
                for (index, digest) in seen.iter().enumerate().filter(|(_, digest)| **digest != 0) {
                    let seq = conversation.base_seq + 1 + index as u64;
                    let told = reading.digests.get(index).copied().unwrap_or(0);
                    let id = conversation.id;
                    if told == *digest {
                        continue;
                    }
                    if told != 0 {
                        let words = format_args!("{seq} of {id} was seen otherwise than the history has it");
                        self.verdict.violations.add(Kind::Mutated, words);
                    } else if acked.binary_search(&seq).is_err() {
                        let words = format_args!("{seq} of {id} was delivered, and is not in the history");
                        self.verdict.violations.add(Kind::Phantom, words);
                    }
                }
            }
        }
    }

    /// What was acked has to be with every connected member (G7).
    fn deliveries(&mut self, acked: &[Vec<Seq>]) {
        for ledger in &self.ledgers {
            let clients = (ledger.first_client..).zip(&ledger.lines).zip(&ledger.is_connected);
            for ((client, lines), _) in clients.filter(|(_, is_connected)| **is_connected) {
                for (number, line) in self.roster.memberships(client).iter().zip(lines) {
                    let seqs = acked.get(*number as usize).map_or(&[] as &[Seq], Vec::as_slice);
                    let id = self.roster.conversations()[*number as usize].id;
                    for seq in seqs.iter().filter(|seq| line.misses(**seq)) {
                        let words = format_args!("{seq} of {id} was acked and never reached client {client}");
                        self.verdict.violations.add(Kind::Lost, words);
                    }
                }
            }
        }
    }
}
