//! How long one direction has stood still. Room to write comes in large steps: a kernel tells of it when a third of its buffer
//! is free, which takes a slow reader minutes. So where time is over, the socket is asked what it still holds: one that
//! holds less than at the last look is being read.

use std::time::Duration;

use super::pump::Step;
use crate::runtime::world::{Instant, World};

/// The first look comes after this part of the time: until then it isn't known what the socket held.
const FIRST_LOOK_PART: u32 = 16;
/// One that was seen to read slowly gets so many times the time: a full receiver tells of what it has read in steps too.
const STEADY_TIMES: u32 = 2;

/// Since when nothing moved in one direction, as far as is known.
#[derive(Debug)]
pub(super) struct Stillness {
    since: Instant,
    written: u64,
    /// It stands still since its receiver takes nothing.
    blocked: bool,
    /// What its socket held at the last look, since something was written.
    unsent: Option<usize>,
    /// It was seen to be read although nothing could be written.
    steady: bool,
}

impl Stillness {
    /// Something has moved just now.
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, written: 0, blocked: false, unsent: None, steady: false }
    }

    /// Something else that counts has moved just now.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.since = now;
        self.unsent = None;
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Bytes that had been written when it was looked at last.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Since when nothing moved, now that `written` bytes in all have been written and it goes on like this.
    pub(super) fn progress<W: World>(&mut self, written: u64, step: Step, world: &W) -> Instant {
        let blocked = step == Step::NeedsWrite;
        if self.written != written || self.blocked != blocked {
            self.written = written;
            self.blocked = blocked;
            self.unsent = None;
            self.since = world.now();
        }
        self.since
    }

    /// When a receiver that takes nothing has had `still_max`, or is to be looked at: see [`Stillness::goes_on`].
    pub(super) fn until(&self, still_max: Duration) -> Instant {
        let still_max = match self.unsent {
            None => still_max / FIRST_LOOK_PART,
            Some(_) if self.steady => still_max * STEADY_TIMES,
            Some(_) => still_max,
        };
        self.since + still_max
    }

    pub(super) fn was_looked_at(&self) -> bool {
        self.unsent.is_some()
    }

    /// To be asked at the moment of [`Stillness::until`], with what the socket holds: false when its receiver takes nothing.
    pub(super) fn goes_on(&mut self, unsent: usize, now: Instant) -> bool {
        let Some(before) = self.unsent.replace(unsent) else { return true };
        if unsent < before {
            self.steady = true;
            self.since = now;
        }
        unsent < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL_MAX: Duration = Duration::from_secs(32);

    const fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn who_takes_nothing_has_its_time_and_no_more() {
        let mut stillness = Stillness::new(at(0));
        assert_eq!(stillness.until(STILL_MAX), at(2));
        assert!(stillness.goes_on(1000, at(2)), "not known yet");
        assert_eq!(stillness.until(STILL_MAX), at(32));
        assert!(!stillness.goes_on(1000, at(32)));
    }

    #[test]
    fn who_takes_a_little_goes_on_for_as_long_as_it_does() {
        let mut stillness = Stillness::new(at(0));
        assert!(stillness.goes_on(1000, at(2)));
        let mut now = at(32);
        for unsent in [999, 500, 1] {
            assert_eq!(stillness.until(STILL_MAX), now);
            assert!(stillness.goes_on(unsent, now));
            now = now + 2 * STILL_MAX;
        }
        assert_eq!(stillness.until(STILL_MAX), now);
        assert!(!stillness.goes_on(1, now));
    }
}
