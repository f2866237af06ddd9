//! Gateway processes of the simulated world: what the real driver does with a shard, without sockets or clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use carillon_gateway::shard::Shard;
use carillon_gateway::turn::{ConnectionId, Input, Output};
use carillon_link::Peer;
use carillon_protocol::time::Time;
use rkyv::util::AlignedVec;

use super::World;
use super::agenda::Event;
use super::lanes::Way;
use super::plan::MS;

/// The real driver sleeps no longer.
const SLEEP_MS: u64 = 1_000;

/// What waits for a gateway's next turn.
pub(super) enum GatewayInput {
    Accepted(usize),
    Received(usize, Vec<u8>),
    Writable(usize),
    Closed(usize),
    /// With the router's incarnation.
    LaneUp(Peer, u64),
    LaneFrame(Peer, AlignedVec),
    LaneDown(Peer),
    Drain,
}

/// A gateway process, or the place where one was.
pub(super) struct Gateway {
    shard: Option<Shard>,
    pub(super) life: u32,
    pub(super) epoch: u64,
    /// Where each of its peers is reached, and the lanes there are to them.
    pub(super) peers: BTreeMap<Peer, String>,
    pub(super) lanes: BTreeMap<Peer, usize>,
    peers_count: u32,
    /// Its clock is its own.
    offset_ns: u64,
    inbox: Vec<GatewayInput>,
    turn_at: Option<u64>,
    pub(super) paused_until: u64,
    is_draining: bool,
    /// The socket in each slot of the driver's table.
    slots: Vec<Option<usize>>,
    generations: Vec<u32>,
}

impl Gateway {
    pub(super) fn away() -> Gateway {
        Gateway {
            shard: None,
            life: 0,
            epoch: 0,
            peers: BTreeMap::new(),
            lanes: BTreeMap::new(),
            peers_count: 0,
            offset_ns: 0,
            inbox: Vec::new(),
            turn_at: None,
            paused_until: 0,
            is_draining: false,
            slots: Vec::new(),
            generations: Vec::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.shard.is_some()
    }

    pub(super) fn accepts(&self) -> bool {
        self.is_up() && !self.is_draining
    }

    pub(super) fn is_life(&self, life: u32) -> bool {
        self.is_up() && self.life == life
    }

    pub(super) fn slot_for(&mut self, socket: usize) -> ConnectionId {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(socket);
        ConnectionId { slot: slot as u32, generation: self.generations[slot] }
    }

    fn socket(&self, connection: ConnectionId) -> Option<usize> {
        let slot = connection.slot as usize;
        if self.generations.get(slot) != Some(&connection.generation) {
            return None;
        }
        self.slots.get(slot).copied().flatten()
    }

    pub(super) fn free(&mut self, connection: ConnectionId) {
        if self.socket(connection).is_some() {
            self.slots[connection.slot as usize] = None;
            self.generations[connection.slot as usize] += 1;
        }
    }
}

impl World<'_> {
    pub(super) fn start_gateway(&mut self, gateway: usize) {
        let at = &self.gateways[gateway];
        if at.is_up() {
            return;
        }
        let life = at.life + 1;
        let (seed, epoch) = (self.prng.next_u64(), self.prng.next_u64());
        let shard = Shard::new(
            self.plan.settings.clone(),
            Arc::clone(&self.keys),
            false,
            seed,
            epoch,
            gateway as u16,
        );
        let offset_ns = self.prng.below(1 << 50);
        self.gateways[gateway] = Gateway { shard: Some(shard), life, epoch, offset_ns, ..Gateway::away() };
        self.note("gateway up", [gateway as u64, u64::from(life), 0], || format!("{gateway}, life {life}"));
        for address in self.known_addresses() {
            self.meet(gateway, address);
        }
        self.plan_gateway_turn(gateway, self.now);
    }

    /// What stands in a gateway's configuration: the routers of the start, or one of them, that never leaves.
    fn known_addresses(&mut self) -> Vec<String> {
        let count = if self.prng.chance(1, 2) { self.plan.routers_count } else { 1 };
        self.routers[..count].iter().map(|router| router.address.clone()).collect()
    }

    /// Lanes to the router at this address are made, and kept up.
    fn meet(&mut self, gateway: usize, address: String) {
        let at = &mut self.gateways[gateway];
        if at.peers.values().all(|known| *known != address) {
            let (peer, life) = (Peer(at.peers_count), at.life);
            at.peers_count += 1;
            at.peers.insert(peer, address);
            self.agenda.put(self.now, Event::LaneConnect { gateway, life, peer });
        }
    }

    /// Everything of it is gone.
    pub(super) fn kill_gateway(&mut self, gateway: usize) {
        if self.gateways[gateway].shard.take().is_none() {
            return;
        }
        let life = self.gateways[gateway].life;
        self.note("gateway gone", [gateway as u64, u64::from(life), 0], || format!("{gateway}, life {life}"));
        let lanes = std::mem::take(&mut self.gateways[gateway].lanes);
        self.break_lanes(lanes.into_values().collect());
        self.drop_sockets(gateway, life);
        let at = self.now + self.prng.between(5, 1_500) * MS;
        self.agenda.put(at, Event::GatewayStart { gateway });
    }

    pub(super) fn gateway_input(&mut self, gateway: usize, input: GatewayInput) {
        let at = &mut self.gateways[gateway];
        if !at.is_up() {
            return;
        }
        at.is_draining |= matches!(input, GatewayInput::Drain);
        at.inbox.push(input);
        let soon = self.now + self.prng.below(MS / 10);
        self.plan_gateway_turn(gateway, soon);
    }

    pub(super) fn plan_paused_gateway(&mut self, gateway: usize) {
        if self.gateways[gateway].is_up() {
            self.plan_gateway_turn(gateway, self.now);
        }
    }

    fn plan_gateway_turn(&mut self, gateway: usize, at: u64) {
        let process = &mut self.gateways[gateway];
        let at = at.max(self.now).max(process.paused_until);
        if process.turn_at.is_none_or(|turn_at| turn_at > at) {
            process.turn_at = Some(at);
            self.agenda.put(at, Event::GatewayTurn { gateway, life: process.life });
        }
    }

    pub(super) fn gateway_turn(&mut self, gateway: usize, life: u32) {
        let process = &mut self.gateways[gateway];
        if process.life != life || process.turn_at != Some(self.now) {
            return;
        }
        process.turn_at = None;
        if process.paused_until > self.now {
            self.plan_gateway_turn(gateway, self.now);
            return;
        }
        let Some(mut shard) = process.shard.take() else { return };
        let offset_ns = process.offset_ns;
        let inbox = std::mem::take(&mut process.inbox);
        let (now, wall) = (Time(self.now + offset_ns), self.wall());
        let count = inbox.len() as u64;
        self.note("gateway turn", [gateway as u64, count, 0], || format!("{gateway}: {count} inputs"));
        let mut writable = Vec::new();
        for input in inbox {
            self.hand_to_gateway(&mut shard, gateway, input, &mut writable, (now, wall));
        }
        for connection in writable {
            self.flush(&mut shard, connection, gateway, (now, wall));
        }
        shard.handle(now, wall, Input::Tick);
        let mut is_drained = false;
        while let Some(output) = shard.poll_output() {
            match output {
                Output::Flush { connection } => self.flush(&mut shard, connection, gateway, (now, wall)),
                Output::Pause { connection } => self.pause(gateway, connection, true),
                Output::Resume { connection } => self.pause(gateway, connection, false),
                Output::Close { connection } => {
                    if let Some(socket) = self.gateways[gateway].socket(connection) {
                        self.begin_close(socket);
                    }
                    self.flush(&mut shard, connection, gateway, (now, wall));
                }
                Output::HandOff { .. } => self.book.wrong("gateway", "took a WebSocket for HTTP"),
                Output::Link { router, frame } => {
                    if let Some(lane) = self.gateways[gateway].lanes.get(&router).copied() {
                        self.send_frame(lane, Way::Up, frame);
                    }
                }
                Output::CloseLane { router } => self.give_lane_up(gateway, router),
                Output::Meet { address } => self.meet(gateway, address),
                Output::Part { router } => {
                    self.gateways[gateway].peers.remove(&router);
                }
                Output::Yield => {}
                Output::Drained => is_drained = true,
            }
        }
        let due = shard.poll_timeout().map_or(u64::MAX, |at| at.0.saturating_sub(offset_ns));
        self.gateways[gateway].shard = Some(shard);
        if is_drained {
            self.kill_gateway(gateway);
            return;
        }
        let is_late = due <= self.now;
        let due = due.min(self.now + SLEEP_MS * MS).max(self.now + u64::from(is_late) * MS);
        self.plan_gateway_turn(gateway, due);
    }

    fn hand_to_gateway(
        &mut self,
        shard: &mut Shard,
        gateway: usize,
        input: GatewayInput,
        writable: &mut Vec<ConnectionId>,
        (now, wall): (Time, carillon_protocol::time::WallMs),
    ) {
        let connection_of = |world: &World<'_>, socket: usize| {
            let at = &world.sockets[socket];
            at.connection.filter(|connection| world.gateways[gateway].socket(*connection) == Some(socket))
        };
        match input {
            GatewayInput::Accepted(socket) => {
                if let Some(connection) = connection_of(self, socket) {
                    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.sockets[socket].device as u8));
                    shard.handle(now, wall, Input::Accepted { connection, address });
                }
            }
            GatewayInput::Received(socket, bytes) => {
                if let Some(connection) = connection_of(self, socket) {
                    shard.handle(now, wall, Input::Received { connection, bytes: &bytes });
                }
            }
            GatewayInput::Writable(socket) => writable.extend(connection_of(self, socket)),
            GatewayInput::Closed(socket) => {
                if let Some(connection) = connection_of(self, socket) {
                    self.let_go(socket);
                    shard.handle(now, wall, Input::Closed { connection });
                }
            }
            GatewayInput::LaneUp(router, incarnation) => {
                shard.handle(now, wall, Input::LaneUp { router, incarnation });
            }
            GatewayInput::LaneFrame(router, frame) => {
                shard.handle(now, wall, Input::LaneFrame { router, frame: &frame });
            }
            GatewayInput::LaneDown(router) => shard.handle(now, wall, Input::LaneDown { router }),
            GatewayInput::Drain => shard.handle(now, wall, Input::Drain),
        }
    }

    /// Sends what is pending on a connection, as far as there is room.
    fn flush(
        &mut self,
        shard: &mut Shard,
        connection: ConnectionId,
        gateway: usize,
        (now, wall): (Time, carillon_protocol::time::WallMs),
    ) {
        let Some(socket) = self.gateways[gateway].socket(connection) else { return };
        while !self.sockets[socket].is_blocked {
            let room = self.room(socket);
            let mut bytes = Vec::new();
            let mut is_cut = false;
            for piece in shard.pending(connection) {
                let fits = piece.len().min(room - bytes.len());
                bytes.extend_from_slice(&piece[..fits]);
                if fits < piece.len() {
                    is_cut = true;
                    break;
                }
            }
            if bytes.is_empty() && !is_cut {
                if self.sockets[socket].is_closing {
                    self.let_go(socket);
                }
                return;
            }
            self.sockets[socket].is_blocked = is_cut;
            if !bytes.is_empty() {
                self.write_down(socket, &bytes);
                shard.handle(now, wall, Input::Sent { connection, bytes: bytes.len() });
            }
        }
    }

    fn pause(&mut self, gateway: usize, connection: ConnectionId, is_paused: bool) {
        if let Some(socket) = self.gateways[gateway].socket(connection) {
            self.sockets[socket].is_paused = is_paused;
            self.plan_up(socket);
        }
    }

    /// A lane leads to a router that has one already, or something came on it that cannot be read.
    fn give_lane_up(&mut self, gateway: usize, peer: Peer) {
        let at = &mut self.gateways[gateway];
        if at.peers.contains_key(&peer) {
            self.book.wrong("lane", format!("gateway {gateway} could not read a frame of a router"));
        }
        if let Some(lane) = at.lanes.remove(&peer) {
            self.break_lane(lane);
            self.gateway_input(gateway, GatewayInput::LaneDown(peer));
        }
    }

    /// A lane that a gateway could put a frame on.
    pub(super) fn lane_of(&mut self, gateway: usize) -> Option<usize> {
        let lanes: Vec<usize> = self.gateways[gateway].lanes.values().copied().collect();
        lanes.get(self.prng.index(lanes.len())).copied()
    }
}
