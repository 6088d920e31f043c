//! The consistent table of hashing strategies: which backend a key belongs to, so that a backend that comes or goes
//! moves few keys but its own (Eisenbud et al., "Maglev", 2016, §3.4).

use super::hash::hash_with;
use super::rotation::rotation;

/// Sizes of the table: primes, as every backend's walk over it must meet every slot. Those of the paper.
const SMALL: usize = 65_537;
const LARGE: usize = 655_373;
/// A backend should have a hundred slots or so: with fewer, some get visibly more than others.
const SLOTS_PER_BACKEND: usize = 100;

const FREE: u16 = u16::MAX;

/// Which backend has each slot, by index into `names` and `weights` (none of which is 0, and of which there are fewer than 65,535).
///
/// Each backend walks over the slots in an order that its name alone decides, and takes the next free one whenever it
/// has its turn in the weighted rotation. The order of the backends themselves makes no difference.
pub(super) fn table(names: &[&str], weights: &[u32]) -> Box<[u16]> {
    if names.is_empty() {
        return Box::default();
    }
    let size = if names.len() * SLOTS_PER_BACKEND <= SMALL { SMALL } else { LARGE };
    let mut by_name: Vec<usize> = (0..names.len()).collect();
    by_name.sort_unstable_by_key(|index| names[*index]);
    let turns = rotation(&by_name.iter().map(|index| weights[*index]).collect::<Vec<_>>());
    let mut walks: Vec<_> = by_name.iter().map(|index| Walk::of(names[*index], size)).collect();
    let mut slots = vec![FREE; size].into_boxed_slice();
    for turn in turns.iter().cycle().take(size) {
        let walk = &mut walks[usize::from(*turn)];
        while slots[walk.at] != FREE {
            walk.step(size);
        }
        slots[walk.at] = by_name[usize::from(*turn)] as u16;
    }
    slots
}

/// One backend's way over the slots.
struct Walk {
    at: usize,
    stride: usize,
}

impl Walk {
    fn of(name: &str, size: usize) -> Self {
        let below = |number, bound: usize| (hash_with(number, name.as_bytes()) % bound as u64) as usize;
        Self { at: below(1, size), stride: 1 + below(2, size - 1) }
    }

    fn step(&mut self, size: usize) {
        self.at += self.stride;
        if self.at >= size {
            self.at -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:8080")).collect()
    }

    fn table_of(names: &[String], weights: &[u32]) -> Box<[u16]> {
        table(&names.iter().map(String::as_str).collect::<Vec<_>>(), weights)
    }

    fn shares(table: &[u16], count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for index in table {
            shares[usize::from(*index)] += 1;
        }
        shares
    }

    #[test]
    fn every_backend_has_its_share_of_the_slots() {
        for (count, bound) in [(1, 0), (3, 1), (100, 1), (700, 1)] {
            let table = table_of(&names(count), &vec![100; count]);
            let shares = shares(&table, count);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= bound, "{least} to {most} slots over {count} backends");
        }
        let weighted = shares(&table_of(&names(3), &[5, 1, 1]), 3);
        assert!(weighted.iter().zip([46_812, 9_362, 9_362]).all(|(got, want)| got.abs_diff(want) <= 7), "{weighted:?}");
        assert!(table(&[], &[]).is_empty());
    }

    #[test]
    fn a_backend_that_goes_moves_few_slots_but_its_own() {
        for count in [2, 3, 10, 100] {
            let all = names(count);
            let before = table_of(&all, &vec![1; count]);
            let after = table_of(&all[..count - 1], &vec![1; count - 1]);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert!(moved * count <= 2 * before.len(), "{moved} of {} slots over {count} backends", before.len());
        }
    }

    #[test]
    fn the_order_of_the_backends_makes_no_difference() {
        let names = names(5);
        let before = table_of(&names, &[1, 2, 3, 4, 5]);
        let reversed: Vec<_> = names.iter().rev().cloned().collect();
        let after = table_of(&reversed, &[5, 4, 3, 2, 1]);
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(before, after)| names[usize::from(*before)] == reversed[usize::from(*after)])
        );
    }
}
