//! Chance from the operating system, for keys, seeds and names that must not collide. What must be repeatable takes
//! a [`crate::prng::Prng`] seeded from here.

use ring::rand::{SecureRandom, SystemRandom};

/// Fills `bytes` from the kernel's generator.
///
/// # Panics
/// When the kernel has no randomness to give: it always does once booted, and a process that cannot draw keys
/// must not go on.
pub fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the kernel's random generator answers");
}

/// A seed for a [`crate::prng::Prng`], or an id that no other process draws.
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_seeds_differ() {
        assert_ne!(super::seed(), super::seed());
    }
}
