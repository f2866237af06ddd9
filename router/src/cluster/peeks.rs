//! Where the conversations of one user stand, asked of all their owners and told together.
//!
//! The question goes to the router that the session is registered with, and the answers come on the lanes on which that
//! router hears what is new in those conversations: so an answer and an event never overtake each other, and neither does
//! what goes on to the gateway.
//!
//! # Invariants
//! - Every question is answered once: with everything, or with a refusal when one owner could not be asked.

use std::collections::BTreeMap;

use carillon_protocol::frame::Standing;
use carillon_store::verb::Incarnation;

use crate::batch::Origin;

/// Questions under way. Beyond: `overloaded`.
pub const GATHERS_MAX: usize = 8_192;

struct Gather {
    origin: Origin,
    standings: Vec<Standing>,
    parts_left: usize,
}

/// See the module.
#[derive(Default)]
pub struct Peeks {
    gathers: BTreeMap<u64, Gather>,
    /// By request: which gather it belongs to and whom it was asked.
    asked: BTreeMap<u64, (u64, Incarnation)>,
    numbers_count: u64,
}

impl Peeks {
    /// A question of so many parts begins; `None`: too many are under way.
    pub fn begin(&mut self, origin: Origin, parts_count: usize) -> Option<u64> {
        if self.gathers.len() >= GATHERS_MAX {
            return None;
        }
        self.numbers_count += 1;
        let gather = Gather { origin, standings: Vec::new(), parts_left: parts_count };
        self.gathers.insert(self.numbers_count, gather);
        Some(self.numbers_count)
    }

    /// One part is asked of this router: by which request.
    pub fn ask(&mut self, gather: u64, of: Incarnation) -> u64 {
        self.numbers_count += 1;
        self.asked.insert(self.numbers_count, (gather, of));
        self.numbers_count
    }

    /// The gather that a router's answer belongs to.
    pub fn answered(&mut self, request: u64, by: Incarnation) -> Option<u64> {
        let (gather, of) = self.asked.get(&request).copied()?;
        (of == by).then(|| self.asked.remove(&request)).flatten();
        (of == by).then_some(gather)
    }

    /// A part is here; with the last one everything comes back.
    pub fn part(&mut self, gather: u64, standings: Vec<Standing>) -> Option<(Origin, Vec<Standing>)> {
        let under_way = self.gathers.get_mut(&gather)?;
        under_way.standings.extend(standings);
        under_way.parts_left -= 1;
        if under_way.parts_left > 0 {
            return None;
        }
        self.gathers.remove(&gather).map(|gather| (gather.origin, gather.standings))
    }

    /// A part will never be here: whoever asked is to be refused.
    pub fn fail(&mut self, gather: u64) -> Option<Origin> {
        self.gathers.remove(&gather).map(|gather| gather.origin)
    }

    /// Nothing that was asked of this router is answered any more.
    pub fn lost(&mut self, router: Incarnation) -> Vec<Origin> {
        let lost: Vec<(u64, u64)> = self
            .asked
            .iter()
            .filter(|(_, (_, of))| *of == router)
            .map(|(it, (gather, _))| (*it, *gather))
            .collect();
        let mut refused = Vec::new();
        for (request, gather) in lost {
            self.asked.remove(&request);
            refused.extend(self.fail(gather));
        }
        refused
    }
}
