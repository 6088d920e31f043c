//! Certificates from a real authority: Pebble, with a name server of its own, on loopback ports of the test's own.

mod support;

#[path = "support/any_certificate.rs"]
mod any_certificate;
#[path = "support/authority.rs"]
mod authority;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use authority::{Authority, Ports, Seen, see};
use support::proxy::{Program, empty_folder, settings};
use support::{Client, Origin, eventually, free_port, skip};

/// How long an authority's certificate may take, on a busy machine, with one wait after a failure.
const ISSUED_WITHIN: Duration = Duration::from_secs(60);

/// A proxy with TLS, whose certificates are Pebble's.
struct Scene {
    ports: Ports,
    cache: std::path::PathBuf,
    origin: Origin,
    config: Value,
}

impl Scene {
    fn new(challenge: &str, domains: &[&str]) -> Self {
        let ports = Ports { http: free_port(), tls: free_port(), authority: free_port() };
        let folder = empty_folder();
        let origin = Origin::answering("from the origin");
        let mut config = settings(&[origin.url()]);
        let cache = folder.join("cache");
        config["port"] = ports.http.into();
        config["tls"] = json!({
            "port": ports.tls,
            "bind": "127.0.0.1",
            "acme": {
                "directory": ports.directory(),
                "email": "admin@a.test",
                "domains": domains,
                "cache": cache,
                "challenge": challenge,
            },
        });
        Self { ports, cache, origin, config }
    }

    fn start(&self) -> Program {
        let folder = empty_folder();
        let file = folder.join("maypole.json");
        std::fs::write(&file, self.config.to_string()).expect("writable");
        let arguments = ["--config", file.to_str().expect("UTF-8")];
        let roots = authority::roots();
        let environment = [("SSL_CERT_FILE", roots.to_str().expect("UTF-8"))];
        let pipe = std::process::Stdio::piped;
        let program = Program::start_with(&folder, &arguments, &environment, [pipe(), pipe()]);
        // It listens in clear first.
        let listens = |port| Client::try_connect(port).is_ok();
        eventually("it accepts connections", || listens(self.ports.http) && listens(self.ports.tls));
        program
    }

    fn see(&self, name: &str) -> Option<Seen> {
        see(self.ports.tls, name)
    }

    /// Has the plain port send all elsewhere but authorities that ask.
    fn redirecting(mut self) -> Self {
        self.config["tls"]["redirect_http"] = true.into();
        self
    }

    /// What a request in clear is answered with.
    fn plain_status(&self) -> u16 {
        if self.config["tls"]["redirect_http"] == true { 308 } else { 200 }
    }

    /// Where what is shown for `name` is from, as the admin API says.
    fn source(&self, name: &str) -> Value {
        let port = self.config["admin_port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let request = format!("GET /certificates HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        let list = Client::connect(port).send(request).answer().json();
        let all = list["certificates"].as_array().expect("a list");
        let one = all.iter().find(|one| one["names"][0] == name).unwrap_or_else(|| panic!("no {name}: {list}"));
        one["source"].clone()
    }

    /// What is shown for `name`, once Pebble has issued it.
    #[track_caller]
    fn wait_until_issued(&self, name: &str, program: &Program) -> Seen {
        let begun = Instant::now();
        loop {
            if let Some(seen) = self.see(name).filter(Seen::is_of_pebble) {
                return seen;
            }
            assert!(begun.elapsed() < ISSUED_WITHIN, "no certificate for {name}; it said: {}", program.stderr());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Requests in clear and over TLS, on new connections, without a pause; none may fail.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(scene: &Scene, name: &'static str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut threads = Vec::new();
        for encrypted in [false, true] {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let (http, tls, plain_status) = (scene.ports.http, scene.ports.tls, scene.plain_status());
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if encrypted {
                        let seen = see(tls, name).expect("a handshake and an answer");
                        assert!(seen.answer.starts_with("HTTP/1.1 200"), "{}", seen.answer);
                    } else {
                        let answer = Client::connect(http).get("/");
                        assert_eq!(answer.status(), plain_status, "{answer:?}");
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, sent, threads }
    }

    /// Ends it; how many requests there were.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no request fails");
        }
        self.sent.load(Ordering::Relaxed)
    }
}

fn get(port: u16, path: &str) -> support::Message {
    Client::connect(port).get(path)
}

#[test]
fn certificates_are_got_by_both_challenges_and_renewed_under_load_without_a_failed_request() {
    if !authority::is_installed() {
        return skip("pebble isn't installed: ./x test installs it");
    }
    let domains = ["a.test", "b.test"];
    // Challenges come before what else the plain port does.
    for (challenge, scene) in [
        ("http-01", Scene::new("http-01", &domains).redirecting()),
        ("http-01", Scene::new("http-01", &domains)),
        ("tls-alpn-01", Scene::new("tls-alpn-01", &domains)),
    ] {
        let pebble = Authority::start(scene.ports);
        let mut program = scene.start();
        let load = Load::on(&scene, "a.test");
        let issued = ["a.test", "b.test"].map(|name| scene.wait_until_issued(name, &program));
        assert!(issued[0].is_for("a.test") && issued[1].is_for("b.test"));
        assert!(pebble.verifies(&issued[0], "a.test"), "{challenge}: by Pebble's root");
        assert!(load.end() > 0);
        for name in domains {
            assert_eq!(scene.source(name), json!({"from": "acme", "directory": scene.ports.directory()}));
        }
        // A path without a pending token is any other's.
        let other = get(scene.ports.http, "/.well-known/acme-challenge/none");
        assert_eq!(other.status(), scene.plain_status(), "{other:?}");
        assert!(other.status() == 308 || other.text() == "from the origin", "{other:?}");
        program.signal("TERM");
        program.wait_for_exit(support::PATIENCE);

        // Nearly at its end, so that it is due at the next start.
        let old = authority::nearly_expired("a.test");
        authority::put_in_place_of(&scene.cache, "a.test", &old.pem);
        let program = scene.start();
        assert_eq!(
            scene.see("a.test").expect("a handshake").leaf,
            old.der,
            "it is served as long as there is no newer"
        );
        let load = Load::on(&scene, "a.test");
        let renewed = scene.wait_until_issued("a.test", &program);
        assert_ne!(renewed.leaf, issued[0].leaf);
        assert!(load.end() > 0);
        assert_eq!(
            scene.see("b.test").expect("a handshake").leaf,
            issued[1].leaf,
            "{challenge}: what wasn't due stays"
        );
        drop(scene.origin);
    }
}

#[test]
fn an_authority_that_is_down_at_the_start_is_asked_again_while_a_self_signed_certificate_is_served() {
    if !authority::is_installed() {
        return skip("pebble isn't installed: ./x test installs it");
    }
    let scene = Scene::new("http-01", &["a.test"]);
    let program = scene.start();
    let first = scene.see("a.test").expect("a handshake");
    assert!(!first.is_of_pebble() && first.is_for("a.test") && first.answer.starts_with("HTTP/1.1 200"));
    assert_eq!(scene.source("a.test"), json!({"from": "own"}));
    eventually("it is told", || program.stderr().contains("connection refused"));
    let said = program.stderr();
    assert!(said.contains("certificate for a.test: there is none yet"), "{said}");
    let _pebble = Authority::start(scene.ports);
    scene.wait_until_issued("a.test", &program);
}

#[test]
fn an_authority_that_refuses_is_told_with_its_reason_and_the_domain_and_others_get_theirs() {
    if !authority::is_installed() {
        return skip("pebble isn't installed: ./x test installs it");
    }
    // Pebble's own rule: it doesn't issue for this one.
    let scene = Scene::new("http-01", &["blocked-domain.example", "a.test"]);
    let _pebble = Authority::start(scene.ports);
    let program = scene.start();
    scene.wait_until_issued("a.test", &program);
    eventually("it is told", || program.stderr().contains("rejectedIdentifier"));
    let said = program.stderr();
    let line = said.lines().find(|line| line.contains("rejectedIdentifier")).expect("a line");
    assert!(line.contains("certificate for blocked-domain.example") && line.contains("tried again in"), "{line}");
    let served = scene.see("blocked-domain.example").expect("a handshake");
    assert!(!served.is_of_pebble() && served.is_for("blocked-domain.example"));
}

#[test]
fn an_authority_that_answers_nothing_holds_nothing_up() {
    let scene = Scene::new("http-01", &["a.test"]);
    let silent = std::net::TcpListener::bind(("127.0.0.1", scene.ports.authority)).expect("a free port");
    let begun = Instant::now();
    let mut program = scene.start();
    let seen = scene.see("a.test").expect("a handshake");
    assert!(seen.answer.starts_with("HTTP/1.1 200") && begun.elapsed() < support::PATIENCE);
    let (_asking, _) = silent.accept().expect("it is asked");
    assert!(scene.see("a.test").expect("a handshake").answer.starts_with("HTTP/1.1 200"));
    program.signal("TERM");
    assert!(program.wait_for_exit(support::PATIENCE).success(), "nor does it hold up the end");
}

#[test]
fn a_cache_that_can_not_be_written_is_an_error_at_check_and_at_start() {
    let mut scene = Scene::new("http-01", &["a.test"]);
    let file = empty_folder().join("file");
    std::fs::write(&file, "").expect("writable");
    scene.config["tls"]["acme"]["cache"] = file.to_str().expect("UTF-8").into();
    let folder = empty_folder();
    std::fs::write(folder.join("maypole.json"), scene.config.to_string()).expect("writable");
    for arguments in [&["check", "--config", "maypole.json"][..], &["--config", "maypole.json"]] {
        let mut program = Program::start_in(&folder, arguments);
        let status = program.wait_for_exit(support::PATIENCE);
        assert!(!status.success());
        let said = program.stderr();
        assert!(said.contains("tls.acme.cache") && said.contains(file.to_str().expect("UTF-8")), "{said}");
    }
}
