//! Chance with a seed: splitmix64 (Steele, Lea, Flood: 'Fast splittable pseudorandom number generators', 2014).

use std::cell::Cell;
use std::ops::RangeInclusive;

/// A stream of numbers that its seed decides. Shared by reference; never leaves its thread.
#[derive(Debug)]
pub struct Chance(Cell<u64>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A stream of its own for one purpose, so that more draws there don't shift the draws here.
    pub fn fork(&self) -> Self {
        Self::new(self.bits())
    }

    pub fn bits(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when `end` is 0. The bias of the remainder doesn't matter here.
    pub fn below(&self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.bits() % end }
    }

    /// The same, for lengths and indexes.
    pub fn index(&self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    pub fn within(&self, range: &RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True `percent` times of a hundred.
    pub fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// `length` bytes that no other seed has.
    pub fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.bits().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
