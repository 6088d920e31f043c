//! Who of the handshakes in progress keeps a place, and who is answered next.
//!
//! A handshake waits for its client or, once the client has said its hello, for the worker: then it is in the queue, without a
//! coroutine. Clients are told apart by address. In the queue each of them has one that is answered, then each a second one, and
//! so on (start-time fair queueing, Goyal et al. 1996), so that one address can't keep others waiting however often it connects.
//! Where there are too many, an address with the most of them gives a place up: that of its oldest handshake that waits for its
//! client, since a client takes moments for its part and the oldest of a flood are those that will never end theirs; else that of
//! its last one in the queue, and not for one more of its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Waker;

/// Handshakes that wait for a turn with a coroutine each, so that some can be answered in the same one.
const CALLED_MAX: usize = 4;

/// A worker's places.
pub(super) struct Places {
    max: usize,
    taken: Rc<RefCell<Taken>>,
}

/// One handshake's.
pub(super) struct Place {
    held: Rc<Held>,
    taken: Rc<RefCell<Taken>>,
}

#[derive(Default)]
struct Taken {
    count: usize,
    begun: u64,
    /// Those that wait for their client, in the order in which they began.
    waiting: BTreeMap<u64, Rc<Held>>,
    /// Those that wait for a turn, by round, and in the order in which they began.
    queue: BTreeMap<(u64, u64), Rc<Held>>,
    /// That of the last one that was called.
    round: u64,
    /// So many are next, and aren't answered yet. Each calls another one then.
    called: usize,
    shares: HashMap<Client, Rc<Share>>,
}

struct Held {
    number: u64,
    client: Client,
    share: Rc<Share>,
    state: Cell<State>,
    /// Brings the connection back, once it is parked.
    waker: RefCell<Option<Waker>>,
}

/// What a client's handshakes have together.
#[derive(Default)]
struct Share {
    places: Cell<usize>,
    /// The first round that its next one in the queue may be of.
    next_round: Cell<u64>,
}

/// The address of a client, and of an IPv6 one its /64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Client(u64);

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// For its client.
    Waiting,
    /// For a turn, and its client for it: it has to be parked until it is called.
    Queued(u64),
    /// For nothing: it is among the next to be answered.
    Called,
    /// Another has its place.
    Lost,
}

impl Places {
    /// So many at most.
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Rc::default() }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.borrow().count
    }

    /// Takes one for a client at this address, if need be another's. None: there is none for it.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken.borrow_mut();
        let client = Client::of(address);
        if taken.count >= self.max {
            taken.make_room(client)?;
        }
        let share = Rc::clone(taken.shares.entry(client).or_default());
        share.places.update(|places| places + 1);
        let (number, state) = (taken.begun, Cell::new(State::Waiting));
        let held = Rc::new(Held { number, client, share, state, waker: RefCell::default() });
        taken.begun += 1;
        taken.count += 1;
        taken.waiting.insert(number, Rc::clone(&held));
        Some(Place { held, taken: Rc::clone(&self.taken) })
    }
}

impl Taken {
    fn make_room(&mut self, newcomer: Client) -> Option<()> {
        let most = self.shares.values().map(|share| share.places.get()).max()?;
        let has_most = |held: &&Rc<Held>| held.share.places.get() == most;
        let waiting = self.waiting.values().find(has_most).cloned();
        let is_another = self.shares.get(&newcomer).is_none_or(|share| share.places.get() < most);
        let loses = waiting.or_else(|| self.queue.values().rev().find(has_most).filter(|_| is_another).cloned())?;
        self.leave(&loses);
        loses.state.set(State::Lost);
        loses.wake();
        Some(())
    }

    /// One that waited for its client is to be answered, now or when it is called.
    fn line_up(&mut self, held: &Rc<Held>) {
        self.waiting.remove(&held.number);
        let round = self.round.max(held.share.next_round.get());
        held.share.next_round.set(round + 1);
        held.state.set(State::Queued(round));
        self.queue.insert((round, held.number), Rc::clone(held));
        self.call();
    }

    /// Calls those who are next, as long as there is room for them.
    fn call(&mut self) {
        while self.called < CALLED_MAX
            && let Some(((round, _), held)) = self.queue.pop_first()
        {
            self.called += 1;
            self.round = round;
            held.state.set(State::Called);
            held.wake();
        }
    }

    fn leave(&mut self, held: &Held) {
        match held.state.get() {
            State::Waiting => drop(self.waiting.remove(&held.number)),
            State::Queued(round) => drop(self.queue.remove(&(round, held.number))),
            State::Called => {
                self.called -= 1;
                self.call();
            }
            State::Lost => return,
        }
        self.count -= 1;
        held.share.places.update(|places| places - 1);
        if held.share.places.get() == 0 {
            self.shares.remove(&held.client);
        }
    }
}

impl Place {
    pub(super) fn state(&self) -> State {
        self.held.state.get()
    }

    /// Its client has said its hello. Whether that is to be answered now; else it is in the queue.
    pub(super) fn is_next(&self) -> bool {
        if self.state() == State::Waiting {
            self.taken.borrow_mut().line_up(&self.held);
        }
        self.state() == State::Called
    }

    /// It was called, and waits for its client from now on. Another one is called.
    pub(super) fn is_answered(&self) {
        let mut taken = self.taken.borrow_mut();
        self.held.state.set(State::Waiting);
        taken.waiting.insert(self.held.number, Rc::clone(&self.held));
        taken.called -= 1;
        taken.call();
    }

    /// It is to be parked, and `waker` brings it back.
    pub(super) fn parks(&self, waker: impl FnOnce() -> Waker) {
        self.held.waker.borrow_mut().get_or_insert_with(waker);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.borrow_mut().leave(&self.held);
    }
}

impl Held {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Of IPv6 clients that of loopback alone begins with 32 zeros (RFC 4291 §2.4).
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn address(nth: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, nth))
    }

    fn is_lost(place: &Place) -> bool {
        place.state() == State::Lost
    }

    #[test]
    fn where_there_are_too_many_the_oldest_that_waits_for_its_client_gives_its_place_up() {
        let places = Places::new(2);
        let take = || places.take(address(1)).expect("a place");
        let mut taken = [(); 4].map(|()| take());
        assert_eq!(taken.each_ref().map(is_lost), [true, true, false, false], "the oldest go");
        assert_eq!(places.taken(), 2);
        taken[3] = take();
        assert_eq!(taken.each_ref().map(is_lost), [true, true, true, false]);
        // One that is parked is brought back for it.
        let woken = Arc::new(Woken::default());
        taken[3].parks(|| Waker::from(Arc::clone(&woken)));
        let [other, another] = [(); 2].map(|()| take());
        assert!(is_lost(&taken[3]) && woken.0.load(Ordering::SeqCst) && !is_lost(&another));
        drop((taken, other));
        assert_eq!(places.taken(), 1);
        drop(another);
        assert!(places.taken() == 0 && places.taken.borrow().shares.is_empty());
    }

    /// Those that were next to be answered had been the first to lose their place.
    #[test]
    fn who_waits_for_a_turn_has_it_in_order_and_loses_its_place_to_none_of_its_own_client() {
        let places = Places::new(10);
        let mut taken: Vec<_> = (0..10).map(|_| places.take(address(1)).expect("a place")).collect();
        let woken: Vec<_> = taken.iter().map(|_| Arc::new(Woken::default())).collect();
        for (place, woken) in taken.iter().zip(&woken) {
            place.parks(|| Waker::from(Arc::clone(woken)));
        }
        // Some come to be next at once, the others to the queue, but for the last, which waits for its client.
        let next: Vec<_> = taken[..9].iter().map(Place::is_next).collect();
        assert_eq!(next, [true, true, true, true, false, false, false, false, false]);
        let newcomer = places.take(address(1)).expect("the one that waits goes");
        assert!(is_lost(&taken[9]) && !newcomer.is_next());
        assert!(places.take(address(1)).is_none(), "nobody waits for its client");

        let called = |nth: usize| woken[nth].0.load(Ordering::SeqCst);
        assert!((4..9).all(|nth| !called(nth)));
        taken[0].is_answered();
        assert!(called(4) && !called(5) && taken[0].state() == State::Waiting, "one for another, in order");
        // One of the queue goes, and one that was called.
        drop(taken.remove(5));
        drop(taken.remove(4));
        assert!(called(6) && !called(7));
        assert!(taken[4].is_next(), "it stood behind those");
        assert_eq!(places.taken(), 8);
        drop((taken, newcomer));
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn who_comes_once_waits_for_one_of_each_other_client_and_gets_a_place_of_who_has_the_most() {
        let places = Places::new(40);
        let flood: Vec<_> = (0..40).map(|nth| places.take(address(nth % 2)).expect("a place")).collect();
        for place in &flood {
            place.is_next();
        }
        assert!(places.take(address(0)).is_none(), "it has as many as anybody");
        let other = places.take(address(2)).expect("a place");
        assert!(flood.iter().rposition(is_lost) >= Some(38), "the last of the queue");
        assert!(!other.is_next());
        // Those that are called are answered, so that others are.
        let mut answered = 0;
        while other.state() != State::Called {
            let next = flood.iter().find(|place| place.state() == State::Called).expect("one that is called");
            next.is_answered();
            answered += 1;
        }
        assert!(answered <= 4, "{answered} of others");
        assert_eq!(Client::of(address(1)).0, u64::from(u32::from_be_bytes([192, 0, 2, 1])));
        let [one, neighbour, other] =
            ["2001:db8:0:1::1", "2001:db8:0:1:ffff::", "2001:db8:0:2::1"].map(|v6| Client::of(v6.parse().expect("v6")));
        assert!(one == neighbour && one != other);
        assert!(Client::of("::ffff:192.0.2.1".parse().expect("mapped")) == Client::of(address(1)));
    }

    proptest! {
        #[test]
        fn places_are_never_too_many_and_who_is_queued_is_called_by_and_by(
            max in 1usize..12,
            steps in prop::collection::vec((0u8..4, 0u8..4, any::<prop::sample::Index>()), 1..200),
        ) {
            let places = Places::new(max);
            let mut taken: Vec<Place> = Vec::new();
            for (step, client, nth) in steps {
                match step {
                    0 | 1 => taken.extend(places.take(address(client))),
                    _ if taken.is_empty() => {}
                    2 => drop(taken.swap_remove(nth.index(taken.len()))),
                    _ => {
                        let place = &taken[nth.index(taken.len())];
                        if place.is_next() {
                            place.is_answered();
                        }
                    }
                }
                let kept = taken.iter().filter(|place| !is_lost(place)).count();
                prop_assert!(places.taken() == kept && kept <= max);
                let called = taken.iter().filter(|place| place.state() == State::Called).count();
                let queued = taken.iter().filter(|place| matches!(place.state(), State::Queued(_))).count();
                let inner = places.taken.borrow();
                prop_assert!(inner.called == called && inner.queue.len() == queued && called <= CALLED_MAX);
                prop_assert!(inner.waiting.len() == kept - called - queued);
                prop_assert!(called == CALLED_MAX || queued == 0, "{queued} wait, and {called} are called");
                let clients: BTreeSet<_> = taken.iter().filter(|place| !is_lost(place)).map(|p| p.held.client.0).collect();
                prop_assert_eq!(inner.shares.len(), clients.len());
                prop_assert_eq!(inner.shares.values().map(|share| share.places.get()).sum::<usize>(), kept);
            }
        }
    }
}
