//! Chance for the control plane: jitter, and the failures that a sample backend is asked for. Not for secrets.

/// A small generator (xorshift64*), seeded by its caller.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same sequence.
    pub const fn seeded(seed: u64) -> Self {
        // Zero is the one state that never leaves itself.
        Self(seed ^ 0x9E37_79B9_7F4A_7C15 | 1)
    }

    /// Seeded by the process's hash keys, which the system gave it.
    pub fn from_system() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::seeded(RandomState::new().hash_one(0))
    }

    /// The next number, evenly from 0 up to but not including 1.
    pub fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        f64::from(high as u32) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_spread_evenly_and_repeat_with_their_seed() {
        let mut random = Random::seeded(0);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let fraction = random.fraction();
            assert!((0.0..1.0).contains(&fraction));
            #[allow(clippy::cast_sign_loss)] // just asserted
            let tenth = (fraction * 10.0) as usize;
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
        for stuck in [0x9E37_79B9_7F4A_7C15, 0x9E37_79B9_7F4A_7C14] {
            assert!(Random::seeded(stuck).fraction() > 0.0, "zero leads to zero");
        }
        let (mut one, mut other) = (Random::seeded(7), Random::seeded(7));
        assert_eq!(one.fraction().to_bits(), other.fraction().to_bits());
    }
}
