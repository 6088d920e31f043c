//! Real threads turn circuit breakers at once: each turn is made and told by one of them, and no more requests are let
//! through on trial than there are trials.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use maypole::balance::{Backend, Decision, InFlight, Origin, Seen, Standing, Thresholds, Transition};

const WORKERS: usize = 4;
const ROUNDS: usize = 2_000;
const TRIALS: u8 = 3;

fn thresholds() -> Thresholds {
    Thresholds {
        consecutive_failures: 5,
        error_percent: 100,
        minimum_requests: 1_000_000,
        window: Duration::from_secs(10),
        trials: TRIALS,
        failing: Vec::new(),
    }
}

fn backend() -> Backend {
    let origin = Origin { name: "a".into(), url: String::new(), host: "a".into(), port: 1, base_path: String::new() };
    Backend::new(1, 0, origin, WORKERS)
}

/// Has every worker ask ten times at once whether it may send a request, and see the same of all that it may, or nothing yet;
/// how many were let through, and the turns that were told.
fn requests(backend: &Backend, seen: Option<Seen>) -> (usize, Vec<Transition>) {
    let (admitted, told, together) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Barrier::new(WORKERS));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (admitted, told, together) = (&admitted, &told, &together);
            scope.spawn(move || {
                together.wait();
                for _ in 0..10 {
                    if !backend.admit() {
                        continue;
                    }
                    admitted.fetch_add(1, Ordering::Relaxed);
                    let Some(seen) = seen else { continue };
                    let request = InFlight::begin(backend).expect("it has no bound");
                    let tell = |turn| {
                        told.lock().expect("not poisoned").push(turn);
                        true
                    };
                    request.observe(&thresholds(), worker, seen, 0, tell);
                }
            });
        }
    });
    (admitted.into_inner(), told.into_inner().expect("not poisoned"))
}

#[test]
fn each_turn_is_told_once_and_trials_are_as_many_as_they_may_be() {
    let backend = backend();
    for round in 0..ROUNDS {
        let (admitted, told) = requests(&backend, Some(Seen::Bad));
        assert!(matches!(told[..], [Transition::TrippedInARow(5..)]), "round {round}: {told:?}");
        // Those that were on their way when it tripped.
        assert!((5..5 + WORKERS).contains(&admitted), "round {round}: {admitted} requests");
        assert_eq!(backend.standing(), Standing::Avoided);

        backend.decide(Decision::Try, TRIALS);
        assert_eq!(requests(&backend, None).0, usize::from(TRIALS), "round {round}");
        backend.refill_trials();
        assert_eq!(requests(&backend, Some(Seen::Bad)).1, [Transition::Relapsed], "round {round}");

        backend.decide(Decision::Try, TRIALS);
        assert_eq!(requests(&backend, Some(Seen::Good)).1, [Transition::Recovered], "round {round}");
        assert_eq!(backend.standing(), Standing::Closed);
    }
    assert_eq!(backend.in_flight(), 0);
}
