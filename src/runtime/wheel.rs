//! A hierarchical timing wheel: deadlines of any length in O(1), to the next tick.
//!
//! Four levels of 64 slots; a slot of level n spans 64ⁿ ticks. An entry sits in the level where its distance fits and
//! moves down as its time comes near. Each entry is a number that the owner chose (small and dense: links live in a
//! vector indexed by it).

/// Nanoseconds of a tick, as a shift: 2²² ns are 4.2 ms.
const TICK_SHIFT: u32 = 22;
const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const NONE: u32 = u32::MAX;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Wheel {
    /// All ticks up to and with this one have been handled.
    tick: u64,
    heads: [[u32; SLOTS]; LEVELS],
    /// Bit s of level n: that slot holds an entry.
    occupied: [u64; LEVELS],
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    /// When it is due; meaningful while linked.
    tick: u64,
    level: u8,
    slot: u8,
    linked: bool,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE, tick: 0, level: 0, slot: 0, linked: false };

impl Wheel {
    /// An empty wheel at `now_ns`.
    pub(super) fn new(now_ns: u64) -> Self {
        Self { tick: now_ns >> TICK_SHIFT, heads: [[NONE; SLOTS]; LEVELS], occupied: [0; LEVELS], links: Vec::new() }
    }

    /// Has `entry` come out at or after `deadline_ns`, up to a tick late. An entry that is in already stays where it
    /// is when that is no later (it then comes out early, and its owner sees that by its own deadline); otherwise it
    /// moves. So a deadline that is only ever pushed back costs one comparison.
    /// Returns the moment to advance at, when it moved.
    pub(super) fn schedule(&mut self, entry: usize, deadline_ns: u64) -> Option<u64> {
        let due = (deadline_ns >> TICK_SHIFT).saturating_add(1).max(self.tick + 1);
        if entry >= self.links.len() {
            self.links.resize(entry + 1, UNLINKED);
        }
        let link = &self.links[entry];
        if link.linked {
            if link.tick <= due {
                return None;
            }
            self.unlink(entry);
        }
        self.link(entry, due);
        Some(due << TICK_SHIFT)
    }

    /// Takes `entry` out, if it is in.
    pub(super) fn remove(&mut self, entry: usize) {
        if self.links.get(entry).is_some_and(|link| link.linked) {
            self.unlink(entry);
        }
    }

    /// Moves on to `now_ns` and appends every entry that came out to `out`.
    pub(super) fn advance(&mut self, now_ns: u64, out: &mut Vec<usize>) {
        let target = now_ns >> TICK_SHIFT;
        while self.tick < target {
            // The next tick at which a slot of any level comes up; nothing in between can be due.
            let Some(next) = self.next_tick() else {
                self.tick = target;
                return;
            };
            if next > target {
                self.tick = target;
                return;
            }
            self.tick = next;
            for level in (0..LEVELS).rev() {
                let span = SLOT_BITS * level as u32;
                if level > 0 && next & ((1 << span) - 1) != 0 {
                    continue;
                }
                let slot = (next >> span) as usize & (SLOTS - 1);
                let mut at = std::mem::replace(&mut self.heads[level][slot], NONE);
                self.occupied[level] &= !(1 << slot);
                while at != NONE {
                    let link = &mut self.links[at as usize];
                    let (entry, due) = (at as usize, link.tick);
                    at = link.next;
                    link.linked = false;
                    if due <= next { out.push(entry) } else { self.link(entry, due) }
                }
            }
        }
    }

    /// No entry comes out before this moment; None when the wheel is empty.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.next_tick().map(|tick| tick << TICK_SHIFT)
    }

    fn next_tick(&self) -> Option<u64> {
        let mut nearest: Option<u64> = None;
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let span = SLOT_BITS * level as u32;
            let now = self.tick >> span;
            // Distance in slots, 1 to 64: the slot of `now` itself was emptied when it came up, so an entry there is a
            // whole turn away.
            let ahead = occupied.rotate_right(((now + 1) & (SLOTS as u64 - 1)) as u32).trailing_zeros();
            let tick = (now + 1 + u64::from(ahead)) << span;
            nearest = Some(nearest.map_or(tick, |n| n.min(tick)));
        }
        nearest
    }

    fn link(&mut self, entry: usize, due: u64) {
        let distance = due.saturating_sub(self.tick).max(1);
        let mut level = 0;
        while level < LEVELS - 1 && distance >= 1 << (SLOT_BITS * (level as u32 + 1)) {
            level += 1;
        }
        let span = SLOT_BITS * level as u32;
        // What lies beyond the last level waits in its farthest slot and is looked at again there.
        let farthest = (self.tick >> span) + SLOTS as u64 - 1;
        let slot = ((due >> span).min(farthest)) as usize & (SLOTS - 1);
        let head = std::mem::replace(&mut self.heads[level][slot], entry as u32);
        if head != NONE {
            self.links[head as usize].previous = entry as u32;
        }
        self.links[entry] =
            Link { previous: NONE, next: head, tick: due, level: level as u8, slot: slot as u8, linked: true };
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, entry: usize) {
        let link = self.links[entry];
        let (level, slot) = (usize::from(link.level), usize::from(link.slot));
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        if link.previous == NONE {
            self.heads[level][slot] = link.next;
            if link.next == NONE {
                self.occupied[level] &= !(1 << slot);
            }
        } else {
            self.links[link.previous as usize].next = link.next;
        }
        self.links[entry].linked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK_NS: u64 = 1 << TICK_SHIFT;

    proptest! {
        #[test]
        fn every_entry_comes_out_once_after_its_deadline_and_at_most_two_ticks_late(
            start in 0_u64..1 << 40,
            deadlines in prop::collection::vec(0_u64..1 << 46, 1..60),
            steps in prop::collection::vec(1_u64..1 << 40, 1..40),
        ) {
            let mut wheel = Wheel::new(start);
            let deadlines: Vec<u64> = deadlines.iter().map(|d| start + d).collect();
            for (entry, &deadline) in deadlines.iter().enumerate() {
                wheel.schedule(entry, deadline);
            }
            let mut seen = vec![false; deadlines.len()];
            let mut now = start;
            let mut step = steps.iter().cycle();
            while let Some(next) = wheel.next_ns() {
                let before = now;
                now = next.max(now + step.next().copied().unwrap_or(1).min(TICK_NS * 100));
                let mut out = Vec::new();
                wheel.advance(now, &mut out);
                for entry in out {
                    prop_assert!(!seen[entry], "entry {entry} came out twice");
                    seen[entry] = true;
                    prop_assert!(deadlines[entry] <= now, "early");
                    // It was not due at the step before this one.
                    prop_assert!(before <= deadlines[entry].max(start) + 2 * TICK_NS, "late");
                }
            }
            prop_assert!(seen.iter().all(|&s| s));
        }

        #[test]
        fn removed_entries_never_come_out(entries in prop::collection::vec((0_u64..1 << 44, any::<bool>()), 1..60)) {
            let mut wheel = Wheel::new(0);
            for (entry, &(deadline, _)) in entries.iter().enumerate() {
                wheel.schedule(entry, deadline);
            }
            for (entry, &(_, remove)) in entries.iter().enumerate() {
                if remove {
                    wheel.remove(entry);
                }
            }
            let mut out = Vec::new();
            wheel.advance(1 << 45, &mut out);
            out.sort_unstable();
            let kept: Vec<usize> = (0..entries.len()).filter(|&e| !entries[e].1).collect();
            prop_assert_eq!(out, kept);
            prop_assert!(wheel.next_ns().is_none());
        }
    }

    #[test]
    fn an_entry_moves_forward_but_not_back() {
        let mut wheel = Wheel::new(0);
        let mut out = Vec::new();
        wheel.schedule(3, 100 * TICK_NS);
        wheel.schedule(3, 10 * TICK_NS);
        wheel.schedule(3, 50 * TICK_NS);
        wheel.advance(12 * TICK_NS, &mut out);
        assert_eq!(out, [3]);
    }
}
