//! What depends on whether a request came over TLS: whether it came the right way, and what is told of its client, and to it.

use super::error::Failure;
use super::error_answer::{Fate, write_line};
use super::facts::Facts;
use super::occasion::Occasion;
use super::parked::Parked;
use super::state::{Again, Ended, Exchange};
use super::sticky::came_encrypted;
use crate::http1::{RequestError, Target, Version, reason_phrase, without_port};
use crate::runtime::world::{Stream, World};

/// Where requests in clear are sent, for good and with the same method (RFC 9110 §15.4.9).
const REDIRECT: u16 = 308;
/// That of a URL that names none.
const HTTPS_PORT: u16 = 443;

impl<W: World<Parked = Parked>> Occasion<'_, '_, '_, W> {
    /// Its host is another certificate's than that which its client was shown (RFC 9110 §7.4).
    #[cold]
    pub(super) fn is_misdirected(&self) -> bool {
        let host = self.request.host.map(without_port).and_then(|host| str::from_utf8(host).ok());
        host.is_some_and(|host| !self.stream.stands_for(host))
    }

    /// Whether a request in clear is sent elsewhere, where all are to be encrypted: unless a trusted peer says that it came
    /// so.
    #[cold]
    pub(super) fn is_to_be_redirected(&self) -> Result<(), Again> {
        if came_encrypted(self.request, self.origin()) {
            return Ok(());
        }
        let Some(_) = self.request.host else {
            return Err(Again::No(Failure::BadRequest(RequestError::Malformed("no Host"))));
        };
        Err(Again::Redirect)
    }

    /// Writes where it is sent: to the same, on the port of TLS.
    #[cold]
    pub(super) fn write_place(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"https://");
        out.extend_from_slice(without_port(self.request.host.unwrap_or_default()));
        if let Some(port) = self.route().rules.redirect_to.filter(|port| *port != HTTPS_PORT) {
            out.extend_from_slice(format!(":{port}").as_bytes());
        }
        let path = match self.request.target {
            Target::Origin(path) | Target::Absolute { path, .. } => path,
            Target::Asterisk => b"",
        };
        if path.first() != Some(&b'/') {
            out.push(b'/');
        }
        out.extend_from_slice(path);
    }

    /// What the client has shown that it is, if backends are told, and the field by which.
    #[inline]
    pub(super) fn identity(&self) -> Option<(&[u8], &str)> {
        let field = self.route().rules.client_field.as_deref()?;
        Some((field, self.stream.peer_identity()?))
    }
}

impl Facts {
    /// What an answer to its client says by `Strict-Transport-Security`.
    #[inline]
    pub(super) fn hsts(&self, client: &impl Stream) -> Option<&[u8]> {
        self.rules().hsts.as_deref().filter(|_| client.is_encrypted())
    }
}

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// Makes the answer to a request that is sent elsewhere, whose place is in the head's bytes.
    #[cold]
    pub(super) fn redirect(&mut self) -> Ended<W> {
        let is_read = self.client.consume_whole();
        let last = !self.facts.keep_alive || !is_read || self.is_last();
        self.stand.record.status = Some(REDIRECT);
        let place = std::mem::take(&mut self.head.bytes);
        let (date, out) = (self.proxy.date(), &mut self.head.bytes);
        write_line(out, &[b"HTTP/1.1 308 ", reason_phrase(REDIRECT).as_bytes()]);
        write_line(out, &[b"Date: ", &date]);
        write_line(out, &[b"Server: maypole"]);
        write_line(out, &[b"Location: ", &place]);
        write_line(out, &[b"Content-Length: 0"]);
        let fate = if last { Fate::Closes } else { Fate::Stays(self.facts.version) };
        match fate {
            Fate::Closes => write_line(out, &[b"Connection: close"]),
            Fate::Stays(Version::Http10) => write_line(out, &[b"Connection: keep-alive"]),
            Fate::Stays(Version::Http11) => {}
        }
        write_line(out, &[]);
        self.stand.record.is_answered_here(self.head.bytes.len());
        Ended::Refused { last }
    }
}
