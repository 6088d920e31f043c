//! What a strategy may ask of the request that it picks a backend for.

use std::net::IpAddr;

use super::client::Client;
use super::forwarded;
use super::parked::Parked;
use super::worker::Proxy;
use crate::balance::{self, HashKey};
use crate::http1::{Request, Target};
use crate::plan::{Plan, Route};
use crate::policy::Tables;
use crate::runtime::world::{Stream, World};

/// A request on its way to be picked for. Nothing is looked up before a strategy asks.
pub(super) struct Occasion<'a, 'h, 'b, W: World<Parked = Parked>> {
    pub(super) proxy: &'a Proxy<W>,
    pub(super) plan: &'a Plan,
    pub(super) request: &'a Request<'h, 'b>,
    pub(super) peer: IpAddr,
    /// What the peer says of the client before it is believed.
    pub(super) trusted: bool,
    /// The connection that it came by is.
    pub(super) encrypted: bool,
    /// That connection.
    pub(super) stream: &'a W::Stream,
}

impl<W: World<Parked = Parked>> balance::Occasion for Occasion<'_, '_, '_, W> {
    fn random(&self) -> u64 {
        self.proxy.world.random()
    }

    fn now_ns(&self) -> u64 {
        self.proxy.world.now().0
    }

    fn key(&self, source: &HashKey) -> Option<u64> {
        let key = match source {
            HashKey::ClientIp => return Some(address_hash(self.client())),
            HashKey::Path => path_and_query(self.request.target).0,
            HashKey::Header(name) => return header_hash(self.request, name),
            HashKey::Cookie(name) => cookies(self.request, name).next()?,
            HashKey::Query(name) => parameter(path_and_query(self.request.target).1, name)?,
        };
        Some(balance::hash(key))
    }
}

impl<'a, 'h, 'b, W: World<Parked = Parked>> Occasion<'a, 'h, 'b, W> {
    /// One that `client` has sent.
    #[inline]
    pub(super) fn new(
        proxy: &'a Proxy<W>,
        plan: &'a Plan,
        request: &'a Request<'h, 'b>,
        client: &'a Client<W::Stream>,
    ) -> Self {
        let (peer, encrypted) = (client.seat.peer(), client.stream.is_encrypted());
        Self { proxy, plan, request, peer, trusted: plan.connections.trusts(peer), encrypted, stream: &client.stream }
    }

    #[inline]
    pub(super) fn route(&self) -> &'a Route {
        &self.plan.route
    }

    /// The client's address: of those that trusted peers handed on, the last that isn't a trusted peer's own; the first
    /// when all are.
    pub(super) fn client(&self) -> IpAddr {
        if !self.trusted {
            return self.peer;
        }
        forwarded::client(self.request, self.peer, |address| self.plan.connections.trusts(address))
    }
}

/// Of a field on several lines what they say together, as one line would (RFC 9110 §5.3).
fn header_hash(request: &Request<'_, '_>, name: &str) -> Option<u64> {
    let mut lines = request.values(name).peekable();
    lines.peek()?;
    let pieces = lines.enumerate().flat_map(|(nth, line)| [if nth > 0 { b", " } else { &b""[..] }, line]);
    Some(balance::hash_pieces(pieces))
}

/// An IPv6 subscriber has at least a /64 to choose addresses from (RFC 7421 §2).
fn address_hash(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => balance::hash(&address.octets()),
        IpAddr::V6(address) => balance::hash(&address.octets()[..8]),
    }
}

/// The same, with a secret: for tables in which no client should be able to choose its place.
pub(super) fn address_key(tables: &Tables, address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => tables.key(address.octets()),
        IpAddr::V6(address) => tables.key(&address.octets()[..8]),
    }
}

fn path_and_query(target: Target<'_>) -> (&[u8], &[u8]) {
    let target = match target {
        Target::Origin(target) | Target::Absolute { path: target, .. } => target,
        Target::Asterisk => b"*",
    };
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &[]),
    }
}

/// The values of the cookies of that name, in order (RFC 6265 §4.2.1).
pub(super) fn cookies<'b>(request: &Request<'_, 'b>, name: &str) -> impl Iterator<Item = &'b [u8]> {
    let fields = request.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("cookie"));
    fields.flat_map(|field| pairs(field.value)).filter_map(move |pair| value_of(pair.trim_ascii(), name))
}

/// What stands between semicolons. They are searched for: a field of cookies may be long.
fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let field = rest?;
        let end = memchr::memchr(b';', field);
        rest = end.map(|end| &field[end + 1..]);
        Some(&field[..end.unwrap_or(field.len())])
    })
}

/// The value of the query's first parameter of that name, as it was sent.
fn parameter<'b>(query: &'b [u8], name: &str) -> Option<&'b [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| value_of(pair, name))
}

fn value_of<'b>(pair: &'b [u8], name: &str) -> Option<&'b [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, Parsed, parse_request};

    fn with_request<R>(head: &str, read: impl FnOnce(&Request<'_, '_>) -> R) -> R {
        let limits = HeadLimits { head_bytes: 8192, headers: 100, uri_bytes: 8192 };
        match parse_request(format!("{head}\r\n\r\n").as_bytes(), &limits, read) {
            Ok(Parsed::Complete { value, .. }) => value,
            _ => panic!("no whole request: {head}"),
        }
    }

    #[test]
    fn a_target_has_a_path_and_a_query() {
        for (target, want) in [
            ("/a/b?c=d", ("/a/b", "c=d")),
            ("/", ("/", "")),
            ("/?", ("/", "")),
            ("http://a/x?y?z", ("/x", "y?z")),
            ("http://a?q", ("", "q")),
        ] {
            let got = with_request(&format!("GET {target} HTTP/1.1\r\nHost: a"), |request| {
                let (path, query) = path_and_query(request.target);
                (String::from_utf8(path.to_vec()).unwrap(), String::from_utf8(query.to_vec()).unwrap())
            });
            assert_eq!((got.0.as_str(), got.1.as_str()), want, "{target}");
        }
    }

    #[test]
    fn a_cookie_and_a_parameter_are_found_by_their_whole_name() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nCookie: xid=1; id2=2\r\nCookie: a=b;id=3; id=4";
        assert_eq!(
            with_request(head, |request| cookies(request, "id").map(<[u8]>::to_vec).collect::<Vec<_>>()),
            [b"3", b"4"]
        );
        assert_eq!(with_request(head, |request| cookies(request, "i").count()), 0);
        assert_eq!(parameter(b"xid=1&id2=2&id=&id=4", "id"), Some(&b""[..]));
        assert_eq!(parameter(b"id", "id"), None);
    }

    #[test]
    fn a_field_on_several_lines_is_hashed_as_on_one() {
        let hash = |lines: &str| {
            with_request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}"), |request| header_hash(request, "X-Key"))
        };
        assert_eq!(hash("X-Key: a\r\nY: 1\r\nx-key: b"), Some(balance::hash(b"a, b")));
        assert_eq!(hash("X-Key: a"), Some(balance::hash(b"a")));
        assert_ne!(hash("X-Key: a\r\nX-Key: b"), hash("X-Key: a\r\nX-Key: c"));
        assert_eq!(hash("Y: 1"), None);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let key = |text: &str| address_hash(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }
}
