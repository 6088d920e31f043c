//! Limits of concurrency, and the one queue of those that wait for room, or for a backend that is away: who came first is served first, whichever worker
//! it is on.
//!
//! The queue's lock is taken by who waits, and by who ends a request while somebody waits. Nobody is forgotten: who ends a
//! request first makes room and then looks whether somebody waits; who begins to wait first says so and then looks whether
//! there is room. Nobody barges in either: as long as somebody waits, newcomers wait behind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::Waker;

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

use super::{Place, Snapshot};

/// What all backends of a fleet share: the bound on all requests in flight, and the queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// 0: no bound.
    in_flight_max: usize,
    waiting_max: usize,
    /// Requests that wait; written under the queue's lock.
    waiting: AtomicUsize,
    queued: AtomicU64,
    /// Requests in flight at all backends, counted only where they are bounded.
    in_flight: CachePadded<AtomicUsize>,
    line: CachePadded<Mutex<Line>>,
}

#[derive(Debug, Default)]
struct Line {
    /// Weak, since a snapshot's backends hold the queue. It lives as long as it is the fleet's.
    snapshot: Weak<Snapshot>,
    last_number: u64,
    /// By their numbers, so that the first has waited the longest.
    waiting: BTreeMap<u64, Waiter>,
    /// Those whose turn has come, until they take notice.
    called: BTreeMap<u64, Call>,
    /// Which of those that wait looks after backends that are away, for all of them.
    scout: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    tried: Box<[u64]>,
    /// It waits for room at this one, as long as that serves sessions.
    home: Option<u64>,
    waker: Waker,
}

/// A request's number in the queue. It leaves the queue when this is dropped, and a place that it hasn't taken goes to the
/// next.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

/// What becomes of one that waits.
#[derive(Debug)]
pub enum Call {
    /// There is room for it.
    Place(Place),
    /// No backend is eligible any more.
    Nobody,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Queue {
    /// At most `in_flight_max` requests in flight at all backends (0: any number), and `waiting_max` that wait.
    pub fn new(in_flight_max: usize, waiting_max: usize) -> Self {
        Self { in_flight_max, waiting_max, ..Self::default() }
    }

    /// How many requests wait now.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// How many have had to wait so far.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Lines a request up that found no room, behind all that wait: `waker` is woken when its turn has come. It prefers a
    /// backend that is none of `tried`. One with a `home` that serves sessions waits for room there alone.
    ///
    /// # Errors
    /// As many wait as may, and there is still no room.
    pub fn join(self: &Arc<Self>, tried: &[u64], home: Option<u64>, waker: Waker) -> Result<Ticket, QueueFull> {
        let mut line = self.line.lock();
        line.last_number += 1;
        let number = line.last_number;
        line.waiting.insert(number, Waiter { tried: tried.into(), home, waker });
        self.waiting.store(line.waiting.len(), Ordering::SeqCst);
        // Room that was made before this is seen here; who makes some after it sees that somebody waits.
        fence(Ordering::SeqCst);
        let called = line.call();
        let is_over = line.waiting.len() > self.waiting_max && line.waiting.remove(&number).is_some();
        if line.waiting.contains_key(&number) {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        self.unlock(line, called);
        if is_over { Err(QueueFull) } else { Ok(Ticket { queue: Arc::clone(self), number }) }
    }

    /// From now on places are given away at the backends of this snapshot.
    pub(super) fn serve_from(&self, snapshot: &Arc<Snapshot>) {
        let mut line = self.line.lock();
        line.snapshot = Arc::downgrade(snapshot);
        let called = line.call();
        self.unlock(line, called);
    }

    /// To be called when there may be room.
    #[inline]
    pub(super) fn room_made(&self) {
        if self.waiting() > 0 {
            self.call();
        }
    }

    #[cold]
    fn call(&self) {
        let mut line = self.line.lock();
        let called = line.call();
        self.unlock(line, called);
    }

    /// Has all that wait look around, since it isn't for room any more.
    #[cold]
    pub(super) fn rouse(&self) {
        let line = self.line.lock();
        let all = line.waiting.values().map(|waiter| waiter.waker.clone()).collect();
        self.unlock(line, all);
    }

    /// Says how many wait, and wakes those that don't any more.
    fn unlock(&self, line: parking_lot::MutexGuard<'_, Line>, called: Vec<Waker>) {
        self.waiting.store(line.waiting.len(), Ordering::SeqCst);
        drop(line);
        called.into_iter().for_each(Waker::wake);
    }

    #[inline]
    pub(super) fn is_bounded(&self) -> bool {
        self.in_flight_max > 0
    }

    pub(super) fn has_room(&self) -> bool {
        !self.is_bounded() || self.in_flight.load(Ordering::Acquire) < self.in_flight_max
    }

    /// Counts one more in flight; false where there is no room.
    pub(super) fn enter(&self) -> bool {
        !self.is_bounded() || count_within(&self.in_flight, self.in_flight_max)
    }

    /// Counts one less, to be called before [`Self::room_made`].
    #[inline]
    pub(super) fn leave(&self) {
        if self.is_bounded() {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Line {
    /// Gives away what room there is, in the order of arrival; those that are to be woken. Who has failed at the only
    /// backend with room lets others go first.
    fn call(&mut self) -> Vec<Waker> {
        let mut called = Vec::new();
        let Some(snapshot) = self.snapshot.upgrade() else { return called };
        if !snapshot.has_eligible() {
            for (number, waiter) in std::mem::take(&mut self.waiting) {
                self.called.insert(number, Call::Nobody);
                called.push(waiter.waker);
            }
            return called;
        }
        for is_choosy in [true, false] {
            let mut last = 0;
            while let Some((&number, waiter)) = self.waiting.range(last + 1..).next() {
                last = number;
                let tried = if is_choosy { &*waiter.tried } else { &[] };
                let home = waiter.home.and_then(|id| snapshot.home(id));
                match home.map_or_else(|| snapshot.take_place(tried), |home| Place::take(home, false)) {
                    Some(place) => {
                        self.called.insert(number, Call::Place(place));
                        called.extend(self.waiting.remove(&number).map(|waiter| waiter.waker));
                    }
                    None if tried.is_empty() && home.is_none() => return called,
                    None => {}
                }
            }
        }
        called
    }
}

impl Ticket {
    /// What has become of the one that waits; None: it still does. To be looked at again whenever its waker was woken.
    pub fn take_call(&self) -> Option<Call> {
        self.queue.line.lock().called.remove(&self.number)
    }

    /// Whether it is for this one to look after backends that are away, until it leaves: one does so for all that wait.
    pub fn is_scout(&self) -> bool {
        *self.queue.line.lock().scout.get_or_insert(self.number) == self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line.lock();
        line.waiting.remove(&self.number);
        let left = line.called.remove(&self.number);
        let scouted = line.scout.take_if(|scout| *scout == self.number).is_some();
        let next = if scouted { line.waiting.values().next().map(|waiter| waiter.waker.clone()) } else { None };
        self.queue.unlock(line, next.into_iter().collect());
        // Its place is given to the next, which takes the lock again.
        drop(left);
    }
}

/// Counts one more unless there are `max`.
pub(super) fn count_within(count: &AtomicUsize, max: usize) -> bool {
    let more = |now| (now < max).then_some(now + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

#[cfg(test)]
mod tests;
