//! `maypole demo`: what it prints works as printed.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{Program, eventually, free_port};

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
