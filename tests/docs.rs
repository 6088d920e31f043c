//! The shell examples of the README that are marked as tested work as printed, in their order, in one shell.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::proxy::empty_folder;
use support::{eventually, free_port};

const MARK: &str = "<!-- tested -->\n```sh\n";

/// Before the examples: curl fails when its answer says so, and waits for what was started a line before; the load
/// generators do nothing where they aren't installed.
const PRELUDE: &str = r#"set -e
curl() { command curl --silent --show-error --fail-with-body --retry 50 --retry-connrefused --retry-delay 1 --max-time 60 "$@"; }
command -v ab >/dev/null || ab() { :; }
command -v hey >/dev/null || hey() { :; }
"#;

/// A shell and all that it started, ended together when dropped.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let group = format!("kill -KILL -{}", self.0.id());
        let _ = Command::new("sh").args(["-c", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

const PORTS: [u16; 7] = [8080, 8081, 8082, 8083, 8084, 8085, 8443];

/// The examples with the README's ports replaced by free ones.
fn with_free_ports(text: &str) -> String {
    // By way of marks: a free port could contain the digits of a port that is replaced next.
    let marked = PORTS.iter().fold(text.to_owned(), |text, port| text.replace(&port.to_string(), &mark(*port)));
    PORTS.iter().fold(marked, |text, port| text.replace(&mark(*port), &free_port().to_string()))
}

fn mark(port: u16) -> String {
    format!("@{}@", port - 8080)
}

#[test]
fn the_readmes_walk_through_works_as_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("there");
    let examples: Vec<_> = readme.split(MARK).skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 6, "the marks are gone");
    let config = std::fs::read_to_string(root.join("conf/maypole.json")).expect("there");
    assert!(readme.contains(config.trim()), "the README shows another conf/maypole.json than the one that is there");

    let text = run("conf/maypole.json", &examples.concat());
    for line in text.lines().filter(|line| line.starts_with("Failed requests:") || line.contains("Non-2xx")) {
        assert_eq!(line.split_whitespace().last(), Some("0"), "{text}");
    }
    for line in text.lines().filter(|line| line.contains("] ") && line.trim_end().ends_with(" responses")) {
        assert!(line.trim_start().starts_with("[200]"), "{text}");
    }
}

#[test]
fn https_takes_the_three_lines_of_the_readme() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("there");
    let (_, rest) = readme.split_once("<!-- tested: https -->\n```sh\n").expect("the mark is there");
    let (example, _) = rest.split_once("```").expect("an end");
    assert_eq!(example.lines().count(), 3, "{example}");
    let text = run("conf/tls.json", &format!("maypole backend --port 8082 &\n{example}"));
    assert!(text.contains("GET / HTTP/1.1"), "a backend has answered: {text}");
}

/// Runs these examples with a configuration that is shipped, all with free ports; what they said.
fn run(config: &str, examples: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = std::fs::read_to_string(root.join(config)).expect("there");
    // One text, so that the configuration gets the same ports as the examples. The admin port is a default there.
    let shipped = shipped.replacen("8080,", "8080, \"admin_port\": 8081,", 1);
    let joined = with_free_ports(&format!("{shipped}\0{PRELUDE}{examples}"));
    let (shipped, script) = joined.split_once('\0').expect("put there");
    let folder = empty_folder();
    std::fs::create_dir(folder.join("conf")).expect("writable");
    std::fs::write(folder.join(config), shipped).expect("writable");

    let said = folder.join("output");
    let output = File::create(&said).expect("writable");
    let programs = Path::new(env!("CARGO_BIN_EXE_maypole")).parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let shell = Command::new("sh")
        .args(["-c", script])
        .current_dir(&folder)
        .env("PATH", format!("{programs}:{path}"))
        .env("no_proxy", "*")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a descriptor is left"))
        .stderr(output)
        .spawn()
        .expect("sh runs");
    let mut shell = Shell(shell);
    let read = || {
        let mut text = String::new();
        File::open(&said).expect("there").read_to_string(&mut text).expect("UTF-8");
        text
    };
    let mut status = None;
    let patience = std::time::Instant::now() + Duration::from_secs(120);
    while status.is_none() && std::time::Instant::now() < patience {
        status = shell.0.try_wait().expect("our child");
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = read();
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {text}");
    drop(shell);
    eventually("its folder is gone", || std::fs::remove_dir_all(&folder).is_ok());
    text
}
