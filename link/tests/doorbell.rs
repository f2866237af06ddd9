//! The bell: no ring is slept through, and an owner that is awake costs its ringers no system call.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use carillon_link::Wake;
use carillon_link::doorbell::Doorbell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::Prng;

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

/// Two ringers and a sleeper: every number that was published before a ring is seen. A lost ring ends in the time-out.
#[test]
fn no_ring_is_lost_under_stress() {
    let seed = 0x5eed_0002;
    println!("seed {seed:#x}: cargo test -p carillon-link --test doorbell stress");
    let bell = Doorbell::new().unwrap();
    let (rounds, published, seen) = (60_000, [const { AtomicUsize::new(0) }; 2], AtomicUsize::new(0));
    let (bell, published, seen) = (&*bell, &published, &seen);
    std::thread::scope(|scope| {
        for (ringer, count) in published.iter().enumerate() {
            scope.spawn(move || {
                let mut prng = Prng(seed + ringer as u64);
                for round in 1..=rounds {
                    count.store(round, Ordering::Relaxed);
                    bell.wake();
                    // One ringer keeps close to the owner, so that rings fall into the owner's going to sleep.
                    if ringer == 0 && prng.below(4) == 0 {
                        while seen.load(Ordering::Relaxed) < round {
                            std::hint::spin_loop();
                            std::thread::yield_now();
                        }
                    }
                }
            });
        }
        loop {
            let counts = [0, 1].map(|ringer: usize| published[ringer].load(Ordering::Relaxed));
            seen.store(counts[0], Ordering::Relaxed);
            if counts == [rounds; 2] {
                break;
            }
            // Every look is behind the drain inside `wait`.
            assert!(bell.wait(Some(Duration::from_secs(20))).unwrap(), "rings were lost at {counts:?}");
        }
    });
}
