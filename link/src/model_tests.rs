//! Every order in which two threads may do, and see, what a lane and its bells are made of, gone through by loom:
//!
//! `RUSTFLAGS="--cfg carillon_loom" cargo test -p carillon-link --release --lib model_tests`
//!
//! A wake-up that is lost ends as a deadlock, which loom reports; a frame that is seen too early, as one that is not whole.

use std::sync::Arc;

use carillon_protocol::framing;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::Wake;
use crate::bell::Bell;
use crate::ring::{self, SendError};

/// How often a thread may be interrupted where it would not have to be. Higher than what is needed to lose a wake-up.
const PREEMPTIONS_MAX: usize = 3;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(check);
}

/// A thread that sleeps until it was woken since it last slept: what an owner with its bell is to a lane.
struct Sleeper(Notify);

impl Sleeper {
    fn new() -> Arc<Sleeper> {
        Arc::new(Sleeper(Notify::new()))
    }
}

impl Wake for Sleeper {
    fn wake(&self) {
        self.0.notify();
    }
}

/// A frame of `words` words that carries `number` in each.
fn frame(number: u64, words: usize) -> Vec<u8> {
    let archive_bytes = (words - 1) * framing::ALIGN;
    let mut frame = vec![framing::VERSION, 0, 7, 1];
    frame.extend_from_slice(&u32::try_from(archive_bytes).unwrap().to_le_bytes());
    frame.extend(std::iter::repeat_n(number.to_ne_bytes(), words - 1).flatten());
    frame
}

/// Sends frames of these lengths, asleep while there is no room; receives them, asleep while there is none.
fn all_arrive(lengths_words: &'static [usize]) {
    model(move || {
        let (sender, receiver) = (Sleeper::new(), Sleeper::new());
        let (mut a, mut b) = ring::pair(64, sender.clone(), receiver.clone());
        let sending = thread::spawn(move || {
            for (number, words) in lengths_words.iter().enumerate() {
                let frame = frame(number as u64, *words);
                while let Err(refused) = a.send(&frame) {
                    assert_eq!(refused, SendError::Full);
                    // What was sent before may be what the receiver has to take.
                    a.flush();
                    sender.0.wait();
                }
            }
            a.flush();
            a
        });
        let mut next = 0;
        while next < lengths_words.len() {
            let batch = b.receive(usize::MAX, |received| {
                assert_eq!(received, frame(next as u64, lengths_words[next]), "whole and in order");
                next += 1;
            });
            if batch.frames == 0 {
                receiver.0.wait();
            }
        }
        drop(sending.join());
    });
}

/// G6, G9, G13: a ring of eight words that fills up, and wraps in the middle of a frame.
#[test]
fn g6_frames_arrive_whole_and_nobody_sleeps_for_ever() {
    all_arrive(&[3, 3, 3]);
}

/// G13: a frame of more than half a ring, which the zeros at its end have to make way for.
#[test]
fn g13_a_frame_of_most_of_a_ring_finds_its_space() {
    all_arrive(&[3, 7]);
}

/// G6: what was sent before a close arrives before it.
#[test]
fn g6_a_close_overtakes_nothing() {
    model(|| {
        let (sender, receiver) = (Sleeper::new(), Sleeper::new());
        let (mut a, mut b) = ring::pair(64, sender, receiver.clone());
        let sending = thread::spawn(move || {
            a.send(&frame(1, 2)).unwrap();
            a.send(&frame(2, 2)).unwrap();
        });
        let mut frames = 0;
        loop {
            let batch = b.receive(1, |_| frames += 1);
            if batch.closed {
                break;
            }
            if batch.frames == 0 {
                receiver.0.wait();
            }
        }
        assert_eq!(frames, 2, "everything before the close");
        sending.join().unwrap();
    });
}

/// A bell with an eventfd as loom can have one: readable while its count is not zero.
struct Bells {
    bell: Bell,
    count: AtomicU64,
    readable: Notify,
}

impl Bells {
    fn ring(&self) {
        if self.bell.ring() {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.readable.notify();
        }
    }

    fn drain(&self) {
        self.bell.drain(|| self.count.swap(0, Ordering::Relaxed));
    }

    /// Until the descriptor is readable.
    fn sleep(&self) {
        while self.count.load(Ordering::Relaxed) == 0 {
            self.readable.wait();
        }
    }
}

/// The owner hears of everything that was published before a ring, whoever rings when.
fn all_is_heard(ringers: u64, rings_each: u64) {
    model(move || {
        let bells = Arc::new(Bells { bell: Bell::new(), count: AtomicU64::new(0), readable: Notify::new() });
        let published: Arc<Vec<AtomicU64>> = Arc::new((0..ringers).map(|_| AtomicU64::new(0)).collect());
        let ringing: Vec<_> = (0..ringers as usize)
            .map(|ringer| {
                let (bells, published) = (Arc::clone(&bells), Arc::clone(&published));
                thread::spawn(move || {
                    for number in 1..=rings_each {
                        published[ringer].store(number, Ordering::Relaxed);
                        bells.ring();
                    }
                })
            })
            .collect();
        loop {
            bells.drain();
            if published.iter().all(|number| number.load(Ordering::Relaxed) == rings_each) {
                break;
            }
            if !bells.bell.arm() {
                bells.sleep();
            }
        }
        ringing.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

/// No ring of one is missed, however often it rings.
#[test]
fn a_bell_is_heard_by_its_owner() {
    all_is_heard(1, 2);
}

/// Nor is one of two.
#[test]
fn two_who_ring_at_once_are_both_heard() {
    all_is_heard(2, 1);
}
