//! What goes on to the other side: a request's head as the backend gets it, a response's head as the client gets it.
//! Pure: bytes from a parsed head into a vector whose capacity is used again.

use std::io::Write;
use std::net::IpAddr;

use super::occasion::Occasion;
use super::parked::Parked;
use super::request_id::RequestId;
use super::sticky::SessionCookie;
use super::throttle::Allowance;
use crate::balance::Backend;
use crate::http1::{ConnectionOptions, FieldNames, Framing, Known, Method, Request, Response, Target, Version};
use crate::plan::Via;
use crate::runtime::world::World;

/// What a request's head is rewritten with.
#[derive(Clone, Copy, Debug)]
pub struct RequestForwarding<'a> {
    /// Put before the path: empty, or `/…` without a trailing slash.
    pub base_path: &'a [u8],
    /// The `Host` of an HTTP/1.0 request that has none: the backend's host and port.
    pub default_host: &'a [u8],
    /// The client's address, as its connection says.
    pub peer: IpAddr,
    /// The peer is a trusted proxy: what it says of the client before it is believed.
    pub trusted: bool,
    /// Fields that this peer can't set.
    pub withheld: &'a FieldNames,
    /// What the client has shown that it is, and the field that tells of it.
    pub identity: Option<(&'a [u8], &'a str)>,
    /// The client's connection is encrypted.
    pub encrypted: bool,
    /// The request's id, unless a trusted peer sent one (see [`kept_request_id`]).
    pub request_id: &'a [u8],
    /// What the proxy is called, if it tells of itself.
    pub via: Option<&'a Via>,
    /// Pass the request's wish to upgrade on.
    pub upgrade: bool,
}

impl<W: World<Parked = Parked>> Occasion<'_, '_, '_, W> {
    /// Writes the request's head into `head` as it goes to `backend`.
    #[inline]
    pub(super) fn rewrite(&self, id: &RequestId, backend: &Backend, head: &mut Vec<u8>) {
        let rules = &self.route().rules;
        let how = RequestForwarding {
            base_path: backend.base_path.as_bytes(),
            default_host: backend.authority.as_bytes(),
            peer: self.peer,
            trusted: self.trusted,
            withheld: rules.withheld(self.trusted),
            identity: self.identity(),
            encrypted: self.encrypted,
            request_id: id.as_bytes(),
            via: rules.via.as_ref(),
            upgrade: self.request.upgrade.is_some(),
        };
        head.clear();
        write_request_head(head, self.request, &how);
    }
}

/// The `X-Request-Id` that is kept: a trusted peer's own, the first that says something.
pub fn kept_request_id<'b>(request: &Request<'_, 'b>, trusted: bool) -> Option<&'b [u8]> {
    if !trusted {
        return None;
    }
    request.values("x-request-id").find(|id| !id.is_empty())
}

/// Appends the head that a backend gets. Method, target and fields are the client's byte for byte, but that
///
/// - the target is in origin-form, behind the backend's base path (`OPTIONS *` stays), and the version is HTTP/1.1;
/// - hop-by-hop fields are gone, and those that `Connection` names, but never what frames or routes the message;
/// - one `Content-Length`, or `Transfer-Encoding`, says what [`Request::framing`] does;
/// - `X-Forwarded-*`, `X-Request-Id` and `Via` tell of this hop, and a peer that isn't trusted tells of none before it.
// Out of line, so that what calls it stays small: inlined there it takes more instructions.
#[inline(never)]
pub fn write_request_head(out: &mut Vec<u8>, request: &Request<'_, '_>, how: &RequestForwarding<'_>) {
    out.extend_from_slice(request.method_bytes);
    out.push(b' ');
    write_target(out, request, how.base_path);
    out.extend_from_slice(b" HTTP/1.1\r\n");

    // RFC 9112 §3.2.2: an absolute-form target's authority replaces what Host says.
    let own_host = request.host.is_none() || matches!(request.target, Target::Absolute { .. });
    if own_host {
        write_field(out, b"Host: ", request.host.unwrap_or(how.default_host));
    }
    let mut options = ConnectionOptions::none();
    request.connection_options(&mut options);
    let mut has_proto = false;
    let mut has_host = false;
    let mut has_forwarded_for = false;
    request.copy_lines(out, |known, field| match known {
        Known::Host => !own_host,
        Known::Connection
        | Known::ContentLength
        | Known::HopByHop
        | Known::TransferEncoding
        | Known::Upgrade
        | Known::XRequestId => false,
        // RFC 9110 §6.6.2: it announces what comes behind the body, and only chunks have that.
        Known::Trailer => request.framing == Framing::Chunked && !options.name(field.name),
        // RFC 9110 §10.1.1: from an HTTP/1.0 client it means nothing.
        Known::Expect => request.version == Version::Http11 && !options.name(field.name),
        Known::MaxForwards => request.max_forwards.is_none() && !options.name(field.name),
        Known::Via => true,
        Known::XForwardedFor => {
            has_forwarded_for = true;
            false
        }
        Known::XForwardedHost => keep_once(&mut has_host, how.trusted && !field.value.is_empty()),
        Known::XForwardedProto => keep_once(&mut has_proto, how.trusted && !field.value.is_empty()),
        Known::Authentication | Known::Date | Known::Other => {
            !how.withheld.contains(field.name) && !options.name(field.name)
        }
    });
    write_framing(out, request.framing);
    if let Some(hops_left) = request.max_forwards {
        out.extend_from_slice(b"Max-Forwards: ");
        write_number(out, hops_left.saturating_sub(1));
        out.extend_from_slice(b"\r\n");
    }

    out.extend_from_slice(b"X-Forwarded-For: ");
    if how.trusted && has_forwarded_for {
        let before = |field: &&httparse::Header<'_>| Known::of(field.name) == Known::XForwardedFor;
        for field in request.fields.iter().filter(before).filter(|field| !field.value.is_empty()) {
            out.extend_from_slice(field.value);
            out.extend_from_slice(b", ");
        }
    }
    write_address(out, how.peer);
    // Each of these ends the line before it, in one piece with its own name.
    if !has_proto {
        out.extend_from_slice(b"\r\nX-Forwarded-Proto: http");
        if how.encrypted {
            out.push(b's');
        }
    }
    if let (false, Some(host)) = (has_host, request.host) {
        out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
        out.extend_from_slice(host);
    }
    let request_id = kept_request_id(request, how.trusted).unwrap_or(how.request_id);
    write_field(out, b"\r\nX-Request-Id: ", request_id);
    if let Some(via) = how.via {
        out.extend_from_slice(via.line(request.version));
    }
    if let Some(identity) = how.identity {
        write_identity(out, identity);
    }
    if let (true, Some(protocols)) = (how.upgrade, request.upgrade) {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        write_field(out, b"Upgrade: ", protocols);
    }
    out.extend_from_slice(b"\r\n");
}

/// Tells what the client has shown that it is.
#[cold]
fn write_identity(out: &mut Vec<u8>, (name, identity): (&[u8], &str)) {
    out.extend_from_slice(name);
    write_field(out, b": ", identity.as_bytes());
}

/// Keeps a field line if it may be kept and is the first of its kind: a second value would leave it to the backend
/// which of them to believe.
fn keep_once(has: &mut bool, may: bool) -> bool {
    let keep = may && !*has;
    *has |= keep;
    keep
}

fn write_target(out: &mut Vec<u8>, request: &Request<'_, '_>, base_path: &[u8]) {
    let (Target::Origin(path) | Target::Absolute { path, .. }) = request.target else {
        return out.push(b'*');
    };
    // RFC 9112 §3.2.4: so it is asked of the server itself in absolute-form.
    if path.is_empty() && request.method == Method::Options {
        return out.push(b'*');
    }
    out.extend_from_slice(base_path);
    if path.first() != Some(&b'/') {
        out.push(b'/');
    }
    out.extend_from_slice(path);
}

/// What a response's head is rewritten with.
#[derive(Clone, Copy, Debug)]
pub struct ResponseForwarding<'a> {
    /// The version of the client that gets it.
    pub client_version: Version,
    /// How the body is delimited towards the client, see [`client_framing`].
    pub framing: Framing,
    /// The client's connection is closed behind it.
    pub close: bool,
    /// Now, as an IMF-fixdate (29 bytes), for a response without `Date`.
    pub date: &'a [u8],
    /// It is a 101 that the client asked for.
    pub upgrade: bool,
    /// What the client has left of its rate, if that is limited.
    pub allowance: Option<Allowance<'a>>,
    /// What binds the client to the backend, unless it is already.
    pub session: Option<SessionCookie<'a>>,
    /// What `Strict-Transport-Security` says in place of what the backend may say by it.
    pub hsts: Option<&'a [u8]>,
}

/// How a response's body is delimited towards a client of this version, and whether the client's connection must be
/// closed behind it (RFC 9112 §6.1, §6.3): HTTP/1.0 knows no chunks.
pub fn client_framing(response: &Response<'_, '_>, client_version: Version) -> (Framing, bool) {
    match (response.framing, client_version) {
        (Framing::Chunked | Framing::UntilClose, Version::Http11) => (Framing::Chunked, false),
        (Framing::Chunked | Framing::UntilClose, Version::Http10) => (Framing::UntilClose, true),
        (framing @ (Framing::None | Framing::Length(_)), _) => (framing, false),
    }
}

/// Appends the head that a client gets. Status, reason and fields are the backend's byte for byte, but that
///
/// - the version is HTTP/1.1, whatever the backend's;
/// - hop-by-hop fields are gone, and those that `Connection` names, but never what frames the message;
/// - framing fields say what [`ResponseForwarding::framing`] does; where no body follows, the `Content-Length` of an
///   answer to HEAD and of a 304 stays (RFC 9110 §8.6);
/// - a missing `Date` is added (RFC 9110 §6.6.1), and `Connection` tells what becomes of the client's connection;
/// - the client's allowance, and what binds it to its backend, are told beside what the backend may tell of its own.
pub fn write_response_head(out: &mut Vec<u8>, response: &Response<'_, '_>, how: &ResponseForwarding<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, u64::from(response.status));
    out.push(b' ');
    out.extend_from_slice(response.reason);
    out.extend_from_slice(b"\r\n");

    let mut options = ConnectionOptions::none();
    response.connection_options(&mut options);
    if how.hsts.is_some() {
        options.also(b"strict-transport-security");
    }
    response.copy_lines(out, |known, field| match known {
        Known::Connection | Known::ContentLength | Known::HopByHop | Known::TransferEncoding | Known::Upgrade => false,
        // Trailers go through only in chunks.
        Known::Trailer => how.framing == Framing::Chunked && !options.name(field.name),
        Known::Date => true,
        _ => !options.name(field.name),
    });

    let switches = how.upgrade && response.status == 101;
    if response.is_interim() || switches {
        if let (true, Some(protocol)) = (switches, response.upgrade) {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            write_field(out, b"Upgrade: ", protocol);
        }
        if let (true, Some(session)) = (switches, how.session) {
            session.write(out);
        }
        out.extend_from_slice(b"\r\n");
        return;
    }
    match (how.framing, response.content_length) {
        (Framing::None, Some(bytes)) if !matches!(response.status, 100..200 | 204) => {
            write_framing(out, Framing::Length(bytes));
        }
        (framing, _) => write_framing(out, framing),
    }
    if !response.has_date {
        write_field(out, b"Date: ", how.date);
    }
    if let Some(allowance) = how.allowance {
        allowance.write(out);
    }
    if let Some(session) = how.session {
        session.write(out);
    }
    if let Some(hsts) = how.hsts {
        write_field(out, b"Strict-Transport-Security: ", hsts);
    }
    let close = how.close || how.framing == Framing::UntilClose;
    let keeps_10 = how.client_version == Version::Http10;
    match (close, response.upgrade) {
        (true, Some(_)) => out.extend_from_slice(b"Connection: close, Upgrade\r\n"),
        (true, None) => out.extend_from_slice(b"Connection: close\r\n"),
        (false, Some(_)) if keeps_10 => out.extend_from_slice(b"Connection: keep-alive, Upgrade\r\n"),
        (false, Some(_)) => out.extend_from_slice(b"Connection: Upgrade\r\n"),
        (false, None) if keeps_10 => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (false, None) => {}
    }
    // A 426 must say what to upgrade to (RFC 9110 §15.5.22).
    if let Some(protocols) = response.upgrade {
        write_field(out, b"Upgrade: ", protocols);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(bytes) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
}

/// A line; `start` is the field's name and `: `, of a length that is known, so that it takes no call to copy it.
#[inline]
fn write_field<const LEN: usize>(out: &mut Vec<u8>, start: &[u8; LEN], value: &[u8]) {
    out.extend_from_slice(start);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// An IPv4 client of a socket that listens on IPv6 is written as what it is.
fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                write_number(out, u64::from(octet));
            }
        }
        // Writing to a vector can't fail.
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

#[cfg(test)]
mod tests;
