//! Link lanes inside a process: frames come out as they went in (the order that G6 and G9 stand on), the
//! memory of a lane is bounded (G13), and nobody sleeps through a frame, through space or through a close.

use std::collections::VecDeque;
use std::time::Duration;

use crate::support::{Count, Prng, frame, number};
use carillon_link::doorbell::Doorbell;
use carillon_link::ring::{self, SendError};
use carillon_link::{Mailbox, Peer, local};
use carillon_protocol::limits::LINK_FRAME_BYTES_MAX;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Send { archive_bytes: usize, padded: bool },
    Receive { frames_max: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (8_usize..300, any::<bool>())
            .prop_map(|(archive_bytes, padded)| Step::Send { archive_bytes, padded }),
        (0_usize..6).prop_map(|frames_max| Step::Receive { frames_max }),
    ]
}

proptest! {
    /// G6, G9: a lane is a queue, whatever the sizes, across every wrap; proptest prints the failing case.
    #[test]
    fn g6_a_lane_is_a_queue(
        bytes in 312_usize..1_000,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let (wake_a, wake_b) = (Count::new(), Count::new());
        let (mut a, mut b) = ring::pair(bytes, wake_a.clone(), wake_b);
        let mut model = VecDeque::new();
        let mut next = 0;
        let mut full = false;
        for step in steps {
            match step {
                Step::Send { archive_bytes, padded } => {
                    let mut bytes = frame(next, archive_bytes);
                    if !padded {
                        bytes.truncate(8 + archive_bytes);
                    }
                    match a.send(&bytes) {
                        Ok(()) => {
                            model.push_back(next);
                            next += 1;
                            full = false;
                        }
                        Err(SendError::Full) => {
                            prop_assert!(a.queued_bytes() > 0, "an empty lane takes every legal frame");
                            full = true;
                            wake_a.take();
                        }
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                }
                Step::Receive { frames_max } => {
                    let waiting = model.len();
                    let check = |frame: &[u8]| assert_eq!(Some(number(frame)), model.pop_front());
                    let received = b.receive(frames_max, check);
                    prop_assert_eq!(received.frames, waiting.min(frames_max));
                    // Zeros at the end of the ring may be left behind: `more` may promise too much, never too
                    // little.
                    prop_assert!(received.more || model.is_empty());
                    if full && b.waiting_bytes() == 0 {
                        prop_assert!(wake_a.take() > 0, "the waiting sender is woken");
                        full = false;
                    }
                }
            }
        }
        // What was sent before the close still comes, and only then the close.
        drop(a);
        while !model.is_empty() {
            let received = b.receive(3, |frame| assert_eq!(Some(number(frame)), model.pop_front()));
            prop_assert!(received.frames > 0);
            prop_assert!(model.is_empty() || !received.closed);
        }
        prop_assert!(b.receive(1, |_| ()).closed);
        prop_assert_eq!(b.send(&frame(0, 8)), Err(SendError::Closed));
    }
}

/// G6, G13: two threads, both ways at once, both sleeping on their bells whenever they can do nothing. A lost
/// wake-up ends in the time-out.
#[test]
fn g6_two_threads_lose_nothing_and_never_sleep_for_ever() {
    let seed = 0x5eed_0001;
    let frames = 100_000;
    println!("seed {seed:#x}: cargo test -p carillon-link --test link two_threads");
    let (bell_a, bell_b) = (Doorbell::new().unwrap(), Doorbell::new().unwrap());
    let (a, b) = ring::pair(2_048, bell_a.clone(), bell_b.clone());
    let run = |mut end: ring::LaneEnd, bell: &Doorbell, mut prng: Prng| {
        let (mut sent, mut received) = (0, 0);
        let mut held = frame(0, 8);
        while sent < frames || received < frames {
            bell.drain();
            loop {
                let before = (sent, received);
                for _ in 0..prng.below(20) {
                    if sent == frames || end.send(&held).is_err() {
                        break;
                    }
                    sent += 1;
                    held = frame(sent, prng.below(400));
                }
                end.flush();
                let batch = end.receive(1 + prng.below(20), |frame| {
                    assert_eq!(number(frame), received);
                    received += 1;
                });
                assert!(!batch.closed, "the other thread gave up");
                // A sender that drew no turn has not met a full ring: it may not sleep.
                if before == (sent, received) && !batch.more && (sent == frames || !end.has_space(held.len()))
                {
                    break;
                }
            }
            if sent < frames || received < frames {
                assert!(
                    bell.wait(Some(Duration::from_secs(5))).unwrap(),
                    "woken at {sent} sent, {received} received"
                );
            }
        }
        // The lane stays until the other side has received everything.
        end
    };
    let run = &run;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || run(a, &bell_a, Prng(seed)));
        let b = run(b, &bell_b, Prng(seed + 1));
        drop((other.join().unwrap(), b));
    });
}

/// G13: a full lane takes nothing more, tells its sender when a good part is free, and tells it once.
#[test]
fn g13_a_full_lane_refuses_and_wakes_its_sender_once() {
    let (wake_a, wake_b) = (Count::new(), Count::new());
    let (mut a, mut b) = ring::pair(1_600, wake_a.clone(), wake_b.clone());
    let sixteen = frame(7, 8);
    let mut sent = 0;
    while a.send(&sixteen).is_ok() {
        sent += 1;
    }
    assert_eq!((sent, a.queued_bytes()), (100, 1_600));
    assert!(!a.has_space(16));
    a.flush();
    a.flush();
    assert_eq!((wake_a.take(), wake_b.take()), (0, 1), "one wake for the batch");
    assert_eq!(b.receive(10, |_| ()).frames, 10);
    assert_eq!(wake_a.take(), 0, "a tenth of the ring is no reason to wake");
    b.receive(30, |_| ());
    assert_eq!(wake_a.take(), 1);
    b.receive(30, |_| ());
    assert_eq!(wake_a.take(), 0, "it knows");
    assert!(a.has_space(16));
}

/// A frame as long as the ring passes wherever the ring stands; a longer one never does, and is told apart
/// from a full lane.
#[test]
fn frames_up_to_the_size_of_the_ring_pass() {
    let (mut a, mut b) = ring::pair(800, Count::new(), Count::new());
    assert_eq!(a.send(&frame(0, 800)), Err(SendError::TooLarge));
    for (turn, small) in (8..700).step_by(8).enumerate() {
        a.send(&frame(1, small)).unwrap();
        b.receive(1, |frame| assert_eq!(number(frame), 1));
        let large = frame(turn as u64, 792);
        if a.send(&large).is_err() {
            // The first try may only have left zeros behind.
            assert_eq!(b.receive(1, |_| panic!("nothing was sent")).frames, 0);
            a.send(&large).unwrap();
        }
        assert_eq!(b.receive(9, |frame| assert_eq!(number(frame), turn as u64)).frames, 1);
    }
    let (mut any, _b) = ring::pair(ring::ANY_FRAME_BYTES, Count::new(), Count::new());
    any.send(&frame(0, LINK_FRAME_BYTES_MAX)).unwrap();
    assert_eq!(any.send(&frame(0, LINK_FRAME_BYTES_MAX + 1)), Err(SendError::TooLarge));
}

/// A close is seen at both ends, wakes the other owner, and takes effect for both directions.
#[test]
fn a_closed_lane_is_closed_for_both() {
    let (wake_a, wake_b) = (Count::new(), Count::new());
    let (mut a, mut b) = ring::pair(800, wake_a.clone(), wake_b.clone());
    b.send(&frame(1, 8)).unwrap();
    a.send(&frame(2, 8)).unwrap();
    a.close();
    a.close();
    assert_eq!(wake_b.take(), 1);
    assert!(a.is_closed() && b.is_closed());
    assert_eq!(a.send(&frame(0, 8)), Err(SendError::Closed));
    assert_eq!(b.send(&frame(0, 8)), Err(SendError::Closed));
    assert_eq!(a.receive(1, |_| panic!("it gave up listening")).frames, 0);
    let last = b.receive(1, |frame| assert_eq!(number(frame), 2));
    assert!(last.closed && last.frames == 1);
    assert_eq!(wake_a.take(), 0);
}

/// Both mailboxes get an end of the same lane; a full one refuses, and the end that was put already is
/// closed.
#[test]
fn a_local_lane_joins_two_mailboxes() {
    let (gateway, gateway_box) = Mailbox::new(2, Count::new());
    let (router, router_box) = Mailbox::new(1, Count::new());
    assert!(local::connect(0, &gateway, &router, Peer(3)));
    assert!(!local::connect(0, &gateway, &router, Peer(3)));
    let (mut up, mut down) = (gateway_box.recv().unwrap(), router_box.recv().unwrap());
    assert_eq!((up.peer, down.peer), (Peer(3), Peer(0)));
    up.lane.send(&frame(5, LINK_FRAME_BYTES_MAX)).unwrap();
    assert_eq!(down.lane.receive(9, |frame| assert_eq!(number(frame), 5)).frames, 1);
    assert!(gateway_box.recv().unwrap().lane.receive(1, |_| ()).closed);
}
