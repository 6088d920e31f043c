//! What is kept of an exchange's tries, also while it is laid aside.

use super::exchange::{Facts, TRIES_MAX};
use super::queue::{Absence, InLine};
use super::transfer::Course;
use crate::runtime::world::{Instant, World};

/// An exchange that was laid aside.
pub(super) struct Exchange<W: World> {
    pub(super) facts: Facts,
    /// The backends that have been asked, the present one included.
    pub(super) tried: Box<[u64]>,
    pub(super) course: Course<W>,
}

/// A request that waits in the queue without a coroutine.
pub(super) struct Queued {
    pub(super) facts: Facts,
    pub(super) tries: Tries,
    pub(super) line: InLine,
}

/// The tries of one request.
pub(super) struct Tries {
    pub(super) count: usize,
    /// The backends that have been asked, as many as there were tries.
    pub(super) ids: [u64; TRIES_MAX],
    /// When the answer's head must be there, whoever gives it; set once a try has sent the request.
    pub(super) head_deadline: Option<Instant>,
    pub(super) absence: Absence,
    /// The length of the request's head in the client's buffer.
    pub(super) head_bytes: usize,
}

impl Tries {
    /// None yet, of a request whose head has so many bytes.
    pub(super) fn new(head_bytes: usize) -> Self {
        Self { count: 0, ids: [0; TRIES_MAX], head_deadline: None, absence: Absence::default(), head_bytes }
    }

    pub(super) fn tried(&self) -> &[u64] {
        &self.ids[..self.count]
    }

    /// What the queue asks of them.
    pub(super) fn asked(&mut self) -> (&[u64], Option<Instant>, &mut Absence) {
        (&self.ids[..self.count], self.head_deadline, &mut self.absence)
    }

    pub(super) fn add(&mut self, id: u64) {
        self.ids[self.count] = id;
        self.count += 1;
    }
}
