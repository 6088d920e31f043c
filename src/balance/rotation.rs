//! The order in which weighted backends take turns: as even as whole turns can be.
//!
//! A backend of weight w among a sum of W should have had `t·w/W` turns after t of them. Its k-th turn belongs into the
//! window from `k·W/w` to `(k+1)·W/w`, and of all whose window has begun the one whose window ends first goes next
//! (earliest deadline first, as in proportional-share scheduling: Baruah et al., "Proportionate Progress", 1996). That
//! keeps everyone within one turn of its share at any moment, where the smooth rotation of nginx allows more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Turns of a rotation at most. Weights whose sum is larger, divided by what they have in common, are rounded.
const TURNS_MAX: u64 = 65_536;

/// Which backend has each turn, by index into `weights`; none of which is 0, and of which there are at most 65,536.
pub(super) fn rotation(weights: &[u32]) -> Box<[u16]> {
    let weights = reduced(weights);
    let turns: u64 = weights.iter().sum();
    let window = |index: usize, turn: u64| {
        let weight = weights[index];
        (turn * turns / weight, ((turn + 1) * turns).div_ceil(weight))
    };
    // By the beginning of their window, and by its end; the number of the turn comes last.
    let mut waiting: BinaryHeap<_> = (0..weights.len()).map(|index| Reverse((0, index, 0))).collect();
    let mut ready = BinaryHeap::with_capacity(weights.len());
    let mut order = Vec::with_capacity(turns as usize);
    for now in 0..turns {
        while let Some(Reverse((begin, index, turn))) = waiting.peek().copied()
            && begin <= now
        {
            waiting.pop();
            ready.push(Reverse((window(index, turn).1, index, turn)));
        }
        let Some(Reverse((_, index, turn))) = ready.pop() else { break };
        order.push(index as u16);
        if turn + 1 < weights[index] {
            waiting.push(Reverse((window(index, turn + 1).0, index, turn + 1)));
        }
    }
    order.into()
}

/// The same proportions in smaller numbers whose sum makes a rotation of a bearable length.
fn reduced(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let weights: Vec<_> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let sum: u64 = weights.iter().sum();
    if sum <= TURNS_MAX {
        return weights;
    }
    weights.iter().map(|weight| (weight * TURNS_MAX / sum).max(1)).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    fn letters(weights: &[u32]) -> String {
        rotation(weights).iter().map(|index| char::from(b'a' + *index as u8)).collect()
    }

    #[test]
    fn turns_are_spread_and_not_bunched() {
        for (weights, want) in [
            (&[5, 1, 1][..], "aaabaac"),
            (&[1, 1, 1], "abc"),
            (&[100, 100, 100], "abc"),
            (&[7], "a"),
            (&[2, 1], "aab"),
            (&[3, 3, 2], "abcababc"),
            (&[], ""),
        ] {
            assert_eq!(letters(weights), want, "{weights:?}");
        }
    }

    #[test]
    fn a_rotation_is_of_bounded_length_and_leaves_nobody_out() {
        let weights: Vec<u32> = (0..4096).map(|n| 1 + (n * n) % 25_600).collect();
        let order = rotation(&weights);
        assert!(order.len() as u64 <= TURNS_MAX + 4096, "{} turns", order.len());
        let mut seen = vec![0_u64; weights.len()];
        for index in &order {
            seen[usize::from(*index)] += 1;
        }
        assert!(seen.iter().all(|turns| *turns > 0));
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (weight, turns) in weights.iter().zip(&seen) {
            let fair = u64::from(*weight) * order.len() as u64 / sum;
            assert!(turns.abs_diff(fair) <= 1 + fair / 16, "weight {weight}: {turns} turns, {fair} are fair");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_ever_a_whole_turn_from_its_share(weights in prop::collection::vec(1_u32..=256, 1..12)) {
            let order = rotation(&weights);
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut had = vec![0_u64; weights.len()];
            for (index, now) in order.iter().zip(1_u64..) {
                had[usize::from(*index)] += 1;
                for (had, weight) in had.iter().zip(&weights) {
                    assert!((had * sum).abs_diff(now * u64::from(*weight)) < sum, "{weights:?} after {now} turns");
                }
            }
            let round = order.len() as u64;
            for (had, weight) in had.iter().zip(&weights) {
                assert_eq!(had * sum, round * u64::from(*weight), "a whole round is exact");
            }
        }
    }
}
