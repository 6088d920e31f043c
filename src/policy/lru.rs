//! A bounded table of values by key, LRU: when it is full, the key that was looked at the longest ago leaves.
//!
//! All its memory is reserved at once and used as keys come, so that no look-up allocates: for a number 36 bytes a key, or 40.

/// Keys are hashes already; two that are equal are one.
#[derive(Debug)]
pub(super) struct Lru<V> {
    /// The first is no key: it begins and ends the list by age, and its index, 0, ends chains.
    slots: Vec<Slot<V>>,
    /// The first slot of each chain of keys whose lowest bits are the same.
    chains: Box<[u32]>,
    keys_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot<V> {
    key: u64,
    value: V,
    /// Neighbours by age: in a ring, the first slot between the oldest and the newest.
    older: u32,
    newer: u32,
    /// The next of the chain.
    next: u32,
}

/// The slot that is no key.
const NONE: u32 = 0;

impl<V: Copy + Default> Lru<V> {
    /// A table of at most so many keys, 1 to 2^31.
    pub(super) fn new(keys_max: usize) -> Self {
        let mut slots = Vec::with_capacity(keys_max + 1);
        slots.push(Slot::default());
        Self { slots, chains: vec![NONE; keys_max.next_power_of_two()].into(), keys_max }
    }

    /// The value of `key`, which is the newest now; the default when it wasn't there.
    pub(super) fn value(&mut self, key: u64) -> &mut V {
        let slot = match self.find(key) {
            NONE => self.insert(key),
            slot => {
                self.leave_ring(slot);
                slot
            }
        };
        self.join_ring(slot);
        &mut self.slots[slot as usize].value
    }

    /// How many keys there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - 1
    }

    fn find(&self, key: u64) -> u32 {
        let mut slot = self.chains[self.chain(key)];
        while slot != NONE && self.slots[slot as usize].key != key {
            slot = self.slots[slot as usize].next;
        }
        slot
    }

    /// A slot for a key that isn't there, outside of the ring.
    fn insert(&mut self, key: u64) -> u32 {
        let slot = if self.slots.len() <= self.keys_max {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        } else {
            let oldest = self.slots[NONE as usize].newer;
            self.leave_ring(oldest);
            self.leave_chain(oldest);
            oldest
        };
        let chain = self.chain(key);
        self.slots[slot as usize] = Slot { key, next: self.chains[chain], ..Slot::default() };
        self.chains[chain] = slot;
        slot
    }

    fn leave_chain(&mut self, slot: u32) {
        let Slot { key, next, .. } = self.slots[slot as usize];
        let chain = self.chain(key);
        let mut before = self.chains[chain];
        if before == slot {
            self.chains[chain] = next;
            return;
        }
        while self.slots[before as usize].next != slot {
            before = self.slots[before as usize].next;
        }
        self.slots[before as usize].next = next;
    }

    fn leave_ring(&mut self, slot: u32) {
        let Slot { older, newer, .. } = self.slots[slot as usize];
        self.slots[older as usize].newer = newer;
        self.slots[newer as usize].older = older;
    }

    /// As the newest.
    fn join_ring(&mut self, slot: u32) {
        let newest = self.slots[NONE as usize].older;
        self.slots[slot as usize].older = newest;
        self.slots[slot as usize].newer = NONE;
        self.slots[newest as usize].newer = slot;
        self.slots[NONE as usize].older = slot;
    }

    fn chain(&self, key: u64) -> usize {
        key as usize & (self.chains.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    #[test]
    fn the_key_that_was_looked_at_the_longest_ago_leaves_first() {
        let mut recent = Lru::<u64>::new(3);
        for key in [1, 2, 3] {
            *recent.value(key) = key * 10;
        }
        assert_eq!(*recent.value(1), 10);
        assert_eq!(*recent.value(4), 0);
        assert_eq!((*recent.value(3), *recent.value(1)), (30, 10));
        assert_eq!(*recent.value(2), 0, "it had to leave");
        assert_eq!(recent.len(), 3);
    }

    #[test]
    fn one_key_alone_has_room() {
        let mut recent = Lru::<u64>::new(1);
        for key in [5, 5, 6, 5] {
            *recent.value(key) += key;
        }
        assert_eq!((*recent.value(5), recent.len()), (5, 1));
    }

    proptest! {
        #[test]
        fn it_does_what_a_list_by_age_does(keys_max in 1_usize..12, keys in prop::collection::vec(0_u64..24, 0..400)) {
            let mut recent = Lru::<u64>::new(keys_max);
            let mut model: Vec<(u64, u64)> = Vec::new();
            for (number, key) in (1..).zip(keys) {
                // Keys that differ only above the chains' bits meet in one chain.
                let key = (key % 4) | (key / 4) << 40;
                let known = model.iter().position(|(known, _)| *known == key);
                let (_, value) = known.map_or((key, 0), |at| model.remove(at));
                if known.is_none() && model.len() == keys_max {
                    model.remove(0);
                }
                let found = recent.value(key);
                assert_eq!(*found, value);
                *found = number;
                model.push((key, number));
                assert_eq!(recent.len(), model.len());
            }
        }
    }
}
