//! `maypole demo`: what it prints works as printed.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Program, eventually, free_port};

const ASK_STATUS: &str = "GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

#[test]
fn every_printed_curl_line_works_as_printed() {
    let (port, admin_port) = (free_port().to_string(), free_port().to_string());
    let mut demo = Program::start(&["demo", "--port", &port, "--admin-port", &admin_port]);
    let lines = |demo: &Program| -> Vec<String> {
        let text = demo.stdout();
        text.lines().map(str::trim).filter(|line| line.starts_with("curl ")).map(str::to_owned).collect()
    };
    // It prints them in one go once it serves.
    let ready = || lines(&demo).len() >= 3 && support::Client::try_connect(port.parse().expect("a port")).is_ok();
    eventually("it prints its lines and serves", ready);
    for line in lines(&demo) {
        let output = Command::new("sh")
            .args(["-c", &format!("curl() {{ command curl --fail --max-time 10 \"$@\"; }}\n{line}")])
            .output()
            .expect("sh runs");
        assert!(output.status.success(), "{line}: {output:?}");
        assert!(line.contains(&port) || line.contains(&admin_port), "not this demo's ports: {line}");
    }
    demo.signal("INT");
    assert_eq!(demo.wait_for_exit(Duration::from_secs(5)).code(), Some(0), "{}", demo.stderr());
}

#[test]
fn with_tls_it_prints_how_to_trust_it_and_leaves_nothing_behind() {
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let place = support::proxy::empty_folder();
    let arguments = ["demo", "--tls", "--port", &ports[0], "--admin-port", &ports[1], "--tls-port", &ports[2]];
    let temporary = [("TMPDIR", place.to_str().expect("UTF-8"))];
    let mut demo = Program::start_with(&place, &arguments, &temporary, [Stdio::piped(), Stdio::piped()]);
    let line = |demo: &Program| {
        let text = demo.stdout();
        text.lines().map(str::trim).find(|line| line.starts_with("curl --cacert ")).map(str::to_owned)
    };
    eventually("it prints its line", || line(&demo).is_some());
    let line = line(&demo).expect("there");
    assert!(line.contains(&ports[2]), "not this demo's port: {line}");
    let script = format!("curl() {{ command curl --fail --silent --show-error --max-time 10 \"$@\"; }}\n{line}");
    let output = Command::new("sh").args(["-c", &script]).env("no_proxy", "*").output().expect("sh runs");
    assert!(output.status.success(), "{line}: {output:?}");
    let untrusted = line.split_whitespace().last().expect("a URL").to_owned();
    let output = Command::new("curl").args(["--max-time", "10", &untrusted]).env("no_proxy", "*").output();
    assert_eq!(output.expect("curl runs").status.code(), Some(60), "nobody else trusts it");
    assert!(std::fs::read_dir(&place).expect("there").next().is_some());
    demo.signal("INT");
    assert_eq!(demo.wait_for_exit(Duration::from_secs(5)).code(), Some(0), "{}", demo.stderr());
    assert!(std::fs::read_dir(&place).expect("there").next().is_none(), "a file is left");
    let _ = std::fs::remove_dir_all(&place);
}

#[test]
fn with_tls_it_leaves_nothing_behind_where_a_second_signal_cuts_it_either() {
    let ports = [free_port(), free_port(), free_port()];
    let [port, admin_port, tls_port] = ports.map(|port| port.to_string());
    let place = support::proxy::empty_folder();
    let arguments = ["demo", "--tls", "--port", &port, "--admin-port", &admin_port, "--tls-port", &tls_port];
    let temporary = [("TMPDIR", place.to_str().expect("UTF-8"))];
    let mut demo = Program::start_with(&place, &arguments, &temporary, [Stdio::piped(), Stdio::piped()]);
    eventually("it serves", || support::Client::try_connect(ports[0]).is_ok());
    let is_empty = || std::fs::read_dir(&place).expect("there").next().is_none();
    assert!(!is_empty());
    // A request whose body doesn't come, so that a drain waits for it.
    let mut busy = support::Client::connect(ports[0]);
    busy.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nhalf");
    eventually("it is being served", || {
        let status = support::Client::connect(ports[1]).send(ASK_STATUS).answer().json();
        let backends = status["backends"].as_array().expect("a list");
        backends.iter().any(|backend| backend["current_connections"] == 1)
    });
    // Those of the first second only repeat the first one.
    eventually("it is cut", || {
        demo.signal("INT");
        !demo.is_running()
    });
    assert_eq!(demo.wait_for_exit(Duration::from_secs(5)).code(), Some(1), "{}", demo.stderr());
    assert!(is_empty(), "a file is left");
    let _ = std::fs::remove_dir_all(&place);
}

#[test]
fn it_balances_over_its_own_three_backends() {
    let (port, admin_port) = (free_port(), free_port());
    let _demo = Program::start(&["demo", "--port", &port.to_string(), "--admin-port", &admin_port.to_string()]);
    eventually("it serves", || support::Client::try_connect(port).is_ok());
    let answers: std::collections::HashSet<_> = (0..3)
        .map(|_| {
            let answer = support::Client::connect(port).get("/");
            assert_eq!(answer.status(), 200, "{answer:?}");
            // The backend's name stands in its first line; ids and ports of the connection vary anyway.
            answer.text().lines().next().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(answers.len(), 3, "{answers:?}");
}
