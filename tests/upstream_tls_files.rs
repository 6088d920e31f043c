//! Files of `upstream_tls` that change while the proxy runs, and certificates there whose time is over.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use maypole::transport::pem;
use serde_json::{Value, json};
use support::proxy::{empty_folder, settings};
use support::secure::{Authority, SecureOrigin, Signed, written};
use support::{PATIENCE, Program, Proxy, eventually};

/// From one look at the files to the next, where a test doesn't want to wait for a minute. Debug builds alone know it.
const LOOK: &str = "MAYPOLE_TEST_LOOK_MS";
const HOUR_MS: u64 = 3_600_000;

/// A backend that asks for a certificate, a proxy in front of it, and the files that this one goes by.
struct Scene {
    proxy: Proxy,
    origin: SecureOrigin,
    authority: Authority,
    folder: PathBuf,
    first: Signed,
}

impl Scene {
    /// With looks at the files so far apart in milliseconds.
    fn new(look_ms: u64) -> Self {
        let authority = Authority::new("a test's");
        let origin = SecureOrigin::asking(&authority.sign(&["localhost"]), &authority);
        let (folder, first) = (empty_folder(), authority.sign(&["first.example"]));
        let ca = authority.file(&folder);
        let (cert, key) = first.files(&folder, "client");
        let on_top = json!({
            "backends": [origin.url()],
            "upstream_tls": {"ca": ca, "client_cert": cert, "client_key": key},
            "when_all_down": "try",
            "health_check_frequency": "50ms",
            "health_check": {"fast_interval": "50ms", "rise": 1, "fall": 1},
        });
        let proxy = Proxy::with_log(&[], on_top, &[(LOOK, &*look_ms.to_string())], Stdio::piped());
        Self { proxy, origin, authority, folder, first }
    }

    /// The mark of what the backend is shown, on a connection that it has already or a new one.
    fn shown(&self, target: &str) -> String {
        let answer = self.proxy.get(target);
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.text()
    }

    fn look(&self) {
        self.proxy.program.signal("HUP");
    }

    fn problems(&self) -> Vec<Value> {
        let answer = self.proxy.admin("GET", "/certificates", "").json();
        assert_eq!(answer["certificates"], json!([]), "clients are shown nothing");
        answer["problems"].as_array().expect("a list").clone()
    }

    fn health(&self) -> Value {
        let backend = self.proxy.admin("GET", "/backends", "").json()[0].clone();
        backend["health"].clone()
    }

    /// No connection is left that has shown the first certificate.
    fn is_rid_of_first(&self) -> bool {
        !self.origin.clients().contains(&self.first.mark())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Ends the load, however the test ends.
struct End<'o>(&'o AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Swaps the client certificate under load, and calls `tell` then.
fn swap_under_load(look_ms: u64, tell: impl Fn(&Scene)) {
    let scene = Scene::new(look_ms);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let second = scene.authority.sign(&["second.example"]);
    thread::scope(|scope| {
        // Half of the requests end the backend's connection, so that each has a new one, whose session is resumed. Any that
        // fails fails the test.
        for nth in 0..4 {
            let (scene, over, served) = (&scene, &over, &served);
            let known = [scene.first.mark(), second.mark()];
            scope.spawn(move || {
                let target = ["/who", "/who-last"][nth % 2];
                let mut client = scene.proxy.client();
                while !over.load(Ordering::Relaxed) {
                    let answer = client.get(target);
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    assert!(known.contains(&answer.text()), "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let ended = End(&over);
        let more = |than: usize| eventually("more are served", || served.load(Ordering::Relaxed) > than + 50);
        more(0);
        assert_eq!(scene.shown("/who"), scene.first.mark());
        eventually("sessions are resumed", || scene.origin.handshakes().1 > 10);
        second.files(&scene.folder, "client");
        tell(&scene);
        eventually("the backend is shown the new one", || scene.shown("/who-last") == second.mark());
        let (_, resumed) = scene.origin.handshakes();
        eventually("no connection of before is left, and none is shown the old one any more", || {
            let is_new = |target: &&str| scene.shown(target) == second.mark();
            scene.is_rid_of_first() && ["/who", "/who-last"].repeat(20).iter().all(is_new)
        });
        more(served.load(Ordering::Relaxed));
        assert!(scene.is_rid_of_first());
        eventually("sessions are resumed again", || scene.origin.handshakes().1 > resumed);
        drop(ended);
    });
    assert_eq!((scene.problems(), scene.health()), (vec![], json!("up")));
}

#[test]
fn a_signal_swaps_a_client_certificate_and_no_request_fails() {
    swap_under_load(HOUR_MS, Scene::look);
    let scene = Scene::new(HOUR_MS);
    scene.look();
    eventually("it says so", || scene.proxy.program.stderr().contains("the files of certificates are looked at"));
}

#[cfg(debug_assertions)]
#[test]
fn a_look_at_the_files_swaps_a_client_certificate_and_no_request_fails() {
    swap_under_load(50, |_| {});
}

#[test]
fn authorities_that_do_not_vouch_for_the_backend_have_requests_fail_until_they_are_put_back() {
    let scene = Scene::new(HOUR_MS);
    assert_eq!(scene.shown("/who"), scene.first.mark());
    let stranger = Authority::new("a stranger's");
    written(&scene.folder, "ca.pem", &pem::write("CERTIFICATE", &stranger.der()));
    scene.look();
    let is_refused = || {
        let answer = scene.proxy.get("/who");
        let refused = answer.status() == 502;
        assert!(!refused || answer.list("proxy-status").contains("error=tls_certificate_error"), "{answer:?}");
        refused
    };
    eventually("a new connection is refused", is_refused);
    eventually("those of before are closed", || scene.origin.clients().is_empty());
    for _ in 0..20 {
        assert!(is_refused());
    }
    eventually("health checks find the same", || scene.health() == "down");
    assert_eq!(scene.problems(), Vec::<Value>::new(), "nothing is wrong with the file");
    scene.authority.file(&scene.folder);
    scene.look();
    eventually("it is accepted again", || scene.proxy.get("/who").status() == 200);
    eventually("and up", || scene.health() == "up");
}

#[test]
fn what_is_broken_is_told_of_and_what_was_before_stays_in_use() {
    let scene = Scene::new(HOUR_MS);
    let second = scene.authority.sign(&["second.example"]);
    let good_key = fs::read_to_string(scene.folder.join("client.key")).expect("readable");
    let backwards = Signed { chain: vec![second.chain[0].clone(), scene.first.chain[0].clone()], ..second.clone() };
    let broken: &[(&str, &dyn Fn(), &str, &str)] = &[
        ("garbage", &|| drop(written(&scene.folder, "client.key", "nothing")), "client_key", "found no section"),
        (
            "the certificate alone",
            &|| {
                // In an order in which they fit at no moment.
                written(&scene.folder, "client.pem", &pem::write("CERTIFICATE", &second.chain[0]));
                written(&scene.folder, "client.key", &good_key);
            },
            "client_key",
            "found the key of another certificate, wanted that of the first one in ",
        ),
        ("a chain", &|| drop(backwards.files(&scene.folder, "client")), "client_cert", "a broken chain: "),
        (
            "no file",
            &|| fs::remove_file(scene.folder.join("client.pem")).expect("it was there"),
            "client_cert",
            "can't be read: No such file or directory",
        ),
    ];
    for (what, spoil, field, told) in broken {
        spoil();
        scene.look();
        let field = format!("upstream_tls.{field}");
        let is_told = |problem: &Value| {
            problem["field"] == *field && problem["problem"].as_str().is_some_and(|text| text.starts_with(told))
        };
        eventually(what, || matches!(&scene.problems()[..], [problem] if is_told(problem)));
        assert_eq!(scene.shown("/who-last"), scene.first.mark(), "{what}");
        let line = format!("{field}: ");
        let lines = || {
            let stderr = scene.proxy.program.stderr();
            let lines = stderr.lines().filter(|line_| line_.contains(&line) && line_.contains(told));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        // The log is written by a thread of its own.
        eventually("it is in the log", || !lines().is_empty());
        let lines = lines();
        assert!(lines.len() == 1 && lines[0].contains("ERROR"), "{what}: once: {lines:?}");
        assert!(lines[0].ends_with("what was there before stays in use"), "{lines:?}");
    }
    // What is broken there keeps nothing else out.
    let stranger = Authority::new("a stranger's");
    let both = [scene.authority.der(), stranger.der()].map(|der| pem::write("CERTIFICATE", &der)).concat();
    written(&scene.folder, "ca.pem", &both);
    scene.look();
    let stderr = || scene.proxy.program.stderr();
    eventually("it is in use", || stderr().contains("upstream_tls.ca: backends are held to what has changed"));
    written(&scene.folder, "ca.pem", "");
    scene.look();
    eventually("both are told of", || scene.problems().len() == 2);
    scene.authority.file(&scene.folder);
    second.files(&scene.folder, "client");
    scene.look();
    eventually("all is well again", || scene.problems().is_empty());
    eventually("the new one is shown", || scene.shown("/who-last") == second.mark());
}

#[test]
fn a_connection_that_a_client_has_logged_in_on_ends_with_the_certificate_that_it_has_shown() {
    let scene = Scene::new(HOUR_MS);
    let mut client = scene.proxy.client();
    let mut shown = || client.send("GET /who HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM x\r\n\r\n").answer().text();
    assert_eq!(shown(), scene.first.mark());
    let second = scene.authority.sign(&["second.example"]);
    second.files(&scene.folder, "client");
    scene.look();
    eventually("it has another connection", || shown() == second.mark());
    eventually("the old one is closed", || scene.is_rid_of_first());
}

#[test]
fn what_changes_nothing_leaves_connections_and_sessions_as_they_are() {
    let scene = Scene::new(HOUR_MS);
    assert_eq!(scene.shown("/who"), scene.first.mark());
    let connections = scene.origin.handshakes();
    let ca = fs::read_to_string(scene.folder.join("ca.pem")).expect("readable");
    written(&scene.folder, "ca.pem", &format!("# the same\n{ca}"));
    scene.first.files(&scene.folder, "client");
    fs::remove_file(scene.folder.join("client.key")).expect("it was there");
    scene.look();
    eventually("it was looked at", || !scene.problems().is_empty());
    scene.first.files(&scene.folder, "client");
    scene.look();
    eventually("it is well again", || scene.problems().is_empty());
    for _ in 0..5 {
        assert_eq!(scene.shown("/who"), scene.first.mark());
    }
    let said = scene.proxy.program.stderr();
    assert!(!said.contains("no session from before is resumed"), "{said}");
    assert!(scene.origin.handshakes().0 <= connections.0 + 1, "but for the other worker's, none is new");
}

/// What `check` says to these settings, and how it ends.
fn check(folder: &std::path::Path, on_top: &Value) -> (Option<i32>, String) {
    let mut config = settings(&[]);
    for (name, value) in on_top.as_object().expect("an object") {
        config[name] = value.clone();
    }
    fs::write(folder.join("p.json"), config.to_string()).expect("writable");
    let mut program = Program::start_in(folder, &["check", "--config", "p.json"]);
    let code = program.wait_for_exit(PATIENCE).code();
    (code, program.stderr())
}

/// Whether a start with these settings says this, at warning.
fn warns(on_top: Value, told: &[&str]) -> Proxy {
    let proxy = Proxy::with_log(&[], on_top, &[], Stdio::piped());
    let has_all = |line: &str| line.contains("WARN") && told.iter().all(|part| line.contains(part));
    eventually("it warns", || proxy.program.stderr().lines().any(has_all));
    proxy
}

#[test]
fn a_client_certificate_that_has_expired_is_an_error_for_check_and_shown_with_a_warning() {
    let authority = Authority::new("a test's");
    let folder = empty_folder();
    let (cert, key) = authority.sign_expired(&["client.example"]).files(&folder, "client");
    let config = json!({ "upstream_tls": {"client_cert": cert, "client_key": key} });
    let told = "found a certificate that expired at 2020-01-01";
    let (code, said) = check(&folder, &config);
    let wanted = format!("upstream_tls.client_cert: {}: {told}", cert.display());
    assert!(code == Some(2) && said.contains(&wanted) && said.starts_with("p.json:1:"), "{said}");
    drop(warns(
        config,
        &["the certificate of client.example in ", told, "shown all the same, and backends will refuse"],
    ));
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn a_chain_with_a_link_that_has_expired_is_an_error_for_check_and_warned_of() {
    let authority = Authority::new("a test's");
    let below = authority.expired_below("below");
    let folder = empty_folder();
    let mut signed = below.sign(&["localhost"]);
    signed.chain.extend([below.der(), authority.der()]);
    let (cert, key) = signed.files(&folder, "chain");
    let told = "found a certificate that expired at 2020-01-01";
    let port = support::free_port();
    for (config, field, served) in [
        (
            json!({ "upstream_tls": {"client_cert": cert, "client_key": key} }),
            "upstream_tls.client_cert",
            "backends will refuse what it vouches for",
        ),
        (
            json!({ "tls": {"port": port, "bind": "127.0.0.1", "certificates": [{"cert": cert, "key": key}]} }),
            "tls.certificates[0].cert",
            "clients will refuse what it vouches for",
        ),
    ] {
        let (code, said) = check(&folder, &config);
        let wanted = format!("{field}: {}: the certificate of \"CN=below\": {told}", cert.display());
        assert!(code == Some(2) && said.contains(&wanted) && said.lines().count() == 1, "{said}");
        drop(warns(config, &["the certificate of \"CN=below\" behind that of localhost in ", told, served]));
    }
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn authorities_that_have_expired_are_warned_of_and_what_they_vouch_for_is_taken() {
    let old = Authority::expired("old");
    let folder = empty_folder();
    let ca = old.file(&folder);
    let shown = old.sign(&["localhost"]);
    let (cert, key) = shown.files(&folder, "shown");
    let origin = SecureOrigin::start(&shown);
    let port = support::free_port();
    let told = "found a certificate that expired at 2020-01-01";
    let certificates = json!([{"cert": cert, "key": key}]);
    for (config, field) in [
        (json!({ "backends": [origin.url()], "upstream_tls": {"ca": ca} }), "upstream_tls.ca"),
        (
            json!({ "tls": {"port": port, "bind": "127.0.0.1", "certificates": certificates, "client_ca": ca} }),
            "tls.client_ca",
        ),
    ] {
        let (code, said) = check(&folder, &config);
        let wanted = format!("{field}: {}: the authority \"CN=old\": {told}", ca.display());
        assert!(code == Some(0) && said.contains(&wanted) && said.lines().count() == 1, "{code:?}: {said}");
        assert!(said.starts_with("p.json:1:") && said.contains("what it vouches for is taken all the same"), "{said}");
        let is_upstream = field == "upstream_tls.ca";
        let proxy = warns(config, &["the authority \"CN=old\" in ", told, "what it vouches for is taken all the same"]);
        if is_upstream {
            assert_eq!(proxy.get("/").text(), "localhost");
        }
    }
    let _ = fs::remove_dir_all(&folder);
}
