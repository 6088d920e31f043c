//! Signals: what each asks for, how often it has to be asked, and when.

mod support;

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use support::proxy::{empty_folder, settings};
use support::{Client, Gate, Origin, PATIENCE, Program, Proxy, eventually};

/// Signals within this time of one that was a wish are the same wish.
const SAME_WISH: Duration = Duration::from_secs(1);

/// A proxy with these timeouts, and a client whose request waits at its backend until the gate is opened.
struct Scene {
    proxy: Proxy,
    origin: Origin,
    gate: Arc<Gate>,
    busy: Client,
}

impl Scene {
    fn with(timeouts: &serde_json::Value) -> Self {
        let gate = Arc::new(Gate::default());
        let origin = Origin::holding("finished", &gate);
        let proxy = Proxy::with(&[&origin], json!({ "timeouts": timeouts }));
        let mut busy = proxy.client();
        busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the request reaches the origin", || origin.count() > 0);
        Self { proxy, origin, gate, busy }
    }

    /// The held request ends as it should, and the process with `code`.
    #[track_caller]
    fn finish(mut self) {
        self.gate.open();
        assert_eq!(self.busy.answer().text(), "finished");
        let status = self.proxy.program.wait_for_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", self.proxy.program.stderr());
        assert!(self.origin.count() > 0);
    }

    /// Sends TERM until something comes of it, which is none of a second's first.
    #[track_caller]
    fn insist(&mut self, what: &str, mut came: impl FnMut(&mut Proxy) -> bool) {
        let begin = Instant::now();
        self.proxy.program.signal("TERM");
        eventually(what, || {
            let came = came(&mut self.proxy);
            if !came {
                self.proxy.program.signal("TERM");
            }
            came
        });
        assert!(begin.elapsed() >= SAME_WISH, "{what}: after {:?}", begin.elapsed());
    }
}

#[test]
fn hup_usr1_and_usr2_are_logged_and_change_nothing() {
    let mut scene = Scene::with(&json!({ "drain": "5s" }));
    for _ in 0..10 {
        for signal in ["HUP", "USR1", "USR2"] {
            scene.proxy.program.signal(signal);
        }
        assert_eq!(scene.proxy.get("/").text(), "finished");
    }
    let said = |name: &str| scene.proxy.program.stderr().contains(name);
    eventually("they are logged", || said("SIGHUP") && said("SIGUSR1") && said("SIGUSR2"));
    assert!(scene.proxy.program.is_running());
    assert_eq!(scene.proxy.admin("GET", "/readyz", "").status(), 200);
    scene.proxy.program.signal("TERM");
    scene.finish();
}

#[test]
fn signals_that_come_together_are_one_wish_and_cut_nothing() {
    for signals in [["TERM", "TERM"], ["INT", "TERM"], ["QUIT", "QUIT"], ["HUP", "INT"]] {
        let scene = Scene::with(&json!({ "drain": "1h" }));
        let all = format!("for i in 1 2 3; do kill -{} $0; kill -{} $0; done", signals[0], signals[1]);
        let sent = Command::new("sh").args(["-c", &all, &scene.proxy.program.pid().to_string()]).status();
        assert!(sent.expect("sh runs").success());
        eventually("nobody listens any more", || Client::try_connect(scene.proxy.port).is_err());
        scene.finish();
    }
}

#[test]
fn a_signal_that_comes_a_second_later_cuts_what_is_in_flight() {
    let mut scene = Scene::with(&json!({ "drain": "1h" }));
    scene.insist("it ends", |proxy| !proxy.program.is_running());
    let status = scene.proxy.program.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", scene.proxy.program.stderr());
    assert!(scene.busy.rest().is_empty());
}

#[test]
fn during_grace_it_says_that_it_is_not_ready_and_serves_on() {
    let mut scene = Scene::with(&json!({ "grace": "1h", "drain": "1h" }));
    let mut kept = scene.proxy.client();
    assert_eq!(kept.get("/").text(), "finished");
    scene.proxy.program.signal("TERM");
    eventually("it isn't ready", || scene.proxy.admin("GET", "/readyz", "").status() == 503);
    assert_eq!(scene.proxy.admin("GET", "/healthz", "").status(), 200);
    for client in [&mut kept, &mut scene.proxy.client()] {
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!(answer.text(), "finished");
            assert_eq!(answer.list("connection"), "", "{answer:?}");
        }
    }
    scene.gate.open();
    assert_eq!(scene.busy.answer().text(), "finished");
    assert!(scene.proxy.program.is_running());
}

#[test]
fn when_grace_is_over_the_drain_begins() {
    let grace = Duration::from_millis(500);
    let mut scene = Scene::with(&json!({ "grace": "500ms", "drain": "1h" }));
    let begin = Instant::now();
    scene.proxy.program.signal("TERM");
    eventually("nobody listens any more", || Client::try_connect(scene.proxy.port).is_err());
    assert!(begin.elapsed() >= grace, "after {:?}", begin.elapsed());
    assert!(scene.proxy.program.is_running(), "a request is in flight");
    scene.finish();
}

#[test]
fn a_later_signal_during_grace_begins_the_drain() {
    let mut scene = Scene::with(&json!({ "grace": "1h", "drain": "1h" }));
    let port = scene.proxy.port;
    scene.insist("nobody listens any more", |_| Client::try_connect(port).is_err());
    assert!(scene.proxy.program.is_running(), "a request is in flight");
    scene.finish();
}

/// The signals that `program`'s first thread has blocked.
fn blocked(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).expect("a mask"))
}

/// A program that waits for its configuration, which nobody has written yet, with its signals taken.
fn starting(folder: &std::path::Path) -> (Program, std::path::PathBuf) {
    let file = folder.join("maypole.json");
    let made = Command::new("mkfifo").arg(&file).status();
    assert!(made.expect("mkfifo runs").success());
    let program = Program::start_in(folder, &["--config", file.to_str().expect("UTF-8")]);
    eventually("it takes signals", || blocked(&program) != 0);
    (program, file)
}

#[test]
fn signals_may_come_while_it_starts() {
    let origin = Origin::answering("ok");
    let folder = empty_folder();
    let (mut program, file) = starting(&folder);
    for signal in ["HUP", "USR1", "USR2"] {
        program.signal(signal);
    }
    let config = settings(&[origin.url()]);
    let mut writer = std::fs::File::options().write(true).open(&file).expect("a pipe with a name");
    writer.write_all(config.to_string().as_bytes()).expect("it reads");
    drop(writer);
    let port = u16::try_from(config["port"].as_u64().expect("a port")).expect("a port");
    eventually("it serves", || Client::try_connect(port).is_ok());
    assert_eq!(Client::connect(port).get("/").text(), "ok");
    program.signal("TERM");
    assert_eq!(program.wait_for_exit(PATIENCE).code(), Some(0), "{}", program.stderr());
}

#[test]
fn told_to_stop_before_anything_has_started_it_ends_at_once() {
    for signal in ["TERM", "INT", "QUIT"] {
        let folder = empty_folder();
        let (mut program, _file) = starting(&folder);
        program.signal(signal);
        assert_eq!(program.wait_for_exit(PATIENCE).code(), Some(0), "SIG{signal}: {}", program.stderr());
    }
}

#[test]
fn told_to_stop_while_it_starts_it_stops_in_good_order_once_it_has() {
    let origin = Origin::answering("ok");
    for _ in 0..10 {
        let folder = empty_folder();
        let file = folder.join("maypole.json");
        std::fs::write(&file, settings(&[origin.url()]).to_string()).expect("writable");
        let mut program = Program::start_in(&folder, &["--config", file.to_str().expect("UTF-8")]);
        eventually("it takes signals", || blocked(&program) != 0);
        program.signal("TERM");
        assert_eq!(program.wait_for_exit(PATIENCE).code(), Some(0), "{}", program.stderr());
    }
}
