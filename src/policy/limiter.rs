//! A rate for each of many clients, over all workers.

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

use super::rate::{Charge, Rate};
use super::recent::Recent;

/// So many that two workers seldom want the same one.
const SHARDS_MAX: usize = 64;
/// Fewer keys than this aren't worth a shard of their own: the fewer a shard has, the further its share is from even.
const SHARD_KEYS_MIN: usize = 1024;

/// Keeps each client to its rate. Exact over all workers, since they share it; each request locks one of its shards for
/// the length of a look-up (some 20 ns), and waits for nothing meanwhile.
///
/// It knows the clients that asked last. One that was forgotten starts anew, with its whole burst: that takes as many others
/// as it has room for, all since that client's last request.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    shards: Box<[CachePadded<Mutex<Recent>>]>,
}

impl RateLimiter {
    /// `rate` for each of at most `keys_max` clients (at least 1), of which those leave first that asked the longest ago: in
    /// each shard, so that with more than 2,047 keys a little sooner or later than in all.
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        let shards = (keys_max / SHARD_KEYS_MIN).clamp(1, SHARDS_MAX);
        let recent = || CachePadded::new(Mutex::new(Recent::new((keys_max / shards).max(1))));
        Self { rate, shards: (0..shards).map(|_| recent()).collect() }
    }

    /// Charges a client for a request at `now_ns`, on a clock that all workers share. `key` is a hash of who it is with a
    /// secret: clients with the same hash share a rate, and who could choose it would choose somebody else's.
    pub fn charge(&self, key: u64, now_ns: u64) -> Charge {
        // The shard by the upper half; the lower one finds the place in it.
        let shard = (key >> 32) as usize % self.shards.len();
        let mut recent = self.shards[shard].lock();
        self.rate.charge(recent.value(key), now_ns)
    }

    /// How many clients it knows.
    #[cfg(test)]
    fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(burst: u32, keys_max: usize) -> RateLimiter {
        RateLimiter::new(Rate::new(10, Duration::from_secs(1), burst), keys_max)
    }

    #[test]
    fn clients_do_not_use_up_one_anothers_quota() {
        let limiter = limiter(1, 100);
        assert!(limiter.charge(1, SECOND).admits && limiter.charge(2, SECOND).admits);
        assert!(!limiter.charge(1, SECOND).admits && !limiter.charge(2, SECOND).admits);
    }

    #[test]
    fn a_client_is_forgotten_when_as_many_others_have_asked_since_and_no_sooner() {
        let limiter = limiter(1, 10);
        let ask = |keys: std::ops::Range<u64>| {
            for key in keys {
                limiter.charge(key, SECOND);
            }
        };
        ask(0..10);
        assert!(!limiter.charge(0, SECOND).admits, "known, and now the newest");
        ask(10..19);
        assert!(!limiter.charge(0, SECOND).admits);
        ask(20..30);
        assert!(limiter.charge(0, SECOND).admits);
    }

    #[test]
    fn there_are_never_more_keys_than_allowed() {
        let hasher = RandomState::new();
        for keys_max in [1, 1_000, 1_024, 5_000, 100_000] {
            let limiter = limiter(1, keys_max);
            for n in 0..3 * keys_max {
                limiter.charge(hasher.hash_one(n), SECOND);
            }
            assert!((keys_max * 99 / 100..=keys_max).contains(&limiter.keys()), "{} of {keys_max}", limiter.keys());
        }
    }

    #[test]
    fn threads_together_pass_no_more_than_the_rate() {
        let limiter = limiter(1_000, 100);
        let passed: usize = thread::scope(|scope| {
            let pass = || (0..2_000).filter(|_| limiter.charge(7, SECOND).admits).count();
            let threads = [(); 4].map(|()| scope.spawn(pass));
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert_eq!(passed, 1_000);
    }
}
