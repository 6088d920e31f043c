//! The strategies but the plain ones of `tests/balance.rs`, and what steers them all: weights, backups, zones.

mod support;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Gate, Origin, Proxy, eventually};

/// Origins that answer with their own letter.
fn lettered(count: usize) -> Vec<Origin> {
    ["a", "b", "c", "d", "e"][..count].iter().map(|letter| Origin::answering(letter)).collect()
}

/// A proxy over these origins, each with the fields that `with` gives for it, and these settings on top.
fn over(origins: &[Origin], with: impl Fn(usize) -> Value, mut on_top: Value) -> Proxy {
    let backend = |(nth, origin): (usize, &Origin)| {
        let mut fields = with(nth);
        fields["url"] = origin.url().into();
        fields
    };
    on_top["backends"] = origins.iter().enumerate().map(backend).collect();
    Proxy::with(&[], on_top)
}

fn weighted(origins: &[Origin], weights: &[u32], on_top: Value) -> Proxy {
    over(origins, |nth| json!({ "weight": weights[nth] }), on_top)
}

fn counts(origins: &[Origin]) -> Vec<usize> {
    origins.iter().map(Origin::count).collect()
}

/// Sends that many requests over each of that many connections at once, no two with the same `n`.
fn load(proxy: &Proxy, connections: usize, requests: usize) {
    thread::scope(|scope| {
        for connection in 0..connections {
            scope.spawn(move || {
                let mut client = proxy.client();
                for n in 0..requests {
                    assert_eq!(client.get(&format!("/?n={connection}-{n}")).status(), 200);
                }
            });
        }
    });
}

#[test]
fn seven_requests_over_weights_of_five_one_and_one_are_shared_exactly_and_not_bunched() {
    let origins = lettered(3);
    let proxy = weighted(&origins, &[5, 1, 1], json!({ "workers": 4 }));
    for _ in 0..3 {
        let before = counts(&origins);
        let order: String = (0..7).map(|_| proxy.get("/").text()).collect();
        let got: Vec<_> = counts(&origins).iter().zip(before).map(|(now, before)| now - before).collect();
        assert_eq!(got, [5, 1, 1], "{order}");
        assert!(!order.contains("aaaa"), "bunched: {order}");
    }
}

#[test]
fn seven_thousand_requests_over_sixty_four_connections_are_shared_exactly() {
    let origins = lettered(3);
    let proxy = weighted(&origins, &[5, 1, 1], json!({}));
    let left = AtomicUsize::new(7_000);
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = proxy.client();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    assert_eq!(client.get("/").status(), 200);
                }
            });
        }
    });
    assert_eq!(counts(&origins), [5_000, 1_000, 1_000]);
}

#[test]
fn a_backend_that_is_added_brings_its_weight_and_one_of_weight_nothing_gets_nothing() {
    let origins = lettered(3);
    let proxy = weighted(&origins[..1], &[1], json!({}));
    for (origin, weight) in origins[1..].iter().zip([3, 0]) {
        let body = json!({ "url": origin.url(), "weight": weight }).to_string();
        let answer = proxy.admin("POST", "/backends", &body);
        assert_eq!((answer.status(), &answer.json()["weight"]), (201, &weight.into()));
    }
    load(&proxy, 1, 40);
    assert_eq!(counts(&origins), [10, 30, 0]);
    let shown = proxy.admin("GET", "/backends", "").json();
    assert_eq!(shown[2]["eligible"], false);
    assert_eq!(shown[2]["ineligible_reason"], "its weight is 0");
}

#[test]
fn every_strategy_that_knows_nothing_of_load_uses_every_backend() {
    for strategy in ["round-robin", "random", "hash"] {
        let origins = lettered(3);
        load(&weighted(&origins, &[1, 1, 1], json!({ "strategy": strategy, "hash_key": "query:n" })), 4, 50);
        let counts = counts(&origins);
        assert_eq!(counts.iter().sum::<usize>(), 200);
        assert!(counts.iter().all(|count| *count >= 10), "{strategy}: {counts:?}");
    }
}

/// A backend that a busy machine holds up gets nothing while it has a request under way, and by peak-ewma for some time after.
#[test]
fn every_strategy_that_goes_by_load_comes_to_use_every_backend() {
    for (strategy, least) in [("least-conn", 10), ("p2c", 10), ("peak-ewma", 1)] {
        let origins = lettered(3);
        let proxy = weighted(&origins, &[1, 1, 1], json!({ "strategy": strategy }));
        eventually("each backend has had its requests", || {
            load(&proxy, 4, 50);
            counts(&origins).iter().all(|count| *count >= least)
        });
    }
}

/// What each of three backends got over eight connections when the last of them takes ten times as long as the others.
fn with_a_slow_one(strategy: &str) -> Vec<usize> {
    let origins: Vec<_> = [10, 10, 100]
        .into_iter()
        .map(|took_ms| {
            Origin::start(move |exchange| {
                thread::sleep(Duration::from_millis(took_ms)); // the work, not a wait for anything
                exchange.answer(200, "ok");
            })
        })
        .collect();
    let proxy = weighted(&origins, &[1, 1, 1], json!({ "strategy": strategy }));
    load(&proxy, 8, 60);
    counts(&origins)
}

#[test]
fn one_that_is_ten_times_slower_gets_less_than_a_fifth_of_what_a_fast_one_gets() {
    for strategy in ["least-conn", "peak-ewma"] {
        let counts = with_a_slow_one(strategy);
        let fast = counts[..2].iter().min().expect("two");
        assert!(counts[2] * 5 < *fast, "{strategy}: {counts:?}");
    }
}

/// The letter that each of so many clients is answered with, on loopback addresses of their own.
fn places(proxy: &Proxy, clients: u8) -> Vec<String> {
    let place = |n| Client::connect_from(Ipv4Addr::new(127, 0, 1, n), proxy.port).get("/").text();
    (1..=clients).map(place).collect()
}

#[test]
fn a_client_stays_with_its_backend_and_one_that_goes_moves_few_others() {
    let origins = lettered(4);
    let proxy = weighted(&origins, &[1; 4], json!({ "strategy": "ip-hash" }));
    let before = places(&proxy, 200);
    assert_eq!(before, places(&proxy, 200));
    let mut shares = HashMap::<_, usize>::new();
    for place in &before {
        *shares.entry(place).or_default() += 1;
    }
    assert!(shares.values().all(|share| (30..=70).contains(share)), "200 clients over four: {shares:?}");

    assert_eq!(proxy.mutate("DELETE", &origins[3]).status(), 204);
    let after = places(&proxy, 200);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(moved <= 100, "{moved} of 200 clients moved");
    let needless = before.iter().zip(&after).filter(|(before, after)| before != after && *before != "d").count();
    assert!(needless <= 20, "{needless} clients moved although their backend stayed");
}

#[test]
fn behind_a_trusted_proxy_it_is_the_client_that_is_hashed() {
    let origins = lettered(4);
    let settings = json!({ "strategy": "ip-hash", "trusted_proxies": ["127.0.0.1", "10.0.0.0/8"] });
    let proxy = weighted(&origins, &[1; 4], settings);
    let place = |forwarded: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{forwarded}\r\n");
        proxy.client().send(head).answer().text()
    };
    let of = |n: usize| place(&format!("X-Forwarded-For: 192.0.2.{n}\r\n"));
    let places: Vec<_> = (1..=60).map(of).collect();
    assert!(["a", "b", "c", "d"].iter().all(|letter| places.iter().any(|place| place == letter)), "{places:?}");
    for (n, direct) in (1..=60).zip(&places) {
        // What the client itself claims stands before, what other trusted proxies add behind.
        let long = format!("X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 192.0.2.{n}, 10.0.0.1\r\n");
        assert_eq!(&place(&long), direct);
    }
}

#[test]
fn a_hash_may_be_of_a_field_a_cookie_a_parameter_or_the_path() {
    for (key, head) in [
        ("header:X-User", "GET /RANDOM HTTP/1.1\r\nHost: a\r\nx-user: KEY\r\n\r\n"),
        ("cookie:id", "GET /RANDOM HTTP/1.1\r\nHost: a\r\nCookie: x=RANDOM; id=KEY\r\n\r\n"),
        ("query:id", "GET /RANDOM?x=RANDOM&id=KEY HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("path", "GET /KEY?x=RANDOM HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let origins = lettered(3);
        let proxy = weighted(&origins, &[1; 3], json!({ "strategy": "hash", "hash_key": key }));
        let mut client = proxy.client();
        let mut place =
            |key: &str, random: &str| client.send(head.replace("KEY", key).replace("RANDOM", random)).answer().text();
        let mut used = Vec::new();
        for n in 0..30 {
            let key = format!("key{n}");
            let first = place(&key, "1");
            assert_eq!(place(&key, "2"), first, "{key}");
            used.push(first);
        }
        used.sort();
        used.dedup();
        assert_eq!(used, ["a", "b", "c"], "{key}");
    }
}

#[test]
fn a_key_that_everybody_has_overloads_no_backend() {
    let gate = Arc::new(Gate::default());
    let origins: Vec<_> = (0..4)
        .map(|_| {
            let gate = Arc::clone(&gate);
            Origin::start(move |exchange| {
                gate.wait();
                exchange.answer(200, "ok");
            })
        })
        .collect();
    let settings = json!({ "strategy": "hash", "hash_key": "path", "hash_balance_factor": 1.25 });
    let proxy = weighted(&origins, &[1; 4], settings);
    let mut held = Vec::new();
    for sent in 1..=40 {
        let mut client = proxy.client();
        client.send("GET /same HTTP/1.1\r\nHost: a\r\n\r\n");
        held.push(client);
        eventually("it has arrived", || counts(&origins).iter().sum::<usize>() == sent);
    }
    let busiest = *counts(&origins).iter().max().expect("four");
    assert!(busiest <= 13, "{:?}: the mean and a quarter are 12.5", counts(&origins));
    gate.open();
    for mut client in held {
        assert_eq!(client.answer().status(), 200);
    }
}

#[test]
fn a_backup_serves_when_no_primary_can_and_only_then() {
    let mut origins = lettered(3);
    let proxy = over(&origins, |nth| json!({ "backup": nth == 2 }), json!({}));
    load(&proxy, 2, 20);
    assert_eq!(counts(&origins)[2], 0);
    let backup = origins.pop().expect("three");
    for origin in origins {
        origin.stop();
    }
    // The first one meets both primaries before the backup: that is a try each.
    for _ in 0..5 {
        assert_eq!(proxy.get("/").text(), "c");
    }
    assert_eq!(backup.count(), 5);
}

#[test]
fn the_proxys_own_zone_is_preferred_and_others_help_when_it_is_too_small() {
    let mut origins = lettered(4);
    let zones = ["north", "north", "south", "south"];
    let proxy = over(&origins, |nth| json!({ "zone": zones[nth] }), json!({ "zone": "north" }));
    load(&proxy, 2, 10);
    assert_eq!(counts(&origins), [10, 10, 0, 0]);
    assert_eq!(proxy.mutate("DELETE", &origins[0]).status(), 204);
    load(&proxy, 2, 10);
    assert_eq!(counts(&origins), [10, 30, 0, 0], "what was removed isn't missed");
    let body = json!({ "url": origins[0].url(), "zone": "north", "weight": 0 }).to_string();
    assert_eq!(proxy.admin("POST", "/backends", &body).status(), 201);
    origins.remove(1).stop();
    for _ in 0..4 {
        assert!(["c", "d"].contains(&proxy.get("/").text().as_str()));
    }
}

#[test]
fn one_that_comes_back_gets_its_share_bit_by_bit() {
    let quick = json!({ "fast_interval": "20ms", "rise": 1, "fall": 1, "jitter": 0 });
    let settings =
        |slow_start: &str| json!({ "slow_start": slow_start, "health_check_frequency": "50ms", "health_check": quick });
    for (slow_start, patient) in [("30m", false), ("1s", true)] {
        let origins = lettered(2);
        let proxy = weighted(&origins, &[1, 1], settings(slow_start));
        eventually("they are probed", || origins.iter().all(|origin| origin.probes() > 0));
        load(&proxy, 1, 10);
        assert_eq!(counts(&origins), [5, 5], "what it begins with is there at once");

        origins[1].set_healthy(false);
        eventually("it is out", || !proxy.is_alive(&origins[1]));
        origins[1].set_healthy(true);
        eventually("it is back", || proxy.is_alive(&origins[1]));
        let weight = || proxy.admin("GET", "/backends", "").json()[1]["effective_weight"].clone();
        let want = if patient {
            eventually("its whole weight counts", || weight() == 1.0);
            [26, 26]
        } else {
            assert_eq!(weight(), 0.05);
            [45, 7] // two of 42
        };
        load(&proxy, 1, 42);
        assert_eq!(counts(&origins), want);
    }
}
