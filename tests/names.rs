//! Backends by name: names with several addresses, and names that come to lead elsewhere. Each test runs in a mount
//! namespace of its own, where it writes `/etc/hosts`; the machine's own is never touched.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc;

use serde_json::{Value, json};
use support::origin::PROBE_PATH;
use support::proxy::{empty_folder, settings};
use support::{Origin, Proxy, eventually, free_port, skip};

/// Where a test in its namespace finds the file that is its `/etc/hosts`.
const HOSTS: &str = "MAYPOLE_TEST_HOSTS";

/// Runs one of the tests below that are ignored where it can write `/etc/hosts`.
fn in_a_namespace(test: &str) {
    // As root of the machine, or of a user namespace of one's own.
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let hosts = empty_folder().join("hosts");
    std::fs::write(&hosts, "").expect("writable");
    let mount = "mount --bind \"$MAYPOLE_TEST_HOSTS\" /etc/hosts";
    let way =
        ways.into_iter().find(|way| unshared(way, &hosts, mount, &[]).is_ok_and(|output| output.status.success()));
    let Some(way) = way else {
        let why = unshared(ways[1], &hosts, mount, &[]).map_or_else(|e| e.to_string(), |output| said(&output));
        return skip(&format!("no mount namespace can be made here: {why}"));
    };
    let this = std::env::current_exe().expect("its own path");
    let inner = [this.to_str().expect("UTF-8"), "--exact", "--ignored", "--nocapture", test];
    let output = unshared(way, &hosts, &format!("{mount} && exec \"$@\""), &inner).expect("sh runs");
    assert!(output.status.success() && said(&output).contains("1 passed"), "{}", said(&output));
}

/// Runs a line of shell in a mount namespace of its own, with arguments.
fn unshared(way: &[&str], hosts: &PathBuf, line: &str, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new("unshare");
    command.args(way).args(["sh", "-c", line, "sh"]).args(arguments).env(HOSTS, hosts).output()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// From now on `backend.test` has these addresses.
fn resolve_to(addresses: &[&str]) {
    let hosts = std::env::var_os(HOSTS).expect("this is to be run by another test");
    let lines = addresses.iter().map(|address| format!("{address} backend.test\n"));
    std::fs::write(hosts, format!("127.0.0.1 localhost\n{}", lines.collect::<String>())).expect("writable");
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], port))
}

/// A proxy in front of `backend.test`.
fn proxy_over(port: u16) -> Proxy {
    let mut config = settings(&[format!("http://backend.test:{port}")]);
    config["workers"] = json!(1);
    config["health_check_frequency"] = json!("100ms");
    config["health_check"] = json!({"path": PROBE_PATH, "timeout": "1s", "fall": 1, "rise": 1});
    Proxy::start(&config)
}

/// A request's head; None at the connection's end.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn backend(proxy: &Proxy) -> Value {
    proxy.admin("GET", "/backends", "").json()[0].clone()
}

/// The health of its addresses, as the admin API shows it.
fn healths(proxy: &Proxy) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let backend = backend(proxy);
    let shown = backend["address_health"].as_array().expect("an array");
    shown.iter().map(|one| (text(&one["address"]), text(&one["health"]))).collect()
}

#[test]
fn a_name_with_several_addresses_uses_all_that_are_well() {
    in_a_namespace("inside_requests_take_the_addresses_in_turn_and_pass_over_an_ill_one");
}

#[test]
#[ignore = "the test above runs it"]
fn inside_requests_take_the_addresses_in_turn_and_pass_over_an_ill_one() {
    resolve_to(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let port = free_port();
    let origins: Vec<_> =
        (2..=4).map(|last| Origin::start_at(at(last, port), |exchange| exchange.answer(200, "ok"))).collect();
    let counts = || origins.iter().map(Origin::count).collect::<Vec<_>>();
    let proxy = proxy_over(port);
    for _ in 0..9 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!(counts(), [3, 3, 3], "also one after the other");

    origins[1].set_healthy(false);
    let ill = (at(3, port).to_string(), "down".to_owned());
    eventually("one of three is seen to be ill", || healths(&proxy).contains(&ill));
    eventually("and workers have heard of it", || {
        let before = counts()[1];
        (0..3).for_each(|_| assert_eq!(proxy.get("/").status(), 200));
        counts()[1] == before
    });
    let before = counts();
    (0..8).for_each(|_| assert_eq!(proxy.get("/").status(), 200));
    assert_eq!(counts(), [before[0] + 4, before[1], before[2] + 4]);
    let backend = backend(&proxy);
    assert_eq!((&backend["health"], &backend["last_probe"]["passed"]), (&json!("up"), &json!(true)), "{backend}");
    assert_eq!(backend["addresses"].as_array().map(Vec::len), Some(3), "{backend}");

    origins[1].set_healthy(true);
    eventually("it takes part again", || {
        assert_eq!(proxy.get("/").status(), 200);
        counts()[1] > before[1]
    });
    for origin in &origins {
        origin.set_healthy(false);
    }
    eventually("all are ill, and so is the backend", || self::backend(&proxy)["health"] == "down");
}

#[test]
fn a_name_of_two_addresses_of_which_one_listens_costs_nothing_and_is_well() {
    in_a_namespace("inside_an_address_without_a_listener_costs_no_request");
}

#[test]
#[ignore = "the test above runs it"]
fn inside_an_address_without_a_listener_costs_no_request() {
    resolve_to(&["::1", "127.0.0.2"]);
    let port = free_port();
    let origin = Origin::start_at(at(2, port), |exchange| exchange.answer(200, "ok"));
    let proxy = proxy_over(port);
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 200);
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!(origin.count(), 40);
    let known = [(format!("[::1]:{port}"), "down".to_owned()), (at(2, port).to_string(), "up".to_owned())];
    eventually("each address is known", || {
        let healths = healths(&proxy);
        healths.len() == 2 && known.iter().all(|health| healths.contains(health))
    });
    let backend = backend(&proxy);
    assert_eq!((&backend["health"], &backend["last_probe"]["passed"]), (&json!("up"), &json!(true)), "{backend}");
    assert_eq!(backend["totals"]["failed"], 0, "{backend}");
    let never_down = |change: &Value| !change["what"].as_str().expect("a string").starts_with("down");
    assert!(backend["changes"].as_array().expect("an array").iter().all(never_down), "{backend}");
}

#[test]
fn traffic_follows_a_name_that_moves_although_the_old_server_keeps_its_connections() {
    in_a_namespace("inside_kept_connections_to_an_address_that_left_are_closed");
}

#[test]
#[ignore = "the test above runs it"]
fn inside_kept_connections_to_an_address_that_left_are_closed() {
    resolve_to(&["127.0.0.2"]);
    let port = free_port();
    let (ended, end) = mpsc::channel();
    let listener = TcpListener::bind(at(2, port)).expect("free");
    let old = std::thread::spawn(move || {
        // Nobody listens any more once there was a request; its connection is served for as long as the proxy keeps it.
        let mut listener = Some(listener);
        while let Some(open) = &listener {
            let (mut stream, _) = open.accept().expect("a connection");
            while let Some(head) = read_head(&mut stream) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold");
                if !head.starts_with(&format!("GET {PROBE_PATH}")) {
                    listener = None;
                }
            }
        }
        let _ = ended.send(());
    });
    let proxy = proxy_over(port);
    assert_eq!(proxy.get("/").text(), "old");
    let new = Origin::start_at(at(3, port), |exchange| exchange.answer(200, "new"));
    resolve_to(&["127.0.0.3"]);
    eventually("traffic follows the name", || {
        let answer = proxy.get("/");
        answer.status() == 200 && answer.text() == "new"
    });
    assert_eq!(end.recv_timeout(support::PATIENCE), Ok(()), "the kept connection is closed");
    assert_eq!(backend(&proxy)["addresses"], json!([new.url().trim_start_matches("http://")]));
    old.join().expect("it ended");
}
