//! Sticky sessions as requests meet them: which backend a client is bound to, and what binds it to another one.

use super::occasion::{Occasion, address_key, cookies};
use super::parked::Parked;
use crate::balance::{Backend, Mark, Snapshot};
use crate::config::Secure;
use crate::http1::{Request, list};
use crate::plan::{Route, Stickiness, StickyCookie};
use crate::runtime::world::World;

/// So often within its time to live the cookie of a client that comes all the time is renewed. One that stays away for no
/// more than the rest of that time, seven eighths, comes back to its backend.
const RENEWALS: u64 = 8;

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

/// How a request came here.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    /// What its peer says of the client is believed.
    trusted: bool,
    encrypted: bool,
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
    cookie: &'a StickyCookie,
    mark: [u8; Mark::BYTES],
    secure: bool,
    now_s: u64,
}

impl<W: World<Parked = Parked>> Occasion<'_, '_, '_, W> {
    /// How the request came here.
    pub(super) fn origin(&self) -> Origin {
        Origin { trusted: self.trusted, encrypted: self.encrypted }
    }

    /// What the request says of its session; None without `sticky`.
    #[inline]
    pub(super) fn session(&self) -> Option<Session> {
        Some(self.session_by(self.route().stickiness.as_ref()?))
    }

    #[inline(never)]
    fn session_by(&self, stickiness: &Stickiness) -> Session {
        let world = &self.proxy.world;
        match stickiness {
            Stickiness::Cookie(cookie) => session(cookie, self.request, self.origin(), || world.unix_seconds()),
            Stickiness::Ip { idle_max, ties } => {
                let key = address_key(&self.proxy.shared.kept.tables, self.client());
                let id = ties.of(key, world.now().0, *idle_max);
                Session { mark: id.map_or(Mark::NONE, Mark::of_id), fresh: true, secure: false }
            }
        }
    }

    /// Binds the session to the backend that serves it now, unless it has one of its own that just has no room. Says what the
    /// answer has to tell the client of it.
    #[inline]
    pub(super) fn bind_session(
        &self,
        session: Session,
        snapshot: &Snapshot,
        tried: &[u64],
        backend: &Backend,
    ) -> CookieDue {
        if session.mark != backend.mark() && snapshot.has_home(session.mark, tried) {
            return CookieDue::No;
        }
        self.bind(session, backend)
    }

    /// Binds the session to the backend that was picked. Says what that one's answer has to tell the client of it.
    #[inline(never)]
    fn bind(&self, session: Session, backend: &Backend) -> CookieDue {
        if session.fresh && session.mark == backend.mark() {
            return CookieDue::No;
        }
        match &self.route().stickiness {
            Some(Stickiness::Cookie(_)) if session.secure => CookieDue::Secure,
            Some(Stickiness::Cookie(_)) => CookieDue::Plain,
            Some(Stickiness::Ip { ties, .. }) => {
                let key = address_key(&self.proxy.shared.kept.tables, self.client());
                ties.tie(key, backend.id, self.proxy.world.now().0);
                CookieDue::No
            }
            None => CookieDue::No,
        }
    }
}

impl<'a> SessionCookie<'a> {
    /// What this backend's answer says of the session.
    #[inline]
    pub(super) fn of<W: World>(due: CookieDue, route: &'a Route, backend: &Backend, world: &W) -> Option<Self> {
        if due == CookieDue::No {
            return None;
        }
        let Some(Stickiness::Cookie(cookie)) = &route.stickiness else { return None };
        let now_s = if cookie.ttl_s.is_some() { world.unix_seconds() } else { 0 };
        Some(Self { cookie, mark: backend.mark().text(), secure: due == CookieDue::Secure, now_s })
    }
}

/// The session that the first of the request's cookies tells of that looks like one of these. Whether there is a backend
/// of that mark is the snapshot's to know.
fn session(cookie: &StickyCookie, request: &Request<'_, '_>, from: Origin, now_s: impl Fn() -> u64) -> Session {
    let (mark, fresh) = cookies(request, &cookie.name)
        .find_map(|value| read(cookie.ttl_s, value, &now_s))
        .unwrap_or((Mark::NONE, false));
    let secure = match cookie.secure {
        Secure::Auto => came_encrypted(request, from),
        Secure::Always => true,
        Secure::Never => false,
    };
    Session { mark, fresh, secure }
}

/// `MARK`, or `MARK.SECONDS` where it has a time to live: since 1970, when it was set. Nothing vouches for the time: a
/// client that alters it gets nothing but its own session for longer. The mark says whether it is to stay as it is.
fn read(ttl_s: Option<u64>, value: &[u8], now_s: impl Fn() -> u64) -> Option<(Mark, bool)> {
    let (mark, rest) = value.split_first_chunk()?;
    let set_at_s: Option<u64> = match rest {
        [] => None,
        [b'.', digits @ ..] => Some(str::from_utf8(digits).ok()?.parse().ok()?),
        _ => return None,
    };
    let fresh = match (set_at_s, ttl_s) {
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

/// Of the client's own connection: what a trusted peer says, which is the first of a list that isn't empty; else how the
/// request came here.
pub(super) fn came_encrypted(request: &Request<'_, '_>, from: Origin) -> bool {
    let mut schemes = request.values("x-forwarded-proto").flat_map(list).filter(|scheme| !scheme.is_empty());
    let said = if from.trusted { schemes.next() } else { None };
    said.map_or(from.encrypted, |scheme| scheme.eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests;
