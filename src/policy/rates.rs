//! How much each of many clients has used of its rate, over all workers.

use super::clients::Clients;
use super::rate::{Charge, Rate};

/// What clients have used of their rates. Exact over all workers, since they share it; each request locks one of its shards
/// for the length of a look-up (some 20 ns), and waits for nothing meanwhile.
///
/// It knows the clients that asked last. One that was forgotten starts anew, with its whole burst: that takes as many others
/// as it has room for, all since that client's last request.
#[derive(Debug)]
pub struct RateTable {
    /// The theoretical arrival times.
    clients: Clients<u64>,
}

impl RateTable {
    /// A table of at most `keys_max` clients (at least 1), of which those leave first that asked the longest ago: in each
    /// shard, so that with more than 2,047 keys a little sooner or later than in all.
    pub fn new(keys_max: usize) -> Self {
        Self { clients: Clients::new(keys_max) }
    }

    /// Charges a client that may ask at this `rate` for a request at `now_ns`, on a clock that all workers share. `key` is a
    /// hash of the client with a secret: clients with the same hash share a rate, and one that could choose it would choose
    /// another's.
    pub fn charge(&self, rate: &Rate, key: u64, now_ns: u64) -> Charge {
        self.clients.with(key, |arrival_ns| rate.charge(arrival_ns, now_ns))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(burst: u32) -> Rate {
        Rate::new(10, Duration::from_secs(1), burst)
    }

    #[test]
    fn clients_do_not_use_up_one_anothers_quota() {
        let (table, rate) = (RateTable::new(100), rate(1));
        assert!(table.charge(&rate, 1, SECOND).admits && table.charge(&rate, 2, SECOND).admits);
        assert!(!table.charge(&rate, 1, SECOND).admits && !table.charge(&rate, 2, SECOND).admits);
    }

    #[test]
    fn a_client_is_forgotten_when_as_many_others_have_asked_since_and_no_sooner() {
        let (table, rate) = (RateTable::new(10), rate(1));
        let admits = |key| table.charge(&rate, key, SECOND).admits;
        let ask = |keys: std::ops::Range<u64>| {
            for key in keys {
                admits(key);
            }
        };
        ask(0..10);
        assert!(!admits(0), "known, and now the newest");
        ask(10..19);
        assert!(!admits(0));
        ask(20..30);
        assert!(admits(0));
    }

    #[test]
    fn threads_together_pass_no_more_than_the_rate() {
        let (table, rate) = (RateTable::new(100), rate(1_000));
        let passed: usize = thread::scope(|scope| {
            let pass = || (0..2_000).filter(|_| table.charge(&rate, 7, SECOND).admits).count();
            let threads = [(); 4].map(|()| scope.spawn(pass));
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert_eq!(passed, 1_000);
    }
}
