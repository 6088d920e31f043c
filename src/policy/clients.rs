//! What is kept of many clients, in a table that all workers share.

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

use super::lru::Lru;

/// So many that two workers seldom want the same one.
const SHARDS_MAX: usize = 64;
/// Fewer keys than this aren't worth a shard of their own: the fewer a shard has, the further its share is from even.
const SHARD_KEYS_MIN: usize = 1024;

/// A bounded table of values by key, cut into shards with a lock each. A request holds one of them for the length of a
/// look-up (some 20 ns), and waits for nothing meanwhile.
///
/// Keys are hashes of the client's name or address, made with a secret: two that are equal are one, and a client that could
/// choose its own would choose another's, or slow ones.
#[derive(Debug)]
pub(super) struct Clients<V> {
    shards: Box<[CachePadded<Mutex<Lru<V>>>]>,
}

impl<V: Copy + Default> Clients<V> {
    /// A table of at most `keys_max` clients (at least 1), of which those leave first that were looked at the longest ago: in
    /// each shard, so that with more than 2,047 keys a little sooner or later than in all.
    pub(super) fn new(keys_max: usize) -> Self {
        let shards = (keys_max / SHARD_KEYS_MIN).clamp(1, SHARDS_MAX);
        let table = || CachePadded::new(Mutex::new(Lru::new((keys_max / shards).max(1))));
        Self { shards: (0..shards).map(|_| table()).collect() }
    }

    /// Looks at the value of `key`, which is the default when it wasn't there. `look` runs under a lock.
    pub(super) fn with<R>(&self, key: u64, look: impl FnOnce(&mut V) -> R) -> R {
        // The shard by the upper half; the lower one finds the place in it.
        let shard = (key >> 32) as usize % self.shards.len();
        look(self.shards[shard].lock().value(key))
    }

    /// How many clients it knows.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn there_are_never_more_keys_than_allowed() {
        let hasher = RandomState::new();
        for keys_max in [1, 1_000, 1_024, 5_000, 100_000] {
            let clients = Clients::<u64>::new(keys_max);
            for n in 0..3 * keys_max {
                clients.with(hasher.hash_one(n), |_| ());
            }
            assert!((keys_max * 99 / 100..=keys_max).contains(&clients.len()), "{} of {keys_max}", clients.len());
        }
    }
}
