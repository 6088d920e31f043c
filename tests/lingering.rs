//! Clients that read late, and sides that read slowly: the last answer reaches those that send all before they read, and who
//! takes a little at a time is not cut as if it took nothing.

mod support;

use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Origin, Proxy, curl, skip};

/// More than the kernel keeps for a connection whose other end doesn't read.
const BYTES: usize = 24 << 20;

/// A proxy that refuses bodies of more than a megabyte.
fn refusing(origin: &Origin) -> Proxy {
    Proxy::with(&[origin], json!({ "limits": {"body_bytes": 1 << 20} }))
}

#[test]
fn an_early_answer_reaches_a_client_that_sends_all_before_it_reads() {
    let origin = Origin::answering("ok");
    let limited = json!({ "rate_limit": {"requests": 1, "per": "1h", "burst": 1, "key": "header:X-Key"} });
    let length = format!("Content-Length: {BYTES}\r\n\r\n");
    for (status, backends, settings, head) in [
        (413, 1, json!({ "limits": {"body_bytes": 1 << 20} }), length.as_str()),
        (429, 1, limited, length.as_str()),
        (503, 0, json!({}), length.as_str()),
        (400, 1, json!({}), "Transfer-Encoding: chunked\r\n\r\nno size\r\n"),
        (431, 1, json!({}), "X: "),
    ] {
        let proxy = Proxy::with(&[&origin][..backends], settings);
        let mut client = proxy.client();
        if status == 429 {
            let first = client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Key: 1\r\n\r\n").answer();
            assert_eq!(first.status(), 200);
        }
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nX-Key: 1\r\n{head}"));
        client.send(vec![b'x'; BYTES]);
        assert_eq!(client.answer().status(), status);
        client.wait_for_end();
    }
}

#[test]
fn real_clients_see_an_early_413_whatever_they_send() {
    let origin = Origin::answering("ok");
    let proxy = refusing(&origin);
    for megabytes in [4, 32, 100] {
        let bytes = megabytes << 20;
        for (name, answer) in [
            ("curl", Some(by_curl(&proxy, bytes))),
            ("python", by_python(&proxy, bytes)),
            ("node", by_node(&proxy, bytes)),
        ] {
            assert!(answer.is_none_or(|answer| answer == "413"), "{name} with {megabytes} MB");
        }
    }
    assert_eq!(origin.count(), 0);
}

fn by_curl(proxy: &Proxy, bytes: usize) -> String {
    let folder = support::proxy::empty_folder();
    let file = folder.join("body");
    std::fs::File::create(&file).and_then(|file| file.set_len(bytes as u64)).expect("writable");
    let body = format!("@{}", file.display());
    let status =
        curl(&["-o", "/dev/null", "-w", "%{http_code}", "-H", "Expect:", "--data-binary", &body, &proxy.url("/")]);
    let _ = std::fs::remove_dir_all(folder);
    String::from_utf8_lossy(&status.stdout).into_owned()
}

fn by_python(proxy: &Proxy, bytes: usize) -> Option<String> {
    let script = "import http.client, sys
client = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=20)
client.request('POST', '/', b'x' * int(sys.argv[2]))
print(client.getresponse().status, end='')";
    output(Command::new("python3").args(["-c", script, &proxy.port.to_string(), &bytes.to_string()]))
}

/// The standard client of node, which fails where its connection is reset while it sends.
fn by_node(proxy: &Proxy, bytes: usize) -> Option<String> {
    let script = "const [port, bytes] = process.argv.slice(1).map(Number);
fetch(`http://127.0.0.1:${port}/`, {method: 'POST', body: Buffer.alloc(bytes)})
  .then(async answer => { await answer.text(); process.stdout.write(`${answer.status}`) })
  .catch(error => process.stdout.write(`${error.cause?.code ?? error}`))";
    output(Command::new("node").args(["-e", script, &proxy.port.to_string(), &bytes.to_string()]))
}

/// What a client printed; None, with a word on it, where there is none.
fn output(client: &mut Command) -> Option<String> {
    match client.output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            skip(&format!("{}: {error}", client.get_program().display()));
            None
        }
    }
}

/// Takes a piece each 20 ms for so long, then all the rest up to so many bytes; says how much it was.
fn read_steadily(bytes: usize, lasts: Duration, mut read: impl FnMut(&mut [u8]) -> usize) -> usize {
    let began = Instant::now();
    let mut into = vec![0; 1 << 20];
    let mut all = 0;
    while all < bytes {
        let slowly = began.elapsed() < lasts;
        let most = if slowly { 2048 } else { into.len() };
        match read(&mut into[..most]) {
            0 => break,
            n => all += n,
        }
        if slowly {
            thread::sleep(Duration::from_millis(20));
        }
    }
    all
}

const PATIENCE_MS: u64 = 1000;
const SLOW: Duration = Duration::from_secs(5);

fn hurried() -> Value {
    let patience = format!("{PATIENCE_MS}ms");
    json!({ "timeouts": {"write": patience, "body_idle": patience} })
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gets_all_of_its_answer() {
    let origin = Origin::start(|exchange| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {BYTES}\r\n\r\n"));
        exchange.send(vec![7; BYTES]);
        exchange.close();
    });
    let proxy = Proxy::with(&[&origin], hurried());
    let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer_head().status(), 200);
    assert_eq!(read_steadily(BYTES, SLOW, |into| client.read(into).expect("it isn't cut")), BYTES);
    assert_eq!(proxy.status()["failures"]["client_write_stalled"], 0);
}

/// The small body is all with the kernel at once, while its backend has hardly any of it.
#[test]
fn a_backend_that_reads_an_upload_slowly_but_steadily_gets_all_of_it() {
    for bytes in [1 << 20, BYTES] {
        let (told, read) = mpsc::channel();
        let origin = Origin::with_small_window(move |exchange| {
            let _ = told.send(read_steadily(bytes, SLOW, |into| exchange.read(into)));
            // Not `answer`, which reads the body itself.
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
        let mut settings = hurried();
        settings["request_timeout"] = "2s".into();
        let proxy = Proxy::with(&[&origin], settings);
        let mut client = proxy.client();
        let mut writer = client.writer();
        writer.set_read_timeout(Some(support::PATIENCE * 3)).expect("a socket");
        writer.set_write_timeout(Some(support::PATIENCE * 3)).expect("a socket");
        let upload = thread::spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
            writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&vec![7; bytes]))
        });
        assert_eq!(client.answer().status(), 200);
        assert_eq!(read.recv_timeout(support::PATIENCE), Ok(bytes));
        upload.join().expect("no panic").expect("the proxy takes it");
    }
}
