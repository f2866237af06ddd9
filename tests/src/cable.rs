//! What lies between a gateway and its router: a forwarder of UDP packets that can be cut, each way by itself.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The largest packet there can be.
const PACKET_BYTES_MAX: usize = 65_536;

/// How often a thread that waits for packets looks whether it is to end.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the gateway to the router.
    Up,
    /// From the router to the gateway.
    Down,
}

/// See the module. Ends when it is dropped.
pub struct Cable {
    shared: Arc<Shared>,
}

struct Shared {
    near: UdpSocket,
    far: UdpSocket,
    router: SocketAddr,
    gateway: Mutex<Option<SocketAddr>>,
    is_cut: [AtomicBool; 2],
    is_over: AtomicBool,
}

impl Cable {
    /// A whole one, to this router.
    ///
    /// # Panics
    /// When there are no sockets left.
    #[must_use]
    pub fn to(router: SocketAddr) -> Cable {
        let socket = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.set_read_timeout(Some(LOOK_PERIOD)).expect("a time-out");
            socket
        };
        let shared = Arc::new(Shared {
            near: socket(),
            far: socket(),
            router,
            gateway: Mutex::new(None),
            is_cut: [AtomicBool::new(false), AtomicBool::new(false)],
            is_over: AtomicBool::new(false),
        });
        for way in [Way::Up, Way::Down] {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.carry(way));
        }
        Cable { shared }
    }

    /// The gateway's end.
    ///
    /// # Panics
    /// Never: it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.near.local_addr().expect("bound")
    }

    /// Loses every packet that goes these ways.
    pub fn cut(&self, ways: &[Way]) {
        for way in ways {
            self.shared.is_cut[*way as usize].store(true, Ordering::SeqCst);
        }
    }

    /// Loses nothing any more.
    pub fn mend(&self) {
        for is_cut in &self.shared.is_cut {
            is_cut.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn carry(&self, way: Way) {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let (from, to) = match way {
            Way::Up => (&self.near, &self.far),
            Way::Down => (&self.far, &self.near),
        };
        while !self.is_over.load(Ordering::SeqCst) {
            // Nothing came, or the last packet found nobody.
            let Ok((bytes, sender)) = from.recv_from(&mut packet) else { continue };
            let mut gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
            let receiver = match way {
                Way::Up => {
                    *gateway = Some(sender);
                    Some(self.router)
                }
                Way::Down => *gateway,
            };
            drop(gateway);
            if let (Some(receiver), false) = (receiver, self.is_cut[way as usize].load(Ordering::SeqCst)) {
                let _ = to.send_to(&packet[..bytes], receiver);
            }
        }
    }
}
