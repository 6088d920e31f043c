//! Values that stand in more than one object.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::fields::Fields;

/// More connections than that have no room in any table of descriptors.
pub(super) const CONNECTIONS_MAX: u64 = 10_000_000;
/// Room for the name that a backend has by default: a DNS name of 253 bytes with a port.
pub(super) const NAME_BYTES_MAX: usize = 260;
/// Shorter deadlines than the timers can tell apart are of no use.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
const NETWORKS_MAX: usize = 1024;

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

pub(super) fn is_token(name: &&str) -> bool {
    // RFC 9110 §5.6.2: what the names of fields and cookies are made of.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}
