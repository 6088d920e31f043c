//! What each field may hold, and what must fit together: with `schema.rs`, which has their names, and with `backends.rs`,
//! `queue.rs`, `rate_limit.rs`, `circuit_breaker.rs`, `sticky.rs`, `tls_fields.rs`, `listening.rs` and `upstream_tls.rs`, which
//! read one of its values each, the only place that knows the schema. `docs/configuration.md` says the same to people.

use std::net::IpAddr;
use std::time::Duration;

use super::backends::{self, ZONE_WANTED, is_zone};
use super::checked::{Config, HashKey, HealthCheck, Limits, Retries, Strategy, Timeouts};
use super::error::{FieldError, FieldPlace};
use super::fields::{Field, Fields, Problems, one_of};
use super::hash_key::hash_key;
use super::json::{Json, Node};
use super::schema::{HEALTH_CHECK, LIMITS, RETRIES, ROOT, TIMEOUTS, home_of};
use super::values::{CONNECTIONS_MAX, SHORTEST, is_token, networks};
use super::{circuit_breaker, expect, listening, queue, rate_limit, sticky, tls_fields, upstream_tls, url};

/// It goes with every request.
const PSEUDONYM_BYTES_MAX: usize = 64;
const UNTRUSTED_FIELDS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1024;
/// A year: longer ones are slips of the pen.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// A slow start goes in twenty steps, and each makes a new snapshot.
const SLOW_START_MIN: Duration = Duration::from_secs(1);
const SLOW_START_MAX: Duration = Duration::from_secs(3600);
/// More probes than a hundred a second hurt a backend.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// What `retries.on` may hold; the statuses as in `RETRIED_STATUSES`.
const RETRY_ON: [&str; 5] = ["connect", "reset", "502", "503", "504"];
const STRATEGIES: [&str; 7] = ["round-robin", "least-conn", "p2c", "peak-ewma", "random", "ip-hash", "hash"];
/// Those that a probe can send without a body, and that `ureq` sends.
const METHODS: &[&str] = &["GET", "HEAD", "OPTIONS"];

/// What was read of a text.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// As much of it as is right.
    pub config: Config,
    /// Where each of its backends stands.
    pub backends: Vec<FieldPlace>,
    /// Where the files of `tls` are named.
    pub files: Vec<FieldPlace>,
    /// Nothing is wrong with `tls` itself.
    pub is_tls_right: bool,
    /// What is wrong.
    pub errors: Vec<FieldError>,
}

/// Reads a whole configuration.
pub(super) fn check(root: &Node, text: &str) -> Read {
    let mut problems = Problems::new(Some(text));
    let mut read = Read::default();
    let root = Field { path: String::new(), node: root };
    if let Some(mut fields) = root.open(ROOT, home_of, &mut problems) {
        read_root(&mut fields, &mut read);
    }
    read.errors = problems.into_errors();
    read
}

fn read_root(fields: &mut Fields, read: &mut Read) {
    let Read { config, backends: places, files, is_tls_right, .. } = read;
    fields.whole("port", 0..=65535, &mut config.port);
    listening::addresses(fields, &mut config.bind);
    fields.whole("admin_port", 0..=65535, &mut config.admin_port);
    admin_bind(fields, &mut config.admin_bind);
    let nth = fields.word("strategy", &STRATEGIES);
    let wanted = "\"client-ip\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
    let mut key = HashKey::ClientIp;
    fields.parsed("hash_key", wanted, hash_key, &mut key);
    if let Some(nth) = nth {
        config.strategy = strategy(STRATEGIES[nth], key);
    }
    hash_balance_factor(fields, &mut config.hash_balance_factor);
    fields.checked_text("zone", ZONE_WANTED, is_zone, &mut config.zone);
    slow_start(fields, &mut config.slow_start);
    backends::read(fields, config, places);
    fields.duration("health_check_frequency", SHORTEST_INTERVAL..=LONGEST, &mut config.health_check.interval);
    health_check(fields, &mut config.health_check);
    fields.duration("request_timeout", SHORTEST..=LONGEST, &mut config.request_timeout);
    timeouts(fields, &mut config.timeouts);
    limits(fields, &mut config.limits);
    retries(fields, &mut config.retries);
    // null stands for 'one a core', so that a file can show the field without fixing the number.
    if !fields.find("workers").is_some_and(|field| field.is_null()) {
        fields.whole("workers", 1..=1024, &mut config.workers);
    }
    networks(fields, "trusted_proxies", &mut config.trusted_proxies);
    untrusted_fields(fields, &mut config.untrusted_fields);
    via(fields, &mut config.via);
    queue::read(fields, &mut config.queue);
    rate_limit::read(fields, &mut config.rate_limit);
    circuit_breaker::read(fields, &mut config.circuit_breaker);
    circuit_breaker::read_when_all_down(fields, &mut config.when_all_down);
    sticky::read(fields, &mut config.sticky);
    upstream_tls::read(fields, &mut config.upstream_tls);
    *is_tls_right = tls_fields::read(fields, config, files);
    listening::read(fields, config);
}

fn untrusted_fields(fields: &mut Fields, into: &mut Vec<String>) {
    let Some(field) = fields.find("untrusted_fields") else { return };
    let wanted = "a list of names of fields such as \"X-Real-IP\"";
    let Some(list) = field.list(fields.problems, 0..=UNTRUSTED_FIELDS_MAX, wanted) else { return };
    into.clear();
    for field in list {
        let wanted = "the name of a field such as \"X-Real-IP\"";
        match field.text(fields.problems, wanted) {
            Some(name) if is_token(&name) => into.push(name.to_owned()),
            Some(_) => field.unfit(fields.problems, wanted),
            None => {}
        }
    }
}

fn via(fields: &mut Fields, into: &mut Option<String>) {
    let Some(field) = fields.find("via") else { return };
    match &field.node.value {
        Json::Bool(false) => *into = None,
        Json::Text(name) if name.len() <= PSEUDONYM_BYTES_MAX && is_token(&name.as_str()) => *into = Some(name.clone()),
        _ => field.unfit(fields.problems, "a name of up to 64 letters, digits and any of !#$%&'*+-.^_`|~, or false"),
    }
}

fn admin_bind(fields: &mut Fields, into: &mut IpAddr) {
    let Some(field) = fields.find("admin_bind") else { return };
    let wanted = "a loopback address such as \"127.0.0.1\" or \"::1\"";
    match field.text(fields.problems, wanted).map(str::parse::<IpAddr>) {
        Some(Ok(address)) if address.is_loopback() => *into = address,
        Some(Ok(_)) => field
            .unfit(fields.problems, format!("{wanted}: the admin API has no tokens yet, so nobody else may reach it")),
        Some(Err(_)) => field.unfit(fields.problems, wanted),
        None => {}
    }
}

fn strategy(word: &str, key: HashKey) -> Strategy {
    match word {
        "least-conn" => Strategy::LeastConn,
        "p2c" => Strategy::P2c,
        "peak-ewma" => Strategy::PeakEwma,
        "random" => Strategy::Random,
        "ip-hash" => Strategy::Hash(HashKey::ClientIp),
        "hash" => Strategy::Hash(key),
        _ => Strategy::RoundRobin,
    }
}

fn hash_balance_factor(fields: &mut Fields, into: &mut Option<f64>) {
    let Some(field) = fields.find("hash_balance_factor") else { return };
    let number = match &field.node.value {
        Json::Number(digits) => digits.parse::<f64>().ok(),
        _ => None,
    };
    match number {
        Some(0.0) => *into = None,
        Some(factor) if (1.0..=100.0).contains(&factor) => *into = Some(factor),
        _ => field.unfit(fields.problems, "a number from 1 to 100, or 0 for no bound"),
    }
}

fn slow_start(fields: &mut Fields, into: &mut Duration) {
    fields.duration("slow_start", Duration::ZERO..=SLOW_START_MAX, into);
    if !into.is_zero()
        && *into < SLOW_START_MIN
        && let Some(field) = fields.find("slow_start")
    {
        field.unfit(fields.problems, "\"0s\" or a duration from 1s to 1h");
    }
}

fn health_check(root: &mut Fields, check: &mut HealthCheck) {
    let interval = check.interval;
    // Probing faster while a change is confirmed is the point of it: it follows a shorter interval down.
    check.fast_interval = check.fast_interval.min(interval);
    let Some(mut fields) = root.object("health_check", HEALTH_CHECK, home_of) else { return };
    let target = |text: &str| {
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        path.starts_with('/') && text.len() <= TEXT_BYTES_MAX && url::is_path(&text.replace('?', "/"))
    };
    fields.checked_text("path", "a path such as \"/health\" (up to 1024 bytes)", target, &mut check.path);
    if let Some(nth) = fields.word("method", METHODS) {
        METHODS[nth].clone_into(&mut check.method);
    }
    fields.optional_text("host", "a host name, with or without a port, or null", url::is_authority, &mut check.host);
    fields.duration("timeout", SHORTEST..=LONGEST, &mut check.timeout);
    fields.parsed("expect", "status codes such as \"200-399\" or \"200,204\"", expect::parse, &mut check.expect);
    let sized = |text: &str| (1..=TEXT_BYTES_MAX).contains(&text.len());
    fields.optional_text("body_contains", "1 to 1024 bytes of text, or null", sized, &mut check.body_contains);
    fields.whole("rise", 1..=1000, &mut check.rise);
    fields.whole("fall", 1..=1000, &mut check.fall);
    fields.duration("fast_interval", SHORTEST_INTERVAL..=LONGEST, &mut check.fast_interval);
    fields.fraction("jitter", &mut check.jitter);

    if check.fast_interval > interval
        && let Some(field) = fields.find("fast_interval")
    {
        field.unfit(fields.problems, "at most health_check_frequency");
    }
    if check.method == "HEAD"
        && check.body_contains.is_some()
        && let Some(field) = fields.find("body_contains")
    {
        field.unfit(fields.problems, "null, since the answer to a HEAD has no body");
    }
}

fn timeouts(root: &mut Fields, timeouts: &mut Timeouts) {
    let Some(mut fields) = root.object("timeouts", TIMEOUTS, home_of) else { return };
    for (name, into) in [
        ("connect", &mut timeouts.connect),
        ("head", &mut timeouts.head),
        ("body_idle", &mut timeouts.body_idle),
        ("keep_alive", &mut timeouts.keep_alive),
        ("upstream_keep_alive", &mut timeouts.upstream_keep_alive),
        ("tunnel_idle", &mut timeouts.tunnel_idle),
        ("write", &mut timeouts.write),
    ] {
        fields.duration(name, SHORTEST..=LONGEST, into);
    }
    // At these three zero has a meaning: don't wait at all.
    fields.duration("half_closed", Duration::ZERO..=LONGEST, &mut timeouts.half_closed);
    fields.duration("grace", Duration::ZERO..=LONGEST, &mut timeouts.grace);
    fields.duration("drain", Duration::ZERO..=LONGEST, &mut timeouts.drain);
}

fn limits(root: &mut Fields, limits: &mut Limits) {
    let Some(mut fields) = root.object("limits", LIMITS, home_of) else { return };
    fields.whole("connections", 0..=CONNECTIONS_MAX, &mut limits.connections);
    fields.whole("connections_per_client", 0..=CONNECTIONS_MAX, &mut limits.connections_per_client);
    fields.whole("head_bytes", 1024..=65536, &mut limits.head_bytes);
    fields.whole("headers", 1..=1000, &mut limits.headers);
    // The target is a part of the head: its default follows a smaller head down.
    limits.uri_bytes = limits.uri_bytes.min(limits.head_bytes);
    fields.whole("uri_bytes", 64..=65536, &mut limits.uri_bytes);
    fields.whole("body_bytes", 0..=1 << 60, &mut limits.body_bytes);
    fields.whole("requests_per_connection", 0..=1_000_000_000, &mut limits.requests_per_connection);
    fields.whole("min_body_rate", 0..=1_000_000_000, &mut limits.min_body_rate);
    fields.whole("max_in_flight", 0..=CONNECTIONS_MAX, &mut limits.max_in_flight);
    fields.whole("hops", 0..=1000, &mut limits.hops);

    if limits.uri_bytes > limits.head_bytes
        && let Some(field) = fields.find("uri_bytes")
    {
        field.unfit(fields.problems, format!("at most limits.head_bytes ({})", limits.head_bytes));
    }
}

fn retries(root: &mut Fields, retries: &mut Retries) {
    let Some(mut fields) = root.object("retries", RETRIES, home_of) else { return };
    fields.whole("attempts", 1..=10, &mut retries.attempts);
    fields.whole("budget_percent", 0..=100, &mut retries.budget_percent);
    let Some(field) = fields.find("on") else { return };
    let Some(list) = field.list(fields.problems, 0..=RETRY_ON.len(), "a list of \"connect\", \"reset\" and statuses")
    else {
        return;
    };
    let mut on = [false; RETRY_ON.len()];
    for field in list {
        match one_of(&field, &RETRY_ON, fields.problems) {
            Some(nth) if on[nth] => field.unfit(fields.problems, "each word once"),
            Some(nth) => on[nth] = true,
            None => {}
        }
    }
    let [on_connect, on_reset, on_status @ ..] = on;
    *retries = Retries { on_connect, on_reset, on_status, ..*retries };
}
