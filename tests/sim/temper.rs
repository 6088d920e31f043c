//! How kind a simulated world is. Everything here stays within what the world's traits promise; code that leans on
//! more than they promise breaks under one temper or another.

use std::ops::RangeInclusive;

use crate::chance::Chance;
use crate::sim::{MICROSECOND, MILLISECOND, Time};

#[derive(Clone, Debug)]
pub struct Temper {
    /// One way through the network.
    pub latency: RangeInclusive<Time>,
    /// From a packet's arrival to the event that tells of it.
    pub event_delay: RangeInclusive<Time>,
    /// How late a deadline may fire.
    pub timer_slack: Time,
    /// Bytes that one direction of a link holds, in flight and unread.
    pub window: usize,
    /// The longest piece in which bytes arrive.
    pub segment: usize,
    /// How often, of a hundred, a write takes less than would fit.
    pub partial_writes: u64,
    /// How often, of a hundred, a wait ends for no reason.
    pub spurious_wakes: u64,
    /// An event that came while nobody waited ends the next wait at once.
    pub latched_events: bool,
    /// An event tells all that is true of its socket, not only what has changed.
    pub full_masks: bool,
    /// A fresh stream says that it may be readable before anyone knows.
    pub optimistic: bool,
    /// A reset takes the unread bytes with it (Linux keeps them).
    pub resets_discard: bool,
    /// A reset is an error once, then looks like an end (as Linux has it).
    pub errors_once: bool,
    /// Once both sides have closed their sending side, an event calls the connection broken (epoll's EPOLLHUP).
    pub hangs_up_after_both: bool,
    /// Tasks take turns in any order, not in the order in which they became ready.
    pub shuffled: bool,
    /// How often, of ten thousand, the code under test panics where it touches a socket.
    pub panics: u64,
    /// How often, of a hundred, a pipe is to be had for a body.
    pub pipes: u64,
    /// Coroutines that each worker may have.
    pub coroutines: usize,
}

impl Temper {
    /// A quick network that keeps its packets whole.
    pub fn calm() -> Self {
        Self {
            latency: 50 * MICROSECOND..=50 * MICROSECOND,
            event_delay: 0..=0,
            timer_slack: 0,
            window: 65_536,
            segment: 65_536,
            partial_writes: 0,
            spurious_wakes: 0,
            latched_events: true,
            full_masks: true,
            optimistic: true,
            resets_discard: false,
            errors_once: false,
            hangs_up_after_both: false,
            shuffled: false,
            panics: 0,
            pipes: 0,
            coroutines: usize::MAX,
        }
    }

    /// Whatever the seed makes of it.
    pub fn any(chance: &Chance) -> Self {
        let slowest = chance.pick(&[20 * MICROSECOND, 300 * MICROSECOND, 5 * MILLISECOND, 40 * MILLISECOND]);
        Self {
            latency: 10 * MICROSECOND..=slowest,
            event_delay: 0..=chance.pick(&[0, 0, 30 * MICROSECOND, MILLISECOND]),
            timer_slack: chance.pick(&[0, MILLISECOND, 5 * MILLISECOND]),
            window: chance.pick(&[61, 700, 1_460, 4_096, 16_384, 65_536]),
            segment: chance.pick(&[1, 7, 100, 1_460, 1_460, 16_384, 65_536]),
            partial_writes: chance.pick(&[0, 0, 10, 50]),
            spurious_wakes: chance.pick(&[0, 0, 5, 25]),
            latched_events: chance.percent(50),
            full_masks: chance.percent(50),
            optimistic: chance.percent(50),
            resets_discard: chance.percent(50),
            errors_once: chance.percent(50),
            hangs_up_after_both: chance.percent(50),
            shuffled: chance.percent(70),
            panics: 0,
            pipes: chance.pick(&[0, 50, 100]),
            coroutines: usize::MAX,
        }
    }

    /// The longest body that a link like this carries without taking all day.
    pub fn body_bytes_max(&self) -> usize {
        (self.window.min(self.segment * 20) * 40).clamp(1_500, 150_000)
    }
}
