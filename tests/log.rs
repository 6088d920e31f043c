//! Whoever reads the log may stop reading it, or go: that is no business of the proxy's clients, nor of its operators.

mod support;

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use support::proxy::{empty_folder, settings};
use support::{Client, Gate, Origin, PATIENCE, Program, Proxy, eventually, free_port};

/// A pipe that takes no byte more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().expect("a pipe");
    // Opened anew, so that it is only here that writing doesn't wait.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).expect("ours");
    for piece in [4096, 1] {
        while filler.write(&vec![b'-'; piece]).is_ok() {}
    }
    (reader, writer)
}

/// The line that says how many were lost, if it is there.
fn dropped(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("maypole: ")?.1.split_once(" lines were dropped"));
    line.map(|(number, _)| number.parse().expect("a number"))
}

/// Everything that logs, with a log that goes nowhere.
#[track_caller]
fn assert_it_works(proxy: &mut Proxy, kept: &Origin, lost: &Origin) {
    let name = lost.url().replace("http://", "");
    for weight in 1..=300 {
        let change = json!({ "weight": weight % 100 + 1 }).to_string();
        assert_eq!(proxy.admin("PATCH", &format!("/backends/{name}"), &change).status(), 200);
    }
    for _ in 0..20 {
        assert_eq!(proxy.get("/").text(), "ok");
    }
    lost.set_healthy(false);
    eventually("probes go on", || !proxy.is_alive(lost));
    assert_eq!(proxy.admin("GET", "/backends", "").status(), 200);
    assert!(kept.count() > 0);
    for _ in 0..6 {
        assert_eq!(proxy.get("/").text(), "ok");
    }
    proxy.program.signal("TERM");
    assert_eq!(proxy.program.wait_for_exit(PATIENCE).code(), Some(0));
}

fn two_origins() -> (Origin, Origin) {
    (Origin::answering("ok"), Origin::answering("ok"))
}

fn often() -> serde_json::Value {
    json!({ "health_check_frequency": "100ms", "health_check": {"fall": 1} })
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    for level in ["info", "debug", "trace,may=trace"] {
        let (kept, lost) = two_origins();
        let (_reader, writer) = full_pipe();
        let mut proxy = Proxy::with_log(&[&kept, &lost], often(), &[("RUST_LOG", level)], writer.into());
        assert_it_works(&mut proxy, &kept, &lost);
    }
}

#[test]
fn a_log_whose_reader_has_gone_and_a_full_disk_hold_nobody_up() {
    let (reader, writer) = full_pipe();
    drop(reader);
    let full_disk = File::options().write(true).open("/dev/full").expect("a device that is always full");
    for stderr in [Stdio::from(writer), full_disk.into(), Stdio::null()] {
        let (kept, lost) = two_origins();
        let mut proxy = Proxy::with_log(&[&kept, &lost], often(), &[("RUST_LOG", "info")], stderr);
        assert_it_works(&mut proxy, &kept, &lost);
    }
}

#[test]
fn when_the_log_is_read_again_it_tells_how_many_lines_were_dropped() {
    let origin = Origin::answering("ok");
    let (mut reader, writer) = full_pipe();
    // A line at least for each connection: more than are kept.
    let proxy = Proxy::with_log(&[&origin], json!({}), &[("RUST_LOG", "trace,may=trace")], writer.into());
    for _ in 0..5000 {
        assert_eq!(proxy.get("/").text(), "ok");
    }
    let read = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&read);
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            taken.lock().expect("not poisoned").extend_from_slice(&piece[..n]);
        }
    });
    eventually("it is told", || dropped(&String::from_utf8_lossy(&read.lock().expect("not poisoned"))).is_some());
    assert_eq!(proxy.get("/").text(), "ok");
}

#[test]
fn connections_are_not_logged_unless_may_is_named() {
    for (level, logs) in [("info", false), ("debug", false), ("info,may=info", true)] {
        let origin = Origin::answering("ok");
        let mut proxy = Proxy::with_log(&[&origin], json!({}), &[("RUST_LOG", level)], Stdio::piped());
        for _ in 0..20 {
            assert_eq!(proxy.get("/").text(), "ok");
        }
        proxy.program.signal("TERM");
        assert_eq!(proxy.program.wait_for_exit(PATIENCE).code(), Some(0));
        let said = proxy.program.stderr();
        assert_eq!(said.contains(" may::"), logs, "RUST_LOG={level}: {said}");
        assert!(said.contains("listening on") && said.contains("drained"), "RUST_LOG={level}: {said}");
    }
}

#[test]
fn a_variable_that_makes_no_sense_is_told_and_stops_nothing() {
    let origin = Origin::answering("ok");
    let mut proxy = Proxy::with_log(&[&origin], json!({}), &[("RUST_LOG", "maypole=loud")], Stdio::piped());
    assert_eq!(proxy.get("/").text(), "ok");
    proxy.program.signal("TERM");
    assert_eq!(proxy.program.wait_for_exit(PATIENCE).code(), Some(0));
    assert!(proxy.program.stderr().contains("RUST_LOG: \"maypole=loud\""), "{}", proxy.program.stderr());
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end_that_a_late_signal_asks_for() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let (_reader, writer) = full_pipe();
    let on_top = json!({ "timeouts": {"drain": "1h"} });
    let mut proxy = Proxy::with_log(&[&origin], on_top, &[], writer.into());
    let mut busy = proxy.client();
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request reaches the origin", || origin.count() > 0);
    let mut fresh = proxy.client();
    proxy.program.signal("TERM");
    fresh.wait_for_end();
    let mut ended = || {
        proxy.program.signal("TERM");
        !proxy.program.is_running()
    };
    eventually("a signal ends it", &mut ended);
}

#[test]
fn what_the_demo_prints_may_stay_unread() {
    let (port, admin_port) = (free_port(), free_port());
    let (_reader, writer) = full_pipe();
    let ports = [port.to_string(), admin_port.to_string()];
    let arguments = ["demo", "--port", &ports[0], "--admin-port", &ports[1]];
    let mut demo = Program::start_with(&empty_folder(), &arguments, &[], [writer.into(), Stdio::piped()]);
    eventually("it serves", || {
        assert!(demo.is_running(), "{}", demo.stderr());
        Client::try_connect(port).is_ok() && Client::connect(port).get("/").status() == 200
    });
    demo.signal("TERM");
    assert_eq!(demo.wait_for_exit(PATIENCE).code(), Some(0), "{}", demo.stderr());
}

#[test]
fn errors_at_the_start_are_told_in_full_to_a_reader_that_is_slow() {
    let folder = empty_folder();
    let mut config = settings(&[]);
    for number in 0..3000 {
        config[format!("no_such_field_with_a_long_name_{number}")] = json!(1);
    }
    let file = folder.join("maypole.json");
    std::fs::write(&file, config.to_string()).expect("writable");
    let (mut reader, writer) = full_pipe();
    let arguments = ["--config", file.to_str().expect("UTF-8")];
    let mut program = Program::start_with(&folder, &arguments, &[], [Stdio::piped(), writer.into()]);
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("UTF-8");
    assert_eq!(program.wait_for_exit(PATIENCE).code(), Some(2));
    assert!(said.ends_with('\n') && said.contains("no_such_field_with_a_long_name_0"), "{said}");
    let mut full = Program::start_in(&folder, &arguments);
    full.wait_for_exit(PATIENCE);
    assert_eq!(said.trim_start_matches('-'), full.stderr());
}

/// Not a test of its own: a process in which a thread beside a running proxy panics.
#[test]
#[ignore = "run by the test of panics, in a process of its own"]
fn panic_beside_a_proxy() {
    let Ok(config) = std::env::var("MAYPOLE_TEST_CONFIG") else { return };
    let port = std::env::var("MAYPOLE_TEST_PORT").expect("set").parse().expect("a port");
    thread::spawn(move || maypole::cli::main(["--config", &config].into_iter().map(Into::into)));
    eventually("it serves", || Client::try_connect(port).is_ok());
    for _ in 0..2 {
        let panicked = thread::Builder::new().name("unlucky".into()).spawn(|| panic!("as the test wants it"));
        assert!(panicked.expect("a thread").join().is_err());
    }
    assert_eq!(Client::connect(port).get("/").text(), "ok");
    std::process::exit(7);
}

#[test]
fn a_panics_message_comes_out_and_waits_but_a_moment_for_a_reader_that_has_stopped() {
    let origin = Origin::answering("ok");
    let folder = empty_folder();
    let config = settings(&[origin.url()]);
    let file = folder.join("maypole.json");
    std::fs::write(&file, config.to_string()).expect("writable");
    for is_read in [true, false] {
        let (mut reader, writer) = if is_read { pipe().expect("a pipe") } else { full_pipe() };
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "panic_beside_a_proxy", "--ignored", "--nocapture"])
            .env("MAYPOLE_TEST_CONFIG", &file)
            .env("MAYPOLE_TEST_PORT", config["port"].to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .expect("this test runs");
        let mut ended = None;
        eventually("it ends", || {
            ended = child.try_wait().expect("our child");
            ended.is_some()
        });
        assert_eq!(ended.and_then(|status| status.code()), Some(7));
        if is_read {
            let mut said = String::new();
            reader.read_to_string(&mut said).expect("UTF-8");
            let line = "thread 'unlucky' panicked at ";
            assert!(said.contains(line) && said.contains("as the test wants it"), "{said}");
        }
    }
}
