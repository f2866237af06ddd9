//! FoundationDB's network thread: one for the whole process, from the first store that is opened to the process's end.
//! The only file of this engine with `unsafe`, which the client's start demands.

#![expect(unsafe_code, reason = "starting FoundationDB's network thread, and stopping it at exit")]

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foundationdb::api::{FdbApiBuilder, NetworkAutoStop};

/// The client can be started once in the life of a process and not again.
enum Network {
    Off,
    Running(#[expect(dead_code, reason = "held to be dropped")] NetworkAutoStop),
    Failed(String),
    Stopped,
}

static NETWORK: Mutex<Network> = Mutex::new(Network::Off);

// SAFETY: the C library's `int atexit(void (*)(void))`, as POSIX declares it.
unsafe extern "C" {
    safe fn atexit(callback: extern "C" fn()) -> c_int;
}

/// Starts the network thread, unless it runs already.
///
/// # Errors
/// A sentence: why it does not run.
pub(super) fn boot() -> Result<(), String> {
    let mut network = lock();
    match &*network {
        Network::Off => match start() {
            Ok(running) => {
                *network = Network::Running(running);
                Ok(())
            }
            Err(sentence) => {
                *network = Network::Failed(sentence.clone());
                Err(sentence)
            }
        },
        Network::Running(_) => Ok(()),
        Network::Failed(sentence) => Err(sentence.clone()),
        Network::Stopped => Err("the process ends".to_owned()),
    }
}

fn start() -> Result<NetworkAutoStop, String> {
    let failed = |error: foundationdb::FdbError| {
        format!("FoundationDB's client does not start: error {}: {}", error.code(), error.message())
    };
    // `build` may be called once, which the caller's state sees to.
    let builder = FdbApiBuilder::default().build().map_err(failed)?;
    // Before the start: a thread that could not be stopped at exit must not be there.
    if atexit(stop) != 0 {
        return Err("the C library takes no further function to be called at exit".to_owned());
    }
    // SAFETY: the guard has to be dropped before the program exits. It goes into `NETWORK`, and `stop` drops it: the C
    // library calls that at every exit that is not an abort, before it ends the libraries that were there before.
    unsafe { builder.boot() }.map_err(failed)
}

/// Whoever still waits for FoundationDB then waits to the end of the process.
extern "C" fn stop() {
    let running = std::mem::replace(&mut *lock(), Network::Stopped);
    drop(running);
}

fn lock() -> MutexGuard<'static, Network> {
    // Nothing is half done under the lock: a panic within leaves the state as it was.
    NETWORK.lock().unwrap_or_else(PoisonError::into_inner)
}
