//! The worker's own coroutines: its clock, its parking lot and its mailbox.

use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use may::io::{CoIo, WaitIo};

use super::Handle;
use crate::runtime::lot::Mode;
use crate::runtime::mailbox::Controls;
use crate::runtime::world::{Arrival, Instant, Wake};
use crate::runtime::{clock, homing};

/// Messages, expired deadlines or recalled streams that are dealt with before others get a turn. One that is resumed gets a
/// coroutine at once, and runs later: of thousands at the same moment only so many have one.
const BATCH: usize = 128;

impl<P: 'static> Handle<P> {
    /// Fires deadlines and the service's tick.
    pub(super) fn run_timers(&self) {
        const TICK: Duration = Duration::from_secs(1);
        /// A timer is as late as this on a worker that keeps up.
        const LATE: Duration = Duration::from_millis(2);
        let worker = &self.0;
        let Ok(timer) = CoIo::new(BorrowedFd(worker.timer.fd.as_raw_fd())) else {
            return log::error!("worker {}: its timer can't be registered", worker.id);
        };
        let key = self.register(worker.timer.fd.as_raw_fd(), timer.waker());
        let mut next_tick = clock::now() + TICK;
        let mut due = Vec::new();
        let mut sweeps = false;
        loop {
            let now = clock::now();
            if now.since(Instant(worker.timer.set_to_ns.get())) > LATE {
                // The worker is behind, and what was waited for may be there: the timer's next event comes last.
                worker.timer.set(now.0);
                timer.wait_io();
            }
            worker.wheel.borrow_mut().advance(now.0, &mut due);
            for (n, expired) in (1..).zip(due.drain(..)) {
                self.expire(expired, now);
                if n % BATCH == 0 {
                    self.yield_slice(key, false, || {
                        timer.wait_io();
                    });
                }
            }
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick();
                sweeps = true;
            }
            sweeps = sweeps && self.sweep();
            let next = worker.wheel.borrow().next_ns().unwrap_or(u64::MAX).min(next_tick.0);
            let next = if sweeps { now.0 } else { next };
            worker.timer.set(next);
            timer.wait_io();
            homing::check(worker.id);
        }
    }

    /// The service's housekeeping. A panic in it must not take the worker's clock along.
    fn tick(&self) {
        if let Some(runners) = self.0.runners.get() {
            runners.trim();
        }
        let Some(service) = self.0.service.get() else { return };
        if catch_unwind(AssertUnwindSafe(|| service.tick())).is_err() {
            self.0.counters.panics.bump();
        }
    }

    /// A piece of what takes long of it; whether there is more.
    fn sweep(&self) -> bool {
        let Some(service) = self.0.service.get() else { return false };
        catch_unwind(AssertUnwindSafe(|| service.sweep())).unwrap_or_else(|_| {
            self.0.counters.panics.bump();
            false
        })
    }

    fn expire(&self, key: usize, now: Instant) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        if slot.deadline == u64::MAX {
            return;
        }
        if slot.deadline > now.0 {
            self.0.wheel.borrow_mut().schedule(key, slot.deadline);
            return;
        }
        slot.deadline = u64::MAX;
        if slot.parked.is_some() {
            drop(slots);
            return self.resume(key, Wake::Deadline);
        }
        slot.expired = true;
        slot.waker.wakeup();
    }

    /// Passes on the events of streams that no coroutine waits on directly.
    pub(super) fn run_lot(&self) {
        let worker = &self.0;
        let Ok(lot) = CoIo::new(BorrowedFd(worker.lot.fd())) else {
            return log::error!("worker {}: its parking lot can't be registered", worker.id);
        };
        let key = self.register(worker.lot.fd(), lot.waker());
        loop {
            let (events, more) = worker.lot.look();
            for (key, flags) in events.iter() {
                self.lot_event(key, flags);
            }
            let wait = || {
                lot.wait_io();
            };
            if more {
                // Backends answer those first that have come back: thousands at once would all be in flight together, and
                // none would find its memory in the cache.
                self.yield_slice(key, false, wait);
            } else {
                wait();
                homing::check(worker.id);
            }
        }
    }

    fn lot_event(&self, key: usize, flags: u32) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        if let Mode::ParkedFor(_) = slot.lot_mode {
            slot.lot_mode = Mode::Disarmed;
        }
        // One that is parked comes back with its readiness: the worker's own epoll may tell the same later.
        slot.lot_events |= flags;
        if slot.parked.is_some() {
            drop(slots);
            return self.resume(key, Wake::Event);
        }
        if let Some(waiting) = slot.wakes.map(|key| key as usize) {
            match slots.get(waiting) {
                Some(slot) if slot.parked.is_some() => {
                    drop(slots);
                    self.resume(waiting, Wake::Event);
                }
                Some(slot) => slot.waker.wakeup(),
                None => {}
            }
        } else if let Mode::Everything | Mode::Parked = slot.lot_mode {
            // Nothing waits for it any more.
            if self.0.lot.arm(slot.fd, key, slot.lot_mode, Mode::Disarmed).is_ok() {
                slot.lot_mode = Mode::Disarmed;
            }
        }
    }

    /// Does what messages say, and starts what waits for a round.
    pub(super) fn run_mailbox(&self) {
        let worker = &self.0;
        let Ok(bell) = CoIo::new(worker.mailbox.bell()) else {
            return log::error!("worker {}: its mailbox can't be registered", worker.id);
        };
        loop {
            worker.mailbox.silence();
            for message in worker.mailbox.collect().take(BATCH) {
                message(self);
            }
            self.recall_some();
            if !worker.mailbox.is_empty() || !worker.recalled.borrow().is_empty() {
                worker.mailbox.ring();
            }
            if let Some(runners) = worker.runners.get() {
                runners.start_waiting();
            }
            self.wake_yielded();
            bell.wait_io();
            homing::check(worker.id);
        }
    }

    fn recall_some(&self) {
        for _ in 0..BATCH {
            let Some(key) = self.0.recalled.borrow_mut().pop() else { return };
            self.resume(key, Wake::Recalled);
        }
    }

    /// Wakes the coroutines that have yielded. They run when this one waits, each up to its next wait; one that yields again is
    /// woken behind the next look at the network. So a round is one such look and a slice for each.
    fn wake_yielded(&self) {
        let early = std::mem::take(&mut *self.0.yielded_early.borrow_mut());
        if !early.is_empty() {
            self.0.mailbox.ring();
        }
        let yielded = self.0.yielded.replace(early);
        let mut slots = self.0.slots.borrow_mut();
        for key in yielded {
            if let Some(slot) = slots.get_mut(key) {
                slot.yields = false;
                slot.waker.wakeup();
            }
        }
    }
}

impl<P: 'static> Controls for Handle<P> {
    fn take_over(&self, socket: OwnedFd, arrival: Arrival) {
        self.take_over(socket, arrival);
    }

    fn stop_accepting(&self) {
        self.0.accepting.set(false);
        for key in self.0.acceptors.borrow_mut().drain(..) {
            if let Some(slot) = self.0.slots.borrow().get(key) {
                slot.waker.wakeup();
            }
        }
    }

    fn wake(&self, key: usize) {
        let slots = self.0.slots.borrow();
        let Some(slot) = slots.get(key) else { return };
        if slot.parked.is_none() {
            return slot.waker.wakeup();
        }
        drop(slots);
        self.resume(key, Wake::Event);
    }

    fn recall(&self) {
        let slots = self.0.slots.borrow();
        let parked = slots.iter().filter(|(_, slot)| slot.parked.is_some()).map(|(key, _)| key);
        self.0.recalled.borrow_mut().extend(parked);
        self.0.mailbox.ring();
    }
}

/// A descriptor that is lent, not owned.
struct BorrowedFd(i32);

impl AsRawFd for BorrowedFd {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}
