//! What is kept of clients, whatever the configuration says: it outlives any of them.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{RateTable, Ties};

/// The tables of clients, over all workers. There is one of each kind for as long as something uses it.
#[derive(Debug, Default)]
pub struct Tables {
    rates: Mutex<OfSize<RateTable>>,
    ties: Mutex<OfSize<Ties>>,
    /// It keeps clients from choosing keys that are another client's, or slow to look up.
    secret: RandomState,
}

/// The table that is in use, and for how many clients it was made.
#[derive(Debug)]
struct OfSize<T> {
    table: Weak<T>,
    keys_max: usize,
}

impl Tables {
    /// What clients have used of their rates: the table that is in use, or an empty one where there is none of `keys_max`
    /// clients.
    pub fn rates(&self, keys_max: usize) -> Arc<RateTable> {
        self.rates.lock().of(keys_max, RateTable::new)
    }

    /// To which backends clients are tied; the same.
    pub fn ties(&self, keys_max: usize) -> Arc<Ties> {
        self.ties.lock().of(keys_max, Ties::new)
    }

    /// The key of a client that is known by this.
    pub fn key(&self, known_by: impl Hash) -> u64 {
        self.secret.hash_one(known_by)
    }
}

impl<T> OfSize<T> {
    fn of(&mut self, keys_max: usize, make: impl FnOnce(usize) -> T) -> Arc<T> {
        if let Some(table) = self.table.upgrade().filter(|_| self.keys_max == keys_max) {
            return table;
        }
        let table = Arc::new(make(keys_max));
        *self = Self { table: Arc::downgrade(&table), keys_max };
        table
    }
}

impl<T> Default for OfSize<T> {
    fn default() -> Self {
        Self { table: Weak::new(), keys_max: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stays_as_long_as_it_is_used_and_none_of_another_size_is_asked_for() {
        let tables = Tables::default();
        let ties = tables.ties(10);
        ties.tie(1, 7, 0);
        assert_eq!(tables.ties(10).of(1, 1, None), Some(7));
        assert_eq!(tables.ties(20).of(1, 1, None), None);
        let again = tables.ties(10);
        assert_eq!(again.of(1, 1, None), None, "the one that was asked for last is the one in use");
        again.tie(1, 7, 0);
        drop((ties, again));
        assert_eq!(tables.ties(10).of(1, 1, None), None);
    }
}
