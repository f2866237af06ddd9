//! The lanes of one shard to its routers: what arrives goes up as [`Input`]s, what is to be sent goes into the rings.
//!
//! # Invariants
//! - The first frame each way on a new lane is `Open`, ours at once: a router does not know of a lane on which nothing was
//!   said. The shard hears `LaneUp` only after the router's.
//! - A frame that does not fit its ring waits in a backlog of at most [`BACKLOG_BYTES_MAX`]; beyond that the lane is
//!   closed, which the shard hears as `LaneDown`: it registers again on the next lane and loses nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use carillon_link::ring::{LaneEnd, SendError};
use carillon_link::{Arrival, Peer};
use carillon_protocol::frame::{self, Frame, LinkFrame, Open};
use crossbeam_channel::Receiver;
use rkyv::util::AlignedVec;

use crate::turn::Input;

/// Bytes that may wait for space in a ring before the lane is given up.
pub const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// Frames taken from one lane in one turn, so that sockets are served as well; the rest waits in the ring.
const FRAMES_PER_TURN_MAX: usize = 4_096;

/// Whoever makes lanes: asked for a new one when a lane inside this process is lost. (Lanes to other processes are made
/// anew by their connector without being asked.)
pub trait Uplinks: Send + Sync {
    /// The shard's lane to `peer` is gone. `false`: it could not be replaced now; the shard asks again.
    fn replace(&self, peer: Peer, shard: u16) -> bool;

    /// A router at this address ("host:port") was heard of, and there is no lane to it: lanes to it are made, for all shards,
    /// and kept up. Asked again and again by every shard; once is enough.
    fn meet(&self, address: &str);

    /// The router that `peer` leads to is reached by another peer, or is gone for good: its lanes are made no more.
    fn part(&self, peer: Peer);
}

struct Lane {
    end: LaneEnd,
    is_open: bool,
    is_broken: bool,
    backlog: VecDeque<AlignedVec>,
    backlog_bytes: usize,
}

impl Lane {
    fn send(&mut self, frame: AlignedVec) -> Option<AlignedVec> {
        if self.backlog.is_empty() {
            match self.end.send(&frame) {
                Ok(()) => return Some(frame),
                Err(SendError::Full) => {}
                Err(SendError::Closed | SendError::TooLarge) => {
                    self.is_broken = true;
                    return Some(frame);
                }
            }
        }
        self.backlog_bytes += frame.len();
        self.backlog.push_back(frame);
        self.is_broken |= self.backlog_bytes > BACKLOG_BYTES_MAX;
        None
    }

    fn unload(&mut self) {
        while let Some(frame) = self.backlog.front() {
            match self.end.send(frame) {
                Ok(()) => {
                    self.backlog_bytes -= frame.len();
                    self.backlog.pop_front();
                }
                Err(SendError::Full) => break,
                Err(SendError::Closed | SendError::TooLarge) => {
                    self.is_broken = true;
                    break;
                }
            }
        }
        self.end.flush();
    }
}

/// A shard's lanes.
pub struct Lanes {
    arrivals: Receiver<Arrival>,
    lanes: BTreeMap<Peer, Lane>,
    wanted: BTreeSet<Peer>,
    uplinks: Arc<dyn Uplinks>,
    epoch: u64,
    shard: u16,
}

impl Lanes {
    /// No lanes yet; they come out of `arrivals`.
    #[must_use]
    pub fn new(arrivals: Receiver<Arrival>, uplinks: Arc<dyn Uplinks>, epoch: u64, shard: u16) -> Lanes {
        Lanes { arrivals, lanes: BTreeMap::new(), wanted: BTreeSet::new(), uplinks, epoch, shard }
    }

    /// Takes what arrived, lane by lane, and gives it to `each`. `true`: there is more, take another turn soon.
    pub fn receive(&mut self, mut each: impl FnMut(Input<'_>)) -> bool {
        while let Ok(Arrival { peer, lane, .. }) = self.arrivals.try_recv() {
            self.give_up(peer, &mut each);
            self.wanted.remove(&peer);
            let mut lane = Lane {
                end: lane,
                is_open: false,
                is_broken: false,
                backlog: VecDeque::new(),
                backlog_bytes: 0,
            };
            lane.send(Open { incarnation: self.epoch, shard: self.shard }.to_frame());
            self.lanes.insert(peer, lane);
        }
        let mut has_more = false;
        let mut lost = Vec::new();
        for (peer, lane) in &mut self.lanes {
            let (is_open, is_broken) = (&mut lane.is_open, &mut lane.is_broken);
            let received = lane.end.receive(FRAMES_PER_TURN_MAX, |bytes| {
                if *is_open {
                    each(Input::LaneFrame { router: *peer, frame: bytes });
                } else if let Ok(Frame::Open(open)) = frame::read(bytes) {
                    *is_open = true;
                    each(Input::LaneUp { router: *peer, incarnation: open.incarnation.to_native() });
                } else {
                    // Another version, or not a router at all: nothing on this lane can be trusted.
                    *is_broken = true;
                }
            });
            has_more |= received.more;
            if received.closed || lane.is_broken {
                lost.push(*peer);
            }
        }
        for peer in lost {
            self.give_up(peer, &mut each);
            self.wanted.insert(peer);
        }
        let (uplinks, shard) = (&self.uplinks, self.shard);
        self.wanted.retain(|peer| !uplinks.replace(*peer, shard));
        has_more
    }

    fn give_up(&mut self, peer: Peer, each: &mut impl FnMut(Input<'_>)) {
        if let Some(mut lane) = self.lanes.remove(&peer) {
            lane.end.close();
            if lane.is_open {
                each(Input::LaneDown { router: peer });
            }
        }
    }

    /// Lanes to the router at this address are needed.
    pub fn meet(&self, address: &str) {
        self.uplinks.meet(address);
    }

    /// Lanes of this peer are not needed any more.
    pub fn part(&self, peer: Peer) {
        self.uplinks.part(peer);
    }

    /// Sends a frame, and gives its memory back unless it has to wait. Without a lane it is dropped: the shard has heard
    /// `LaneDown`, or will before the next turn.
    pub fn send(&mut self, peer: Peer, frame: AlignedVec) -> Option<AlignedVec> {
        match self.lanes.get_mut(&peer) {
            Some(lane) => lane.send(frame),
            None => Some(frame),
        }
    }

    /// Gives a lane up that cannot be read; a new one comes.
    pub fn close(&mut self, peer: Peer) {
        if let Some(lane) = self.lanes.get_mut(&peer) {
            lane.is_broken = true;
        }
    }

    /// Ends a turn: moves backlogs into rings and wakes the far ends, once each.
    pub fn flush(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.unload();
        }
    }

    /// Whether a lane broke while sending, so that [`Lanes::receive`] has something to report.
    #[must_use]
    pub fn has_broken(&self) -> bool {
        self.lanes.values().any(|lane| lane.is_broken)
    }

    /// Bytes that wait for routers, in rings and backlogs.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.lanes.values().map(|lane| lane.backlog_bytes + lane.end.queued_bytes()).sum()
    }
}
