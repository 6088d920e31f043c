//! Starting, and refusing to: one clear line and exit code 2.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::proxy::{empty_folder, settings};
use support::{Client, Origin, PATIENCE, Program, Proxy, eventually, free_port};

/// Runs the binary to its end.
#[track_caller]
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut program = Program::start_in(folder, arguments);
    let status = program.wait_for_exit(PATIENCE);
    Output { status, stdout: program.stdout().into(), stderr: program.stderr().into() }
}

/// Runs the binary, which must refuse with exit code 2 and one line; returns that line.
#[track_caller]
fn refusal(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line, please: {said}");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    said
}

fn write(folder: &Path, config: &Value) -> String {
    let file = folder.join("maypole.json");
    std::fs::write(&file, config.to_string()).expect("writable");
    file.to_str().expect("UTF-8").to_owned()
}

#[test]
fn both_spellings_of_config_are_understood() {
    let origin = Origin::answering("ok");
    let folder = empty_folder();
    let config = settings(&[origin.url()]);
    let file = write(&folder, &config);
    let port = u16::try_from(config["port"].as_u64().expect("a port")).expect("a port");
    for arguments in [vec!["--config", &file], vec![&format!("--config={file}")]] {
        let _program = Program::start_in(&folder, &arguments);
        eventually("it listens", || Client::try_connect(port).is_ok());
        assert_eq!(Client::connect(port).get("/").text(), "ok");
    }
}

#[test]
fn without_arguments_the_usual_file_is_taken() {
    let origin = Origin::answering("ok");
    let folder = empty_folder();
    std::fs::create_dir(folder.join("conf")).expect("writable");
    let config = settings(&[origin.url()]);
    std::fs::write(folder.join("conf/maypole.json"), config.to_string()).expect("writable");
    let port = u16::try_from(config["port"].as_u64().expect("a port")).expect("a port");
    let _program = Program::start_in(&folder, &[]);
    eventually("it listens", || Client::try_connect(port).is_ok());
}

#[test]
fn without_arguments_and_file_one_line_says_what_to_do() {
    let said = refusal(&empty_folder(), &[]);
    assert!(said.contains("--config") || said.contains("demo"), "{said}");
}

#[test]
fn a_missing_file_is_named() {
    let said = refusal(&empty_folder(), &["--config", "nowhere.json"]);
    assert!(said.contains("nowhere.json"), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    for field in ["port", "admin_port"] {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = taken.local_addr().expect("bound").port();
        let folder = empty_folder();
        let mut config = settings(&[]);
        config[field] = json!(port);
        let said = refusal(&folder, &["--config", &write(&folder, &config)]);
        assert!(said.contains(&port.to_string()), "{said}");
    }
}

#[test]
fn a_second_proxy_on_the_same_ports_is_refused_and_the_first_is_not_disturbed() {
    let origin = Origin::answering("ok");
    let first = Proxy::over(&[&origin]);
    let folder = empty_folder();
    let mut config = settings(&[]);
    config["port"] = json!(first.port);
    let said = refusal(&folder, &["--config", &write(&folder, &config)]);
    assert!(said.contains(&first.port.to_string()), "{said}");
    for _ in 0..10 {
        assert_eq!(first.get("/").text(), "ok");
    }
}

#[test]
fn a_bad_flag_is_named() {
    let said = refusal(&empty_folder(), &["--nonsense"]);
    assert!(said.contains("--nonsense"), "{said}");
}

#[test]
fn an_unknown_field_is_named_with_the_nearest_known_one() {
    let folder = empty_folder();
    let mut config = settings(&[]);
    config["stratgy"] = json!("round-robin");
    let said = refusal(&folder, &["--config", &write(&folder, &config)]);
    assert!(said.contains("stratgy") && said.contains("strategy"), "{said}");
}

#[test]
fn check_prints_every_error_with_its_path_and_line() {
    let folder = empty_folder();
    let file = folder.join("bad.json");
    let text = "{\n  \"port\": 99999,\n  \"strategy\": \"best\",\n  \"backends\": [\"http://a\", \"ftp://b\"],\n  \"timeouts\": {\"head\": \"soon\"}\n}\n";
    std::fs::write(&file, text).expect("writable");
    let output = run(&folder, &["check", "--config", "bad.json"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for (path, line) in [("port", 2), ("strategy", 3), ("backends[1]", 4), ("timeouts.head", 5)] {
        let found = said.lines().any(|text| text.contains(path) && text.contains(&format!(":{line}:")));
        assert!(found, "no word of {path} on line {line}: {said}");
    }
}

#[test]
fn check_approves_of_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["conf/maypole.json", "conf/full.json"] {
        let output = run(root, &["check", "--config", file]);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_config_that_can_not_work_is_refused_before_anything_starts() {
    let bad: [(&str, Value); 7] = [
        ("port", json!("8080")),
        ("workers", json!(0)),
        ("strategy", json!("wishful")),
        ("backends", json!(["http://127.0.0.1:1", "http://127.0.0.1:1/"])),
        ("health_check_frequency", json!("soon")),
        ("admin_bind", json!("0.0.0.0")),
        ("tls", json!({})),
    ];
    for (field, value) in bad {
        let folder = empty_folder();
        let mut config = settings(&[]);
        config[field] = value;
        let said = refusal(&folder, &["--config", &write(&folder, &config)]);
        assert!(said.contains(field), "{field}: {said}");
    }
}

#[test]
fn version_and_help_go_to_stdout() {
    let folder = empty_folder();
    let version = run(&folder, &["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    let help = run(&folder, &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for command in ["check", "demo", "backend", "--config"] {
        assert!(String::from_utf8_lossy(&help.stdout).contains(command), "no {command}: {help:?}");
    }
}

#[test]
fn the_sample_backend_says_who_it_is_and_what_it_saw() {
    for flag in ["--port", "-port"] {
        let port = free_port();
        let _backend = Program::start(&["backend", flag, &port.to_string()]);
        eventually("it listens", || Client::try_connect(port).is_ok());
        let ask = "GET /a?b HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
        let answer = Client::connect(port).send(ask).answer();
        assert_eq!(answer.status(), 200);
        for part in [&port.to_string()[..], "GET /a?b", "192.0.2.1"] {
            assert!(answer.text().contains(part), "no {part}: {answer:?}");
        }
        assert_eq!(Client::connect(port).get("/health").status(), 200);
    }
}
