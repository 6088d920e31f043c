//! Which backend is probed when: the pure part of the health thread. Time, chance and results go in; what to probe,
//! and what has changed, comes out.
//!
//! **The bound.** At most [`PROBERS_MAX`] probes run at once, one a backend, and at most [`SLOW_MAX`] of them go to
//! backends whose last probe was slow (over a quarter of its timeout). So 16 probers are always left for those that
//! answer promptly, however many hang: with answers in 10 ms that is 1,600 probes a second. Backends that begin to
//! hang all at once can fill every prober for one timeout, and only once: after it they count as slow. What hangs is
//! itself probed late instead, each one every `hanging / 48 × timeout`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::rise_fall::{Health, RiseFall, Rules};

/// Probes that run at once.
pub(super) const PROBERS_MAX: usize = 64;
/// How many of them may go to slow backends.
const SLOW_MAX: usize = 48;
/// A probe that took more than its timeout divided by this was slow.
const SLOW_PART: u32 = 4;
/// When a probe is tried again for which this machine lacked something.
const PUT_OFF: Duration = Duration::from_secs(1);

/// Everything that is probed. What decides is handed in, and may be other rules each time.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: HashMap<u64, Entry>,
    /// Those that wait for their time.
    timed: BTreeSet<(Instant, u64)>,
    /// Those whose time has come, and that wait for a prober.
    prompt: VecDeque<u64>,
    slow: VecDeque<u64>,
    /// Those being probed, removed ones among them; whether each was started as a slow one.
    running: HashMap<u64, bool>,
    running_slow: usize,
}

#[derive(Debug)]
struct Entry {
    rise_fall: RiseFall,
    phase: Phase,
    /// When the probe that comes next, or that runs, should start or should have started.
    due: Instant,
    slow: bool,
    /// What happened meanwhile makes the running probe's result worthless.
    overtaken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Timed,
    Queued,
    Running,
}

/// How a probe went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probed {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) passed: bool,
}

/// What a probe's result comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The new health, when it changed.
    pub(super) changed: Option<Health>,
    /// How long after its time the probe started.
    pub(super) late: Duration,
}

impl Schedule {
    /// Takes a backend in, to be probed for the first time at `first`.
    pub(super) fn add(&mut self, id: u64, first: Instant, now: Instant) {
        let rise_fall = RiseFall::new(now);
        let entry = Entry { rise_fall, phase: Phase::Timed, due: first, slow: false, overtaken: false };
        self.entries.insert(id, entry);
        self.timed.insert((first, id));
    }

    /// Lets a backend go. A probe that runs goes on, and its result is ignored.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        match entry.phase {
            Phase::Timed => drop(self.timed.remove(&(entry.due, id))),
            Phase::Queued if entry.slow => self.slow.retain(|queued| *queued != id),
            Phase::Queued => self.prompt.retain(|queued| *queued != id),
            Phase::Running => {}
        }
    }

    /// Has a backend probed as soon as there is a prober. A result that is on its way counts for nothing.
    pub(super) fn probe_now(&mut self, id: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match entry.phase {
            Phase::Timed if now < entry.due => {
                self.timed.remove(&(entry.due, id));
                entry.due = now;
                self.timed.insert((now, id));
            }
            Phase::Running => entry.overtaken = true,
            Phase::Timed | Phase::Queued => {}
        }
    }

    /// Has a backend probed by then at the latest; true if that is sooner than it would have been.
    pub(super) fn probe_by(&mut self, id: u64, at: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let sooner = entry.phase == Phase::Timed && at < entry.due;
        if sooner {
            self.timed.remove(&(entry.due, id));
            entry.due = at;
            self.timed.insert((at, id));
        }
        sooner
    }

    /// Has everything probed within `interval` at the latest, each at a time of its own: it was to come later by other rules.
    pub(super) fn probe_all_within(&mut self, interval: Duration, now: Instant) {
        let mut ids: Vec<_> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        for (index, id) in ids.iter().enumerate() {
            self.probe_by(*id, now + spread(index, ids.len(), interval));
        }
    }

    /// A backend refused a connection: true when that takes it down; it is probed at once then.
    pub(super) fn refuse(&mut self, id: u64, now: Instant) -> bool {
        let fell = self.entries.get_mut(&id).is_some_and(|entry| entry.rise_fall.refuse(now));
        if fell {
            self.probe_now(id, now);
        }
        fell
    }

    /// The next backend to probe now. Asked again until there is none.
    pub(super) fn start(&mut self, now: Instant) -> Option<u64> {
        self.queue_due(now);
        if self.running.len() >= PROBERS_MAX {
            return None;
        }
        let (id, slow) = match self.prompt.pop_front() {
            Some(id) => (id, false),
            None if self.running_slow < SLOW_MAX => (self.slow.pop_front()?, true),
            None => return None,
        };
        let entry = self.entries.get_mut(&id)?;
        entry.phase = Phase::Running;
        self.running.insert(id, slow);
        self.running_slow += usize::from(slow);
        Some(id)
    }

    /// When [`Self::start`] should be asked again if nothing else happens before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timed.first().map(|(due, _)| *due)
    }

    /// Takes in how a probe went; None when that counts for nothing. `chance` (0–1) is for the next one's jitter.
    pub(super) fn finish(&mut self, id: u64, probed: Probed, rules: &Rules, chance: f64) -> Option<Outcome> {
        self.running_slow -= usize::from(self.running.remove(&id)?);
        let entry = self.entries.get_mut(&id)?;
        let Probed { started, ended, passed } = probed;
        let late = started.saturating_duration_since(entry.due);
        entry.slow = ended.saturating_duration_since(started) > rules.timeout / SLOW_PART;
        let overtaken = std::mem::take(&mut entry.overtaken);
        let changed = if overtaken { None } else { entry.rise_fall.observe(passed, rules, ended) };
        entry.due = if overtaken { ended } else { ended.max(started + entry.rise_fall.gap(rules, ended, chance)) };
        entry.phase = Phase::Timed;
        self.timed.insert((entry.due, id));
        (!overtaken).then_some(Outcome { changed, late })
    }

    /// Whether a backend is known to be healthy.
    pub(super) fn is_up(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.rise_fall.is_up())
    }

    /// Puts a probe off that this machine lacked something for: a thread, a descriptor. It comes again in [`PUT_OFF`].
    pub(super) fn put_off(&mut self, id: u64, now: Instant) {
        let Some(slow) = self.running.remove(&id) else { return };
        self.running_slow -= usize::from(slow);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Timed;
            entry.due = now + PUT_OFF;
            self.timed.insert((entry.due, id));
        }
    }

    fn queue_due(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.timed.first() {
            if due > now {
                break;
            }
            // A backend that was removed while its last probe ran may have come back by now only under another id,
            // so an id that still runs has simply to wait for its result.
            self.timed.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.phase = Phase::Queued;
            if entry.slow { &mut self.slow } else { &mut self.prompt }.push_back(id);
        }
    }
}

/// When the first probes of `count` backends should start after the first of them: spread over the interval, but no
/// thinner than one a second, so that a small set is known soon.
pub(super) fn spread(index: usize, count: usize, interval: Duration) -> Duration {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let window = interval.min(Duration::from_secs(u64::from(count)));
    window.mul_f64(f64::from(index) / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::super::rise_fall::tests::{SECOND, rules};
    use super::*;
    use crate::config::HealthCheck;

    const MS: Duration = Duration::from_millis(1);

    fn schedule() -> Schedule {
        Schedule::default()
    }

    fn started(schedule: &mut Schedule, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| schedule.start(now)).collect()
    }

    fn probed(started: Instant, took: Duration, passed: bool) -> Probed {
        Probed { started, ended: started + took, passed }
    }

    #[test]
    fn a_backend_is_probed_at_its_time_and_again_an_interval_after_the_start() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.add(1, now + SECOND, now);
        assert_eq!(schedule.next_due(), Some(now + SECOND));
        assert!(started(&mut schedule, now).is_empty());
        assert_eq!(started(&mut schedule, now + SECOND), [1]);
        assert!(started(&mut schedule, now + 60 * SECOND).is_empty(), "one probe at a time");
        let outcome = schedule.finish(1, probed(now + SECOND + 7 * MS, MS, true), &rules(2, 2), 0.5).unwrap();
        assert_eq!(outcome, Outcome { changed: Some(Health::Up), late: 7 * MS });
        assert_eq!(schedule.next_due(), Some(now + 31 * SECOND + 7 * MS));
    }

    #[test]
    fn an_overlong_probe_is_followed_at_once_but_not_overtaken() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.add(1, now, now);
        assert_eq!(schedule.start(now), Some(1));
        schedule.finish(1, probed(now, 40 * SECOND, true), &rules(2, 2), 0.5);
        assert_eq!(schedule.next_due(), Some(now + 40 * SECOND));
    }

    #[test]
    fn a_shorter_interval_moves_what_was_to_come_later_and_nothing_else() {
        let now = Instant::now();
        let mut schedule = schedule();
        for (id, first) in [(1, 100 * SECOND), (2, 100 * SECOND), (3, MS), (4, Duration::ZERO)] {
            schedule.add(id, now + first, now);
        }
        assert_eq!(started(&mut schedule, now), [4]);
        schedule.probe_all_within(4 * SECOND, now);
        assert_eq!(started(&mut schedule, now), [1]);
        assert_eq!(started(&mut schedule, now + MS), [3]);
        assert!(started(&mut schedule, now + 999 * MS).is_empty());
        assert_eq!(started(&mut schedule, now + SECOND), [2]);
    }

    #[test]
    fn a_refusal_takes_it_down_and_has_it_probed_at_once() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.add(1, now, now);
        schedule.start(now);
        schedule.finish(1, probed(now, MS, true), &rules(2, 2), 0.5);
        let later = now + 5 * SECOND;
        assert!(schedule.refuse(1, later));
        assert_eq!(started(&mut schedule, later), [1]);
        let outcome = schedule.finish(1, probed(later, MS, true), &rules(2, 2), 0.5).unwrap();
        assert_eq!(outcome.changed, None, "one success isn't rise");
        assert_eq!(schedule.next_due(), Some(later + SECOND), "and the next is confirmed fast");
        assert!(!schedule.refuse(99, later), "an unknown backend is let be");
    }

    #[test]
    fn a_result_from_before_the_refusal_counts_for_nothing() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.add(1, now, now);
        schedule.start(now);
        assert!(schedule.refuse(1, now + MS));
        assert_eq!(schedule.finish(1, probed(now, 2 * MS, true), &rules(1, 1), 0.5), None);
        assert_eq!(started(&mut schedule, now + 2 * MS), [1], "and it is probed again at once");
        assert_eq!(
            schedule.finish(1, probed(now + 2 * MS, MS, true), &rules(1, 1), 0.5).unwrap().changed,
            Some(Health::Up)
        );
    }

    #[test]
    fn a_removed_backend_is_never_started_nor_counted_again() {
        let now = Instant::now();
        let mut schedule = schedule();
        for id in 1..=100 {
            schedule.add(id, now, now);
        }
        let first = started(&mut schedule, now);
        assert_eq!(first.len(), PROBERS_MAX);
        schedule.remove(1); // runs
        schedule.remove(100); // is queued
        assert_eq!(schedule.finish(1, probed(now, MS, false), &rules(2, 2), 0.5), None);
        for id in 2..=64 {
            schedule.finish(id, probed(now, MS, true), &rules(2, 2), 0.5);
        }
        schedule.remove(2); // waits for its time
        assert_eq!(started(&mut schedule, now + MS), (65..=99).collect::<Vec<_>>());
        assert!(!started(&mut schedule, now + 60 * SECOND).contains(&2));
    }

    #[test]
    fn a_put_off_probe_comes_again() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.add(1, now, now);
        assert_eq!(schedule.start(now), Some(1));
        schedule.put_off(1, now);
        assert!(started(&mut schedule, now + PUT_OFF / 2).is_empty());
        assert_eq!(started(&mut schedule, now + PUT_OFF), [1]);
    }

    /// Runs `hanging` backends that answer never and `prompt` ones that answer in 1 ms over a virtual clock, at an
    /// interval of 1 s and a timeout of 2 s; the greatest lateness of a prompt one after `settled`.
    fn prompt_lateness_max(hanging: u64, prompt: u64, settled: Duration) -> Duration {
        let check = HealthCheck { interval: SECOND, jitter: 0.0, ..HealthCheck::default() };
        let begin = Instant::now();
        let mut schedule = schedule();
        for id in 0..hanging + prompt {
            let offset = spread(id as usize, (hanging + prompt) as usize, SECOND);
            schedule.add(id, begin + offset, begin);
        }
        let mut ends: BTreeSet<(Instant, u64, Instant)> = BTreeSet::new();
        let mut worst = Duration::ZERO;
        let mut now = begin;
        while now < begin + 20 * SECOND {
            while let Some(id) = schedule.start(now) {
                let took = if id < hanging { 2 * SECOND } else { MS };
                ends.insert((now + took, id, now));
            }
            let next_end = ends.first().map(|(end, ..)| *end);
            now = [schedule.next_due(), next_end].into_iter().flatten().min().unwrap().max(now);
            while let Some(&(end, id, start)) = ends.first() {
                if end > now {
                    break;
                }
                ends.pop_first();
                let probed = Probed { started: start, ended: end, passed: id >= hanging };
                let outcome = schedule.finish(id, probed, &Rules::from(&check), 0.5).unwrap();
                if id >= hanging && start > begin + settled {
                    worst = worst.max(outcome.late);
                }
            }
        }
        worst
    }

    #[test]
    fn fifty_hanging_backends_of_two_hundred_delay_no_other() {
        assert!(prompt_lateness_max(50, 150, Duration::ZERO) <= MS);
    }

    #[test]
    fn even_five_hundred_hanging_ones_delay_the_others_for_no_longer_than_it_takes_to_know_them() {
        // Each batch of 64 newcomers that hang is known after its timeout: 500 / 64 × 2 s.
        assert!(prompt_lateness_max(500, 150, 17 * SECOND) <= 10 * MS);
    }

    #[test]
    fn first_probes_are_spread_over_the_interval_but_not_thinner_than_one_a_second() {
        assert_eq!(spread(0, 3, 30 * SECOND), Duration::ZERO);
        assert_eq!(spread(2, 3, 30 * SECOND), 2 * SECOND);
        assert_eq!(spread(150, 200, SECOND), SECOND * 3 / 4);
        assert_eq!(spread(30, 60, 30 * SECOND), 15 * SECOND);
        assert_eq!(spread(0, 0, SECOND), Duration::ZERO);
    }
}
