//! How much a user may command, and a conversation take.

use carillon_protocol::frame::{self, Command};
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::Code;
use carillon_router::meters::{LimitedBy, Metric};
use carillon_router::outbox::LaneId;
use carillon_router::settings::LimitsSettings;

use crate::hand::{ALICE, BOB, CAROL, Hand, Heard, Model};

fn hand(limits: LimitsSettings) -> Hand {
    let mut hand = Hand::with(Model::with_room(&[ALICE, BOB]), |settings| settings.limits = limits);
    hand.settle();
    hand
}

/// Sends as many; returns how many were accepted, and how long the others were told to wait.
fn send(hand: &mut Hand, lane: LaneId, user: UserId, count: usize) -> (usize, Vec<u32>) {
    for _ in 0..count {
        hand.send(lane, user.0, user, "hello");
    }
    hand.settle();
    let (mut accepted, mut waits) = (0, Vec::new());
    for heard in hand.hear(lane) {
        match heard {
            Heard::Accepted(_) => accepted += 1,
            Heard::Refused(frame) => {
                assert_eq!(Code::from_number(frame.code), Code::RateLimited);
                waits.push(frame.retry_after_ms);
            }
            _ => {}
        }
    }
    (accepted, waits)
}

fn limited(hand: &Hand, by: LimitedBy) -> u64 {
    hand.count_at(Metric::RateLimited, by as usize)
}

/// RL1, FU4b: a user's rate holds over all gateways together; what is above it is refused with how long to wait, and
/// nobody else is.
#[test]
fn a_user_has_one_bucket_on_all_gateways() {
    let mut hand =
        hand(LimitsSettings { send_per_s: 20, send_burst: 64, conversation_per_s: 0, conversation_burst: 0 });
    let (one, two) = (hand.lane(1), hand.lane(2));
    assert_eq!(send(&mut hand, one, ALICE, 40), (40, vec![]));
    let (accepted, waits) = send(&mut hand, two, ALICE, 40);
    assert_eq!((accepted, waits.len(), limited(&hand, LimitedBy::User)), (24, 16, 16));
    assert!(waits.iter().all(|wait| *wait == 50), "{waits:?}");
    assert_eq!(send(&mut hand, two, BOB, 40).0, 40, "another user");
    hand.pass_ms(50);
    assert_eq!(send(&mut hand, one, ALICE, 2).0, 1, "who waited gets through");
    assert_eq!(hand.store.conversations.values().map(|log| log.head()).sum::<u64>(), 40 + 24 + 40 + 1);
}

/// RL1: a conversation has its own bucket, whoever sends; what it refuses is not counted against the user.
#[test]
fn a_conversation_has_its_own_bucket() {
    let mut hand =
        hand(LimitsSettings { send_per_s: 1, send_burst: 8, conversation_per_s: 10, conversation_burst: 10 });
    let lane = hand.lane(1);
    assert_eq!(send(&mut hand, lane, ALICE, 6).0, 6);
    let (accepted, waits) = send(&mut hand, lane, BOB, 8);
    assert_eq!((accepted, waits.len(), limited(&hand, LimitedBy::Conversation)), (4, 4, 4));
    assert!(waits.iter().all(|wait| *wait == 100), "{waits:?}");
    hand.pass_ms(400);
    assert_eq!(send(&mut hand, lane, BOB, 8).0, 4, "four of Bob's eight are left");
    assert_eq!(limited(&hand, LimitedBy::User), 4);
}

/// RL1, security, authorisation: how much is going on in a conversation is nothing that strangers hear of: they are refused as
/// where there is none.
#[test]
fn strangers_hear_nothing_of_a_conversations_rate() {
    let mut hand =
        hand(LimitsSettings { send_per_s: 0, send_burst: 0, conversation_per_s: 1, conversation_burst: 3 });
    let lane = hand.lane(1);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    hand.hear(lane);
    assert_eq!(send(&mut hand, lane, ALICE, 5).0, 3);
    for (user, code) in [(BOB, Code::RateLimited), (CAROL, Code::Forbidden)] {
        hand.send(lane, user.0, user, "hello");
        hand.settle();
        let refused = hand.hear(lane).into_iter().find_map(|heard| match heard {
            Heard::Refused(frame) => Some(Code::from_number(frame.code)),
            _ => None,
        });
        assert_eq!(refused, Some(code), "{user:?}");
    }
}

/// RL1: every durable command of a user counts; what gateways and administrators say does not.
#[test]
fn commands_that_are_no_messages_count_too() {
    let mut hand =
        hand(LimitsSettings { send_per_s: 1, send_burst: 3, conversation_per_s: 0, conversation_burst: 0 });
    let lane = hand.lane(1);
    let commands = [
        (Command::Provision { name: "alice".into() }, true),
        (Command::Change { conversation: crate::hand::ROOM, change: rename("one") }, true),
        (Command::Mute { conversation: crate::hand::ROOM, until_ms: 0 }, true),
        (Command::Profile { username: "alicia".into() }, true),
        (Command::Provision { name: "alice".into() }, true),
        (Command::Change { conversation: crate::hand::ROOM, change: rename("two") }, false),
        (Command::Revoke { device: "phone".into() }, false),
    ];
    for (number, (command, is_taken)) in (1..).zip(commands) {
        let name = format!("{command:?}");
        hand.submit(lane, 1, number, ALICE, &format!("{number}"), command);
        hand.settle();
        let refused = hand.hear(lane).iter().any(|heard| matches!(heard, Heard::Refused(_)));
        assert_eq!(refused, !is_taken, "{name}");
    }
}

fn rename(name: &str) -> frame::Change {
    frame::Change::Rename { group_name: name.to_owned() }
}
