//! The bell: no ring is slept through, and an owner that is awake costs its ringers no system call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::Prng;
use carillon_link::Wake;
use carillon_link::doorbell::Doorbell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn readable(bell: &Doorbell) -> bool {
    poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// The descriptor is written only when the owner announced that it sleeps, once, and drained with the bell.
#[test]
fn only_a_sleeper_is_rung_through_the_kernel() {
    let bell = Doorbell::new().unwrap();
    bell.wake();
    assert!(!readable(&bell));
    assert!(bell.arm(), "rung before sleep: do not sleep");
    assert!(bell.drain());
    assert!(!bell.arm());
    assert!(!bell.arm(), "arming twice is arming");
    bell.wake();
    bell.wake();
    assert!(readable(&bell));
    assert!(bell.drain());
    assert!(!readable(&bell) && !bell.drain());
    assert!(!bell.wait(Some(Duration::from_millis(1))).unwrap());
}

/// A sleep that nobody ended costs no system call: what is in the descriptor then is not even looked at. And what is written
/// late is still read, by a later turn.
#[test]
fn only_what_was_rung_is_read() {
    let bell = Doorbell::new().unwrap();
    let write = || rustix::io::write(&*bell, &1_u64.to_ne_bytes()).unwrap();
    assert!(!bell.arm());
    write();
    assert!(!bell.drain() && readable(&bell), "nobody rang");

    // As if the ringer had been held up between its ring and its write.
    let mut count = [0; 8];
    rustix::io::read(&*bell, &mut count).unwrap();
    assert!(!bell.arm());
    bell.wake();
    rustix::io::read(&*bell, &mut count).unwrap();
    assert!(bell.drain());
    assert!(!bell.arm());
    write();
    assert!(readable(&bell), "the sleep ends early");
    assert!(!bell.drain() && !readable(&bell), "once");
}

/// A ringer and a sleeper: everything that was published before a ring is seen. The ringer publishes and
/// rings twice, the second time about when the owner drains after the first, and then waits to be seen: so a
/// lost ring is not made good by the next one, and ends in the time-out.
#[test]
fn no_ring_is_lost_under_stress() {
    let seed = 0x5eed_0002;
    println!("seed {seed:#x}: cargo test -p carillon-link --test link stress");
    let bell = Doorbell::new().unwrap();
    let (rounds, published, seen) = (30_000, AtomicUsize::new(0), AtomicUsize::new(0));
    let (bell, published, seen) = (&*bell, &published, &seen);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut prng = Prng(seed);
            for round in 1..=rounds {
                published.store(2 * round - 1, Ordering::Relaxed);
                bell.wake();
                for _ in 0..prng.below(4_000) {
                    std::hint::spin_loop();
                }
                published.store(2 * round, Ordering::Relaxed);
                bell.wake();
                while seen.load(Ordering::Relaxed) < 2 * round {
                    std::thread::yield_now();
                }
            }
        });
        let lost_at = loop {
            // Every look is behind the drain inside `wait`.
            let count = published.load(Ordering::Relaxed);
            seen.store(count, Ordering::Relaxed);
            if count == 2 * rounds {
                break None;
            }
            if !bell.wait(Some(Duration::from_secs(5))).unwrap() {
                break Some(count);
            }
        };
        // Lets the ringer end, also when the test has failed.
        seen.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(lost_at, None, "a ring was lost");
    });
}
