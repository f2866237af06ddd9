//! FoundationDB's network thread: one for the whole process, from the first store that is opened to the process's end.
//! The only file of this engine with `unsafe`, which the client's start demands.
//!
//! # Invariants
//! - The client is not taken apart under the threads that use it. It wants to be stopped before `exit` begins, which whoever
//!   calls that from another thread, or returns from `main`, does not do. From within `exit` it cannot be stopped any
//!   more: what it keeps for the thread that exits is destroyed by then, and so are those of its static objects that it
//!   made last. So `exit` ends the process before it comes to the client, with the status it was called with.

#![expect(unsafe_code, reason = "starting FoundationDB's network thread, and ending the process with it")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use foundationdb::api::FdbApiBuilder;

/// The client can be started once in the life of a process and not again.
enum Network {
    Off,
    Running,
    Failed(String),
}

static NETWORK: Mutex<Network> = Mutex::new(Network::Off);

// SAFETY: two functions of the GNU C library, as its manual declares them. It is there wherever FoundationDB's client is.
unsafe extern "C" {
    safe fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    safe fn _exit(status: c_int) -> !;
}

/// Starts the network thread, unless it runs already.
///
/// # Errors
/// A sentence: why it does not run.
pub(super) fn boot() -> Result<(), String> {
    // Nothing is half done under the lock: a panic within leaves the state as it was.
    let mut network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Network::Off = &*network {
        *network = start().map_or_else(Network::Failed, |()| Network::Running);
    }
    match &*network {
        Network::Failed(sentence) => Err(sentence.clone()),
        Network::Off | Network::Running => Ok(()),
    }
}

fn start() -> Result<(), String> {
    let failed = |error: foundationdb::FdbError| {
        format!("FoundationDB's client does not start: error {}: {}", error.code(), error.message())
    };
    // `build` may be called once, which the caller's state sees to.
    let builder = FdbApiBuilder::default().build().map_err(failed)?;
    // Before the start: a thread that would be there at exit must not be.
    spare_at_exit()?;
    // SAFETY: the guard would have to be dropped before the program exits, which is not demanded of one that is aborted.
    // This one ends by `end`, to the client the same thing, before any exit handler of the client's runs.
    std::mem::forget(unsafe { builder.boot() }.map_err(failed)?);
    Ok(())
}

/// From now on `exit` does not come to what the client has made until now: handlers are called in the opposite order of
/// their registration. To be called again when the client has made more.
///
/// # Errors
/// A sentence: the C library has no memory.
pub(super) fn spare_at_exit() -> Result<(), String> {
    match on_exit(end, ptr::null_mut()) {
        0 => Ok(()),
        _ => Err("the C library takes no further function to be called at exit".to_owned()),
    }
}

/// Rust's own output is flushed before `exit` is called.
extern "C" fn end(status: c_int, _: *mut c_void) {
    _exit(status)
}
