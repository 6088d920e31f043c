//! A pool's waiting line: requests that wait for room, or for a backend that is away. They are served in the order of their
//! arrival, whichever workers they are on. The line knows nothing of backends: what it gives away are [`Places`].
//!
//! Its lock is taken by a request that begins to wait, and by one that ends while others wait. None is forgotten: a request
//! that ends first makes room and then looks whether any wait; one that begins to wait first says so and then looks whether
//! there is room. None barges in either: as long as any wait, newcomers wait behind.
//!
//! How many may wait is decided by the policy that a snapshot is made with, and so is how many requests may be in flight in
//! the pool. Both are compared with what is counted here, in one step, and so the snapshot's publishing puts them here too.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::Waker;

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

/// What a line gives away places of: a snapshot of the pool.
pub trait Places: fmt::Debug + Send + Sync {
    /// Room for a request, counted until it is dropped.
    type Place;

    /// Whether any backend may get traffic.
    fn has_eligible(&self) -> bool;

    /// Whether any that is none of `tried` has places, free ones or not.
    fn has_other_than(&self, tried: &[u64]) -> bool;

    /// Takes a place for a request that has waited, at none of `tried`; None where there is no room.
    fn take_place(&self, tried: &[u64]) -> Option<Self::Place>;

    /// The same, at the backend with this id, which a session is bound to.
    fn take_home(&self, id: u64) -> Result<Self::Place, NoPlaceAtHome>;
}

/// So often a request that has failed at the backends with room lets others go first, at most: one that it hasn't failed at may
/// be full for long.
const YIELDS_MAX: u32 = 16;

/// Why there is no place at the backend that a session is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlaceAtHome {
    /// It has no room for now.
    Full,
    /// It doesn't serve its sessions: another one may.
    NotServing,
}

/// What all backends of a pool share: those that wait, and the count of all requests in flight.
#[derive(Debug)]
pub struct Line<P> {
    /// Requests that wait; written under the lock.
    waiting: AtomicUsize,
    queued: AtomicU64,
    load: CachePadded<Load>,
    waiters: CachePadded<Mutex<Waiters<P>>>,
}

/// Together on a cache line: what reads the one writes the other.
#[derive(Debug, Default)]
struct Load {
    /// Requests in flight at all backends that were counted here: none that began while there was no bound.
    in_flight: AtomicUsize,
    /// As it was published last; 0: no bound.
    in_flight_max: AtomicUsize,
}

#[derive(Debug)]
struct Waiters<P> {
    /// As it was published last.
    waiting_max: usize,
    /// Weak, since a snapshot's backends hold the line. It lives as long as it is the pool's.
    places: Option<Weak<dyn Places<Place = P>>>,
    last_number: u64,
    /// By their numbers, so that the first has waited the longest.
    waiting: BTreeMap<u64, Waiter>,
    /// Those whose turn has come, until they take notice.
    called: BTreeMap<u64, Call<P>>,
    /// Which of those that wait looks after backends that are away, for all of them.
    scout: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    tried: Box<[u64]>,
    /// How often it has let others go first.
    yields: u32,
    /// It waits for room at this one, as long as that serves sessions.
    home: Option<u64>,
    waker: Waker,
}

/// A request's number in the line. It leaves the line when this is dropped, and a place that it hasn't taken goes to the
/// next.
#[derive(Debug)]
pub struct Ticket<P> {
    line: Arc<Line<P>>,
    number: u64,
}

/// What becomes of one that waits.
#[derive(Debug)]
pub enum Call<P> {
    /// There is room for it.
    Place(P),
    /// No backend is eligible any more.
    NoBackend,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl<P> Default for Line<P> {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            queued: AtomicU64::new(0),
            load: CachePadded::default(),
            waiters: CachePadded::new(Mutex::new(Waiters {
                waiting_max: 0,
                places: None,
                last_number: 0,
                waiting: BTreeMap::new(),
                called: BTreeMap::new(),
                scout: None,
            })),
        }
    }
}

impl<P> Line<P> {
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
    /// backend that is none of `tried`, as long as there is one and not for long. One with a `home` that serves sessions waits for room there alone.
    ///
    /// # Errors
    /// As many wait as may, and there is still no room.
    pub fn join(self: &Arc<Self>, tried: &[u64], home: Option<u64>, waker: Waker) -> Result<Ticket<P>, QueueFull> {
        let mut waiters = self.waiters.lock();
        waiters.last_number += 1;
        let number = waiters.last_number;
        waiters.waiting.insert(number, Waiter { tried: tried.into(), yields: 0, home, waker });
        self.waiting.store(waiters.waiting.len(), Ordering::SeqCst);
        // Room that was made before this is seen here; a request that makes some after it sees that this one waits.
        fence(Ordering::SeqCst);
        let called = waiters.call();
        let is_over = waiters.waiting.len() > waiters.waiting_max && waiters.waiting.remove(&number).is_some();
        if waiters.waiting.contains_key(&number) {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        self.unlock(waiters, called);
        if is_over { Err(QueueFull) } else { Ok(Ticket { line: Arc::clone(self), number }) }
    }

    /// Publishes the bounds on requests in flight (0: none) and on those that wait. What is beyond a lower one goes on, and
    /// what began without one doesn't count.
    pub(super) fn publish_bounds(&self, in_flight_max: usize, waiting_max: usize) {
        self.load.in_flight_max.store(in_flight_max, Ordering::SeqCst);
        self.waiters.lock().waiting_max = waiting_max;
    }

    /// From now on these places are given away.
    pub(super) fn serve_from(&self, places: &Arc<dyn Places<Place = P>>) {
        let mut waiters = self.waiters.lock();
        waiters.places = Some(Arc::downgrade(places));
        let called = waiters.call();
        self.unlock(waiters, called);
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
        let mut waiters = self.waiters.lock();
        let called = waiters.call();
        self.unlock(waiters, called);
    }

    /// Has all that wait look around, since it isn't for room any more.
    #[cold]
    pub(super) fn rouse(&self) {
        let waiters = self.waiters.lock();
        let all = waiters.waiting.values().map(|waiter| waiter.waker.clone()).collect();
        self.unlock(waiters, all);
    }

    /// Says how many wait, and wakes those that don't any more.
    fn unlock(&self, waiters: MutexGuard<'_, Waiters<P>>, called: Vec<Waker>) {
        self.waiting.store(waiters.waiting.len(), Ordering::SeqCst);
        drop(waiters);
        called.into_iter().for_each(Waker::wake);
    }

    /// Whether there is room for a request more in flight.
    pub(super) fn has_room(&self) -> bool {
        let max = self.load.in_flight_max.load(Ordering::Relaxed);
        max == 0 || self.load.in_flight.load(Ordering::Acquire) < max
    }

    /// Counts one more in flight where there is a bound, and says whether it did; None where there is no room.
    pub(super) fn enter(&self) -> Option<bool> {
        match self.load.in_flight_max.load(Ordering::Relaxed) {
            0 => Some(false),
            max => count_within(&self.load.in_flight, max).then_some(true),
        }
    }

    /// Counts one less that was counted, to be called before [`Self::room_made`].
    pub(super) fn leave(&self) {
        self.load.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<P> Waiters<P> {
    /// Gives away what room there is, in the order of arrival; those that are to be woken. A request that has failed at all
    /// backends with room, and not at all there are, lets others go first a few times.
    fn call(&mut self) -> Vec<Waker> {
        let mut called = Vec::new();
        let Some(places) = self.places.as_ref().and_then(Weak::upgrade) else { return called };
        if !places.has_eligible() {
            for (number, waiter) in std::mem::take(&mut self.waiting) {
                self.called.insert(number, Call::NoBackend);
                called.push(waiter.waker);
            }
            return called;
        }
        for is_choosy in [true, false] {
            let mut last = 0;
            while let Some((&number, waiter)) = self.waiting.range_mut(last + 1..).next() {
                last = number;
                let yields = is_choosy && waiter.yields < YIELDS_MAX && places.has_other_than(&waiter.tried);
                let tried = if yields { &*waiter.tried } else { &[] };
                let (place, has_home) = match waiter.home.map(|id| places.take_home(id)) {
                    Some(Ok(place)) => (Some(place), true),
                    Some(Err(NoPlaceAtHome::Full)) => (None, true),
                    Some(Err(NoPlaceAtHome::NotServing)) | None => (places.take_place(tried), false),
                };
                match place {
                    Some(place) => {
                        self.called.insert(number, Call::Place(place));
                        called.extend(self.waiting.remove(&number).map(|waiter| waiter.waker));
                    }
                    None if tried.is_empty() && !has_home => return called,
                    None => waiter.yields += u32::from(yields),
                }
            }
        }
        called
    }
}

impl<P> Ticket<P> {
    /// What has become of the one that waits; None: it still does. To be looked at again whenever its waker was woken.
    pub fn take_call(&self) -> Option<Call<P>> {
        self.line.waiters.lock().called.remove(&self.number)
    }

    /// Whether it is for this one to look after backends that are away, until it leaves: one does so for all that wait.
    pub fn is_scout(&self) -> bool {
        *self.line.waiters.lock().scout.get_or_insert(self.number) == self.number
    }
}

impl<P> Drop for Ticket<P> {
    fn drop(&mut self) {
        let mut waiters = self.line.waiters.lock();
        waiters.waiting.remove(&self.number);
        let left = waiters.called.remove(&self.number);
        let scouted = waiters.scout.take_if(|scout| *scout == self.number).is_some();
        let next = if scouted { waiters.waiting.values().next().map(|waiter| waiter.waker.clone()) } else { None };
        self.line.unlock(waiters, next.into_iter().collect());
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
