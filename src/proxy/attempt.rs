//! One try of a request: a connection to the backend that was picked, the request on its way, and its answer.

use std::io;

use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::{Facts, Turn};
use super::pace::Pace;
use super::patience::SLOW_AFTER;
use super::pump::{self, Pump, PumpError};
use super::transfer::{Course, Cut, Holdup, Interrupted, Stop, Transfer, Upload, Upstream, upload_failure};
use super::tries::Tries;
use super::witness::Reached;
use super::{Proxy, Scratch};
use crate::balance::Report;
use crate::http1::Framing;
use crate::runtime::world::World;
use crate::upstream::{ConnectError, Lease, Visit};

/// Why a try came to nothing.
pub(super) enum Miss {
    Failed {
        failure: Failure,
        again: Again,
    },
    /// Its answer was passed over for another try, which the budget has granted.
    PassedOver,
    /// The backend refused the connection, and no other one is there: the request waits for it, which is no try.
    Away,
}

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// By the retry rule, within the budget.
    WithinBudget,
    /// By the retry rule, whatever the budget: a kept connection turned out to be closed, as they do, which says nothing of
    /// the backend.
    AtAnyRate,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// One try: lease a connection, send the request, and bring its answer back.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn attempt(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        visit: Visit<W>,
        tries: &mut Tries,
        scratch: &mut Scratch,
    ) -> Result<Turn<W>, Miss> {
        tries.add(visit.backend().id);
        let leased = self.lease(client, facts, &visit, tries.tried());
        let began = self.world.now();
        if tries.count == 1 && !tries.absence.is_known() {
            self.shared.retries.note_request(self.world.worker(), began.0);
        }
        let (lease, bound) = leased?;
        let reused = lease.reused;
        let upload = self.send(client, facts, tries.head_bytes, &lease, &mut scratch.bytes).inspect_err(|miss| {
            if let Miss::Failed { failure, .. } = miss {
                let reached = if reused { Reached::KeptConnection } else { Reached::NewConnection };
                self.note_failure(&visit, failure, reached, &Holdup::default());
            }
        })?;
        let pace = Pace::new(self.shared.config.limits.min_body_rate);
        let bound = bound || facts.binds;
        let mut course = Course::new(lease, visit, bound, began, upload, pace, tries.head_deadline);
        let mut transfer = Transfer::new(self, client, facts, &mut course, began + SLOW_AFTER, tries.tried());
        match transfer.run(&mut scratch.bytes) {
            // As nearly always: what the course has needn't be moved.
            Ok(Stop::Through(after, Upstream::IsIdle { since, until })) => {
                course.lease.give_back(since, until);
                Ok(Turn::Over(after))
            }
            Ok(stop) => Ok(self.stopped(client, facts, course, tries.tried(), stop)),
            Err(interrupted) => Err(self.missed(&interrupted, facts, reused, tries)),
        }
    }

    /// What a transfer that was interrupted means for its request.
    #[cold]
    pub(super) fn missed(&self, interrupted: &Interrupted, facts: &Facts, reused: bool, tries: &mut Tries) -> Miss {
        tries.head_deadline = interrupted.head_deadline;
        let Cut::Failed { failure, replayable } = interrupted.cut else { return Miss::PassedOver };
        let again = replayable && facts.method.is_idempotent();
        #[cfg(feature = "sabotage-retry-post")] // Broken on purpose: ./x sabotage
        let again = again || replayable;
        Miss::Failed { failure, again: if again { self.again_after_reset(reused) } else { Again::No } }
    }

    /// What the retry rule says of a request whose connection ended before its answer, and that may be sent twice.
    fn again_after_reset(&self, reused: bool) -> Again {
        match self.shared.config.retries.on_reset {
            true if reused => Again::AtAnyRate,
            true => Again::WithinBudget,
            false => Again::No,
        }
    }

    /// A connection to the picked backend: the client's own, an idle one, or a new one; and whether it is the client's own.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    fn lease(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        visit: &Visit<W>,
        tried: &[u64],
    ) -> Result<(Lease<W>, bool), Miss> {
        // What can't be sent twice is worth a look at the socket itself. Where one idle connection turned out dead, the
        // others may be too: a second try begins with a new one, and so does a client whose own has ended.
        let thorough = !facts.method.is_idempotent();
        let bound = client.bound.take();
        let is_bound = bound.is_some();
        let idle = match bound {
            Some(bound) => bound.lease(&self.world, visit, thorough),
            None if tried.len() > 1 => None,
            None => visit.lease_idle(&self.world, thorough),
        };
        if let Some(lease) = idle {
            return Ok((lease, is_bound));
        }
        self.connect(client, visit, tried).map(|lease| (lease, false))
    }

    #[inline(never)]
    fn connect(&self, client: &Client<W::Stream>, visit: &Visit<W>, tried: &[u64]) -> Result<Lease<W>, Miss> {
        let deadline = self.world.now() + self.shared.config.timeouts.connect;
        let connect = || visit.lease_new(&self.world, &client.stream, deadline);
        let leased = match connect() {
            // What another backend's idle connection holds is of more use here.
            Err(ConnectError::NoDescriptor) if self.pools.close_oldest_idle() => connect(),
            leased => leased,
        };
        if leased.as_ref().is_ok_and(|lease| lease.missed) {
            let _ = self.shared.fleet.reports.try_send(Report::Missed(visit.shared_backend()));
        }
        leased.map_err(|error| {
            let report = match error {
                ConnectError::Refused => Some(Report::Refused(visit.shared_backend())),
                ConnectError::NotResolved | ConnectError::Unroutable => {
                    Some(Report::Unreachable(visit.shared_backend()))
                }
                _ => None,
            };
            if let Some(report) = report {
                let _ = self.shared.fleet.reports.try_send(report);
            }
            if error == ConnectError::Refused && self.is_away(visit, tried) {
                return Miss::Away;
            }
            let failure = Failure::from(error);
            self.note_failure(visit, &failure, Reached::NewConnection, &Holdup::default());
            // Nothing was sent, so any method may be tried elsewhere, unless that would change nothing.
            let hopeless = matches!(error, ConnectError::ClientGone | ConnectError::NoDescriptor);
            let again = self.shared.config.retries.on_connect && !hopeless;
            Miss::Failed { failure, again: if again { Again::WithinBudget } else { Again::No } }
        })
    }

    /// Writes the rewritten head and what is there of the body, in one call.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    fn send(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        head_bytes: usize,
        lease: &Lease<W>,
        head: &mut Vec<u8>,
    ) -> Result<Upload<W::Stream>, Miss> {
        if let (Some(buffer), Some(whole_bytes)) = (&client.buffer, client.whole_bytes) {
            let mut body = &buffer.filled()[head_bytes..whole_bytes];
            if body.len() <= pump::COPY_BYTES_MAX {
                head.extend_from_slice(std::mem::take(&mut body));
            }
            let written = match pump::write(&lease.stream, &[head, body]) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // The very first write failed: nothing was sent, so any method may be sent again.
                Err(_) => {
                    let again = self.again_after_reset(lease.reused);
                    return Err(Miss::Failed { failure: Failure::ClosedBeforeHead, again });
                }
            };
            if written == head.len() + body.len() {
                return Ok(Upload::Done);
            }
            // The backend's buffers are full: the rest follows as room comes, from a copy, so that the request stays
            // whole in the buffer for another try.
            let of_head = written.min(head.len());
            return Ok(Upload::rest(&[&head[of_head..], &body[written - of_head..]].concat()));
        }
        self.begin_upload(client, facts, head_bytes, lease, head)
    }

    /// Writes the rewritten head and as much of a body that isn't whole in the buffer as is there.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    fn begin_upload(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        head_bytes: usize,
        lease: &Lease<W>,
        head: &mut Vec<u8>,
    ) -> Result<Upload<W::Stream>, Miss> {
        let Some(buffer) = client.buffer.as_mut() else {
            return Err(Miss::Failed { failure: Failure::ClientGone, again: Again::No });
        };
        let limits = &self.shared.config.limits;
        buffer.consume(head_bytes);
        let mut pump =
            Pump::new(facts.framing, facts.framing == Framing::Chunked, limits.body_bytes, limits.head_bytes);
        if facts.framing == Framing::Chunked {
            let strangers = (!self.trusts(client.seat.peer())).then_some(&self.untrusted_fields);
            pump.withhold(strangers, facts.hop_trailers.as_ref());
        }
        match pump.begin(head, buffer, &lease.stream) {
            Ok(()) => Ok(Upload::Streaming(pump)),
            // It may have answered already (413, say) before it closed.
            Err(PumpError::Write) => Ok(Upload::Broken),
            Err(error) => Err(Miss::Failed { failure: upload_failure(&error), again: Again::No }),
        }
    }
}
