//! What the API shows of a backend, as JSON. Field order is part of the contract.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::balance::Totals;
use crate::control::circuit::CircuitState;
use crate::control::entry::{AddressSeen, Change, Entry, NOT_PROBED, Source, State};
use crate::control::health::{Health, LastProbe};
use crate::control::timestamp::rfc3339;
use crate::observe::{Counts, HandshakeTotals, Reason};

/// `GET /status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    total_backends: usize,
    active_backends: usize,
    backends: Vec<StatusBackend>,
    connections: Connections,
    failures: Failures,
    queue: Queue,
    retries: Retries,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshakes: Option<HandshakeTotals>,
    panics: u64,
    panic_mode: bool,
}

#[derive(Debug, Serialize)]
struct StatusBackend {
    url: String,
    alive: bool,
    current_connections: usize,
    circuit_breaker: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Connections {
    open: usize,
    accepted: u64,
    accept_errors: u64,
}

#[derive(Debug, Serialize)]
struct Queue {
    waiting: usize,
    queued: u64,
    timed_out: u64,
    turned_away: u64,
}

#[derive(Debug, Serialize)]
struct Retries {
    sent: u64,
    denied: u64,
}

/// An object with a number for each reason.
#[derive(Debug)]
struct Failures(Vec<(Reason, u64)>);

impl Serialize for Failures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(reason, count)| (reason.label(), count)))
    }
}

impl Status {
    pub(super) fn of(entries: &[Entry], panic_mode: bool, counts: &Counts) -> Self {
        let failed = |why| counts.failures.iter().filter(|(reason, _)| *reason == why).map(|(_, count)| count).sum();
        let backend = |entry: &Entry| StatusBackend {
            url: entry.config.url.written.clone(),
            alive: entry.is_alive(),
            current_connections: entry.backend.in_flight(),
            circuit_breaker: entry.circuit.as_ref().map(|circuit| word(circuit.state())),
        };
        Self {
            total_backends: entries.len(),
            active_backends: entries.iter().filter(|entry| entry.is_eligible()).count(),
            backends: entries.iter().map(backend).collect(),
            connections: Connections {
                open: counts.connections_open,
                accepted: counts.accepted,
                accept_errors: counts.accept_errors,
            },
            failures: Failures(counts.failures.clone()),
            queue: Queue {
                waiting: counts.queue.0,
                queued: counts.queue.1,
                timed_out: failed(Reason::QueueTimeout),
                turned_away: failed(Reason::QueueFull),
            },
            retries: Retries { sent: counts.retries.0, denied: counts.retries.1 },
            handshakes: counts.handshakes.clone(),
            panics: counts.panics,
            panic_mode,
        }
    }
}

/// Backends in full, each of them shown when its turn comes.
#[derive(Debug)]
pub(super) struct InFull<'e>(pub(super) &'e [Entry]);

impl Serialize for InFull<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(FullBackend::from))
    }
}

/// A backend in full.
#[derive(Debug, Serialize)]
pub(super) struct FullBackend {
    name: String,
    url: String,
    source: &'static str,
    state: &'static str,
    health: &'static str,
    health_since: String,
    health_reason: String,
    eligible: bool,
    ineligible_reason: Option<String>,
    weight: u32,
    effective_weight: f64,
    backup: bool,
    max_connections: usize,
    zone: String,
    in_flight: usize,
    totals: FullTotals,
    latency_ms: Quantiles,
    addresses: Vec<SocketAddr>,
    address_health: Vec<AddressHealth>,
    last_probe: Option<Probe>,
    changes: Vec<FullChange>,
    circuit_breaker: Option<FullCircuit>,
    tls: Option<FullTls>,
}

#[derive(Debug, Serialize)]
struct FullTls {
    verify: bool,
}

#[derive(Debug, Serialize)]
struct AddressHealth {
    address: SocketAddr,
    health: &'static str,
    since: Option<String>,
    reason: String,
}

#[derive(Debug, Serialize)]
struct FullCircuit {
    state: &'static str,
    since: String,
    reason: String,
    until: Option<String>,
    ejections: usize,
    consecutive_failures: u32,
}

#[derive(Debug, Serialize)]
struct FullTotals {
    answered: u64,
    failed: u64,
    abandoned: u64,
    #[serde(rename = "1xx")]
    informational: u64,
    #[serde(rename = "2xx")]
    success: u64,
    #[serde(rename = "3xx")]
    redirection: u64,
    #[serde(rename = "4xx")]
    client_error: u64,
    #[serde(rename = "5xx")]
    server_error: u64,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Probe {
    at: String,
    passed: bool,
    reason: String,
    took_ms: f64,
    late_ms: f64,
}

#[derive(Debug, Serialize)]
struct FullChange {
    at: String,
    what: String,
}

impl From<&Entry> for FullBackend {
    fn from(entry: &Entry) -> Self {
        let totals = entry.backend.totals();
        let ineligible_reason = entry.ineligible_because();
        let addresses = entry.backend.addresses.list();
        Self {
            name: entry.config.name.clone(),
            url: entry.config.url.written.clone(),
            source: match entry.source {
                Source::Config => "config",
                Source::Admin => "admin",
            },
            state: match entry.state {
                State::Ready => "ready",
                State::Drain => "drain",
                State::Down => "down",
            },
            health: health(entry.health),
            health_since: rfc3339(entry.health_since),
            health_reason: entry.health_reason.clone(),
            eligible: ineligible_reason.is_none(),
            ineligible_reason,
            weight: entry.config.weight,
            effective_weight: f64::from(entry.config.weight * entry.ramp_percent) / 100.0,
            backup: entry.config.backup,
            max_connections: entry.config.max_connections,
            zone: entry.config.zone.clone(),
            in_flight: entry.backend.in_flight(),
            latency_ms: Quantiles::of(&totals),
            totals: FullTotals::from(&totals),
            address_health: addresses
                .iter()
                .map(|address| AddressHealth::of(*address, &entry.addresses_seen))
                .collect(),
            addresses,
            last_probe: entry.last_probe.as_ref().map(Probe::from),
            changes: changes(&entry.changes),
            circuit_breaker: entry.circuit.as_ref().map(|circuit| FullCircuit {
                state: word(circuit.state()),
                since: rfc3339(circuit.since()),
                reason: circuit.reason().to_owned(),
                until: circuit.until().map(rfc3339),
                ejections: circuit.ejections(Instant::now()),
                consecutive_failures: entry.backend.consecutive_failures(),
            }),
            tls: entry.verified.map(|verify| FullTls { verify }),
        }
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Down => "down",
    }
}

impl AddressHealth {
    fn of(address: SocketAddr, seen: &[AddressSeen]) -> Self {
        let seen = seen.iter().find(|seen| seen.address == address);
        Self {
            address,
            health: health(seen.map_or(Health::Unknown, |seen| seen.health)),
            since: seen.map(|seen| rfc3339(seen.since)),
            reason: seen.map_or(NOT_PROBED, |seen| &seen.reason).to_owned(),
        }
    }
}

fn word(state: CircuitState) -> &'static str {
    match state {
        CircuitState::Closed => "closed",
        CircuitState::Open => "open",
        CircuitState::HalfOpen => "half-open",
    }
}

impl From<&Totals> for FullTotals {
    fn from(totals: &Totals) -> Self {
        let [informational, success, redirection, client_error, server_error] = totals.classes;
        Self {
            answered: totals.answered,
            failed: totals.failed,
            abandoned: totals.abandoned,
            informational,
            success,
            redirection,
            client_error,
            server_error,
        }
    }
}

impl Quantiles {
    fn of(totals: &Totals) -> Self {
        let quantile = |of| totals.latency.quantile(of).map(millis);
        Self { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99) }
    }
}

impl From<&LastProbe> for Probe {
    fn from(probe: &LastProbe) -> Self {
        Self {
            at: rfc3339(probe.at),
            passed: probe.passed,
            reason: probe.reason.clone(),
            took_ms: millis(probe.took),
            late_ms: millis(probe.late),
        }
    }
}

/// The latest first: that is the one people look for.
fn changes(changes: &VecDeque<Change>) -> Vec<FullChange> {
    changes.iter().rev().map(|change| FullChange { at: rfc3339(change.at), what: change.what.clone() }).collect()
}

/// Milliseconds, to the microsecond.
pub(super) fn millis(duration: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)] // exact up to 285 years
    let micros = duration.as_micros() as f64;
    micros / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_milliseconds() {
        for (micros, want) in [(0, 0.0), (1, 0.001), (1_500, 1.5), (3_600_000_000, 3_600_000.0)] {
            assert!((millis(Duration::from_micros(micros)) - want).abs() < 1e-9, "{micros}");
        }
    }
}
