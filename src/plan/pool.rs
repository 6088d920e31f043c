//! What a configuration says of its pool of backends.

use std::sync::Arc;

use crate::balance::{MarkKey, Policy, Sessions, Thresholds};
use crate::config::{CircuitBreaker, Config, Sticky, StickyCookie, WhenAllDown};

/// What the control plane goes by where it looks after a pool's backends.
#[derive(Debug)]
pub struct PoolRules {
    /// How its backends are picked and judged: every snapshot is made with it.
    pub policy: Arc<Policy>,
    /// The proxy's own; empty: none.
    pub zone: String,
    /// Backends that come back or are added at run time start slowly.
    pub slow_start: bool,
    /// Backends that are reached by TLS have to prove who they are.
    pub verifies_backends: bool,
    /// What becomes of backends when the checks of all fail.
    pub when_all_down: WhenAllDown,
    /// How long a breaker keeps a backend out; None: backends have none. When it trips is the policy's to say.
    pub circuit_breaker: Option<CircuitBreaker>,
}

impl PoolRules {
    /// Those of this configuration, with the policy that it makes.
    pub fn new(config: &Config, policy: Arc<Policy>) -> Self {
        Self {
            policy,
            zone: config.zone.clone(),
            slow_start: !config.slow_start.is_zero(),
            verifies_backends: config.upstream_tls.verify,
            when_all_down: config.when_all_down,
            circuit_breaker: config.circuit_breaker.clone(),
        }
    }
}

/// How a backend is picked, and judged. `session_key` is for cookies without a secret of their own.
pub fn policy(config: &Config, session_key: &MarkKey) -> Policy {
    Policy {
        strategy: config.strategy.clone(),
        balance_factor: config.hash_balance_factor,
        sessions: sessions(config, session_key),
        breaker: config.circuit_breaker.as_ref().map(thresholds),
        in_flight_max: config.limits.max_in_flight,
        waiting_max: config.queue.size,
    }
}

fn sessions(config: &Config, session_key: &MarkKey) -> Sessions {
    match &config.sticky {
        None => Sessions::Off,
        Some(Sticky::Ip { .. }) => Sessions::ById,
        Some(Sticky::Cookie(StickyCookie { secret: Some(secret), .. })) => {
            Sessions::ByName(MarkKey::of_secret(secret.reveal().as_bytes()))
        }
        Some(Sticky::Cookie(StickyCookie { secret: None, .. })) => Sessions::ByName(session_key.clone()),
    }
}

/// When a circuit breaker trips, and when its backend is trusted again.
pub fn thresholds(config: &CircuitBreaker) -> Thresholds {
    Thresholds {
        consecutive_failures: config.consecutive_failures,
        error_percent: config.error_percent,
        minimum_requests: config.minimum_requests,
        window: config.window,
        trials: config.half_open_requests,
        failing: config.on.clone(),
    }
}
