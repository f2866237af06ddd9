//! A thread takes over the plan: who sends, whom storms cut, who reads slowly.

use std::cmp::Reverse;

use super::{Due, Engine, Setup};
use crate::oracle::Ledger;
use crate::schedule::Schedule;
use crate::stats::Stats;

impl Engine {
    /// Takes over the plan once there is one.
    pub(super) fn install(&mut self, stats: &mut Stats) {
        if self.schedule.is_some() {
            return;
        }
        let Some(plan) = self.control.plan.get() else { return };
        let Setup { index, engines, first_client, clients: count, arrivals, .. } = self.desk.setup;
        self.desk.plan = plan.clone();
        self.desk.ledger = Ledger::new(plan.roster.clone(), first_client, count);
        for (client, local) in (first_client..).zip(&self.clients) {
            self.desk.ledger.connected(client, local.is_live);
        }
        let can_send = |local: &u32| {
            plan.outlets
                .get((first_client + local) as usize)
                .is_some_and(|outlets| !outlets.pairs.is_empty() || !outlets.groups.is_empty())
        };
        self.senders = (0..count).filter(can_send).collect();
        self.draw_manners();
        let prng = self.desk.setup.prng.fork();
        let rates = self.desk.plan.window.rates.clone();
        self.schedule = Some(Schedule::new(rates, arrivals, index, engines, prng));
        for local in 0..count {
            if self.clients.get(local as usize).is_some_and(|client| client.is_slow && client.is_live) {
                self.sip(local, stats);
            }
        }
    }

    /// Draws whom each storm cuts, and who reads slowly.
    fn draw_manners(&mut self) {
        let Setup { manners, prng, .. } = &mut self.desk.setup;
        let measure_from_ns = self.desk.plan.window.measure_from_ns;
        for storm in &manners.storms {
            let due_ns = measure_from_ns.saturating_add(storm.at_ns);
            let cut = (0..).zip(&self.clients).filter(|_| prng.unit() < storm.share);
            let away_ms = storm.away_ns.map(|ns| u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX));
            self.timers.extend(cut.map(|(local, _)| Reverse((due_ns, local, Due::Cut { away_ms }))));
        }
        if let Some(slow) = manners.slow_readers {
            for client in &mut self.clients {
                client.is_slow = prng.unit() < slow.share;
                if !client.is_slow {
                    continue;
                }
                client.session.leave_unmeasured();
            }
            let clients = &self.clients;
            self.senders.retain(|local| clients.get(*local as usize).is_some_and(|client| !client.is_slow));
        }
    }
}
