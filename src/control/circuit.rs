//! How long a backend stays outside once its circuit breaker has tripped, and when it is tried again. Pure: what workers
//! saw, time and chance go in.
//!
//! ```text
//!            it tripped              its stay is over
//!   Closed ─────────────▶ Open ─────────────────────────▶ HalfOpen
//!     ▲                    ▲                                │ │
//!     │                    └──────────── a trial failed ────┘ │
//!     └───────────────────────────────── its trials passed ───┘
//! ```
//!
//! Its turns to Open and Closed are made by the workers, see `balance`'s gates; this follows them.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use crate::balance::{Standing, Transition};
use crate::config::CircuitBreaker;

/// Ejections and failed trials lengthen the next stay for so long.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// So many of them are remembered; far fewer make the longest stay there is.
const STRIKES_MAX: usize = 100;
/// By chance a stay is shorter by up to this part of itself, so that a pool of proxies doesn't try all at once.
const JITTER: f64 = 0.2;
/// Trials that have come to nothing are made up for this often.
const REFILL_GAP: Duration = Duration::from_secs(1);

/// A backend's circuit breaker, as the control plane knows it.
#[derive(Clone, Debug)]
pub struct Circuit {
    state: CircuitState,
    since: SystemTime,
    /// What `state` came of, in words for an operator.
    reason: String,
    /// When its stay outside is over, for people; none unless it is open.
    until: Option<SystemTime>,
    /// When there is something to do: its stay is over, or trials have to be made up for.
    due: Option<Instant>,
    /// When it tripped or failed a trial, oldest first.
    strikes: VecDeque<Instant>,
}

/// Whether a backend is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// It is not.
    Closed,
    /// It is, unless too many are.
    Open,
    /// A few requests try whether it works again.
    HalfOpen,
}

/// Now, on the clock that doesn't go back, and on the one that people read.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For lengths of time.
    pub instant: Instant,
    /// For showing it.
    pub wall: SystemTime,
}

/// What time alone has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elapsed {
    Nothing,
    /// It is half-open from now on.
    StayIsOver,
    /// Trials that may have been lost are to be made up for.
    TrialsAreDue,
}

impl Moment {
    /// The system's.
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

impl Circuit {
    /// A closed one.
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            state: CircuitState::Closed,
            since: now,
            reason: "it hasn't tripped".into(),
            until: None,
            due: None,
            strikes: VecDeque::new(),
        }
    }

    /// Whether it is outside.
    pub fn state(&self) -> CircuitState {
        self.state
    }

    /// Since when it is what it is.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// What that came of, in words for an operator.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// When its stay outside is over; none unless it is open.
    pub fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// How often it tripped or failed a trial within the hour before `now`; at most 100 are counted.
    pub fn ejections(&self, now: Instant) -> usize {
        self.strikes.iter().filter(|at| now.saturating_duration_since(**at) < REMEMBERED).count()
    }

    /// When [`Self::elapse`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes in a transition that a worker told of, and where the backend stands now; true if that changed anything.
    /// Transitions may be told in another order than they were made: what the standing doesn't confirm has been overtaken by
    /// another. `chance` (0–1) is for the stay's length.
    pub(super) fn follow(
        &mut self,
        transition: Transition,
        standing: Standing,
        config: &CircuitBreaker,
        now: Moment,
        chance: f64,
    ) -> bool {
        let reason = match transition {
            Transition::TrippedInARow(failures) => format!("{failures} failures in a row"),
            Transition::TrippedByShare { failed, of } => format!("{failed} of {of} requests failed"),
            Transition::Relapsed => "a trial failed".into(),
            Transition::Recovered => "its trials passed".into(),
        };
        match (transition, standing, self.state) {
            (Transition::Recovered, Standing::Closed, CircuitState::HalfOpen) => {
                self.enter(CircuitState::Closed, reason, now.wall);
            }
            (Transition::Recovered, ..) | (_, _, CircuitState::Open) => return false,
            (_, Standing::Avoided, CircuitState::Closed | CircuitState::HalfOpen) => {
                let stay = self.strike(config, now.instant, chance);
                self.enter(CircuitState::Open, reason, now.wall);
                self.until = Some(now.wall + stay);
                self.due = Some(now.instant + stay);
            }
            _ => return false,
        }
        true
    }

    /// Takes in that time has passed.
    pub(super) fn elapse(&mut self, now: Moment) -> Elapsed {
        if self.due.is_none_or(|due| now.instant < due) {
            return Elapsed::Nothing;
        }
        let elapsed = if self.state == CircuitState::Open {
            self.enter(CircuitState::HalfOpen, "its stay outside is over".into(), now.wall);
            Elapsed::StayIsOver
        } else {
            Elapsed::TrialsAreDue
        };
        self.due = Some(now.instant + REFILL_GAP);
        elapsed
    }

    /// Counts one more ejection; how long it keeps the backend outside.
    fn strike(&mut self, config: &CircuitBreaker, now: Instant, chance: f64) -> Duration {
        self.strikes.retain(|at| now.saturating_duration_since(*at) < REMEMBERED);
        let doublings = u32::try_from(self.strikes.len()).unwrap_or(u32::MAX).min(31);
        if self.strikes.len() == STRIKES_MAX {
            self.strikes.pop_front();
        }
        self.strikes.push_back(now);
        let stay = config.open.saturating_mul(1 << doublings).min(config.max_open);
        stay.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
    }

    fn enter(&mut self, state: CircuitState, reason: String, at: SystemTime) {
        self.state = state;
        self.since = at;
        self.reason = reason;
        self.until = None;
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    const TRIPPED: Transition = Transition::TrippedInARow(5);
    const SECOND: Duration = Duration::from_secs(1);

    /// A circuit, and a clock that stands still until it is moved.
    struct Scene {
        circuit: Circuit,
        config: CircuitBreaker,
        now: Moment,
    }

    impl Scene {
        fn new() -> Self {
            let now = Moment { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
            Self { circuit: Circuit::new(now.wall), config: CircuitBreaker::default(), now }
        }

        fn pass(&mut self, time: Duration) -> Elapsed {
            self.now = Moment { instant: self.now.instant + time, wall: self.now.wall + time };
            self.circuit.elapse(self.now)
        }

        fn follow(&mut self, transition: Transition, standing: Standing) -> bool {
            self.circuit.follow(transition, standing, &self.config, self.now, 0.0)
        }

        /// What its stay was, once it is over.
        fn stay(&mut self) -> Duration {
            assert_eq!(self.circuit.state(), CircuitState::Open);
            let stay = self.circuit.due().unwrap() - self.now.instant;
            assert_eq!(self.circuit.until(), Some(self.now.wall + stay));
            assert_eq!(self.pass(stay / 2), Elapsed::Nothing);
            assert_eq!(self.pass(stay / 2), Elapsed::StayIsOver);
            assert_eq!((self.circuit.state(), self.circuit.until()), (CircuitState::HalfOpen, None));
            stay
        }
    }

    #[test]
    fn it_opens_stays_outside_is_tried_and_closes() {
        let mut scene = Scene::new();
        assert_eq!(scene.pass(1000 * SECOND), Elapsed::Nothing);
        assert!(scene.follow(TRIPPED, Standing::Avoided));
        assert_eq!(scene.circuit.reason(), "5 failures in a row");
        assert_eq!(scene.stay(), 10 * SECOND);
        assert_eq!(scene.pass(SECOND / 2), Elapsed::Nothing);
        assert_eq!(scene.pass(SECOND / 2), Elapsed::TrialsAreDue);
        assert_eq!(scene.pass(SECOND), Elapsed::TrialsAreDue);
        assert!(scene.follow(Transition::Recovered, Standing::Closed));
        assert_eq!(scene.circuit.state(), CircuitState::Closed);
        assert_eq!(scene.pass(1000 * SECOND), Elapsed::Nothing);
    }

    #[test]
    fn each_ejection_and_failed_trial_within_an_hour_doubles_the_next_stay() {
        let mut scene = Scene::new();
        assert!(scene.follow(Transition::TrippedByShare { failed: 12, of: 20 }, Standing::Avoided));
        assert_eq!(scene.circuit.reason(), "12 of 20 requests failed");
        for stay in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(scene.stay(), stay * SECOND);
            assert!(scene.follow(Transition::Relapsed, Standing::Avoided));
            assert_eq!(scene.circuit.reason(), "a trial failed");
        }
        assert_eq!(scene.circuit.ejections(scene.now.instant), 8);
        scene.stay();
        assert!(scene.follow(Transition::Recovered, Standing::Closed));
        assert!(scene.follow(TRIPPED, Standing::Avoided));
        assert_eq!(scene.stay(), 300 * SECOND, "a recovery doesn't make it forget");
        assert!(scene.follow(Transition::Recovered, Standing::Closed));
        scene.pass(3600 * SECOND);
        assert_eq!(scene.circuit.ejections(scene.now.instant), 0);
        assert!(scene.follow(TRIPPED, Standing::Avoided));
        assert_eq!(scene.stay(), 10 * SECOND);
    }

    #[test]
    fn an_ejection_counts_for_an_hour() {
        let mut scene = Scene::new();
        scene.follow(TRIPPED, Standing::Avoided);
        let at = scene.now.instant;
        let counted = [0, 3_599_999, 3_600_000].map(|ms| scene.circuit.ejections(at + Duration::from_millis(ms)));
        assert_eq!(counted, [1, 1, 0]);
    }

    #[test]
    fn chance_makes_a_stay_shorter_by_up_to_a_fifth() {
        for (chance, want) in [(0.0, 10 * SECOND), (0.5, 9 * SECOND), (1.0, 8 * SECOND)] {
            let mut scene = Scene::new();
            assert!(scene.circuit.follow(TRIPPED, Standing::Avoided, &scene.config, scene.now, chance));
            assert_eq!(scene.stay(), want);
        }
    }

    #[test]
    fn turns_that_come_in_another_order_than_they_were_made_lead_to_the_same() {
        // It recovered, and tripped at once: both are told when the second is made already.
        for told in [[Transition::Recovered, TRIPPED], [TRIPPED, Transition::Recovered]] {
            let mut scene = Scene::new();
            scene.follow(TRIPPED, Standing::Avoided);
            scene.stay();
            let changes = told.map(|transition| scene.follow(transition, Standing::Avoided));
            assert_eq!(changes.into_iter().filter(|changed| *changed).count(), 1, "{told:?}");
            assert_eq!(scene.circuit.state(), CircuitState::Open);
            assert_eq!(scene.stay(), 20 * SECOND);
        }
        // A transition that was taken back, since it could not be told, and one of a backend that has gone on.
        let mut scene = Scene::new();
        assert!(!scene.follow(TRIPPED, Standing::Closed));
        assert!(!scene.follow(TRIPPED, Standing::Trial));
    }

    proptest! {
        #[test]
        fn no_story_makes_a_stay_too_long_or_too_short_or_leaves_it_outside(
            story in prop::collection::vec((0_u64..5_000, 0_usize..4, 0.0..1.0), 0..300),
        ) {
            let mut scene = Scene::new();
            for (seconds, nth, chance) in story {
                scene.pass(Duration::from_secs(seconds));
                let by_share = Transition::TrippedByShare { failed: 1, of: 1 };
                let transition = [TRIPPED, Transition::Relapsed, Transition::Recovered, by_share][nth];
                let standing = if transition == Transition::Recovered { Standing::Closed } else { Standing::Avoided };
                let opened = scene.circuit.follow(transition, standing, &scene.config, scene.now, chance)
                    && standing == Standing::Avoided;
                let state = scene.circuit.state();
                assert_eq!(scene.circuit.due().is_some(), state != CircuitState::Closed);
                assert_eq!(scene.circuit.until().is_some(), state == CircuitState::Open);
                if opened {
                    let stay = scene.circuit.due().unwrap() - scene.now.instant;
                    let strikes = scene.circuit.ejections(scene.now.instant) as u32;
                    let whole = (10 * SECOND).saturating_mul(1 << (strikes - 1).min(20)).min(300 * SECOND);
                    assert!((whole.mul_f64(0.799)..=whole).contains(&stay), "{stay:?} after {strikes}");
                }
            }
        }
    }
}
