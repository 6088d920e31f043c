//! The registry's part in circuit breakers: it follows each backend's, and decides over all of them together which
//! ejections count.

use std::time::Instant;

use log::Level;

use super::{Inner, Registry};
use crate::balance::{Backend, Decision, Turn};
use crate::config::WhenAllDown;
use crate::control::circuit::{Circuit, CircuitState, Elapsed, Moment};
use crate::control::entry::Entry;
use crate::control::health::Health;

impl Registry {
    /// Takes in that a backend's breaker has turned; when [`Self::elapse`] is to be called next. `chance` (0–1) is for how
    /// long it stays outside.
    pub fn turned(&self, backend: &Backend, turn: Turn, now: Moment, chance: f64) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let slow_start = self.slow_start;
        let config = self.circuit_breaker.as_ref()?;
        if let Some(entry) = inner.entry_mut(backend.id)
            && let Some(circuit) = &mut entry.circuit
            && circuit.follow(turn, backend.standing(), config, now, chance)
        {
            if slow_start && circuit.state() == CircuitState::Closed {
                entry.start_slowly();
            }
            let line = entry.note_circuit(now);
            inner.note(Level::Info, line);
            let due = inner.next_due();
            self.publish_soon(inner);
            return due;
        }
        inner.next_due()
    }

    /// Takes in that time has passed; when this is to be called next, if at all.
    pub fn elapse(&self, now: Moment) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let mut lines = Vec::new();
        for entry in &mut inner.entries {
            match entry.circuit.as_mut().map_or(Elapsed::Nothing, |circuit| circuit.elapse(now)) {
                Elapsed::Nothing => {}
                Elapsed::TrialsAreDue => entry.backend.refill_trials(),
                Elapsed::StayIsOver => lines.extend(entry.note_circuit(now)),
            }
        }
        let due = inner.next_due();
        if !lines.is_empty() {
            inner.note(Level::Info, lines);
            self.publish_soon(inner);
        }
        due
    }

    /// Whether so many backends have tripped their breakers that all get traffic all the same.
    pub fn is_in_panic_mode(&self) -> bool {
        self.inner.lock().panic_mode
    }

    /// Decides who is ejected, who is tolerated, and who is tried although its checks fail.
    pub(super) fn settle(&self, inner: &mut Inner) {
        let all_down = !inner.entries.iter().any(|entry| !entry.is_out_of_service() && entry.is_alive());
        let tries_all = all_down && self.when_all_down == WhenAllDown::Try;
        for entry in &mut inner.entries {
            entry.tried_anyway = tries_all && entry.health == Health::Down;
        }
        let Some(config) = &self.circuit_breaker else { return };
        let counts = |entry: &&Entry| !entry.is_out_of_service() && (entry.is_alive() || entry.tried_anyway);
        let of = inner.entries.iter().filter(counts).count();
        let out = inner.entries.iter().filter(counts).filter(|entry| entry.has_tripped()).count();
        let panic_mode = out * 100 > of * config.max_ejected_percent as usize;
        if panic_mode != inner.panic_mode {
            inner.panic_mode = panic_mode;
            let seen = format!("the breakers of {out} of {of} backends have tripped");
            let (level, line) = if panic_mode {
                (Level::Warn, format!("panic mode: {seen}, all of them get traffic"))
            } else {
                (Level::Info, format!("panic mode is over: {seen}"))
            };
            inner.note(level, [line]);
        }
        for entry in &mut inner.entries {
            let state = entry.circuit.as_ref().map_or(CircuitState::Closed, Circuit::state);
            entry.ejected = state == CircuitState::Open && !panic_mode;
            match (state, panic_mode) {
                (CircuitState::Closed, _) => {}
                (CircuitState::Open, false) => entry.backend.decide(Decision::Avoid),
                (CircuitState::Open, true) => entry.backend.decide(Decision::Tolerate),
                (CircuitState::HalfOpen, false) => entry.backend.decide(Decision::Try),
                (CircuitState::HalfOpen, true) => entry.backend.decide(Decision::TryOnAll),
            }
        }
    }
}

impl Inner {
    fn next_due(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.circuit.as_ref()?.due()).min()
    }
}

#[cfg(test)]
mod tests;
