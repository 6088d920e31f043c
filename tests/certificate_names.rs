//! Which hosts a certificate is for, and which of several a name gets: held to a second, plainer reading of RFC 9525 §6.3 and to
//! all spellings of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use maypole::transport::{Certificate, Certificates};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rcgen::{CertificateParams, KeyPair, SanType};

/// So few that names meet often.
const LABELS: &[&str] = &["a", "b", "www", "xn--a"];
/// What no certificate should name.
const ODD: &[&str] = &["*", "*.", "a*.b", "www.*.b", "**.b", ".a.b", "a..b"];

/// One with these names, as they are written; a key is made once.
fn certificate(names: &[String], addresses: &[IpAddr]) -> Arc<Certificate> {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    let key = KEY.get_or_init(|| KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::default();
    let names = names.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
    params.subject_alt_names = names.chain(addresses.iter().copied().map(SanType::IpAddress)).collect();
    let made = params.self_signed(key).expect("a certificate");
    Arc::new(Certificate::of(vec![made.der().to_vec()], key.serialize_der(), None).expect("one that can be served"))
}

/// A name of one to four labels.
fn host_name() -> impl Strategy<Value = String> {
    prop::collection::vec(select(LABELS), 1..5).prop_map(|labels| labels.join("."))
}

/// One in a certificate: mostly a name or a wildcard, now and then what looks like one.
fn listed_name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => host_name(),
        8 => host_name().prop_map(|name| format!("*.{name}")),
        2 => host_name().prop_map(|name| name.to_ascii_uppercase()),
        2 => host_name().prop_map(|name| format!("*.*.{name}")),
        1 => select(ODD).prop_map(str::to_owned),
    ]
}

/// What is asked for: mostly a name, in some case, now and then with what doesn't belong there.
fn asked_name() -> impl Strategy<Value = String> {
    let affix = |text: &'static [&'static str]| prop_oneof![8 => Just(""), 1 => select(text)];
    let name = prop_oneof![8 => host_name(), 1 => Just(String::new())];
    (affix(&[".", "*.", "..", "a.."]), name, affix(&[".", "..", ".a"]), any::<u64>()).prop_map(
        |(before, name, behind, case)| {
            let change = |(nth, c): (usize, char)| if case >> (nth % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
            format!("{before}{name}{behind}").chars().enumerate().map(change).collect()
        },
    )
}

/// How a name of a certificate is for the host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Exact,
    Wildcard,
    Not,
}

/// A second reading, label by label: `*` stands for one whole label, the first, and for nothing else.
fn fit(listed: &str, host: &str) -> Fit {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let labels = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (listed, host) = (labels(&listed.to_ascii_lowercase()), labels(host));
    match &listed[..] {
        [first, parent @ ..] if first == "*" && !parent.is_empty() => {
            let is_below = host.len() == listed.len() && host[1..] == *parent;
            if is_below && !host[0].is_empty() && *parent != [""] { Fit::Wildcard } else { Fit::Not }
        }
        _ if listed == host => Fit::Exact,
        _ => Fit::Not,
    }
}

/// Every way to write an IPv6 address: with and without zeros in front, in either case, one run of zeros left out or none, the
/// last 32 bits as an IPv4 address.
fn spellings(address: Ipv6Addr) -> Vec<String> {
    let groups = address.segments();
    let all = |with: &dyn Fn(u16) -> String| groups.map(with).join(":");
    let mut spelled =
        vec![address.to_string(), all(&|group| format!("{group:x}")), all(&|group| format!("{group:04X}"))];
    let [.., a, b, c, d] = address.octets();
    let head = groups[..6].iter().map(|group| format!("{group:x}")).collect::<Vec<_>>().join(":");
    spelled.push(format!("{head}:{a}.{b}.{c}.{d}"));
    for from in 0..8 {
        for to in from + 1..=8 {
            if groups[from..to].iter().all(|&group| group == 0) {
                let part =
                    |groups: &[u16]| groups.iter().map(|group| format!("{group:x}")).collect::<Vec<_>>().join(":");
                spelled.push(format!("{}::{}", part(&groups[..from]), part(&groups[to..])));
            }
        }
    }
    spelled
}

fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    // Zeros often, so that there are runs of them.
    let group = prop_oneof![2 => Just(0), 1 => any::<u16>()];
    prop::array::uniform8(group).prop_map(Ipv6Addr::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_certificate_is_for_the_hosts_that_its_names_say_and_no_others(
        listed in prop::collection::vec(listed_name(), 1..5),
        hosts in prop::collection::vec(asked_name(), 1..20),
    ) {
        let made = certificate(&listed, &[]);
        for host in hosts {
            let wanted = listed.iter().any(|name| fit(name, &host) != Fit::Not);
            prop_assert_eq!(made.covers(&host), wanted, "{:?} for {:?}", listed, host);
        }
    }

    #[test]
    fn a_wildcard_is_for_one_label_and_neither_for_its_parent_nor_for_what_is_deeper(
        parent in host_name(), one in select(LABELS), other in select(LABELS), dot in select(&["", "."][..]),
    ) {
        let made = certificate(&[format!("*.{parent}")], &[]);
        let is_for = |host: String| made.covers(&format!("{host}{dot}")) && made.covers(&host.to_ascii_uppercase());
        let below = format!("{one}.{parent}");
        prop_assert!(is_for(below));
        for host in [parent.clone(), format!(".{parent}"), format!("{one}.{other}.{parent}"), format!("{one}{parent}")] {
            // Unless it is one label below by itself, as `a.a` is below `a`.
            let is_below = fit(&format!("*.{parent}"), &host) != Fit::Not;
            prop_assert_eq!(made.covers(&format!("{host}{dot}")), is_below, "{}", host);
        }
    }

    #[test]
    fn a_name_gets_the_certificates_that_name_it_in_their_order_and_then_those_of_a_wildcard(
        listed in prop::collection::vec(prop::collection::vec(listed_name(), 1..4), 0..5),
        hosts in prop::collection::vec(asked_name(), 1..20),
    ) {
        let all: Vec<_> = listed.iter().map(|names| certificate(names, &[])).collect();
        let set = Certificates::of(all.clone());
        for host in hosts {
            let of = |wanted: Fit| {
                let named = listed.iter().enumerate();
                named.flat_map(move |(nth, names)| names.iter().map(move |name| (nth, name))).filter(
                    |(_, name)| fit(name, &host) == wanted
                ).map(|(nth, _)| nth).collect::<Vec<_>>()
            };
            let wanted = [of(Fit::Exact), of(Fit::Wildcard)].concat();
            let place = |found: &Arc<Certificate>| all.iter().position(|one| Arc::ptr_eq(one, found));
            let found: Vec<_> = set.fitting(&host).map(|found| place(found).expect("one of them")).collect();
            prop_assert_eq!(&found, &wanted, "{:?} for {:?}", listed, host);
            // What one certificate says of a host, and what the set finds for it, are the same.
            prop_assert_eq!(!found.is_empty(), all.iter().any(|one| one.covers(&host)));
        }
    }

    #[test]
    fn an_address_is_known_in_every_spelling_and_no_other_is_taken_for_it(
        v4 in any::<[u8; 4]>().prop_map(Ipv4Addr::from), v6 in ipv6(), bit in 0..128_u32, pick in any::<Index>(),
    ) {
        let made = certificate(&["*.0.0.1".to_owned(), v4.to_string()], &[v6.into()]);
        let spelled = spellings(v6);
        for host in &spelled {
            prop_assert!(made.covers(host) && made.covers(&format!("[{host}]")), "{} for {}", v6, host);
        }
        let other = spellings(Ipv6Addr::from(u128::from(v6) ^ 1 << bit));
        let other = pick.get(&other);
        prop_assert!(!made.covers(other) && !made.covers(&format!("[{other}]")), "{} for {}", v6, other);
        // A name that looks like an address isn't one, and a wildcard is for none.
        for host in [v4.to_string(), "127.0.0.1".to_owned(), v4.to_ipv6_mapped().to_string()] {
            prop_assert!(IpAddr::V6(v6) == host.parse::<IpAddr>().expect("one") || !made.covers(&host), "{}", host);
        }
        let made = certificate(&[], &[v4.into()]);
        prop_assert!(made.covers(&v4.to_string()));
        let next = Ipv4Addr::from(u32::from(v4) ^ 1 << (bit % 32));
        for host in [next.to_string(), v4.to_ipv6_mapped().to_string(), format!("{v4}.1"), format!("0{v4}")] {
            prop_assert!(!made.covers(&host), "{} for {}", v4, host);
        }
    }
}
