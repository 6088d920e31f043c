//! Sending a request to the backend that was picked: a connection to it, and what is there of the request.

use std::io;

use super::course::{Course, Upload};
use super::error::Failure;
use super::holdup::Holdup;
use super::outcome::Reached;
use super::parked::Parked;
use super::pump::{self, Pump, PumpError, upload_failure};
use super::state::{Again, Exchange};
use crate::balance::Report;
use crate::http1::Framing;
use crate::runtime::world::{Instant, World};
use crate::upstream::{ConnectError, Lease, Visit};

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// A connection to the picked backend: the client's own, an idle one, or a new one; and whether it is the client's own.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn lease(&mut self, visit: &Visit<W>) -> Result<(Lease<W>, bool), Again> {
        // What can't be sent twice is worth a look at the socket itself. Where one idle connection turned out dead, the
        // others may be too: a second try begins with a new one, and so does a client whose own has ended.
        let world = &self.proxy.world;
        let thorough = !self.facts.method.is_idempotent();
        let pinned = self.client.pinned.take();
        let is_pinned = pinned.is_some();
        let idle = match pinned {
            Some(pinned) => pinned.lease(world, visit, thorough),
            None if self.stand.record.count() > 1 => None,
            None => visit.lease_idle(world, thorough),
        };
        if let Some(lease) = idle {
            return Ok((lease, is_pinned));
        }
        self.connect(visit).map(|lease| (lease, false))
    }

    #[inline(never)]
    fn connect(&self, visit: &Visit<W>) -> Result<Lease<W>, Again> {
        let (proxy, pool, rules) = (self.proxy, &self.facts.route().pool, self.facts.rules());
        let deadline = proxy.world.now() + rules.timeouts.connect;
        let connect = || visit.lease_new(&proxy.world, &self.client.stream, deadline);
        let leased = match connect() {
            // What another backend's idle connection holds is of more use here.
            Err(ConnectError::NoDescriptor) if proxy.idle.close_oldest_idle() => connect(),
            leased => leased,
        };
        if leased.as_ref().is_ok_and(|lease| lease.missed) {
            let _ = pool.reports.try_send(Report::Missed(visit.shared_backend()));
        }
        leased.map_err(|error| {
            let report = match error {
                ConnectError::Refused => Some(Report::Refused(visit.shared_backend())),
                ConnectError::Handshake(_) => Some(Report::Untrusted(visit.shared_backend())),
                ConnectError::NotResolved | ConnectError::Unroutable => {
                    Some(Report::Unreachable(visit.shared_backend()))
                }
                _ => None,
            };
            if let Some(report) = report {
                let _ = pool.reports.try_send(report);
            }
            if error == ConnectError::Refused && self.is_away(visit) {
                return Again::Wait(None);
            }
            let failure = Failure::from(error);
            proxy.note_failure(self.facts.route(), visit, &failure, Reached::NewConnection, &Holdup::default());
            // Nothing was sent, so any method may be tried elsewhere, unless that would change nothing.
            let hopeless = matches!(error, ConnectError::ClientGone | ConnectError::NoDescriptor);
            if rules.retries.on_connect && !hopeless { Again::WithinBudget(failure) } else { Again::No(failure) }
        })
    }

    /// Whether the backend that has just refused a connection is the last one that could take the request: from now on it is
    /// away, for all requests.
    fn is_away(&self, visit: &Visit<W>) -> bool {
        if self.facts.route().pool.snapshot.load().offers_other_than(self.stand.record.tried()) {
            return false;
        }
        visit.backend().went_away();
        self.proxy.note_absence(self.facts.route(), visit);
        true
    }

    /// A try's connection is there, or isn't to be had.
    #[inline]
    pub(super) fn has_leased(&mut self, now: Instant) {
        let record = &mut self.stand.record;
        record.begun.get_or_insert(now);
        record.leased = Some(now);
        if record.count() == 1 && !self.stand.absence.is_known() {
            self.facts.route().pool.retry_cells.note_request(self.proxy.world.worker(), now.0);
        }
    }

    /// Writes the rewritten head and what is there of the body, in one call.
    #[inline]
    pub(super) fn send(&mut self, course: &mut Course<W>) -> Result<(), Again> {
        let Some(whole_bytes) = self.client.whole_bytes else { return self.begin_upload(course) };
        let bytes = self.client.buffer.as_ref().map_or(&[][..], |buffer| buffer.filled());
        let mut body = &bytes[self.stand.head_bytes..whole_bytes];
        let head = &mut self.head.bytes;
        if body.len() <= pump::COPY_BYTES_MAX {
            head.extend_from_slice(std::mem::take(&mut body));
        }
        let written = match pump::write(&course.lease.stream, &[head, body]) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The very first write failed: nothing was sent, so any method may be sent again.
            Err(_) => {
                self.note_send_failure(Failure::ClosedBeforeHead, course);
                return Err(self.again_after_reset(Failure::ClosedBeforeHead, course.lease.reused));
            }
        };
        self.stand.record.up_bytes += written as u64;
        if written < head.len() + body.len() {
            // The backend's buffers are full: the rest follows as room comes, from a copy, so that the request stays
            // whole in the buffer for another try.
            let of_head = written.min(head.len());
            let mut pump = Pump::new(Framing::None, false, 0, 0);
            pump.lead_with(&[&head[of_head..], &body[written - of_head..]].concat());
            course.begin_upload(pump, self.facts.rules().min_body_rate);
        }
        Ok(())
    }

    /// Writes the rewritten head and as much of a body that isn't whole in the buffer as is there.
    #[inline(never)]
    fn begin_upload(&mut self, course: &mut Course<W>) -> Result<(), Again> {
        let facts = &self.facts;
        let Some(buffer) = self.client.buffer.as_mut() else {
            self.note_send_failure(Failure::ClientGone, course);
            return Err(Again::No(Failure::ClientGone));
        };
        let (rules, connections) = (facts.rules(), &facts.bound.connections);
        buffer.consume(self.stand.head_bytes);
        let is_chunked = facts.framing == Framing::Chunked;
        let pump = Pump::new(facts.framing, is_chunked, rules.body_bytes_max, connections.head_limits.head_bytes);
        let (pump, upstream) = course.begin_upload(pump, rules.min_body_rate);
        if is_chunked {
            let trusted = connections.trusts(self.client.seat.peer());
            pump.withhold(Some((&facts.bound, trusted)), facts.hop_trailers.as_ref());
        }
        match pump.begin(&mut self.head.bytes, buffer, upstream) {
            Ok(()) => Ok(()),
            // It may have answered already (413, say) before it closed.
            Err(PumpError::Write) => {
                (course.upload, course.upstream_failed) = (Upload::Broken, true);
                Ok(())
            }
            Err(error) => {
                let failure = upload_failure(&error);
                self.note_send_failure(failure, course);
                Err(Again::No(failure))
            }
        }
    }

    #[cold]
    fn note_send_failure(&self, failure: Failure, course: &Course<W>) {
        let reached = if course.lease.reused { Reached::KeptConnection } else { Reached::NewConnection };
        self.proxy.note_failure(self.facts.route(), &course.visit, &failure, reached, &Holdup::default());
    }
}
