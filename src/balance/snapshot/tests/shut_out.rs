//! Picks among backends that their breakers have shut out, or let few requests through to.

use super::*;
use crate::balance::{Decision, Seen, Thresholds};

/// Members whose breakers trip at the first failure and take two trials.
fn with_breakers(count: u64) -> Vec<Member> {
    let member = |id| Member::new(Arc::new(backend(id)));
    (0..count).map(member).collect()
}

fn shut(member: &Member) {
    let thresholds = Thresholds {
        consecutive_failures: 1,
        error_percent: 100,
        minimum_requests: 1,
        window: Duration::from_secs(1),
        trials: 2,
        failing: Vec::new(),
    };
    InFlight::begin(&*member.backend).unwrap().observe(&thresholds, 0, Seen::Bad, 0, |_| true);
}

#[test]
fn no_strategy_picks_one_that_is_shut_out_while_another_is_there() {
    for strategy in EVERY_STRATEGY {
        let members = with_breakers(3);
        let snapshot = of(strategy.clone(), members.clone());
        shut(&members[0]);
        for tried in [&[][..], &[1]] {
            let picked = picks(&snapshot, &AtomicUsize::new(0), tried, 200);
            assert!(!picked.contains(&0), "{strategy:?}");
        }
        for key in 0..200 {
            assert_ne!(snapshot.pick(&AtomicUsize::new(0), &[], &Request::with_key(key)).unwrap().id, 0);
        }
        shut(&members[2]);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[1], 1), [1], "it has failed this request alone");
        assert!(!snapshot.offers_other_than(&[1]));
    }
}

#[test]
fn its_turns_are_shared_by_the_others() {
    for strategy in [Strategy::RoundRobin, Strategy::LeastConn, Strategy::Random] {
        let members = with_breakers(4);
        shut(&members[1]);
        let shares = shares(&picks(&of(strategy.clone(), members), &AtomicUsize::new(0), &[], 3_000), 4);
        for share in [shares[0], shares[2], shares[3]] {
            assert!(share.abs_diff(1_000) < 150, "{strategy:?}: {shares:?}");
        }
    }
}

#[test]
fn a_backup_serves_when_all_others_are_shut_out_and_when_it_is_too_they_all_do() {
    for strategy in EVERY_STRATEGY {
        let mut members = with_breakers(3);
        members[2].backup = true;
        let snapshot = of(strategy.clone(), members.clone());
        members[..2].iter().for_each(shut);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 3), [2, 2, 2], "{strategy:?}");
        shut(&members[2]);
        let shares = shares(&picks(&snapshot, &AtomicUsize::new(0), &[], 1_000), 3);
        assert!(shares[0].abs_diff(500) < 100 && shares[2] == 0, "{strategy:?}: {shares:?}");
    }
}

#[test]
fn one_on_trial_gets_as_many_requests_as_its_trials() {
    for strategy in EVERY_STRATEGY {
        let members = with_breakers(2);
        let snapshot = of(strategy.clone(), members.clone());
        shut(&members[0]);
        members[0].backend.decide(Decision::Try, 2);
        let on_trial = shares(&picks(&snapshot, &AtomicUsize::new(0), &[], 100), 2)[0];
        assert_eq!(on_trial, 2, "{strategy:?}");
        shut(&members[1]);
        members[1].backend.decide(Decision::Try, 2);
        let alone = of(strategy, vec![members[1].clone()]);
        let picked: Vec<_> = (0..3).map(|_| alone.pick(&AtomicUsize::new(0), &[], &Request::any())).collect();
        assert!(picked[1].is_some() && picked[2].is_none(), "no more than its trials, though it is the only one");
    }
}
