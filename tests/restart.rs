//! A backend that is restarted, alone or with all others: requests wait for it for a moment.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Message, Origin, Proxy, eventually};

/// How long a request waits for the last backend.
const AWAY_MAX: Duration = Duration::from_secs(1);

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

/// Clients that ask one after the other, by GET and POST, over kept connections and new ones, and what went wrong.
struct Crowd {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<Message>>>,
    /// Held to read while a request is under way, so that whoever has it to write knows that none is.
    quiet: Arc<RwLock<()>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn over(proxy: &Proxy, clients: usize) -> Self {
        let (stop, asked, wrong) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Vec<Message>>>)>::default();
        let quiet = Arc::<RwLock<()>>::default();
        let client = |number: usize| {
            let (stop, asked, wrong, quiet) =
                (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&wrong), Arc::clone(&quiet));
            let port = proxy.port;
            thread::spawn(move || {
                let mut client = Client::connect(port);
                for turn in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    if usize::is_multiple_of(turn, 16) {
                        client = Client::connect(port);
                    }
                    let begun = quiet.read().expect("not poisoned");
                    client.send(if usize::is_multiple_of(number + turn, 2) { GET } else { POST });
                    let answer = client.answer();
                    asked.fetch_add(1, Ordering::SeqCst);
                    drop(begun);
                    if answer.status() != 200 {
                        wrong.lock().expect("not poisoned").push(answer);
                    }
                }
            })
        };
        let threads = (0..clients).map(client).collect();
        Self { stop, asked, wrong, quiet, threads }
    }

    /// Ends the origins when no request is under way: what is would be lost with any proxy.
    fn between_requests(&self, act: impl FnOnce()) {
        let quiet = self.quiet.write().expect("not poisoned");
        act();
        drop(quiet);
    }

    /// So many requests more have been answered.
    #[track_caller]
    fn asks(&self, more: usize) {
        let enough = self.asked.load(Ordering::SeqCst) + more;
        eventually("it goes on", || self.asked.load(Ordering::SeqCst) >= enough);
    }

    #[track_caller]
    fn expect_nothing_lost(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        let wrong = self.wrong.lock().expect("not poisoned");
        let asked = self.asked.load(Ordering::SeqCst);
        assert!(wrong.is_empty(), "{} of {asked} requests: {:?}", wrong.len(), wrong[0]);
    }
}

fn ok(exchange: &mut support::Exchange) {
    exchange.read_body();
    exchange.answer(200, "ok");
}

/// Restarts `origins` under a crowd, `times` times, each away for so long.
#[track_caller]
fn restart_under(proxy: &Proxy, mut origins: Vec<Origin>, away: &[Duration]) {
    let crowd = Crowd::over(proxy, 32);
    for time in away {
        eventually("they are away for no longer than that", || {
            crowd.asks(200);
            let (mut ports, mut began) = (Vec::new(), Instant::now());
            crowd.between_requests(|| {
                began = Instant::now();
                ports.extend(std::mem::take(&mut origins).into_iter().map(Origin::stop));
            });
            thread::sleep(*time);
            origins.extend(ports.into_iter().map(|port| Origin::start_on(port, ok)));
            let in_time = began.elapsed() < *time + AWAY_MAX / 5;
            crowd.asks(200);
            if !in_time {
                // The machine kept them away.
                crowd.wrong.lock().expect("not poisoned").clear();
            }
            in_time
        });
    }
    crowd.expect_nothing_lost();
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn proxy(origins: &[&Origin], on_top: Value) -> Proxy {
    let proxy = Proxy::with(origins, on_top);
    for origin in origins {
        eventually("it is known to be up", || origin.probes() > 0 && proxy.is_alive(origin));
    }
    proxy
}

#[test]
fn a_restart_of_the_only_backend_costs_no_request() {
    let origin = Origin::start(ok);
    let proxy = proxy(&[&origin], json!({}));
    restart_under(&proxy, vec![origin], &[ms(30), ms(150), ms(700)]);
}

#[test]
fn a_restart_of_all_backends_costs_no_request() {
    let origins: Vec<_> = (0..3).map(|_| Origin::start(ok)).collect();
    let proxy = proxy(&origins.iter().collect::<Vec<_>>(), json!({}));
    restart_under(&proxy, origins, &[ms(150)]);
}

#[test]
fn waiting_for_the_only_backend_takes_neither_tries_nor_budget_nor_its_breaker() {
    let origin = Origin::start(ok);
    let on_top = json!({
        "retries": {"attempts": 1, "budget_percent": 0},
        "circuit_breaker": {"consecutive_failures": 1, "max_ejected_percent": 100, "open": "1m"},
    });
    let proxy = proxy(&[&origin], on_top);
    restart_under(&proxy, vec![origin], &[ms(150)]);
}

#[test]
fn the_only_backend_with_a_bound_keeps_to_it_after_a_restart() {
    let (busy, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let origin = Origin::start(ok);
    let backends = json!([{"url": origin.url(), "max_connections": 3}]);
    let proxy = Proxy::with(&[], json!({ "backends": backends, "queue": {"timeout": "30s"} }));
    eventually("it is known to be up", || origin.probes() > 0 && proxy.is_alive(&origin));
    let crowd = Crowd::over(&proxy, 32);
    crowd.asks(200);
    let mut port = 0;
    crowd.between_requests(|| port = origin.stop());
    thread::sleep(ms(150));
    let seen = (Arc::clone(&busy), Arc::clone(&most));
    let _origin = Origin::start_on(port, move |exchange| {
        let now = seen.0.fetch_add(1, Ordering::SeqCst) + 1;
        seen.1.fetch_max(now, Ordering::SeqCst);
        exchange.read_body();
        seen.0.fetch_sub(1, Ordering::SeqCst);
        exchange.answer(200, "ok");
    });
    crowd.asks(500);
    crowd.expect_nothing_lost();
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

#[test]
fn a_backend_that_stays_away_gives_a_503_after_a_second_and_at_once_when_it_is_known_to_be_down() {
    let origin = Origin::start(ok);
    let proxy = proxy(&[&origin], json!({}));
    let port = origin.stop();
    let begin = Instant::now();
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(answer.list("proxy-status").contains("destination_unavailable"), "{answer:?}");
    assert!(!answer.list("retry-after").is_empty(), "{answer:?}");
    assert!(begin.elapsed() >= AWAY_MAX, "after {:?}", begin.elapsed());
    eventually("its probes take it down", || proxy.status()["active_backends"] == 0);
    let begin = Instant::now();
    assert_eq!(proxy.get("/").status(), 503);
    assert!(begin.elapsed() < AWAY_MAX, "after {:?}", begin.elapsed());
    let _back = Origin::start_on(port, ok);
    eventually("it comes back", || proxy.get("/").status() == 200);
}

#[test]
fn no_more_wait_for_it_than_the_queue_has_room_for() {
    let origin = Origin::start(ok);
    let proxy = proxy(&[&origin], json!({ "queue": {"size": 2} }));
    let port = origin.stop();
    let mut clients: Vec<_> = (0..6).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("four are turned away", || proxy.status()["failures"]["backend_away"] == 4);
    let _back = Origin::start_on(port, ok);
    let mut statuses: Vec<_> = clients.iter_mut().map(|client| client.answer().status()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503]);
}

#[test]
fn those_that_wait_go_to_a_backend_that_is_added_meanwhile() {
    let (origin, other) = (Origin::start(ok), Origin::answering("other"));
    let proxy = proxy(&[&origin], json!({}));
    origin.stop();
    let mut waiting = proxy.client();
    waiting.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    eventually("it waits", || proxy.status()["queue"]["waiting"] == 1);
    assert_eq!(proxy.mutate("POST", &other).status(), 201);
    assert_eq!(waiting.answer().text(), "other");
}

#[test]
fn those_that_wait_hear_at_once_when_the_backend_is_removed() {
    let origin = Origin::start(ok);
    let proxy = proxy(&[&origin], json!({}));
    let url = json!({ "url": origin.url() }).to_string();
    origin.stop();
    let begin = Instant::now();
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it waits", || proxy.status()["queue"]["waiting"] == 1);
    assert_eq!(proxy.admin("DELETE", "/backends", &url).status(), 204);
    let answer = waiting.answer();
    assert!(answer.status() == 503 && begin.elapsed() < AWAY_MAX, "{answer:?} after {:?}", begin.elapsed());
}

#[test]
fn where_another_backend_serves_a_refusal_takes_one_out_as_ever() {
    let (gone, kept) = (Origin::start(ok), Origin::answering("kept"));
    let proxy = proxy(&[&gone, &kept], json!({}));
    let url = gone.url();
    gone.stop();
    for _ in 0..10 {
        let answer = proxy.get("/");
        assert_eq!(answer.text(), "kept");
    }
    eventually("it is out", || proxy.status()["active_backends"] == 1);
    let status = proxy.status();
    let alive = |backend: &Value| backend["url"] != url.as_str() || backend["alive"] == false;
    assert!(status["backends"].as_array().expect("a list").iter().all(alive), "{status}");
}
