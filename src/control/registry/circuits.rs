//! The registry's part in circuit breakers: it follows each backend's. Which ejections count is concluded with all else.

use std::sync::Arc;
use std::time::Instant;

use log::Level;

use super::members::Members;
use super::{DEFAULT, Inner, Registry};
use crate::balance::{Backend, Decision, Transition};
use crate::control::circuit::{CircuitState, Elapsed, Moment};

impl Registry {
    /// Takes in that a backend's breaker has turned; when [`Self::elapse`] is to be called next. `chance` (0–1) is for how
    /// long it stays outside.
    pub fn turned(&self, backend: &Backend, transition: Transition, now: Moment, chance: f64) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let Some(pool) = inner.pool_of(backend.id) else { return inner.next_due() };
        let rules = Arc::clone(&inner.pools[pool].rules);
        let Some(config) = &rules.circuit_breaker else {
            // A request that began when there were breakers has turned one.
            backend.decide(Decision::Trust, 0);
            return inner.next_due();
        };
        if let Some(entry) = inner.entry_mut(backend.id)
            && let Some(circuit) = &mut entry.circuit
            && circuit.follow(transition, backend.standing(), config, now, chance)
        {
            if rules.slow_start && circuit.state() == CircuitState::Closed {
                entry.start_slowly();
            }
            let line = entry.note_circuit(now);
            inner.note(line.map(|line| (Level::Info, line)));
            let due = inner.next_due();
            inner.conclude(pool);
            self.publish_soon(inner);
            return due;
        }
        inner.next_due()
    }

    /// Takes in that time has passed; when this is to be called next, if at all.
    pub fn elapse(&self, now: Moment) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let mut any = false;
        for pool in 0..inner.pools.len() {
            let mut lines = Vec::new();
            for entry in &mut inner.pools[pool].entries {
                match entry.circuit.as_mut().map_or(Elapsed::Nothing, |circuit| circuit.elapse(now)) {
                    Elapsed::Nothing => {}
                    Elapsed::TrialsAreDue => entry.backend.refill_trials(),
                    Elapsed::StayIsOver => lines.extend(entry.note_circuit(now)),
                }
            }
            if !lines.is_empty() {
                inner.note(lines.into_iter().map(|line| (Level::Info, line)));
                inner.conclude(pool);
                any = true;
            }
        }
        let due = inner.next_due();
        if any {
            self.publish_soon(inner);
        }
        due
    }

    /// Whether so many backends have tripped their breakers that all get traffic all the same.
    pub fn is_in_panic_mode(&self) -> bool {
        self.inner.lock().pools[DEFAULT].panic_mode
    }
}

impl Inner {
    fn next_due(&self) -> Option<Instant> {
        self.pools.iter().filter_map(Members::next_due).min()
    }
}

#[cfg(test)]
mod tests;
