//! What is kept of clients, whatever the configuration says: it outlives any of them.

use std::hash::{BuildHasher, Hash, RandomState};

use super::{RateTable, Ties};

/// The tables of clients, over all workers.
#[derive(Debug)]
pub struct Tables {
    /// What clients have used of their rates; None where rates aren't limited.
    pub rates: Option<RateTable>,
    /// To which backends clients are tied; None where they aren't.
    pub ties: Option<Ties>,
    /// It keeps clients from choosing keys that are another client's, or slow to look up.
    secret: RandomState,
}

impl Tables {
    /// Tables of at most so many clients each; none of a kind that isn't needed.
    pub fn new(rates_max: Option<usize>, ties_max: Option<usize>) -> Self {
        Self { rates: rates_max.map(RateTable::new), ties: ties_max.map(Ties::new), secret: RandomState::new() }
    }

    /// The key of a client that is known by this.
    pub fn key(&self, known_by: impl Hash) -> u64 {
        self.secret.hash_one(known_by)
    }
}
