//! What lives here: the JSON as people write it (`raw`), and the checked configuration that can't be wrong. It is read
//! by all and reads none.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A configuration whose every value has been checked. Field meanings and defaults: `docs/configuration.md`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; 1–65535 (0 lets the system choose, for tests).
    pub port: u16,
    /// Addresses to listen on; never empty.
    pub bind: Vec<IpAddr>,
    /// The admin API's port.
    pub admin_port: u16,
    /// Loopback only.
    pub admin_bind: IpAddr,
    /// How a backend is picked.
    pub strategy: Strategy,
    /// In the order written; names and normalised URLs are unique.
    pub backends: Vec<BackendConfig>,
    /// Active checks.
    pub health_check: HealthCheck,
    /// From the request's last byte sent to the answer's head, all tries together.
    pub request_timeout: Duration,
    /// Every other deadline.
    pub timeouts: Timeouts,
    /// Every bound.
    pub limits: Limits,
    /// When a request may be sent again.
    pub retries: Retries,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
}

/// How a backend is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn.
    RoundRobin,
    /// Fewest requests in flight.
    LeastConn,
}

/// One backend as configured, at start or through the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// Its address.
    pub url: BackendUrl,
    /// Unique; `host:port` by default.
    pub name: String,
}

/// A checked backend URL: `http://host[:port][/base]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendUrl {
    /// As written.
    pub written: String,
    /// Scheme and host in lower case, default port and trailing slash left out: equal for equal backends.
    pub normalized: String,
    /// Lower case, an IPv6 literal without its brackets.
    pub host: String,
    /// 80 where none is written.
    pub port: u16,
    /// Empty, or `/…` without a trailing slash.
    pub base_path: String,
}

/// Active health checks.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// `health_check_frequency`.
    pub interval: Duration,
    /// Starts with `/`.
    pub path: String,
    /// GET or HEAD, for instance.
    pub method: String,
    /// The `Host` field to send; the backend's own when none.
    pub host: Option<String>,
    /// One probe, from connecting to its body.
    pub timeout: Duration,
    /// Status codes that count as healthy.
    pub expect: Vec<RangeInclusive<u16>>,
    /// The body (its first 64 KiB) must contain this.
    pub body_contains: Option<String>,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// Interval while a change is being confirmed.
    pub fast_interval: Duration,
    /// 0–1: each interval is varied by up to this fraction either way.
    pub jitter: f64,
}

/// Deadlines of the data plane.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// To connect to a backend, over all its addresses.
    pub connect: Duration,
    /// For a whole request head, from its first byte (or from the connection's start).
    pub head: Duration,
    /// Between two bytes of a body, either side.
    pub body_idle: Duration,
    /// An idle client connection.
    pub keep_alive: Duration,
    /// An idle backend connection.
    pub upstream_keep_alive: Duration,
    /// A tunnel in which nothing moves.
    pub tunnel_idle: Duration,
    /// A client that doesn't read its answer.
    pub write: Duration,
    /// How long a client that closed its sending side is still served.
    pub half_closed: Duration,
    /// From the signal to stop to the end.
    pub drain: Duration,
}

/// Bounds of the data plane.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections in all; 0: as many as the descriptors allow.
    pub connections: usize,
    /// A request or response head.
    pub head_bytes: usize,
    /// Fields in a head.
    pub headers: usize,
    /// A request target.
    pub uri_bytes: usize,
    /// A request body; 0: none.
    pub body_bytes: u64,
    /// Requests on one client connection; 0: none.
    pub requests_per_connection: u64,
}

/// The retry rule's settings.
#[derive(Clone, Debug)]
pub struct Retries {
    /// Tries in all, at least 1.
    pub attempts: u32,
    /// Try again when connecting failed.
    pub on_connect: bool,
    /// Try again when a reused connection turned out dead.
    pub on_reset: bool,
}
