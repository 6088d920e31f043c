//! One backend with all that the control plane knows of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::circuit::{Circuit, CircuitState, Moment};
use super::health::{Health, LastProbe};
use super::timestamp::rfc3339;
use crate::balance::Backend;
pub use crate::config::BackendState as State;
use crate::config::{BackendChange, BackendConfig};

/// How many of a backend's changes are remembered.
pub(super) const CHANGES_MAX: usize = 20;

/// What a slow start begins with, and what each step adds: twenty of them make a whole.
pub(super) const RAMP_STEP_PERCENT: u32 = 5;

/// Why the health of one that is new isn't known.
pub(super) const NOT_PROBED: &str = "not probed yet";

/// A backend with all that the control plane knows of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What the workers share.
    pub backend: Arc<Backend>,
    /// As configured.
    pub config: BackendConfig,
    /// What added it.
    pub source: Source,
    /// What an operator said.
    pub state: State,
    /// How much of its weight counts, in percent: less than 100 while it starts slowly.
    pub ramp_percent: u32,
    /// What was seen.
    pub health: Health,
    /// When `health` became what it is.
    pub health_since: SystemTime,
    /// Why `health` is what it is, in words for an operator.
    pub health_reason: String,
    /// What was seen of its addresses; of those that are missing, nothing yet.
    pub addresses_seen: Vec<AddressSeen>,
    /// It gets traffic although its checks fail, since those of all others do too (`when_all_down`).
    pub tried_anyway: bool,
    /// Its circuit breaker; None where there is none.
    pub circuit: Option<Circuit>,
    /// Whether it has to prove who it is; None: it is reached in clear.
    pub verified: Option<bool>,
    /// It gets no traffic since its breaker is open, and not too many others are.
    pub ejected: bool,
    /// None before the first one has ended.
    pub last_probe: Option<LastProbe>,
    /// The latest, oldest first; at most 20.
    pub changes: VecDeque<Change>,
}

/// What was seen of one of a backend's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSeen {
    /// Which.
    pub address: SocketAddr,
    /// What was seen.
    pub health: Health,
    /// When `health` became what it is.
    pub since: SystemTime,
    /// Why `health` is what it is, in words for an operator.
    pub reason: String,
}

/// What added a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration file.
    Config,
    /// A call of the admin API.
    Admin,
}

/// Something that happened to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: SystemTime,
    /// What, and why: `down: connection refused`.
    pub what: String,
}

/// Which backend is meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// By its normalised URL.
    Url(&'a str),
    /// By its name.
    Name(&'a str),
}

impl Entry {
    pub(super) fn new(backend: Arc<Backend>, config: BackendConfig, source: Source, now: SystemTime) -> Self {
        let what = match source {
            Source::Config => "added by the configuration",
            Source::Admin => "added through the admin API",
        };
        Self {
            backend,
            config,
            source,
            state: State::Ready,
            ramp_percent: 100,
            health: Health::Unknown,
            health_since: now,
            health_reason: NOT_PROBED.into(),
            addresses_seen: Vec::new(),
            tried_anyway: false,
            circuit: None,
            verified: None,
            ejected: false,
            last_probe: None,
            changes: VecDeque::from([Change { at: now, what: what.into() }]),
        }
    }

    /// Whether it gets traffic now.
    pub fn is_eligible(&self) -> bool {
        self.ineligible_because().is_none()
    }

    /// Whether it serves the sessions that are bound to it: unlike others' requests, also while it is drained or has no weight.
    pub fn serves_sessions(&self) -> bool {
        self.state != State::Down && (self.is_alive() || self.tried_anyway) && !self.ejected
    }

    /// Why it gets no traffic, if it gets none.
    pub fn ineligible_because(&self) -> Option<String> {
        if self.state != State::Ready {
            return Some(said(self.state).into());
        }
        if self.health == Health::Down && !self.tried_anyway {
            return Some(format!("down: {}", self.health_reason));
        }
        if self.ejected {
            return self.circuit.as_ref().map(ejection);
        }
        (self.config.weight == 0).then(|| "its weight is 0".into())
    }

    /// Whether it is seen to work, or has not been seen not to.
    pub fn is_alive(&self) -> bool {
        self.health != Health::Down
    }

    /// From now on its weight counts only in part, and more with each step.
    pub(super) fn start_slowly(&mut self) {
        self.ramp_percent = RAMP_STEP_PERCENT;
    }

    /// Takes in what an operator said; a line for the log for each thing that it changed.
    pub(super) fn change(&mut self, change: BackendChange, now: SystemTime) -> Vec<String> {
        let mut lines = Vec::new();
        let state = change.state.filter(|state| *state != self.state);
        let weight = change.weight.filter(|weight| *weight != self.config.weight);
        if let Some(state) = state {
            self.state = state;
            lines.push(format!("backend {} is {}", self.config.name, said(state)));
            self.note(now, said(state).into());
        }
        if let Some(weight) = weight {
            let before = std::mem::replace(&mut self.config.weight, weight);
            let what = format!("weight {weight} instead of {before} by an operator");
            lines.push(format!("backend {} has {what}", self.config.name));
            self.note(now, what);
        }
        let bound = change.max_connections.filter(|bound| *bound != self.config.max_connections);
        if let Some(bound) = bound {
            let before = std::mem::replace(&mut self.config.max_connections, bound);
            let what = format!("max_connections {bound} instead of {before} by an operator");
            lines.push(format!("backend {} has {what}", self.config.name));
            self.note(now, what);
        }
        lines
    }

    /// Whether it gets no new requests because an operator said so.
    pub fn is_out_of_service(&self) -> bool {
        self.state != State::Ready || self.config.weight == 0
    }

    /// Its breaker is open or half-open.
    pub(super) fn has_tripped(&self) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| circuit.state() != CircuitState::Closed)
    }

    pub(super) fn is(&self, which: Which<'_>) -> bool {
        match which {
            Which::Url(normalized) => self.config.url.normalized == normalized,
            Which::Name(name) => self.config.name == name,
        }
    }

    pub(super) fn note(&mut self, at: SystemTime, what: String) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { at, what });
    }

    /// Takes down what its breaker has become; a line for the log.
    pub(super) fn note_circuit(&mut self, now: Moment) -> Option<String> {
        let circuit = self.circuit.as_ref()?;
        let what = match circuit.state() {
            CircuitState::Closed => format!("breaker closed: {}", circuit.reason()),
            CircuitState::HalfOpen => format!("breaker half-open: {}", circuit.reason()),
            CircuitState::Open => {
                let stay = circuit.until().and_then(|until| until.duration_since(now.wall).ok()).unwrap_or_default();
                format!("breaker open for {stay:.1?}: {}", circuit.reason())
            }
        };
        let line = format!("backend {}: {what}", self.config.name);
        self.note(now.wall, what);
        Some(line)
    }

    /// Takes in what was seen of one of its addresses. What it no longer has is forgotten.
    pub(super) fn note_address(&mut self, address: SocketAddr, health: Health, probe: &LastProbe) {
        let addresses = self.backend.addresses.list();
        let same = |seen: &AddressSeen| seen.address == address && seen.health == health;
        let known = self.addresses_seen.iter().any(same);
        self.addresses_seen.retain(|seen| addresses.contains(&seen.address) && (known || seen.address != address));
        if !known {
            self.addresses_seen.push(AddressSeen { address, health, since: probe.at, reason: probe.reason.clone() });
        }
    }

    /// All of its addresses have refused a connection.
    pub(super) fn note_refusal(&mut self, at: SystemTime) {
        let down =
            |address| AddressSeen { address, health: Health::Down, since: at, reason: "connection refused".into() };
        self.addresses_seen = self.backend.addresses.list().into_iter().map(down).collect();
    }

    /// Takes a change of health in; a line for the log.
    pub(super) fn turn(&mut self, health: Health, reason: &str, at: SystemTime) -> String {
        let word = match health {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        };
        self.health = health;
        self.health_since = at;
        reason.clone_into(&mut self.health_reason);
        self.note(at, format!("{word}: {reason}"));
        format!("backend {} is {word}: {reason}", self.config.name)
    }
}

/// Why its breaker keeps a backend out, and for how long.
fn ejection(circuit: &Circuit) -> String {
    match circuit.until() {
        Some(until) => format!("ejected: {}, until {}", circuit.reason(), rfc3339(until)),
        None => format!("ejected: {}", circuit.reason()),
    }
}

/// How a state came about, in the words of changes and reasons.
fn said(state: State) -> &'static str {
    match state {
        State::Ready => "made ready by an operator",
        State::Drain => "drained by an operator",
        State::Down => "taken down by an operator",
    }
}
