//! Chance that can be repeated: xoshiro256++ (Blackman and Vigna, 2019), seeded through splitmix64.
//!
//! # Invariants
//! - Pure: the same seed gives the same numbers on every machine, for ever; a failing test prints its seed.
//! - Not for keys or tokens: four outputs give away the state. Those come from [`crate::random`].

/// A seeded generator. Hold one as a field and hand it down; `fork` one for a part that draws on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// A generator that is a function of `seed` alone. Any seed is as good as another, also 0.
    pub fn new(seed: u64) -> Prng {
        let mut sequence = seed;
        Prng { state: std::array::from_fn(|_| splitmix64(&mut sequence)) }
    }

    /// A generator of its own for a part, so that draws there do not shift draws here.
    pub fn fork(&mut self) -> Prng {
        Prng::new(self.next_u64())
    }

    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// A number below `bound`, every one as likely (Lemire's multiplication without its rejection: the bias is
    /// below `bound / 2^64`). 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index into something of `len` elements; 0 when it has none.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number in `low..=high`; `low` when they are the wrong way round.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low).checked_add(1) {
            Some(count) => low + self.below(count),
            None => self.next_u64(),
        }
    }

    /// True `times` out of `of`; never when `of` is 0.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times && of > 0
    }

    /// A number in `[0, 1)` with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }

    /// Puts `items` in a drawn order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }
}

/// Steele, Lea and Flood's generator: turns one word into well-mixed words, also from seeds 0, 1, 2, …
fn splitmix64(sequence: &mut u64) -> u64 {
    *sequence = sequence.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *sequence;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_the_reference_implementations_draw() {
        let mut sequence = 1_234_567;
        let drawn: [u64; 3] = std::array::from_fn(|_| splitmix64(&mut sequence));
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);

        let mut prng = Prng { state: [1, 2, 3, 4] };
        let drawn: [u64; 4] = std::array::from_fn(|_| prng.next_u64());
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn the_same_seed_repeats_and_a_fork_stands_alone() {
        let (mut one, mut two) = (Prng::new(7), Prng::new(7));
        let mut fork = one.fork();
        assert_eq!(fork, two.fork());
        fork.next_u64();
        assert_eq!(one.next_u64(), two.next_u64());
        assert_ne!(Prng::new(7).next_u64(), Prng::new(8).next_u64());
    }

    #[test]
    fn stays_inside_its_bounds_and_reaches_them() {
        let mut prng = Prng::new(1);
        let mut seen = [0u32; 6];
        for _ in 0..6_000 {
            seen[prng.between(0, 5) as usize] += 1;
            assert!((0.0..1.0).contains(&prng.unit()));
        }
        assert!(seen.iter().all(|&times| (800..1_200).contains(&times)), "{seen:?}");
        assert_eq!((prng.below(0), prng.index(0), prng.between(9, 3)), (0, 0, 9));
        assert!(!prng.chance(1, 0) && prng.chance(1, 1) && !prng.chance(0, 5));
        prng.between(0, u64::MAX);

        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        prng.shuffle(&mut order);
        assert_ne!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
        let mut bytes = [0; 13];
        prng.fill(&mut bytes);
        assert_ne!(bytes, [0; 13]);
    }
}
