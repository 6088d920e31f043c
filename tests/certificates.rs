//! Certificates that change while the proxy runs, and files that can't be used.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use maypole::transport::pem;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use support::proxy::{empty_folder, settings};
use support::{Origin, PATIENCE, Program, Proxy, eventually, free_port};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// From one look at the files to the next, where a test doesn't want to wait for a minute. Debug builds alone know it.
const LOOK: &str = "MAYPOLE_TEST_LOOK_MS";

/// An authority that clients trust.
struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate of it and its key, as PEM.
struct Pair {
    cert: String,
    key: String,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name.push(DnType::CommonName, "authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = parameters.self_signed(&key).expect("a certificate").der().to_vec();
        Self { der, issuer: Issuer::new(parameters, key) }
    }

    fn pem(&self) -> String {
        pem::write("CERTIFICATE", &self.der)
    }

    fn pair(&self, name: &str) -> Pair {
        let now = SystemTime::now();
        self.pair_valid(name, now - DAY, now + 90 * DAY)
    }

    fn pair_valid(&self, name: &str, from: SystemTime, to: SystemTime) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (parameters.not_before, parameters.not_after) = (from.into(), to.into());
        let der = parameters.signed_by(&key, &self.issuer).expect("a certificate").der().to_vec();
        let key = pem::write("PRIVATE KEY", &key.serialize_der());
        Pair { cert: pem::write("CERTIFICATE", &der), key, der }
    }

    /// A connection to `port` that has shaken hands.
    fn connect(&self, port: u16) -> Tls {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.der.clone())).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut stream = StreamOwned::new(client, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("a handshake");
        }
        Tls(stream)
    }
}

struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    /// What the server has shown.
    fn shown(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().expect("it has shown one")[0].to_vec()
    }

    /// The status of a GET, whose answer has `Content-Length`.
    fn get(&mut self) -> u16 {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it takes a request");
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
                });
                if body.len() >= length.expect("a length") {
                    return head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
                }
            }
            let mut piece = [0; 4096];
            let read = self.0.read(&mut piece).expect("an answer");
            assert!(read > 0, "the answer ended early: {text}");
            answer.extend_from_slice(&piece[..read]);
        }
    }
}

/// A proxy with a TLS port, and the files that it shows.
struct Scene {
    proxy: Proxy,
    port: u16,
    folder: PathBuf,
    authority: Authority,
    first: Pair,
    _origin: Origin,
}

impl Scene {
    /// With looks at the files so far apart in milliseconds.
    fn new(look_ms: u64) -> Self {
        let authority = Authority::new();
        let (folder, port, first) = (empty_folder(), free_port(), authority.pair("localhost"));
        let origin = Origin::answering("ok");
        put(&folder, &first.cert, &first.key);
        let at = |name: &str| folder.join(name).display().to_string();
        let tls = json!({
            "port": port, "bind": "127.0.0.1", "certificates": [{"cert": at("a.pem"), "key": at("a.key")}],
        });
        let look = [(LOOK, &*look_ms.to_string())];
        let proxy = Proxy::with_log(&[&origin], json!({ "tls": tls }), &look, Stdio::piped());
        Self { proxy, port, folder, authority, first, _origin: origin }
    }

    fn shown(&self) -> Vec<u8> {
        self.authority.connect(self.port).shown()
    }

    fn problems(&self) -> Value {
        self.proxy.admin("GET", "/certificates", "").json()["problems"].clone()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes each beside where it belongs, and moves it there.
fn put(folder: &Path, cert: &str, key: &str) {
    for (name, text) in [("a.key", key), ("a.pem", cert)] {
        let beside = folder.join("new");
        fs::write(&beside, text).expect("writable");
        fs::rename(&beside, folder.join(name)).expect("the same folder");
    }
}

/// Swaps the certificate under load, and calls `tell` then.
fn swap_under_load(look_ms: u64, tell: impl Fn(&Program)) {
    let scene = Scene::new(look_ms);
    let (over, served, connected) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut old = scene.authority.connect(scene.port);
    assert_eq!((old.get(), old.shown()), (200, scene.first.der.clone()));
    let second = scene.authority.pair("localhost");
    thread::scope(|scope| {
        // Half of them on one connection each, half on a new one for each request. Any that fails fails the test.
        for nth in 0..4 {
            let (scene, over, served, connected) = (&scene, &over, &served, &connected);
            scope.spawn(move || {
                let mut kept = scene.authority.connect(scene.port);
                while !over.load(Ordering::Relaxed) {
                    if nth % 2 == 0 {
                        kept = scene.authority.connect(scene.port);
                        connected.fetch_add(1, Ordering::Relaxed);
                    }
                    assert_eq!(kept.get(), 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let ended = End(&over);
        let more = |than: usize| eventually("more are served", || served.load(Ordering::Relaxed) > than + 50);
        more(0);
        put(&scene.folder, &second.cert, &second.key);
        tell(&scene.proxy.program);
        eventually("new connections are shown the new one", || scene.shown() == second.der);
        more(served.load(Ordering::Relaxed));
        for _ in 0..10 {
            assert_eq!(scene.shown(), second.der, "none is shown the old one any more");
        }
        drop(ended);
    });
    assert!(connected.load(Ordering::Relaxed) > 10);
    assert_eq!((old.get(), old.shown()), (200, scene.first.der.clone()), "those that there were go on");
    assert_eq!(scene.problems(), json!([]));
}

/// Ends the load, however the test ends.
struct End<'o>(&'o AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_signal_swaps_a_certificate_and_no_request_fails() {
    swap_under_load(3_600_000, |program| program.signal("HUP"));
}

#[cfg(debug_assertions)]
#[test]
fn a_look_at_the_files_swaps_a_certificate_and_no_request_fails() {
    swap_under_load(50, |_| {});
}

#[cfg(debug_assertions)]
#[test]
fn half_of_a_pair_is_told_of_and_the_old_one_stays_until_the_other_half_is_there() {
    let scene = Scene::new(50);
    let second = scene.authority.pair("localhost");
    fs::write(scene.folder.join("a.pem"), &second.cert).expect("writable");
    eventually("it is told of", || !scene.problems().as_array().expect("a list").is_empty());
    let problem = scene.problems()[0].clone();
    assert_eq!(problem["field"], "tls.certificates[0].key", "{problem}");
    let told = problem["problem"].as_str().expect("a text").to_owned();
    assert!(told.starts_with("found the key of another certificate, wanted that of the first one in "), "{told}");
    let lines = || {
        let log = scene.proxy.program.stderr();
        let is_told = |line: &&str| line.contains("ERROR") && line.contains(&told);
        log.lines().filter(is_told).map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("it is told loudly", || !lines().is_empty());
    assert_eq!(scene.shown(), scene.first.der);
    fs::write(scene.folder.join("a.key"), &second.key).expect("writable");
    eventually("the new one is shown", || scene.shown() == second.der);
    assert_eq!(scene.problems(), json!([]));
    // It has been looked at many times since.
    assert_eq!(lines().len(), 1, "once");
    assert!(lines()[0].contains("what was there before stays in use"), "{:?}", lines());
}

#[test]
fn what_is_shown_can_be_seen_in_the_admin_api() {
    let scene = Scene::new(3_600_000);
    let answer = scene.proxy.admin("GET", "/certificates", "");
    assert_eq!(answer.status(), 200, "{answer:?}");
    let list = answer.json();
    let one = &list["certificates"][0];
    assert_eq!(list["certificates"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(one["names"], json!(["localhost"]));
    assert_eq!(
        (&one["issuer"], &one["state"], &one["key"]),
        (&json!("CN=authority"), &json!("valid"), &json!("ECDSA"))
    );
    let cert = scene.folder.join("a.pem").display().to_string();
    let key = scene.folder.join("a.key").display().to_string();
    assert_eq!(one["source"], json!({ "from": "files", "cert": cert, "key": key }));
    let left = one["expires_in_s"].as_u64().expect("a number");
    assert!((89 * 24 * 3600..=90 * 24 * 3600).contains(&left), "{left}");
    assert_eq!(scene.proxy.admin("POST", "/certificates", "").status(), 405);

    let origin = Origin::answering("ok");
    let plain = Proxy::over(&[&origin]);
    assert_eq!(plain.admin("GET", "/certificates", "").json(), json!({ "certificates": [], "problems": [] }));
}

/// What `check` and a start say to these files, which lie beside the configuration; without the place in it.
fn refusals(files: &[(&str, &str)], tls: &Value) -> [(Option<i32>, String); 2] {
    let folder = empty_folder();
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("writable");
        let mode = if *name == "keys" { 0o600 } else { 0o644 };
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("ours");
    }
    let mut config = settings(&[]);
    config["tls"] = tls.clone();
    config["tls"]["port"] = free_port().into();
    fs::write(folder.join("p.json"), config.to_string()).expect("writable");
    let ended = [&["check", "--config", "p.json"][..], &["--config", "p.json"]].map(|arguments| {
        let mut program = Program::start_in(&folder, arguments);
        let status = program.wait_for_exit(PATIENCE);
        (status.code(), program.stderr())
    });
    let _ = fs::remove_dir_all(&folder);
    ended
}

#[test]
fn files_that_cannot_be_used_are_told_of_with_their_place_by_check_and_by_a_start() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (pair, other) = (authority.pair("a.example"), authority.pair("b.example"));
    let chain = format!("{}{}{}", pair.cert, other.cert, authority.pem());
    let forged = format!("{}{}", pair.cert, stranger.pem());
    let cut = &pair.key[..pair.key.len() - 30];
    let locked = pem::write("ENCRYPTED PRIVATE KEY", b"secret");
    let good: &[(&str, &str)] = &[("a.pem", &pair.cert), ("a.key", &pair.key)];
    let with = |more: &[(&'static str, &str)]| {
        let files = good.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name)).copied();
        files.chain(more.iter().copied()).map(|(name, text)| (name.to_owned(), text.to_owned())).collect::<Vec<_>>()
    };
    let one = json!([{"cert": "a.pem", "key": "a.key"}]);
    let plain = json!({ "certificates": one });
    let short = "x".repeat(79);
    for (files, tls, field, told) in [
        (
            with(&[("a.key", &other.key)]),
            plain.clone(),
            "tls.certificates[0].key",
            "a.key: found the key of another certificate, wanted that of the first one in a.pem",
        ),
        (
            with(&[("a.key", cut)]),
            plain.clone(),
            "tls.certificates[0].key",
            "a.key: found no PEM: a section has no end: is the file whole?",
        ),
        (
            with(&[("a.key", &locked)]),
            plain.clone(),
            "tls.certificates[0].key",
            "a.key: found a key with a password, wanted one without",
        ),
        (
            with(&[("a.key", &pair.cert)]),
            plain.clone(),
            "tls.certificates[0].key",
            "a.key: found no section of the wanted kind, wanted PEM with \"-----BEGIN PRIVATE KEY-----\"",
        ),
        (
            with(&[("a.pem", &chain)]),
            plain.clone(),
            "tls.certificates[0].cert",
            "a.pem: a broken chain: found the certificate of \"CN=rcgen self signed cert\" behind certificate 1, wanted that of its issuer \"CN=authority\"",
        ),
        (
            with(&[("a.pem", &forged)]),
            plain.clone(),
            "tls.certificates[0].cert",
            "a.pem: a broken chain: the names fit, but a certificate isn't signed by the one that follows it",
        ),
        (
            with(&[("a.pem", "")]),
            plain.clone(),
            "tls.certificates[0].cert",
            "a.pem: found no section of the wanted kind, wanted PEM with \"-----BEGIN CERTIFICATE-----\"",
        ),
        (
            with(&[]),
            json!({"certificates": [{"cert": "b.pem", "key": "a.key"}]}),
            "tls.certificates[0].cert",
            "b.pem: can't be read: No such file or directory (os error 2)",
        ),
        (
            with(&[]),
            json!({"certificates": [{"cert": ".", "key": "a.key"}]}),
            "tls.certificates[0].cert",
            ".: found something else than a file",
        ),
        (
            with(&[("a.ocsp", "nonsense")]),
            json!({"certificates": [{"cert": "a.pem", "key": "a.key", "ocsp": "a.ocsp"}]}),
            "tls.certificates[0].ocsp",
            "a.ocsp: found no OCSP answer, wanted DER of one that says how the certificate is (RFC 6960 §4.2.1)",
        ),
        (
            with(&[("ca.pem", &pair.key)]),
            json!({"certificates": one, "client_ca": "ca.pem"}),
            "tls.client_ca",
            "ca.pem: found no section of the wanted kind, wanted PEM with \"-----BEGIN CERTIFICATE-----\"",
        ),
        (
            with(&[("ca.pem", &authority.pem()), ("x.crl", &pair.cert)]),
            json!({"certificates": one, "client_ca": "ca.pem", "crl": ["x.crl"]}),
            "tls.crl[0]",
            "x.crl: found no section of the wanted kind, wanted PEM with \"-----BEGIN X509 CRL-----\"",
        ),
        (with(&[("keys", &short)]), json!({"certificates": one, "ticket_keys": "keys"}), "tls.ticket_keys", "keys: "),
        (
            with(&[("open", &short)]),
            json!({"certificates": one, "ticket_keys": "open"}),
            "tls.ticket_keys",
            "open: found mode 0644, wanted 0600: with these keys one reads what clients have sent",
        ),
    ] {
        assert_refused(&files, &tls, &format!("{field}: {told}"));
    }
}

/// Both say so in one line, with its place, and without a line of a key.
#[track_caller]
fn assert_refused(files: &[(String, String)], tls: &Value, wanted: &str) {
    let borrowed: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let keys = files.iter().filter(|(name, _)| name == "a.key").filter_map(|(_, text)| text.lines().nth(1));
    for (code, said) in refusals(&borrowed, tls) {
        assert_eq!(code, Some(2), "{wanted}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let rest = said.splitn(4, ':').last().unwrap_or_default().trim_start();
        assert!(said.starts_with("p.json:1:") && rest.starts_with(wanted), "wanted {wanted}, found {said}");
        assert!(keys.clone().all(|line| !said.contains(line)), "{said}");
    }
}

#[test]
fn one_that_is_not_valid_now_is_an_error_for_check_and_served_with_a_warning() {
    let authority = Authority::new();
    let now = SystemTime::now();
    for (from, to, told) in [
        (now - 30 * DAY, now - DAY, "found a certificate that expired at "),
        (now + DAY, now + 30 * DAY, "found a certificate that is valid from "),
    ] {
        let folder = empty_folder();
        let pair = authority.pair_valid("localhost", from, to);
        put(&folder, &pair.cert, &pair.key);
        let mut config = settings(&[]);
        let port = free_port();
        config["tls"] = json!({"port": port, "bind": "127.0.0.1", "certificates": [{"cert": "a.pem", "key": "a.key"}]});
        fs::write(folder.join("p.json"), config.to_string()).expect("writable");
        let mut check = Program::start_in(&folder, &["check", "--config", "p.json"]);
        assert_eq!(check.wait_for_exit(PATIENCE).code(), Some(2));
        assert!(check.stderr().contains(&format!("tls.certificates[0].cert: a.pem: {told}")), "{}", check.stderr());
        let program = Program::start_in(&folder, &["--config", "p.json"]);
        eventually("it serves", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let warns = |line: &str| line.contains("WARN") && line.contains(told) && line.contains("served all the same");
        eventually("it warns", || program.stderr().lines().any(warns));
        drop(program);
        let _ = fs::remove_dir_all(&folder);
    }
}
