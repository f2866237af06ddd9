//! The routers that may own slots, as one of them sees the others, and who of them should own which.

use carillon_node::prng::Prng;
use carillon_protocol::placement::Slot;
use carillon_protocol::time::Time;
use carillon_store::verb::Incarnation;

/// Another router, as polls have shown it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) beat: u64,
    /// When the first of the unbroken polls that showed this beat was answered.
    pub(super) since: Time,
    /// When the last of them was sent.
    pub(super) until: Time,
}

impl Seen {
    /// It shows no sign of life for so long.
    pub(super) fn is_silent_for_ms(&self, millis: u64) -> bool {
        self.since.after_ms(millis) <= self.until
    }
}

/// The one among `hands` that should own a slot: the same for everybody who knows the same hands, and mostly the same
/// when one comes or goes (rendezvous hashing; Thaler and Ravishankar, 1998). `None`: there are none.
#[must_use]
pub fn home(slot: Slot, hands: &[Incarnation]) -> Option<Incarnation> {
    hands.iter().copied().max_by_key(|hand| (weight(slot, *hand), *hand))
}

fn weight(slot: Slot, hand: Incarnation) -> u64 {
    Prng::new(hand.0.rotate_left(16) ^ u64::from(slot.0)).next_u64()
}

#[cfg(test)]
mod tests {
    use carillon_protocol::placement::SLOTS_COUNT;

    use super::*;

    /// SC2, SC4, SV10: slots, of users and of conversations alike, spread evenly; a newcomer moves at most 1.5 of its share,
    /// and only to itself.
    #[test]
    fn homes_are_spread_and_stay() {
        let three = [Incarnation(4), Incarnation(9), Incarnation(11)];
        let four = [&three[..], &[Incarnation(12)]].concat();
        for hand in three {
            let count = (0..SLOTS_COUNT).filter(|slot| home(Slot(*slot), &three) == Some(hand)).count();
            assert!((1_200..1_530).contains(&count), "{hand:?} {count}");
        }
        let moved_count =
            (0..SLOTS_COUNT).map(Slot).filter(|slot| home(*slot, &three) != home(*slot, &four)).count();
        assert!(moved_count * 4 * 2 <= usize::from(SLOTS_COUNT) * 3, "{moved_count} moved");
        for slot in (0..SLOTS_COUNT).map(Slot) {
            let (before, after) = (home(slot, &three), home(slot, &four));
            assert!(before == after || after == Some(Incarnation(12)));
        }
        assert_eq!(home(Slot(0), &[]), None);
    }
}
