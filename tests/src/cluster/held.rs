//! How long writes were held up, from the generator's journal and what happened when.
//!
//! A *line* is what one client says in one conversation. A message is held up when it is not acknowledged
//! [`HELD_NS_MIN`] after it was sent, or after what happened if it was under way then; it is the last happening's before
//! it should have been acknowledged. Of each line that was held up there is the time from that happening until the first
//! ack of such a message, and the longest that one message waited: what is planned may hold up a line later than it
//! begins.

use std::collections::BTreeMap;

use carillon_node::clock::Clock;

/// Longer than anything takes while all is well, on a machine that is shared.
pub(super) const HELD_NS_MIN: u64 = 250_000_000;

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) kind: String,
    pub(super) at_ns: u64,
}

impl Happened {
    pub(super) fn now(kind: impl Into<String>) -> Happened {
        Happened { kind: kind.into(), at_ns: Clock.now_ns() }
    }
}

/// What something that happened did to writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kind: String,
    /// Lines on which something was said or under way.
    pub(super) lines: usize,
    /// The lines that were held up.
    pub(super) held: Vec<Wait>,
}

/// How long a line was held up, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// From what happened to the first ack.
    pub(super) until_ns: u64,
    /// The longest that one message waited since.
    pub(super) longest_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    line: (u32, u32),
    sent_ns: u64,
    acked_ns: Option<u64>,
}

/// A round's journal.
#[derive(Debug, Default)]
pub(super) struct Journal {
    messages: BTreeMap<(u32, u64), Message>,
    acked: Vec<(u64, u64)>,
}

impl Journal {
    /// Reads one; lines that are not about sends and acks are passed over.
    pub(super) fn read(text: &str) -> Journal {
        let mut journal = Journal::default();
        for line in text.lines() {
            journal.line(line);
        }
        journal
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let at_ns = words.next()?.parse().ok()?;
        let kind = words.next()?;
        let client = words.next()?.parse().ok()?;
        let n = words.next()?.parse().ok()?;
        match kind {
            "sent" => {
                let line = (client, words.next()?.parse().ok()?);
                self.messages.insert((client, n), Message { line, sent_ns: at_ns, acked_ns: None });
            }
            "acked" => {
                let seq = words.next()?.parse().ok()?;
                self.acked.push((words.next()?.parse().ok()?, seq));
                self.messages.get_mut(&(client, n))?.acked_ns.get_or_insert(at_ns);
            }
            _ => {}
        }
        Some(())
    }

    /// Messages that were acknowledged, by id, and at which seq.
    pub(super) fn acked(&self) -> impl Iterator<Item = (u64, u64)> {
        self.acked.iter().copied()
    }

    /// What each of these, in their order, did to writes.
    pub(super) fn held(&self, happened: &[Happened]) -> Vec<Held> {
        let mut lines: Vec<BTreeMap<(u32, u32), Option<Wait>>> = vec![BTreeMap::new(); happened.len()];
        for message in self.messages.values() {
            let due_ns = message.sent_ns + HELD_NS_MIN;
            let Some(index) = happened.iter().rposition(|what| what.at_ns <= due_ns) else { continue };
            let at_ns = happened[index].at_ns;
            // What was acknowledged before is not concerned; nor is, for long, what never is: the oracle says that.
            let Some(acked_ns) = message.acked_ns.filter(|acked_ns| *acked_ns >= at_ns) else { continue };
            let held = lines[index].entry(message.line).or_default();
            let (until_ns, longest_ns) = (acked_ns - at_ns, acked_ns - message.sent_ns.max(at_ns));
            if longest_ns > HELD_NS_MIN {
                let before = held.unwrap_or(Wait { until_ns, longest_ns });
                *held = Some(Wait {
                    until_ns: before.until_ns.min(until_ns),
                    longest_ns: before.longest_ns.max(longest_ns),
                });
            }
        }
        let held = |(what, lines): (&Happened, BTreeMap<_, Option<Wait>>)| Held {
            kind: what.kind.clone(),
            lines: lines.len(),
            held: lines.into_values().flatten().collect(),
        };
        happened.iter().zip(lines).map(held).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn held(journal: &[(u64, &str)], happened: &[(u64, &str)]) -> Vec<Held> {
        let lines: Vec<String> = journal.iter().map(|(ms, words)| format!("{} {words}", ms * MS)).collect();
        let happened: Vec<Happened> =
            happened.iter().map(|(ms, kind)| Happened { kind: (*kind).to_owned(), at_ns: ms * MS }).collect();
        Journal::read(&lines.join("\n")).held(&happened)
    }

    fn expect(kind: &str, lines: usize, held_ms: &[(u64, u64)]) -> Held {
        let wait = |(until, longest): &(u64, u64)| Wait { until_ns: until * MS, longest_ns: longest * MS };
        Held { kind: kind.to_owned(), lines, held: held_ms.iter().map(wait).collect() }
    }

    #[test]
    fn a_line_is_held_up_until_its_first_ack_and_others_are_not() {
        let journal = [
            (900, "sent 0 1 7"),
            (910, "acked 0 1 2 501 0"),
            (990, "sent 0 2 7"),
            (995, "sent 1 1 8"),
            (1_004, "acked 1 1 2 502 0"),
            (1_500, "sent 0 3 7"),
            (3_000, "acked 0 2 3 503 1"),
            (3_100, "acked 0 3 4 504 0"),
        ];
        assert_eq!(held(&journal, &[(1_000, "killed")]), [expect("killed", 2, &[(2_000, 2_000)])]);
    }

    #[test]
    fn what_waits_already_is_not_held_up_by_what_happens_then() {
        let journal = [
            (990, "sent 0 1 7"),
            (3_900, "sent 1 1 7"),
            (4_500, "acked 0 1 2 501 0"),
            (4_510, "acked 1 1 3 502 0"),
            (4_600, "sent 0 2 7"),
            (4_610, "acked 0 2 4 503 0"),
        ];
        let happened = [(1_000, "killed"), (4_000, "back")];
        assert_eq!(
            held(&journal, &happened),
            [expect("killed", 1, &[(3_500, 3_500)]), expect("back", 2, &[(510, 510)]),]
        );
    }

    /// A router that joins is given things a while later: writes wait for less than has passed since it joined.
    #[test]
    fn what_happens_may_hold_up_lines_later() {
        let journal = [
            (1_700, "sent 0 1 7"),
            (1_800, "sent 0 2 7"),
            (2_000, "acked 0 1 2 501 0"),
            (2_100, "acked 0 2 3 502 0"),
        ];
        assert_eq!(held(&journal, &[(1_000, "joins")]), [expect("joins", 1, &[(1_000, 300)])]);
    }

    #[test]
    fn what_is_not_under_way_is_nobodys() {
        let journal = [(900, "sent 0 1 7"), (910, "acked 0 1 2 501 0"), (2_000, "refused 0 1 busy")];
        assert_eq!(held(&journal, &[(1_000, "killed")]), [expect("killed", 0, &[])]);
    }
}
