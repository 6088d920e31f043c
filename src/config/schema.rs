//! The names of all fields, by the object that they belong to.

pub(super) const ROOT: &[&str] = &[
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
    "upstream_tls",
    "tls",
    "listeners",
];
pub(super) const HEALTH_CHECK: &[&str] =
    &["path", "method", "host", "timeout", "expect", "body_contains", "rise", "fall", "fast_interval", "jitter"];
pub(super) const TIMEOUTS: &[&str] = &[
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
pub(super) const LIMITS: &[&str] = &[
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
pub(super) const RETRIES: &[&str] = &["attempts", "budget_percent", "on"];
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
pub(super) const UPSTREAM_TLS: &[&str] = &["ca", "server_name", "client_cert", "client_key", "min_version", "verify"];
pub(super) const TLS: &[&str] = &[
    "port",
    "bind",
    "certificates",
    "min_version",
    "client_ca",
    "crl",
    "client_auth",
    "client_header",
    "ticket_keys",
    "strict_sni",
    "redirect_http",
    "hsts",
    "handshake_timeout",
    "acme",
];
pub(super) const CERTIFICATE: &[&str] = &["cert", "key", "ocsp"];
pub(super) const HSTS: &[&str] = &["max_age", "include_subdomains", "preload"];
pub(super) const ACME: &[&str] = &["directory", "email", "domains", "cache", "challenge"];
pub(super) const LISTENER: &[&str] = &["port", "bind", "tls"];
/// A backend in the file, and what the admin API takes of one.
pub(super) const BACKEND: &[&str] = &["url", "name", "weight", "backup", "max_connections", "zone"];
pub(super) const CHANGE: &[&str] = &["weight", "state", "max_connections"];
pub(super) const CHANGE_BY_URL: &[&str] = &["url", "weight", "state", "max_connections"];
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
    ("upstream_tls", UPSTREAM_TLS),
    ("tls", TLS),
];

/// The object that a field belongs to, for those put a level too high or too low.
pub(super) fn home_of(name: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|(_, known)| known.contains(&name)).map(|(home, _)| *home)
}
