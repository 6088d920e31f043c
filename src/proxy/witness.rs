//! What is told of each try: how it ended, to its backend's totals, and how it went, to its circuit breaker.

use super::Proxy;
use super::client::Parked;
use super::error::Failure;
use super::transfer::Holdup;
use crate::balance::{Outcome, Report, Seen, Standing};
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
    pub(super) fn note_answer(&self, visit: &Visit<W>, status: u16, at: Instant, holdup: &Holdup) -> bool {
        visit.has_breaker() && self.tell_breaker(visit, status, at, holdup)
    }

    /// Out of line, so that those without a breaker don't carry it.
    #[inline(never)]
    fn tell_breaker(&self, visit: &Visit<W>, status: u16, at: Instant, holdup: &Holdup) -> bool {
        let seen = match visit.judge(status) {
            // A backend that got half a request has little else to say.
            Seen::Bad if holdup.is_due_to_client() => Seen::Nothing,
            seen => seen,
        };
        self.observe(visit, seen, || at.0);
        seen == Seen::Bad && matches!(visit.backend().standing(), Standing::Avoided | Standing::Trial)
    }

    /// Tells of a try that failed.
    pub(super) fn note_failure(&self, visit: &Visit<W>, failure: &Failure, reached: Reached, holdup: &Holdup) {
        let outcome = blame(failure, holdup);
        visit.backend().record(self.world.worker(), outcome, || self.world.now().0);
        let seen = match (outcome, reached) {
            (Outcome::Abandoned, _) => Seen::Nothing,
            (_, Reached::KeptConnection) if *failure == Failure::ClosedBeforeHead => Seen::Nothing,
            // A failing status has been held against it already.
            (_, Reached::Answer(status)) if visit.judge(status) == Seen::Bad => Seen::Nothing,
            (_, Reached::Answer(_)) => Seen::Cut,
            _ => Seen::Bad,
        };
        self.observe(visit, seen, || self.world.now().0);
    }

    /// Tells of a refused connection where the request waits for the same backend, as the last one there is: its breaker
    /// isn't told, which would keep it out for longer than it is away.
    pub(super) fn note_absence(&self, visit: &Visit<W>) {
        visit.backend().record(self.world.worker(), Outcome::Failed, || self.world.now().0);
        self.observe(visit, Seen::Nothing, || self.world.now().0);
    }

    #[inline]
    fn observe(&self, visit: &Visit<W>, seen: Seen, now_ns: impl FnOnce() -> u64) {
        let reports = &self.shared.fleet.reports;
        visit.observe(self.world.worker(), seen, now_ns, |turn| {
            reports.try_send(Report::Turned(visit.shared_backend(), turn)).is_ok()
        });
    }
}

/// What a failure says of the backend. Names each, so that whoever adds one has to say.
fn blame(failure: &Failure, holdup: &Holdup) -> Outcome {
    let by_client = match failure {
        // Its own doing, whatever its client does.
        Failure::NameNotResolved
        | Failure::ConnectRefused
        | Failure::ConnectUnroutable
        | Failure::ConnectFailed(_)
        | Failure::ConnectTimeout
        | Failure::BadResponse(_)
        | Failure::BadResponseChunk(_)
        | Failure::UnaskedSwitch => false,
        // A backend gives up on a client that neither sends nor reads, and then this is what is seen of it.
        Failure::ClosedBeforeHead | Failure::BodyCut => holdup.is_due_to_client(),
        Failure::ResponseTimeout | Failure::ResponseBodyTimeout => holdup.waited_for_client(),
        Failure::ClientGone
        | Failure::ClientWriteStalled
        | Failure::RequestHeadTimeout
        | Failure::RequestBodyTimeout
        | Failure::RequestBodyTooSlow
        | Failure::BodyTooLarge
        | Failure::BadRequest(_)
        | Failure::BadChunk(_)
        | Failure::RateLimited { .. }
        | Failure::TunnelIdle
        // What this machine lacks, or all backends together.
        | Failure::NoLocalPort
        | Failure::NoDescriptor
        | Failure::NoBackend
        | Failure::BackendAway
        | Failure::QueueFull
        | Failure::QueueTimeout
        | Failure::ConnectionLimit
        | Failure::ClientConnectionLimit
        | Failure::LoopDetected => true,
    };
    if by_client { Outcome::Abandoned } else { Outcome::Failed }
}
