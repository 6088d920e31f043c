//! What the stress tests pick with.

use maypole::balance::{HashKey, Occasion, hash};

/// Chance and keys that differ from pick to pick, all made of the pick's number.
pub struct Request(pub usize);

impl Occasion for Request {
    fn random(&self) -> u64 {
        hash(&self.0.to_le_bytes())
    }

    fn now_ns(&self) -> u64 {
        self.0 as u64
    }

    fn key(&self, _: &HashKey) -> Option<u64> {
        Some(self.random())
    }
}
