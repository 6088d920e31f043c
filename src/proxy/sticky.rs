//! Sticky sessions as requests meet them: which backend a client is bound to, and what binds it to another one.

use std::time::Duration;

use super::Proxy;
use super::client::Parked;
use super::occasion::{Occasion, address_key, cookies};
use crate::balance::{Backend, Mark, Snapshot};
use crate::config::{self, SameSite, Secure};
use crate::http1::{Request, list};
use crate::policy::Ties;
use crate::runtime::world::World;

/// So often within its time to live the cookie of a client that comes all the time is renewed. One that stays away for no
/// more than the rest of that time, seven eighths, comes back to its backend.
const RENEWALS: u64 = 8;

/// What `sticky` says, ready for use.
#[derive(Debug)]
pub(super) enum Stickiness {
    /// The client keeps a cookie that names its backend.
    Cookie(Cookie),
    /// The client's address is remembered, unless it stays away for longer than this; None: however long.
    Ip(Option<Duration>),
}

/// The cookie, but for what differs from one answer to the other.
#[derive(Debug)]
pub(super) struct Cookie {
    name: String,
    ttl_s: Option<u64>,
    secure: Secure,
    /// The line up to the value.
    before: Vec<u8>,
    /// The attributes that it always has.
    behind: Vec<u8>,
}

/// What a request says of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The backend that it is bound to.
    pub(super) mark: Mark,
    /// There is nothing new to tell while that one serves it.
    fresh: bool,
    /// The client's connection is encrypted, as far as its cookie is concerned.
    secure: bool,
}

/// Whether an answer sets the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CookieDue {
    /// The client knows already what it would say, or there is none.
    No,
    /// One that may go over any connection.
    Plain,
    /// One for encrypted connections only.
    Secure,
}

/// What an answer says to bind its client to a backend (RFC 6265 §4.1). `Path` and `HttpOnly` are fixed: all
/// of a site shares its backends, and no script has use for it.
#[derive(Clone, Copy, Debug)]
pub struct SessionCookie<'a> {
    cookie: &'a Cookie,
    mark: [u8; Mark::BYTES],
    secure: bool,
    now_s: u64,
}

impl Stickiness {
    pub(super) fn new(sticky: &config::Sticky) -> Self {
        match sticky {
            config::Sticky::Cookie(cookie) => Self::Cookie(Cookie::new(cookie)),
            config::Sticky::Ip { ttl, .. } => Self::Ip(*ttl),
        }
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// What the request says of its session; None without `sticky`.
    #[inline]
    pub(super) fn session(&self, occasion: &Occasion<'_, '_, '_, W>) -> Option<Session> {
        Some(self.session_by(self.shared.stickiness.as_ref()?, occasion))
    }

    #[inline(never)]
    fn session_by(&self, stickiness: &Stickiness, occasion: &Occasion<'_, '_, '_, W>) -> Session {
        match stickiness {
            Stickiness::Cookie(cookie) => {
                cookie.session(occasion.request, occasion.trusted, || self.world.unix_seconds())
            }
            Stickiness::Ip(idle_max) => {
                let tables = &self.shared.tables;
                let tied = |ties: &Ties| ties.of(address_key(tables, occasion.client()), self.world.now().0, *idle_max);
                let id = tables.ties.as_ref().and_then(tied);
                Session { mark: id.map_or(Mark::NONE, Mark::of_id), fresh: true, secure: false }
            }
        }
    }

    /// Binds the session to the backend that serves it now, unless it has one of its own that just has no room. Says what the
    /// answer has to tell the client of it.
    #[inline]
    pub(super) fn settle(
        &self,
        session: Session,
        snapshot: &Snapshot,
        tried: &[u64],
        backend: &Backend,
        occasion: &Occasion<'_, '_, '_, W>,
    ) -> CookieDue {
        if session.mark != backend.mark() && snapshot.has_home(session.mark, tried) {
            return CookieDue::No;
        }
        self.bind(session, backend, occasion)
    }

    /// Binds the session to the backend that was picked. Says what that one's answer has to tell the client of it.
    #[inline(never)]
    fn bind(&self, session: Session, backend: &Backend, occasion: &Occasion<'_, '_, '_, W>) -> CookieDue {
        if session.fresh && session.mark == backend.mark() {
            return CookieDue::No;
        }
        match &self.shared.stickiness {
            Some(Stickiness::Cookie(_)) if session.secure => CookieDue::Secure,
            Some(Stickiness::Cookie(_)) => CookieDue::Plain,
            Some(Stickiness::Ip(_)) => {
                let tables = &self.shared.tables;
                if let Some(ties) = &tables.ties {
                    ties.tie(address_key(tables, occasion.client()), backend.id, self.world.now().0);
                }
                CookieDue::No
            }
            None => CookieDue::No,
        }
    }

    /// What this backend's answer says of the session.
    #[inline]
    pub(super) fn session_cookie(&self, due: CookieDue, backend: &Backend) -> Option<SessionCookie<'_>> {
        if due == CookieDue::No {
            return None;
        }
        let Some(Stickiness::Cookie(cookie)) = &self.shared.stickiness else { return None };
        let now_s = if cookie.ttl_s.is_some() { self.world.unix_seconds() } else { 0 };
        Some(SessionCookie { cookie, mark: backend.mark().text(), secure: due == CookieDue::Secure, now_s })
    }
}

impl Cookie {
    fn new(cookie: &config::StickyCookie) -> Self {
        let same_site = match cookie.same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        };
        let ttl_s = cookie.ttl.map(|ttl| ttl.as_secs());
        let max_age = ttl_s.map_or_else(String::new, |ttl_s| format!("; Max-Age={ttl_s}"));
        Self {
            name: cookie.name.clone(),
            ttl_s,
            secure: cookie.secure,
            before: format!("Set-Cookie: {}=", cookie.name).into_bytes(),
            behind: format!("; Path=/; HttpOnly; SameSite={same_site}{max_age}").into_bytes(),
        }
    }

    /// The session that the first of the request's cookies tells of that looks like one of these. Whether there is a backend
    /// of that mark is the snapshot's to know.
    fn session(&self, request: &Request<'_, '_>, trusted: bool, now_s: impl Fn() -> u64) -> Session {
        let (mark, fresh) =
            cookies(request, &self.name).find_map(|value| self.read(value, &now_s)).unwrap_or((Mark::NONE, false));
        let secure = match self.secure {
            Secure::Auto => trusted && came_encrypted(request),
            Secure::Always => true,
            Secure::Never => false,
        };
        Session { mark, fresh, secure }
    }

    /// `MARK`, or `MARK.SECONDS` where it has a time to live: since 1970, when it was set. Nothing vouches for the time: who
    /// alters it has nothing of it but his own session for longer. The mark says whether it is to stay as it is.
    fn read(&self, value: &[u8], now_s: impl Fn() -> u64) -> Option<(Mark, bool)> {
        let (mark, rest) = value.split_first_chunk()?;
        let set_at_s: Option<u64> = match rest {
            [] => None,
            [b'.', digits @ ..] => Some(str::from_utf8(digits).ok()?.parse().ok()?),
            _ => return None,
        };
        let fresh = match (set_at_s, self.ttl_s) {
            (Some(set_at_s), Some(ttl_s)) => {
                let now_s = now_s();
                if now_s.saturating_sub(set_at_s) > ttl_s {
                    return None;
                }
                // One from the future is another proxy's, whose clock is ahead.
                set_at_s <= now_s && now_s - set_at_s < ttl_s.div_ceil(RENEWALS)
            }
            (None, None) => true,
            // It was set before `ttl` was changed.
            _ => false,
        };
        Some((Mark::from_text(mark), fresh))
    }
}

impl SessionCookie<'_> {
    /// Appends its line, and one that keeps shared caches from handing it to other clients: `Set-Cookie` alone doesn't
    /// (RFC 9111 §7.3).
    #[inline(never)]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.cookie.before);
        out.extend_from_slice(&self.mark);
        if self.cookie.ttl_s.is_some() {
            out.push(b'.');
            out.extend_from_slice(itoa::Buffer::new().format(self.now_s).as_bytes());
        }
        out.extend_from_slice(&self.cookie.behind);
        if self.secure {
            out.extend_from_slice(b"; Secure");
        }
        out.extend_from_slice(b"\r\nCache-Control: private\r\n");
    }
}

/// What a trusted peer says of the client's own connection, which is the first of a list that isn't empty.
fn came_encrypted(request: &Request<'_, '_>) -> bool {
    let mut schemes = request.values("x-forwarded-proto").flat_map(list).filter(|scheme| !scheme.is_empty());
    schemes.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests;
