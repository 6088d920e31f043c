//! Backends that are picked from together, and the strategies themselves.

use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::backend::{Backend, Place};
use super::gate::Standing;
use super::maglev;
use super::member::Member;
use super::rotation::rotation;
use super::strategy::{HashKey, Occasion, Policy, Strategy};

/// How far a second choice is looked for: beyond it the first one has nearly all of the weight anyway.
const SECOND_CHOICE_STEPS: usize = 16;
/// How many slots for each backend are looked at for one that has room; then the least loaded is taken.
const BOUNDED_STEPS_PER_BACKEND: usize = 8;
/// A backend with fewer requests in flight than this isn't busy, whatever the others have: at so little load the bound
/// would send the parallel requests of one browser apart.
const BOUND_MIN: usize = 8;
/// How often a pick is made again whose backend another worker was quicker to take on trial.
const PICKS_MAX: usize = 4;
/// How many turns in a row may be passed on before all candidates are looked at.
const TURNS_PASSED_ON_MAX: usize = 16;
/// Loads are compared as whole numbers: requests in flight times this, for each unit of weight.
const LOAD_SCALE: u64 = 1 << 24;

/// Backends that are picked from together; there is at least one, and none has a weight of 0.
#[derive(Debug)]
pub(super) struct Tier {
    candidates: Vec<Candidate>,
    /// Which candidate has which turn, or which slot of the hash table, by index. Empty where the strategy
    /// looks at all of them.
    ring: Box<[u16]>,
    weight_sum: u64,
}

#[derive(Debug)]
struct Candidate {
    /// Its index.
    number: u16,
    backend: Arc<Backend>,
    weight: u32,
}

impl Tier {
    /// None when there is no backend to pick.
    pub(super) fn of<'m>(members: impl Iterator<Item = &'m Member>, strategy: &Strategy) -> Option<Self> {
        let candidate = |(number, member): (u16, &Member)| Candidate {
            number,
            backend: Arc::clone(&member.backend),
            weight: member.share(),
        };
        let candidates: Vec<_> = (0..).zip(members.filter(|member| member.share() > 0)).map(candidate).collect();
        if candidates.is_empty() {
            return None;
        }
        let weights: Vec<_> = candidates.iter().map(|candidate| candidate.weight).collect();
        let ring = match strategy {
            Strategy::LeastConn => Box::default(),
            Strategy::Hash(_) => {
                let names: Vec<_> = candidates.iter().map(|candidate| candidate.backend.name.as_str()).collect();
                maglev::table(&names, &weights)
            }
            _ => rotation(&weights),
        };
        let weight_sum = weights.iter().map(|weight| u64::from(*weight)).sum();
        Some(Self { candidates, ring, weight_sum })
    }

    /// Whether [`Self::pick`] would find one.
    pub(super) fn offers_other_than(&self, tried: &[u64]) -> bool {
        self.candidates.iter().any(|candidate| candidate.may_serve(tried))
    }

    /// Picks one that is none of `tried`, and that its breaker lets the request through to; None when there is none.
    #[inline]
    pub(super) fn pick(
        &self,
        policy: &Policy,
        cursor: &AtomicUsize,
        tried: &[u64],
        occasion: &impl Occasion,
    ) -> Option<&Arc<Backend>> {
        let candidate = self.choose(policy, cursor, tried, occasion)?;
        if candidate.backend.admit() {
            return Some(&candidate.backend);
        }
        self.pick_again(policy, cursor, tried, occasion)
    }

    #[cold]
    fn pick_again(
        &self,
        policy: &Policy,
        cursor: &AtomicUsize,
        tried: &[u64],
        occasion: &impl Occasion,
    ) -> Option<&Arc<Backend>> {
        let mut picks = (1..PICKS_MAX).map_while(|_| self.choose(policy, cursor, tried, occasion));
        picks.find(|candidate| candidate.backend.admit()).map(|candidate| &candidate.backend)
    }

    /// By chance one of those that their breakers have shut out: for a request that has no other choice.
    #[cold]
    pub(super) fn pick_avoided(&self, random: u64) -> Option<&Arc<Backend>> {
        let (before, after) = self.candidates.split_at(scaled((random >> 32) as u32, self.candidates.len() as u64));
        let serves = |candidate: &&Candidate| candidate.is_avoided() && candidate.backend.has_room();
        after.iter().chain(before).find(serves).map(|candidate| &candidate.backend)
    }

    /// Whether any breaker lets requests through, whether there is room for them or not.
    pub(super) fn is_open(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.backend.is_open())
    }

    /// Whether there are those that their breakers have shut out, and that are picked for want of others.
    pub(super) fn has_avoided(&self) -> bool {
        self.candidates.iter().any(Candidate::is_avoided)
    }

    /// Those that could be picked if they had room: their breakers let requests through, or they are picked for want of
    /// others.
    pub(super) fn usable(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let usable = |candidate: &&Candidate| candidate.backend.is_open() || candidate.is_avoided();
        self.candidates.iter().filter(usable).map(|candidate| &candidate.backend)
    }

    /// A place for a request that has waited, at the least loaded one that [`Self::pick`] could pick.
    pub(super) fn take_place(&self, tried: &[u64]) -> Option<Place> {
        self.take_least_loaded(false, |candidate| candidate.may_serve(tried))
    }

    /// The same, at one that [`Self::pick_avoided`] could pick.
    pub(super) fn take_avoided_place(&self) -> Option<Place> {
        self.take_least_loaded(true, |candidate| candidate.is_avoided() && candidate.backend.has_room())
    }

    fn take_least_loaded(&self, trusted: bool, serves: impl Fn(&Candidate) -> bool) -> Option<Place> {
        loop {
            let able = self.candidates.iter().filter(|candidate| serves(candidate));
            let least_loaded = able.min_by_key(|candidate| candidate.load())?;
            // Where another request was quicker, another backend may have room.
            if let Some(place) = Place::take(&least_loaded.backend, trusted) {
                return Some(place);
            }
        }
    }

    #[inline]
    fn choose(
        &self,
        policy: &Policy,
        cursor: &AtomicUsize,
        tried: &[u64],
        occasion: &impl Occasion,
    ) -> Option<&Candidate> {
        match &policy.strategy {
            Strategy::RoundRobin => self.in_turn(cursor, tried),
            Strategy::LeastConn => self.least_loaded(cursor, tried),
            Strategy::Random => self.drawn(occasion.random(), tried),
            Strategy::P2c => self.lightest_drawn(occasion.random(), cursor, tried),
            Strategy::PeakEwma => {
                let now_ns = occasion.now_ns();
                self.lighter_of_two(occasion.random(), tried, |candidate| candidate.expected_micros(now_ns))
            }
            Strategy::Hash(source) => self.by_key(source, policy.balance_factor, cursor, tried, occasion),
        }
    }

    #[inline]
    fn in_turn(&self, cursor: &AtomicUsize, tried: &[u64]) -> Option<&Candidate> {
        let position = take_turn(cursor) % self.ring.len();
        let first = self.at(position);
        if first.may_serve(tried) { Some(first) } else { self.passed_on(position, cursor, tried) }
    }

    /// The next that can serve, since the backend at `position` can't. Where it has failed this request, it is passed over
    /// this once, and the next on the ring serves. Where no request can be sent to it, all of its turns fall to others: the
    /// request then takes another turn, as if it came anew, so that they don't all fall to the next on the ring.
    #[cold]
    fn passed_on(&self, position: usize, cursor: &AtomicUsize, tried: &[u64]) -> Option<&Candidate> {
        if tried.is_empty() && self.offers_other_than(tried) {
            for _ in 0..TURNS_PASSED_ON_MAX {
                let next = self.at(take_turn(cursor) % self.ring.len());
                if next.may_serve(tried) {
                    return Some(next);
                }
            }
        }
        self.able_from(position, tried)
    }

    /// The first on the ring from `position` on that can serve. Mostly that is the one there, so the length of the walk
    /// doesn't matter.
    #[inline]
    fn able_from(&self, position: usize, tried: &[u64]) -> Option<&Candidate> {
        let first = self.at(position);
        if first.may_serve(tried) {
            return Some(first);
        }
        self.from(position).find(|candidate| candidate.may_serve(tried))
    }

    /// One by chance, and by the lower half of the same number when that one can't serve.
    fn drawn(&self, random: u64, tried: &[u64]) -> Option<&Candidate> {
        let first = self.at(self.position(random));
        if first.may_serve(tried) { Some(first) } else { self.able_from(self.position(random << 32), tried) }
    }

    /// The one with the fewest requests in flight for its weight that can serve, by turns among equals.
    fn least_loaded(&self, cursor: &AtomicUsize, tried: &[u64]) -> Option<&Candidate> {
        let able = || self.candidates.iter().filter(|candidate| candidate.may_serve(tried));
        let turn = take_turn(cursor);
        let (mut least, mut ties) = (u64::MAX, 0);
        for candidate in able() {
            let load = candidate.load();
            if load < least {
                (least, ties) = (load, 1);
            } else if load == least {
                ties += 1;
            }
        }
        // Counts move while this looks at them: when fewer ties are left than were seen, any of them is as good.
        let mut left = turn.checked_rem(ties).unwrap_or(0);
        let mut found = None;
        for candidate in able().filter(|candidate| candidate.load() <= least) {
            found = Some(candidate);
            if left == 0 {
                break;
            }
            left -= 1;
        }
        found.or_else(|| able().next())
    }

    /// Of two that are drawn by weight and one that is remembered, the one with the fewest requests in flight for its weight.
    /// Remembered is the one that was lightest with this request counted: that makes of two choices nearly three
    /// (Mitzenmacher, Prabhakar and Shah, "Load Balancing with Memory", 2002). The cursor keeps it, for all workers.
    fn lightest_drawn(&self, random: u64, cursor: &AtomicUsize, tried: &[u64]) -> Option<&Candidate> {
        let (one, other) = self.two_drawn(random, tried)?;
        let remembered = self.candidates.get(cursor.load(Ordering::Relaxed));
        let sampled = [remembered.filter(|candidate| candidate.may_serve(tried)), Some(one), other];
        let sampled = || sampled.into_iter().flatten();
        let lightest = sampled().min_by_key(|candidate| candidate.load())?;
        let next = sampled()
            .min_by_key(|candidate| candidate.load_with(1 + u64::from(candidate.number == lightest.number)))?;
        cursor.store(next.number.into(), Ordering::Relaxed);
        Some(lightest)
    }

    /// Of two that are drawn by weight, the one that costs less.
    fn lighter_of_two<C: PartialOrd>(
        &self,
        random: u64,
        tried: &[u64],
        cost: impl Fn(&Candidate) -> C,
    ) -> Option<&Candidate> {
        match self.two_drawn(random, tried)? {
            (one, Some(other)) if cost(other) < cost(one) => Some(other),
            (one, _) => Some(one),
        }
    }

    /// Two different ones by weight, or one when no other is near.
    fn two_drawn(&self, random: u64, tried: &[u64]) -> Option<(&Candidate, Option<&Candidate>)> {
        let position = self.position(random);
        let one = self.able_from(position, tried)?;
        // Any other position is as likely as the next, so that two equal backends are always both looked at.
        let others = self.ring.len() as u64 - 1;
        let second = (position + 1 + scaled(random as u32, others)) % self.ring.len();
        let is_other = |candidate: &&Candidate| candidate.number != one.number && candidate.may_serve(tried);
        Some((one, self.from(second).take(SECOND_CHOICE_STEPS).find(is_other)))
    }

    /// The one that the key belongs to, or the next on the table that can serve and has room.
    fn by_key(
        &self,
        source: &HashKey,
        balance_factor: Option<f64>,
        cursor: &AtomicUsize,
        tried: &[u64],
        occasion: &impl Occasion,
    ) -> Option<&Candidate> {
        let Some(key) = occasion.key(source) else { return self.in_turn(cursor, tried) };
        let position = self.position(key);
        let Some(factor) = balance_factor else { return self.able_from(position, tried) };
        let in_flight = LazyCell::new(|| self.candidates.iter().map(|candidate| candidate.backend.in_flight()).sum());
        let has_room = |candidate: &Candidate| {
            let load = candidate.backend.in_flight();
            load < BOUND_MIN || load < self.bound(candidate, factor, *in_flight)
        };
        let steps = self.candidates.len() * BOUNDED_STEPS_PER_BACKEND;
        let mut near = self.from(position).take(steps);
        near.find(|candidate| candidate.may_serve(tried) && has_room(candidate))
            .or_else(|| self.least_loaded(cursor, tried))
    }

    /// How many requests a backend may have in flight when there are `in_flight` in all and one more (Mirrokni et al.,
    /// "Consistent Hashing with Bounded Loads", 2016). As the factor is 1 or more, they can't all be at the bound.
    #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)] // counts of requests, far below 2^53
    fn bound(&self, candidate: &Candidate, factor: f64, in_flight: usize) -> usize {
        let fair = (in_flight + 1) as f64 * f64::from(candidate.weight) / self.weight_sum as f64;
        (fair * factor).ceil() as usize
    }

    /// The ring from `position` on, once around.
    fn from(&self, position: usize) -> impl Iterator<Item = &Candidate> {
        let (before, after) = self.ring.split_at(position);
        after.iter().chain(before).map(|index| &self.candidates[usize::from(*index)])
    }

    #[inline]
    fn at(&self, position: usize) -> &Candidate {
        &self.candidates[usize::from(self.ring[position])]
    }

    /// A position on the ring from the upper half of a random number.
    fn position(&self, random: u64) -> usize {
        scaled((random >> 32) as u32, self.ring.len() as u64)
    }
}

impl Candidate {
    /// It hasn't failed this request, its breaker lets requests through, and there is room for one.
    #[inline]
    fn may_serve(&self, tried: &[u64]) -> bool {
        !tried.contains(&self.backend.id) && self.backend.is_open() && self.backend.has_room()
    }

    fn is_avoided(&self) -> bool {
        self.backend.standing() == Standing::Avoided
    }

    /// What it would have in flight with one request more, for its weight.
    fn load(&self) -> u64 {
        self.load_with(1)
    }

    fn load_with(&self, more: u64) -> u64 {
        (self.backend.in_flight() as u64 + more) * LOAD_SCALE / u64::from(self.weight)
    }

    /// How long a request more would take, for its weight. One of which nothing is known yet gets one to learn from,
    /// and no second one meanwhile if there is another choice.
    #[allow(clippy::cast_precision_loss)] // a comparison of estimates
    fn expected_micros(&self, now_ns: u64) -> f32 {
        let in_flight = self.backend.in_flight();
        match self.backend.latency_estimate().micros(now_ns) {
            Some(micros) => micros * (in_flight + 1) as f32 / self.weight as f32,
            None if in_flight == 0 => 0.0,
            None => f32::MAX,
        }
    }
}

#[inline]
fn take_turn(cursor: &AtomicUsize) -> usize {
    cursor.fetch_add(1, Ordering::Relaxed)
}

/// A random number brought to below `bound` (or 0 when that is 0), without a division.
fn scaled(random: u32, bound: u64) -> usize {
    ((u64::from(random) * bound) >> 32) as usize
}
