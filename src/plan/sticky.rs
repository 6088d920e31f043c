//! What `sticky` says, ready for use.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, SameSite, Secure};
use crate::policy::{Tables, Ties};

/// What keeps a client at its backend.
#[derive(Debug)]
pub enum Stickiness {
    /// The client keeps a cookie that names its backend.
    Cookie(StickyCookie),
    /// The client's address is remembered.
    Ip {
        /// Unless it stays away for longer than this; None: however long.
        idle_max: Option<Duration>,
        /// To which backends clients are tied.
        ties: Arc<Ties>,
    },
}

/// The cookie, but for what differs from one answer to the other.
#[derive(Debug)]
pub struct StickyCookie {
    /// A token.
    pub name: String,
    /// How long it is good for; None: until the browser ends.
    pub ttl_s: Option<u64>,
    /// When it is for encrypted connections only.
    pub secure: Secure,
    /// The line up to the value.
    pub before: Vec<u8>,
    /// The attributes that it always has.
    pub behind: Vec<u8>,
}

impl Stickiness {
    /// Of clients that `tables` know.
    pub fn new(sticky: &config::Sticky, tables: &Tables) -> Self {
        match sticky {
            config::Sticky::Cookie(cookie) => Self::Cookie(StickyCookie::new(cookie)),
            config::Sticky::Ip { ttl, max_keys } => Self::Ip { idle_max: *ttl, ties: tables.ties(*max_keys) },
        }
    }
}

impl StickyCookie {
    /// As it is configured.
    pub fn new(cookie: &config::StickyCookie) -> Self {
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
}
