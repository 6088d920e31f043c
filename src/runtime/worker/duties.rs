//! The worker's own coroutines: its clock, its parking lot and its mailbox.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use may::io::{CoIo, WaitIo};

use super::{Handle, Job, Parked};
use crate::runtime::lot::Mode;
use crate::runtime::mailbox::Controls;
use crate::runtime::stream::MayStream;
use crate::runtime::world::{Instant, Wake};
use crate::runtime::{clock, homing};

/// Messages, expired deadlines or recalled streams that are dealt with before others get a turn. One that is resumed gets a
/// coroutine at once, and runs later: of thousands at the same moment only so many have one.
const BATCH: usize = 128;

impl<P: 'static> Handle<P> {
    /// Fires deadlines and the service's tick.
    pub(super) fn keep_time(&self) {
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
                    self.give_turn_away(key, || {
                        timer.wait_io();
                    });
                }
            }
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick();
            }
            let next = worker.wheel.borrow().next_ns().unwrap_or(u64::MAX).min(next_tick.0);
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
    pub(super) fn mind_the_lot(&self) {
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
                self.give_turn_away(key, wait);
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
        if let Some(waiting) = slot.wakes {
            match slots.get(waiting) {
                Some(slot) if slot.parked.is_some() => {
                    drop(slots);
                    self.resume(waiting, Wake::Event);
                }
                Some(slot) => slot.waker.wakeup(),
                None => {}
            }
        } else if let Mode::Everything | Mode::Parked = slot.lot_mode {
            // Nobody asks any more.
            if self.0.lot.arm(slot.fd, key, slot.lot_mode, Mode::Disarmed).is_ok() {
                slot.lot_mode = Mode::Disarmed;
            }
        }
    }

    pub(super) fn read_mail(&self) {
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

    /// Has all who gave their turn away go on. They run when this coroutine waits, each up to its next wait: who gives its
    /// turn away again is woken by the next look at the network. So a round is one such look and a turn for each.
    fn wake_yielded(&self) {
        let yielded = std::mem::take(&mut *self.0.yielded.borrow_mut());
        let mut slots = self.0.slots.borrow_mut();
        for key in yielded {
            if let Some(slot) = slots.get_mut(key) {
                slot.yields = false;
                slot.waker.wakeup();
            }
        }
    }

    pub(super) fn run(&self, job: Job<P>) {
        if let Some(runners) = self.0.runners.get() {
            runners.run(job);
        }
    }

    fn resume(&self, key: usize, wake: Wake) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        slot.deadline = u64::MAX;
        let parked = slot.parked.take();
        if let Some(tied) = slot.tied.take().and_then(|tied| slots.get_mut(tied)) {
            tied.wakes = None;
        }
        drop(slots);
        if let Some(parked) = parked {
            let Parked { io, ready, what } = parked;
            let stream = MayStream { worker: self.clone(), key, io: Some(io), ready: Cell::new(ready) };
            self.run(Job::Resumed(stream, what, wake));
        }
    }
}

impl<P: 'static> Controls for Handle<P> {
    fn take_over(&self, socket: OwnedFd, peer: SocketAddr) {
        self.take_over(socket, peer);
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
