//! Whom this process connects to: a [`Connector`] for each router that it has met, until it parts with it. A gateway
//! has one for its shards, a router one for itself.
//!
//! # Invariants
//! - What is wanted is a table; a task on the control thread makes what is there equal to it. The lock around the
//!   table is held for a look-up and no longer: whoever meets or parts waits for nothing, nothing that was said is
//!   lost, and to say it twice is to say it once.
//! - An address, compared as text, has one number while it is there, and no number is ever given again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::connector::connect_counted;
use super::{BACKOFF_CEILING, Connector, Counters, Options, check_lanes};
use crate::tls::Identity;
use crate::{Dial, Mailbox, Peer};

/// The most routers that one process connects to at a time. Each costs a socket, and a lane of each shard. More are not
/// met before there is room, which the log says.
pub const ROUTERS_MAX: usize = 256;

/// See the module. Dropped, it closes all connections.
pub struct Switchboard {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    wanted: Mutex<Wanted>,
    changed: Notify,
    counters: Arc<Counters>,
}

struct Wanted {
    peers: BTreeMap<String, Peer>,
    next_peer: u32,
    is_closed: bool,
    /// Whether the log has it that there is no room.
    is_fullness_told: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // Each change of the table is one step: whoever panicked left it whole.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switchboard {
    /// Nobody is met yet; the first will be `first`. Who is met before [`Switchboard::start`] is connected to then: so
    /// it can be given to those whose mailboxes it needs.
    #[must_use]
    pub fn new(first: Peer) -> Switchboard {
        let wanted =
            Wanted { peers: BTreeMap::new(), next_peer: first.0, is_closed: false, is_fullness_told: false };
        let shared = Shared { wanted: Mutex::new(wanted), changed: Notify::new(), counters: Arc::default() };
        Switchboard { shared: Arc::new(shared), task: Mutex::new(None) }
    }

    /// Connects from now on, as `identity`: each of `mailboxes` gets a lane to each router, as
    /// [`connect`](super::connect) says. To be called once. Everything runs on `runtime`, which needs its I/O and time
    /// drivers.
    ///
    /// # Errors
    /// There are more than [`LANES_MAX`](super::LANES_MAX) mailboxes.
    pub fn start(
        &self,
        runtime: &Handle,
        identity: Identity,
        mailboxes: Vec<Mailbox>,
        options: Options,
    ) -> io::Result<()> {
        check_lanes(&mailboxes)?;
        let keeper = Keeper {
            shared: Arc::clone(&self.shared),
            runtime: runtime.clone(),
            identity,
            mailboxes,
            options,
        };
        *self.task() = Some(runtime.spawn(keeper.run()));
        Ok(())
    }

    /// Connects to the router at this address ("host:port", the name looked up at each attempt), and again whenever
    /// the connection was lost. To meet somebody again changes nothing. The number of its lanes; none: there are
    /// [`ROUTERS_MAX`] already, or everything is closed.
    pub fn meet(&self, address: &str) -> Option<Peer> {
        let mut wanted = self.shared.lock();
        if wanted.is_closed {
            return None;
        }
        if let Some(peer) = wanted.peers.get(address) {
            return Some(*peer);
        }
        if wanted.peers.len() >= ROUTERS_MAX {
            if !std::mem::replace(&mut wanted.is_fullness_told, true) {
                tracing::error!(address, "there is no room for more than {ROUTERS_MAX} routers");
            }
            return None;
        }
        let peer = Peer(wanted.next_peer);
        // Four thousand million routers in one life: a number used twice would lead to the wrong one.
        wanted.next_peer = wanted.next_peer.checked_add(1).expect("routers are numbered once");
        wanted.peers.insert(address.to_owned(), peer);
        drop(wanted);
        self.shared.changed.notify_one();
        Some(peer)
    }

    /// Closes the connection to this router and all its lanes, and makes none again.
    pub fn part(&self, peer: Peer) {
        self.forget(|_, other| other == peer);
    }

    /// What went through, with all routers together.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Closes all connections, and waits until the routers know it, or are lost. Nobody is met after that.
    pub async fn close(&self) {
        self.order_close();
        let task = self.task().take();
        if let Some(task) = task {
            // It has not panicked and nobody aborts it; and if the runtime is gone, so is everything else.
            let _ = task.await;
        }
    }

    fn order_close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_one();
    }

    fn forget(&self, is_meant: impl Fn(&str, Peer) -> bool) {
        let mut wanted = self.shared.lock();
        let count = wanted.peers.len();
        wanted.peers.retain(|address, peer| !is_meant(address, *peer));
        if wanted.peers.len() < count {
            wanted.is_fullness_told = false;
            drop(wanted);
            self.shared.changed.notify_one();
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Switchboard {
    fn dial(&self, address: &str) {
        let _ = self.meet(address);
    }

    fn hang_up(&self, address: &str) {
        self.forget(|other, _| other == address);
    }
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        self.order_close();
    }
}

/// How the task goes on.
enum Then {
    /// When something else is wanted.
    Wait,
    /// Then, or after a while: something that is wanted is not there.
    Retry,
    /// Not at all.
    End,
}

/// The task: makes what is there equal to what is wanted.
struct Keeper {
    shared: Arc<Shared>,
    runtime: Handle,
    identity: Identity,
    mailboxes: Vec<Mailbox>,
    options: Options,
}

impl Keeper {
    async fn run(self) {
        let mut connectors = BTreeMap::new();
        loop {
            let changed = self.shared.changed.notified();
            match self.reconcile(&mut connectors) {
                Then::Wait => changed.await,
                Then::Retry => drop(tokio::time::timeout(BACKOFF_CEILING, changed).await),
                Then::End => break,
            }
        }
        let mut closing: JoinSet<()> = connectors.into_values().map(Connector::close).collect();
        while closing.join_next().await.is_some() {}
    }

    fn reconcile(&self, connectors: &mut BTreeMap<Peer, Connector>) -> Then {
        let wanted: BTreeMap<Peer, String> = {
            let wanted = self.shared.lock();
            if wanted.is_closed {
                return Then::End;
            }
            wanted.peers.iter().map(|(address, peer)| (*peer, address.clone())).collect()
        };
        connectors.retain(|peer, _| wanted.contains_key(peer));
        let mut then = Then::Wait;
        for (peer, address) in wanted {
            if connectors.contains_key(&peer) {
                continue;
            }
            match self.connect(peer, address.clone()) {
                Ok(connector) => drop(connectors.insert(peer, connector)),
                Err(error) => {
                    tracing::error!(address, %error, "no socket to connect to a router");
                    then = Then::Retry;
                }
            }
        }
        then
    }

    fn connect(&self, peer: Peer, address: String) -> io::Result<Connector> {
        // Different for each router, in bits that lanes and attempts leave alone.
        let jitter_seed = self.options.jitter_seed ^ u64::from(peer.0).rotate_right(16);
        let options = Options { jitter_seed, ..self.options.clone() };
        let (mailboxes, counters) = (self.mailboxes.clone(), Arc::clone(&self.shared.counters));
        connect_counted(&self.runtime, peer, address, &self.identity, mailboxes, options, counters)
    }
}
