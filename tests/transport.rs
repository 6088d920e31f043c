//! The layer beneath the proxy, and the proxy over TLS: the real one, on a real worker and sockets, with rustls' own client.

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/inside.rs"]
mod inside;
mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use certificate::Certificate;
use inside::{Inside, start_inside};
use maypole::config::{ClientAuth, Config, Hsts, Tls, TlsVersion};
use maypole::observe::{HandshakeCounts, HandshakeEnd};
use maypole::proxy::{Parked, Proxy};
use maypole::runtime::MayWorld;
use maypole::runtime::world::{Arrival, Service, Wake, World};
use maypole::transport::{
    Certificate as Certified, CertificateStore, Layer, Layered, LayeredService, ServerSettings, Stored, TicketKeys,
    TlsRules, TlsServer,
};
use rustls::{ClientConnection, StreamOwned, SupportedProtocolVersion};
use support::{Client, Gate, Origin, PATIENCE, eventually};

type Beneath = MayWorld<Stored<Parked>>;
type Served = LayeredService<Beneath, Proxy<Layered<Beneath>>>;
type TlsClient = StreamOwned<ClientConnection, TcpStream>;

const HANDSHAKES_MAX: usize = 100;
/// What is answered in clear.
const IN_CLEAR: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\nhttps";
const LARGE_BYTES: usize = 12 << 20;

#[test]
fn a_parked_plain_connection_is_no_larger_for_the_layer() {
    type Socket = <Beneath as World>::Stream;
    assert_eq!(size_of::<Stored<Parked>>(), size_of::<Parked>());
    // While a coroutine has it.
    assert_eq!(size_of::<Layer<Socket>>(), size_of::<Socket>() + 2 * size_of::<usize>());
}

/// What depends on them alone.
fn settings() -> Tls {
    Tls {
        port: Some(8443),
        bind: vec![[127, 0, 0, 1].into()],
        certificates: Vec::new(),
        min_version: TlsVersion::V1_2,
        client_ca: None,
        crl: Vec::new(),
        client_auth: ClientAuth::Optional,
        client_header: Some("X-Client".to_owned()),
        ticket_keys: None,
        strict_sni: false,
        redirect_http: true,
        hsts: Some(Hsts { max_age: Duration::from_secs(9), include_subdomains: true, preload: false }),
        handshake_timeout: Duration::from_secs(5),
        acme: None,
    }
}

/// Shows this, and has another certificate beside it.
fn server_of(shown: Certified) -> TlsServer {
    let other = rcgen::generate_simple_self_signed(["other.example".to_owned()]).expect("a certificate");
    let other = Certified::of(vec![other.cert.der().to_vec()], other.signing_key.serialize_der(), None);
    let store = CertificateStore::holding(vec![Arc::new(shown), Arc::new(other.expect("they fit"))]);
    let tickets = Arc::new(TicketKeys::own(std::time::SystemTime::now()));
    TlsServer::new(ServerSettings::default(), Arc::new(store), tickets, None).expect("a server")
}

/// A service that tells at each tick what TLS holds.
struct Told {
    served: Served,
    buffers: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
}

impl Service<Beneath> for Told {
    fn accepted(&self, stream: <Beneath as World>::Stream, arrival: Arrival) {
        self.served.accepted(stream, arrival);
    }

    fn resumed(&self, stream: <Beneath as World>::Stream, stored: Stored<Parked>, wake: Wake) {
        self.served.resumed(stream, stored, wake);
    }

    fn tick(&self) {
        self.served.tick();
        let (buffers, handshakes) = self.served.in_use();
        self.buffers.store(buffers, Ordering::SeqCst);
        self.handshakes.store(handshakes, Ordering::SeqCst);
    }

    fn sweep(&self) -> bool {
        self.served.sweep()
    }
}

struct Scene {
    inside: Inside,
    certificate: Certificate,
    buffers: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    counts: Arc<HandshakeCounts>,
}

impl Scene {
    fn new(origin: &Origin) -> Self {
        let certificate = Certificate::new();
        let shown = Certified::of(certificate.chain.clone(), certificate.key.clone(), None).expect("they fit");
        let mut config = Config { tls: Some(settings()), ..Config::default() };
        config.timeouts.keep_alive = Duration::from_millis(300);
        let counts = Arc::new(HandshakeCounts::new(1));
        let rules = TlsRules {
            listeners: vec![0],
            server: Arc::new(server_of(shown)),
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: HANDSHAKES_MAX,
            counts: Arc::clone(&counts),
            in_clear: |_| IN_CLEAR.to_vec(),
        };
        let (buffers, handshakes) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let told = (Arc::clone(&buffers), Arc::clone(&handshakes));
        let inside = start_inside(origin, config, (1_000, 1_000), move |world: Beneath, shared| Told {
            served: LayeredService::over(world, |world| Proxy::new(world, shared)).with_tls(rules.clone()),
            buffers: Arc::clone(&told.0),
            handshakes: Arc::clone(&told.1),
        });
        Self { inside, certificate, buffers, handshakes, counts }
    }

    fn client(&self) -> TlsClient {
        self.client_over(
            TcpStream::connect(("127.0.0.1", self.inside.ports[0])).expect("a connection"),
            rustls::ALL_VERSIONS,
        )
    }

    fn client_over(&self, socket: TcpStream, versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket");
        StreamOwned::new(self.certificate.client(versions), socket)
    }

    /// Nothing is left of any connection.
    fn is_whole(&self) {
        eventually("no connection is left", || self.inside.shared.connections() == 0);
        eventually("no buffer is left", || self.buffers.load(Ordering::SeqCst) == 0);
        eventually("no handshake is left", || self.handshakes.load(Ordering::SeqCst) == 0);
        assert_eq!(self.inside.backend.in_flight(), 0);
        let panics: u64 = self.inside.counters.iter().map(|worker| worker.panics.value()).sum();
        assert_eq!(panics, 0);
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn ask(client: &mut impl Write, head: &str) {
    client.write_all(format!("{head}\r\nHost: a\r\n\r\n").as_bytes()).expect("taken");
}

/// Reads a head and so many bytes behind it.
fn answer(client: &mut impl Read, body_bytes: usize) -> (String, Vec<u8>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    let mut body = vec![0; body_bytes];
    client.read_exact(&mut body).expect("a body");
    (String::from_utf8(head).expect("text"), body)
}

/// One test, since a process has one set of workers.
#[test]
fn what_is_served_in_clear_is_served_over_tls() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let left = Arc::new(AtomicUsize::new(0));
    let leaves = Arc::clone(&left);
    let origin = Origin::start(move |exchange| match exchange.request.target() {
        "/echo" => {
            let body = exchange.read_body().to_vec();
            exchange.answer(200, body);
        }
        "/large" => exchange.answer(200, pattern(LARGE_BYTES)),
        "/until-close" => {
            exchange.send("HTTP/1.0 200 OK\r\n\r\nall of it");
            exchange.close();
        }
        "/cut" => {
            exchange.send("HTTP/1.0 200 OK\r\n\r\nhalf");
            held.wait();
            exchange.reset();
        }
        "/never" => {
            exchange.wait_for_end();
            leaves.fetch_add(1, Ordering::SeqCst);
        }
        _ => exchange.answer(200, "ok"),
    });
    let scene = Scene::new(&origin);
    requests_one_behind_another(&scene, &origin);
    an_idle_connection_is_ended_in_words(&scene);
    long_bodies_both_ways(&scene);
    one_that_reads_slowly_gets_all_and_the_end(&scene);
    only_what_is_whole_ends_in_good_order(&scene, &gate);
    one_that_leaves_cancels_its_request(&scene, &left);
    what_is_no_tls_is_told_so_and_counted(&scene);
    one_that_has_failed_and_gives_its_place_up_is_counted_once(&scene);
    handshakes_that_stop_have_a_deadline_and_a_bound(&scene);
    clients_and_hosts_are_told_apart(&scene, &origin);
    the_other_listener_is_plain_and_sends_elsewhere(&scene);
    scene.is_whole();
}

fn requests_one_behind_another(scene: &Scene, origin: &Origin) {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let socket = TcpStream::connect(("127.0.0.1", scene.inside.ports[0])).expect("a connection");
        let mut client = scene.client_over(socket, &[version]);
        for pause in [0, 0, 50, 0] {
            // So long that the connection parks.
            std::thread::sleep(Duration::from_millis(pause));
            ask(&mut client, "GET / HTTP/1.1");
            let (head, body) = answer(&mut client, 2);
            assert!(head.starts_with("HTTP/1.1 200") && body == b"ok", "{head}");
        }
        assert_eq!(client.conn.protocol_version(), Some(version.version));
        // Two at once, in one record.
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("taken");
        for _ in 0..2 {
            assert_eq!(answer(&mut client, 2).1, b"ok");
        }
    }
    let requests = origin.requests();
    assert_eq!(requests.len(), 12);
    assert!(requests.iter().all(|request| request.field("x-forwarded-proto") == Some("https")));
    scene.is_whole();
}

fn an_idle_connection_is_ended_in_words(scene: &Scene) {
    let mut client = scene.client();
    ask(&mut client, "GET / HTTP/1.1");
    answer(&mut client, 2);
    assert_eq!(client.read(&mut [0]).expect("close_notify"), 0);
    scene.is_whole();
}

fn long_bodies_both_ways(scene: &Scene) {
    let mut client = scene.client();
    let body = pattern(3_000_000);
    for _ in 0..2 {
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        client.write_all(head.as_bytes()).expect("taken");
        client.write_all(&body).expect("taken");
        assert!(answer(&mut client, body.len()).1 == body);
    }
    drop(client);
    scene.is_whole();
}

fn one_that_reads_slowly_gets_all_and_the_end(scene: &Scene) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("a socket");
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], scene.inside.ports[0])).into()).expect("a connection");
    let mut client = scene.client_over(socket.into(), rustls::ALL_VERSIONS);
    ask(&mut client, "GET /large HTTP/1.1\r\nConnection: close");
    let want = pattern(LARGE_BYTES);
    // Longer than it is waited for by a coroutine.
    std::thread::sleep(Duration::from_millis(500));
    let (head, mut body) = answer(&mut client, 1_000);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    std::thread::sleep(Duration::from_millis(500));
    client.read_to_end(&mut body).expect("a whole body, and close_notify");
    assert!(body == want, "{} of {}", body.len(), want.len());
    drop(client);
    scene.is_whole();
}

fn only_what_is_whole_ends_in_good_order(scene: &Scene, gate: &Gate) {
    let mut client = scene.client();
    ask(&mut client, "GET /until-close HTTP/1.0");
    answer(&mut client, 9);
    assert_eq!(client.read(&mut [0]).expect("close_notify"), 0);
    let mut client = scene.client();
    ask(&mut client, "GET /cut HTTP/1.0");
    answer(&mut client, 4);
    gate.open();
    let cut = client.read(&mut [0]).expect_err("no end in good order");
    assert!(matches!(cut.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{cut}");
    scene.is_whole();
}

fn one_that_leaves_cancels_its_request(scene: &Scene, left: &AtomicUsize) {
    for (nth, resets) in [(1, true), (2, false)] {
        let mut client = scene.client();
        ask(&mut client, "GET /never HTTP/1.1");
        eventually("it is asked", || scene.inside.backend.in_flight() == 1);
        if resets {
            let _ = socket2::SockRef::from(&client.sock).set_linger(Some(Duration::ZERO));
        }
        drop(client);
        eventually("the backend is told", || left.load(Ordering::SeqCst) == nth);
    }
    scene.is_whole();
}

fn what_is_no_tls_is_told_so_and_counted(scene: &Scene) {
    let of = |end| scene.counts.of(end);
    let mut client = Client::connect(scene.inside.ports[0]);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.rest(), IN_CLEAR);
    // More than is read before it is answered.
    let mut client = Client::connect(scene.inside.ports[0]);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n\r\n{}", "x".repeat(200_000)));
    assert_eq!(client.rest(), IN_CLEAR);
    assert_eq!(of(HandshakeEnd::InClear), 2);
    for garbage in [&b"\0\x01\x02\x03\x04\x05\x06\x07"[..], &[22, 3, 1, 0, 4, 1, 0, 0, 0]] {
        let mut client = Client::connect(scene.inside.ports[0]);
        client.send(garbage);
        let said = client.rest();
        assert_eq!((said[0], said[5]), (21, 2), "a fatal alert: {said:?}");
        assert!(of(HandshakeEnd::Refused(said[6])) > 0, "{said:?}");
    }
    let left = of(HandshakeEnd::Left);
    let mut client = Client::connect(scene.inside.ports[0]);
    client.send([22, 3, 1, 0]);
    drop(client);
    eventually("it is counted", || of(HandshakeEnd::Left) == left + 1);
    scene.is_whole();
}

fn one_that_has_failed_and_gives_its_place_up_is_counted_once(scene: &Scene) {
    let of = |end| scene.counts.of(end);
    let before = [HandshakeEnd::InClear, HandshakeEnd::CrowdedOut, HandshakeEnd::Left].map(of);
    let mut refused = Client::connect(scene.inside.ports[0]);
    refused.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused.rest(), IN_CLEAR);
    // It is read on, so that it isn't reset, and is the oldest of too many.
    let others: Vec<_> = (0..HANDSHAKES_MAX).map(|_| Client::connect(scene.inside.ports[0])).collect();
    eventually("all have begun", || scene.handshakes.load(Ordering::SeqCst) == HANDSHAKES_MAX);
    drop(others);
    eventually("they have left", || of(HandshakeEnd::Left) == before[2] + HANDSHAKES_MAX as u64);
    assert_eq!([HandshakeEnd::InClear, HandshakeEnd::CrowdedOut].map(of), [before[0] + 1, before[1]]);
    drop(refused);
    scene.is_whole();
}

fn handshakes_that_stop_have_a_deadline_and_a_bound(scene: &Scene) {
    // A third says nothing, a third half of the first record, a third all of it and no more.
    let hello = {
        let mut client = scene.client();
        let mut hello = Vec::new();
        client.conn.write_tls(&mut hello).expect("memory");
        hello
    };
    // The one that was thrown away is gone.
    scene.is_whole();
    let mut stopped: Vec<_> = (0..HANDSHAKES_MAX)
        .map(|nth| {
            let mut client = Client::connect(scene.inside.ports[0]);
            client.send(match nth % 3 {
                0 => &[][..],
                1 => &hello[..hello.len() / 2],
                _ => &hello,
            });
            client
        })
        .collect();
    eventually("all have begun", || scene.handshakes.load(Ordering::SeqCst) == HANDSHAKES_MAX);
    eventually("parked ones hold no buffer", || scene.buffers.load(Ordering::SeqCst) == 0);
    let began = Instant::now();
    let mut client = scene.client();
    ask(&mut client, "GET / HTTP/1.1");
    assert_eq!(answer(&mut client, 2).1, b"ok");
    assert!(began.elapsed() < Duration::from_secs(1), "others don't hold it up");
    assert_eq!(stopped.remove(0).rest(), b"", "the oldest had to go for it");
    assert_eq!(scene.counts.of(HandshakeEnd::CrowdedOut), 1);
    for mut each in stopped {
        each.rest();
    }
    assert_eq!(scene.counts.of(HandshakeEnd::TimedOut), HANDSHAKES_MAX as u64 - 1);
}

fn clients_and_hosts_are_told_apart(scene: &Scene, origin: &Origin) {
    let mut client = scene.client();
    let before = origin.requests().len();
    for (host, status) in [("localhost", 200), ("LOCALHOST.:443", 200), ("nobody.example", 200), ("other.example", 421)]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Client: root\r\nx_client: root\r\n\r\n");
        client.write_all(request.as_bytes()).expect("taken");
        let (head, _) = answer(&mut client, if status == 200 { 2 } else { MISDIRECTED.len() });
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {head}");
        let hsts = "\r\nStrict-Transport-Security: max-age=9; includeSubDomains\r\n";
        assert_eq!(head.matches(hsts).count(), 1, "{head}");
    }
    let requests = origin.requests();
    assert_eq!(requests.len() - before, 3, "what is in the wrong place goes nowhere");
    assert!(requests[before..].iter().all(|request| request.field("x-client") == Some("none")));
    assert!(requests[before..].iter().all(|request| request.field("x_client").is_none()));
    scene.is_whole();
}

const MISDIRECTED: &str = "421 Misdirected Request: the connection is for another host's certificate\n";

fn the_other_listener_is_plain_and_sends_elsewhere(scene: &Scene) {
    let mut client = Client::connect(scene.inside.ports[1]);
    for (target, host, want) in [
        ("/x?y=1", "a", "https://a:8443/x?y=1"),
        ("/", "[::1]:80", "https://[::1]:8443/"),
        ("http://b:8080?q", "a", "https://b:8443/?q"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.answer_to("GET");
        assert_eq!((answer.status(), answer.field("location")), (308, Some(want)), "{answer:?}");
        assert!(answer.field("strict-transport-security").is_none() && answer.field("connection").is_none());
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    let answer = client.answer_to("POST");
    assert_eq!((answer.status(), answer.field("connection")), (308, Some("close")), "{answer:?}");
    let mut client = Client::connect(scene.inside.ports[1]);
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer_to("GET").status(), 400, "nobody knows where it was to go");
}
