//! What clients get when the machine runs short: of local ports, of descriptors, of kernel memory.

mod support;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;
use support::{Gate, Origin, Proxy, Tracer, eventually, skip};

/// Set for the test that runs in a namespace.
const IN_NAMESPACE: &str = "MAYPOLE_TEST_NAMESPACE";
/// Local ports that there are in it, towards each address and port.
const PORTS: usize = 16;

#[test]
fn without_a_local_port_towards_its_backend_a_request_gets_502_until_there_is_one() {
    // As root of the machine, or of a user namespace of one's own.
    let ways: [&[&str]; 2] = [&["--net"], &["--net", "--map-root-user"]];
    let way = ways.into_iter().find(|way| unshared(way, "true", &[]).is_ok_and(|output| output.status.success()));
    let Some(way) = way else {
        let why = unshared(ways[1], "true", &[]).map_or_else(|e| e.to_string(), |output| said(&output));
        return skip(&format!("no network namespace can be made here: {why}"));
    };
    let narrowed = format!(
        "ip link set lo up && echo 40000 {} >/proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"",
        40_000 + PORTS - 1
    );
    let this = std::env::current_exe().expect("its own path");
    let this = this.to_str().expect("UTF-8");
    let inner = [this, "--exact", "--ignored", "--nocapture", "in_a_namespace_with_few_ports"];
    let output = unshared(way, &narrowed, &inner).expect("sh runs");
    assert!(output.status.success() && said(&output).contains("1 passed"), "{}", said(&output));
}

/// Runs a line of shell in a network namespace of its own, with arguments.
fn unshared(way: &[&str], line: &str, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new("unshare");
    command.args(way).args(["sh", "-c", line, "sh"]).args(arguments).env(IN_NAMESPACE, "yes").output()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
#[ignore = "the test above runs it where few ports are"]
fn in_a_namespace_with_few_ports() {
    assert!(std::env::var_os(IN_NAMESPACE).is_some(), "this is to be run by the test above");
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    eventually("the backend was probed", || origin.probes() > 0);
    let mut taken = Vec::new();
    let shortage = loop {
        match TcpStream::connect(("127.0.0.1", origin.port())) {
            Ok(stream) => taken.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(shortage.kind(), std::io::ErrorKind::AddrNotAvailable, "{shortage}");
    assert!((PORTS / 2..=PORTS).contains(&taken.len()), "{} ports", taken.len());

    for tries in 1..=3 {
        let answer = proxy.client().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
        assert_eq!(answer.status(), 502, "{answer:?}");
        let status = answer.list("proxy-status");
        assert!(status.contains("error=proxy_internal_error; details=\"no local port or address"), "{status}");
        assert_eq!(proxy.status()["failures"]["no_local_port"], tries);
    }
    assert!(proxy.is_alive(&origin), "it is no fault of the backend's");
    assert_eq!(proxy.admin("GET", "/backends", "").json()[0]["totals"]["failed"], 0);

    // A reset leaves nothing behind that holds the port.
    let one = taken.pop().expect("some were taken");
    SockRef::from(&one).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(one);
    eventually("one free port is enough", || proxy.get("/").status() == 200);
}

#[test]
fn without_a_descriptor_for_its_backend_a_request_gets_503_and_those_that_need_none_are_served() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |exchange| {
        if exchange.request.target() == "/hold" {
            held.wait();
        }
        exchange.answer(200, "ok");
    });
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the first is on its way", || origin.count() == 1);
    eventually("the second was accepted", || proxy.status()["connections"]["open"] == 2);

    // No new descriptor can have so low a number; those that are open stay.
    let descriptors_max = limit_descriptors(&proxy, "3");
    let answer = second.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    let status = answer.list("proxy-status");
    assert!(status.contains("error=connection_limit_reached; details=\"no file descriptor"), "{status}");
    gate.open();
    assert_eq!(first.answer().status(), 200);
    // It has left its connection in the pool.
    assert_eq!(second.get("/").status(), 200);

    limit_descriptors(&proxy, &descriptors_max);
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.status()["failures"]["no_descriptor"], 1);
    assert!(proxy.is_alive(&origin), "it is no fault of the backend's");
}

#[test]
fn without_kernel_memory_to_watch_its_client_an_upload_goes_on_and_holds_nobody_up() {
    let (origin, other) = (Origin::answering("ok"), Origin::answering("ok"));
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    eventually("the client is parked", || proxy.parked() > 0);
    let Some(tracer) = Tracer::attach(&proxy, "epoll_ctl", Some("epoll_ctl:error=ENOSPC")) else { return };
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    eventually("it is on its way", || origin.count() == 2);
    // Answered once the worker has passed its mailbox, which one that spins doesn't.
    let began = Instant::now();
    assert_eq!(proxy.mutate("POST", &other).status(), 201);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(client.send("world").answer().status(), 200);
    assert_eq!(origin.requests()[1].text(), "helloworld");
    let failed = tracer.calls().lines().filter(|line| line.contains("INJECTED")).count();
    assert!((1..1000).contains(&failed), "{failed} failed calls");
}

#[test]
fn an_idle_connection_that_the_kernel_can_not_watch_ends_and_is_counted() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let fault = Some("epoll_ctl:error=ENOSPC:when=2+");
    let Some(_tracer) = Tracer::attach(&proxy, "epoll_ctl", fault) else { return };
    // Well before a silent connection's time is over.
    let took = proxy.client().wait_for_end();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(proxy.status()["connections"]["accept_errors"], 1);
    assert_eq!(proxy.status()["connections"]["open"], 0);
}

#[test]
fn the_last_descriptor_goes_from_an_idle_connection_to_the_backend_that_is_asked() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::with(&[&a, &b], json!({ "workers": 1 }));
    eventually("both were probed", || a.probes() > 0 && b.probes() > 0);
    let mut client = proxy.client();
    let first = client.get("/").text();
    // Clients that say nothing take the numbers that were given back meanwhile, until one has to go beyond all others.
    let mut others = Vec::new();
    let next = loop {
        let before = descriptors(&proxy);
        others.push(proxy.client());
        // A probe's may go meanwhile.
        eventually("it is accepted", || !descriptors(&proxy).is_subset(&before));
        let last = descriptors(&proxy).pop_last();
        if last > before.last().copied() {
            break last.expect("it has some") + 1;
        }
    };
    // From here on whoever needs a descriptor has to find one that was just given back.
    limit_descriptors(&proxy, &next.to_string());
    // In turn: now the one that nobody is connected to, then the one whose connection was given up.
    let mut answers = vec![first];
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200, "{answer:?}");
        answers.push(answer.text());
    }
    answers.sort();
    assert_eq!(answers, ["a", "a", "b", "b"]);
}

#[test]
fn a_shortage_of_descriptors_takes_no_healthy_backend_out() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(
        &[&origin],
        json!({
            "workers": 1,
            "health_check_frequency": "50ms",
            "health_check": {"fast_interval": "10ms", "fall": 1, "rise": 1000},
        }),
    );
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    eventually("it is known to be healthy", || proxy.admin("GET", "/backends", "").json()[0]["health"] == "up");
    let descriptors_max = limit_descriptors(&proxy, "3");
    // Many probes would have come and failed in this time; the client's requests need no new descriptor.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(client.get("/").status(), 200, "after {:?}", began.elapsed());
    }
    limit_descriptors(&proxy, &descriptors_max);
    assert!(proxy.is_alive(&origin));
    let before = origin.probes();
    eventually("it is probed again", || origin.probes() > before);
}

#[test]
fn the_admin_api_is_there_again_when_descriptors_are() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let descriptors_max = limit_descriptors(&proxy, "3");
    // It has a descriptor for the next connection already, and none for the one behind it.
    let knock = || TcpStream::connect(("127.0.0.1", proxy.admin_port)).expect("the backlog takes it");
    let knocking = [knock(), knock()];
    eventually("it is told of", || proxy.program.stderr().contains("can't accept on"));
    limit_descriptors(&proxy, &descriptors_max);
    drop(knocking);
    assert_eq!(proxy.admin("GET", "/status", "").status(), 200);
}

/// The numbers of the proxy's open descriptors.
fn descriptors(proxy: &Proxy) -> BTreeSet<u32> {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", proxy.program.pid())).expect("it runs");
    folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Sets the soft limit of open descriptors of the running proxy; returns the hard one.
fn limit_descriptors(proxy: &Proxy, soft: &str) -> String {
    let pid = proxy.program.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit that Linux has");
    let hard = line.split_whitespace().nth(4).expect("soft and hard").to_owned();
    let arguments = ["--pid", &pid.to_string(), &format!("--nofile={soft}:{hard}")];
    let status = Command::new("prlimit").args(arguments).status();
    assert!(status.expect("prlimit runs").success(), "prlimit {arguments:?}");
    hard
}
