//! The outcome of each try: how it ended is told to its backend's totals, and how it went to its circuit breaker.

use super::error::{Blame, Failure};
use super::holdup::Holdup;
use super::parked::Parked;
use super::worker::Proxy;
use crate::balance::{Backend, Outcome, Report, Seen, Standing, Thresholds};
use crate::plan::Route;
use crate::runtime::world::{Instant, World};
use crate::upstream::Visit;

/// How far a try had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// A new connection, or none.
    NewConnection,
    /// A connection that has served a request before: its server may have closed it before this one came.
    KeptConnection,
    /// An answer of this status, whose head had been sent on.
    Answer(u16),
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Tells the breaker of an answer whose head came at `at`, before it is sent on: a client that hears of it, and asks
    /// again, shall find a breaker that knows. Whether another backend had better be asked instead, since this one has been
    /// found to fail.
    #[inline]
    pub(super) fn note_answer(
        &self,
        route: &Route,
        visit: &Visit<W>,
        status: u16,
        at: Instant,
        holdup: &Holdup,
    ) -> bool {
        let thresholds = route.policy.breaker.as_ref();
        thresholds.is_some_and(|thresholds| self.tell_breaker((route, thresholds), visit, status, at, holdup))
    }

    /// Out of line, so that those without a breaker don't carry it.
    #[inline(never)]
    fn tell_breaker(
        &self,
        (route, thresholds): (&Route, &Thresholds),
        visit: &Visit<W>,
        status: u16,
        at: Instant,
        holdup: &Holdup,
    ) -> bool {
        let seen = match thresholds.judge(status) {
            // A backend that got half a request has little else to say.
            Seen::Bad if holdup.is_due_to_client() => Seen::Nothing,
            seen => seen,
        };
        self.observe(route, thresholds, visit, seen, at);
        seen == Seen::Bad && matches!(visit.backend().standing(), Standing::Avoided | Standing::Trial)
    }

    /// Tells of a try that failed.
    pub(super) fn note_failure(
        &self,
        route: &Route,
        visit: &Visit<W>,
        failure: &Failure,
        reached: Reached,
        holdup: &Holdup,
    ) {
        let outcome = failure.blame().outcome(holdup);
        self.record(route, visit.backend(), outcome);
        let Some(thresholds) = &route.policy.breaker else { return };
        let closed = *failure == Failure::ClosedBeforeHead;
        let seen = match (outcome, reached) {
            (Outcome::Abandoned | Outcome::Answered(..), _) => Seen::Nothing,
            (Outcome::Failed, Reached::KeptConnection) if closed => Seen::Nothing,
            (Outcome::Failed, Reached::KeptConnection | Reached::NewConnection) => Seen::Bad,
            // A failing status has been held against it already.
            (Outcome::Failed, Reached::Answer(status)) if thresholds.judge(status) == Seen::Bad => Seen::Nothing,
            (Outcome::Failed, Reached::Answer(_)) => Seen::Cut,
        };
        self.observe(route, thresholds, visit, seen, self.world.now());
    }

    /// Tells of a refused connection where the request waits for the same backend, as the last one there is: its breaker
    /// isn't told, which would keep it out for longer than it is away.
    pub(super) fn note_absence(&self, route: &Route, visit: &Visit<W>) {
        self.record(route, visit.backend(), Outcome::Failed);
        if let Some(thresholds) = &route.policy.breaker {
            self.observe(route, thresholds, visit, Seen::Nothing, self.world.now());
        }
    }

    /// Notes how a try ended in its backend's totals, and in the estimate of its latency where picks go by that.
    #[inline]
    pub(super) fn record(&self, route: &Route, backend: &Backend, outcome: Outcome) {
        backend.record(self.world.worker(), outcome);
        if route.policy.estimates_latency() {
            backend.estimate_latency(outcome, self.world.now().0);
        }
    }

    fn observe(&self, route: &Route, thresholds: &Thresholds, visit: &Visit<W>, seen: Seen, at: Instant) {
        let reports = &route.pool.reports;
        visit.observe(thresholds, self.world.worker(), seen, at.0, |turn| {
            reports.try_send(Report::Turned(visit.shared_backend(), turn)).is_ok()
        });
    }
}

impl Blame {
    /// What that makes of a try whose client has held it up so.
    fn outcome(self, holdup: &Holdup) -> Outcome {
        let is_backends = match self {
            Self::Backend => true,
            Self::BackendUnlessHeldUp => !holdup.is_due_to_client(),
            Self::BackendUnlessClientWasWaitedFor => !holdup.waited_for_client(),
            Self::Other => false,
        };
        if is_backends { Outcome::Failed } else { Outcome::Abandoned }
    }
}
