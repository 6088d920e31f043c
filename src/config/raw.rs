//! Which fields there are, what each may hold, and what must fit together: with `backends.rs`, `queue.rs`,
//! `rate_limit.rs`, `circuit_breaker.rs` and `sticky.rs`, which read one of its values each, the only place that knows the
//! schema. `docs/configuration.md` says the same to people.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::backends::{self, NAME_BYTES_MAX, ZONE_WANTED, is_zone};
use super::checked::{Config, HashKey, HealthCheck, Limits, Retries, Strategy, Timeouts};
use super::error::FieldError;
use super::fields::{Field, Fields, Problems, one_of};
use super::json::{Json, Node};
use super::{FieldPlace, circuit_breaker, expect, queue, rate_limit, sticky, url};

/// More connections than that have no room in any table of descriptors.
pub(super) const CONNECTIONS_MAX: u64 = 10_000_000;

const ADDRESSES_MAX: usize = 64;
const NETWORKS_MAX: usize = 1024;
/// It goes with every request.
const PSEUDONYM_BYTES_MAX: usize = 64;
const UNTRUSTED_FIELDS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1024;
/// Shorter deadlines than the timers can tell apart are of no use.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
/// A year: longer ones are slips of the pen.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// A slow start goes in twenty steps, and each makes a new snapshot.
const SLOW_START_MIN: Duration = Duration::from_secs(1);
const SLOW_START_MAX: Duration = Duration::from_secs(3600);
/// More probes than a hundred a second hurt a backend.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

const ROOT: &[&str] = &[
    "port",
    "bind",
    "admin_port",
    "admin_bind",
    "strategy",
    "hash_key",
    "hash_balance_factor",
    "zone",
    "slow_start",
    "backends",
    "health_check_frequency",
    "health_check",
    "request_timeout",
    "timeouts",
    "limits",
    "retries",
    "workers",
    "trusted_proxies",
    "untrusted_fields",
    "via",
    "queue",
    "rate_limit",
    "circuit_breaker",
    "when_all_down",
    "sticky",
];
const HEALTH_CHECK: &[&str] =
    &["path", "method", "host", "timeout", "expect", "body_contains", "rise", "fall", "fast_interval", "jitter"];
const TIMEOUTS: &[&str] = &[
    "connect",
    "head",
    "body_idle",
    "keep_alive",
    "upstream_keep_alive",
    "tunnel_idle",
    "write",
    "half_closed",
    "grace",
    "drain",
];
const LIMITS: &[&str] = &[
    "connections",
    "connections_per_client",
    "head_bytes",
    "headers",
    "uri_bytes",
    "body_bytes",
    "requests_per_connection",
    "min_body_rate",
    "max_in_flight",
    "hops",
];
const RETRIES: &[&str] = &["attempts", "budget_percent", "on"];
/// What `retries.on` may hold; the statuses as in `RETRIED_STATUSES`.
const RETRY_ON: [&str; 5] = ["connect", "reset", "502", "503", "504"];
pub(super) const QUEUE: &[&str] = &["size", "timeout"];
pub(super) const RATE_LIMIT: &[&str] = &["requests", "per", "burst", "key", "max_keys", "allow"];
pub(super) const CIRCUIT_BREAKER: &[&str] = &[
    "consecutive_failures",
    "error_percent",
    "minimum_requests",
    "window",
    "open",
    "max_open",
    "half_open_requests",
    "max_ejected_percent",
    "on",
];
pub(super) const STICKY: &[&str] = &["by", "name", "ttl", "secure", "same_site", "secret", "max_keys"];
/// The objects of which there is one each, by their name; the empty one is the top level.
pub(super) const SECTIONS: &[(&str, &[&str])] = &[
    ("", ROOT),
    ("health_check", HEALTH_CHECK),
    ("timeouts", TIMEOUTS),
    ("limits", LIMITS),
    ("retries", RETRIES),
    ("queue", QUEUE),
    ("rate_limit", RATE_LIMIT),
    ("circuit_breaker", CIRCUIT_BREAKER),
    ("sticky", STICKY),
];
const STRATEGIES: [&str; 7] = ["round-robin", "least-conn", "p2c", "peak-ewma", "random", "ip-hash", "hash"];
/// Those that a probe can send without a body, and that `ureq` sends.
const METHODS: &[&str] = &["GET", "HEAD", "OPTIONS"];

/// Reads a whole configuration: as much of it as is right, where each of its backends stands, and what is wrong.
pub(super) fn check(root: &Node, text: &str) -> (Config, Vec<FieldPlace>, Vec<FieldError>) {
    let mut problems = Problems::new(Some(text));
    let mut config = Config::default();
    let mut places = Vec::new();
    let root = Field { path: String::new(), node: root };
    if let Some(mut fields) = root.open(ROOT, home_of, &mut problems) {
        read_root(&mut fields, &mut config, &mut places);
    }
    (config, places, problems.into_errors())
}

fn read_root(fields: &mut Fields, config: &mut Config, places: &mut Vec<FieldPlace>) {
    fields.whole("port", 0..=65535, &mut config.port);
    bind(fields, &mut config.bind);
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
    ports_differ(fields, config);
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

fn bind(fields: &mut Fields, addresses: &mut Vec<IpAddr>) {
    let Some(field) = fields.find("bind") else { return };
    let wanted = "an IP address such as \"0.0.0.0\" or \"::\", or a list of them";
    let written = if matches!(field.node.value, Json::Text(_)) {
        vec![field]
    } else if let Some(list) = field.list(fields.problems, 1..=ADDRESSES_MAX, wanted) {
        list
    } else {
        return;
    };
    let mut read: Vec<IpAddr> = Vec::new();
    for field in written {
        match field.text(fields.problems, "an IP address").map(str::parse::<IpAddr>) {
            Some(Ok(address)) if read.contains(&address) => {
                field.unfit(fields.problems, "each address once");
            }
            Some(Ok(address)) => read.push(address),
            Some(Err(_)) => field.unfit(fields.problems, "an IP address such as \"0.0.0.0\" or \"::\""),
            None => {}
        }
    }
    if !read.is_empty() {
        *addresses = read;
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

pub(super) fn hash_key(text: &str) -> Option<HashKey> {
    let parameter = |name: &&str| {
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"&=#".contains(&byte);
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
    };
    match text.split_once(':') {
        None if text == "client-ip" => Some(HashKey::ClientIp),
        None if text == "path" => Some(HashKey::Path),
        Some(("header", name)) => Some(name).filter(is_token).map(|name| HashKey::Header(name.to_owned())),
        Some(("cookie", name)) => Some(name).filter(is_token).map(|name| HashKey::Cookie(name.to_owned())),
        Some(("query", name)) => Some(name).filter(parameter).map(|name| HashKey::Query(name.to_owned())),
        _ => None,
    }
}

pub(super) fn is_token(name: &&str) -> bool {
    // RFC 9110 §5.6.2: what the names of fields and cookies are made of.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
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

pub(super) fn networks(fields: &mut Fields, name: &str, networks: &mut Vec<IpNet>) {
    let Some(field) = fields.find(name) else { return };
    let wanted = "a list of networks such as \"10.0.0.0/8\"";
    let Some(list) = field.list(fields.problems, 0..=NETWORKS_MAX, wanted) else { return };
    for field in list {
        let wanted = "a network such as \"10.0.0.0/8\" or an IP address";
        let Some(text) = field.text(fields.problems, wanted) else { continue };
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => field.unfit(fields.problems, wanted),
        }
    }
}

/// Two listeners on one address and port would share its connections, since workers bind with `SO_REUSEPORT`. An
/// unspecified IPv6 address stands for the IPv4 ones too.
fn ports_differ(fields: &mut Fields, config: &Config) {
    let overlaps = |address: &IpAddr| {
        *address == config.admin_bind || address.is_unspecified() && (address.is_ipv6() || config.admin_bind.is_ipv4())
    };
    if config.port != 0 && config.port == config.admin_port && config.bind.iter().any(overlaps) {
        let (written, other) = match fields.find("admin_port") {
            Some(field) => (Some(field), "port"),
            None => (fields.find("port"), "admin_port"),
        };
        if let Some(field) = written {
            let wanted = format!("another port than {other:?}, which listens on the same address");
            field.unfit(fields.problems, wanted);
        }
    }
}

/// The object that a field belongs to, for those put a level too high or too low.
pub(super) fn home_of(name: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|(_, known)| known.contains(&name)).map(|(home, _)| *home)
}
