use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::bounded;

use super::*;
use crate::balance::Origin;

const SOON: Duration = Duration::from_secs(10);
const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, headers: 20, uri_bytes: 1024 };

/// The backend that has no other one beside it.
const LAST: u64 = 7;

/// Passes on what it is told.
struct Listener(Sender<Told>);

#[derive(Debug)]
enum Told {
    Probed(u64, LastProbe, Option<Health>),
    Refused(u64),
    Unreachable(u64),
    Turned(u64, Transition, Instant),
    Elapsed(Instant),
}

impl Observer for Listener {
    fn probed(&self, id: u64, probe: LastProbe, changed: Option<Health>) {
        let _ = self.0.send(Told::Probed(id, probe, changed));
    }

    fn address_probed(&self, _: u64, _: SocketAddr, _: Health, _: &LastProbe) {}

    fn refused(&self, id: u64) {
        let _ = self.0.send(Told::Refused(id));
    }

    fn is_last_resort(&self, id: u64) -> bool {
        id == LAST
    }

    fn unreachable(&self, id: u64) {
        let _ = self.0.send(Told::Unreachable(id));
    }

    fn turned(&self, backend: &Backend, transition: Transition, chance: f64) -> Option<Instant> {
        assert!((0.0..1.0).contains(&chance));
        let due = Instant::now() + Duration::from_millis(30);
        let _ = self.0.send(Told::Turned(backend.id, transition, due));
        Some(due)
    }

    fn elapse(&self) -> Option<Instant> {
        let _ = self.0.send(Told::Elapsed(Instant::now()));
        None
    }
}

struct Scene {
    checker: Checker,
    told: Receiver<Told>,
    reports: Sender<Report>,
    moved: Sender<u64>,
}

impl Scene {
    fn start(check: &HealthCheck) -> Self {
        let (tell, told) = unbounded();
        let (reports, reported) = bounded(16);
        let (moved, followed) = unbounded();
        let observer = Arc::new(Listener(tell));
        let checker =
            Checker::start(Settings::new(check, LIMITS, None), reported, followed, observer, Random::seeded(1))
                .unwrap();
        Self { checker, told, reports, moved }
    }

    /// The next thing that is told; of a probe its id, whether it passed, and its reason.
    fn probed(&self) -> (LastProbe, Option<Health>) {
        match self.told.recv_timeout(SOON).unwrap() {
            Told::Probed(_, probe, changed) => (probe, changed),
            other => panic!("wanted a probe's end, was told {other:?}"),
        }
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        interval: Duration::from_secs(3600),
        path: "/health".into(),
        fast_interval: Duration::from_millis(10),
        jitter: 0.0,
        ..HealthCheck::default()
    }
}

fn backend(id: u64, address: SocketAddr) -> Arc<Backend> {
    let origin = Origin {
        name: format!("b{id}"),
        url: format!("http://{address}/base"),
        host: address.ip().to_string(),
        port: address.port(),
        base_path: "/base".into(),
    };
    Arc::new(Backend::new(id, 0, origin, 1))
}

/// Answers every connection with the same bytes after its request's head; ends when dropped.
struct Server {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    heads: Receiver<String>,
}

impl Server {
    fn answering(answer: &'static str) -> Self {
        Self::noting(answer, unbounded())
    }

    /// Answers each request when its head has been taken out of `heads`, and not before.
    fn held(answer: &'static str) -> Self {
        Self::noting(answer, bounded(0))
    }

    fn noting(answer: &'static str, (note, heads): (Sender<String>, Receiver<String>)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let serve = move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(mut stream) = stream {
                    let _ = note.send_timeout(head(&mut stream), SOON);
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        };
        let thread = thread::Builder::new().stack_size(64 * 1024).spawn(serve).unwrap();
        Self { address, ended, thread: Some(thread), heads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // so that it looks
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn head(stream: &mut TcpStream) -> String {
    use std::io::Read;
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn probe(check: &HealthCheck, address: SocketAddr) -> ProbeResult {
    Probe::new(check, LIMITS, None).run(&backend(1, address), Some(address))
}

fn wait_for(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came");
        thread::sleep(Duration::from_millis(1));
    }
}

fn result_of(check: &HealthCheck, answer: &'static str) -> (bool, String) {
    let server = Server::answering(answer);
    let result = probe(check, server.address);
    (result.passed, result.reason)
}

#[test]
fn a_probe_asks_for_the_path_below_the_backends_base_once_and_closes() {
    let server = Server::answering("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n");
    let result = probe(&check(), server.address);
    assert_eq!(result, ProbeResult { passed: true, reason: "answered 302".into(), of_shortage: false });
    let head = server.heads.recv_timeout(SOON).unwrap().to_lowercase();
    assert!(head.starts_with("get /base/health http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", server.address)), "{head}");
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    assert!(server.heads.is_empty(), "it followed a redirect");
}

#[test]
fn method_host_and_expectation_are_the_configurations() {
    let check = HealthCheck {
        method: "OPTIONS".into(),
        host: Some("app.example".into()),
        expect: vec![204..=204, 500..=599],
        ..check()
    };
    let server = Server::answering("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    assert!(probe(&check, server.address).passed);
    let head = server.heads.recv_timeout(SOON).unwrap().to_lowercase();
    assert!(head.starts_with("options /base/health "), "{head}");
    assert!(head.contains("\r\nhost: app.example\r\n"), "{head}");
    assert_eq!(result_of(&check, OK), (false, "answered 200, expected 204,500-599".into()));
}

#[test]
fn the_body_must_contain_what_is_wanted() {
    let check = HealthCheck { body_contains: Some("ok".into()), ..check() };
    assert!(result_of(&check, OK).0);
    for (before, passes) in [(64 * 1024 - 2, true), (64 * 1024 - 1, false)] {
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n{}ok{}",
            "x".repeat(before),
            "x".repeat(89_998 - before)
        );
        assert_eq!(result_of(&check, text.leak()).0, passes, "behind {before} bytes");
    }
    let (passed, reason) = result_of(&check, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!((passed, &*reason), (false, "answered 200, but its body doesn't contain \"ok\""));
}

#[test]
fn a_reason_says_what_went_wrong() {
    let (passed, reason) = result_of(&check(), "");
    assert_eq!((passed, &*reason), (false, "backend closed the connection before its response"));
    for (answer, want) in [
        ("nonsense\r\n\r\n", "malformed answer: bad HTTP version"),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", "malformed answer: line ends in LF without CR"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok", "malformed answer: bad chunk size"),
        ("HTTP/1.1 101 S\r\n\r\n", "backend switched protocols unasked"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno", "backend closed the connection within its response"),
        ("HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nno", "answered 500, expected 200-399"),
    ] {
        assert_eq!(result_of(&check(), answer), (false, want.into()), "{answer:?}");
    }
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let quick = HealthCheck { timeout: Duration::from_millis(50), ..check() };
    let result = probe(&quick, hanging.local_addr().unwrap());
    assert_eq!(result, ProbeResult { passed: false, reason: "no answer within 50ms".into(), of_shortage: false });
    let address = hanging.local_addr().unwrap();
    drop(hanging);
    let result = probe(&check(), address);
    assert_eq!(result, ProbeResult { passed: false, reason: "connection refused".into(), of_shortage: false });
    assert_eq!(Probe::new(&check(), LIMITS, None).run(&backend(1, address), None).reason, "its name has no address");
}

#[test]
fn each_address_of_a_name_is_probed_and_one_that_is_dead_makes_no_backend_ill() {
    let server = Server::answering(OK);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead_address = dead.local_addr().unwrap();
    drop(dead);
    let backend = backend(1, server.address);
    backend.addresses.set([dead_address, server.address]);
    let scene = Scene::start(&check());
    scene.checker.add(Arc::clone(&backend));
    let (probe, changed) = scene.probed();
    assert_eq!((probe.passed, changed), (true, Some(Health::Up)));
    let health = |at| backend.addresses.load().iter().find(|address| address.at == at).map(|address| address.ill);
    wait_for(|| health(dead_address) == Some(true));
    assert_eq!(health(server.address), Some(false));
    // Its own name for a moment: the only one that is left is the dead one.
    backend.addresses.set([dead_address]);
    scene.moved.send(1).unwrap();
    let (probe, changed) = scene.probed();
    assert_eq!((probe.passed, changed), (false, Some(Health::Down)));
    assert!(matches!(scene.told.recv_timeout(SOON).unwrap(), Told::Unreachable(1)), "its name is looked up again");
    backend.addresses.set([server.address]);
    scene.moved.send(1).unwrap();
    while let (LastProbe { passed: false, .. }, changed) = scene.probed() {
        assert_eq!(changed, None);
    }
}

#[test]
fn an_address_that_a_worker_missed_is_probed_at_once() {
    let server = Server::answering(OK);
    let backend = backend(1, server.address);
    let scene = Scene::start(&check());
    scene.checker.add(Arc::clone(&backend));
    assert!(scene.probed().0.passed);
    scene.reports.send(Report::Missed(backend)).unwrap();
    assert!(scene.probed().0.passed, "with the interval at an hour");
}

#[test]
fn a_refused_connection_is_acted_upon_at_once_and_rise_brings_the_backend_back() {
    let server = Server::held(OK);
    let backend = backend(1, server.address);
    let scene = Scene::start(&check());
    let answered = || {
        server.heads.recv_timeout(SOON).unwrap();
        scene.probed().1
    };
    scene.checker.add(Arc::clone(&backend));
    assert_eq!(answered(), Some(Health::Up), "the very first result decides");
    for _ in 0..3 {
        scene.reports.send(Report::Refused(Arc::clone(&backend))).unwrap();
    }
    assert!(matches!(scene.told.recv_timeout(SOON).unwrap(), Told::Refused(1)));
    assert!(matches!(scene.told.recv_timeout(SOON).unwrap(), Told::Unreachable(1)), "its name may lead elsewhere now");
    // A refusal that is heard of after it has come back would take it down again.
    let deadline = Instant::now() + SOON;
    while !scene.reports.is_empty() {
        assert!(Instant::now() < deadline, "the reports are heard");
        thread::yield_now();
    }
    assert_eq!(answered(), None);
    assert_eq!(answered(), Some(Health::Up), "with the interval at an hour");
}

#[test]
fn the_last_one_stays_when_it_refuses_and_is_probed_once_its_time_is_over() {
    let server = Server::answering(OK);
    let backend = backend(LAST, server.address);
    let scene = Scene::start(&check());
    scene.checker.add(Arc::clone(&backend));
    assert_eq!(scene.probed().1, Some(Health::Up));
    let begin = Instant::now();
    scene.reports.send(Report::Refused(backend)).unwrap();
    assert!(matches!(scene.told.recv_timeout(SOON).unwrap(), Told::Unreachable(LAST)), "its name may lead elsewhere");
    let (probe, changed) = scene.probed();
    assert!(probe.passed && changed.is_none(), "with the interval at an hour");
    assert!(begin.elapsed() >= LAST_RESORT_TIME, "after {:?}", begin.elapsed());
}

#[test]
fn unreachable_is_passed_on_and_a_name_that_moved_is_probed_at_once() {
    let server = Server::answering(OK);
    let backend = backend(1, server.address);
    let scene = Scene::start(&check());
    scene.checker.add(Arc::clone(&backend));
    scene.probed();
    scene.reports.send(Report::Unreachable(backend)).unwrap();
    assert!(matches!(scene.told.recv_timeout(SOON).unwrap(), Told::Unreachable(1)));
    scene.moved.send(1).unwrap();
    assert!(scene.probed().0.passed);
}

#[test]
fn a_turned_breaker_is_looked_after_when_that_is_due_and_not_again() {
    let scene = Scene::start(&check());
    let backend = backend(7, SocketAddr::from(([127, 0, 0, 1], 1)));
    scene.reports.send(Report::Turned(Arc::clone(&backend), Transition::Relapsed)).unwrap();
    let Told::Turned(7, Transition::Relapsed, due) = scene.told.recv_timeout(SOON).unwrap() else { panic!("no turn") };
    let Told::Elapsed(at) = scene.told.recv_timeout(SOON).unwrap() else { panic!("nothing elapsed") };
    assert!(at >= due);
    scene.reports.send(Report::Unreachable(backend)).unwrap();
    assert!(matches!(scene.told.recv_timeout(SOON).unwrap(), Told::Unreachable(7)));
}

#[test]
fn other_settings_hold_for_the_next_probe_which_comes_within_their_interval() {
    let server = Server::answering(OK);
    let scene = Scene::start(&check());
    scene.checker.add(backend(1, server.address));
    assert_eq!(scene.probed().1, Some(Health::Up));
    let stricter = HealthCheck { interval: Duration::from_millis(20), expect: vec![204..=204], fall: 1, ..check() };
    scene.checker.go_by(Settings::new(&stricter, LIMITS, None));
    let (probe, changed) = scene.probed();
    assert_eq!((probe.passed, changed), (false, Some(Health::Down)), "with the interval at an hour before");
}

#[test]
fn the_thread_ends_with_its_checker() {
    let scene = Scene::start(&check());
    drop(scene.checker);
    assert!(scene.told.recv_timeout(SOON).is_err_and(|error| error.is_disconnected()));
}

#[test]
fn fifty_hanging_backends_of_two_hundred_delay_no_other_past_its_interval() {
    let hanging: Vec<_> = (0..50).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let prompt: Vec<_> = (0..150).map(|_| Server::answering(OK)).collect();
    let addresses = hanging.iter().map(|listener| listener.local_addr().unwrap());
    let addresses = addresses.chain(prompt.iter().map(|server| server.address));
    let backends: Vec<_> = addresses.enumerate().map(|(id, address)| backend(id as u64, address)).collect();
    let interval = Duration::from_secs(1);
    let scene = Scene::start(&HealthCheck { interval, fast_interval: interval, ..check() });
    scene.checker.add_all(backends);
    let end = Instant::now() + 6 * interval;
    let mut probes = vec![0; 200];
    let mut worst = Duration::ZERO;
    while let Ok(told) = scene.told.recv_deadline(end) {
        let Told::Probed(id, probe, _) = told else { continue };
        probes[id as usize] += 1;
        assert_eq!(probe.passed, id >= 50, "{id}: {}", probe.reason);
        if id >= 50 {
            worst = worst.max(probe.late);
        }
    }
    assert!(worst < interval, "a prompt backend's probe was {worst:?} late");
    assert!(probes[50..].iter().all(|count| (4..=7).contains(count)), "{probes:?}");
    assert!(probes[..50].iter().all(|count| (1..=3).contains(count)), "{probes:?}");
    let lateness = scene.checker.lateness();
    assert_eq!(lateness.max, lateness.recent_max);
    eprintln!("prompt backends: at most {worst:?} late; all: {:?}", lateness.max);
}

#[test]
fn lateness_is_forgotten_in_time_but_for_the_greatest() {
    let book = Arc::default();
    let begin = Instant::now();
    let mut window = LatenessWindow::new(Arc::clone(&book), begin);
    window.note(Duration::from_millis(900), begin);
    window.note(Duration::from_millis(5), begin + RECENT);
    assert_eq!(book.lock().recent_max, Duration::from_millis(900));
    window.note(Duration::from_millis(7), begin + 2 * RECENT);
    let Lateness { max, recent_max } = *book.lock();
    assert_eq!((max, recent_max), (Duration::from_millis(900), Duration::from_millis(7)));
}
