//! Keeps other sites' pages out. A browser lets any page send requests to a port on its own machine; these rules tell
//! such a request from one that an operator meant.

use std::net::IpAddr;

use crate::control::server::Call;

/// Refuses what a browser sends for a page of another origin, with the reason. Clients that aren't browsers send none
/// of the fields looked at but `Host`.
pub(super) fn check(call: &Call, listener: IpAddr) -> Result<(), String> {
    // A page whose own host name was made to resolve to this machine (DNS rebinding) is of the same origin to its
    // browser; its name gives it away. Any port will do, since it may be forwarded.
    if let Some(host) = &call.host
        && !fits(host, listener)
    {
        return Err(format!("the Host {host:?} isn't a name of this listener: use localhost or its address"));
    }
    if let Some(site) = call.field("Sec-Fetch-Site")
        && !matches!(site, "same-origin" | "none")
    {
        return Err(format!("a page of another origin may not call this API (Sec-Fetch-Site: {site})"));
    }
    if let Some(origin) = call.field("Origin") {
        let own = call.host.as_ref().map(|host| format!("http://{host}"));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(origin)) {
            return Err(format!("a page of another origin may not call this API (Origin: {origin})"));
        }
    }
    Ok(())
}

/// Whether a `Host` names this machine to itself, or the address that is listened on.
fn fits(host: &str, listener: IpAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip == listener,
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case("localhost."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, Parsed, parse_request};

    fn passes(fields: &str) -> bool {
        let head = format!("POST /backends HTTP/1.1\r\n{fields}\r\n");
        let limits = HeadLimits { head_bytes: 4096, headers: 20, uri_bytes: 1000 };
        match parse_request(head.as_bytes(), &limits, Call::read) {
            Ok(Parsed::Complete { value, .. }) => check(&value, "127.0.0.1".parse().unwrap()).is_ok(),
            other => panic!("{fields:?}: {other:?}"),
        }
    }

    #[test]
    fn who_is_no_browser_passes_by_any_name_of_this_machine() {
        for host in ["localhost", "localhost:8081", "LocalHost.:1", "127.0.0.1:8081", "127.9.9.9", "[::1]:8081"] {
            assert!(passes(&format!("Host: {host}\r\n")), "{host}");
        }
    }

    #[test]
    fn other_hosts_do_not_fit() {
        for host in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "10.0.0.1:8081",
            "[::2]",
            "127.0.0.1.nip.io",
        ] {
            assert!(!passes(&format!("Host: {host}\r\n")), "{host}");
        }
    }

    #[test]
    fn a_page_passes_only_if_it_is_of_the_same_origin() {
        let host = "Host: localhost:8081\r\n";
        for (fields, want) in [
            ("Origin: http://localhost:8081\r\nSec-Fetch-Site: same-origin\r\n", true),
            ("Sec-Fetch-Site: none\r\n", true),
            ("Sec-Fetch-Site: same-site\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\n", false),
            ("Origin: http://evil.example\r\n", false),
            ("Origin: http://localhost:3000\r\n", false),
            ("Origin: https://localhost:8081\r\n", false),
            ("Origin: null\r\n", false),
        ] {
            assert_eq!(passes(&format!("{host}{fields}")), want, "{fields}");
        }
    }
}
