use super::*;
use crate::http1::{HeadLimits, Parsed, parse_request};

/// Peers of `10.0.0.0/8` and of `2001:db8:a::/48` are trusted; the request comes from the first of them.
fn client_of(lines: &str) -> String {
    let limits = HeadLimits { head_bytes: 65_536, headers: 100, uri_bytes: 1000 };
    let trusts = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 0xa],
    };
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    match parse_request(head.as_bytes(), &limits, |request| client(request, [10, 0, 0, 1].into(), trusts)) {
        Ok(Parsed::Complete { value, .. }) => value.to_string(),
        other => panic!("{lines}: {other:?}"),
    }
}

#[test]
fn an_element_is_an_address_in_every_form_that_proxies_write() {
    for (element, want) in [
        ("203.0.113.7", Some("203.0.113.7")),
        ("203.0.113.7:1000", Some("203.0.113.7")),
        ("203.0.113.7:_hidden", Some("203.0.113.7")),
        ("203.000.113.019", Some("203.0.113.19")),
        ("2001:db8::7", Some("2001:db8::7")),
        ("2001:DB8::7", Some("2001:db8::7")),
        ("[2001:db8::7]", Some("2001:db8::7")),
        ("[2001:db8::7]:443", Some("2001:db8::7")),
        ("[2001:db8::7]:_x", Some("2001:db8::7")),
        ("::ffff:203.0.113.7", Some("::ffff:203.0.113.7")),
        ("[::ffff:203.0.113.7]:1", Some("::ffff:203.0.113.7")),
        ("fe80::1%eth0", Some("fe80::1")),
        ("[fe80::1%25eth0]:80", Some("fe80::1")),
        ("\"203.0.113.7\"", Some("203.0.113.7")),
        ("\"203.0.113.7:80\"", Some("203.0.113.7")),
        ("\"[2001:db8::7]\"", Some("2001:db8::7")),
        ("\"[2001:db8::7]:80\"", Some("2001:db8::7")),
        ("\" 203.0.113.7 \"", Some("203.0.113.7")),
        ("unknown", None),
        ("_hidden", None),
        ("_SEVKISEK", None),
        ("localhost", None),
        ("203.0.113", None),
        ("203.0.113.7.8", None),
        ("203.0.113.256", None),
        ("203.0.113.0007", None),
        ("203.0.113.+7", None),
        ("203.0.113.7:", None),
        ("203.0.113.7:x", None),
        ("203.0.113.7:123456", None),
        ("203.0.113.7 :80", None),
        ("2001:db8::7:8:9:10:11:12:13", None),
        ("[2001:db8::7", None),
        ("2001:db8::7]", None),
        ("[2001:db8::7]80", None),
        ("[2001:db8::7]:", None),
        ("[203.0.113.7]", None),
        ("\"203.0.113.7", None),
        ("\"", None),
        ("\"\"", None),
        ("[]", None),
        ("\u{e9}", None),
    ] {
        let want = want.unwrap_or("10.0.0.1");
        assert_eq!(client_of(&format!("X-Forwarded-For: {element}\r\n")), want, "{element}");
        assert_eq!(
            client_of(&format!("X-Forwarded-For: 6.6.6.6,{element} ,10.2.2.2\r\n")).replace("10.2.2.2", "10.0.0.1"),
            want,
            "{element}"
        );
    }
}

#[test]
fn a_chain_is_followed_from_its_end_to_the_first_that_is_not_trusted() {
    for (lines, want) in [
        ("", "10.0.0.1"),
        ("X-Forwarded-For: \r\n", "10.0.0.1"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 203.0.113.7, 10.3.3.3, [2001:db8:a::1]\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 10.3.3.3, 10.2.2.2\r\n", "10.3.3.3"),
        ("X-Forwarded-For: 203.0.113.7, \r\n", "203.0.113.7"),
        ("X-Forwarded-For: 203.0.113.7,, ,\t,10.3.3.3,\r\n", "203.0.113.7"),
        ("X-Forwarded-For: ,203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7"),
        (
            "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX: 1\r\nx-forwarded-for: \r\nX-FORWARDED-FOR: 10.3.3.3\r\n",
            "203.0.113.7",
        ),
        ("X-Forwarded-For: 203.0.113.7, unknown, 10.3.3.3\r\n", "10.3.3.3"),
        ("X-Forwarded-For: 203.0.113.7, unknown\r\n", "10.0.0.1"),
        ("X-Forwarded-For: unknown, 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 203.0.113.7\r\nForwarded: for=203.0.113.8\r\n", "203.0.113.7"),
        ("X-Forwarded-For: unknown\r\nForwarded: for=203.0.113.8\r\n", "10.0.0.1"),
        ("X-Forwarded-For: ,\r\nForwarded: for=203.0.113.8\r\n", "203.0.113.8"),
    ] {
        assert_eq!(client_of(lines), want, "{lines}");
    }
}

#[test]
fn forwarded_is_read_where_there_is_no_x_forwarded_for() {
    for (value, want) in [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
        ("for=203.0.113.7;proto=http;by=10.0.0.1", "203.0.113.7"),
        ("proto=http ; by=\"a;b,c\" ; for=203.0.113.7", "203.0.113.7"),
        ("for=6.6.6.6, for=203.0.113.7, for=10.3.3.3", "203.0.113.7"),
        ("for=203.0.113.7,, ,for=10.3.3.3,", "203.0.113.7"),
        ("for=203.0.113.7\r\nForwarded: for=10.3.3.3;by=\"\\\",for=6.6.6.6\"", "203.0.113.7"),
        ("for=10.3.3.3, for=10.2.2.2", "10.3.3.3"),
        ("for=203.0.113.7, for=unknown, for=10.3.3.3", "10.3.3.3"),
        ("for=203.0.113.7, for=_hidden", "10.0.0.1"),
        ("for=203.0.113.7, proto=https", "10.0.0.1"),
        ("for=203.0.113.7, for=\"_gazonk\", for=\"[2001:db8:a::2]\"", "2001:db8:a::2"),
        ("203.0.113.7", "10.0.0.1"),
        ("by=203.0.113.7", "10.0.0.1"),
        ("", "10.0.0.1"),
    ] {
        assert_eq!(client_of(&format!("Forwarded: {value}\r\n")), want, "{value}");
    }
}
