//! Who talks to whom: a ring of pairs, so that each client has two partners, and groups of neighbours. In a closed loop
//! neighbours are pairs, and the first of each talks.
//!
//! # Invariants
//! - Pure: a function of the number of clients, the mix and the seed.

use carillon_node::prng::Prng;

use crate::options::{Mix, Options};

/// A conversation to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Whether it is a group.
    pub is_group: bool,
    /// Clients, ascending; the first makes it.
    pub members: Vec<u32>,
}

/// Every conversation of a run, pairs first.
#[must_use]
pub fn conversations(options: &Options) -> Vec<Planned> {
    let clients = options.clients;
    let mut planned = Vec::new();
    if options.in_flight.is_some() {
        planned.extend((0..clients / 2).map(|pair| {
            let members = vec![2 * pair, 2 * pair + 1];
            Planned { is_group: false, members }
        }));
    } else if options.uses_pairs() {
        // With two clients the ring closes on itself after one step.
        let pairs = if clients == 2 { 1 } else { clients };
        planned.extend((0..pairs).map(|first| {
            let second = (first + 1) % clients;
            Planned { is_group: false, members: vec![first.min(second), first.max(second)] }
        }));
    }
    if options.uses_groups() {
        let size = options.group_size;
        planned.extend((0..clients.div_ceil(size)).map(|group| {
            // The last group reaches back, so that it is as large as the others.
            let first = (group * size).min(clients - size);
            Planned { is_group: true, members: (first..first + size).collect() }
        }));
    }
    planned
}

/// The `Idempotency-Key` of a group: the same run finds it again.
#[must_use]
pub fn idempotency_key(seed: u64, users: &[u64]) -> String {
    let bytes: Vec<u8> =
        std::iter::once(&seed).chain(users).flat_map(|number| number.to_le_bytes()).collect();
    format!("loadgen-{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))
}

/// What one client may send into.
#[derive(Clone, Debug, Default)]
pub struct Outlets {
    /// Numbers of its conversations of two.
    pub pairs: Vec<u32>,
    /// Numbers of its groups.
    pub groups: Vec<u32>,
}

/// Of each client, what it may send into.
#[must_use]
pub fn outlets(options: &Options, planned: &[Planned]) -> Vec<Outlets> {
    let mut outlets = vec![Outlets::default(); options.clients as usize];
    for (number, conversation) in (0u32..).zip(planned) {
        let senders_count = if options.in_flight.is_some() { 1 } else { conversation.members.len() };
        for client in conversation.members.iter().take(senders_count) {
            if let Some(outlets) = outlets.get_mut(*client as usize) {
                if conversation.is_group { &mut outlets.groups } else { &mut outlets.pairs }.push(number);
            }
        }
    }
    outlets
}

impl Outlets {
    /// Draws one; `None` when there is nothing to draw from.
    pub fn draw(&self, mix: &Mix, prng: &mut Prng) -> Option<u32> {
        let group_share = mix.group / (mix.group + mix.one_to_one);
        let wants_group = prng.unit() < group_share;
        let list = if self.pairs.is_empty() || (wants_group && !self.groups.is_empty()) {
            &self.groups
        } else {
            &self.pairs
        };
        list.get(prng.index(list.len())).copied()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn planned(line: &str) -> Vec<Planned> {
        conversations(
            &Options::try_parse_from(["loadgen"].into_iter().chain(line.split_whitespace())).unwrap(),
        )
    }

    #[test]
    fn everybody_has_somebody() {
        for (line, count) in [
            ("--clients 2 --mix one_to_one=1", 1),
            ("--clients 3 --mix one_to_one=1", 3),
            ("--clients 12", 12 + 3),
            ("--clients 5 --mix group=1", 1),
        ] {
            let all = planned(line);
            assert_eq!(all.len(), count, "{line}");
            for conversation in &all {
                let size = if conversation.is_group { 5 } else { 2 };
                assert_eq!(conversation.members.len(), size, "{line}");
                assert!(conversation.members.windows(2).all(|pair| pair[0] < pair[1]), "{line}");
            }
            let members = |client| all.iter().filter(|each| each.members.contains(&client)).count();
            assert!((0..2).all(|client| members(client) > 0));
        }
        assert!(planned("--clients 3 --idle").is_empty());
    }

    #[test]
    fn in_a_closed_loop_the_first_of_each_pair_talks() {
        let line = "loadgen --clients 4 --in-flight 1";
        let options = Options::try_parse_from(line.split(' ')).unwrap();
        let all = conversations(&options);
        assert_eq!(all.iter().map(|each| each.members.clone()).collect::<Vec<_>>(), [[0, 1], [2, 3]]);
        let pairs: Vec<_> = outlets(&options, &all).into_iter().map(|outlets| outlets.pairs).collect();
        assert_eq!(pairs, [vec![0], vec![], vec![1], vec![]]);
    }

    #[test]
    fn the_mix_is_kept() {
        let outlets = Outlets { pairs: vec![1, 2], groups: vec![3] };
        let mut prng = Prng::new(1);
        let mix = Mix { one_to_one: 0.8, group: 0.2 };
        let groups = (0..10_000).filter(|_| outlets.draw(&mix, &mut prng) == Some(3)).count();
        assert!((1_800..2_200).contains(&groups), "{groups}");
        assert_eq!(Outlets::default().draw(&mix, &mut prng), None);
        assert_ne!(idempotency_key(1, &[1, 2]), idempotency_key(2, &[1, 2]));
    }
}
