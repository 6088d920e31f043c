//! The object `sticky`: what keeps a client at its backend.

use std::fmt;
use std::time::Duration;

use super::error::Problem;
use super::fields::Fields;
use super::json::Json;
use super::schema::{STICKY, home_of};
use super::values::is_token;

const TTL_MIN: Duration = Duration::from_secs(1);
/// What browsers cut longer ones down to (draft-ietf-httpbis-rfc6265bis §5.5).
const TTL_MAX: Duration = Duration::from_secs(400 * 24 * 3600);
/// Shorter ones can be guessed.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_BYTES_MAX: usize = 1024;
/// Which fields there are with one `by` and not with the other.
const OF_COOKIES: &[&str] = &["name", "secure", "same_site", "secret"];
const OF_ADDRESSES: &[&str] = &["max_keys"];

/// What keeps a client at its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie.
    Cookie(StickyCookie),
    /// Its address (an IPv6 /64).
    Ip {
        /// How long one that doesn't come is remembered, in whole seconds; None: as long as there is room.
        ttl: Option<Duration>,
        /// Clients that are remembered, 1–10,000,000; those leave first that came the longest ago.
        max_keys: usize,
    },
}

/// The cookie that keeps a client at its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// A token (RFC 9110 §5.6.2).
    pub name: String,
    /// How long it is good for, from the last answer that sets it, in whole seconds; None: until the browser ends.
    pub ttl: Option<Duration>,
    /// Its attribute `Secure`.
    pub secure: Secure,
    /// Its attribute `SameSite`.
    pub same_site: SameSite,
    /// What its values are made with; None: something new at each start.
    pub secret: Option<Secret>,
}

/// When a cookie is for encrypted connections only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// If the client came by one.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which requests of other sites a cookie goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Those that lead the user here.
    Lax,
    /// None.
    Strict,
    /// All of them.
    None,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads `sticky`; null, and what is missing, is none.
pub(super) fn read(root: &mut Fields, into: &mut Option<Sticky>) {
    let Some(field) = root.find_set("sticky") else { return };
    let Some(mut fields) = field.open(STICKY, home_of, root.problems) else { return };
    if fields.find("by").is_none() {
        let wanted = "\"cookie\" or \"ip\"";
        fields.problems.note(&field.path_of("by"), field.node.at, Problem::Missing { wanted });
        return;
    }
    *into = match fields.word("by", &["cookie", "ip"]) {
        Some(0) => Some(Sticky::Cookie(cookie(&mut fields))),
        Some(_) => Some(ip(&mut fields)),
        None => None,
    };
}

fn cookie(fields: &mut Fields) -> StickyCookie {
    let mut cookie = StickyCookie {
        name: "MAYPOLE".to_owned(),
        ttl: ttl(fields),
        secure: Secure::Auto,
        same_site: SameSite::Lax,
        secret: None,
    };
    let fits = |name: &str| is_token(&name);
    fields.checked_text("name", "a cookie's name such as \"MAYPOLE\"", fits, &mut cookie.name);
    secure(fields, &mut cookie.secure);
    if let Some(nth) = fields.word("same_site", &["Lax", "Strict", "None"]) {
        cookie.same_site = [SameSite::Lax, SameSite::Strict, SameSite::None][nth];
    }
    secret(fields, &mut cookie.secret);
    refuse(fields, OF_ADDRESSES, "cookie");

    browsers_keep(fields, &cookie);
    cookie
}

/// What browsers drop without a word is told here (draft-ietf-httpbis-rfc6265bis §5.7).
fn browsers_keep(fields: &mut Fields, cookie: &StickyCookie) {
    if cookie.secure != Secure::Never {
        return;
    }
    if let (SameSite::None, Some(field)) = (cookie.same_site, fields.find("same_site")) {
        field.unfit(fields.problems, "\"Lax\" or \"Strict\", since browsers drop \"None\" without \"secure\"");
    }
    let begins = |prefix: &str| cookie.name.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix));
    if let (true, Some(field)) = (begins("__Secure-") || begins("__Host-"), fields.find("name")) {
        field.unfit(fields.problems, "another name, since browsers drop one with this prefix without \"secure\"");
    }
}

fn ip(fields: &mut Fields) -> Sticky {
    let ttl = ttl(fields);
    let mut max_keys = 100_000;
    fields.whole("max_keys", 1..=10_000_000, &mut max_keys);
    refuse(fields, OF_COOKIES, "ip");
    Sticky::Ip { ttl, max_keys }
}

/// Null is none, as where it is missing.
fn ttl(fields: &mut Fields) -> Option<Duration> {
    let field = fields.find_set("ttl")?;
    let mut ttl = TTL_MIN;
    fields.duration("ttl", TTL_MIN..=TTL_MAX, &mut ttl);
    if ttl.subsec_nanos() > 0 {
        field.unfit(fields.problems, "whole seconds");
    }
    Some(ttl)
}

fn secure(fields: &mut Fields, into: &mut Secure) {
    let Some(field) = fields.find("secure") else { return };
    match &field.node.value {
        Json::Bool(true) => *into = Secure::Always,
        Json::Bool(false) => *into = Secure::Never,
        Json::Text(text) if text == "auto" => *into = Secure::Auto,
        _ => field.unfit(fields.problems, "\"auto\", true or false"),
    }
}

/// What it is isn't told, also where it is wrong.
fn secret(fields: &mut Fields, into: &mut Option<Secret>) {
    let Some(field) = fields.find_set("secret") else { return };
    let found = match &field.node.value {
        Json::Text(text) if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len()) => {
            *into = Some(Secret(text.clone()));
            return;
        }
        Json::Text(text) => format!("a text of {} bytes", text.len()),
        _ => "something else".to_owned(),
    };
    let wanted = format!("a text of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, or null");
    fields.problems.note(&field.path, field.node.at, Problem::Unfit { found, wanted, nearest: None });
}

/// Notes each of these fields that is there. One of them may be a secret, so what it holds isn't told.
fn refuse(fields: &mut Fields, names: &[&str], by: &str) {
    for name in names {
        let Some(field) = fields.find(name) else { continue };
        let problem = Problem::Unfit {
            found: "a value".to_owned(),
            wanted: format!("none, since \"by\" is {by:?}"),
            nearest: None,
        };
        fields.problems.note(&field.path, field.node.at, problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn what_is_wrong_with_stickiness_is_told() {
        let cases: &[(&str, &[&str])] = &[
            (r#"{"sticky": {}}"#, &["sticky.by: missing, wanted \"cookie\" or \"ip\""]),
            (r#"{"sticky": "cookie"}"#, &["sticky: found \"cookie\", wanted an object"]),
            (
                r#"{"sticky": {"by": "cokie"}}"#,
                &["sticky.by: found \"cokie\", wanted \"cookie\" or \"ip\"; did you mean \"cookie\"?"],
            ),
            (
                r#"{"sticky": {"by": "cookie", "name": "a b", "secure": "yes", "same_site": "lax", "max_keys": 5}}"#,
                &[
                    "sticky.name: found \"a b\", wanted a cookie's name such as \"MAYPOLE\"",
                    "sticky.secure: found \"yes\", wanted \"auto\", true or false",
                    "sticky.same_site: found \"lax\", wanted \"Lax\" or \"Strict\" or \"None\"; did you mean \"Lax\"?",
                    "sticky.max_keys: found a value, wanted none, since \"by\" is \"cookie\"",
                ],
            ),
            (
                r#"{"sticky": {"by": "cookie", "ttl": "9601h"}}"#,
                &["sticky.ttl: found \"9601h\", wanted a duration from 1s to 9600h"],
            ),
            (
                r#"{"sticky": {"by": "ip", "ttl": "1500ms", "max_keys": 0}}"#,
                &[
                    "sticky.ttl: found \"1500ms\", wanted whole seconds",
                    "sticky.max_keys: found 0, wanted a whole number from 1 to 10000000",
                ],
            ),
            (
                r#"{"sticky": {"by": "cookie", "name": "__host-a", "secure": false, "same_site": "None"}}"#,
                &[
                    "sticky.name: found \"__host-a\", wanted another name, since browsers drop one with this prefix \
                     without \"secure\"",
                    "sticky.same_site: found \"None\", wanted \"Lax\" or \"Strict\", since browsers drop \"None\" \
                     without \"secure\"",
                ],
            ),
        ];
        for (text, wanted) in cases {
            let errors = parse(text).expect_err(text);
            let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, *wanted, "{text}");
        }
    }

    #[test]
    fn a_secret_is_never_told() {
        let told = |text: &str| parse(text).map_or_else(|errors| errors.to_string(), |config| format!("{config:?}"));
        let texts = [
            r#"{"sticky": {"by": "cookie", "secret": "hush-hush-hush-hush"}}"#,
            r#"{"sticky": {"by": "cookie", "secret": "hush"}}"#,
            r#"{"sticky": {"by": "cookie", "secret": ["hush"]}}"#,
            r#"{"sticky": {"by": "ip", "secret": "hush-hush-hush-hush"}}"#,
        ];
        let told = texts.map(told);
        assert!(told.iter().all(|told| !told.contains("hush")), "{told:?}");
        assert!(told[0].contains("Secret(…)"), "{told:?}");
        assert_eq!(told[1], "1:39: sticky.secret: found a text of 4 bytes, wanted a text of 16 to 1024 bytes, or null");
    }

    #[test]
    fn stickiness_needs_to_know_by_what_and_no_more() {
        let read = |text: &str| parse(text).unwrap_or_else(|errors| panic!("{errors}")).sticky;
        assert_eq!(read(r#"{"sticky": null}"#), None);
        assert_eq!(read(r#"{"sticky": {"by": "ip", "ttl": null}}"#), Some(Sticky::Ip { ttl: None, max_keys: 100_000 }));
        let mut want = StickyCookie {
            name: "MAYPOLE".into(),
            ttl: None,
            secure: Secure::Auto,
            same_site: SameSite::Lax,
            secret: None,
        };
        assert_eq!(read(r#"{"sticky": {"by": "cookie", "secret": null}}"#), Some(Sticky::Cookie(want.clone())));
        want.ttl = Some(Duration::from_secs(3600));
        want.secure = Secure::Always;
        want.same_site = SameSite::None;
        want.secret = Some(Secret("a secret of sixteen bytes".into()));
        let full = r#"{"sticky": {"by": "cookie", "name": "MAYPOLE", "ttl": "1h", "secure": true,
            "same_site": "None", "secret": "a secret of sixteen bytes"}}"#;
        assert_eq!(read(full), Some(Sticky::Cookie(want)));
    }
}
