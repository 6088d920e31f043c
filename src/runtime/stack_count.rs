//! How many coroutines' stacks the process may have, over all workers.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Mappings of a stack: itself, and the page that guards it.
const MAPPINGS: usize = 2;
/// Of the system's mappings, a quarter is left to all else: code, heaps, threads.
const TO_STACKS: (usize, usize) = (3, 4);
/// Linux's default of `vm.max_map_count`.
const MAPPINGS_MAX: usize = 65_530;
/// However few the system allows: it says no itself, and coroutines are waited for then.
const STACKS_MIN: usize = 64;

/// The stacks that may still be made.
#[derive(Debug)]
pub(super) struct StackCount {
    left: AtomicUsize,
}

impl StackCount {
    pub(super) fn new(stacks_max: usize) -> Self {
        Self { left: AtomicUsize::new(stacks_max) }
    }

    /// Counts one more; false where there are as many as may be.
    pub(super) fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub(super) fn give_back(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// None is left.
    pub(super) fn are_short(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

/// How many coroutines a process may have at once, by the memory mappings that the system allows it
/// (`vm.max_map_count`).
pub fn coroutines_max() -> usize {
    let told = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    within(told.and_then(|text| text.trim().parse().ok()).unwrap_or(MAPPINGS_MAX))
}

fn within(mappings_max: usize) -> usize {
    (mappings_max / TO_STACKS.1 * TO_STACKS.0 / MAPPINGS).max(STACKS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quarters_of_the_mappings_are_stacks_of_two_each() {
        assert_eq!([65_530, 1_048_576, 0].map(within), [24_573, 393_216, STACKS_MIN]);
        assert!(coroutines_max() >= STACKS_MIN);
    }

    #[test]
    fn stacks_are_counted_out_and_in() {
        let stacks = StackCount::new(1);
        assert!(stacks.take() && stacks.are_short() && !stacks.take());
        stacks.give_back();
        assert!(stacks.take());
    }
}
