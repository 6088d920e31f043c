//! A client's address, as the proxies before this one hand it on: `X-Forwarded-For`, or where there is none `Forwarded`
//! (RFC 7239), each over all its lines. Empty elements say nothing (RFC 9110 §5.6.1); anything else that is no address,
//! such as `unknown` or a name that hides one, ends the chain, since what came before it can't be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::http1::Request;

/// The client's address: of those that trusted peers handed on, the last that isn't a trusted peer's own; the first when
/// all are. `peer` is trusted.
pub(super) fn client(request: &Request<'_, '_>, peer: IpAddr, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut says_for = false;
    let mut before = peer;
    let lines = request.fields.iter().rev().filter(|field| field.name.eq_ignore_ascii_case("x-forwarded-for"));
    let elements = lines.flat_map(|line| line.value.rsplit(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    for element in elements.filter(|element| !element.is_empty()) {
        says_for = true;
        match address(element) {
            Some(address) => before = address,
            None => return before,
        }
        if !trusts(before) {
            return before;
        }
    }
    if says_for { before } else { by_forwarded(request, &trusts).unwrap_or(peer) }
}

/// The same by `Forwarded`; None where it doesn't say. Quoted strings may hold its separators, so that it can only be read
/// from its beginning: what is known of the chain's end so far is kept, as if the end had come.
fn by_forwarded(request: &Request<'_, '_>, trusts: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let elements = request.values("forwarded").flat_map(|line| parts(line, b','));
    elements.filter(|element| !element.is_empty()).fold(None, |before, element| {
        let address = parts(element, b';').find_map(node).and_then(address)?;
        if trusts(address) { before.or(Some(address)) } else { Some(address) }
    })
}

/// What stands between the separators that aren't within quotes, trimmed.
fn parts(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let ends = move |&byte: &u8| {
        let was_escaped = escaped;
        escaped = quoted && !was_escaped && byte == b'\\';
        quoted ^= byte == b'"' && !was_escaped;
        byte == separator && !quoted
    };
    text.split(ends).map(<[u8]>::trim_ascii)
}

/// The value of a pair whose name is `for`.
fn node(pair: &[u8]) -> Option<&[u8]> {
    let (name, value) = pair.split_at_checked(b"for".len())?;
    name.eq_ignore_ascii_case(b"for").then_some(value)?.strip_prefix(b"=")
}

/// The address in one element, in quotes or not, with a port behind it or not. IPv6 ones may stand in brackets, and must
/// where a port follows. None for what is no address.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(element).ok()?;
    let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let text = unquoted.unwrap_or(text).trim_matches([' ', '\t']);
    if let Some(rest) = text.strip_prefix('[') {
        let (literal, behind) = rest.split_once(']')?;
        return v6(literal).filter(|_| behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port));
    }
    if let Some(address) = v6(text) {
        return Some(address);
    }
    match text.split_once(':') {
        Some((address, port)) => v4(address).filter(|_| is_port(port)),
        None => v4(text),
    }
}

/// A zone, which has a meaning on its writer's machine alone, is left out.
fn v6(text: &str) -> Option<IpAddr> {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// Zeros in front are read as the decimal digits that their writers mean.
fn v4(text: &str) -> Option<IpAddr> {
    let mut parts = text.split('.').map(|part| {
        let digits = (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse::<u8>().ok() } else { None }
    });
    let address = Ipv4Addr::new(parts.next()??, parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(IpAddr::V4(address))
}

/// `1*5DIGIT`, or a name in its place (RFC 7239 §6.2).
fn is_port(text: &str) -> bool {
    let hidden = text.strip_prefix('_').is_some_and(|name| !name.is_empty());
    hidden || (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
