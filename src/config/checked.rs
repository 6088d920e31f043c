//! The checked configuration: what the rest of the house reads. Its defaults stand here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use super::sticky::Sticky;
use super::tls::{Listener, Tls};
use super::upstream_tls::UpstreamTls;
use super::url::BackendUrl;

/// A configuration whose every value has been checked. Field meanings and defaults: `docs/configuration.md`.
#[derive(Clone, Debug, PartialEq)]
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
    /// For strategies that hash: how many times its fair share of the requests in flight a backend gets at most; at least
    /// 1. None: no bound.
    pub hash_balance_factor: Option<f64>,
    /// The zone that the proxy is in; empty: none.
    pub zone: String,
    /// How long a backend that comes back, or is added at run time, takes to get its whole share; zero: no time.
    pub slow_start: Duration,
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
    /// Fields that only these may set; `_` counts as `-`.
    pub untrusted_fields: Vec<String>,
    /// What the proxy calls itself in `Via`, a token; None: it adds no such field.
    pub via: Option<String>,
    /// What becomes of requests that find no room.
    pub queue: Queue,
    /// How many requests each client may send; None: as many as it likes.
    pub rate_limit: Option<RateLimit>,
    /// When a backend is left out for what its answers are; None: never.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What becomes of requests while the checks of all backends fail.
    pub when_all_down: WhenAllDown,
    /// What keeps a client at its backend; None: nothing.
    pub sticky: Option<Sticky>,
    /// TLS towards clients; None: none.
    pub tls: Option<Tls>,
    /// Sockets beside those of `port` and `tls.port`.
    pub listeners: Vec<Listener>,
    /// TLS towards backends.
    pub upstream_tls: UpstreamTls,
}

/// How a backend is picked. All of them honour weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn, exact over all workers together.
    RoundRobin,
    /// The one with the fewest requests in flight for its weight; ties in turn.
    LeastConn,
    /// Of two drawn at random and one remembered, the one with the fewest requests in flight for its weight.
    P2c,
    /// Of two drawn at random, the one where the request would probably be answered sooner.
    PeakEwma,
    /// Drawn at random.
    Random,
    /// Always the same one for the same key.
    Hash(HashKey),
}

/// What of a request is hashed. A request without it takes its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address; of an IPv6 one, the /64.
    ClientIp,
    /// The target's path, without its query.
    Path,
    /// A field of the head, by its name.
    Header(String),
    /// A cookie, by its name.
    Cookie(String),
    /// A parameter of the query, by its name.
    Query(String),
}

/// One backend as configured, at start or through the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// Its address.
    pub url: BackendUrl,
    /// Unique; `host:port` by default, and where that is taken [`Self::longer_name`].
    pub name: String,
    /// Whether the name was given.
    pub is_named: bool,
    /// Its share of the traffic against the others', 0–256; 0: none.
    pub weight: u32,
    /// It gets traffic only when no other can.
    pub backup: bool,
    /// Requests in flight at most; 0: no bound.
    pub max_connections: usize,
    /// The zone that it is in; empty: none.
    pub zone: String,
}

impl BackendConfig {
    /// A backend with every default.
    pub fn at(url: BackendUrl) -> Self {
        let name = url.authority();
        Self { name, is_named: false, url, weight: 1, backup: false, max_connections: 0, zone: String::new() }
    }
}

/// What an operator said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// It may get traffic.
    Ready,
    /// It gets no new requests: it is being emptied.
    Drain,
    /// It gets no new requests: it is out of service.
    Down,
}

/// What is to change of a backend; at least one of them is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendChange {
    /// The new weight.
    pub weight: Option<u32>,
    /// The new state.
    pub state: Option<BackendState>,
    /// The new bound on its requests in flight; 0: none.
    pub max_connections: Option<usize>,
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
    /// From the signal to stop until no connection is accepted any more.
    pub grace: Duration,
    /// From then to the end.
    pub drain: Duration,
}

/// Bounds of the data plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Client connections in all; 0: as many as the descriptors allow.
    pub connections: usize,
    /// Connections of one client address (an IPv6 /64); 0: no bound.
    pub connections_per_client: usize,
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
    /// Bytes a second that a request's body must come with; 0: none.
    pub min_body_rate: u64,
    /// Requests in flight to all backends; 0: no bound.
    pub max_in_flight: usize,
    /// So often a request may have come by already, less one; 0: no bound.
    pub hops: usize,
}

/// Where requests wait that find no room at the backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// So many wait at most; 0: none does.
    pub size: usize,
    /// So long each of them waits at most, 1 ms to 1 h.
    pub timeout: Duration,
}

/// How many requests each client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// So many within `per`, 1–1,000,000 and at most a million a second.
    pub requests: u32,
    /// 1 ms to 24 h.
    pub per: Duration,
    /// So many at once, 1–100,000.
    pub burst: u32,
    /// What tells clients apart.
    pub key: RateKey,
    /// Clients that are remembered, 1–10,000,000; those leave first that asked the longest ago.
    pub max_keys: usize,
    /// Clients without a limit.
    pub allow: Vec<ipnet::IpNet>,
}

/// What tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address (an IPv6 /64).
    ClientIp,
    /// The field of this name; the address where there is none.
    Header(String),
}

/// When a backend is left out for how its requests end, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Failures in a row that are too many; at least 1.
    pub consecutive_failures: u32,
    /// Failures among the requests of `window` that are too many, in percent; 1–100.
    pub error_percent: u32,
    /// `error_percent` needs so many requests; at least 1.
    pub minimum_requests: u32,
    /// See `error_percent`.
    pub window: Duration,
    /// The first stay outside; each further one within an hour is twice as long.
    pub open: Duration,
    /// The longest stay outside; at least `open`.
    pub max_open: Duration,
    /// Requests that are sent on trial after a stay, and must pass; 1–100.
    pub half_open_requests: u8,
    /// When more of the backends than this are outside, in percent, all of them get traffic; 0–100.
    pub max_ejected_percent: u32,
    /// Status codes that count as failures.
    pub on: Vec<RangeInclusive<u16>>,
}

/// What becomes of requests while the checks of all backends fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllDown {
    /// They are answered with 503 at once.
    Refuse,
    /// They are sent to all backends as if these were up.
    Try,
}

/// The retry rule's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Tries in all, at least 1.
    pub attempts: u32,
    /// Try again when connecting failed.
    pub on_connect: bool,
    /// Try again when a connection ended before the answer.
    pub on_reset: bool,
    /// Try again when another backend can be asked for what this one answered with: 502, 503, 504.
    pub on_status: [bool; 3],
    /// Retries are at most so many percent of the requests of the last 10 s, though 3 a second in any case.
    pub budget_percent: u32,
}

/// Answers after which a request may be tried elsewhere, in the order of [`Retries::on_status`]: those of a proxy or
/// server that says that it couldn't serve this request now (RFC 9110 §15.6.3–15.6.5).
pub const RETRIED_STATUSES: [u16; 3] = [502, 503, 504];

impl Retries {
    /// Whether an answer of this status may be followed by another try.
    pub fn is_on(&self, status: u16) -> bool {
        RETRIED_STATUSES.iter().zip(self.on_status).any(|(&listed, on)| on && listed == status)
    }
}

/// In these, proxies and content networks tell which client they serve. Applications believe them, so a stranger must not set them.
const UNTRUSTED_FIELDS: [&str; 8] = [
    "X-Real-IP",
    "True-Client-IP",
    "X-Client-IP",
    "Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "X-ProxyUser-IP",
    "X-Original-Forwarded-For",
];

impl Config {
    /// Where the proxy listens, each with the field that says so.
    pub fn listens_on(&self) -> Vec<(SocketAddr, &'static str)> {
        let at = |bind: &[IpAddr], port, field| bind.iter().map(|&ip| (SocketAddr::new(ip, port), field)).collect();
        let mut all: Vec<_> = at(&self.bind, self.port, "port");
        if let Some(tls) = &self.tls
            && let Some(port) = tls.port
        {
            all.extend::<Vec<_>>(at(&tls.bind, port, "tls.port"));
        }
        for Listener { port, bind, .. } in &self.listeners {
            all.extend::<Vec<_>>(at(bind, *port, "listeners"));
        }
        all.push((SocketAddr::new(self.admin_bind, self.admin_port), "admin_port"));
        all
    }
}

impl Default for Config {
    /// Every default of `docs/configuration.md`; no backends.
    fn default() -> Self {
        Self {
            port: 8080,
            bind: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            admin_port: 8081,
            admin_bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            strategy: Strategy::RoundRobin,
            hash_balance_factor: Some(1.25),
            zone: String::new(),
            slow_start: Duration::ZERO,
            backends: Vec::new(),
            health_check: HealthCheck::default(),
            request_timeout: Duration::from_secs(10),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            retries: Retries::default(),
            workers: thread::available_parallelism().map_or(1, NonZero::get),
            trusted_proxies: Vec::new(),
            untrusted_fields: UNTRUSTED_FIELDS.map(str::to_owned).to_vec(),
            via: Some("maypole".to_owned()),
            queue: Queue::default(),
            rate_limit: None,
            circuit_breaker: None,
            when_all_down: WhenAllDown::Refuse,
            sticky: None,
            tls: None,
            listeners: Vec::new(),
            upstream_tls: UpstreamTls::default(),
        }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            path: "/".to_owned(),
            method: "GET".to_owned(),
            host: None,
            timeout: Duration::from_secs(2),
            expect: vec![200..=399],
            body_contains: None,
            rise: 2,
            fall: 2,
            fast_interval: Duration::from_secs(1),
            jitter: 0.1,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            upstream_keep_alive: Duration::from_secs(30),
            tunnel_idle: Duration::from_secs(3600),
            write: Duration::from_secs(30),
            half_closed: Duration::from_secs(1),
            grace: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 0,
            connections_per_client: 0,
            head_bytes: 16 * 1024,
            headers: 100,
            uri_bytes: 8 * 1024,
            body_bytes: 0,
            requests_per_connection: 0,
            min_body_rate: 0,
            max_in_flight: 0,
            hops: 8,
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { size: 1024, timeout: Duration::from_secs(1) }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 3, on_connect: true, on_reset: true, on_status: [false; 3], budget_percent: 20 }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            error_percent: 50,
            minimum_requests: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(10),
            max_open: Duration::from_secs(300),
            half_open_requests: 1,
            max_ejected_percent: 50,
            on: vec![500..=599],
        }
    }
}
