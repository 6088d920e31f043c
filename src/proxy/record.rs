//! What is kept of a request from its head's first byte to its end, and the worker's book, which gets it then.

use std::fmt;

use super::error::Failure;
use crate::observe::Reason;
use crate::runtime::world::Instant;

/// Tries of one request, at most; the configuration allows no more.
pub const TRIES_MAX: usize = 16;

/// What has become of one request. Of a fixed size, and made of what its phases know anyway: no clock is read for it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The first moment known since its head's first byte.
    pub begun: Option<Instant>,
    /// When the last try had a connection to send it on.
    pub leased: Option<Instant>,
    /// When the head of the answer that was sent on came.
    pub answered: Option<Instant>,
    /// The last moment known at which something of that answer moved.
    pub moved: Option<Instant>,
    /// What its client was answered: the backend's status, or the proxy's own. None: nothing.
    pub status: Option<u16>,
    /// Bytes written to backends, all tries together, but for what a defect has interrupted.
    pub up_bytes: u64,
    /// Bytes written to its client, with the same exception.
    pub down_bytes: u64,
    /// How it ended.
    pub end: End,
    tried: [u64; TRIES_MAX],
    misses: [Option<Missed>; TRIES_MAX],
    tries: usize,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has its answer.
    Whole,
    /// It failed, before its answer or within it.
    Failed(Reason),
    /// By a defect in maypole.
    Defect,
}

/// Why a try came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It failed.
    Failed(Reason),
    /// It was answered with this status, and another backend was asked.
    PassedOver(u16),
}

/// The bit that keeps a backend that was tried from being passed over by the next pick; no id has it.
const SPARED: u64 = 1 << 63;

impl Record {
    /// Nothing has come of it yet.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn new(begun: Option<Instant>) -> Self {
        Self {
            begun,
            leased: None,
            answered: None,
            moved: None,
            status: None,
            up_bytes: 0,
            down_bytes: 0,
            end: End::Whole,
            tried: [0; TRIES_MAX],
            misses: [None; TRIES_MAX],
            tries: 0,
        }
    }

    /// The backends that were tried, by id, and why each try came to nothing, if it did.
    pub fn tries(&self) -> impl Iterator<Item = (u64, Option<Missed>)> {
        self.tried().iter().map(|id| id & !SPARED).zip(self.misses)
    }

    /// The backends that the next pick passes over, as many as there were tries.
    pub(super) fn tried(&self) -> &[u64] {
        &self.tried[..self.tries]
    }

    /// Tries so far.
    pub(super) fn count(&self) -> usize {
        self.tries
    }

    /// A try begins.
    pub(super) fn begin_try(&mut self, backend_id: u64) {
        self.tried[self.tries] = backend_id;
        self.tries += 1;
    }

    /// The last one has failed.
    pub(super) fn has_failed(&mut self, failure: Failure) {
        self.has_missed(Missed::Failed(failure.view().reason));
    }

    /// The last one has come to nothing.
    #[cold]
    pub(super) fn has_missed(&mut self, missed: Missed) {
        if let Some(last) = self.tries.checked_sub(1) {
            self.misses[last] = Some(missed);
        }
    }

    /// The last one doesn't count as one.
    #[cold]
    pub(super) fn take_back_try(&mut self) {
        self.tries -= 1;
        self.misses[self.tries] = None;
    }

    /// The head of a backend's answer, which came at `at`, is sent on.
    #[inline]
    pub(super) fn has_answer(&mut self, status: u16, at: Instant) {
        (self.status, self.answered) = (Some(status), Some(at));
    }

    /// An answer of the proxy's own is to be sent.
    #[cold]
    pub(super) fn is_answered_here(&mut self, bytes: usize) {
        self.down_bytes += bytes as u64;
    }

    /// The next pick may have the same backend as the last try.
    #[cold]
    pub(super) fn spare_last(&mut self) {
        if let Some(last) = self.tries.checked_sub(1) {
            self.tried[last] |= SPARED;
        }
    }
}

type Reader = Box<dyn Fn(&Record)>;

/// Where a worker's records go.
#[derive(Default)]
pub(super) struct Book {
    reader: Option<Reader>,
}

impl Book {
    /// One whose records `reader` is shown too.
    pub(super) fn read_by(reader: impl Fn(&Record) + 'static) -> Self {
        Self { reader: Some(Box::new(reader)) }
    }

    /// Takes a record in, and says why its request failed, if it did.
    #[inline]
    pub(super) fn enter(&self, record: &Record, count: impl FnOnce(Reason)) {
        if let End::Failed(reason) = record.end {
            count(reason);
        }
        if let Some(reader) = &self.reader {
            reader(record);
        }
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_told_with_what_they_came_to_also_those_that_may_be_had_again() {
        let mut record = Record::new(None);
        record.begin_try(7);
        record.has_failed(Failure::ClosedBeforeHead);
        record.spare_last();
        record.begin_try(8);
        record.has_missed(Missed::PassedOver(503));
        record.begin_try(9);
        assert_eq!(record.tried(), [7 | SPARED, 8, 9]);
        let closed = Missed::Failed(Reason::ClosedBeforeHead);
        let told: Vec<_> = record.tries().collect();
        assert_eq!(told, [(7, Some(closed)), (8, Some(Missed::PassedOver(503))), (9, None)]);
    }

    #[test]
    fn a_try_that_is_taken_back_leaves_nothing() {
        let mut record = Record::new(None);
        record.begin_try(7);
        record.has_failed(Failure::ConnectRefused);
        record.take_back_try();
        assert_eq!(record.count(), 0);
        record.begin_try(8);
        assert_eq!(record.tries().collect::<Vec<_>>(), [(8, None)]);
    }
}
