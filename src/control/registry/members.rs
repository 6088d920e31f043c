//! One pool's part of the registry: its backends as the control plane knows them, and what is concluded of all of them
//! together. Every conclusion is drawn anew after a change, by the rules that hold then.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::Level;

use crate::balance::{Decision, Member, Pool, Snapshot};
use crate::config::WhenAllDown;
use crate::control::circuit::{Circuit, CircuitState};
use crate::control::entry::{Entry, RAMP_STEP_PERCENT};
use crate::control::health::Health;
use crate::plan::PoolRules;

/// A pool's backends, and the rules that it goes by.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) pool: Arc<Pool>,
    /// Swapped whole: nothing of it is kept elsewhere.
    pub(super) rules: Arc<PoolRules>,
    /// In the order of their ids too.
    pub(super) entries: Vec<Entry>,
    /// Counts up with every change that workers have to know of.
    pub(super) version: u64,
    /// Too many breakers have tripped: none of them counts.
    pub(super) panic_mode: bool,
}

/// A line for the log.
pub(super) type Line = (Level, String);

impl Members {
    /// None yet.
    pub(super) fn new(pool: Arc<Pool>, rules: PoolRules) -> Self {
        Self { pool, rules: Arc::new(rules), entries: Vec::new(), version: 0, panic_mode: false }
    }

    pub(super) fn entry_mut(&mut self, id: u64) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.backend.id).ok()?;
        Some(&mut self.entries[index])
    }

    /// Goes by other rules from now on. Breakers that there are no more hold nothing against any backend, and those that are new
    /// begin closed.
    pub(super) fn go_by(&mut self, rules: PoolRules, now: SystemTime) -> Option<Line> {
        self.rules = Arc::new(rules);
        for entry in &mut self.entries {
            entry.verified = entry.config.url.is_https.then_some(self.rules.verifies_backends);
            match (&self.rules.circuit_breaker, &entry.circuit) {
                (None, Some(_)) => {
                    (entry.circuit, entry.ejected) = (None, false);
                    entry.backend.decide(Decision::Trust, 0);
                }
                (Some(_), None) => entry.circuit = Some(Circuit::new(now)),
                _ => {}
            }
            if !self.rules.slow_start {
                entry.ramp_percent = 100;
            }
        }
        self.conclude()
    }

    /// Takes every backend that starts slowly a step further; whether there is one.
    pub(super) fn step_ramps(&mut self) -> bool {
        let mut stepped = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.ramp_percent < 100) {
            entry.ramp_percent += RAMP_STEP_PERCENT;
            stepped = true;
        }
        stepped
    }

    /// Draws the conclusions of a change, which is to be published then: which backends are ejected, which are tolerated, and which are
    /// tried although their checks fail.
    pub(super) fn conclude(&mut self) -> Option<Line> {
        self.version += 1;
        let rules = Arc::clone(&self.rules);
        let all_down = !self.entries.iter().any(|entry| !entry.is_out_of_service() && entry.is_alive());
        let tries_all = all_down && rules.when_all_down == WhenAllDown::Try;
        for entry in &mut self.entries {
            entry.tried_anyway = tries_all && entry.health == Health::Down;
        }
        let Some(config) = &rules.circuit_breaker else {
            self.panic_mode = false;
            return None;
        };
        let counts = |entry: &&Entry| !entry.is_out_of_service() && (entry.is_alive() || entry.tried_anyway);
        let of = self.entries.iter().filter(counts).count();
        let out = self.entries.iter().filter(counts).filter(|entry| entry.has_tripped()).count();
        let panic_mode = out * 100 > of * config.max_ejected_percent as usize;
        let line = (panic_mode != self.panic_mode).then(|| {
            let seen = format!("the breakers of {out} of {of} backends have tripped");
            if panic_mode {
                (Level::Warn, format!("panic mode: {seen}, all of them get traffic"))
            } else {
                (Level::Info, format!("panic mode is over: {seen}"))
            }
        });
        self.panic_mode = panic_mode;
        let trials = config.half_open_requests;
        for entry in &mut self.entries {
            let state = entry.circuit.as_ref().map_or(CircuitState::Closed, Circuit::state);
            entry.ejected = state == CircuitState::Open && !panic_mode;
            match (state, panic_mode) {
                (CircuitState::Closed, _) => {}
                (CircuitState::Open, false) => entry.backend.decide(Decision::Avoid, trials),
                (CircuitState::Open, true) => entry.backend.decide(Decision::Tolerate, trials),
                (CircuitState::HalfOpen, false) => entry.backend.decide(Decision::Try, trials),
                (CircuitState::HalfOpen, true) => entry.backend.decide(Decision::TryOnAll, trials),
            }
        }
        line
    }

    /// When time alone will change something at a breaker.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.circuit.as_ref()?.due()).min()
    }

    /// What a snapshot of them is made of. Making it takes long for some thousand backends, and needs no lock.
    pub(super) fn to_publish(&self) -> ToPublish {
        let rules = Arc::clone(&self.rules);
        let member = |entry: &Entry| Member {
            backend: Arc::clone(&entry.backend),
            weight: entry.config.weight,
            max_connections: entry.config.max_connections,
            ramp_percent: entry.ramp_percent,
            eligible: entry.is_eligible(),
            serves_sessions: entry.serves_sessions(),
            backup: entry.config.backup,
            local: !rules.zone.is_empty() && entry.config.zone == rules.zone,
        };
        let members = self.entries.iter().map(member).collect();
        ToPublish { pool: Arc::clone(&self.pool), version: self.version, members, rules }
    }
}

/// A snapshot to be.
pub(super) struct ToPublish {
    pub(super) pool: Arc<Pool>,
    pub(super) version: u64,
    members: Vec<Member>,
    rules: Arc<PoolRules>,
}

impl ToPublish {
    pub(super) fn publish(self) {
        self.pool.publish(Snapshot::new(self.version, self.members, Arc::clone(&self.rules.policy)));
    }
}
