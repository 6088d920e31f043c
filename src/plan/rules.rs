//! What holds for connections, and what for requests.

use std::net::IpAddr;
use std::time::Duration;

use super::{Room, Via};
use crate::config::{Config, Hsts, Limits, Retries};
use crate::http1::{FieldNames, HeadLimits};
use crate::policy::{Networks, SeatRules};

/// Connections that a worker turns away at a time, at most: each waits for its client's end, but for seconds only.
const TURNED_AWAY_MAX: usize = 1024;

/// What holds for clients' connections.
#[derive(Debug)]
pub struct ConnectionRules {
    /// Of requests' heads and of answers'.
    pub head_limits: HeadLimits,
    /// For a whole head, from its first byte (or from the connection's start).
    pub head_timeout: Duration,
    /// How long one is idle before it is closed.
    pub keep_alive: Duration,
    /// The same of one to a backend.
    pub upstream_keep_alive: Duration,
    /// How long a client that is turned away may leave its answer unread.
    pub write_timeout: Duration,
    /// 0: any number.
    requests_max: u64,
    /// How many there may be.
    pub seats: SeatRules,
    /// How many beyond that a worker lets read their answer, at a time.
    pub turned_away_max: usize,
    /// Peers that are believed in what they say of clients before them.
    pub trusted_proxies: Networks,
    /// From the signal to stop until no connection is accepted any more.
    pub grace: Duration,
    /// From then to the end.
    pub drain: Duration,
}

/// What holds for a request.
#[derive(Debug)]
pub struct RequestRules {
    /// 0: no bound.
    pub body_bytes_max: u64,
    /// In bytes a second; 0: no bound.
    pub min_body_rate: u64,
    /// So often it may have come by already, less one; 0: no bound.
    pub hops_max: usize,
    /// How long it is waited for what.
    pub timeouts: RequestTimeouts,
    /// When it may be sent again.
    pub retries: Retries,
    /// None: the proxy isn't told of, and can't be found either.
    pub via: Option<Via>,
    /// The port that requests in clear are sent to; None: they are served.
    pub redirect_to: Option<u16>,
    /// What answers over encrypted connections say by `Strict-Transport-Security`.
    pub hsts: Option<Box<[u8]>>,
    /// The field in which backends are told of a client's certificate.
    pub client_field: Option<Box<[u8]>>,
    /// Fields that peers which aren't trusted can't set, and those that nobody can.
    withheld: [FieldNames; 2],
}

/// How long it is waited for what.
#[derive(Debug)]
pub struct RequestTimeouts {
    /// To connect to a backend, over all its addresses.
    pub connect: Duration,
    /// From the request's last byte sent to the answer's head, all tries together.
    pub response: Duration,
    /// Between two bytes of a body, either side.
    pub body_idle: Duration,
    /// A client that doesn't read its answer.
    pub write: Duration,
    /// How long a client that closed its sending side is still served.
    pub half_closed: Duration,
    /// A tunnel in which nothing moves.
    pub tunnel_idle: Duration,
    /// For room at a backend.
    pub queue: Duration,
}

impl ConnectionRules {
    pub(super) fn new(config: &Config, room: &Room) -> Self {
        let Config { limits, timeouts, .. } = config;
        let trusted_proxies = Networks::new(&config.trusted_proxies);
        let in_all_max = match limits.connections {
            0 => room.connections,
            configured => configured.min(room.connections_max),
        };
        let of_client_max = limits.connections_per_client;
        // What is left of those that fit is theirs too.
        let turned_away = (room.turned_away_max + room.connections_max - in_all_max) / room.workers;
        Self {
            head_limits: head_limits(limits),
            head_timeout: timeouts.head,
            keep_alive: timeouts.keep_alive,
            upstream_keep_alive: timeouts.upstream_keep_alive,
            write_timeout: timeouts.write,
            requests_max: limits.requests_per_connection,
            seats: SeatRules { in_all_max, of_client_max, exempt: trusted_proxies.clone() },
            turned_away_max: turned_away.clamp(1, TURNED_AWAY_MAX),
            trusted_proxies,
            grace: timeouts.grace,
            drain: timeouts.drain,
        }
    }

    /// Is what this peer says of the client before it believed?
    pub fn trusts(&self, peer: IpAddr) -> bool {
        !self.trusted_proxies.is_empty() && self.trusted_proxies.contains(peer)
    }

    /// Whether a client's connection ends with the answer to this request of it, counted from 1.
    #[inline]
    pub fn is_last(&self, request: u64) -> bool {
        self.requests_max > 0 && request >= self.requests_max
    }
}

impl RequestRules {
    pub(super) fn new(config: &Config) -> Self {
        let Config { limits, timeouts, tls, .. } = config;
        let tls = tls.as_ref();
        let client_field = tls.and_then(|tls| tls.client_header.as_deref());
        let untrusted = config.untrusted_fields.iter().map(String::as_str).chain(client_field);
        Self {
            body_bytes_max: limits.body_bytes,
            min_body_rate: limits.min_body_rate,
            hops_max: limits.hops,
            timeouts: RequestTimeouts {
                connect: timeouts.connect,
                response: config.request_timeout,
                body_idle: timeouts.body_idle,
                write: timeouts.write,
                half_closed: timeouts.half_closed,
                tunnel_idle: timeouts.tunnel_idle,
                queue: config.queue.timeout,
            },
            retries: config.retries.clone(),
            via: config.via.as_deref().map(Via::new),
            redirect_to: redirect_to(config),
            hsts: tls.and_then(|tls| tls.hsts).map(|hsts| hsts_value(&hsts)),
            client_field: client_field.map(|name| name.as_bytes().into()),
            withheld: [FieldNames::new(untrusted), FieldNames::alone(client_field)],
        }
    }

    /// Fields that a peer can't set.
    #[inline]
    pub fn withheld(&self, trusted: bool) -> &FieldNames {
        &self.withheld[usize::from(trusted)]
    }
}

/// That of the port that clients are told of.
fn redirect_to(config: &Config) -> Option<u16> {
    let tls = config.tls.as_ref().filter(|tls| tls.redirect_http)?;
    let beside = || config.listeners.iter().find(|listener| listener.tls).map(|listener| listener.port);
    tls.port.or_else(beside)
}

/// RFC 6797 §6.1.
fn hsts_value(hsts: &Hsts) -> Box<[u8]> {
    let mut value = format!("max-age={}", hsts.max_age.as_secs());
    for (is_said, directive) in [(hsts.include_subdomains, "; includeSubDomains"), (hsts.preload, "; preload")] {
        if is_said {
            value.push_str(directive);
        }
    }
    value.into_bytes().into()
}

/// The bounds of heads, of whichever side.
pub fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits { head_bytes: limits.head_bytes, headers: limits.headers, uri_bytes: limits.uri_bytes }
}
