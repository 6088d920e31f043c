//! Many seeds: a few with every test run, and as many as one likes with `./x sim`.

use std::env;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::scenario::run;
use crate::tally::{Promise, Tally};

/// Seeds that every test run goes through.
const SEEDS: u64 = 1_000;
/// Seeds of `./x sim` unless it says otherwise. With as many, everything that can happen must have happened.
const CAMPAIGN_SEEDS: u64 = 100_000;
/// Seeds within which a build that is broken on purpose must be caught.
const SABOTAGE_SEEDS: u64 = 10_000;
/// Seeds that fail before a campaign gives up.
const FAILURES_MAX: usize = 10;
/// Seeds that a thread takes at a time.
const BATCH: u64 = 50;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn command(seed: u64) -> String {
    format!("./x sim --seed {seed}")
}

/// A seed that broke a promise.
struct Failed {
    seed: u64,
    complaints: String,
}

/// Runs seeds `0..seeds`, each in a world of its own, on every core. Ends early when `failures_max` have failed.
fn campaign(seeds: u64, failures_max: usize) -> (Tally, Vec<Failed>) {
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let sums = Mutex::new((Tally::new(), Vec::new()));
    let work = || {
        let mut tally = Tally::new();
        while !enough.load(Ordering::Relaxed) {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= seeds {
                break;
            }
            for seed in first..seeds.min(first + BATCH) {
                let finished = run(seed);
                tally.add(&finished.tally);
                if !finished.wrongs.is_empty() {
                    let mut sums = sums.lock().expect("no thread panics");
                    sums.1.push(Failed { seed, complaints: finished.complaints() });
                    enough.fetch_or(sums.1.len() >= failures_max, Ordering::Relaxed);
                }
            }
        }
        sums.lock().expect("no thread panics").0.add(&tally);
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    let (tally, mut failed) = sums.into_inner().expect("no thread panics");
    failed.sort_by_key(|failed| failed.seed);
    (tally, failed)
}

#[test]
fn any_seed_keeps_every_promise() {
    for seed in 0..SEEDS {
        let finished = run(seed);
        assert!(finished.wrongs.is_empty(), "seed {seed}:\n  {}\nto replay: {}", finished.complaints(), command(seed));
    }
}

#[test]
fn a_seed_replays_a_whole_run_of_the_proxy() {
    for seed in 0..40 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!((first.trace, first.events), (second.trace, second.events), "seed {seed}: {}", command(seed));
    }
}

#[test]
#[ignore = "takes minutes: ./x sim"]
fn a_campaign_breaks_no_promise_and_misses_no_fault() {
    let seeds = number("MAYPOLE_SIM_SEEDS").unwrap_or(CAMPAIGN_SEEDS);
    let began = Instant::now();
    let (tally, failed) = campaign(seeds, FAILURES_MAX);
    println!("{tally}");
    println!("took {:.1} s", began.elapsed().as_secs_f64());
    for Failed { seed, complaints } in &failed {
        println!("seed {seed} broke a promise:\n  {complaints}\n  to replay: {}", command(*seed));
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
    let missing = tally.missing();
    assert!(seeds < CAMPAIGN_SEEDS || missing.is_empty(), "in {seeds} seeds never seen: {}", missing.join("; "));
}

/// The promise that this build breaks on purpose.
const SABOTAGED: Option<Promise> = if cfg!(feature = "sabotage-retry-post") {
    Some(Promise::SubmittedOnce)
} else if cfg!(feature = "sabotage-forget-decrement") {
    Some(Promise::InFlight)
} else if cfg!(any(feature = "sabotage-end-cut-body", feature = "sabotage-fin-is-the-end")) {
    Some(Promise::CutAnswers)
} else if cfg!(feature = "sabotage-blame-backend") {
    Some(Promise::ClientsBlamed)
} else if cfg!(feature = "sabotage-keep-worker") {
    Some(Promise::GivesWay)
} else if cfg!(feature = "sabotage-share-login") {
    Some(Promise::LoginsAreOnes)
} else if cfg!(feature = "sabotage-keep-coroutine") {
    Some(Promise::WaitsAside)
} else if cfg!(any(
    feature = "sabotage-give-up-early",
    feature = "sabotage-share-rate",
    feature = "sabotage-spread-failure",
    feature = "sabotage-spread-crowding",
    feature = "sabotage-spread-absence"
)) {
    Some(Promise::OwnAnswers)
} else if cfg!(feature = "sabotage-spread-delay") {
    Some(Promise::Prompt)
} else {
    None
};

#[test]
#[ignore = "needs a build that is broken on purpose: ./x sabotage"]
fn a_broken_build_is_caught() {
    let promise = SABOTAGED.expect("a build with one of the sabotage features");
    for seed in 0..SABOTAGE_SEEDS {
        if let Some(wrong) = run(seed).wrongs.into_iter().find(|wrong| wrong.promise == promise) {
            return println!("caught at seed {seed}: {wrong}");
        }
    }
    panic!("{SABOTAGE_SEEDS} seeds didn't notice that this build breaks a promise: {}", promise.words());
}

#[test]
#[ignore = "shows one run: ./x sim --seed N"]
fn one_seed_keeps_every_promise() {
    let seed = number("MAYPOLE_SIM_SEED").expect("MAYPOLE_SIM_SEED says which");
    let finished = run(seed);
    println!("{}", finished.tally);
    assert!(finished.wrongs.is_empty(), "seed {seed}:\n  {}", finished.complaints());
}
