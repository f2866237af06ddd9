//! A user's devices: which connection of one stays, and what a revocation ends; driven by hand.

use carillon_protocol::frame::{self, Command, Findings, Wanted};
use carillon_protocol::reason::Code;
use carillon_router::outbox::LaneId;

use crate::hand::{ALICE, BOB, Hand, Heard, Model};

fn room() -> (Hand, LaneId, LaneId) {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let lanes = (hand.lane(1), hand.lane(2));
    hand.pass_ms(100_000);
    (hand, lanes.0, lanes.1)
}

fn replaced(hand: &mut Hand, lane: LaneId) -> Vec<u64> {
    let session = |heard| match heard {
        Heard::Replaced(replaced) => Some(replaced.session),
        _ => None,
    };
    hand.hear(lane).into_iter().filter_map(session).collect()
}

fn devices(hand: &mut Hand, lane: LaneId) -> Vec<(String, u64)> {
    hand.hear(lane);
    hand.find(lane, ALICE, Wanted::Devices);
    for _ in 0..3 {
        hand.settle();
        hand.pass_ms(100);
    }
    let heard = hand.hear(lane);
    let [Heard::Found(frame::Found { findings: Findings::Devices(devices), .. })] = &heard[..] else {
        panic!("{heard:?}")
    };
    devices.iter().map(|device| (device.device.clone(), device.last_seen_at_ms)).collect()
}

/// Protocol, 4507: of two connections of a device the one that identified first yields, whichever registers later.
#[test]
fn the_connection_that_identified_first_yields_however_late_it_registers() {
    let (mut hand, one, two) = room();
    let late = hand.registration(5, ALICE, "phone");
    hand.pass_ms(50);
    hand.register_device(two, 6, ALICE, "phone", false);
    hand.settle();
    hand.pass_ms(50);
    hand.say(one, &frame::Register { waited_ms: 100, ..late });
    hand.settle();
    assert_eq!(replaced(&mut hand, one), [5], "it identified before the other");
    assert_eq!(replaced(&mut hand, two), Vec::<u64>::new());
    // Both lose their lane and come back, the older one last, long after a restart would have forgotten both.
    for (waited_ms, expected) in [(200_000, vec![5]), (10, vec![])] {
        let again = frame::Register { waited_ms, again: true, ..hand.registration(5, ALICE, "phone") };
        hand.say(one, &again);
        hand.settle();
        assert_eq!(replaced(&mut hand, one), expected, "waited {waited_ms}");
    }
    assert_eq!(replaced(&mut hand, two), [6]);
}

/// FU3a: several devices of one user are online at once, and FU3b: each lane of theirs hears what one of them sent.
#[test]
fn fu3_devices_of_a_user_are_connected_at_once_and_all_hear() {
    let (mut hand, one, two) = room();
    hand.register_device(one, 5, ALICE, "phone", false);
    hand.register_device(two, 6, ALICE, "laptop", false);
    hand.register_device(two, 7, ALICE, "tablet", false);
    hand.settle();
    hand.send(one, 5, ALICE, "hello");
    hand.settle();
    assert_eq!(hand.delivers(one)[0].origin_session, 5);
    assert_eq!(hand.delivers(two).iter().map(|deliver| deliver.origin_session).collect::<Vec<_>>(), [0]);
}

/// Protocol: a revocation is told to every gateway shard, before it is acknowledged; tokens issued up to then are refused
/// when they register.
#[test]
fn a_revocation_is_told_to_every_shard_and_refuses_older_tokens() {
    let (mut hand, one, two) = room();
    hand.register_device(two, 6, ALICE, "phone", false);
    hand.settle();
    hand.hear(two);
    let issued_at_s = hand.wall_ms() / 1_000;
    hand.submit(one, 0, 7, ALICE, "", Command::Revoke { device: "phone".into() });
    hand.settle();
    let heard = hand.hear(one);
    let [.., Heard::Revoked(revoked), Heard::Accepted(accepted)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((revoked.user, &revoked.device[..], accepted.request), (ALICE, "phone", 7));
    assert!(matches!(&hand.hear(two)[..], [Heard::Revoked(_)]));
    for (issued_at_s, is_refused) in [(issued_at_s, true), (issued_at_s + 1, false)] {
        let register = frame::Register { issued_at_s, ..hand.registration(9, ALICE, "phone") };
        hand.say(one, &register);
        hand.settle();
        let heard = hand.hear(one);
        match &heard[..] {
            [Heard::Refused(refused)] if is_refused => {
                assert_eq!(Code::from_number(refused.code), Code::Unauthenticated);
                assert_eq!(refused.field, "device_id");
            }
            [Heard::Registered(_)] if !is_refused => {}
            _ => panic!("{heard:?}"),
        }
    }
    let register = frame::Register { issued_at_s, ..hand.registration(10, ALICE, "laptop") };
    hand.say(one, &register);
    hand.settle();
    assert!(matches!(hand.hear(one)[..], [Heard::Registered(_)]), "another device");
}

/// FU3c: the list of devices shows the connected ones as seen now, also one that the store never heard of.
#[test]
fn fu3c_connected_devices_are_seen_now() {
    let (mut hand, one, two) = room();
    assert_eq!(devices(&mut hand, one), []);
    hand.register_device(one, 5, ALICE, "phone", false);
    hand.register_device(two, 6, ALICE, "laptop", false);
    hand.settle();
    let began_ms = hand.wall_ms();
    let found = devices(&mut hand, one);
    assert_eq!(found.iter().map(|(device, _)| &device[..]).collect::<Vec<_>>(), ["laptop", "phone"]);
    assert!(found.iter().all(|(_, seen_ms)| *seen_ms >= began_ms));
    let before = hand.commits_count;
    devices(&mut hand, one);
    assert_eq!(hand.commits_count, before, "known now");
}
