//! Circuit breakers in a run: the control plane hears of their turns and ends stays as time passes, and at each of its
//! looks they must be where it knows them to be.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use maypole::balance::{Report, Standing, Transition};
use maypole::control::circuit::{CircuitState, Moment};
use maypole::control::registry::Registry;
use maypole::proxy::Shared;

use crate::control::Control;
use crate::sim::{MILLISECOND, SECOND, Sim, Time};
use crate::tally::{Fault, Promise};

/// How often the control plane looks while most happens, and afterwards.
const BEAT: Time = 50 * MILLISECOND;
const BEAT_LATE: Time = SECOND;
const MOST_HAPPENS: Time = 8 * SECOND;

/// What is watched from one look to the next.
pub struct Breakers {
    /// Where the virtual clock begins on the control plane's.
    zero: Instant,
    panic_mode: Cell<bool>,
    /// The snapshot's version at the last look, and what was in flight then to those who were ejected.
    ejected: RefCell<(u64, HashMap<u64, usize>)>,
}

impl Breakers {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self { zero: Instant::now(), panic_mode: Cell::new(false), ejected: RefCell::default() }
    }

    /// The moment on the control plane's clocks.
    fn moment(&self, sim: &Sim) -> Moment {
        let since = Duration::from_nanos(sim.now());
        Moment { instant: self.zero + since, wall: SystemTime::UNIX_EPOCH + since }
    }

    /// Has the registry follow a turn.
    pub fn turned(&self, sim: &Sim, registry: &Registry, report: &Report) {
        let Report::Turned(backend, turn) = report else { return };
        sim.struck(match turn {
            Transition::TrippedInARow(_) => Fault::BreakerTripsInARow,
            Transition::TrippedByShare { .. } => Fault::BreakerTripsByShare,
            Transition::Relapsed => Fault::TrialFails,
            Transition::Recovered => Fault::BreakerCloses,
        });
        let chance = f64::from(sim.chance.below(100) as u32) / 100.0;
        registry.turned(backend, *turn, self.moment(sim), chance);
    }

    /// Looks: time has passed, and all turns have been told.
    pub fn look(&self, sim: &Sim, registry: &Registry, shared: &Shared) {
        registry.elapse(self.moment(sim));
        let panic_mode = registry.is_in_panic_mode();
        if panic_mode && !self.panic_mode.replace(panic_mode) {
            sim.struck(Fault::TooManyTrip);
        }
        self.panic_mode.set(panic_mode);
        let version = shared.kept.pool.snapshot.load().version;
        let mut ejected = HashMap::new();
        registry.read(|entries| {
            for entry in entries {
                let Some(circuit) = &entry.circuit else { continue };
                sim.checked(Promise::BreakersAgree);
                let standing = entry.backend.standing();
                let agree = match circuit.state() {
                    CircuitState::Closed => standing == Standing::Closed,
                    CircuitState::Open if panic_mode => standing == Standing::Tolerated,
                    CircuitState::Open => standing == Standing::Avoided,
                    CircuitState::HalfOpen => standing == Standing::Trial,
                };
                if !agree {
                    let state = circuit.state();
                    sim.wrong(Promise::BreakersAgree, format!("{} is {standing:?}, not {state:?}", entry.config.name));
                }
                if entry.ejected {
                    ejected.insert(entry.backend.id, entry.backend.in_flight());
                }
            }
        });
        let (version_before, before) = self.ejected.replace((version, ejected));
        if version_before == version {
            for (id, now) in &self.ejected.borrow().1 {
                sim.checked(Promise::EjectedGetsNothing);
                if before.get(id).is_some_and(|before| now > before) {
                    sim.wrong(Promise::EjectedGetsNothing, format!("backend {id} has {now} requests in flight again"));
                }
            }
        }
    }
}

/// Has the control plane look again and again, for as long as the run lasts; it acts on refused connections only if it is to.
pub fn follow(sim: &Sim, control: &Rc<Control>, shared: &Arc<Shared>, refusals: bool) {
    let (control, shared) = (Rc::clone(control), Arc::clone(shared));
    let gap = if sim.now() < MOST_HAPPENS { BEAT } else { BEAT_LATE };
    sim.after_idly(gap, move |sim| {
        control.heed_reports(sim, refusals);
        control.look_at_breakers(sim, &shared);
        follow(sim, &control, &shared, refusals);
    });
}
