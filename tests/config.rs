//! What the real binary says to bad usage and bad configurations: clear lines on stderr, exit code 2, nothing started.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A run that ended.
#[derive(Debug, PartialEq)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A directory of its own for a test, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("a directory for the file");
        fs::write(path, content).expect("a file for the test");
        self
    }

    /// Runs maypole here. It must end by itself: what still runs after a minute was started by mistake, and is killed.
    fn maypole(&self, arguments: &[&str]) -> Ended {
        let mut child = Command::new(env!("CARGO_BIN_EXE_maypole"))
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (told, heard) = mpsc::channel();
        let readers = [
            reader(child.stdout.take().expect("it is piped"), told.clone()),
            reader(child.stderr.take().expect("it is piped"), told),
        ];
        let in_time = readers.iter().all(|_| heard.recv_timeout(Duration::from_secs(60)).is_ok());
        if !in_time {
            child.kill().expect("it can be killed");
        }
        let status = child.wait().expect("it ends");
        let [stdout, stderr] = readers.map(|reader| reader.join().expect("the reader doesn't panic"));
        assert!(in_time, "maypole {arguments:?} didn't end; stderr so far: {stderr}");
        Ended { code: status.code(), stdout, stderr }
    }

    fn refused(&self, arguments: &[&str], stderr: &str) {
        let wanted = Ended { code: Some(2), stdout: String::new(), stderr: stderr.to_owned() };
        assert_eq!(self.maypole(arguments), wanted, "maypole {arguments:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn reader(mut pipe: impl Read + Send + 'static, told: mpsc::Sender<()>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.read_to_end(&mut text);
        let _ = told.send(());
        String::from_utf8_lossy(&text).into_owned()
    })
}

const WRONG: &str = r#"{
  "port": 70000,
  "stratgy": "least-conn",
  "backends": ["http://127.0.0.1:1", "ftp://bbb", {"url": "http://127.0.0.1:1/"}],
  "timeouts": {"head": "10"}
}
"#;

const WRONG_TOLD: &str = "\
p.json:2:11: port: found 70000, wanted a whole number from 0 to 65535
p.json:3:3: stratgy: unknown field, did you mean \"strategy\"?
p.json:4:38: backends[1]: found \"ftp://bbb\", wanted http[s]://HOST[:PORT][/BASE]: its scheme is neither http nor https
p.json:4:59: backends[2].url: the same backend as backends[0]
p.json:5:24: timeouts.head: found \"10\", wanted a duration such as \"30s\" or \"1m30s\": a number needs a unit after it (ns, us, ms, s, m, h)
";

#[test]
fn a_missing_file_is_one_line() {
    let line = "no/p.json: can't be read: No such file or directory (os error 2)\n";
    for arguments in [&["--config", "no/p.json"][..], &["--config=no/p.json"], &["check", "--config", "no/p.json"]] {
        Place::new().refused(arguments, line);
    }
}

#[test]
fn a_directory_is_no_configuration() {
    Place::new().refused(&["--config", "."], ".: can't be read: Is a directory (os error 21)\n");
}

#[test]
fn bad_json_is_one_line_with_its_place() {
    let cases: [(&[u8], &str); 4] = [
        (b"{\n  \"port\": 8080,\n}", "p.json:2:15: not JSON: trailing commas are not allowed\n"),
        (b"{\n  // x\n}", "p.json:2:3: not JSON: comments are not allowed\n"),
        (b"", "p.json:1:1: not JSON: there is nothing\n"),
        (b"{\"strategy\": \"\xff\"}", "p.json: not JSON: byte 14 isn't UTF-8\n"),
    ];
    for (content, line) in cases {
        Place::new().with("p.json", content).refused(&["--config", "p.json"], line);
    }
}

#[test]
fn deep_nesting_is_one_line_with_its_place_and_ends_nothing() {
    let line = "p.json:2:24: found more than 16 lists and objects in one another, wanted at most 16\n";
    for levels in [17, 511, 100_000] {
        let place = Place::new().with("p.json", format!("{{\n  \"//\": {}1", "[".repeat(levels)));
        place.refused(&["--config", "p.json"], line);
        place.refused(&["check", "--config", "p.json"], line);
    }
}

#[test]
fn all_errors_are_told_at_once_and_nothing_is_started() {
    let place = Place::new().with("p.json", WRONG);
    place.refused(&["--config", "p.json"], WRONG_TOLD);
    place.refused(&["check", "--config=p.json"], WRONG_TOLD);
}

#[test]
fn check_looks_names_up_and_tells_which_do_not_resolve() {
    // .invalid never resolves (RFC 6761 §6.4); the reason's words are the system's.
    let content = "{\n\"port\": -1,\n\"backends\": [\"http://localhost:1\", {\"url\": \"http://nowhere.invalid:2\"}]}";
    let ended = Place::new().with("p.json", content).maypole(&["check", "--config", "p.json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "p.json:2:9: port: found -1, wanted a whole number from 0 to 65535");
    let wanted = "p.json:3:44: backends[1].url: the name \"nowhere.invalid\" doesn't resolve: ";
    assert!(lines[1].starts_with(wanted), "{lines:?}");
}

#[test]
fn check_tells_of_a_backend_that_is_the_proxy_itself() {
    for (settings, backend, listener) in [
        ("", "http://localhost:8080", Some("0.0.0.0:8080 (port)")),
        ("", "http://127.0.0.1:8080/base", Some("0.0.0.0:8080 (port)")),
        ("", "http://0.0.0.0:8080", Some("0.0.0.0:8080 (port)")),
        ("", "http://[::ffff:127.0.0.1]:8080", Some("0.0.0.0:8080 (port)")),
        ("", "http://127.0.0.1:8081", Some("127.0.0.1:8081 (admin_port)")),
        (r#""bind": "::", "port": 80,"#, "http://[::1]", Some("[::]:80 (port)")),
        (r#""bind": ["192.0.2.1", "127.0.0.1"],"#, "http://192.0.2.1:8080", Some("192.0.2.1:8080 (port)")),
        (r#""bind": "192.0.2.1","#, "http://127.0.0.1:8080", None),
        (r#""port": 0,"#, "http://127.0.0.1:80", None),
        ("", "http://127.0.0.1:8082", None),
        ("", "http://192.0.2.1:8080", None),
    ] {
        let place = Place::new().with("p.json", format!("{{{settings} \"backends\": [\"{backend}\"]}}"));
        let ended = place.maypole(&["check", "--config", "p.json"]);
        let told = listener.map(|listener| {
            format!("backends[0]: maypole itself, which listens on {listener}; wanted another server\n")
        });
        assert_eq!(ended.code, Some(if told.is_some() { 2 } else { 0 }), "{backend}: {ended:?}");
        assert!(ended.stderr.ends_with(told.as_deref().unwrap_or_default()), "{backend}: {ended:?}");
    }
}

#[test]
fn check_says_ok_to_a_good_configuration() {
    let one = Place::new().with("p.json", r#"{"backends": ["http://localhost:8082"]}"#);
    let good = |stdout: &str| Ended { code: Some(0), stdout: stdout.to_owned(), stderr: String::new() };
    assert_eq!(one.maypole(&["check", "--config", "p.json"]), good("p.json: ok, 1 backend\n"));

    let none = Place::new().with("conf/maypole.json", "{}");
    assert_eq!(none.maypole(&["check"]), good("conf/maypole.json: ok, 0 backends\n"), "it is looked for here");
}

#[test]
fn the_shipped_configurations_are_good() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for name in ["maypole.json", "full.json"] {
        let path = shipped.join(name);
        let path = path.to_str().expect("the path is UTF-8");
        let stdout = format!("{path}: ok, 3 backends\n");
        let wanted = Ended { code: Some(0), stdout, stderr: String::new() };
        assert_eq!(Place::new().maypole(&["check", "--config", path]), wanted);
    }
}

#[test]
fn bad_usage_is_one_line() {
    let cases: [(&[&str], &str); 8] = [
        (&[], "no configuration: conf/maypole.json isn't here; name one with --config FILE, or try: maypole demo"),
        (&["--confg", "p.json"], "unknown flag --confg, did you mean --config?"),
        (&["--confg=p.json"], "unknown flag --confg, did you mean --config?"),
        (&["demmo"], "unknown command \"demmo\", did you mean demo?"),
        (&["--config"], "--config needs a value: --config FILE"),
        (&["backend", "-prot", "1"], "unknown flag -prot, did you mean --port?"),
        (&["--config", "p.json", "demo"], "--config belongs to the proxy and to check, not to this command"),
        (&["demo", "--port", "9", "--admin-port=9"], "--port and --admin-port must differ"),
    ];
    for (arguments, line) in cases {
        Place::new().refused(arguments, &format!("maypole: {line}\n"));
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let version =
        Ended { code: Some(0), stdout: format!("maypole {}\n", env!("CARGO_PKG_VERSION")), stderr: String::new() };
    assert_eq!(Place::new().maypole(&["--version"]), version);
    for arguments in [&["--help"][..], &["check", "--help"], &["demo", "-h"], &["backend", "-help"]] {
        let help = Place::new().maypole(arguments);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(help.stdout.starts_with("Usage: maypole"), "{arguments:?}: {}", help.stdout);
    }
}
