//! Each promise broken on purpose: the oracle finds it, and calls it by its name. An honest run is found clean.

use std::sync::Arc;

use carillon_protocol::ids::{ConversationId, MessageId, Seq};

use super::{Conversation, Judge, Kind, Ledger, Roster, Seen, Told, Verdict};
use crate::content::{self, Mark};

const RUN: u32 = 7;
const ROOM: ConversationId = ConversationId(500);
const BASE_SEQ: Seq = 1;

/// Three users: 100 and 101 are members of the room, 102 is not. Clients 0 and 1 are one thread's, 2 another's.
struct World {
    roster: Arc<Roster>,
    one: Ledger,
    two: Ledger,
}

fn text(user: u64, n: u64) -> String {
    let mut text = String::new();
    content::write(&Mark { run: RUN, user, n, intended_ns: n }, 100, &mut text);
    text
}

/// What the history says at a seq: sender and content.
type Line = (Seq, u64, u64, String);

fn line(seq: Seq, user: u64, n: u64) -> Line {
    (seq, seq.wrapping_add(9_000), user, text(user, n))
}

impl World {
    fn new() -> World {
        let room = Conversation { id: ROOM, base_seq: BASE_SEQ, members: vec![0, 1] };
        let roster = Arc::new(Roster::new(RUN, vec![100, 101, 102], vec![room]));
        let (one, two) = (Ledger::new(roster.clone(), 0, 2), Ledger::new(roster.clone(), 2, 1));
        World { roster, one, two }
    }

    fn send(&mut self, client: u32) -> u64 {
        let n = self.one.next_n(client);
        let content = text(self.roster.user(client), n);
        self.one.sent(client, 0, &content, None);
        n
    }

    fn ack(&mut self, client: u32, n: u64, seq: Seq) {
        self.one.acked(client, n, seq, MessageId(seq.wrapping_add(9_000)), false, 0);
    }

    fn deliver(&mut self, client: u32, (seq, message, user, content): &Line) -> Seen {
        let digest = content::event_digest(*message, *user, content::digest(content, None));
        let ledger = if client < 2 { &mut self.one } else { &mut self.two };
        ledger.delivered(client, ROOM, *seq, *user, digest, content::read(content))
    }

    /// Client 0 sends two, client 1 one; all acked, all delivered.
    fn honest() -> (World, Vec<Line>) {
        let mut world = World::new();
        let history = vec![line(2, 100, 0), line(3, 101, 0), line(4, 100, 1)];
        world.send(0);
        world.send(1);
        world.send(0);
        world.ack(0, 0, 2);
        world.ack(1, 0, 3);
        world.deliver(1, &history[0]);
        world.deliver(0, &history[1]);
        world.ack(0, 1, 4);
        world.deliver(1, &history[2]);
        (world, history)
    }

    fn judge(self, history: &[Line]) -> Verdict {
        let mut judge = Judge::new(self.roster, vec![self.two, self.one]);
        for (seq, message, sender, content) in history {
            judge.told(0, &Told { seq: *seq, message: *message, sender: *sender, content, media_url: None });
        }
        judge.finish()
    }
}

/// The kinds that were found, each once.
#[track_caller]
fn check(verdict: &Verdict, kinds: &[Kind]) {
    let found: Vec<Kind> =
        Kind::ALL.iter().copied().filter(|kind| verdict.violations.count(*kind) > 0).collect();
    assert_eq!(found, kinds, "{:#?}", verdict.violations.examples());
}

#[test]
fn an_honest_run_is_clean() {
    let (world, history) = World::honest();
    let verdict = world.judge(&history);
    check(&verdict, &[]);
    assert!(verdict.is_clean());
    let tally = verdict.tally;
    assert_eq!((tally.sends, tally.acked, tally.deliveries, verdict.history_messages), (3, 3, 3, 3));
}

#[test]
fn g1_acked_and_not_in_the_history_is_lost() {
    let (world, history) = World::honest();
    check(&world.judge(&history[..2]), &[Kind::Lost]);
}

#[test]
fn g7_acked_and_not_delivered_to_a_connected_member_is_lost() {
    let (mut world, mut history) = World::honest();
    world.send(0);
    world.ack(0, 2, 5);
    history.push(line(5, 100, 2));
    let mut absent = World::honest().0;
    absent.send(0);
    absent.ack(0, 2, 5);
    absent.one.connected(1, false);
    check(&world.judge(&history), &[Kind::Lost]);
    // Nobody can deliver to a client that is not there.
    check(&absent.judge(&history), &[]);
}

#[test]
fn g2_one_send_at_two_seqs_is_duplicated() {
    let (mut world, mut history) = World::honest();
    history.push((5, 9_005, 101, text(101, 0)));
    world.deliver(0, &history[3]);
    world.deliver(1, &history[3]);
    check(&world.judge(&history), &[Kind::Duplicated]);

    let (mut world, history) = World::honest();
    world.one.acked(0, 0, 3, MessageId(9_003), true, 0);
    check(&world.judge(&history), &[Kind::Duplicated]);
}

#[test]
fn g6_one_event_twice_on_a_connection_is_duplicated() {
    let (mut world, history) = World::honest();
    world.deliver(1, &history[0]);
    check(&world.judge(&history), &[Kind::Duplicated]);
    // What this connection sent is its ack, and does not come as an event as well.
    let (mut world, history) = World::honest();
    world.deliver(0, &history[2]);
    check(&world.judge(&history), &[Kind::Duplicated]);
}

#[test]
fn g2_a_retry_that_was_committed_before_comes_as_an_event_too() {
    let mut world = World::new();
    let history = [line(2, 100, 0)];
    world.send(0);
    world.one.connected(0, true);
    world.one.acked(0, 0, 2, MessageId(9_002), true, 0);
    world.deliver(0, &history[0]);
    world.deliver(1, &history[0]);
    check(&world.judge(&history), &[]);
}

#[test]
fn g9_sends_of_one_client_out_of_order_are_reordered() {
    let mut world = World::new();
    let history = [line(2, 100, 1), line(3, 100, 0)];
    world.send(0);
    world.send(0);
    world.ack(0, 1, 2);
    world.ack(0, 0, 3);
    world.deliver(1, &history[0]);
    world.deliver(1, &history[1]);
    check(&world.judge(&history), &[Kind::Reordered]);
}

#[test]
fn g9_a_send_that_was_refused_retryably_may_be_overtaken() {
    let mut world = World::new();
    let history = [line(2, 100, 1), line(3, 100, 0)];
    world.send(0);
    world.send(0);
    world.one.deferred(0, 0);
    world.ack(0, 1, 2);
    world.ack(0, 0, 3);
    world.deliver(1, &history[0]);
    world.deliver(1, &history[1]);
    check(&world.judge(&history), &[]);
}

#[test]
fn g8_a_seq_below_one_that_was_known_is_reordered() {
    let (mut world, mut history) = World::honest();
    world.send(0);
    world.one.acked(0, 2, 5, MessageId(9_005), false, 5);
    history.push(line(5, 100, 2));
    world.deliver(1, &history[3]);
    check(&world.judge(&history), &[Kind::Reordered]);
}

#[test]
fn g6_an_event_after_a_higher_one_is_reordered_and_a_gap() {
    let mut world = World::new();
    let history = [line(2, 100, 0), line(3, 100, 1)];
    world.send(0);
    world.send(0);
    world.ack(0, 0, 2);
    world.ack(0, 1, 3);
    world.deliver(1, &history[1]);
    world.deliver(1, &history[0]);
    check(&world.judge(&history), &[Kind::Reordered, Kind::Gap]);
}

#[test]
fn g6_a_skip_is_a_gap_and_what_it_skips_is_lost() {
    let mut world = World::new();
    let history = [line(2, 100, 0), line(3, 100, 1)];
    world.send(0);
    world.send(0);
    world.ack(0, 0, 2);
    world.ack(0, 1, 3);
    world.deliver(1, &history[1]);
    check(&world.judge(&history), &[Kind::Lost, Kind::Gap]);
}

#[test]
fn g6_a_skip_is_legal_after_reset_and_has_to_be_filled_after_behind() {
    let mut world = World::new();
    let history = [line(2, 100, 0), line(3, 100, 1)];
    world.send(0);
    world.send(0);
    world.ack(0, 0, 2);
    world.ack(0, 1, 3);
    world.one.reset(1, ROOM, 2);
    assert_eq!(world.deliver(1, &history[1]), Seen::Taken { conversation: 0 });
    let verdict = world.judge(&history);
    check(&verdict, &[]);
    assert_eq!(verdict.tally.resets, 1);

    let mut world = World::new();
    world.send(0);
    world.send(0);
    world.ack(0, 0, 2);
    world.ack(0, 1, 3);
    world.one.behind(1);
    assert_eq!(world.deliver(1, &history[1]), Seen::MustSync { from_seq: 2 });
    check(&world.judge(&history), &[Kind::Lost]);
}

#[test]
fn g3_a_hole_in_the_history_is_a_gap() {
    let mut world = World::new();
    world.send(0);
    let history = [line(3, 100, 0)];
    check(&world.judge(&history), &[Kind::Gap]);
    // However large the server says it is.
    let mut world = World::new();
    world.send(0);
    let history = [line(Seq::MAX - 1, 100, 0)];
    check(&world.judge(&history), &[Kind::Gap]);
    let mut world = World::new();
    world.send(0);
    world.ack(0, 0, Seq::MAX);
    check(&world.judge(&[]), &[Kind::Lost, Kind::Gap]);
}

#[test]
fn g5_what_was_definitely_refused_and_is_there_is_a_phantom() {
    let mut world = World::new();
    let history = [line(2, 100, 0)];
    world.send(0);
    world.one.refused(0, 0);
    check(&world.judge(&history), &[Kind::Phantom]);
}

#[test]
fn what_nobody_sent_is_a_phantom() {
    let mut world = World::new();
    world.send(0);
    // The sender's next, a stranger's, somebody's words, and an ack for nothing.
    for history in [[line(2, 100, 1)], [line(2, 999, 0)], [(2, 9_002, 100, "hello".to_owned())]] {
        check(&World::new().judge(&history), &[Kind::Phantom]);
    }
    world.ack(0, 5, 2);
    check(&world.judge(&[line(2, 100, 0)]), &[Kind::Phantom]);
    // Delivered, and gone when asked for.
    let mut world = World::new();
    world.send(0);
    world.deliver(1, &line(2, 100, 0));
    check(&world.judge(&[]), &[Kind::Phantom]);
}

#[test]
fn g11_delivered_to_a_non_member_is_foreign() {
    let (mut world, history) = World::honest();
    world.deliver(2, &history[0]);
    check(&world.judge(&history), &[Kind::Foreign]);
}

#[test]
fn g4_two_contents_at_one_seq_are_mutated() {
    // Between two observers.
    let (mut world, mut history) = World::honest();
    world.send(0);
    history.push(line(5, 100, 2));
    world.ack(0, 2, 5);
    let mut other = history[3].clone();
    other.3.push('x');
    world.deliver(1, &other);
    check(&world.judge(&history), &[Kind::Mutated]);
    // Between what was sent and what the history says.
    let mut world = World::new();
    world.send(0);
    let mut history = [line(2, 100, 0)];
    history[0].3.push('x');
    check(&world.judge(&history), &[Kind::Mutated]);
    // Under another message id.
    let (world, mut history) = World::honest();
    history[1].1 += 1;
    check(&world.judge(&history), &[Kind::Mutated]);
}

#[test]
fn an_unanswered_send_may_be_there_or_not() {
    for history in [vec![], vec![line(2, 100, 0)]] {
        let mut world = World::new();
        world.send(0);
        check(&world.judge(&history), &[]);
    }
}

#[test]
fn what_is_from_before_the_run_or_from_elsewhere_is_not_looked_at() {
    let mut world = World::new();
    assert_eq!(world.deliver(1, &line(1, 100, 0)), Seen::Unrelated);
    let elsewhere = world.one.delivered(1, ConversationId(8), 77, 5, 1, content::read("hello"));
    assert_eq!(elsewhere, Seen::Unrelated);
    check(&world.judge(&[]), &[]);
}

#[test]
fn without_histories_a_missing_delivery_is_lost_and_nothing_else_is_asked() {
    let (mut world, _) = World::honest();
    let judge =
        |world: World| Judge::new(world.roster, vec![world.two, world.one]).finish_without_histories();
    check(&judge(World::honest().0), &[]);
    world.send(0);
    world.ack(0, 2, 5);
    check(&judge(world), &[Kind::Lost]);
}

/// The last of all threads counts, and only messages that everybody has.
#[test]
fn a_message_to_a_group_is_as_late_as_its_last_copy() {
    let members = vec![0, 1, 2, 3];
    let room = Conversation { id: ROOM, base_seq: BASE_SEQ, members };
    let roster = Arc::new(Roster::new(RUN, vec![100, 101, 102, 103], vec![room]));
    let (mut one, mut two) = (Ledger::new(roster.clone(), 0, 2), Ledger::new(roster, 2, 2));
    let ms = 1_000_000;
    // Client 0 says both: everybody has the first, client 3 lacks the second.
    one.arrived(0, 2, 10 * ms, 12 * ms);
    two.arrived(0, 2, 10 * ms, 40 * ms);
    two.arrived(0, 2, 10 * ms, 15 * ms);
    one.arrived(0, 3, 20 * ms, 21 * ms);
    two.arrived(0, 3, 20 * ms, 22 * ms);
    let ledgers = [one, two];
    let summary = super::to_last(&ledgers, 0).summary();
    assert_eq!((summary.count, summary.max_us / 1_000), (1, 30), "{summary:?}");
    assert_eq!(super::to_last(&ledgers, 11 * ms).summary().count, 0, "before it was measured");
}
