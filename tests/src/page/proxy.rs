//! A network that breaks: a TCP proxy that cuts WebSocket connections after a drawn number of bytes, wherever in a frame
//! that is.
//!
//! # Invariants
//! - Bytes pass unchanged and in order up to the cut; then both directions end, and what was on its way is lost.
//! - REST passes untouched: a cut is about resuming.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use carillon_node::prng::Prng;

/// How a request that becomes a WebSocket begins.
const UPGRADE: &[u8] = b"GET /v1/ws";

/// Where cuts fall.
#[derive(Clone, Copy, Debug)]
pub struct Cutting {
    /// Cuts in all; then connections live.
    pub cuts_count: u32,
    /// Bytes, both directions together, after which a connection is cut: from … to.
    pub bytes: (u64, u64),
    /// Draws them.
    pub seed: u64,
}

/// A listening proxy. Its threads end with their connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    bytes: (u64, u64),
    prng: Mutex<Prng>,
    cuts_left: AtomicU32,
    cuts_done: AtomicU32,
    is_over: AtomicBool,
}

impl Proxy {
    /// Listens on a free port.
    ///
    /// # Errors
    /// There is none.
    pub fn start(target: SocketAddr, cutting: Cutting) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            bytes: cutting.bytes,
            prng: Mutex::new(Prng::new(cutting.seed)),
            cuts_left: AtomicU32::new(cutting.cuts_count),
            cuts_done: AtomicU32::new(0),
            is_over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.pass(client));
            }
        });
        Ok(Proxy { address, shared })
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections cut so far.
    #[must_use]
    pub fn cuts_done(&self) -> u32 {
        self.shared.cuts_done.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // The accepting thread wakes once more, and sees it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Serves one connection to its end. Whatever breaks ends it: that is what this is for.
    fn pass(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.target) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let mut first = [0_u8; 4096];
        let Ok(count) = client.read(&mut first) else { return };
        let Some(first) = first.get(..count) else { return };
        let left = AtomicI64::new(i64::MAX);
        if first.starts_with(UPGRADE)
            && self
                .cuts_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
        {
            let mut prng = self.prng.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = prng.between(self.bytes.0, self.bytes.1);
            left.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
        if !self.forward(first, &client, &mut server, &left) {
            return;
        }
        let (Ok(client_in), Ok(server_in)) = (client.try_clone(), server.try_clone()) else { return };
        std::thread::scope(|scope| {
            scope.spawn(|| self.pump(&client_in, &mut server, &left));
            self.pump(&server_in, &mut client, &left);
        });
    }

    fn pump(&self, mut from: &TcpStream, to: &mut TcpStream, left: &AtomicI64) {
        let mut buffer = [0_u8; 8192];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() || !self.forward(bytes, from, to, left) {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
        }
    }

    /// Passes bytes on, or cuts in the middle of them; `false`: it is over.
    fn forward(&self, bytes: &[u8], from: &TcpStream, to: &mut TcpStream, left: &AtomicI64) -> bool {
        let count = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let before = left.fetch_sub(count, Ordering::Relaxed);
        if before > count {
            return to.write_all(bytes).is_ok();
        }
        let passed = usize::try_from(before).unwrap_or(0);
        let _ = to.write_all(bytes.get(..passed).unwrap_or_default());
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        // Both directions may get here; only the one that used up the rest has cut.
        if before > 0 {
            self.cuts_done.fetch_add(1, Ordering::Relaxed);
        }
        false
    }
}
