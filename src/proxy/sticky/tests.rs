use std::time::Duration;

use proptest::prelude::{prop, proptest};

use super::*;
use crate::balance::MarkKey;
use crate::config::{self, SameSite};
use crate::http1::{HeadLimits, Parsed, parse_request};

const NOW_S: u64 = 1_800_000_000;
const KEY: MarkKey = MarkKey::new([1, 2]);

fn cookie(ttl_s: Option<u64>, secure: Secure) -> StickyCookie {
    let ttl = ttl_s.map(Duration::from_secs);
    StickyCookie::new(&config::StickyCookie { name: "S".into(), ttl, secure, same_site: SameSite::Lax, secret: None })
}

fn mark() -> Mark {
    Mark::of_name("a:80", &KEY)
}

fn text(mark: Mark) -> String {
    String::from_utf8(mark.text().to_vec()).unwrap()
}

/// What a request with these lines in its head says of its session.
fn session(cookie: &StickyCookie, lines: &str, trusted: bool) -> Session {
    session_from(cookie, lines, Origin { trusted, encrypted: false })
}

fn session_from(cookie: &StickyCookie, lines: &str, from: Origin) -> Session {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    let limits = HeadLimits { head_bytes: 8192, headers: 100, uri_bytes: 8192 };
    match parse_request(head.as_bytes(), &limits, |request| super::session(cookie, request, from, || NOW_S)) {
        Ok(Parsed::Complete { value, .. }) => value,
        _ => panic!("no whole request: {head}"),
    }
}

/// The mark that a cookie's value is taken for, and whether it stays.
fn read(ttl_s: Option<u64>, value: &str) -> Option<(Mark, bool)> {
    super::read(ttl_s, value.as_bytes(), || NOW_S)
}

#[test]
fn a_session_cookie_is_a_mark_alone() {
    let mark_text = text(mark());
    assert_eq!(read(None, &mark_text), Some((mark(), true)));
    for odd in ["", &mark_text[1..], &format!("{mark_text}x"), &format!("{mark_text}."), &format!("\"{mark_text}\"")] {
        assert_eq!(read(None, odd), None, "{odd}");
    }
}

#[test]
fn a_cookie_with_a_time_to_live_is_renewed_an_eighth_through_it_and_ignored_after_it() {
    for (age_s, want) in [(0, Some(true)), (99, Some(true)), (100, Some(false)), (800, Some(false)), (801, None)] {
        let value = format!("{}.{}", text(mark()), NOW_S - age_s);
        assert_eq!(read(Some(800), &value), want.map(|fresh| (mark(), fresh)), "{age_s}");
    }
    let ahead = format!("{}.{}", text(mark()), NOW_S + 5);
    assert_eq!(read(Some(800), &ahead), Some((mark(), false)), "by another proxy's clock");
    for odd in ["x", "-1", "99999999999999999999999", "1.1", " 1"] {
        assert_eq!(read(Some(800), &format!("{}.{odd}", text(mark()))), None, "{odd}");
    }
}

#[test]
fn a_cookie_of_before_the_time_to_live_was_configured_is_honoured_and_replaced() {
    assert_eq!(read(Some(800), &text(mark())), Some((mark(), false)));
    assert_eq!(read(None, &format!("{}.{}", text(mark()), NOW_S)), Some((mark(), false)));
}

#[test]
fn the_first_cookie_that_looks_right_counts() {
    let right = text(mark());
    for lines in [
        format!("Cookie: S={right}"),
        format!("Cookie: a=b; S={right}; c=d"),
        format!("Cookie: S=odd;S={right};S={}", text(Mark::of_name("b", &KEY))),
        format!("cookie: xS=1; s={right}\r\nCOOKIE: S2=1;\tS={right} "),
    ] {
        assert_eq!(session(&cookie(None, Secure::Auto), &lines, false).mark, mark(), "{lines}");
    }
    let none = session(&cookie(None, Secure::Auto), "Cookie: a=b; S", false);
    assert_eq!((none.mark, none.fresh), (Mark::NONE, false));
}

#[test]
fn a_cookie_is_secure_where_the_client_is_or_a_trusted_peer_says_so() {
    // (what the head says, whether it is believed, whether it came encrypted, what the cookie is).
    for (lines, trusted, encrypted, want) in [
        ("X-Forwarded-Proto: https", true, false, true),
        ("x-forwarded-proto: HTTPS , http", true, false, true),
        ("X-Forwarded-Proto: http, https", true, false, false),
        ("X-Forwarded-Proto: https", false, false, false),
        ("A: b", true, false, false),
        ("A: b", false, true, true),
        ("A: b", true, true, true),
        ("X-Forwarded-Proto: http", false, true, true),
        ("X-Forwarded-Proto: http", true, true, false),
    ] {
        let secure = |how| session_from(&cookie(None, how), lines, Origin { trusted, encrypted }).secure;
        assert_eq!(secure(Secure::Auto), want, "{lines}");
        assert!(secure(Secure::Always) && !secure(Secure::Never));
    }
}

#[test]
fn a_cookie_has_its_attributes() {
    let line = |ttl_s, secure| {
        let mut out = b"before ".to_vec();
        let cookie = cookie(ttl_s, Secure::Auto);
        SessionCookie { cookie: &cookie, mark: mark().text(), secure, now_s: NOW_S }.write(&mut out);
        String::from_utf8(out).unwrap()
    };
    let mark = text(mark());
    assert_eq!(
        line(None, false),
        format!("before Set-Cookie: S={mark}; Path=/; HttpOnly; SameSite=Lax\r\nCache-Control: private\r\n")
    );
    assert_eq!(
        line(Some(3600), true),
        format!(
            "before Set-Cookie: S={mark}.{NOW_S}; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure\r\n\
             Cache-Control: private\r\n"
        )
    );
}

#[test]
fn what_is_set_is_read_again() {
    for ttl_s in [None, Some(8), Some(3600)] {
        let cookie = cookie(ttl_s, Secure::Auto);
        let mut out = Vec::new();
        SessionCookie { cookie: &cookie, mark: mark().text(), secure: true, now_s: NOW_S }.write(&mut out);
        let line = String::from_utf8(out).unwrap();
        let pair = line.strip_prefix("Set-Cookie: ").and_then(|line| line.split(';').next()).unwrap();
        assert_eq!(
            session(&cookie, &format!("Cookie: {pair}"), false),
            Session { mark: mark(), fresh: true, secure: false }
        );
    }
}

proptest! {
    /// Pairs are what RFC 6265 §5.4 has browsers send; whatever comes instead does no harm.
    #[test]
    fn a_cookie_is_found_among_any_others_and_nothing_else_is_taken_for_it(
        before in prop::collection::vec("[ -:<-~]{0,12}(=[ -:<-~]{0,20})?", 0..6),
        after in prop::collection::vec("[ -~]{0,30}", 0..4),
        present in proptest::bool::ANY,
    ) {
        let is_ours = |pair: &String| pair.trim_ascii_start().starts_with("S=");
        let mut pairs: Vec<String> = before.into_iter().filter(|pair| !is_ours(pair)).collect();
        if present {
            pairs.push(format!("S={}", text(mark())));
            pairs.extend(after);
        }
        let found = session(&cookie(None, Secure::Auto), &format!("Cookie: {}", pairs.join(";")), false);
        assert_eq!(found.mark, if present { mark() } else { Mark::NONE });
    }
}
