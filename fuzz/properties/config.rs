//! A configuration: what is taken is within its documented bounds and survives being written out in full; what isn't is
//! told in whole sentences with places that are there.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use maypole::config::{
    self, BackendConfig, Config, ConfigErrors, HashKey, RateKey, SameSite, Secret, Secure, Sticky, StickyCookie,
    Strategy, WhenAllDown,
};
use serde_json::{Value, json};

/// See the module.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::parse(text) {
        Ok(config) => {
            is_within_bounds(&config);
            let written = written(&config).to_string();
            assert_eq!(config::parse(&written).as_ref(), Ok(&config), "written as {written}");
        }
        Err(errors) => are_told(&errors, text),
    }
}

/// The bounds of docs/configuration.md.
fn is_within_bounds(config: &Config) {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let tick = Duration::from_millis(1);
    assert!((1..=64).contains(&config.bind.len()) && config.admin_bind.is_loopback());
    let shared = config.port != 0 && config.port == config.admin_port && config.bind.contains(&config.admin_bind);
    assert!(!shared, "two listeners on one address");
    assert!((1..=1024).contains(&config.workers) && config.trusted_proxies.len() <= 1024);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    assert!(config.untrusted_fields.len() <= 64 && config.untrusted_fields.iter().all(|name| is_name(name)));
    assert!(config.via.as_deref().is_none_or(|name| name.len() <= 64 && is_name(name) && !name.contains([',', '('])));

    assert!(config.backends.len() <= config::BACKENDS_MAX);
    let urls: HashSet<_> = config.backends.iter().map(|backend| &backend.url.normalized).collect();
    let names: HashSet<_> = config.backends.iter().map(|backend| &backend.name).collect();
    assert!(urls.len() == config.backends.len() && names.len() == config.backends.len());
    for backend in &config.backends {
        is_sound(&backend.url);
        assert!((1..=260).contains(&backend.name.len()) && backend.name.is_ascii());
        assert!(backend.max_connections <= 10_000_000);
        assert!(backend.weight <= 256 && backend.zone.len() <= 64 && backend.zone.is_ascii());
    }

    assert!(config.slow_start.is_zero() || (1..=3600).contains(&config.slow_start.as_secs()));
    assert!(config.zone.len() <= 64 && config.zone.is_ascii());
    assert!(config.hash_balance_factor.is_none_or(|factor| (1.0..=100.0).contains(&factor)));

    let check = &config.health_check;
    assert!(
        (tick * 10..=YEAR).contains(&check.interval) && (tick * 10..=check.interval).contains(&check.fast_interval)
    );
    assert!((tick..=YEAR).contains(&check.timeout) && (0.0..=1.0).contains(&check.jitter));
    assert!(check.path.starts_with('/') && check.path.len() <= 1024 && check.path.is_ascii());
    assert!(["GET", "HEAD", "OPTIONS"].contains(&check.method.as_str()));
    assert!((1..=1000).contains(&check.rise) && (1..=1000).contains(&check.fall));
    assert!(!check.expect.is_empty());
    let codes = |range: &RangeInclusive<u16>| *range.start() >= 100 && *range.end() <= 599 && !range.is_empty();
    assert!(check.expect.iter().all(codes));

    let times = &config.timeouts;
    for time in [times.connect, times.head, times.body_idle, times.keep_alive, times.upstream_keep_alive] {
        assert!((tick..=YEAR).contains(&time));
    }
    for time in [times.tunnel_idle, times.write, config.request_timeout] {
        assert!((tick..=YEAR).contains(&time));
    }
    assert!(times.half_closed <= YEAR && times.grace <= YEAR && times.drain <= YEAR);

    let limits = &config.limits;
    assert!((1024..=65536).contains(&limits.head_bytes) && (1..=1000).contains(&limits.headers));
    assert!((64..=limits.head_bytes).contains(&limits.uri_bytes) && limits.body_bytes <= 1 << 60);
    assert!((1..=10).contains(&config.retries.attempts));
    assert!(limits.hops <= 1000 && limits.max_in_flight <= 10_000_000 && config.queue.size <= 1_000_000);
    assert!((tick..=Duration::from_secs(3600)).contains(&config.queue.timeout));
    if let Some(limit) = &config.rate_limit {
        assert!((1..=1_000_000).contains(&limit.requests) && (1..=100_000).contains(&limit.burst));
        assert!((tick..=Duration::from_secs(24 * 3600)).contains(&limit.per));
        assert!(limit.per / limit.requests >= Duration::from_micros(1) && (1..=10_000_000).contains(&limit.max_keys));
    }
    if let Some(breaker) = &config.circuit_breaker {
        let day = Duration::from_secs(24 * 3600);
        assert!((1..=1_000_000).contains(&breaker.consecutive_failures) && (1..=100).contains(&breaker.error_percent));
        assert!((1..=1_000_000).contains(&breaker.minimum_requests) && (1..=100).contains(&breaker.half_open_requests));
        assert!((tick * 100..=day).contains(&breaker.window) && (tick * 10..=breaker.max_open).contains(&breaker.open));
        assert!(breaker.max_open <= day && breaker.max_ejected_percent <= 100);
        assert!(!breaker.on.is_empty() && breaker.on.iter().all(codes));
    }
    if let Some(sticky) = &config.sticky {
        let ttl = match sticky {
            Sticky::Cookie(cookie) => {
                is_kept_by_browsers(cookie);
                cookie.ttl
            }
            Sticky::Ip { ttl, max_keys } => {
                assert!((1..=10_000_000).contains(max_keys));
                *ttl
            }
        };
        let days = Duration::from_secs(400 * 24 * 3600);
        assert!(ttl.is_none_or(|ttl| ttl <= days && ttl.as_secs() >= 1 && ttl.subsec_nanos() == 0));
    }
}

fn is_kept_by_browsers(cookie: &StickyCookie) {
    assert!((1..=260).contains(&cookie.name.len()));
    assert!(cookie.name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte)));
    assert!(cookie.secure != Secure::Never || cookie.same_site != SameSite::None);
    assert!(cookie.secret.as_ref().is_none_or(|secret| (16..=1024).contains(&secret.reveal().len())));
}

/// A backend's URL that has been taken is one, its normal form is that of its own, and its parts fit into heads.
pub fn is_sound(url: &config::BackendUrl) {
    let again = config::BackendUrl::parse(&url.normalized).expect("the normal form is a URL");
    assert_eq!(again.normalized, url.normalized);
    assert_eq!((&again.host, again.port, &again.base_path), (&url.host, url.port, &url.base_path));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(plain(&url.written) && plain(&url.host) && plain(&url.base_path) && !url.host.is_empty());
    assert!(url.port > 0 && url.written.len() <= 2048);
    assert!(url.base_path.is_empty() || url.base_path.starts_with('/') && !url.base_path.ends_with('/'));
    assert!(!url.written.contains(['@', '?', '#']) || url.base_path.contains('@'));
}

/// Every mistake is one line of printable text, whatever the file held, and points into the file.
pub fn are_told(errors: &ConfigErrors, text: &str) {
    assert!(!errors.errors.is_empty());
    let told = errors.to_string();
    assert_eq!(told.split('\n').count(), errors.errors.len(), "not a line for each: {told:?}");
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "a control character is printed: {told:?}");
    let lines: Vec<_> = text.split('\n').collect();
    for place in errors.errors.iter().filter_map(|error| error.position) {
        let line = lines.get(place.line - 1).unwrap_or_else(|| panic!("there is no line {}", place.line));
        assert!((1..=line.chars().count() + 2).contains(&place.column), "{place:?}");
    }
}

/// A backend with every field said, but for a name that it has by default.
pub fn written_backend(backend: &BackendConfig) -> Value {
    let mut written = json!({
        "url": backend.url.written,
        "weight": backend.weight,
        "backup": backend.backup,
        "max_connections": backend.max_connections,
        "zone": backend.zone,
    });
    if backend.is_named {
        written["name"] = backend.name.as_str().into();
    }
    written
}

fn codes(ranges: &[RangeInclusive<u16>]) -> String {
    ranges.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect::<Vec<_>>().join(",")
}

fn networks<T: ToString>(networks: &[T]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

/// A configuration with every field said.
fn written(config: &Config) -> Value {
    let time = |time: Duration| format!("{}ns", time.as_nanos());
    let (check, times, limits, retries) = (&config.health_check, &config.timeouts, &config.limits, &config.retries);
    let on = [("connect", retries.on_connect), ("reset", retries.on_reset)];
    let on: Vec<_> = on.iter().filter(|(_, on)| *on).map(|(word, _)| word).collect();
    json!({
        "port": config.port,
        "bind": config.bind,
        "admin_port": config.admin_port,
        "admin_bind": config.admin_bind,
        "strategy": match &config.strategy {
            Strategy::RoundRobin => "round-robin",
            Strategy::LeastConn => "least-conn",
            Strategy::P2c => "p2c",
            Strategy::PeakEwma => "peak-ewma",
            Strategy::Random => "random",
            Strategy::Hash(_) => "hash",
        },
        "hash_key": match &config.strategy {
            Strategy::Hash(HashKey::Path) => "path".to_owned(),
            Strategy::Hash(HashKey::Header(name)) => format!("header:{name}"),
            Strategy::Hash(HashKey::Cookie(name)) => format!("cookie:{name}"),
            Strategy::Hash(HashKey::Query(name)) => format!("query:{name}"),
            _ => "client-ip".to_owned(),
        },
        "hash_balance_factor": config.hash_balance_factor.unwrap_or(0.0),
        "zone": config.zone,
        "slow_start": time(config.slow_start),
        "backends": config.backends.iter().map(written_backend).collect::<Vec<_>>(),
        "health_check_frequency": time(check.interval),
        "health_check": {
            "path": check.path,
            "method": check.method,
            "host": check.host,
            "timeout": time(check.timeout),
            "expect": codes(&check.expect),
            "body_contains": check.body_contains,
            "rise": check.rise,
            "fall": check.fall,
            "fast_interval": time(check.fast_interval),
            "jitter": check.jitter,
        },
        "request_timeout": time(config.request_timeout),
        "timeouts": {
            "connect": time(times.connect),
            "head": time(times.head),
            "body_idle": time(times.body_idle),
            "keep_alive": time(times.keep_alive),
            "upstream_keep_alive": time(times.upstream_keep_alive),
            "tunnel_idle": time(times.tunnel_idle),
            "write": time(times.write),
            "half_closed": time(times.half_closed),
            "grace": time(times.grace),
            "drain": time(times.drain),
        },
        "limits": {
            "connections": limits.connections,
            "head_bytes": limits.head_bytes,
            "headers": limits.headers,
            "uri_bytes": limits.uri_bytes,
            "body_bytes": limits.body_bytes,
            "requests_per_connection": limits.requests_per_connection,
            "connections_per_client": limits.connections_per_client,
            "min_body_rate": limits.min_body_rate,
            "max_in_flight": limits.max_in_flight,
            "hops": limits.hops,
        },
        "retries": { "attempts": retries.attempts, "on": on },
        "workers": config.workers,
        "trusted_proxies": networks(&config.trusted_proxies),
        "untrusted_fields": config.untrusted_fields,
        "via": config.via.as_ref().map_or(json!(false), |name| json!(name)),
        "queue": { "size": config.queue.size, "timeout": time(config.queue.timeout) },
        "rate_limit": config.rate_limit.as_ref().map(|limit| json!({
            "requests": limit.requests,
            "per": time(limit.per),
            "burst": limit.burst,
            "key": match &limit.key {
                RateKey::ClientIp => "client-ip".to_owned(),
                RateKey::Header(name) => format!("header:{name}"),
            },
            "max_keys": limit.max_keys,
            "allow": networks(&limit.allow),
        })),
        "circuit_breaker": config.circuit_breaker.as_ref().map(|breaker| json!({
            "consecutive_failures": breaker.consecutive_failures,
            "error_percent": breaker.error_percent,
            "minimum_requests": breaker.minimum_requests,
            "window": time(breaker.window),
            "open": time(breaker.open),
            "max_open": time(breaker.max_open),
            "half_open_requests": breaker.half_open_requests,
            "max_ejected_percent": breaker.max_ejected_percent,
            "on": codes(&breaker.on),
        })),
        "when_all_down": match config.when_all_down {
            WhenAllDown::Refuse => "refuse",
            WhenAllDown::Try => "try",
        },
        "sticky": config.sticky.as_ref().map(written_sticky),
    })
}

fn written_sticky(sticky: &Sticky) -> Value {
    let time = |ttl: Option<Duration>| ttl.map(|ttl| format!("{}s", ttl.as_secs()));
    match sticky {
        Sticky::Cookie(cookie) => json!({
            "by": "cookie",
            "name": cookie.name,
            "ttl": time(cookie.ttl),
            "secure": match cookie.secure {
                Secure::Auto => json!("auto"),
                Secure::Always => json!(true),
                Secure::Never => json!(false),
            },
            "same_site": format!("{:?}", cookie.same_site),
            "secret": cookie.secret.as_ref().map(Secret::reveal),
        }),
        Sticky::Ip { ttl, max_keys } => json!({ "by": "ip", "ttl": time(*ttl), "max_keys": max_keys }),
    }
}
