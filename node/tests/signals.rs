//! Real signals, sent to a process of their own: this test runs itself again as that process.
#![expect(clippy::disallowed_methods, reason = "the environment are what is tested")]

use std::process::{Command, ExitStatus};

use carillon_node::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;

/// Names what the process that is started again shall do.
const ROLE: &str = "CARILLON_TEST_SIGNALS_ROLE";

fn run_as(role: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "the_other_process", "--quiet"]).env(ROLE, role);
    child.status().unwrap()
}

#[test]
fn the_first_signal_asks_and_the_second_one_of_either_kind_ends_the_process() {
    assert!(run_as("terminate once").success());
    assert!(run_as("interrupt once").success());
    assert_eq!(run_as("terminate, interrupt").code(), Some(128 + SIGINT));
    assert_eq!(run_as("request, terminate").code(), Some(128 + SIGTERM));
}

fn is_readable(signals: &Signals) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&at_once)).unwrap() == 1
}

#[test]
fn the_other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let signals = Signals::install().unwrap();
    assert!(!signals.is_requested());
    let ask = |word: &str| match word {
        "terminate" => raise(SIGTERM).unwrap(),
        "interrupt" => raise(SIGINT).unwrap(),
        _ => signals.request(),
    };
    let (first, second) = match role.strip_suffix(" once") {
        Some(first) => (first, None),
        None => role.split_once(", ").map(|(first, second)| (first, Some(second))).unwrap(),
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| signals.wait().unwrap());
        assert!(!is_readable(&signals), "nobody has asked");
        ask(first);
        assert!(is_readable(&signals), "a loop that polls the descriptor is woken");
        waiting.join().unwrap();
    });
    assert!(signals.is_requested());
    if let Some(second) = second {
        ask(second);
        panic!("still alive after the second request");
    }
}
