//! Being told to stop: SIGTERM and SIGINT ask for a drain, a second one ends the process at once. And telling the
//! service manager where we are.
//!
//! # Invariants
//! - What a signal handler does here is async-signal-safe: a flag is set, a byte is sent.
//! - The descriptor becomes readable at the first request and stays so: any number of loops may poll it, and none has
//!   to read it.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

/// What a shell shows for a process that a signal ended: this plus the signal's number.
const SIGNALLED_STATUS: i32 = 128;

/// The request to stop. Shared by reference or in an `Arc`.
#[derive(Debug)]
pub struct Signals {
    requested: Arc<AtomicBool>,
    readable: UnixStream,
    sender: UnixStream,
}

impl Signals {
    /// From now on SIGTERM and SIGINT are requests to stop; the next one, of either kind, exits with 128 plus its
    /// number. Call once in a process, before its threads start.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub fn install() -> io::Result<Signals> {
        let signals = Signals::detached()?;
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset, and sets it.
            flag::register_conditional_shutdown(
                signal,
                SIGNALLED_STATUS + signal,
                Arc::clone(&signals.requested),
            )?;
            flag::register(signal, Arc::clone(&signals.requested))?;
            pipe::register(signal, signals.sender.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Listens to no signal, only to [`Signals::request`]: for a service that runs inside a test.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub fn detached() -> io::Result<Signals> {
        let (readable, sender) = UnixStream::pair()?;
        // A full socket is readable already: whoever sends never waits.
        sender.set_nonblocking(true)?;
        Ok(Signals { requested: Arc::new(AtomicBool::new(false)), readable, sender })
    }

    /// Asks for a drain from inside the process. A signal after this one exits at once.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        // Fails only when the socket is full of earlier requests.
        let _ = (&self.sender).write(&[0]);
    }

    /// Has anybody asked?
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// The flag itself, for loops that look at it every turn.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }

    /// Waits until somebody asks.
    ///
    /// # Errors
    /// When the kernel refuses to wait, which has no known cause.
    pub fn wait(&self) -> io::Result<()> {
        // Each turn but the last is a signal that was not for us: they are as many as there are of those.
        while !self.is_requested() {
            match poll(&mut [PollFd::new(&self.readable, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Signals {
    /// Readable from the first request on; nobody reads from it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// For the service manager (`sd_notify(3)`): start-up is finished.
pub const SERVICE_READY: &str = "READY=1";

/// For the service manager: the drain has begun.
pub const SERVICE_STOPPING: &str = "STOPPING=1";

/// Tells the service manager that started us, if one did (`NOTIFY_SOCKET`), how far we are. True when it was told.
///
/// # Errors
/// When it named a socket that does not take our word; nothing but a log line should come of it.
pub fn notify_service_manager(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => notify(&socket, state).map(|()| true),
        _ => Ok(false),
    }
}

fn notify(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    // A manager that does not read must not stop us.
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        notify(path.as_os_str(), SERVICE_READY).unwrap();
        let name = format!("carillon-test-{:x}", crate::random::seed());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notify(OsStr::new(&format!("@{name}")), SERVICE_STOPPING).unwrap();
        for (socket, expected) in [(by_path, SERVICE_READY), (by_name, SERVICE_STOPPING)] {
            let mut bytes = [0; 64];
            let len = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], expected.as_bytes());
        }
        assert!(notify(dir.path().join("absent").as_os_str(), SERVICE_READY).is_err());
    }

    #[test]
    fn a_request_wakes_every_waiter_and_never_blocks_whoever_asks() {
        let signals = Signals::detached().unwrap();
        assert!(!signals.is_requested());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| signals.wait().unwrap());
            }
            signals.request();
        });
        for _ in 0..10_000 {
            signals.request();
        }
        assert!(signals.flag().load(Ordering::SeqCst));
        signals.wait().unwrap();
    }
}
