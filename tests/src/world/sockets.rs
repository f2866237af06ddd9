//! Connections of the simulated world: bytes in pieces of any size, readers that stop, and cuts at any byte.

use std::collections::VecDeque;

use carillon_gateway::turn::ConnectionId;

use super::World;
use super::agenda::Event;
use super::gateways::GatewayInput;
use super::plan::MS;

/// The most bytes of one read.
const READ_BYTES_MAX: u64 = 4_096;
/// How long a gateway's driver waits for a client to take the last bytes.
const LINGER_MS: u64 = 1_000;

/// See the module.
pub(super) struct Socket {
    pub(super) device: usize,
    pub(super) gateway: usize,
    gateway_life: u32,
    pub(super) connection: Option<ConnectionId>,
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    is_up_due: bool,
    is_down_due: bool,
    pub(super) is_paused: bool,
    /// The gateway found no room for its bytes.
    pub(super) is_blocked: bool,
    /// The gateway has this end.
    pub(super) is_server_open: bool,
    pub(super) is_client_open: bool,
    pub(super) is_closing: bool,
    /// The client reads nothing until then.
    pub(super) stalled_until: u64,
}

impl World<'_> {
    /// A device connects.
    pub(super) fn open_socket(&mut self, device: usize, gateway: usize) -> usize {
        let socket = self.sockets.len();
        self.sockets.push(Socket {
            device,
            gateway,
            gateway_life: self.gateways[gateway].life,
            connection: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_up_due: false,
            is_down_due: false,
            is_paused: false,
            is_blocked: false,
            is_server_open: true,
            is_client_open: true,
            is_closing: false,
            stalled_until: 0,
        });
        let at = self.now + self.delay(self.plan.tcp_ns);
        self.agenda.put(at, Event::Accept { socket });
        socket
    }

    pub(super) fn accept(&mut self, socket: usize) {
        let Socket { gateway, gateway_life, is_client_open, .. } = self.sockets[socket];
        if !self.gateways[gateway].is_life(gateway_life)
            || !self.gateways[gateway].accepts()
            || !is_client_open
        {
            self.sockets[socket].is_server_open = false;
            self.plan_down(socket);
            return;
        }
        let connection = self.gateways[gateway].slot_for(socket);
        self.sockets[socket].connection = Some(connection);
        self.gateway_input(gateway, GatewayInput::Accepted(socket));
        self.plan_up(socket);
    }

    /// A client writes.
    pub(super) fn write_up(&mut self, socket: usize, bytes: &[u8]) {
        if self.sockets[socket].is_client_open {
            self.sockets[socket].up.extend(bytes);
            self.plan_up(socket);
        }
    }

    pub(super) fn plan_up(&mut self, socket: usize) {
        let at = &self.sockets[socket];
        let has_something = !at.up.is_empty() || !at.is_client_open;
        if !at.is_up_due && at.connection.is_some() && at.is_server_open && !at.is_paused && has_something {
            self.sockets[socket].is_up_due = true;
            let at = self.now + self.delay(self.plan.tcp_ns);
            self.agenda.put(at, Event::Up { socket });
        }
    }

    pub(super) fn up(&mut self, socket: usize) {
        self.sockets[socket].is_up_due = false;
        let Socket { gateway, gateway_life, is_paused, is_server_open, .. } = self.sockets[socket];
        if is_paused || !is_server_open || !self.gateways[gateway].is_life(gateway_life) {
            return;
        }
        if !self.sockets[socket].up.is_empty() {
            let available = (self.sockets[socket].up.len() as u64).min(READ_BYTES_MAX);
            let count = if self.prng.chance(2, 3) { available } else { self.prng.between(1, available) };
            let bytes = self.sockets[socket].up.drain(..count as usize).collect();
            self.gateway_input(gateway, GatewayInput::Received(socket, bytes));
        } else if !self.sockets[socket].is_client_open {
            self.gateway_input(gateway, GatewayInput::Closed(socket));
            return;
        }
        self.plan_up(socket);
    }

    /// What the kernel would take for this client now.
    pub(super) fn room(&self, socket: usize) -> usize {
        self.plan.socket_bytes.saturating_sub(self.sockets[socket].down.len())
    }

    /// A gateway writes.
    pub(super) fn write_down(&mut self, socket: usize, bytes: &[u8]) {
        self.sockets[socket].down.extend(bytes);
        self.plan_down(socket);
    }

    pub(super) fn plan_down(&mut self, socket: usize) {
        let at = &self.sockets[socket];
        let has_something = !at.down.is_empty() || !at.is_server_open;
        if !at.is_down_due && at.is_client_open && has_something {
            self.sockets[socket].is_down_due = true;
            let at = (self.now + self.delay(self.plan.tcp_ns)).max(self.sockets[socket].stalled_until);
            self.agenda.put(at, Event::Down { socket });
        }
    }

    pub(super) fn down(&mut self, socket: usize) {
        self.sockets[socket].is_down_due = false;
        if !self.sockets[socket].is_client_open {
            return;
        }
        if self.sockets[socket].stalled_until > self.now {
            self.plan_down(socket);
            return;
        }
        let device = self.sockets[socket].device;
        if self.sockets[socket].down.is_empty() {
            if !self.sockets[socket].is_server_open {
                self.sockets[socket].is_client_open = false;
                self.device_lost(device, socket);
            }
            return;
        }
        let available = (self.sockets[socket].down.len() as u64).min(READ_BYTES_MAX);
        let count = if self.prng.chance(2, 3) { available } else { self.prng.between(1, available) };
        let bytes: Vec<u8> = self.sockets[socket].down.drain(..count as usize).collect();
        if std::mem::take(&mut self.sockets[socket].is_blocked) {
            let gateway = self.sockets[socket].gateway;
            self.gateway_input(gateway, GatewayInput::Writable(socket));
        }
        self.device_bytes(device, socket, &bytes);
        self.plan_down(socket);
    }

    /// The connection is cut: what is under way is lost, the client knows at once, the gateway later.
    pub(super) fn cut(&mut self, socket: usize) {
        if !self.sockets[socket].is_client_open {
            return;
        }
        self.book.stats.cuts += 1;
        let at = &mut self.sockets[socket];
        at.is_client_open = false;
        at.down.clear();
        at.up.clear();
        let device = at.device;
        let slowest = if self.prng.chance(1, 3) { 3_000 * MS } else { 20 * MS };
        let found_at = self.now + self.prng.below(slowest);
        self.agenda.put(found_at, Event::Hangup { socket });
        self.device_lost(device, socket);
    }

    /// A client hangs up in good order: what it wrote still arrives.
    pub(super) fn close_client(&mut self, socket: usize) {
        self.sockets[socket].is_client_open = false;
        self.plan_up(socket);
    }

    pub(super) fn hang_up(&mut self, socket: usize) {
        let Socket { gateway, gateway_life, is_server_open, connection, .. } = self.sockets[socket];
        if is_server_open && connection.is_some() && self.gateways[gateway].is_life(gateway_life) {
            self.gateway_input(gateway, GatewayInput::Closed(socket));
        }
    }

    /// The gateway says that nothing more will be queued.
    pub(super) fn begin_close(&mut self, socket: usize) {
        if !std::mem::replace(&mut self.sockets[socket].is_closing, true) {
            self.agenda.put(self.now + LINGER_MS * MS, Event::Linger { socket });
        }
    }

    pub(super) fn linger(&mut self, socket: usize) {
        self.hang_up(socket);
    }

    /// The gateway's driver lets go.
    pub(super) fn let_go(&mut self, socket: usize) {
        let Socket { gateway, connection, .. } = self.sockets[socket];
        if std::mem::replace(&mut self.sockets[socket].is_server_open, false)
            && let Some(connection) = connection
        {
            self.gateways[gateway].free(connection);
        }
        self.plan_down(socket);
    }

    /// All connections of a gateway that died.
    pub(super) fn drop_sockets(&mut self, gateway: usize, life: u32) {
        for socket in 0..self.sockets.len() {
            let at = &self.sockets[socket];
            if at.gateway == gateway && at.gateway_life == life && at.is_server_open {
                self.sockets[socket].is_server_open = false;
                if self.prng.chance(1, 2) {
                    self.sockets[socket].down.clear();
                }
                self.plan_down(socket);
            }
        }
    }
}
