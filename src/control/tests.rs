//! The control plane as a whole: the admin API over real sockets, with what it does to the workers' snapshot.

mod quiet;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::admin::AdminServer;
use super::server::{Answer, Bounds, Call, Server, Serving};
use super::*;
use crate::balance::{InFlight, Pool, Strategy};
use crate::config::BackendUrl;
use crate::observe::{Counts, Reason};
use crate::plan::{Kept, Plan, Room};

const SOON: Duration = Duration::from_secs(10);

struct Scene {
    pool: Arc<Pool>,
    control: Arc<ControlPlane>,
    admin: Serving,
    /// The snapshot's version when the workers last passed their mailboxes.
    settled: Arc<AtomicU64>,
    /// Workers that don't pass theirs.
    stuck: Arc<AtomicUsize>,
    /// How often workers have been waited for.
    waits: Arc<AtomicUsize>,
}

/// What the workers would have counted.
fn counts() -> Counts {
    let failures = Reason::ALL.iter().map(|&reason| (reason, u64::from(reason == Reason::NoBackend))).collect();
    Counts {
        connections_open: 2,
        accepted: 3,
        accept_errors: 4,
        failures,
        queue: (8, 9),
        retries: (6, 7),
        handshakes: None,
        panics: 5,
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The detail of a problem document, which it has to be.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.head.contains("\r\nContent-Type: application/problem+json\r\n"), "{}", self.head);
        let document = self.json();
        assert_eq!(document["status"], status);
        assert!(document["type"].is_string() && document["title"].is_string(), "{document}");
        document["detail"].as_str().unwrap().to_owned()
    }
}

impl Scene {
    /// A control plane over these backends, probed hourly, so that only what a test does moves anything.
    fn with(urls: &[String]) -> Self {
        let backends = urls.iter().map(|url| {
            let url = BackendUrl::parse(url).unwrap();
            BackendConfig::at(url)
        });
        let mut config = Config { backends: backends.collect(), ..Config::default() };
        config.health_check.interval = Duration::from_secs(3600);
        config.health_check.fast_interval = Duration::from_millis(20);
        Self::of(&config)
    }

    fn of(config: &Config) -> Self {
        let (kept, reports) = Kept::new(Room::of(2, 100));
        let route = Plan::build(config, &kept).route;
        let pool = kept.pool;
        let settled = Arc::new(AtomicU64::new(0));
        let (seen, book) = (Arc::clone(&pool), Arc::clone(&settled));
        let stuck = Arc::new(AtomicUsize::new(0));
        let waits = Arc::new(AtomicUsize::new(0));
        let (held, asked) = (Arc::clone(&stuck), Arc::clone(&waits));
        let barrier: Barrier = Box::new(move |wait_max| {
            asked.fetch_add(1, Ordering::SeqCst);
            // What a call waits for by itself is made short.
            let wait_max = if wait_max == BARRIER_WAIT_MAX { Duration::from_millis(10) } else { wait_max };
            let deadline = Instant::now() + wait_max;
            while held.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            book.store(seen.snapshot.load().version, Ordering::SeqCst);
            held.load(Ordering::SeqCst)
        });
        let control = ControlPlane::start(config, &route, reports, 2, barrier).unwrap();
        let control = Arc::new(control);
        control.set_serving();
        let admin = AdminServer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let admin = admin.serve(Arc::clone(&control), Box::new(counts), 64).unwrap();
        Self { pool, control, admin, settled, stuck, waits }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let length = body.len();
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn get(&self, path: &str) -> Reply {
        self.call("GET", path, "")
    }

    fn send(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(self.admin.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: format!("{head}\r\n"), body: body.to_owned() }
    }

    fn eligible(&self) -> Vec<String> {
        self.pool.snapshot.load().eligible().map(|backend| backend.url.clone()).collect()
    }

    fn version(&self) -> u64 {
        self.pool.snapshot.load().version
    }

    fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < SOON, "it never came true: {}", self.get("/backends").body);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A backend that answers.
fn good() -> (Serving, String) {
    let ok = |_: &Call| Answer::text(200, "ok");
    let serving = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap().serve(ok, Bounds::default()).unwrap();
    let url = format!("http://{}", serving.address());
    (serving, url)
}

/// A URL at which nothing listens.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn status_has_exactly_the_seeds_fields() {
    let (_serving, one) = good();
    let two = dead();
    let scene = Scene::with(&[one.clone(), two.clone()]);
    scene.wait_for(|scene| scene.eligible() == [one.clone()]);
    let backend = Arc::clone(scene.pool.snapshot.load().backends().next().unwrap());
    let in_flight = [InFlight::begin(Arc::clone(&backend)), InFlight::begin(backend)].map(Option::unwrap);
    let reply = scene.get("/status");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("\r\nContent-Type: application/json\r\n"), "{}", reply.head);
    let want = format!(
        "{{\"total_backends\":2,\"active_backends\":1,\"backends\":[\
         {{\"url\":\"{one}\",\"alive\":true,\"current_connections\":2,\"circuit_breaker\":null}},\
         {{\"url\":\"{two}\",\"alive\":false,\"current_connections\":0,\"circuit_breaker\":null}}],\
         \"connections\":{{\"open\":2,\"accepted\":3,\"accept_errors\":4}},\"failures\":{{"
    );
    assert!(reply.body.starts_with(&want), "{}", reply.body);
    let end = "},\"retries\":{\"sent\":6,\"denied\":7},\"panics\":5,\"panic_mode\":false}\n";
    assert!(reply.body.ends_with(end), "{}", reply.body);
    let failures = reply.json()["failures"].clone();
    assert_eq!(failures.as_object().unwrap().len(), Reason::ALL.len());
    assert_eq!((&failures["no_backend"], &failures["client_gone"]), (&json!(1), &json!(0)));
    drop(in_flight);
}

#[test]
fn a_backend_that_is_added_gets_the_next_picks_is_probed_at_once_and_shown_in_full() {
    let (_serving, url) = good();
    let scene = Scene::with(&[]);
    let reply = scene.call("POST", "/backends", &json!({ "url": url }).to_string());
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!(scene.eligible(), std::slice::from_ref(&url));
    assert!(scene.settled.load(Ordering::SeqCst) >= 2, "it was answered before the workers knew");
    let name = url.strip_prefix("http://").unwrap();
    assert!(reply.head.contains(&format!("\r\nLocation: /backends/{name}\r\n")), "{}", reply.head);
    let shown = reply.json();
    for (field, want) in [
        ("name", json!(name)),
        ("url", json!(url)),
        ("source", json!("admin")),
        ("state", json!("ready")),
        ("health", json!("unknown")),
        ("eligible", json!(true)),
        ("weight", json!(1)),
        ("in_flight", json!(0)),
        ("addresses", json!([name])),
        ("latency_ms", json!({ "p50": null, "p90": null, "p99": null })),
    ] {
        assert_eq!(shown[field], want, "{field}");
    }
    scene.wait_for(|scene| scene.get(&format!("/backends/{name}")).json()["health"] == "up");
    let shown = scene.get("/backends").json();
    assert_eq!(shown.as_array().map(Vec::len), Some(1));
    assert_eq!(shown[0]["last_probe"]["passed"], true);
    assert_eq!(shown[0]["last_probe"]["reason"], "answered 200");
    assert!(shown[0]["last_probe"]["late_ms"].is_number());
    assert_eq!(shown[0]["changes"][0]["what"], "up: answered 200");
    assert_eq!(shown[0]["changes"][1]["what"], "added through the admin API");
}

#[test]
fn a_backend_by_name_has_its_addresses_before_it_is_answered() {
    let (serving, _) = good();
    let scene = Scene::with(&[]);
    let port = serving.address().port();
    let reply = scene.call("POST", "/backends", &format!("{{\"url\":\"http://LOCALHOST:{port}/\",\"name\":\"mine\"}}"));
    let shown = reply.json();
    let loopback = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
    assert!(shown["addresses"].as_array().unwrap().contains(&json!(loopback)), "{shown}");
    assert_eq!(shown["name"], "mine");
    assert_eq!(shown["url"], format!("http://LOCALHOST:{port}/"), "as written");
    let again = scene.call("POST", "/backends", &format!("{{\"url\":\"http://localhost:{port}\"}}"));
    assert!(again.problem(409).contains("mine"));
    let namesake = scene.call("POST", "/backends", "{\"url\":\"http://127.0.0.1:1\",\"name\":\"mine\"}");
    assert!(namesake.problem(409).contains("name"));
}

#[test]
fn what_is_wrong_is_told_and_changes_nothing() {
    let url = dead();
    let scene = Scene::with(std::slice::from_ref(&url));
    scene.wait_for(|scene| scene.version() == 2); // it is down
    for (method, path, body, status, told) in [
        ("POST", "/backends", "", 400, "missing"),
        ("POST", "/backends", "{\"url\": ", 400, "line 1 column 9: not JSON"),
        ("POST", "/backends", "\n{\"url\" 7}", 400, "line 2 column 8: not JSON"),
        ("POST", "/backends", "[]", 400, "a list"),
        ("POST", "/backends", "\"http://a\"", 400, "an object"),
        ("POST", "/backends", "{}", 400, "url"),
        ("POST", "/backends", "{\"url\": \"http://a\", \"url\": \"http://b\"}", 400, "twice"),
        ("POST", "/backends", "{\"url\": 7}", 400, "url"),
        ("POST", "/backends", "{\"url\": \"ftp://a\"}", 400, "scheme"),
        ("POST", "/backends", "{\"url\": \"https://a?x=1\"}", 400, "query"),
        ("POST", "/backends", "{\"url\": \"http://\"}", 400, "host"),
        ("POST", "/backends", "{\"url\": \"http://a\", \"weigth\": 1}", 400, "weigth"),
        ("POST", "/backends?wait=1s", "{\"url\": \"http://a\"}", 400, "\"wait\""),
        ("DELETE", "/backends", "", 400, "missing"),
        ("DELETE", "/backends", "{\"url\": \"nonsense\"}", 400, "nonsense"),
        ("DELETE", "/backends", "{\"name\": \"x\"}", 400, "name"),
        ("DELETE", "/backends", "{\"url\": \"http://127.0.0.1:1\", \"url\": \"http://b\"}", 400, "twice"),
        ("DELETE", "/backends", "{\"url\": \"http://127.0.0.1:1\"}", 404, "127.0.0.1:1"),
        ("DELETE", "/backends?wait=soon", &json!({ "url": url }).to_string(), 400, "soon"),
        ("DELETE", "/backends?wait=2h", &json!({ "url": url }).to_string(), 400, "hour"),
        ("DELETE", "/backends?now=1", &json!({ "url": url }).to_string(), 400, "now"),
        ("DELETE", "/backends/nobody", "", 404, "nobody"),
        ("DELETE", "/backends/%zz", "", 400, "percent"),
        ("GET", "/backends/nobody", "", 404, "nobody"),
        ("GET", "/backends/", "", 404, "/backends/"),
        ("GET", "/status?x=1", "", 400, "\"x\""),
        ("GET", "/nowhere", "", 404, "/nowhere"),
        ("GET", "/", "", 404, "/status"),
        ("GET", "/metrics", "", 404, "/metrics"),
    ] {
        let detail = scene.call(method, path, body).problem(status);
        assert!(detail.contains(told), "{method} {path} {body}: {detail}");
    }
    assert_eq!(scene.version(), 2);
    assert_eq!(scene.get("/status").json()["total_backends"], 1);
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let scene = Scene::with(&[]);
    for (method, path, allowed) in [
        ("PUT", "/backends", "GET, HEAD, POST, PATCH, DELETE"),
        ("PUT", "/backends/a:1", "GET, HEAD, PATCH, DELETE"),
        ("POST", "/status", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
    ] {
        let reply = scene.call(method, path, "");
        reply.problem(405);
        assert!(reply.head.contains(&format!("\r\nAllow: {allowed}\r\n")), "{}", reply.head);
    }
}

#[test]
fn a_body_over_one_mebibyte_is_refused() {
    let scene = Scene::with(&[]);
    let body = format!("{{\"url\":\"http://127.0.0.1:1\"{}}}", " ".repeat(1024 * 1024));
    scene.call("POST", "/backends", &body).problem(413);
    let fits = &format!("{{\"url\":\"http://127.0.0.1:1\"{}}}", " ".repeat(1_000_000));
    assert_eq!(scene.call("POST", "/backends", fits).status, 201);
}

#[test]
fn a_page_of_another_origin_is_refused_and_changes_nothing() {
    let scene = Scene::with(&[]);
    let body = "{\"url\":\"http://127.0.0.1:1\"}";
    for fields in [
        "Host: localhost\r\nOrigin: http://evil.example",
        "Host: evil.example",
        "Host: localhost\r\nSec-Fetch-Site: cross-site",
    ] {
        let length = body.len();
        let request = format!(
            "POST /backends HTTP/1.1\r\n{fields}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        scene.send(&request).problem(403);
    }
    assert_eq!(scene.get("/status").json()["total_backends"], 0);
}

#[test]
fn a_removed_backend_is_gone_at_once_by_url_or_name() {
    let urls = [dead(), dead()];
    let scene = Scene::with(&urls);
    let written_otherwise = urls[0].replace("http://", "HTTP://") + "/";
    let reply = scene.call("DELETE", "/backends", &json!({ "url": written_otherwise }).to_string());
    assert_eq!((reply.status, &*reply.body), (204, ""));
    assert_eq!(scene.settled.load(Ordering::SeqCst), scene.version(), "it was answered before the workers knew");
    assert_eq!(scene.get("/status").json()["total_backends"], 1);
    let name = urls[1].strip_prefix("http://").unwrap();
    assert_eq!(scene.call("DELETE", &format!("/backends/{name}"), "").status, 204);
    assert_eq!(scene.call("DELETE", &format!("/backends/{name}"), "").status, 404);
    assert_eq!(scene.pool.snapshot.load().backends().count(), 0);
}

#[test]
fn a_removal_that_waits_is_answered_when_the_last_request_has_ended_or_the_time_is_over() {
    let urls = [dead(), dead()];
    let scene = Scene::with(&urls);
    let backends: Vec<_> = scene.pool.snapshot.load().backends().cloned().collect();
    let in_flight: Vec<_> = backends.iter().map(|backend| InFlight::begin(Arc::clone(backend)).unwrap()).collect();
    let path =
        |index: usize, wait: &str| format!("/backends/{}?wait={wait}", urls[index].strip_prefix("http://").unwrap());
    let reply = scene.call("DELETE", &path(0, "30ms"), "");
    assert_eq!((reply.status, &reply.json()["in_flight"]), (202, &json!(1)));
    let reply = thread::scope(|scope| {
        let call = scope.spawn(|| scene.call("DELETE", &path(1, "10s"), ""));
        scene.wait_for(|scene| scene.pool.snapshot.load().backends().next().is_none());
        drop(in_flight);
        call.join().unwrap()
    });
    assert_eq!(reply.status, 204);
}

#[test]
fn a_change_that_a_worker_has_not_taken_in_is_not_answered_as_done() {
    let (one, two) = (dead(), dead());
    let scene = Scene::with(std::slice::from_ref(&one));
    let name = |url: &str| url.strip_prefix("http://").unwrap().to_owned();
    let by_url = |url: &str| json!({ "url": url }).to_string();
    let weight = |url: &str| json!({ "url": url, "weight": 2 }).to_string();
    let calls = |wait: &str| {
        [
            ("POST", "/backends".to_owned(), by_url(&two), 201),
            ("PATCH", format!("/backends{wait}"), weight(&two), 200),
            ("PATCH", format!("/backends/{}{wait}", name(&one)), json!({ "state": "drain" }).to_string(), 200),
            ("PATCH", format!("/backends/{}{wait}", name(&one)), json!({ "state": "ready" }).to_string(), 200),
            ("DELETE", format!("/backends{wait}"), by_url(&two), 204),
            ("DELETE", format!("/backends/{}{wait}", name(&one)), String::new(), 204),
            ("POST", "/backends".to_owned(), by_url(&one), 201),
        ]
    };
    for (stuck, wait) in [(1, ""), (2, "?wait=20ms"), (0, ""), (0, "?wait=10s")] {
        scene.stuck.store(stuck, Ordering::SeqCst);
        for (method, path, body, done) in calls(wait) {
            let reply = scene.call(method, &path, &body);
            if stuck == 0 {
                assert_eq!(reply.status, done, "{method} {path}: {}", reply.body);
                continue;
            }
            let url = if body.contains(&two) { &two } else { &one };
            let known = json!({ "name": name(url), "url": url, "in_flight": 0, "workers_behind": stuck });
            assert_eq!((reply.status, reply.json()), (202, known), "{method} {path}");
            if method == "POST" {
                assert!(reply.head.contains(&format!("\r\nLocation: /backends/{}\r\n", name(url))), "{}", reply.head);
            }
        }
        assert_eq!(scene.get("/status").json()["total_backends"], 1, "it was made all the same");
    }
}

#[test]
fn a_call_that_waits_waits_for_the_workers_too() {
    let url = dead();
    let scene = Scene::with(std::slice::from_ref(&url));
    scene.stuck.store(1, Ordering::SeqCst);
    let path = format!("/backends/{}?wait=10s", url.strip_prefix("http://").unwrap());
    let reply = thread::scope(|scope| {
        let call = scope.spawn(|| scene.call("DELETE", &path, ""));
        scene.wait_for(|scene| scene.waits.load(Ordering::SeqCst) > 1);
        scene.stuck.store(0, Ordering::SeqCst);
        call.join().unwrap()
    });
    assert_eq!((reply.status, &*reply.body), (204, ""));
}

#[test]
fn readiness_follows_the_phases_and_the_backends() {
    let (serving, url) = good();
    let scene = Scene::with(std::slice::from_ref(&url));
    let health = scene.get("/healthz");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    assert_eq!(scene.get("/readyz").status, 200);
    scene.wait_for(|scene| scene.get("/backends").json()[0]["health"] == "up");
    drop(serving);
    let backend = Arc::clone(scene.pool.snapshot.load().backends().next().unwrap());
    scene.pool.reports.try_send(Report::Refused(backend)).unwrap();
    scene.wait_for(|scene| scene.eligible().is_empty());
    assert!(scene.get("/readyz").problem(503).contains("no healthy backend"));
    let shown = scene.get("/backends").json();
    assert_eq!(shown[0]["ineligible_reason"], "down: connection refused");
    scene.control.set_draining();
    assert!(scene.get("/readyz").problem(503).contains("draining"));
    scene.control.set_serving();
    assert!(scene.get("/readyz").problem(503).contains("draining"), "there is no way back");
    assert_eq!(scene.get("/healthz").status, 200);
}

#[test]
fn a_refused_backend_comes_back_by_itself() {
    let (_serving, url) = good();
    let (_other_serving, other) = good();
    let scene = Scene::with(&[url.clone(), other.clone()]);
    scene.wait_for(|scene| (0..2).all(|index| scene.get("/backends").json()[index]["health"] == "up"));
    let backend = Arc::clone(scene.pool.snapshot.load().backends().next().unwrap());
    let version = scene.version();
    scene.pool.reports.try_send(Report::Refused(backend)).unwrap();
    scene.wait_for(|scene| scene.version() == version + 2);
    assert_eq!(scene.eligible(), [url, other]);
}

#[test]
fn the_last_eligible_backend_stays_eligible_whatever_it_refuses() {
    let (_serving, url) = good();
    let (_drained_serving, drained) = good();
    let scene = Scene::with(&[drained.clone(), url.clone()]);
    scene.wait_for(|scene| (0..2).all(|index| scene.get("/backends").json()[index]["health"] == "up"));
    let drain = json!({ "url": drained, "state": "drain" }).to_string();
    assert_eq!(scene.call("PATCH", "/backends", &drain).status, 200);
    let last = scene.pool.snapshot.load().backends().nth(1).map(Arc::clone).unwrap();
    let version = scene.version();
    scene.pool.reports.try_send(Report::Refused(last)).unwrap();
    // It is probed for that, and found to be well.
    let probes = scene.get("/backends").json()[1]["last_probe"]["at"].clone();
    scene.wait_for(|scene| scene.get("/backends").json()[1]["last_probe"]["at"] != probes);
    assert_eq!((scene.version(), scene.eligible()), (version, vec![url]));
}

#[test]
fn it_is_not_ready_before_it_serves() {
    let (config, (kept, reports)) = (Config::default(), Kept::new(Room::of(1, 100)));
    let route = Plan::build(&config, &kept).route;
    let control = ControlPlane::start(&config, &route, reports, 1, Box::new(|_| 0)).unwrap();
    assert_eq!(control.readiness(), Err(NotReady::Starting));
    control.set_serving();
    assert_eq!(control.readiness(), Err(NotReady::NoBackend));
}

#[test]
fn another_configurations_settings_hold_for_the_same_backends_once_it_is_told_of_them() {
    let mut config = Config { backends: Vec::new(), ..Config::default() };
    config.health_check.interval = Duration::from_secs(3600);
    let scene = Scene::of(&config);
    let add = |url| assert_eq!(scene.call("POST", "/backends", &json!({ "url": url }).to_string()).status, 201);
    add("http://127.0.0.1:1");
    let before = scene.pool.snapshot.load_full();
    config.limits.max_in_flight = 1;
    config.strategy = Strategy::LeastConn;
    config.slow_start = Duration::from_secs(20);
    let (kept, _reports) = Kept::new(Room::of(2, 100));
    let made = scene.control.go_by(&config, &Plan::build(&config, &kept).route).unwrap();
    assert_eq!(made.workers_behind, 0);
    let snapshot = scene.pool.snapshot.load_full();
    assert_eq!(scene.settled.load(Ordering::SeqCst), snapshot.version, "the workers have been waited for");
    assert_eq!((snapshot.policy().strategy.clone(), snapshot.policy().in_flight_max), (Strategy::LeastConn, 1));
    let [one, other] = [&before, &snapshot].map(|each| Arc::clone(each.backends().next().unwrap()));
    assert!(Arc::ptr_eq(&one, &other));
    add("http://127.0.0.1:2");
    scene.wait_for(|scene| scene.control.registry().read(|entries| entries[1].ramp_percent > 5));
}

#[test]
fn a_thousand_mutations_leave_the_set_as_they_should() {
    let scene = Scene::with(&[]);
    thread::scope(|scope| {
        for caller in 0..4 {
            let scene = &scene;
            scope.spawn(move || {
                for turn in 0..125 {
                    let url = format!("http://127.0.0.1:{}", 1 + caller * 1000 + turn);
                    let body = json!({ "url": url }).to_string();
                    assert_eq!(scene.call("POST", "/backends", &body).status, 201);
                    if turn % 25 != 0 {
                        assert_eq!(scene.call("DELETE", "/backends", &body).status, 204);
                    }
                }
            });
        }
    });
    let snapshot = scene.pool.snapshot.load();
    assert_eq!(snapshot.backends().count(), 20);
    assert_eq!(scene.get("/status").json()["total_backends"], 20);
    let slots = snapshot.backends().map(|backend| backend.slot).max();
    assert!(slots < Some(60), "slots aren't reused: {slots:?}");
}
