//! The tables of cases, against the real binary over real sockets, in clear and over TLS on both sides: each case twice, its bytes
//! sent whole and byte by byte. `requests.txt` and `responses.txt` say what a case is.

#[path = "../support/mod.rs"]
mod support;
mod table;

use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crossbeam::channel::{Receiver, bounded};
use serde_json::json;
use support::bridge::Bridge;
use support::proxy::{empty_folder, settings};
use support::secure::Authority;
use support::{Client, Exchange, Message, Origin, PATIENCE, Proxy, eventually, free_port};
use table::Row;

/// How the bytes of a case are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pieces {
    Whole,
    Bytes,
}

/// Asks on the same connection for what the origins of all cases answer alike.
const ONE_MORE: &str = "GET /kept HTTP/1.1\r\nHost: a\r\n\r\n";

/// The limit that cases of `limits.body_bytes` mean.
const BODY_BYTES_MAX: u64 = 1000;

#[test]
fn requests_come_out_as_the_table_says() {
    assert_no_failures(&failures(&table::requests(), &Requests::set_up(Wire::Clear), Pieces::Whole));
}

#[test]
fn requests_come_out_as_the_table_says_byte_by_byte() {
    assert_no_failures(&failures(&table::requests(), &Requests::set_up(Wire::Clear), Pieces::Bytes));
}

#[test]
fn requests_come_out_as_the_table_says_over_tls() {
    assert_no_failures(&failures(&table::requests(), &Requests::set_up(Wire::Tls), Pieces::Whole));
}

#[test]
fn requests_come_out_as_the_table_says_over_tls_byte_by_byte() {
    assert_no_failures(&failures(&table::requests(), &Requests::set_up(Wire::Tls), Pieces::Bytes));
}

#[test]
fn responses_come_out_as_the_table_says() {
    assert_no_failures(&failures(&table::responses(), &Responses::set_up(Wire::Clear), Pieces::Whole));
}

#[test]
fn responses_come_out_as_the_table_says_byte_by_byte() {
    assert_no_failures(&failures(&table::responses(), &Responses::set_up(Wire::Clear), Pieces::Bytes));
}

#[test]
fn responses_come_out_as_the_table_says_over_tls() {
    assert_no_failures(&failures(&table::responses(), &Responses::set_up(Wire::Tls), Pieces::Whole));
}

#[test]
fn responses_come_out_as_the_table_says_over_tls_byte_by_byte() {
    assert_no_failures(&failures(&table::responses(), &Responses::set_up(Wire::Tls), Pieces::Bytes));
}

/// Two readers of one format would let a backend be up whose every answer is refused.
#[test]
fn health_checks_take_and_refuse_the_answers_that_traffic_does() {
    let rows: Vec<_> = table::responses().into_iter().filter(Probes::is_of).collect();
    assert!(rows.len() > 100, "only {} cases", rows.len());
    assert_no_failures(&failures(&rows, &Probes::set_up(), Pieces::Whole));
    assert_no_failures(&failures(&rows, &Probes::set_up(), Pieces::Bytes));
}

#[test]
fn every_case_has_a_name_of_its_own_and_a_rule() {
    let rows: Vec<_> = table::requests().into_iter().chain(table::responses()).collect();
    let mut names = HashSet::new();
    for row in &rows {
        assert!(names.insert(row.name), "line {}: there are two of {:?}", row.line, row.name);
        let is_rule = row.section.starts_with("RFC ") && row.section.contains(" §");
        assert!(is_rule || row.section.starts_with("limits."), "line {}: {:?} is no rule", row.line, row.section);
    }
    assert!(rows.len() >= 250, "only {} cases", rows.len());
}

/// A case that is wrong in one thing each.
const WRONG: &str = r"wrong status | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 400 closed
wrong number of answers | RFC 9112 §3 | GET / HTTP/1.0\r\n\r\n | 200 200 closed
an answer that nobody wants | RFC 9112 §3 | \{GET / HTTP/1.1\r\nHost: a\r\n\r\n*2} | 200 kept
kept, not closed | RFC 9112 §3 | GET / HTTP/1.0\r\nHost: a\r\n\r\n | 200 kept
wrong line | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 200 kept; line GET /x HTTP/1.1
wrong field | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 200 kept; field Host: b
a field that is there | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 200 kept; no Host
wrong body | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 200 kept; body x
wrong number of requests | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 200 kept; seen 0
no such trailer | RFC 9112 §3 | GET / HTTP/1.1\r\nHost: a\r\n\r\n | 200 kept; trailer X: 1";

#[test]
fn a_wrong_case_fails() {
    let rows = table::rows(WRONG, 2);
    let failed = failures(&rows, &Requests::set_up(Wire::Clear), Pieces::Whole);
    assert_eq!(failed.len(), rows.len(), "only these failed: {failed:#?}");
}

/// Proxy and origin of a table's cases.
trait Scene {
    /// Plays a case; panics where it isn't as the table says.
    fn play(&self, row: &Row, pieces: Pieces);
}

fn failures(rows: &[Row], scene: &dyn Scene, pieces: Pieces) -> Vec<String> {
    let play = |row: &Row| {
        let outcome = catch_unwind(AssertUnwindSafe(|| scene.play(row, pieces)));
        let said = outcome.err().map(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => other.downcast::<&str>().map_or_else(|_| "it failed".to_owned(), |text| (*text).to_owned()),
        });
        said.map(|why| format!("line {}, {}: {why}", row.line, row.name))
    };
    rows.iter().filter_map(play).collect()
}

fn assert_no_failures(failures: &[String]) {
    assert!(failures.is_empty(), "{} cases fail:\n  {}", failures.len(), failures.join("\n  "));
}

fn send(mut to: impl Write, bytes: &[u8], pieces: Pieces) {
    // Who refuses the first bytes may have closed before the last: that is no fault of the case.
    let _ = match pieces {
        Pieces::Whole => to.write_all(bytes),
        // What is long is about its length, and comes in pieces of some size.
        Pieces::Bytes => {
            let (first, rest) = bytes.split_at(bytes.len().min(1000));
            let mut pieces = first.chunks(1).chain(rest.chunks(499));
            pieces.try_for_each(|piece| to.write_all(piece))
        }
    };
}

/// What is spoken with the proxy, on both of its sides.
#[derive(Clone, Copy)]
enum Wire {
    Clear,
    Tls,
}

/// A proxy in front of one origin, each behind its bridge where they speak TLS.
struct Stage {
    _proxy: Proxy,
    port: u16,
    _bridges: Vec<Bridge>,
}

impl Stage {
    fn set_up(wire: Wire, origin: &Origin) -> Self {
        let mut config = settings(&[origin.url()]);
        config["limits"] = json!({ "body_bytes": BODY_BYTES_MAX });
        let Wire::Tls = wire else {
            let proxy = Proxy::start(&config);
            return Self { port: proxy.port, _proxy: proxy, _bridges: Vec::new() };
        };
        let (folder, authority, port) = (empty_folder(), Authority::new("cases"), free_port());
        let shown = authority.sign(&["localhost"]);
        let to_origin = Bridge::from_tls(origin.port(), &shown);
        let (cert, key) = shown.files(&folder, "shown");
        config["tls"] = json!({ "port": port, "bind": "127.0.0.1", "certificates": [{ "cert": cert, "key": key }] });
        config["upstream_tls"] = json!({ "ca": authority.file(&folder) });
        config["backends"] = json!([format!("https://localhost:{}", to_origin.port())]);
        let to_proxy = Bridge::to_tls(port, "localhost", &authority);
        Self { _proxy: Proxy::start(&config), port: to_proxy.port(), _bridges: vec![to_origin, to_proxy] }
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }
}

struct Requests {
    origin: Origin,
    stage: Stage,
}

impl Requests {
    fn set_up(wire: Wire) -> Self {
        let origin = Origin::answering("ok");
        let stage = Stage::set_up(wire, &origin);
        Self { origin, stage }
    }
}

impl Scene for Requests {
    fn play(&self, row: &Row, pieces: Pieces) {
        let [bytes, wanted] = row.columns[..] else { unreachable!("checked when it was read") };
        let bytes = table::bytes(bytes);
        let method = if bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        let before = self.origin.count();
        let mut client = self.stage.client();
        send(client.writer(), &bytes, pieces);

        let wanted = table::repeated(wanted);
        let mut parts = wanted.split(';').map(str::trim_start);
        let (statuses, then) = parts.next().and_then(|first| first.rsplit_once(' ')).expect("statuses, and what then");
        let mut answered = 0;
        for status in statuses.split_whitespace() {
            let answer = client.answer_to(method);
            assert_eq!(answer.status().to_string(), status, "{answer:?}");
            assert!(answer.complete, "{answer:?}");
            answered += usize::from(status == "200");
        }
        check_connection(&mut client, then);

        let mut seen = self.origin.requests().split_off(before);
        seen.retain(|request| request.complete && request.target() != "/kept");
        let mut seen_wanted = answered;
        for part in parts {
            match part.strip_prefix("seen ") {
                Some(count) => seen_wanted = count.parse().expect("a number"),
                None => check(seen.first().expect("nothing reached the backend"), part),
            }
        }
        assert_eq!(seen.len(), seen_wanted, "reached the backend: {seen:?}");
        check_trailers(seen.first(), &wanted);
    }
}

struct Responses {
    stage: Stage,
    script: Arc<Mutex<Script>>,
    origin: Origin,
}

/// What the origin does with the next request, but for those that ask whether the connection was kept.
#[derive(Clone, Default)]
struct Script {
    bytes: Vec<u8>,
    then: &'static str,
    pieces: Option<Pieces>,
    /// Tells when the client has the first of it: a reset may take along what hasn't left yet.
    begun: Option<Receiver<()>>,
}

impl Responses {
    fn set_up(wire: Wire) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let read = Arc::clone(&script);
        let origin = Origin::start(move |exchange| {
            exchange.read_body();
            if exchange.request.target() == "/kept" {
                return exchange.answer(200, "kept");
            }
            let script = read.lock().expect("not poisoned").clone();
            script.play(exchange);
        });
        let stage = Stage::set_up(wire, &origin);
        Self { stage, script, origin }
    }
}

impl Script {
    fn of(bytes: &'static str, pieces: Pieces, begun: Receiver<()>) -> Self {
        let ends = ["<close>", "<reset>"];
        let then = ends.into_iter().find(|end| bytes.ends_with(end)).unwrap_or_default();
        let bytes = table::bytes(bytes.strip_suffix(then).unwrap_or(bytes));
        Self { begun: Some(begun), then, bytes, pieces: Some(pieces) }
    }

    /// What it sends first is on its way to the client while the rest is cut off.
    fn is_cut_off(&self) -> bool {
        self.then == "<reset>" && !self.bytes.is_empty()
    }

    fn play(&self, exchange: &mut Exchange) {
        send(Sender(exchange), &self.bytes, self.pieces.unwrap_or(Pieces::Whole));
        if let (true, Some(begun)) = (self.is_cut_off(), &self.begun) {
            let _ = begun.recv_timeout(PATIENCE);
        }
        match self.then {
            "<close>" => exchange.close(),
            "<reset>" => exchange.reset(),
            _ => {}
        }
    }
}

/// An exchange to write to.
struct Sender<'a>(&'a mut Exchange);

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.send(bytes);
        if sent { Ok(bytes.len()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Scene for Responses {
    fn play(&self, row: &Row, pieces: Pieces) {
        let [request, bytes, wanted] = row.columns[..] else { unreachable!("checked when it was read") };
        let (begins, begun) = bounded(1);
        let script = Script::of(bytes, pieces, begun);
        let is_cut_off = script.is_cut_off();
        *self.script.lock().expect("not poisoned") = script;
        let (method, kind) = request.split_once(' ').unwrap_or((request, ""));
        let version = if kind.starts_with("1.0") { "1.0" } else { "1.1" };
        let fields = match (method, kind) {
            (_, "upgrade") => "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            (_, "1.0-kept") => "Connection: keep-alive\r\n\r\n",
            ("POST", _) => "Content-Length: 5\r\n\r\nhello",
            _ => "\r\n",
        };
        let mut client = self.stage.client();
        client.send(format!("{method} /case HTTP/{version}\r\nHost: a\r\n{fields}"));
        if is_cut_off {
            client.wait_for_bytes();
            begins.send(()).expect("the script waits for it");
        }
        let mut answer = client.answer_to(method);
        if answer.status() == 101 {
            answer.body = client.rest();
        }

        let wanted = table::repeated(wanted);
        let mut parts = wanted.split(';').map(str::trim_start);
        let outcomes = parts.next().expect("what comes out");
        let outcome = outcomes.split(" or ").find(|outcome| outcome.starts_with(&answer.status().to_string()));
        let (_, then) = outcome.and_then(|outcome| outcome.split_once(' ')).unwrap_or_else(|| panic!("got {answer:?}"));
        assert_eq!(answer.complete, then != "cut", "{answer:?}");
        check_connection(&mut client, if then == "cut" { "closed" } else { then });

        let (interim_wanted, rest): (Vec<_>, Vec<_>) = parts.partition(|part| part.starts_with("1xx "));
        let interim: Vec<_> = answer.interim.iter().map(|head| format!("1xx {}", head.status())).collect();
        assert_eq!(interim, interim_wanted);
        for part in rest {
            check(&answer, part);
        }
        check_trailers(Some(&answer), &wanted);
        let is_own = answer.status() == 502 && answer.field("server") == Some("maypole");
        assert_eq!(answer.field("proxy-status").is_some(), is_own, "{answer:?}");
    }
}

/// Proxies whose health checks ask for what a case answers, one a method, beside one whose traffic does.
struct Probes {
    traffic: Responses,
    probers: [(&'static str, Proxy); 2],
}

impl Probes {
    fn set_up() -> Self {
        let traffic = Responses::set_up(Wire::Clear);
        let prober = |method| {
            let check = json!({ "path": "/case", "method": method, "timeout": "5s", "expect": "100-599" });
            (method, Proxy::with(&[], json!({ "health_check": check, "health_check_frequency": "1h" })))
        };
        Self { traffic, probers: [prober("GET"), prober("HEAD")] }
    }

    /// Those of which a probe can ask, and of whose body it sees enough to judge.
    fn is_of(row: &Row) -> bool {
        let [request, bytes, _] = row.columns[..] else { unreachable!("checked when it was read") };
        matches!(request, "GET" | "HEAD") && table::bytes(bytes).len() < 64 * 1024
    }
}

impl Scene for Probes {
    fn play(&self, row: &Row, pieces: Pieces) {
        let [request, bytes, _] = row.columns[..] else { unreachable!("checked when it was read") };
        let script = Script { begun: None, ..Script::of(bytes, pieces, bounded(1).1) };
        *self.traffic.script.lock().expect("not poisoned") = script;
        let mut client = self.traffic.stage.client();
        client.send(format!("{request} /case HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer_to(request);
        let details = answer.list("proxy-status");
        let is_refused = !answer.complete || details.contains("details=");

        let (_, prober) = self.probers.iter().find(|(method, _)| *method == request).expect("one of each");
        let origin = self.traffic.origin.url();
        assert_eq!(prober.mutate("POST", &self.traffic.origin).status(), 201);
        let mut backend = serde_json::Value::Null;
        eventually("it is probed", || {
            backend = prober.admin("GET", "/backends", "").json()[0].take();
            backend["health"] != "unknown"
        });
        assert_eq!(prober.mutate("DELETE", &self.traffic.origin).status(), 204);
        let reason = backend["health_reason"].as_str().expect("a reason");
        let wanted = if is_refused { "down" } else { "up" };
        assert_eq!(backend["health"], wanted, "{origin}: {reason}, but traffic got {answer:?}");
        if answer.status() == 502 && is_refused {
            let words = details.split('"').nth(1).expect("its details");
            assert!(reason.ends_with(words), "{reason:?} to the operator, {words:?} to the client");
        }
    }
}

/// The connection serves another request, or has been ended without a further byte.
fn check_connection(client: &mut Client, then: &str) {
    match then {
        "closed" => drop(client.wait_for_end()),
        "kept" => {
            let answer = client.send(ONE_MORE).answer();
            assert_eq!(answer.status(), 200, "the connection isn't kept, or not in step: {answer:?}");
        }
        other => panic!("neither kept nor closed: {other:?}"),
    }
}

/// One part of what is wanted of a message.
fn check(message: &Message, part: &str) {
    let text = |escaped: &str| String::from_utf8_lossy(&table::unescaped(escaped)).into_owned();
    let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
    match word {
        "line" => assert_eq!(message.start, text(rest)),
        "reason" => assert_eq!(message.start.splitn(3, ' ').nth(2), Some(text(rest).as_str())),
        "body" => assert_eq!(message.text(), text(rest)),
        "no" => assert_eq!(message.all(rest), [] as [&str; 0]),
        "field" => {
            let (name, value) = rest.split_once(':').expect("a name and a value");
            let name = text(name);
            assert!(message.field(&name).is_some(), "no {name} in {message:?}");
            assert_eq!(message.list(&name), text(value.trim_start()), "{name}");
        }
        "trailer" => {} // all at once
        other => panic!("no such part: {other:?}"),
    }
}

fn check_trailers(message: Option<&Message>, wanted: &str) {
    let wanted: Vec<_> = wanted.split("; trailer ").skip(1).map(|rest| rest.split(';').next()).collect();
    if !wanted.is_empty() {
        let found = message.map(|message| message.trailers.clone()).unwrap_or_default();
        let found: Vec<_> = found.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(found.iter().map(|line| Some(line.as_str())).collect::<Vec<_>>(), wanted);
    }
}
