//! What a rate limit costs for each request and for each client: maypole's own table against the crate `governor`.
//! `cargo run --release` prints the figures of docs/decisions/012-rate-limits.md.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use governor::DefaultKeyedRateLimiter;
use policy::{Charge, Quota, Rate, RateTable};

// The room alone: it needs nothing of the house.
#[path = "../../../src/policy/mod.rs"]
mod policy;

const CHECKS: u64 = 4_000_000;
const REQUESTS: u32 = 100;
const BURST: u32 = 200;
const ROUNDS: usize = 5;

/// A limiter of addresses, given the time where it takes it.
trait Limiter: Sync {
    fn admits(&self, address: u32) -> bool;
}

struct Own {
    rate: Rate,
    table: RateTable,
    hasher: RandomState,
    began: Instant,
}

impl Limiter for Own {
    fn admits(&self, address: u32) -> bool {
        let now_ns = 1_000_000_000 + self.began.elapsed().as_nanos() as u64;
        let Charge { admits, quota: Quota { .. } } = self.table.charge(&self.rate, self.hasher.hash_one(address), now_ns);
        admits
    }
}

impl Limiter for DefaultKeyedRateLimiter<u32> {
    fn admits(&self, address: u32) -> bool {
        self.check_key(&address).is_ok()
    }
}

fn own(keys_max: usize) -> Own {
    let rate = Rate::new(REQUESTS, Duration::from_secs(1), BURST);
    Own { rate, table: RateTable::new(keys_max), hasher: RandomState::new(), began: Instant::now() }
}

fn governor() -> DefaultKeyedRateLimiter<u32> {
    let [requests, burst] = [REQUESTS, BURST].map(|n| NonZero::new(n).expect("not 0"));
    DefaultKeyedRateLimiter::keyed(governor::Quota::per_second(requests).allow_burst(burst))
}

/// Nanoseconds of a thread for each check of `threads` that check keys by turns, as `key` makes them; the median of rounds.
fn cost_ns(limiter: &impl Limiter, threads: u64, key: fn(u64) -> u32) -> f64 {
    let mut rounds = [0.0; ROUNDS].map(|_: f64| {
        let took: Duration = thread::scope(|scope| {
            let work = |thread: u64| {
                let began = Instant::now();
                for n in 0..CHECKS {
                    black_box(limiter.admits(key(n * threads + thread)));
                }
                began.elapsed()
            };
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
            running.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        took.as_nanos() as f64 / (CHECKS * threads) as f64
    });
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number");
    pages * 4096
}

/// Bytes for each of a million keys.
fn bytes_each(limiter: &impl Limiter) -> usize {
    const KEYS: u32 = 1_000_000;
    let before = resident_bytes();
    for key in 0..KEYS {
        black_box(limiter.admits(key));
    }
    (resident_bytes() - before) / KEYS as usize
}

fn report(name: &str, limiter: impl Limiter) {
    let spread = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 50_000;
    println!("{name}");
    for threads in [1, 2] {
        println!("  one key, {threads} threads: {:.0} ns", cost_ns(&limiter, threads, |_| 7));
        println!("  50,000 keys, {threads} threads: {:.0} ns", cost_ns(&limiter, threads, spread));
    }
}

fn main() {
    println!("own: {} bytes a key", bytes_each(&own(1_000_000)));
    println!("governor: {} bytes a key", bytes_each(&governor()));
    report("own", own(100_000));
    report("governor", governor());
}
