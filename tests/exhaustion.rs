//! Out of descriptors: far more clients than a small table holds.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Client, Origin, PATIENCE, Proxy, eventually};

/// What `ulimit -n` allows the proxy.
const DESCRIPTORS: usize = 256;
const CLIENTS: usize = 1000;
const KEPT: usize = 20;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Clients that all sent a request and stay, and what became of each.
struct Crowd {
    clients: Vec<(TcpStream, Option<Fate>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Served,
    /// Got a 503.
    TurnedAway,
    /// Got nothing, and the connection's end.
    Closed,
}

impl Crowd {
    fn come(port: u16) -> Self {
        let join = || {
            let mut client = TcpStream::connect(("127.0.0.1", port)).expect("the backlog takes it");
            // Who has been closed already finds out when it reads.
            let _ = client.write_all(REQUEST);
            client.set_nonblocking(true).expect("a socket");
            (client, None)
        };
        Self { clients: (0..CLIENTS).map(|_| join()).collect() }
    }

    /// True once every one has its answer.
    fn all_know(&mut self) -> bool {
        for (client, fate) in self.clients.iter_mut().filter(|(_, fate)| fate.is_none()) {
            let mut answer = [0; 512];
            *fate = match client.read(&mut answer) {
                Ok(_) if answer.starts_with(b"HTTP/1.1 200 ") => Some(Fate::Served),
                Ok(_) if answer.starts_with(b"HTTP/1.1 503 ") => Some(Fate::TurnedAway),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                _ => Some(Fate::Closed),
            };
        }
        self.clients.iter().all(|(_, fate)| fate.is_some())
    }

    fn count(&self, wanted: Fate) -> usize {
        self.clients.iter().filter(|(_, fate)| *fate == Some(wanted)).count()
    }
}

/// Whether a new client gets a 200; it leaves at once.
fn is_served(port: u16) -> bool {
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut answer = [0; 512];
    let answered = client.write_all(REQUEST).and_then(|()| client.read(&mut answer));
    answered.is_ok() && answer.starts_with(b"HTTP/1.1 200 ")
}

/// What the process took of the processors so far, in steps of 10 ms.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: u64 = fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_thousand_clients_and_256_descriptors_leave_those_who_were_there_served() {
    maypole::runtime::descriptors::raise_limit().expect("a limit"); // for the thousand's own sockets
    let origin = Origin::answering("ok");
    let proxy = Proxy::with_descriptors(&[&origin], json!({ "health_check_frequency": "200ms" }), DESCRIPTORS);
    let mut kept: Vec<Client> = (0..KEPT).map(|_| proxy.client()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/").status(), 200);
    }

    let mut crowd = Crowd::come(proxy.port);
    eventually("each of the thousand knows where it stands", || crowd.all_know());
    let [served, turned_away, closed] = [Fate::Served, Fate::TurnedAway, Fate::Closed].map(|fate| crowd.count(fate));
    println!("served {served}, turned away {turned_away}, closed {closed}");
    assert!(served >= 40, "clients have their share");
    assert!(turned_away > 10 * closed, "those who are too many are told");

    // The table is full and stays so. Those who were there are served, also all at once.
    for client in &mut kept {
        client.send(REQUEST);
    }
    for client in &mut kept {
        assert_eq!(client.answer().status(), 200);
    }
    // The operator is heard, and backends are probed.
    let (probes, asked) = (origin.probes(), Instant::now());
    assert_eq!(proxy.status()["active_backends"], 1);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    eventually("probes go on", || origin.probes() >= probes + 3);

    // New ones knock all the time, and nothing spins.
    let (began, spent_before) = (Instant::now(), processor_time(proxy.program.pid()));
    while began.elapsed() < Duration::from_secs(1) {
        assert!(!is_served(proxy.port), "there was room");
        thread::sleep(Duration::from_millis(10)); // the pace of those who knock, not a wait for anything
    }
    let spent = processor_time(proxy.program.pid()).saturating_sub(spent_before);
    println!("took {spent:?} of the processors in {:?}", began.elapsed());
    assert!(spent < Duration::from_millis(400), "it spins: {spent:?}");

    drop(crowd);
    let gone = Instant::now();
    eventually("there is room again", || is_served(proxy.port));
    println!("served again after {:?}", gone.elapsed());
    assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
    for client in &mut kept {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(proxy.status()["panics"], 0);
}
